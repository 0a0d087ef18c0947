"""TIFF: a file becomes images with named axes, beside its bytes, in a copy of which `replace` puts other pixels.

The bytes are read once, and everything else works on our own copy of them; of large files on a map, and before the
output is committed the input is looked at again. So one version of it is what is corrected.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ErrorCode, InputError
from ..files.version import open_regular
from ..image.bands import bands
from ..image.memmap import Allocator, drop_resident_pages, in_memory, map_input, may_shrink
from ..image.plane_statistics import PlaneStatistics
from ..threads import spread
from .decode import ArrayFile, Decoders, is_small
from .description import own_xml
from .directories import content
from .integrity import check_complete, check_structure, errors_as_input_error, open_tiff
from .pages import ImagePage, Structure, structure
from .planes import Plan, corrected_samples, page_shape
from .planes import plan as plan_images
from .provenance import PROCESSING_SOFTWARE, PROVENANCE_TAG, read_provenance
from .quiet import quiet_tifffile

__all__ = [
    "PROCESSING_SOFTWARE",
    "PROVENANCE_TAG",
    "TiffFile",
    "TiffImage",
    "axes_of",
    "check_complete",
    "plans_of",
    "read_provenance",
    "read_tiff",
    "write_tiff",
]

_BLOCK = 1 << 24  # bytes read at once
_HUGE = 1 << 21  # bytes; files of whole multiples take one another's place in memory, instead of asking for new one
_LINE = 64  # bytes; where an array begins 16 bytes behind a page of memory, reading a file into it takes twice as long
_NODATA = 42113
_SAMPLE = 1 << 16  # pixels that a median is found from
_SMALL = 1 << 26  # bytes of a strip or tile that are always let in


@dataclass(frozen=True, eq=False)
class TiffImage:
    """An image with named axes: one position, scene or stack of a file.

    Attributes
    ----------
    data : array
        As stored, in native byte order, without alpha; not to be written to.
    axes : str
        tifffile's letters, one a dimension: "YX", "ZCYX", "TZCYX", "YXS", "IYX" (pages of no stated meaning).
    pages : tuple of ImagePage
        Which page holds each plane, in the order of the axes; one page may hold all.
    limit : int or None
        The largest value that a pixel may have, where fewer bits are declared than stored.
    statistics : PlaneStatistics
        Of `data`, as far as they have been asked for.
    blank : array of bool or None
        Where the file has `no_value` (GDAL_NODATA), if it has it anywhere; `data` has the plane's median there.
    """

    data: np.ndarray
    axes: str
    pages: tuple[ImagePage, ...]
    limit: int | None = None
    statistics: PlaneStatistics = field(default_factory=PlaneStatistics)
    blank: np.ndarray | None = None
    no_value: float = 0

    def planes(self, data: np.ndarray) -> np.ndarray:
        """An array like `data` as (planes, separate samples, Z, Y, X, samples of a pixel)."""
        page = self.pages[0]
        shape = page_shape(page, corrected_samples(page))
        return data.reshape((data.size // max(1, prod(shape)), *shape))


@dataclass(frozen=True, eq=False)
class TiffFile:
    """One version of a file: its bytes, and the images in it that are to be corrected.

    Attributes
    ----------
    levels : tuple of (ImagePage, ImagePage)
        Reduced copies of corrected pages, each with the page that it shows.
    notes : tuple of str
        What a user should know of how it is treated, a line each.
    mode : int
        Its permissions.
    """

    path: Path
    images: tuple[TiffImage, ...]
    structure: Structure
    bytes: np.ndarray
    decoders: Decoders
    levels: tuple[tuple[ImagePage, ImagePage], ...] = ()
    notes: tuple[str, ...] = ()
    mode: int = 0o666

    @property
    def data(self) -> np.ndarray:
        """The pixels of a file of one image, or of its first one."""
        return self.images[0].data

    @property
    def axes(self) -> str:
        return self.images[0].axes

    @property
    def nbytes(self) -> int:
        """Bytes that it has in memory, or will when it is restored."""
        views = sum(image.data.nbytes for image in self.images if np.shares_memory(image.data, self.bytes))
        return len(self.bytes) - views + 2 * sum(image.data.nbytes for image in self.images)


def read_tiff(path: str | os.PathLike[str], place: Allocator = in_memory, memory: int = 0) -> TiffFile:
    """Read a TIFF of any kind: plain, multi-page, ImageJ, OME, of several images, with pyramids, masks and previews.

    Axes come from the description where it tells of exactly this file's pages; else its pages are planes of no stated
    meaning ("I"). What is not to be corrected (masks, palettes of names, previews) is no image here.

    Parameters
    ----------
    place : Allocator
        Where bytes and pixels go, such as `memmap.DiskAllocator`.
    memory : int
        Bytes that a strip or tile may have once it is unpacked; 0: any.

    Raises
    ------
    InputError
        Missing, unreadable, not a TIFF, truncated or damaged; nothing in it that can be corrected.
    """
    path = Path(path)
    with errors_as_input_error(path), open_regular(path) as file, quiet_tifffile():
        status = os.fstat(file.fileno())
        layout = structure(file, status.st_size, path)
        check_structure(layout, file, path)
        _check_memory(layout, memory, path)
        mapped = place.maps(file, layout.size)
        place.check(_needed(layout) + (layout.size if mapped else 2 * layout.size), layout.size)
        raw = map_input(file, path, layout.size) if mapped else _bytes(file, layout.size, path, place)
        copy: Any = ArrayFile(raw)
        tif = open_tiff(copy, own_xml(layout, copy, path.name))
        decoders = Decoders(tif, raw)
        planned, levels, notes = plan_images(layout, copy, tif, decoders, path)
        if layout.stopped:
            notes = (*notes, f"{layout.stopped}: taken for an acquisition that was stopped, without it")
        read = (_image(layout, raw, decoders, plan, place) for plan in planned)
        images = tuple(_filled(image, _no_value(image, copy), place) for image in read)
        return TiffFile(path, images, layout, raw, decoders, levels, notes, status.st_mode & 0o777)


def axes_of(path: str | os.PathLike[str]) -> tuple[str, tuple[int, ...]]:
    """Axes and shape of the first image of `read_tiff`, without reading pixels. Raises InputError as it does."""
    first = plans_of(path)[0]
    return first.axes, first.shape


def plans_of(path: str | os.PathLike[str]) -> list[Plan]:
    """Axes, shape and dtype of each image of `read_tiff`, without reading pixels. Raises InputError as it does."""
    path = Path(path)
    with errors_as_input_error(path), open_regular(path) as file, quiet_tifffile():
        layout = structure(file, os.fstat(file.fileno()).st_size, path)
        with open_tiff(file, own_xml(layout, file, path.name)) as tif:
            return list(plan_images(layout, file, tif, Decoders(tif, np.zeros(0, np.uint8)), path)[0])


def write_tiff(source: TiffFile, restored: Sequence[np.ndarray], path: str | os.PathLike[str], provenance: Any) -> None:
    """See `replace.replace_pixels`."""
    from .replace import replace_pixels

    replace_pixels(source, restored, path, provenance)


def _check_memory(layout: Structure, memory: int, path: Path) -> None:
    """Refuse what would have to be unpacked in one piece that memory cannot hold."""
    for page in layout.every:
        size = prod(page.segment) * (1 if page.planar else page.samples) * -(-max(page.numbers.get(258, (1,))) // 8)
        if memory and size > max(memory, _SMALL) and not page.contiguous:
            cause = f"a strip or tile of {page.name} takes {size / 1e9:.1f} GB unpacked, more than --memory allows"
            raise InputError(path, cause, "save it in smaller strips or tiles, or raise --memory", ErrorCode.MEMORY)


def _needed(layout: Structure) -> int:
    """Bytes of pixels that do not lie in the file as in an array, before and after."""

    def unpacked(page: ImagePage) -> int:
        return page.depth * page.length * page.width * page.samples * -(-max(page.numbers.get(258, (1,))) // 8)

    native = np.dtype(f"{layout.form.order}u2").isnative
    return 2 * sum(unpacked(page) for page in layout.every if not (native and page.contiguous))


def _bytes(file: Any, size: int, path: Path, place: Allocator) -> np.ndarray:
    """All bytes of a file; no more than it had when it was opened."""
    file.seek(0)
    room = size + _LINE
    array = place((-(-room // _HUGE) * _HUGE if size >= 2 * _HUGE else room,), np.dtype(np.uint8))
    begin = -array.ctypes.data % _LINE
    array = array[begin : begin + size]
    for start in range(0, size, _BLOCK):
        part: Any = array[start : start + _BLOCK]
        if file.readinto(part) != len(part):
            raise InputError(path, "truncated while it was read", "try again when it is complete", ErrorCode.TRUNCATED)
        drop_resident_pages(array)
    return array


def _image(layout: Structure, raw: np.ndarray, decoders: Decoders, plan: Plan, place: Allocator) -> TiffImage:
    """Read the pixels of an image: a view of the file's own bytes where they lie there as in an array."""
    page, dtype, count = plan.pages[0], plan.dtype, prod(plan.shape)
    if _as_an_array(plan.pages) and corrected_samples(page) == page.samples:
        start = int(page.offsets[0])
        native = dtype.newbyteorder(layout.form.order).isnative or dtype.itemsize == 1
        if native and (raw.ctypes.data + start) % dtype.itemsize == 0:
            view = raw[start : start + count * dtype.itemsize].view(dtype).reshape(plan.shape)
            return TiffImage(view, plan.axes, plan.pages, _kept(plan, view))
    data = place(plan.shape, dtype)
    image = TiffImage(data, plan.axes, plan.pages)
    planes = image.planes(data)
    stored = dtype.newbyteorder(layout.form.order)
    if len(plan.pages) < len(planes):  # all planes under one directory
        start = int(page.offsets[0])
        for number, plane in enumerate(planes):
            part = raw[start + number * page.nbytes : start + (number + 1) * page.nbytes]
            plane[...] = np.frombuffer(part, stored).reshape(plane.shape)
            drop_resident_pages(raw, data)
    else:

        def read(plane_page: ImagePage, plane: np.ndarray) -> None:
            if plane_page.contiguous and plane.nbytes == plane_page.nbytes:
                start = int(plane_page.offsets[0])
                plane[...] = np.frombuffer(raw[start : start + plane_page.nbytes], stored).reshape(plane.shape)
            else:
                with quiet_tifffile():  # which is of this thread
                    decoders.read(plane_page, plane)
            drop_resident_pages(raw, data)

        pairs = list(zip(plan.pages, planes, strict=True))
        at_once = all(map(is_small, plan.pages)) and not may_shrink(raw)
        for _ in (spread if at_once else map)(lambda pair: read(*pair), pairs):
            pass
    return TiffImage(data, plan.axes, plan.pages, _kept(plan, data))


