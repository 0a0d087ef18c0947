"""What a description says of planes: how many there are, and what an OME-XML tells of images.

tifffile makes axes of an OME-XML. Of a set of files it would open the others, or take none of it; so it is given one
that tells of this file alone.
"""

from __future__ import annotations

import re
from math import prod
from typing import BinaryIO
from xml.etree import ElementTree

import numpy as np

from .directories import content
from .pages import ImagePage, Structure

_MOST_BYTES = 1 << 26  # of a description
_MOST_PLANES = 1 << 22  # that a description may speak of, those of other files of a dataset included
_PLANE_COUNT = re.compile(rb"""PlaneCount\s*=\s*["']\s*(\d+)""")
_PIXELS = re.compile(rb"<(?:\w{1,20}:)?Pixels\b[^>]*")
_SIZES = re.compile(rb"""Size[ZCT]\s*=\s*["']\s*(\d+)""")
_STK_PLANES = 33629
_SLACK = 16  # bytes between parts of a file
_UUID = re.compile(rb"<(?:\w{1,20}:)?UUID\b")
_SIGNIFICANT = re.compile(rb"""SignificantBits\s*=\s*["']\s*(\d{1,2})\b""")


def description(found: Structure, file: BinaryIO) -> bytes:
    """The first ImageDescription of a file; empty where it has none, or one that is no text of a sane length."""
    entry = found.pages[0].directory.tags.get(270)
    return content(file, entry) if entry is not None and entry.nbytes < _MOST_BYTES else b""


def planes_below(page: ImagePage, file: BinaryIO, size: int) -> tuple[int, int]:
    """How many planes lie under one directory, and how many it names: MetaMorph's STK, ImageJ beyond 4 GB.

    They lie behind one another from the first one's place on. None are "there" if the file ends among them; one, if
    nothing follows it: a single plane that was taken out of a stack with its description.
    """
    tags = page.directory.tags
    named = 1
    if _STK_PLANES in tags and 33628 in tags:
        named = tags[_STK_PLANES].count
    elif 270 in tags and tags[270].nbytes < 1 << 24:
        text = content(file, tags[270])
        if text.startswith(b"ImageJ="):
            match = re.search(rb"^images=(\d{1,18})", text, re.MULTILINE)
            named = int(match[1]) if match else 1
    if named <= 1 or not page.contiguous:
        return 1, named
    start = int(page.offsets[0])
    if start + named * page.nbytes <= size:
        return named, named
    behind = size - start - page.nbytes
    for entry in page.directory.entries:
        behind -= entry.nbytes if not entry.inline and entry.start > start else 0
    behind -= len(page.directory.raw) if page.directory.offset > start else 0
    return int(behind <= _SLACK), named


def names_too_many(text: bytes) -> bool:
    """Whether an OME-XML speaks of more planes than any dataset has: tifffile would make a list of them."""
    if b"<!DOCTYPE" in text:
        return True  # it may have entities: numbers that cannot be seen here
    numbers = [int(digits[:9]) for digits in _PLANE_COUNT.findall(text)]
    for pixels in _PIXELS.findall(text):
        numbers.append(prod(int(digits[:9]) for digits in _SIZES.findall(pixels)))
    return sum(numbers) > _MOST_PLANES


def significant_bits(text: bytes) -> list[int]:
    """What an OME-XML says of each image's bits; 0 where it says nothing."""
    return [max(map(int, _SIGNIFICANT.findall(pixels)), default=0) for pixels in _PIXELS.findall(text)]


def own_xml(found: Structure, file: BinaryIO, name: str) -> str | None:
    """Of a set of files, an OME-XML that tells of the images in this one alone, by its UUID or else its `name`.

    None where it is no such set, or this file's planes of an image make no grid of channels, depths and times.
    """
    text = description(found, file)
    if not _UUID.search(text) or names_too_many(text):
        return None
    try:
        root = ElementTree.fromstring(text.rstrip(b"\0 \n\r"))
        named = [element for element in root.iter() if _is(element, "UUID")]
        if all(_text(element) == root.get("UUID") for element in named):
            return None  # this file alone
        by_uuid = any(_text(element) == root.get("UUID") for element in named)

        def ours(data: ElementTree.Element) -> bool:
            other = next((element for element in data if _is(element, "UUID")), None)
            if other is None or by_uuid:
                return other is None or _text(other) == root.get("UUID")
            return re.split(r"[\\/]", other.get("FileName", ""))[-1].lower() == name.lower()

        used: list[int] = []
        for image in [element for element in root if _is(element, "Image")]:
            for pixels in [element for element in image if _is(element, "Pixels")]:
                used += _own_share(pixels, [data for data in pixels if _is(data, "TiffData") and ours(data)], found)
                if not any(_is(data, "TiffData") for data in pixels):
                    image.remove(pixels)
        whole = sorted(used) == list(range(len(found.pages)))
        return ElementTree.tostring(root, encoding="unicode") if whole else None
    except Exception:  # what is damaged says nothing
        return None


def _own_share(pixels: ElementTree.Element, parts: list[ElementTree.Element], found: Structure) -> list[int]:
    """Make an image's Pixels tell of `parts` alone, its TiffData of one file; the pages that they name.

    Raises ValueError or KeyError where they make no grid, or make no sense.
    """
    axes = pixels.attrib["DimensionOrder"][:1:-1]  # slowest first
    channel = next((element for element in pixels if _is(element, "Channel")), None)
    samples = int(channel.get("SamplesPerPixel", 1)) if channel is not None else 1
    sizes = [int(pixels.attrib[f"Size{axis}"]) // (samples if axis == "C" else 1) for axis in axes]
    pages: list[int] = []
    planes: list[int] = []
    for part in parts:
        count = int(part.get("PlaneCount", part.get("NumPlanes", "1" if "IFD" in part.attrib else "0")))
        begin = int(np.ravel_multi_index([int(part.get(f"First{axis}", 0)) for axis in axes], sizes))
        count, page = count or len(found.pages), int(part.get("IFD", 0))
        pages += range(page, page + count)
        planes += range(begin, begin + count)
    for data in [element for element in pixels if _is(element, "TiffData")]:
        pixels.remove(data)
    places = np.stack(np.unravel_index(planes, sizes)) if planes else np.zeros((len(axes), 0), np.int64)
    ranks = [np.unique(row, return_inverse=True) for row in places]
    if len(set(planes)) != len(planes) or prod(len(values) for values, _ in ranks) != len(planes):
        raise ValueError("no grid")
    for axis, (values, _) in zip(axes, ranks, strict=True):
        pixels.set(f"Size{axis}", str(len(values) * (samples if axis == "C" else 1)))
    for page, *numbers in zip(pages, *(row.tolist() for _, row in ranks), strict=True):
        first = {f"First{axis}": str(number) for axis, number in zip(axes, numbers, strict=True)}
        ElementTree.SubElement(pixels, "TiffData", {**first, "IFD": str(page), "PlaneCount": "1"})
    return pages


def _is(element: ElementTree.Element, name: str) -> bool:
    """Whether an element has a name, in whatever namespace."""
    return element.tag.rpartition("}")[2] == name


def _text(element: ElementTree.Element) -> str:
    return (element.text or "").strip()
