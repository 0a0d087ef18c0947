"""The output of a large file, begun before its pixels are there: they are restored straight into a map of it."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..files.atomic import output_error, rights_to_write, temporary_of
from ..files.folders import make_folders
from ..image.memmap import Allocator, is_disk_backed, map_output
from ..tiff.places import Survey
from ..tiff.read import TiffFile, TiffImage
from .jobs import Job


class OutputMap:
    """The temporary file of an output, made when the first result is to go there; removed unless it is committed.

    Attributes
    ----------
    path : Path or None
        The file, once it is made.
    """

    def __init__(self, job: Job, file: TiffFile) -> None:
        self.path: Path | None = None
        self._job, self._file, self._map = job, file, np.zeros(0, np.uint8)
        self._remove = lambda: None

    def place_of(self, image: TiffImage, otherwise: Allocator) -> Allocator:
        """Where the result of an image of the file goes: into the output if its pixels lie there as in an array."""
        if os.name != "posix" or not is_disk_backed(image.data):  # Windows renames no file that is mapped
            return otherwise
        if not np.may_share_memory(image.data, self._file.bytes):
            return otherwise
        start = image.data.ctypes.data - self._file.bytes.ctypes.data
        places = Survey(self._file).overwritten(image)
        size = image.planes(image.data)[0].nbytes if len(places) > 1 else image.data.nbytes
        if places != [(at, at + size) for at in range(start, start + image.data.nbytes, size)]:
            return otherwise
        return _Part(self, start)

    def bytes(self) -> np.ndarray:
        """A map of all bytes of the file. Raises OutputError if it cannot be made."""
        if self.path is None:
            target = self._job.target
            self.path = temporary_of(target, self._job.run)
            self._remove = weakref.finalize(self, _remove, self.path)
            try:
                make_folders(target.parent, self._job.source.parent)
                self._map = map_output(self.path, len(self._file.bytes), rights_to_write(self._file.mode))
            except OSError as error:
                raise output_error(target, error) from error
        return self._map

    def discard(self) -> None:
        """Remove what was not committed."""
        self._remove()


class _Part(Allocator):
    """A place in an output, from a byte on."""

    def __init__(self, output: OutputMap, start: int) -> None:
        self._output, self._start = output, start

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return self._output.bytes()[self._start : self._start + count].view(dtype).reshape(shape)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
