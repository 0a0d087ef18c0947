"""Pixels of a page out of the bytes of its file, by tifffile's decoders: one for all pages that are stored alike."""

from __future__ import annotations

import io
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import tifffile

from ..image.memmap import drop_resident_pages
from .pages import ImagePage

WORKERS = max(1, min(8, (os.cpu_count() or 1) // 2))


class ArrayFile(io.RawIOBase):
    """An array of bytes, read as a file as long as somebody else holds it.

    It holds no reference: tifffile's objects refer to one another, and the array would stay until they are collected.
    """

    def __init__(self, array: np.ndarray) -> None:
        super().__init__()
        self._array, self._size, self._at = weakref.ref(array), len(array), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        array = self._array()
        if array is None:
            raise ValueError("the bytes of this file have been given back")
        part = array[self._at : self._at + len(view)]
        view[: len(part)] = part.tobytes()
        self._at += len(part)
        return len(part)


class Decoders:
    """tifffile's decoders of a file's pages: one for all that are stored alike."""

    def __init__(self, tif: tifffile.TiffFile, raw: np.ndarray) -> None:
        self._tif, self.bytes = tif, raw
        self._known: dict[tuple[object, ...], tifffile.TiffPage] = {}

    def of(self, page: ImagePage) -> tifffile.TiffPage:
        """tifffile's page that decodes this one, too."""
        found = self._known.get(page.storage)
        if found is None:
            self._tif.filehandle.seek(page.directory.offset)
            found = self._known[page.storage] = tifffile.TiffPage(self._tif, index=1)
        return found

    def segment(self, page: ImagePage, number: int) -> tuple[np.ndarray | None, tuple[int, ...], tuple[int, ...]]:
        """A strip or tile (Z, Y, X, samples), None for a sparse one, with its place and its shape in full."""
        decoder = self.of(page)
        data = None
        if not page.sparse[number]:
            start = int(page.offsets[number])
            data = self.bytes[start : start + int(page.counts[number])].tobytes()
        return decoder.decode(data, number, jpegtables=decoder.jpegtables)

    def read(self, page: ImagePage, out: np.ndarray) -> None:
        """Decode a page into (separate samples, Z, Y, X, samples), which may lack the last samples of a pixel."""
        self.of(page).init_decode()
        wanted = range(page.segments)
        with ThreadPoolExecutor(WORKERS) as pool:
            spread = pool.map if WORKERS > 1 and page.compression != 1 and page.nbytes > 1 << 22 else map
            numbers = iter(wanted)
            while some := list(islice(numbers, 4 * WORKERS)):
                for found, (sample, z, y, x, _), shape in spread(lambda number: self.segment(page, number), some):
                    if sample >= out.shape[0]:
                        continue
                    part = out[sample, z : z + shape[0], y : y + shape[1], x : x + shape[2]]
                    fill = self.of(page).nodata if found is None else found
                    part[...] = fill if found is None else found[tuple(map(slice, part.shape[:3]))][..., : out.shape[4]]
                drop_resident_pages(out, self.bytes)
