"""TIFF: a file becomes a stack with named axes, and a stack becomes a file again that looks as the first one did.

Pages are written in the order, with the compression and with the tags that the input's pages had, byte for byte: the
descriptions (OME-XML, ImageJ, Micro-Manager, plain) among them, and Software too, by whose exact text readers know
MetaSeries and ScanImage files. What we add stands in two tags of the first page that nobody reads a meaning into:
a private one with all of it as JSON, and ProcessingSoftware with one line for people. Changing the descriptions
instead would mean rewriting other people's formats.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from ..errors import ErrorCode, InputError
from ..image.memmap import Allocator, in_memory
from ..image.normalization import check_dtype
from .integrity import check_complete, errors_as_input_error, open_tiff
from .layout import (
    PROCESSING_SOFTWARE,
    PROVENANCE_TAG,
    Layout,
    Page,
    Tag,
    check_writable,
    layout_of,
    open_writer,
    write_page,
)
from .quiet import quiet_tifffile

__all__ = [
    "PROCESSING_SOFTWARE",
    "PROVENANCE_TAG",
    "Layout",
    "TiffImage",
    "axes_of",
    "check_complete",
    "read_provenance",
    "read_tiff",
    "write_tiff",
]

_ASCII = 2
_BUFFER = 1 << 25  # bytes that tifffile reads ahead of decoding


@dataclass(frozen=True)
class TiffImage:
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


def read_tiff(path: str | os.PathLike[str], place: Allocator = in_memory) -> TiffImage:
    """Read a whole TIFF: plain, multi-page, ImageJ hyperstack, OME-TIFF; any byte order, BigTIFF, strips or tiles.

    Of a pyramid the full resolution is read (and written). Where the description tells of other planes than this very
    file has (an OME-TIFF set of several files, an acquisition that was stopped), its pages are read as they are, with
    the axis "I"; the description is kept.

    Parameters
    ----------
    place : function (shape, dtype) -> array or None
        Where the pixels go, such as `scratch.DiskAllocator`; None: into a new array in memory.

    Raises
    ------
    InputError
        Missing, unreadable, not a TIFF, truncated or damaged; several separate images (OME images, scenes, shapes);
        pixels of a type that the engine does not take; no Y and X axes; a layout that cannot be written back.
    """
    path = Path(path)
    check_complete(path)
    with errors_as_input_error(path), quiet_tifffile():
        with open_tiff(path) as tif:
            if _described(tif):
                return _stack(tif, path, place)
        with open_tiff(path, described=False) as tif:
            return _stack(tif, path, place)


def axes_of(path: str | os.PathLike[str]) -> tuple[str, tuple[int, ...]]:
    """Axes and shape of what `read` gives, without reading pixels. Raises InputError if it is no whole TIFF."""
    path = Path(path)
    with errors_as_input_error(path), quiet_tifffile():
        with open_tiff(path) as tif:
            if _described(tif):
                return tif.series[0].axes, tuple(tif.series[0].shape)
        with open_tiff(path, described=False) as tif:
            return tif.series[0].axes, tuple(tif.series[0].shape)


def write_tiff(stack: TiffImage, path: str | os.PathLike[str], provenance: Mapping[str, object]) -> None:
    """Write a stack with its layout, and `provenance` (JSON-ready) in the first page. Neither syncs nor renames.

    Raises
    ------
    OSError
        The file cannot be written; see `commit.output_error`.
    ValueError
        The data have another shape or dtype than was read.
    """
    layout, data = stack.layout, stack.data
    if data.shape != layout.shape or data.dtype != layout.dtype:
        raise ValueError(f"{data.dtype} {data.shape} cannot take the place of {layout.dtype} {layout.shape}")
    planes = data.reshape((len(layout.order), *layout.page_shape))
    ours = _provenance_tags(provenance)
    # Compressed pages may take more room than their pixels; classic TIFF ends at 4 GB.
    big = layout.bigtiff or data.nbytes > 2**32 - 2**25
    with quiet_tifffile(), open_writer(path, layout, big) as writer:
        if layout.one_directory:
            write_page(writer, planes, layout.pages[0], ours, truncate=True)
            return
        for number, plane in enumerate(layout.order):
            page = layout.pages[number] if number < len(layout.pages) else Page(layout.pages[0].arguments, ())
            write_page(writer, planes[plane], page, ours if number == 0 else ())


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What `write` recorded in a file, or None if it was not written by us. Raises InputError as `read` does."""
    path = Path(path)
    with errors_as_input_error(path), quiet_tifffile(), open_tiff(path) as tif:
        tag = tif.pages.first.tags.get(PROVENANCE_TAG)
        try:
            record = json.loads(tag.value) if tag is not None else None
        except (TypeError, ValueError):
            return None  # somebody else's use of the tag
        return record if isinstance(record, dict) else None


def _provenance_tags(provenance: Mapping[str, object]) -> tuple[Tag, ...]:
    software, model = str(provenance.get("software", "defocus")), provenance.get("model")
    line = f"{software} (model {model})" if model else software
    record = json.dumps(dict(provenance), ensure_ascii=True)
    return (
        (PROCESSING_SOFTWARE, _ASCII, 0, line.encode("ascii", "replace"), True),
        (PROVENANCE_TAG, _ASCII, 0, record.encode(), True),
    )


def _described(tif: tifffile.TiffFile) -> bool:
    """Whether the description tells of the pages of this very file: of all, and of no others."""
    pages = [page for series in tif.series for page in series.pages]
    if None in pages or len({page.index for page in pages if page is not None}) != len(tif.pages):
        return False
    return all(
        len(series.pages) == 1 or math.prod(series.shape) == len(series.pages) * math.prod(series.keyframe.shape)
        for series in tif.series
    )


def _stack(tif: tifffile.TiffFile, path: Path, place: Allocator) -> TiffImage:
    images = tif.series
    if len(images) != 1:
        shapes = ", ".join("x".join(map(str, series.shape)) for series in images[:4])
        cause = f"holds {len(images)} images instead of one ({shapes})"
        raise InputError(path, cause, "save each as a file of its own", ErrorCode.UNSUPPORTED)
    series = images[0]
    axes = series.axes
    if "Y" not in axes or "X" not in axes:
        raise InputError(
            path,
            f"has no Y and X axes (its axes are {axes})",
            "save it with axes that name Y and X",
            ErrorCode.UNSUPPORTED,
        )
    pages = [page.aspage() for page in series.pages if page is not None]
    if pages[0].dtype is None:  # the series' dtype says float64 then
        cause = f"pixels of {pages[0].bitspersample} bits and sample format {pages[0].sampleformat} are not supported"
        raise InputError(path, cause, "convert it to 8 or 16 bits", ErrorCode.UNSUPPORTED)
    check_dtype(series.dtype, path)
    for number, page in enumerate(pages):
        # tifffile decodes all pages of an image as its first one, and would give wrong pixels.
        if page.hash != pages[0].hash:
            cause = f"page {number} is stored in another way than page 0 (compression, strips or type of pixels)"
            raise InputError(path, cause, "save all pages alike", ErrorCode.UNSUPPORTED)
    layout = layout_of(tif, pages, series.shape, series.dtype.newbyteorder("="))
    check_writable(layout, pages[0].axes, path)
    data = series.asarray(out=place(layout.shape, layout.dtype), buffersize=_BUFFER)
    if data.shape != layout.shape:
        raise ValueError(f"pixels of shape {data.shape} instead of {layout.shape}")
    return TiffImage(np.ascontiguousarray(data.astype(layout.dtype, copy=False)), axes, layout)