def _no_value(image: TiffImage, file: Any) -> float | None:
    """What GDAL_NODATA says that a pixel has where there is none; None where it says nothing that a pixel can have."""
    entry, dtype = image.pages[0].directory.tags.get(_NODATA), image.data.dtype
    try:
        value = float(content(file, entry).strip(b"\0 ")) if entry is not None else None
        if value is None or (dtype.kind in "iu" and dtype.type(value) != value):
            return None
        with np.errstate(over="ignore"):
            return float(dtype.type(value))
    except (ValueError, OverflowError):
        return None


def _filled(image: TiffImage, value: float | None, place: Allocator) -> TiffImage:
    """An image without the pixels that have no value: the network would take -9999 or NaN for light."""
    if value is None:
        return image
    blank = place(image.data.shape, np.dtype(bool))
    for part, mask in zip(bands(image.data), bands(blank), strict=True):
        mask[...] = np.isnan(part) if value != value else part == value
    if not blank.any():
        return image
    data = place(image.data.shape, image.data.dtype)
    for old, new, mask in zip(*map(image.planes, (image.data, data, blank)), strict=True):
        for sample in range(old.shape[-1]):
            step = max(1, math.isqrt(old.size // _SAMPLE))
            some = old[..., ::step, ::step, sample][~mask[..., ::step, ::step, sample]]
            np.copyto(new[..., sample], old[..., sample])
            np.copyto(new[..., sample], np.median(some) if some.size else 0, where=mask[..., sample], casting="unsafe")
        drop_resident_pages(image.data, data, blank)
    return replace(image, data=data, blank=blank, no_value=value, statistics=PlaneStatistics())


def _as_an_array(pages: tuple[ImagePage, ...]) -> bool:
    """Whether the pixels of pages lie one behind the other, in order and without gaps."""
    start, size = int(pages[0].offsets[0]) if len(pages[0].offsets) else 0, pages[0].nbytes
    return all(page.contiguous and page.offsets[0] == start + n * size for n, page in enumerate(pages))


def _kept(plan: Plan, data: np.ndarray) -> int | None:
    """The limit of an image, unless it goes beyond it itself."""
    return plan.limit if plan.limit is not None and data.size and int(data.max()) <= plan.limit else None
