"""How a TIFF lies on disk, taken down page by page so that it can be written the same way again."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from ..errors import ErrorCode, InputError

PROVENANCE_TAG = 65333  # in the range 65000..65535 that TIFF 6.0 leaves to organisations
PROCESSING_SOFTWARE = 11  # Exif: "name and version of the software used to post-process the picture"

# Lossless kinds are kept. Lossy ones would alter the result a second time: they become deflate.
_KEPT = {1: None, 5: "lzw", 8: "zlib", 32946: "zlib", 32773: "packbits", 34925: "lzma", 50000: "zstd"}
_OTHERWISE = "zlib"
_JPEG = {6, 7, 33007, 34892}

_BUFFER = 1 << 25  # bytes that tifffile encodes ahead of writing

# Tags that describe how the pixels lie in the file (the writer makes them anew), that point into the file, that
# another argument of the writer carries, or that the correction makes untrue (smallest and largest value).
_STRUCTURE = {254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289, 292, 293, 317, 320}
_STRUCTURE |= {322, 323, 324, 325, 330, 338, 339, 340, 341, 347, 400, 512, 513, 514, 515, 519, 520, 521, 529, 530, 531}
_STRUCTURE |= {532, 32997, 32998, 33628, 33629, 33630, 33631, 34016, 34412, 34665, 34853, 40965}
_CARRIED = {282, 283, 296, PROVENANCE_TAG, PROCESSING_SOFTWARE}
_RATIONALS = {5: "I", 10: "i"}  # types of tag values, with the format of their integers
_POINTERS = {13, 18}  # types that point at directories, which are not where they were

# Code, type, count, the bytes that stand in the file (of rationals the integers), and whether on its own page only.
Tag = tuple[int, int, int, Any, bool]


@dataclass(frozen=True)
class Page:
    """What one page of a file needs to be written again as it was: arguments of `tifffile.TiffWriter.write`."""

    arguments: dict[str, Any]
    tags: tuple[Tag, ...]


@dataclass(frozen=True)
class Layout:
    """How a file lies on disk: byte order, BigTIFF, its pages, and in which order the stack fills them.

    Attributes
    ----------
    order : tuple of int
        For each page of the file, which plane of the stack (counted in its own order) it holds.
    page_shape : tuple of int
        Shape of one page's pixels: (Y, X), (Y, X, S) or (S, Y, X), or with Z for the few that store volumes.
    one_directory : bool
        All planes lie one behind the other under a single directory, as ImageJ writes beyond 4 GB.
    """

    byteorder: str
    bigtiff: bool
    pages: tuple[Page, ...]
    order: tuple[int, ...]
    page_shape: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    one_directory: bool = False


def layout_of(
    tif: tifffile.TiffFile, pages: list[tifffile.TiffPage], shape: tuple[int, ...], dtype: np.dtype
) -> Layout:
    """Take down the layout of an image of this shape and (native) dtype; `pages` in the order of its planes.

    Raises ValueError if the pages do not make such an image.
    """
    page_shape = tuple(pages[0].shape)
    count, rest = divmod(math.prod(shape), math.prod(page_shape))
    if rest or count < 1 or len(pages) not in (1, count):
        raise ValueError(f"{len(pages)} pages of shape {page_shape} do not make an image of shape {shape}")
    named = int((tif.imagej_metadata or {}).get("images", 1)) if tif.is_imagej else count
    if len(tif.pages) == 1 and named != count:  # planes without a page of their own would be lost
        raise ValueError(f"its description names {named} planes, its axes {count}")
    one_directory = False
    if len(pages) < count:
        order = tuple(range(count))
        # Only these two kinds say in their description how many planes there are. Others (MetaMorph's STK) get pages.
        one_directory = tif.is_imagej or tif.is_shaped
    else:
        # The stack's order need not be the file's: OME-TIFF says in its XML which page is which plane.
        order = tuple(sorted(range(count), key=lambda plane: pages[plane].index))
        pages = [pages[plane] for plane in order]
    found = tuple(Page(_arguments(page), tuple(_tags(tif, page))) for page in pages)
    return Layout(tif.byteorder, tif.is_bigtiff, found, order, page_shape, tuple(shape), dtype, one_directory)


def check_writable(layout: Layout, page_axes: str, path: Path) -> None:
    """Ask the writer about a page of one pixel now, so that an odd or damaged tag is not found out after the work."""
    shape = [1 if axis in "YX" else size for axis, size in zip(page_axes, layout.page_shape, strict=True)]
    try:
        with open_writer(io.BytesIO(), layout, layout.bigtiff) as writer:
            write_page(writer, np.zeros(shape, layout.dtype), layout.pages[0])
    except Exception as error:  # the writer raises many kinds
        cause = f"its layout is damaged or cannot be written back ({error})"
        raise InputError(path, cause, "save it as a plain TIFF", ErrorCode.UNSUPPORTED) from error


def _arguments(page: tifffile.TiffPage) -> dict[str, Any]:
    compression = _KEPT.get(int(page.compression), _OTHERWISE)
    photometric = int(page.photometric)
    if photometric == 6 and page.compression in _JPEG:  # YCbCr comes decoded as RGB
        photometric = 2
    arguments: dict[str, Any] = {
        "photometric": photometric,
        "compression": compression,
        "subfiletype": int(page.subfiletype),
    } | _resolution(page)
    if page.planarconfig is not None and page.samplesperpixel > 1:
        arguments["planarconfig"] = int(page.planarconfig)
    if page.extrasamples:
        arguments["extrasamples"] = [int(sample) for sample in page.extrasamples]
    if photometric == 3 and page.colormap is not None:
        arguments["colormap"] = page.colormap
    if compression is not None and int(page.predictor) != 1:
        arguments["predictor"] = 3 if page.dtype is not None and page.dtype.kind == "f" else 2
    if page.imagedepth > 1:
        arguments["volumetric"] = True
    if page.is_tiled:
        arguments["tile"] = page.tile
    elif page.rowsperstrip and (compression is not None or page.rowsperstrip < page.imagelength):
        arguments["rowsperstrip"] = min(int(page.rowsperstrip), page.imagelength)
    return arguments


def _resolution(page: tifffile.TiffPage) -> dict[str, Any]:
    """Pixels a unit; nothing where the tags mean nothing, such as 0/0, which some programs write."""
    values = [page.tags.valueof(code) for code in (282, 283)]
    try:
        fractions = [Fraction(*value) if isinstance(value, tuple) else Fraction(value) for value in values]
    except (TypeError, ValueError, ArithmeticError):
        return {}
    if any(fraction < 0 or max(fraction.as_integer_ratio()) >= 2**32 for fraction in fractions):
        return {}
    unit = page.tags.valueof(296, default=2)  # inch is TIFF's default
    unit = unit if unit in list(tifffile.RESUNIT) else 1
    return {"resolution": [fraction.as_integer_ratio() for fraction in fractions], "resolutionunit": int(unit)}


def _tags(tif: tifffile.TiffFile, page: tifffile.TiffPage) -> Iterator[Tag]:
    """Every other tag, as the bytes that stand in the file: the output has the same byte order.

    A code may come twice: Micro-Manager writes one ImageDescription for OME and one for ImageJ.
    """
    for tag in page.tags:
        kind = int(tag.dtype)
        if tag.code in _STRUCTURE or tag.code in _CARRIED or kind in _POINTERS:
            continue
        tif.filehandle.seek(tag.valueoffset)
        value: Any = tif.filehandle.read(tag.valuebytecount)
        if kind in _RATIONALS:  # tifffile counts the bytes of a rational wrongly
            value = struct.unpack(f"{tif.byteorder}{2 * tag.count}{_RATIONALS[kind]}", value)
        yield tag.code, kind, tag.count, value, True


def open_writer(file: Any, layout: Layout, bigtiff: bool) -> tifffile.TiffWriter:
    """A writer that adds nothing of its own to the pages."""
    byteorder: Any = layout.byteorder
    # Without ome=False it takes a name like a.ome.tif for the wish to have an OME-XML made.
    # The "shaped" format is not used (write_page gives no metadata), but one directory for all is refused outside it.
    return tifffile.TiffWriter(file, bigtiff=bigtiff, byteorder=byteorder, ome=False, shaped=layout.one_directory)


def write_page(
    writer: tifffile.TiffWriter, pixels: np.ndarray, page: Page, more: tuple[Tag, ...] = (), truncate: bool = False
) -> None:
    """Write one page of pixels, with `more` tags besides its own; `truncate`: many planes under one directory."""
    writer.write(
        np.ascontiguousarray(pixels),
        **page.arguments,
        extratags=[*page.tags, *more],
        software=False,  # the input's own is among the tags
        metadata=None,
        contiguous=False,
        truncate=truncate,
        buffersize=_BUFFER,
    )
