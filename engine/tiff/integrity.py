"""Whether a TIFF is whole: every IFD, strip and tile lies inside the file. No pixel is decoded."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import tifffile

from ..errors import DefocusError, ErrorCode, InputError
from .quiet import quiet_tifffile

_AGAIN = "wait until it is complete, or write it again"
_NOT_TIFF = "give a TIFF file"
_TAIL = 1 << 16  # bytes
_DENSEST = 10**6  # no compression makes pixels this many times smaller: width or height are damaged
_TYPE_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # others: 1 byte


def check_complete(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless the file is a TIFF and all of it is there (promise P5).

    Reads headers and directories only, so it is cheap, and safe on a file that is still being written.

    Raises
    ------
    InputError
        Missing, unreadable, a folder, empty, not a TIFF, or truncated; the cause says which.
    """
    path = Path(path)
    with errors_as_input_error(path):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # opening a pipe would wait for ever
            raise InputError(path, "not a regular file", _NOT_TIFF, ErrorCode.NOT_TIFF)
        size = status.st_size
        with open(path, "rb") as file:
            pages = _count_pages(file, size, path)
        with quiet_tifffile(), open_tiff(path) as tif:
            if len(tif.pages) != pages:
                raise InputError(path, "truncated: the chain of its pages is broken", _AGAIN, ErrorCode.TRUNCATED)
            for number, page in enumerate(tif.pages):
                _check_page(tif, page, number, size, path)
            _check_imagej(tif, size, path)


def open_tiff(path: str | os.PathLike[str], described: bool = True) -> tifffile.TiffFile:
    """Open a TIFF so that page n is page n of this very file, whatever lies beside it.

    tifffile would follow a Micro-Manager or NDTiff index to the planes of the whole dataset, in an order of its own,
    and an OME-XML to other files. With `described` False not even the descriptions of OME, ImageJ and tifffile's own
    count: the pages are a list.
    """
    trusted = None if described else False
    return tifffile.TiffFile(
        path,
        _multifile=False,
        is_mmstack=False,
        is_ndtiff=False,
        is_ome=trusted,
        is_imagej=trusted,
        is_shaped=trusted,
    )


@contextmanager
def errors_as_input_error(path: Path) -> Iterator[None]:
    """Turn whatever reading a TIFF may raise into an InputError that names the file."""
    try:
        yield
    except DefocusError:
        raise
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "check the path", ErrorCode.MISSING) from error
    except IsADirectoryError as error:
        raise InputError(path, "a folder, not a file", _NOT_TIFF, ErrorCode.NOT_TIFF) from error
    except PermissionError as error:
        if Path(path).is_dir():  # what Windows says of a folder
            raise InputError(path, "a folder, not a file", _NOT_TIFF, ErrorCode.NOT_TIFF) from error
        raise InputError(
            path, "no permission to read", "give this user read permission", ErrorCode.PERMISSION
        ) from error
    except MemoryError:
        raise
    except OSError as error:
        raise InputError(
            path, f"cannot be read ({error.strerror or error})", "check the disk or the share", ErrorCode.UNREADABLE
        ) from error
    except Exception as error:  # tifffile and imagecodecs raise many kinds on damaged files
        cause = f"damaged ({type(error).__name__}: {error})"
        raise InputError(path, cause[:300], _AGAIN, ErrorCode.DAMAGED) from error


def _check_page(tif: tifffile.TiffFile, page, number: int, size: int, path: Path) -> None:  # type: ignore[no-untyped-def]
    page = page.aspage()
    offsets, counts = page.dataoffsets, page.databytecounts
    if page.imagewidth < 1 or page.imagelength < 1:
        raise InputError(path, f"page {number} has no pixels", _AGAIN, ErrorCode.DAMAGED)
    if len(offsets) != len(counts) or len(offsets) < _segments(page):
        raise InputError(path, f"truncated: page {number} lacks strips or tiles", _AGAIN, ErrorCode.TRUNCATED)
    for offset, count in zip(offsets, counts, strict=True):
        if offset <= 0 or count <= 0:
            raise InputError(
                path, f"not complete: page {number} has strips or tiles not written yet", _AGAIN, ErrorCode.INCOMPLETE
            )
        if offset + count > size:
            missing = offset + count - size
            raise InputError(
                path,
                f"truncated: page {number} ends {missing} bytes beyond the end of the file",
                _AGAIN,
                ErrorCode.TRUNCATED,
            )
    values = page.imagedepth * page.imagelength * page.imagewidth * page.samplesperpixel
    bits = page.bitspersample if isinstance(page.bitspersample, int) else min(page.bitspersample)
    needed = values * bits // 8 // (1 if page.compression == 1 else _DENSEST)
    if sum(counts) < needed and not page.is_subsampled:
        raise InputError(path, f"truncated: page {number} has fewer bytes than pixels", _AGAIN, ErrorCode.TRUNCATED)


