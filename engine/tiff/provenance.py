"""What we write into a file beside pixels: how it was made, as JSON, in one private tag of its first directory.

Where the directory cannot be copied (a classic TIFF beyond 4 GB, somebody else's tag of this code) it stands behind
everything else, where no reader looks.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..files.version import open_regular
from .directories import DamagedError, Directory, content, read_directory, read_header
from .integrity import errors_as_input_error

# In the range 65000..65535 that TIFF 6.0 leaves to organisations. Not to be taken: 65330 to 65335 (Nikon, Leica),
# 65420 to 65459 (Hamamatsu NDPI), 65000, 65100, 65200, 65500.
PROVENANCE_TAG = 65270
_BEFORE = 65333  # what version 0.1.0 took
PROCESSING_SOFTWARE = 11  # Exif: "name and version of the software used to post-process the picture"
_END = struct.Struct("<Q8s")
_MARK = b"DEFOCUS1"
_MOST = 1 << 26  # bytes


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What defocus recorded in an output: model, settings, source, reports of its planes. None if it did not write it.

    Raises
    ------
    InputError
        The file cannot be read, or is no TIFF.
    """
    path = Path(path)
    with errors_as_input_error(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            form, pointer = read_header(file)
            first = read_directory(file, form, size, pointer, "page 0")
        except (DamagedError, struct.error) as error:
            raise DamagedError(str(error) or "truncated") from error
        return recorded(file, size, first)


def recorded(file: BinaryIO, size: int, first: Directory | None) -> dict[str, Any] | None:
    """The same of an open file of so many bytes and its first directory. Raises OSError."""
    for code in (PROVENANCE_TAG, _BEFORE):
        tag = first.tags.get(code) if first is not None else None
        if tag is not None and tag.nbytes <= _MOST and (record := _record(content(file, tag))) is not None:
            return record
    return _trailing(file, size)


def cut_short(path: str | os.PathLike[str]) -> bool:
    """Whether a file that is no whole TIFF was once written by us: a record stands at its end. Raises InputError."""
    path = Path(path)
    with errors_as_input_error(path), open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 20)))
        end = file.read()
        return b'"software": "defocus ' in end and b'"model_sha256": "' in end


def lines(provenance: Mapping[str, object]) -> tuple[bytes, bytes]:
    """A line for people and all of it as JSON; both end with a zero byte, as text in a TIFF does."""
    software, model = str(provenance.get("software", "defocus")), provenance.get("model")
    line = f"{software} (model {model})" if model else software
    record = json.dumps(dict(provenance), ensure_ascii=True)
    return line.encode("ascii", "replace") + b"\0", record.encode() + b"\0"


def trailer(record: bytes) -> bytes:
    """A record to stand at the end of a file."""
    return record + _END.pack(len(record), _MARK)


def _trailing(file: BinaryIO, size: int) -> dict[str, Any] | None:
    if size < _END.size:
        return None
    file.seek(size - _END.size)
    length, mark = _END.unpack(file.read(_END.size))
    if mark != _MARK or length > min(_MOST, size - _END.size):
        return None
    file.seek(size - _END.size - length)
    return _record(file.read(length))


def _record(text: bytes) -> dict[str, Any] | None:
    """Ours, or None: somebody else may use the tag, for JSON as well."""
    try:
        record = json.loads(text.rstrip(b"\0"))
    except (ValueError, RecursionError):
        return None
    ours = isinstance(record, dict) and str(record.get("software", "")).startswith("defocus")
    return record if ours else None
