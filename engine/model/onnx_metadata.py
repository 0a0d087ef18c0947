"""What an ONNX file holds, read from the protobuf wire format: a model is judged before, and without, any runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BufferedReader
from typing import BinaryIO

# Field numbers of onnx.ModelProto and StringStringEntryProto (onnx.proto; they never change).
GRAPH, _METADATA_PROPS, _ENTRY_KEY, _ENTRY_VALUE = 7, 14, 1, 2
VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5
# Messages in which a tensor may lie: the number of the field, and what it holds.
_NESTED = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external data"},
}
_DEEPEST = 50  # messages in one another
_LONGEST = 1 << 20  # bytes of a metadata entry


def metadata(file: BufferedReader, wanted: str) -> tuple[bytes | None, bool]:
    """The metadata entry of that key in a serialized ModelProto, None without one, and whether it holds a graph.

    Raises ValueError for what is no ModelProto, and for an entry of more than a megabyte.
    """
    value, has_graph = None, False
    for number, wire, start, length in fields(file, 0, os.fstat(file.fileno()).st_size):
        has_graph |= number == GRAPH and wire == BYTES
        if number == _METADATA_PROPS and wire == BYTES:
            entry = {key: (at, size) for key, kind, at, size in fields(file, start, start + length) if kind == BYTES}
            if _read(file, *entry.get(_ENTRY_KEY, (start, 0))) == wanted.encode():
                value = _read(file, *entry.get(_ENTRY_VALUE, (start, 0)))
    return value, has_graph


def has_external_data(file: BufferedReader) -> bool:
    """Whether a tensor of the model says that its numbers lie in another file. Raises ValueError as `metadata` does."""
    return _external(file, 0, os.fstat(file.fileno()).st_size, "model", 0)


def _external(file: BufferedReader, start: int, end: int, message: str, depth: int) -> bool:
    if depth > _DEEPEST:
        raise ValueError("messages nested too deeply")
    for number, wire, first, length in fields(file, start, end):
        inner = _NESTED[message].get(number) if wire == BYTES else None
        if inner == "external data" or (inner and _external(file, first, first + length, inner, depth + 1)):
            return True
    return False


def fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Each field of a message: its number, its wire type, and where its bytes lie. The file may be moved meanwhile."""
    at = start
    while at < end:
        file.seek(at)
        number, wire = divmod(_varint(file), 8)
        if wire == VARINT:
            first = file.tell()
            _varint(file)
            at = file.tell()
            yield number, wire, first, at - first
            continue
        if wire not in (_FIXED64, BYTES, _FIXED32) or number == 0:
            raise ValueError("no such wire type")
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire) or _varint(file)
        first = file.tell()
        at = first + length
        if at > end:
            raise ValueError("a field runs over the end of its message")
        yield number, wire, first, length


def _read(file: BufferedReader, start: int, length: int) -> bytes:
    if length > _LONGEST:
        raise ValueError("a metadata entry of more than a megabyte")
    file.seek(start)
    return file.read(length)


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("ends inside a number")
        value |= (byte[0] & 0x7F) << shift
        if not byte[0] & 0x80:
            return value
    raise ValueError("a number of more than 64 bits")
