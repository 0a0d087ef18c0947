"""TIFF: a file becomes a stack with named axes, and a stack becomes a file again that looks as the first one did.

Pages are written in the order, with the compression and with the tags that the input's pages had; the descriptions
(OME-XML, ImageJ, Micro-Manager, plain) are kept byte for byte. What we add stands in two tags of the first page:
Software, which every program shows, and a private one with all of it as JSON. Changing the descriptions instead
would mean rewriting other people's formats.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from .errors import InputError
from .intensity import check_dtype
from .quiet import quiet_tifffile
from .tiff_structure import check_whole, naming

__all__ = ["Layout", "Page", "Stack", "check_whole", "provenance", "read", "write"]

PROVENANCE_TAG = 65333  # in the range 65000..65535 that TIFF 6.0 leaves to organisations
_SOFTWARE, _ASCII = 305, 2

# Lossless kinds are kept. Lossy ones would alter the result a second time: they become deflate.
_KEPT = {1: None, 5: "lzw", 8: "zlib", 32946: "zlib", 32773: "packbits", 34925: "lzma", 50000: "zstd"}
_OTHERWISE = "zlib"

# Tags that describe how the pixels lie in the file (the writer makes them anew), that point into the file, that
# another argument of the writer carries, or that the correction makes untrue (smallest and largest value).
_STRUCTURE = {254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289, 292, 293, 317, 320}
_STRUCTURE |= {322, 323, 324, 325, 330, 338, 339, 340, 341, 347, 512, 513, 514, 515, 519, 520, 521, 529, 530, 531, 532}
_STRUCTURE |= {32997, 32998, 33628, 33629, 33630, 33631, 34016, 34412, 34665, 34853, 40965}
_CARRIED = {270, 282, 283, 296, _SOFTWARE, 306, PROVENANCE_TAG}


Tag = tuple[int, int, int, bytes, bool]  # code, type, count, bytes as in the file, only on its page


@dataclass(frozen=True)
class Page:
    """What one page of a file needs to be written again as it was: arguments of `tifffile.TiffWriter.write`."""

    arguments: dict[str, Any]
    tags: tuple[Tag, ...]
    software: bytes


@dataclass(frozen=True)
class Layout:
    """How a file lies on disk: byte order, BigTIFF, its pages, and in which order the stack fills them.

    Attributes
    ----------
    order : tuple of int
        For each page of the file, which plane of the stack (counted in its own order) it holds.
    """

    byteorder: str
    bigtiff: bool
    pages: tuple[Page, ...]
    order: tuple[int, ...]
    page_shape: tuple[int, ...]


@dataclass(frozen=True)
class Stack:
    """An image with named axes.

    Attributes
    ----------
    data : array
        As stored, in native byte order.
    axes : str
        tifffile's letters, one a dimension: "YX", "ZCYX", "TZCYX", "YXS", "IYX" (pages of no stated meaning).
    layout : Layout
        What `write` needs to write it as it was.
    """

    data: np.ndarray
    axes: str
    layout: Layout


def read(path: str | os.PathLike[str]) -> Stack:
    """Read a whole TIFF: plain, multi-page, ImageJ hyperstack, OME-TIFF; any byte order, BigTIFF, strips or tiles.

    Of a pyramid the full resolution is read (and written). Of an OME-TIFF set of several files only the planes in this
    very file are read, as pages "I"; the OME-XML is kept.

    Raises
    ------
    InputError
        Missing, unreadable, not a TIFF, truncated or damaged; several images of different shapes; pixels of a type
        that the engine does not take; no Y and X axes.
    """
    path = Path(path)
    check_whole(path)
    with naming(path), quiet_tifffile():
        with tifffile.TiffFile(path, _multifile=False) as tif:
            if not _spans_files(tif):
                return _stack(tif, path)
        with tifffile.TiffFile(path, _multifile=False, is_ome=False, is_shaped=False) as tif:
            return _stack(tif, path)


def write(stack: Stack, path: str | os.PathLike[str], provenance: Mapping[str, object]) -> None:
    """Write a stack with its layout, and `provenance` (JSON-ready) in the first page. Neither syncs nor renames.

    Raises
    ------
    OSError
        The file cannot be written; see `commit.output_error`.
    ValueError
        The data have another shape or dtype than was read.
    """
    layout = stack.layout
    count = len(layout.order)
    planes = stack.data.reshape((count, *layout.page_shape))
    record = json.dumps(dict(provenance), ensure_ascii=True).encode() + b"\0"
    # Compressed pages may take more room than their pixels; classic TIFF ends at 4 GB.
    big = layout.bigtiff or stack.data.nbytes > 2**32 - 2**25
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=layout.byteorder, shaped=False) as writer:  # type: ignore[arg-type]
        for number, plane in enumerate(layout.order):
            page = layout.pages[number if len(layout.pages) == count else 0]
            tags = list(page.tags) if number < len(layout.pages) else []
            software = page.software
            if number == 0:
                tags.append((PROVENANCE_TAG, _ASCII, len(record), record, True))
                software = b"; ".join(text for text in (page.software, _signature(provenance)) if text)
            arguments: dict[str, Any] = page.arguments
            if number >= len(layout.pages):  # ImageJ's description stands on the first page only
                arguments = arguments | {"description": None}
            writer.write(
                np.ascontiguousarray(planes[plane]),
                **arguments,
                software=software or False,
                extratags=tags,
                metadata=None,
                contiguous=False,
            )


def provenance(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What `write` recorded in a file, or None if it was not written by us. Raises InputError as `read` does."""
    path = Path(path)
    with naming(path), quiet_tifffile(), tifffile.TiffFile(path, _multifile=False) as tif:
        tag = tif.pages.first.tags.get(PROVENANCE_TAG)
        try:
            record = json.loads(tag.value) if tag is not None else None
        except (TypeError, ValueError):
            return None  # somebody else's use of the tag
        return record if isinstance(record, dict) else None


