"""TIFF directories as bytes in a file: where each value lies, values patched in their place, changed copies appended.

Nothing is understood here but the frame: header, directories, entries. What a tag means does not matter for keeping it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from ..errors import ErrorCode

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # bytes
_NUMBERS = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 11: "f4", 12: "f8", 13: "u4", 16: "u8", 17: "i8"}
_NUMBERS[18] = "u8"
_SUBIFDS, _EXIF, _GPS, _INTEROP = 330, 34665, 34853, 40965
LSM, _NDPI, _MAKE = 34412, 65420, 271
_MARKS = ((8, 483729), (32, 2355492))  # position and number: NDTiff, Micro-Manager
_MOST = 1 << 20  # directories of a file; more is damage


class DamagedError(ValueError):
    """A structure that cannot be: what is wrong with it."""

    def __init__(self, cause: str, code: ErrorCode = ErrorCode.DAMAGED) -> None:
        self.cause, self.code = cause, code
        super().__init__(cause)


class Form(NamedTuple):
    """Byte order ("<" or ">") of a file, and whether it is a BigTIFF."""

    order: Literal["<", ">"]
    big: bool

    @property
    def count(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "H"))

    @property
    def entry(self) -> struct.Struct:
        return struct.Struct(self.order + ("HHQQ" if self.big else "HHII"))

    @property
    def link(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "I"))

    @property
    def limit(self) -> int:
        """The first byte that no offset reaches."""
        return 2**64 if self.big else 2**32


class TagEntry(NamedTuple):
    """A tag: `position` is that of its entry, `start` that of its value, in the entry or elsewhere."""

    code: int
    kind: int
    count: int
    position: int
    start: int
    inline: bool

    @property
    def nbytes(self) -> int:
        return self.count * SIZES.get(self.kind, 0)


@dataclass(frozen=True)
class Directory:
    """A directory of a file.

    Attributes
    ----------
    pointer : int
        Position of the pointer that leads to it.
    link : int
        Position of its pointer to the next one.
    """

    offset: int
    pointer: int
    entries: tuple[TagEntry, ...]
    link: int
    next: int
    raw: bytes

    @cached_property
    def tags(self) -> dict[int, TagEntry]:
        """By code; of duplicates the first."""
        return {entry.code: entry for entry in reversed(self.entries)}

    def inline(self, entry: TagEntry, order: str) -> tuple[int, ...]:
        """The numbers that stand in an entry itself."""
        begin = entry.start - self.entries[0].position
        return tuple(np.frombuffer(self.raw, order + _NUMBERS[entry.kind], entry.count, begin).tolist())


def read_header(file: BinaryIO) -> tuple[Form, int]:
    """Form of a file and position of its first pointer. Raises DamagedError if it is no TIFF."""
    file.seek(0)
    head = file.read(16)
    orders: dict[bytes, Literal["<", ">"]] = {b"II": "<", b"MM": ">"}
    order = orders.get(head[:2])
    magic = struct.unpack(f"{order}H", head[2:4])[0] if order and len(head) >= 4 else 0
    if order is None or magic not in (42, 43):
        if head.strip(b"\0"):
            raise DamagedError("not a TIFF file", ErrorCode.NOT_TIFF)
        raise DamagedError("not a TIFF yet: it starts with zeros", ErrorCode.INCOMPLETE)
    if len(head) < (16 if magic == 43 else 8):
        raise DamagedError("truncated: it ends inside its header", ErrorCode.TRUNCATED)
    return Form(order, magic == 43), 8 if magic == 43 else 4


def read_directory(file: BinaryIO, form: Form, size: int, pointer: int, name: str) -> Directory | None:
    """The directory that a pointer leads to; None where it is 0. Raises DamagedError."""
    file.seek(pointer)
    (offset,) = form.link.unpack(file.read(form.link.size))
    if not offset:
        return None
    if offset + form.count.size > size:  # no file is as long as a 64-bit offset may say, and seek would say so
        raise DamagedError(f"truncated: {name} lies beyond the end of the file", ErrorCode.TRUNCATED)
    file.seek(offset)
    (count,) = form.count.unpack(file.read(form.count.size))
    first, length = offset + form.count.size, count * form.entry.size
    if first + length + form.link.size > size:
        raise DamagedError(f"truncated: it ends inside the directory of {name}", ErrorCode.TRUNCATED)
    raw = file.read(length + form.link.size)
    entries, room = [], form.link.size
    for number, (code, kind, values, value) in enumerate(form.entry.iter_unpack(raw[:length])):
        # What a type that we do not know takes is not known either: readers pass over it, and so do we.
        position, nbytes = first + number * form.entry.size, values * SIZES.get(kind, 0)
        inline = nbytes <= room
        if not inline and value + nbytes > size:
            raise DamagedError(f"truncated: tag {code} of {name} lies beyond the end of the file", ErrorCode.TRUNCATED)
        at = position + form.entry.size - room if inline else value
        entries.append(TagEntry(code, kind, values, position, at, inline))
    (following,) = form.link.unpack(raw[length:])
    return Directory(offset, pointer, tuple(entries), first + length, following, raw)


def wide_offsets(file: BinaryIO, form: Form, size: int, pointer: int) -> str:
    """What a file is whose offsets are not those of TIFF, so that it would seem to be a damaged TIFF; "" if it is none.

    Raises DamagedError where it has no first directory.
    """
    if form.big:
        return ""
    codes: set[int] = set()
    file.seek(4)
    wide = int.from_bytes(file.read(8), "little")
    if form.order == "<" and 2**32 <= wide < size - 2:  # NDPI: 64 bits where TIFF has 32
        file.seek(wide)
        raw = file.read(12 * int.from_bytes(file.read(2), "little"))
        codes = {int.from_bytes(raw[at : at + 2], "little") for at in range(0, len(raw), 12)}
    if _NDPI not in codes:
        first = read_directory(file, form, size, pointer, "page 0")
        codes = set(first.tags) if first is not None else set()
    if {_NDPI, _MAKE} <= codes:
        return "a slide in Hamamatsu's NDPI format, one JPEG for all"
    return "a Zeiss LSM file beyond 4 GB, whose offsets wrap around" if LSM in codes and size >= 2**32 else ""


def grows(file: BinaryIO, form: Form) -> bool:
    """Whether Micro-Manager writes a file: until the acquisition ends, its last page names one that is not there."""
    file.seek(0)
    head = file.read(36)
    return any(head[at : at + 4] == struct.pack(form.order + "I", number) for at, number in _MARKS)


def chain(file: BinaryIO, form: Form, size: int, pointer: int) -> list[Directory]:
    """The directories from a pointer on. Raises DamagedError if one is not there, or the chain is a circle.

    Of a file that grows page by page those that are there: the last one's `next` is 0 only if it is complete.
    """
    directories: list[Directory] = []
    seen: set[int] = set()
    nbytes = 0
    growing = grows(file, form)
    while True:
        try:
            directory = read_directory(file, form, size, pointer, f"page {len(directories)}")
        except DamagedError:
            if directories and growing and directories[-1].next >= size:
                return directories
            raise
        if directory is None or (directories and growing and not directory.entries and not directory.next):
            return directories
        if directory.offset in seen:
            raise DamagedError("damaged: the chain of its pages is a circle")
        if len(directories) >= _MOST:
            raise DamagedError(f"damaged: more than {_MOST} pages")
        nbytes += len(directory.raw)
        if nbytes > size:
            raise DamagedError("damaged: the directories of its pages overlap")
        if not directory.entries:
            raise DamagedError(f"damaged: page {len(directories)} has no tags")
        seen.add(directory.offset)
        directories.append(directory)
        pointer = directory.link


def below(
    file: BinaryIO, form: Form, size: int, parent: Directory, seen: set[int], images: bool
) -> Iterator[Directory]:
    """The directories that a directory's tags point at: SubIFDs (`images`), or Exif, GPS and other ones.

    What cannot be read is passed over: it is not needed to keep it. `seen` holds the offsets of those known already.
    """
    for entry in parent.entries:
        wanted = entry.code == _SUBIFDS if images else entry.code in (_EXIF, _GPS, _INTEROP)
        if not wanted or entry.kind not in (4, 13, 16, 18) or entry.count > 1 << 12:
            continue
        for number in range(entry.count):
            try:
                pointer = entry.start + number * SIZES[entry.kind]
                form_here = Form(form.order, SIZES[entry.kind] == 8)
                if form_here.big != form.big:  # its pointer has another width: offsets are read by hand
                    continue
                directory = read_directory(file, form, size, pointer, f"a directory of tag {entry.code}")
            except (DamagedError, struct.error):
                continue
            if directory is None or directory.offset in seen or len(seen) > _MOST:
                continue
            seen.add(directory.offset)
            yield directory


def values(file: BinaryIO, form: Form, entry: TagEntry) -> np.ndarray:
    """The numbers of a tag, native; rationals and text have none. Raises DamagedError."""
    dtype = _NUMBERS.get(entry.kind)
    if dtype is None:
        raise DamagedError(f"damaged: tag {entry.code} holds no numbers")
    numbers = np.frombuffer(content(file, entry), form.order + dtype)
    return numbers.astype(numbers.dtype.newbyteorder("="))


def content(file: BinaryIO, entry: TagEntry) -> bytes:
    """The bytes of a tag's value. Raises DamagedError if they are not there."""
    file.seek(entry.start)
    data = file.read(entry.nbytes)
    if len(data) != entry.nbytes:
        raise DamagedError(f"truncated: tag {entry.code} lies beyond the end of the file", ErrorCode.TRUNCATED)
    return data


