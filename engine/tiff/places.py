"""Where the bytes of new strips and tiles go in a copy of a file."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from ..errors import ErrorCode, InputError

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
