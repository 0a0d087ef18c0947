"""Which bytes of a file are surely those of its pixels, and where new strips and tiles go in a copy of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ..errors import ErrorCode, InputError
from .pages import ImagePage

if TYPE_CHECKING:
    from .read import TiffFile, TiffImage

_RANGES = 256  # free places that are looked through
_LEAST = 16  # bytes of a place that is worth remembering


class Places:
    """A file that is written to: places that are free again, and its end."""

    def __init__(self, file: BinaryIO, size: int, limit: int, path: Path) -> None:
        """A file of `size` bytes, none of which may come to lie at `limit` or beyond; errors name `path`."""
        self.file, self.end, self._limit, self._path = file, size, limit, path
        self._free: list[tuple[int, int]] = []

    def place(self, offset: int, count: int, ours: bool, data: bytes) -> int:
        """Write a strip or tile where it fits; where it lies now."""
        ours = ours and offset > 0 and count > 0
        if ours and len(data) <= count:
            self.put(offset, data)
            self._release(offset + len(data), offset + count)
            return offset
        if ours:
            self._release(offset, offset + count)
        for number, (start, stop) in enumerate(self._free):
            if start + len(data) <= stop:
                self.put(start, data)
                self._free[number] = (start + len(data), stop)
                return start
        offset = self.end + self.end % 2
        self.check_end(offset + len(data))
        self.put(offset, data)
        return offset

    def _release(self, start: int, stop: int) -> None:
        """A place is free: joined with its neighbours; the smallest are forgotten."""
        for number, (first, last) in enumerate(self._free):
            if last == start or first == stop:
                start, stop = min(start, first), max(stop, last)
                del self._free[number]
                return self._release(start, stop)
        start += start % 2
        if stop - start >= _LEAST:
            self._free.append((start, stop))
            if len(self._free) > _RANGES:
                self._free.remove(min(self._free, key=lambda place: place[1] - place[0]))
        return None

    def check_end(self, end: int) -> None:
        if end >= self._limit:
            cause = "would pass the 4 GB that a classic TIFF may have"
            raise InputError(self._path, cause, "save it as BigTIFF, or without compression", ErrorCode.UNSUPPORTED)

    def put(self, offset: int, data: bytes) -> None:
        self.file.seek(offset)
        self.file.write(data)
        self.end = max(self.end, offset + len(data))


class Survey:
    """What of a file is surely ours to write to: no other thing that we know of has a byte there.

    Attributes
    ----------
    sure : set of int
        Offsets of directories, and positions of tags whose values lie elsewhere.
    alone : dict of ImagePage to array of bool
        Which strips or tiles of each page.
    """

    def __init__(self, source: TiffFile) -> None:
        form, layout = source.structure.form, source.structure
        starts: list[tuple[int, int]] = [(0, 16 if form.big else 8)]
        keys: list[int] = [-1]
        for directory in [*(page.directory for page in layout.every), *layout.others]:
            starts.append((directory.offset, directory.link + form.link.size))
            keys.append(directory.offset)
            for entry in directory.entries:
                if not entry.inline:
                    starts.append((entry.start, entry.start + entry.nbytes))
                    keys.append(entry.position)
        whole = {image.pages[0]: image for image in source.images if len(image.planes(image.data)) > 1}
        parts = [np.asarray(starts, np.int64)]
        pages = list(layout.every)
        for page in pages:
            if page in whole and len(whole[page].pages) == 1:
                ends = page.offsets[:1] + whole[page].data.nbytes
                parts.append(np.stack([page.offsets[:1], ends], axis=1))
            else:
                count = min(len(page.offsets), len(page.counts))
                offsets = page.offsets[:count]
                parts.append(np.stack([offsets, offsets + np.where(offsets, page.counts[:count], 0)], axis=1))
        alone = _exclusive(np.concatenate(parts))
        self.sure = {key for key, good in zip(keys, alone, strict=False) if good}
        at, self.alone = len(keys), dict[ImagePage, np.ndarray]()
        for page, part in zip(pages, parts[1:], strict=True):
            self.alone[page] = alone[at : at + len(part)]
            at += len(part)

    def in_place(self, page: ImagePage, nbytes: int) -> bool:
        """Whether the pixels of a plane are written over those of a page as they are."""
        return page.contiguous and nbytes == page.nbytes and bool(self.alone[page].all())

    def overwritten(self, image: TiffImage) -> list[tuple[int, int]]:
        """The bytes [start, stop) that an image's pixels are written over, whether they change or not."""
        planes = image.planes(image.data)
        if len(image.pages) < len(planes):
            page = image.pages[0]
            start = int(page.offsets[0])
            return [(start, start + image.data.nbytes)] if self.alone[page].all() else []
        starts = [int(page.offsets[0]) for page in image.pages if self.in_place(page, planes[0].nbytes)]
        return [(start, start + planes[0].nbytes) for start in starts]


def _exclusive(intervals: Sequence[tuple[int, int]] | np.ndarray) -> np.ndarray:
    """Of each [start, stop), whether it shares no byte with any other one; empty ones share none."""
    array = np.asarray(intervals, np.int64).reshape(-1, 2)
    alone = np.ones(len(array), bool)
    filled = np.flatnonzero(array[:, 1] > array[:, 0])
    order = filled[np.argsort(array[filled, 0], kind="stable")]
    starts, stops = array[order, 0], array[order, 1]
    if len(order) > 1:
        reach = np.maximum.accumulate(stops)
        alone[order[1:]] &= starts[1:] >= reach[:-1]
        alone[order[:-1]] &= starts[1:] >= stops[:-1]
    return alone