def holds(entry: TagEntry, numbers: np.ndarray) -> bool:
    """Whether a tag's type holds such numbers, and as many of them."""
    dtype = np.dtype(_NUMBERS.get(entry.kind, "u1"))
    if len(numbers) != entry.count or dtype.kind == "f" or entry.kind not in _NUMBERS:
        return len(numbers) == entry.count and dtype.kind == "f"
    limits = np.iinfo(dtype)
    return not len(numbers) or (int(numbers.min()) >= limits.min and int(numbers.max()) <= limits.max)


def patch(file: BinaryIO, form: Form, entry: TagEntry, numbers: np.ndarray) -> None:
    """Write other numbers in the place of a tag's."""
    file.seek(entry.start)
    file.write(np.asarray(numbers).astype(form.order + _NUMBERS[entry.kind]).tobytes())


def changed_copy(
    file: BinaryIO, form: Form, directory: Directory, tags: Mapping[int, tuple[int, int, bytes]], offset: int
) -> bytes:
    """The bytes of a copy of a directory, as it stands now, to lie at `offset`; `tags` are (type, count, value).

    They replace those of their codes, or are put in before the first greater code; all others stay as they are.
    """
    file.seek(directory.entries[0].position)
    raw = file.read(directory.link - directory.entries[0].position)
    link = file.read(form.link.size)
    size, room = form.entry.size, form.link.size
    entries = [raw[n * size : (n + 1) * size] for n in range(len(raw) // size)]
    codes = [entry.code for entry in directory.entries]
    new = [code for code in tags if code not in codes]
    start = offset + form.count.size + (len(entries) + len(new)) * size + room
    extra = bytearray()

    def made(code: int) -> bytes:
        kind, count, value = tags[code]
        if len(value) <= room:
            stored = value.ljust(room, b"\0")
        else:
            extra.extend(b"\0" * (-(start + len(extra)) % 8))
            stored = form.link.pack(start + len(extra))
            extra.extend(value)
        return form.entry.pack(code, kind, count, 0)[: size - room] + stored

    replaced: set[int] = set()
    for number, code in enumerate(codes):
        if code in tags and code not in replaced:
            entries[number] = made(code)
            replaced.add(code)
    for code in sorted(new):
        number = next((number for number, other in enumerate(codes) if other > code), len(codes))
        entries.insert(number, made(code))
        codes.insert(number, code)
    return form.count.pack(len(entries)) + b"".join(entries) + link + bytes(extra)
