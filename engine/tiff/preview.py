"""The middle plane of a TIFF, averaged down to a small picture.

It is read and averaged band by band, so that a picture of 256 Mpx takes as little memory as one of 1 Mpx.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile

from ..errors import InputError
from ..files.version import open_regular
from .integrity import errors_as_input_error, open_tiff
from .quiet import quiet_tifffile

MEMORY = 64_000_000  # bytes that making a pair, and a cache of some, may take
LARGEST = 1 << 28  # pixels of a page; a larger one takes too long
_BAND = 1 << 21  # pixels that are averaged at once
_SEGMENT = MEMORY // 2  # bytes of a strip or tile, decoded
_READ_AHEAD = 1 << 22  # bytes


def middle_plane(path: Path, side: int) -> np.ndarray:
    """The middle page of a file, grey, averaged down to `side` px, float32 (Y, X)."""
    with errors_as_input_error(path), quiet_tifffile(), open_regular(path) as file, open_tiff(file) as tif:
        page = tif.pages[len(tif.pages) // 2].aspage()
        if page.size > LARGEST:
            raise InputError(path, "too large for a preview", "look at it in a viewer")
        binned = Binned(page.imagelength, page.imagewidth, side)
        if page.is_memmappable and page.planarconfig == 1:
            _add_rows(page, np.dtype(page.dtype).newbyteorder(tif.byteorder), file, binned, path)
        else:
            _add_segments(page, binned, path)
        return binned.mean()


def check_piece(nbytes: int, path: Path) -> None:
    """Raise InputError if what must be decoded at once has more bytes than a preview is worth."""
    if nbytes > _SEGMENT:
        raise InputError(path, "is stored in pieces too large for a preview", "look at it in a viewer")


def _add_rows(page: tifffile.TiffPage, dtype: np.dtype, file: BinaryIO, binned: Binned, path: Path) -> None:
    """Read, not mapped: a map of a file that somebody cuts short ends the process."""
    file.seek(page.dataoffsets[0])
    row = page.imagewidth * page.samplesperpixel
    band = max(1, _BAND // max(1, row))
    for top in range(0, page.imagelength, band):
        count = min(band, page.imagelength - top) * row
        raw = file.read(count * dtype.itemsize)
        if len(raw) < count * dtype.itemsize:
            raise InputError(path, "truncated while it was read", "look again in a moment")
        binned.add(np.frombuffer(raw, dtype).reshape(-1, page.imagewidth, page.samplesperpixel), top, 0)


def _add_segments(page: tifffile.TiffPage, binned: Binned, path: Path) -> None:
    height = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    width = page.tilewidth if page.is_tiled else page.imagewidth
    check_piece(height * width * page.samplesperpixel * np.dtype(page.dtype).itemsize, path)
    for segment, (sample, depth, top, left, _), (_, rows, columns, _) in page.segments(
        maxworkers=1, buffersize=_READ_AHEAD
    ):
        if segment is not None and sample == depth == 0:
            binned.add(segment[0, :rows, :columns], top, left)


class Binned:
    """Means of squares of pixels, of a picture that comes in pieces, so that it is at most `side` px wide and high."""

    def __init__(self, height: int, width: int, side: int) -> None:
        self._height, self._width = height, width
        step = max(1, -(-max(height, width) // side))
        self._steps = min(step, height), min(step, width)
        shape = tuple(-(-length // step) for length, step in zip((height, width), self._steps, strict=True))
        self._sums, self._counts = np.zeros(shape, np.float64), np.zeros(shape, np.int64)

    def add(self, piece: np.ndarray, top: int, left: int) -> None:
        """Add pixels (Y, X, samples) that lie at `top`, `left`; of several samples up to four are averaged.

        What of a tile lies beyond the picture is left out.
        """
        piece = piece[: self._height - top, : self._width - left]
        height, width, samples = piece.shape
        band = max(1, _BAND // max(1, width * samples))
        for start in range(0, height, band):
            part = piece[start : start + band].astype(np.float64)
            part = part.mean(axis=-1) if samples <= 4 else part[..., 0]
            (rows, row_counts), (columns, column_counts) = (
                _runs(first, length, step)
                for first, length, step in zip((top + start, left), part.shape, self._steps, strict=True)
            )
            part = np.add.reduceat(np.add.reduceat(part, columns, axis=1), rows, axis=0)
            at = (top + start) // self._steps[0], left // self._steps[1]
            where = slice(at[0], at[0] + len(rows)), slice(at[1], at[1] + len(columns))
            self._sums[where] += part
            self._counts[where] += np.outer(row_counts, column_counts)

    def mean(self) -> np.ndarray:
        return (self._sums / np.maximum(self._counts, 1)).astype(np.float32)


def _runs(first: int, length: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Where pixels `first` to `first + length` begin to belong to another bin, and how many each bin gets of them."""
    starts = np.arange(-(first % step), length, step)
    counts = np.diff(np.append(np.maximum(starts, 0), length))
    return np.maximum(starts, 0), counts
