"""Pages: what the tags of a directory say of its pixels, read by ourselves and without decoding any.

Two pages of one `storage` are decoded alike; two of one `kind` may be planes of one image.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import ErrorCode, InputError
from .directories import (
    LSM,
    DamagedError,
    Directory,
    Form,
    TagEntry,
    below,
    chain,
    content,
    read_header,
    values,
    wide_offsets,
)

WAIT = "wait until it is complete, or write it again"
LOSSLESS = {1, 5, 8, 32946, 32773, 34925, 50000, 34887}  # kept; all others would alter the result a second time
_STORAGE = (254, 255, 256, 257, 258, 259, 262, 266, 277, 278, 284, 292, 317, 320, 322, 323, 338, 339, 347, 529, 530)
_STORAGE = (*_STORAGE, 532, 32997, 32998, 33628, 34412, 42113, 50674)
_SHARED = 1 << 26  # bytes that pages of a small file may share
_PALETTE, _COLOURS = 320, 3 << 16  # and the most numbers that it has
_COMPARED = 8  # what a value costs that is kept as Python's numbers, in bytes of it


@dataclass(frozen=True, eq=False)
class ImagePage:
    """A page: shape and storage of its pixels, and where its strips or tiles lie (`offsets`, `counts`, in bytes)."""

    directory: Directory
    name: str
    numbers: dict[int, tuple[int, ...]]
    offsets: np.ndarray
    counts: np.ndarray
    storage: tuple[object, ...]
    parent: ImagePage | None = None
    children: list[ImagePage] = field(default_factory=list)

    def number(self, code: int, default: int) -> int:
        values = self.numbers.get(code, ())
        return values[0] if values else default

    @cached_property
    def width(self) -> int:
        return self.number(256, 0)

    @cached_property
    def length(self) -> int:
        return self.number(257, 0)

    @cached_property
    def depth(self) -> int:
        return max(1, self.number(32997, 1))

    @cached_property
    def samples(self) -> int:
        return max(1, self.number(277, 1))

    @cached_property
    def compression(self) -> int:
        return self.number(259, 1)

    @cached_property
    def bits(self) -> int:
        """Of a sample; 0 where samples differ."""
        bits = self.numbers.get(258, (1,))[: self.samples]
        return bits[0] if len(set(bits)) == 1 else 0

    @cached_property
    def photometric(self) -> int:
        """Black is zero where nothing is said, as ImageJ and Bio-Formats take it; three samples are colours."""
        return self.number(262, 2 if self.samples >= 3 else 1)

    @cached_property
    def planar(self) -> bool:
        return self.number(284, 1) == 2 and self.samples > 1

    @cached_property
    def reduced(self) -> bool:
        return bool(self.number(254, 0) & 1) or self.number(255, 1) == 2

    @cached_property
    def tiled(self) -> bool:
        return 322 in self.numbers

    @cached_property
    def segment(self) -> tuple[int, int, int]:
        """Depth, length and width of a strip or tile, in full."""
        if self.tiled:
            return max(1, self.number(32998, 1)), max(1, self.number(323, 0)), max(1, self.number(322, 0))
        rows = self.numbers.get(278, ())
        return 1, min(rows[0] if len(rows) == 1 and rows[0] else self.length, self.length), self.width

    @cached_property
    def segments(self) -> int:
        """Strips or tiles that it must have."""
        sizes = zip((self.depth, self.length, self.width), self.segment, strict=True)
        return (self.samples if self.planar else 1) * prod(-(-whole // part) for whole, part in sizes)

    @cached_property
    def kind(self) -> tuple[object, ...]:
        """What planes of one image have in common."""
        codes = (254, 255, 256, 257, 258, 277, 338, 339, 32997)
        colours = (self.photometric, self.planar, self.numbers.get(320))
        return (*(self.numbers.get(code) for code in codes), *colours, self.parent is None)

    @cached_property
    def nbytes(self) -> int:
        """Of its pixels, as they are packed."""
        row = -(-self.width * self.samples * (self.bits or max(self.numbers.get(258, (1,)))) // 8)
        return self.depth * self.length * row

    @cached_property
    def sparse(self) -> np.ndarray:
        """Which strips or tiles have no bytes: they are zeros, or not written yet."""
        return (self.offsets[: self.segments] == 0) | (self.counts[: self.segments] == 0)

    @cached_property
    def contiguous(self) -> bool:
        """Whether its pixels lie in the file as in an array, in order and without gaps."""
        depth, length, width = self.segment
        whole = ((length, width) == (self.length, self.width) and depth == self.depth) or not self.tiled
        if self.compression != 1 or not whole or self.number(317, 1) != 1 or self.number(266, 1) != 1:
            return False
        if self.bits not in (8, 16, 32, 64) or len(self.offsets) != self.segments or self.sparse.any():
            return False
        if self.segments == 1:
            return True
        ends = self.offsets + self.counts
        return np.array_equal(self.offsets[1:], ends[:-1]) and int(self.counts.sum()) == self.nbytes


@dataclass(frozen=True, eq=False)
class Structure:
    """All directories of a file: its pages in their order, those below pages, and others (Exif, GPS)."""

    form: Form
    size: int
    pages: tuple[ImagePage, ...]
    others: tuple[Directory, ...]

    @property
    def stopped(self) -> str:
        """What a page names that is not there, in a file whose acquisition goes on or was stopped; else ""."""
        return f"page {len(self.pages)} is not written" if self.pages[-1].directory.next else ""

    @property
    def every(self) -> Iterator[ImagePage]:
        """Pages and, after each, those below it."""
        for page in self.pages:
            yield page
            yield from page.children


class TagReader:
    """Reads values of tags for a file's structure, in all not much more than a file of this size can hold.

    Thousands of directories may name the same megabytes, each anew.
    """

    def __init__(self, file: BinaryIO, form: Form, size: int) -> None:
        self.form, self.size = form, size
        self._file, self._left = file, 2 * size + _SHARED

    def values(self, entry: TagEntry) -> np.ndarray:
        """As `directories.values`; DamagedError, too, where that would be too much."""
        self._take(entry.nbytes)
        return values(self._file, self.form, entry)

    def content(self, entry: TagEntry) -> bytes:
        """As `directories.content`; DamagedError, too, where that would be too much."""
        self._take(_COMPARED * entry.nbytes)
        return content(self._file, entry)

    def _take(self, nbytes: int) -> None:
        self._left -= nbytes
        if self._left < 0:
            raise DamagedError("damaged: the tags of its pages overlap")


def structure(file: BinaryIO, size: int, path: Path) -> Structure:
    """Read all directories. Raises InputError where one is not there or makes no sense."""
    try:
        if not size:
            raise DamagedError("empty (0 bytes)", ErrorCode.EMPTY)
        form, pointer = read_header(file)
        if cause := wide_offsets(file, form, size, pointer):
            raise InputError(path, cause, "export it as OME-TIFF", ErrorCode.UNSUPPORTED)
        directories = chain(file, form, size, pointer)
        if not directories:
            raise DamagedError("not complete: its header names no page yet", ErrorCode.INCOMPLETE)
        seen = {directory.offset for directory in directories}
        reader = TagReader(file, form, size)
        lsm = LSM in directories[0].tags
        pages, others = [], []
        for number, directory in enumerate(directories):
            page = _page(reader, directory, f"page {number}", None, lsm)
            pages.append(page)
            for parent in (page, *page.children):  # grows while it is gone through
                for child in below(file, form, size, parent.directory, seen, images=True):
                    name = f"{page.name}, SubIFD {len(page.children)}"
                    page.children.append(_page(reader, child, name, page))
            others += below(file, form, size, directory, seen, images=False)
        _lengthen([one for page in pages for one in (page, *page.children)], size, lsm)
        return Structure(form, size, tuple(pages), tuple(others))
    except DamagedError as error:
        remedy = "give a TIFF file" if error.code is ErrorCode.NOT_TIFF else WAIT
        raise InputError(path, error.cause, remedy, error.code) from error


def _page(reader: TagReader, directory: Directory, name: str, parent: ImagePage | None, lsm: bool = False) -> ImagePage:
    numbers: dict[int, tuple[int, ...]] = {}
    storage: list[object] = []
    for code in _STORAGE:
        entry = directory.tags.get(code)
        if entry is None or entry.count > (_COLOURS if code == _PALETTE else 1 << 16):
            continue
        if code == _PALETTE:
            numbers[code] = _ramp(reader.values(entry))
            storage.append((code, numbers[code]))
            continue
        if entry.inline and entry.kind in (1, 3, 4, 16) and entry.count:
            numbers[code] = directory.inline(entry, reader.form.order)
            if lsm and code == 258 and entry.count == 2 and len(set(numbers[code])) == 2:
                # Two channels: LSM has an offset where TIFF has two numbers.
                at = numbers[code][0] | numbers[code][1] << 16
                bits = reader.content(entry._replace(start=at, inline=False))
                numbers[code] = struct.unpack(f"{reader.form.order}HH", bits)
            storage.append((code, numbers[code]))
        else:
            raw = reader.content(entry)
            if entry.kind in (3, 4, 16):
                numbers[code] = tuple(reader.values(entry).tolist())
            storage.append((code, raw))
    if lsm and numbers.get(284) == (2,) and not numbers.get(254, (0,))[0] & 1:
        numbers[262] = (1,)  # channels of their own, though it calls them RGB
    tiled = 322 in numbers

    def places(tile_code: int, strip_code: int) -> np.ndarray:
        entry = directory.tags.get(tile_code if tiled and tile_code in directory.tags else strip_code)
        return np.zeros(0, np.int64) if entry is None else reader.values(entry).astype(np.int64)

    page = ImagePage(directory, name, numbers, places(324, 273), places(325, 279), tuple(storage), parent)
    return _counted(page, reader.size) if len(page.offsets) and not len(page.counts) else page


def _ramp(colours: np.ndarray) -> tuple[int, int]:
    """Of a colour map: 1 where it is a scale of intensity (each colour only rises, or only falls), else 0; a hash."""
    steps = np.diff(colours[: len(colours) // 3 * 3].astype(np.int64).reshape(3, -1))
    ramp = steps.any() and ((steps >= 0).all() or (steps <= 0).all())
    return int(ramp), int.from_bytes(hashlib.sha256(colours.tobytes()).digest()[:8], "little")


def _counted(page: ImagePage, size: int) -> ImagePage:
    """A page that does not say how long its strips are: as long as their pixels, or up to what comes next."""
    if page.compression == 1 and page.width and page.length and not page.tiled:
        return replace(page, counts=_unpacked(page))
    room = _room(page.offsets, [page.directory.offset, size, *page.offsets.tolist()])
    return replace(page, counts=np.where(page.offsets < size, room, 0))


def _room(offsets: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """Bytes from each offset up to where something else begins."""
    places = np.unique(np.array(starts, np.int64))
    return places[np.minimum(np.searchsorted(places, offsets, side="right"), len(places) - 1)] - offsets


def _unpacked(page: ImagePage) -> np.ndarray:
    """How long strips or tiles are that are not compressed, bytes."""
    depth, length, width = page.segment
    row = -(-width * (1 if page.planar else page.samples) * page.bits // 8)
    counts = np.full(len(page.offsets), depth * length * row, np.int64)
    if not page.tiled:  # the last one of each sample has what is left
        strips = -(-page.length // length)
        counts[strips - 1 :: strips] = (page.length - (strips - 1) * length) * row
    return counts


def _lengthen(pages: list[ImagePage], size: int, lsm: bool) -> None:
    """Correct byte counts that are wrong; in the output they stay.

    Zeiss LSM says of compressed strips how long they were before: they end where something else begins. Of pixels that
    are not compressed some programs say 0, or what is left of their length in 16 bits.
    """
    compressed = [page for page in pages if lsm and page.compression != 1 and len(page.offsets) == len(page.counts)]
    short = [
        page
        for page in pages
        if page.compression == 1 and page.width and page.length and page.bits and page.photometric != 6
        if len(page.offsets) == len(page.counts) and (page.tiled or int(page.counts.sum()) < page.nbytes)
        if (page.counts < _unpacked(page)).any()
    ]
    if not (compressed or short):
        return
    starts = [size, *(place for page in pages for place in (page.directory.offset, *page.offsets.tolist()))]
    starts += [entry.start for page in pages for entry in page.directory.entries if short and not entry.inline]
    for page in compressed:
        page.counts[:] = _room(page.offsets, starts)
    for page in short:
        whole = _unpacked(page)
        longer = (page.offsets > 0) & (page.counts < whole) & (whole <= _room(page.offsets, starts))
        page.counts[longer] = whole[longer]
