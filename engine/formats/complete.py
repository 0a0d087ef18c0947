"""Whether a file of a microscope's own format is whole, by the marks that its writer sets last. No reader is needed."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ..errors import ErrorCode, InputError
from ..files.version import open_regular
from ..tiff.integrity import errors_as_input_error
from ..tiff.pages import WAIT

_ND2_OLD = b"\0\0\0\x0cjP  "  # JPEG 2000, as NIS-Elements wrote until 2010: it has no mark at its end
_ND2_END = b"ND2 CHUNK MAP SIGNATURE 0000001!"
_DV_ORDER = {b"\xa0\xc0": "<", b"\xc0\xa0": ">"}
_DV_BYTES = {1: 2, 2: 4, 4: 8, 5: 2, 6: 2, 7: 4}  # of a pixel, by the header's number of its type
_LIF_MEMORY = re.compile(r'<Memory\b[^>]*\bSize="(\d+)"[^>]*\bMemoryBlockID="([^"]+)"')


def check_whole(path: Path) -> None:
    """Raise InputError unless a file is there, and is as whole as its format can say.

    ND2, CZI, LIF and DV say it. Of other formats only a time without changes does.
    """
    with errors_as_input_error(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise InputError(path, "an empty file", WAIT, ErrorCode.EMPTY)
        check = _CHECKS.get(path.suffix.lower())
        try:
            missing = check(file, size) if check is not None else None
        except struct.error:
            missing = "its end"
        if missing:
            raise InputError(path, f"truncated or not complete: it lacks {missing}", WAIT, ErrorCode.TRUNCATED)


def _nd2(file: BinaryIO, size: int) -> str | None:
    if file.read(8) == _ND2_OLD:
        return None
    file.seek(max(0, size - 40))
    mark, position = struct.unpack("<32sQ", file.read(40))
    return None if mark == _ND2_END and position < size else "the map of its frames"


def _czi(file: BinaryIO, size: int) -> str | None:
    header = file.read(112)
    directory, metadata, pending, attachments = struct.unpack_from("<QQiQ", header, 84)
    if not header.startswith(b"ZISRAWFILE"):
        return "the header of a CZI"

    def segment(position: int, name: bytes) -> bytes | None:
        """What a segment holds, or None if it does not lie in the file as a whole."""
        file.seek(position)
        segment_name, allocated, used = struct.unpack("<16sQQ", file.read(32)) if 0 < position < size else (b"", 0, 0)
        whole = segment_name.rstrip(b"\0") == name and position + 32 + allocated <= size
        return file.read(min(used or allocated, allocated)) if whole else None

    if segment(metadata, b"ZISRAWMETADATA") is None:
        return "its metadata"
    planes = segment(directory, b"ZISRAWDIRECTORY")
    if planes is None:
        return "the directory of its planes"
    # Directories may stand first, with room that was left for them: what they name must be there, too.
    at, last = 128, 0
    for _ in range(*struct.unpack_from("<i", planes)):
        position, dimensions = struct.unpack_from("<Q14xi", planes, at + 6)
        at, last = at + 32 + 20 * dimensions, max(last, position)
    if last and segment(last, b"ZISRAWSUBBLOCK") is None:
        return "its last plane"
    if attachments:
        listed = segment(attachments, b"ZISRAWATTDIR")
        if listed is None:
            return "the directory of its attachments"
        places = [
            struct.unpack_from("<Q", listed, 256 + 128 * n + 12)[0] for n in range(*struct.unpack_from("<i", listed))
        ]
        if places and segment(max(places), b"ZISRAWATTACH") is None:
            return "its last attachment"
    return "the end of an update" if pending else None


def _lif(file: BinaryIO, size: int) -> str | None:
    test, _, _, count = struct.unpack("<IIBI", file.read(13))
    if test != 0x70 or 2 * count > size:
        return "the header of a LIF"
    xml = file.read(2 * count).decode("utf-16-le", "replace")
    needed = {name for length, name in _LIF_MEMORY.findall(xml) if int(length)}
    position = file.tell()
    while position < size and needed:
        file.seek(position)
        test, _, _, length = struct.unpack("<IIBQ", file.read(17))
        if test != 0x70:
            return "the header of a block of pixels"
        if file.read(1) != b"\x2a":  # an older version, with 4 bytes for the length
            file.seek(position + 9)
            (length,) = struct.unpack("<I", file.read(4))
            file.read(1)
        (count,) = struct.unpack("<I", file.read(4))
        name = file.read(2 * count).decode("utf-16-le", "replace")
        position = file.tell() + length
        if position > size:
            return f"the end of {name}"
        needed.discard(name)
    return " and ".join(sorted(needed)[:3]) or None


def _dv(file: BinaryIO, size: int) -> str | None:
    header = file.read(1024)
    order = _DV_ORDER.get(header[96:98])
    if order is None:
        return "the header of a DeltaVision file"
    width, height, sections, kind = struct.unpack_from(f"{order}4i", header)
    (extended,) = struct.unpack_from(f"{order}i", header, 92)
    whole = 1024 + extended + width * height * sections * _DV_BYTES.get(kind, 1)
    return "its last planes" if size < whole else None


_CHECKS: dict[str, Callable[[BinaryIO, int], str | None]] = {
    ".nd2": _nd2,
    ".czi": _czi,
    ".lif": _lif,
    ".dv": _dv,
    ".r3d": _dv,
}