def _signature(provenance: Mapping[str, object]) -> bytes:
    software, model = provenance.get("software", "defocus"), provenance.get("model")
    return (f"{software} (model {model})" if model else str(software)).encode("ascii", "replace")


def _spans_files(tif: tifffile.TiffFile) -> bool:
    return any(page is None for series in tif.series for page in series.pages)


def _stack(tif: tifffile.TiffFile, path: Path) -> Stack:
    images = tif.series
    if len(images) != 1:
        shapes = ", ".join("x".join(map(str, series.shape)) for series in images[:4])
        cause = f"holds {len(images)} images of different kinds ({shapes})"
        raise InputError(path, cause, "save each as a file of its own")
    series = images[0]
    axes = series.axes
    if "Y" not in axes or "X" not in axes:
        raise InputError(path, f"has no Y and X axes (its axes are {axes})", "save it as an image")
    check_dtype(np.dtype(series.dtype), path)
    pages = [page.aspage() for page in series.pages if page is not None]
    data = series.asarray()
    data = np.ascontiguousarray(data.astype(data.dtype.newbyteorder("="), copy=False))
    layout = _layout(tif, pages, data.shape, axes)
    return Stack(data, axes, layout)


def _layout(tif: tifffile.TiffFile, pages: list[Any], shape: tuple[int, ...], axes: str) -> Layout:
    first = pages[0]
    page_shape = tuple(first.shape)
    size = int(np.prod(page_shape))
    count = int(np.prod(shape)) // size
    if count != len(pages):  # one directory for many planes, as ImageJ writes beyond 4 GB
        order = tuple(range(count))
        pages = pages[:1]
    else:
        # The stack's order need not be the file's: OME-TIFF says in its XML which page is which plane.
        order = tuple(sorted(range(count), key=lambda plane: pages[plane].index))
        pages = [pages[plane] for plane in order]
    return Layout(tif.byteorder, tif.is_bigtiff, tuple(_page(tif, page) for page in pages), order, page_shape)


def _page(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Page:
    compression = _KEPT.get(int(page.compression), _OTHERWISE)
    photometric = int(page.photometric)
    if photometric in (6, 8, 9, 10):  # YCbCr and the like come decoded as RGB
        photometric = 2
    arguments: dict[str, Any] = {
        "photometric": photometric,
        "compression": compression,
        "description": _raw(tif, page, 270) or None,
        "datetime": _raw(tif, page, 306).decode("ascii", "replace") or None,
        "subfiletype": int(page.subfiletype),
    }
    if page.planarconfig is not None and page.samplesperpixel > 1:
        arguments["planarconfig"] = int(page.planarconfig)
    if page.extrasamples:
        arguments["extrasamples"] = [int(sample) for sample in page.extrasamples]
    if photometric == 3 and page.colormap is not None:
        arguments["colormap"] = page.colormap
    if compression is not None and int(page.predictor) != 1:
        arguments["predictor"] = 3 if page.dtype is not None and page.dtype.kind == "f" else 2
    if page.is_tiled:
        arguments["tile"] = page.tile
    elif page.rowsperstrip and page.rowsperstrip < page.imagelength:
        arguments["rowsperstrip"] = int(page.rowsperstrip)
    if "XResolution" in page.tags and "YResolution" in page.tags:
        arguments["resolution"] = (page.tags["XResolution"].value, page.tags["YResolution"].value)
        unit = page.tags.get("ResolutionUnit")
        arguments["resolutionunit"] = int(unit.value) if unit is not None else 2  # inch is TIFF's default
    return Page(arguments, tuple(_other_tags(tif, page)), _raw(tif, page, _SOFTWARE))


def _other_tags(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Iterator[Tag]:
    """Every other tag, as the bytes that stand in the file: the output has the same byte order."""
    for tag in page.tags:
        if tag.code in _STRUCTURE or tag.code in _CARRIED:
            continue
        tif.filehandle.seek(tag.valueoffset)
        yield tag.code, int(tag.dtype), tag.count, tif.filehandle.read(tag.valuebytecount), True


def _raw(tif: tifffile.TiffFile, page: tifffile.TiffPage, code: int) -> bytes:
    """A text tag as the bytes that stand in the file: descriptions are UTF-8, or whatever their writer took for it."""
    tag = page.tags.get(code)
    if tag is None:
        return b""
    tif.filehandle.seek(tag.valueoffset)
    return tif.filehandle.read(tag.valuebytecount).rstrip(b"\0")
