"""TIFFs put together part by part, with the blocks of vendors as their format pages describe them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Literal

import numpy as np

Order = Literal["<", ">"]
Tag = tuple[int, int, int, bytes]  # code, type, count, value
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 1, 2, 3, 4, 5, 7
WIDTH, LENGTH = 40, 24


def counts(planes: int, seed: int = 0, dtype: str = "u2") -> np.ndarray:
    """Planes (n, LENGTH, WIDTH) of noise."""
    return np.random.default_rng(seed).integers(1, 200, (planes, LENGTH, WIDTH)).astype(dtype)


class Drawn:
    """A TIFF in the making: what is put into it lies one behind the other."""

    def __init__(self, order: Order = "<", big: bool = False, header: bytes = b"") -> None:
        self.order: Order = order
        self.big = big
        self.bytes = bytearray((b"II" if order == "<" else b"MM") + self.pack("H", 43 if big else 42))
        self.bytes += self.pack("HHQ", 8, 0, 0) if big else bytes(4)
        self.bytes += header
        self._link = 8 if big else 4

    def pack(self, form: str, *numbers: float) -> bytes:
        return struct.pack(self.order + form, *numbers)

    def longs(self, *numbers: int) -> bytes:
        return self.pack(f"{len(numbers)}I", *numbers)

    def put(self, data: bytes) -> int:
        """Add bytes; where they lie."""
        self.bytes += bytes(-len(self.bytes) % 2)
        at = len(self.bytes)
        self.bytes += data
        return at

    def directory(self, tags: list[Tag]) -> int:
        """Add a directory that no page points at; where it lies."""
        room, pointer = (8, "Q") if self.big else (4, "I")
        entries = []
        for code, kind, count, value in sorted(tags, key=lambda tag: tag[0]):
            stored = value.ljust(room, b"\0") if len(value) <= room else self.pack(pointer, self.put(value))
            entries.append(self.pack("HHQ" if self.big else "HHI", code, kind, count) + stored)
        return self.put(self.pack("Q" if self.big else "H", len(entries)) + b"".join(entries) + bytes(room))

    def page(
        self,
        pixels: np.ndarray,
        tags: list[Tag] | None = None,
        strips: int = 1,
        stored: list[bytes] | None = None,
        replaced: dict[int, Tag] | None = None,
    ) -> list[int]:
        """Add a page (Y, X) or (Y, X, samples) and its directory; where its strips lie. `stored`: not as they are."""
        rows = -(-pixels.shape[0] // strips)
        raw = pixels.astype(pixels.dtype.newbyteorder(self.order))
        parts = stored or [raw[top : top + rows].tobytes() for top in range(0, len(raw), rows)]
        places = [self.put(part) for part in parts]
        samples = pixels.shape[2] if pixels.ndim == 3 else 1
        short = lambda code, *numbers: (code, SHORT, len(numbers), self.pack(f"{len(numbers)}H", *numbers))  # noqa: E731
        long = lambda code, *numbers: (code, LONG, len(numbers), self.longs(*numbers))  # noqa: E731
        made: list[Tag] = [
            long(256, pixels.shape[1]),
            long(257, pixels.shape[0]),
            short(258, *[8 * pixels.dtype.itemsize] * samples),
            short(259, 1),
            short(262, 2 if samples == 3 else 1),
            long(273, *places),
            short(277, samples),
            long(278, rows),
            long(279, *map(len, parts)),
        ]
        swap: dict[int, Tag] = replaced or {}
        entries: list[Tag] = [swap.get(tag[0], tag) for tag in made]
        at = self.directory([*entries, *(tags or [])])
        form = "Q" if self.big else "I"
        struct.pack_into(self.order + form, self.bytes, self._link, at)
        (count,) = struct.unpack_from(self.order + ("Q" if self.big else "H"), self.bytes, at)
        self._link = at + (8 + 20 * count if self.big else 2 + 12 * count)
        return places

    def save(self, path: Path) -> None:
        path.write_bytes(self.bytes)


def draw_stk(path: Path, planes: int = 3, order: Order = "<", big: bool = False, strips: int = 1, first: bool = False):
    """MetaMorph: all planes behind one another under one directory; four UIC tags tell how many, and point further."""
    drawn = Drawn(order, big)
    pixels = counts(planes)
    tags: list[Tag] = []

    def uic() -> None:
        unit, name = drawn.put(drawn.longs(2) + b"um"), drawn.put(drawn.longs(4) + b"DAPI")
        scale = drawn.put(drawn.longs(65, 100))
        pairs = drawn.longs(2, 104, 3, 1, 4, scale, 5, scale, 6, unit, 7, name)
        tags.append((33628, LONG, 6, drawn.longs(drawn.put(pairs)) if not big else drawn.pack("Q", drawn.put(pairs))))
        times = [drawn.longs(2 * n, 1, 2460000, 36000000 + n, 2460000, 36000000 + n) for n in range(planes)]
        tags.append((33629, RATIONAL, planes, drawn.pack("Q" if big else "I", drawn.put(b"".join(times)))))
        waves = drawn.put(drawn.longs(*[525, 1] * planes))
        tags.append((33630, RATIONAL, planes, drawn.pack("Q" if big else "I", waves)))
        stage = drawn.pack("H", 28) + drawn.longs(*range(4 * planes)) + drawn.pack("H", 0)
        tags.append((33631, LONG, planes, drawn.pack("Q" if big else "I", drawn.put(stage))))

    if first:
        uic()
    rows = -(-LENGTH // strips)
    raw = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    start = drawn.put(raw)
    size = rows * WIDTH * 2
    places = [start + n * size for n in range(strips)]
    if not first:
        uic()
    replaced = {
        273: (273, LONG, strips, drawn.longs(*places)),
        279: (279, LONG, strips, drawn.longs(*[size] * strips)),
    }
    # A value longer than an entry is put behind it; those of UIC tags lie elsewhere already.
    drawn.page(pixels[0], tags, strips, stored=[b""] * strips, replaced=replaced)
    drawn.save(path)


def sis_block(drawn: Drawn, name: bytes) -> int:
    """Where an Olympus SIS block lies: what it says of the scale lies before it, at an offset of its own."""
    scale = b"\0" * 10 + struct.pack("<hdd", -6, 0.345, 0.345) + bytes(8) + struct.pack("<d", 20.0) + bytes(2)
    at = drawn.put(scale + b"XM10".ljust(34, b"\0") + b"fluorescence".ljust(32, b"\0") + bytes(120))
    head = b"SIS0" + bytes(6) + struct.pack("<5h", 15, 10, 25, 10, 126) + bytes(6) + name.ljust(32, b"\0")
    return drawn.put(head + struct.pack("<h", 2) + struct.pack("<hhIhhI", 1, 1, at, 10, 1, at) + bytes(256))


def draw_sis(path: Path, pages: int = 1, shared: bool = False, ini: bool = False, order: Order = "<") -> None:
    """Olympus: one block a page, or one for all; or an ini text instead."""
    drawn = Drawn(order)
    blocks: list[int] = []
    for number, plane in enumerate(counts(pages)):
        make = b"Olympus Soft Imaging Solutions\0"
        tags: list[Tag] = [(271, ASCII, len(make), make)]
        if ini:
            text = b"[Dimension]\r\nBand=1\r\nZ=1\r\nTime=1\r\n[Band 0]\r\nName=DAPI\r\n[Z]\r\nZ0=0\r\n\0"
            tags.append((33471, BYTE, len(text), text))
        else:
            blocks += [] if shared and blocks else [sis_block(drawn, b"sample %d" % number)]
            tags.append((33560, LONG, 1, drawn.longs(blocks[-1])))
        drawn.page(plane, tags)
    drawn.save(path)


def draw_exif(path: Path, order: Order = "<", big: bool = False, inline: bool = False, page: int = 0) -> None:
    """A camera's: Exif with a maker's note that holds an offset, interoperability below it, and GPS."""
    drawn = Drawn(order, big)
    for number, plane in enumerate(counts(page + 1)):
        tags: list[Tag] = []
        if number == page:
            date = b"2026:11:25 10:15:00\0"
            note = drawn.put(b"the maker's own")
            interop = drawn.directory([(1, ASCII, 4, b"R98\0"), (2, UNDEFINED, 4, b"0100")])
            exif = drawn.directory(
                [
                    (33434, RATIONAL, 1, drawn.longs(1, 50)),
                    (36867, ASCII, len(date), date),
                    (37500, UNDEFINED, 12, b"MAKER\0\0\0" + drawn.longs(note)),
                    (40965, LONG, 1, drawn.longs(interop)),
                ]
            )
            gps: list[Tag] = [
                (0, BYTE, 4, b"\2\3\0\0"),
                (1, ASCII, 2, b"N\0"),
                (3, ASCII, 2, b"E\0"),
                (5, BYTE, 1, b"\0"),
            ]
            if not inline:
                gps.append((2, RATIONAL, 3, drawn.longs(51, 1, 30, 1, 0, 1)))
            gps_at = drawn.directory(gps)
            tags = [(34665, LONG, 1, drawn.longs(exif)), (34853, LONG, 1, drawn.longs(gps_at))]
        drawn.page(plane, tags)
    drawn.save(path)


def draw_lsm(
    path: Path, planes: int = 3, channels: int = 1, lzw: bool = False, size: int = 328, inline: bool = False
) -> None:
    """Zeiss: each plane is followed by its thumbnail; the block of the first page points at others behind it.

    `inline`: BitsPerSample of two channels are two numbers, as TIFF has them, and not an offset.
    """
    drawn = Drawn()
    stamps = drawn.put(struct.pack("<ii3d", 32, 3, 0.0, 1.5, 3.0))
    names = struct.pack("<I", 5) + b"Ch1\0\0"
    colours = struct.pack("<6I4B", 24 + 4 + len(names), 1, 1, 24, 28, 0, 255, 0, 0, 0) + names
    colours_at = drawn.put(colours)
    info = bytearray(size)
    struct.pack_into(
        "<II8i6dHHI", info, 0, 67127628, size, WIDTH, LENGTH, planes, channels, 1, 1, 8, 8, *[1e-7] * 6, 0, 0, 0
    )
    struct.pack_into("<I", info, 108, colours_at)
    struct.pack_into("<I", info, 132, stamps)
    for number in range(planes):
        pixels = counts(channels, number, "u1")
        pixels = pixels % 4 + 8 if lzw else pixels  # so that they take less room compressed
        tags: list[Tag] = [(284, SHORT, 1, drawn.pack("H", 2))] if channels > 1 else []
        tags += [(34412, BYTE, size, bytes(info))] if number == 0 else []
        stored = [plane.tobytes() for plane in pixels]
        replaced = {}
        if lzw:
            import imagecodecs

            replaced[259] = (259, SHORT, 1, drawn.pack("H", 5))
            # What these files say of a compressed strip is how long it was before.
            replaced[279] = (279, LONG, channels, drawn.longs(*map(len, stored)))
            stored = [bytes(imagecodecs.lzw_encode(part)) for part in stored]
        if channels > 1:
            replaced[262] = (262, SHORT, 1, drawn.pack("H", 2))  # as these files say, of two channels as well
        if channels == 2 and not inline:  # an offset where two numbers would have room
            replaced[258] = (258, SHORT, 2, drawn.longs(drawn.put(drawn.pack("HH", 8, 8))))
        drawn.page(np.moveaxis(pixels, 0, -1) if channels > 1 else pixels[0], tags, 1, stored, replaced)
        thumbnail = counts(3, number, "u1")[:, : LENGTH // 2, : WIDTH // 2]
        drawn.page(np.moveaxis(thumbnail, 0, -1), [(254, LONG, 1, drawn.longs(1))])
    drawn.save(path)


def draw_scanimage(path: Path, version: int = 4, roi: bool = True, pages: int = 3) -> None:
    """ScanImage: what does not vary from frame to frame stands once, between the header and the first directory."""
    constant = b"SI.VERSION_MAJOR = 5\nSI.hChannels.channelSave = [1]\nSI.hScan2D.binFactor = 1\0"
    group = json.dumps({"RoiGroups": {"imagingRoiGroup": {"ver": 1}}}).encode() + b"\0" if roi else b""
    header = struct.pack("<4I", 0x07030301, version, len(constant), len(group)) + constant + group
    drawn = Drawn(big=True, header=header)
    for number, plane in enumerate(counts(pages, dtype="i2")):
        text = f"frameNumbers = {number + 1}\nframeTimestamps_sec = {number / 30:.6f}\n\0".encode()
        tags: list[Tag] = [
            (270, ASCII, len(text), text),
            (305, ASCII, 4, b"SI.\0"),
            (339, SHORT, 1, drawn.pack("H", 2)),
        ]
        drawn.page(plane, tags, strips=2)
    drawn.save(path)


def draw_old_scanimage(path: Path) -> None:
    """ScanImage 3: the state of the program stands in the description of each page."""
    drawn = Drawn()
    for number, plane in enumerate(counts(3)):
        text = f"state.configPath='C:\\\\'\rstate.acq.numberOfFrames=3\rstate.internal.frame={number}\r\0".encode()
        drawn.page(plane, [(270, ASCII, len(text), text)])
    drawn.save(path)


def draw_ndtiff(path: Path, planes: int = 4) -> bytes:
    """NDTiff: a header of its own, pixels right behind each directory. Returns its index, which names offsets."""
    summary = json.dumps({"PixelType": "GRAY16", "ChNames": ["DAPI"]}).encode()
    header = struct.pack("<5I", 483729, 3, 3, 2355492, len(summary)) + summary
    drawn, index = Drawn(header=header), b""
    for number, plane in enumerate(counts(planes)):
        metadata = json.dumps({"Axes": {"time": number}, "PixelSizeUm": 0.65}).encode()
        at = drawn.put(metadata)
        tags: list[Tag] = [(51123, ASCII, len(metadata), drawn.longs(at))]
        (place,) = drawn.page(plane, tags)
        for text in (json.dumps({"time": number}).encode(), path.name.encode()):
            index += struct.pack("<I", len(text)) + text
        index += struct.pack("<8I", place, WIDTH, LENGTH, 1, 0, at, len(metadata), 0)
    drawn.save(path)
    return index
