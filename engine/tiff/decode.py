"""Pixels of a page out of the bytes of its file, by tifffile's decoders: one for all pages that are stored alike."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np
import tifffile

from ..image.memmap import drop_resident_pages, may_shrink
from ..threads import spread
from .pages import ImagePage

_HEADER = 1 << 16  # bytes in which an image says how large it is
_MUCH = 1 << 22  # pixels of a strip or tile that are always let in
_LARGE = 1 << 22  # bytes of a page
DROP = 16  # strips or tiles of a page on disk that memory may hold
_JPEGXR = (22610, 34934)
_TRIAL = """
import struct, sys
import imagecodecs
content, at = sys.stdin.buffer.read(), 0
while at < len(content):
    (length,) = struct.unpack_from("<Q", content, at)
    try:
        imagecodecs.jpegxr_decode(content[at + 8 : at + 8 + length])
    except Exception:
        pass  # the decoder says so again where its pixels are wanted
    at += 8 + length
"""


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
        self._lock = threading.Lock()

    def of(self, page: ImagePage) -> tifffile.TiffPage:
        """tifffile's page that decodes this one, too, from any thread."""
        with self._lock:
            decoder = self._known.get(page.storage)
            if decoder is None:
                decoder = self._tif.pages.first
                if decoder.offset != page.directory.offset:
                    self._tif.filehandle.seek(page.directory.offset)
                    decoder = tifffile.TiffPage(self._tif, index=1)
                decoder.init_decode()
                self._known[page.storage] = decoder
            return decoder

    def segment(self, page: ImagePage, number: int) -> tuple[np.ndarray | None, tuple[int, ...], tuple[int, ...]]:
        """A strip or tile (Z, Y, X, samples), None for a sparse one, with its place and its shape in full."""
        decoder = self.of(page)
        data = None
        if not page.sparse[number]:
            data = self._stored(page, number)
        return decoder.decode(data, number, jpegtables=decoder.jpegtables)

    def _stored(self, page: ImagePage, number: int) -> bytes:
        """The bytes of a strip or tile. Raises ValueError where no decoder may have them."""
        start = int(page.offsets[number])
        data = self.bytes[start : start + int(page.counts[number])].tobytes()
        _check_size(page, data)
        return data

    def read(self, page: ImagePage, out: np.ndarray) -> None:
        """Decode a page into (separate samples, Z, Y, X, samples), which may lack the last samples of a pixel."""
        wanted = range(page.segments)
        if page.compression in _JPEGXR:
            _check_survival(self._stored(page, number) for number in wanted)
        split = not (is_small(page) or page.compression == 1 or may_shrink(self.bytes))
        decoded = (spread if split else map)(lambda number: self.segment(page, number), wanted)
        for number, (pixels, (sample, z, y, x, _), shape) in enumerate(decoded, 1):
            if sample < out.shape[0]:
                part = out[sample, z : z + shape[0], y : y + shape[1], x : x + shape[2]]
                if pixels is None:
                    part[...] = self.of(page).nodata
                else:
                    part[...] = pixels[tuple(map(slice, part.shape[:3]))][..., : out.shape[4]]
            if number % DROP == 0 or number == page.segments:
                drop_resident_pages(out, self.bytes)


def is_small(page: ImagePage) -> bool:
    """Whether several pages like this one may be decoded and encoded side by side; of others strips or tiles are."""
    return page.nbytes <= _LARGE


def _check_size(page: ImagePage, data: bytes) -> None:
    """Raise ValueError where a strip or tile holds an image of its own that is far larger than the tags say.

    The decoders of images give such a one its memory, whatever is asked of them.
    """
    length, width = _size(page.compression, data[:_HEADER])
    if length * width > max(_MUCH, 4 * prod(page.segment)):
        raise ValueError(f"a strip or tile of {page.segment[2]} x {page.segment[1]} px holds {width} x {length} px")


def _check_survival(segments: Iterable[bytes]) -> None:
    """Raise ValueError where the decoder of JPEG XR crashes, as it does on some damaged bytes: tried in a process."""
    content = b"".join(struct.pack("<Q", len(data)) + data for data in segments)
    command = [sys.executable, "-P", "-c", _TRIAL]
    done = subprocess.run(command, input=content, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if done.returncode < 0 or done.returncode >= 0xC0000000:  # a signal; an exception of Windows
        raise ValueError("the decoder of JPEG XR crashes on a strip or tile")


def _size(compression: int, data: bytes) -> tuple[int, int]:
    """Length and width that a compressed image states; (0, 0) where it states none, or not where it should."""
    try:
        if compression in (6, 7, 33007, 34892):
            return _size_of_jpeg(data)
        if compression == 34887 and data.startswith(b"Lerc2 "):
            (version,) = struct.unpack_from("<i", data, 6)
            return struct.unpack_from("<II", data, 14 if version >= 3 else 10)
        if compression == 34933:
            width, length = struct.unpack_from(">II", data, 16)
            return length, width
        if compression in (33003, 33004, 33005, 34712):
            width, length = struct.unpack_from(">II", data, data.index(b"\xff\x4f\xff\x51") + 8)
            return length, width
        if compression in (50001, 34927):
            return _size_of_webp(data)
        if compression in (50002, 52546):
            return _size_of_jpegxl(data)
        if compression in _JPEGXR:
            return _size_of_jpegxr(data)
    except (struct.error, ValueError, IndexError):
        pass  # the decoder says what is wrong with it
    return 0, 0


def _size_of_jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    while True:
        at = data.index(b"\xff", at)
        kind = data[at + 1]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return struct.unpack_from(">HH", data, at + 5)
        alone = kind in (0x00, 0x01, 0xFF) or 0xD0 <= kind <= 0xD8
        at += 1 if kind == 0xFF else 2 if alone else 2 + struct.unpack_from(">H", data, at + 2)[0]


def _size_of_webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    width, length = struct.unpack_from("<HH", data, 26)
    return length & 0x3FFF, width & 0x3FFF


def _size_of_jpegxl(data: bytes) -> tuple[int, int]:
    bits = int.from_bytes(data[data.index(b"\xff\x0a") + 2 :][:12], "little")

    def take(count: int) -> int:
        nonlocal bits
        taken, bits = bits & ((1 << count) - 1), bits >> count
        return taken

    small = take(1)

    def side() -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    length, ratio = side(), take(3)
    return length, side() if not ratio else 2 * length


def _size_of_jpegxr(data: bytes) -> tuple[int, int]:
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    tags = {}
    for number in range(count):
        code, kind, _, value = struct.unpack_from("<HHII", data, at + 2 + 12 * number)
        tags[code] = value & 0xFFFF if kind == 3 else value
    return tags.get(0xBC81, 0), tags.get(0xBC80, 0)