def _segments(page) -> int:  # type: ignore[no-untyped-def]
    """Strips or tiles that a page must have."""
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    if page.is_tiled:
        depth = -(-page.imagedepth // max(1, page.tiledepth))
        return planes * depth * -(-page.imagelength // page.tilelength) * -(-page.imagewidth // page.tilewidth)
    rows = page.rowsperstrip or page.imagelength
    return planes * page.imagedepth * -(-page.imagelength // min(rows, page.imagelength))


def _check_imagej(tif: tifffile.TiffFile, size: int, path: Path) -> None:
    """ImageJ's description says how many planes there are; beyond 4 GB they all hang on one directory."""
    if not tif.is_imagej:
        return
    images = int((tif.imagej_metadata or {}).get("images", 1))
    first = tif.pages.first
    if len(tif.pages) == 1 and images > 1:
        if first.dataoffsets[0] + images * first.nbytes > size:
            raise InputError(
                path,
                f"truncated: its description names {images} planes, not all are there",
                _AGAIN,
                ErrorCode.TRUNCATED,
            )
    elif len(tif.pages) < images:
        cause = f"not complete: its description names {images} planes, {len(tif.pages)} are there"
        raise InputError(path, cause, _AGAIN, ErrorCode.INCOMPLETE)


def _count_pages(file: BinaryIO, size: int, path: Path) -> int:
    """Follow the chain of directories to its end; how many there are.

    tifffile stops at a broken link and takes the rest for not there; a missing plane must not go unseen.
    """
    if size == 0:
        raise InputError(path, "empty (0 bytes)", _AGAIN, ErrorCode.EMPTY)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    magic = struct.unpack(f"{order}H", head[2:4])[0] if order and len(head) >= 4 else 0
    if magic not in (42, 43):
        if not head.strip(b"\0"):
            raise InputError(path, "not a TIFF yet: it starts with zeros", _AGAIN, ErrorCode.INCOMPLETE)
        raise InputError(path, "not a TIFF file", _NOT_TIFF, ErrorCode.NOT_TIFF)
    big = magic == 43
    number, entry, link = ("Q", 20, "Q") if big else ("H", 12, "I")
    if len(head) < (16 if big else 8):
        raise InputError(path, "truncated: it ends inside its header", _AGAIN, ErrorCode.TRUNCATED)
    (offset,) = struct.unpack(f"{order}{link}", head[8:16] if big else head[4:8])
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise InputError(path, "damaged: the chain of its pages is a circle", _AGAIN, ErrorCode.DAMAGED)
        seen.add(offset)
        file.seek(offset)
        start = file.read(struct.calcsize(number))
        if len(start) < struct.calcsize(number):
            raise InputError(
                path, f"truncated: page {len(seen) - 1} lies beyond the end of the file", _AGAIN, ErrorCode.TRUNCATED
            )
        entries = struct.unpack(f"{order}{number}", start)[0] * entry
        if offset + len(start) + entries + struct.calcsize(link) > size:
            raise InputError(
                path, f"truncated: it ends inside the directory of page {len(seen) - 1}", _AGAIN, ErrorCode.TRUNCATED
            )
        _check_values(file.read(entries), f"{order}HH{link}{link}", size, path, len(seen) - 1)
        (offset,) = struct.unpack(f"{order}{link}", file.read(struct.calcsize(link)))
    if not seen:
        raise InputError(path, "not complete: its header names no page yet", _AGAIN, ErrorCode.INCOMPLETE)
    return len(seen)


def _check_values(directory: bytes, entry: str, size: int, path: Path, page: int) -> None:
    """Tags too long for their directory (descriptions, offsets of strips) lie elsewhere in the file: inside it."""
    inline = struct.calcsize(entry[0] + entry[-1])
    for code, kind, count, offset in struct.iter_unpack(entry, directory):
        length = count * _TYPE_SIZES.get(kind, 1)
        if length > inline and offset + length > size:
            raise InputError(
                path,
                f"truncated: tag {code} of page {page} lies beyond the end of the file",
                _AGAIN,
                ErrorCode.TRUNCATED,
            )


def ends_in_zeros(path: str | os.PathLike[str]) -> bool:
    """Whether the last strip or tile of a whole, uncompressed TIFF holds nothing but zeros.

    So does a file that was given its final size before its pixels came. Raises InputError.
    """
    path = Path(path)
    with errors_as_input_error(path), quiet_tifffile(), open_tiff(path) as tif:
        page = tif.pages[-1]
        if page.compression != 1 or not page.dataoffsets:
            return False
        offset, count = page.dataoffsets[-1], page.databytecounts[-1]
        tif.filehandle.seek(offset + max(0, count - _TAIL))
        return not any(tif.filehandle.read(min(count, _TAIL)))
