"""A Micro-Manager "image stack file", written from the published description of the format."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

INDEX_MAP, SUMMARY, DISPLAY, COMMENTS = 54773648, 2355492, 483765892, 99384722


def write_stack(path: Path, planes: np.ndarray, order: Sequence[int] | None = None) -> None:
    """Write uint16 planes (frames, Y, X) as pages in that order, under an index map that lists them in `order`."""
    count, height, width = planes.shape
    summary = {
        "MicroManagerVersion": "2.0.1",
        "Prefix": "exp",
        "Frames": count,
        "Slices": 1,
        "Channels": 1,
        "Positions": 1,
        "PixelType": "GRAY16",
    }
    text = json.dumps(summary | {"Width": width, "Height": height}).encode()
    text += b" " * (len(text) % 2)
    body = bytearray(struct.pack("<2sHI", b"II", 42, 40 + len(text)) + bytes(32) + text)
    struct.pack_into("<II", body, 32, SUMMARY, len(text))
    offsets = []
    for number, plane in enumerate(planes):
        pixels = plane.astype("<u2").tobytes()
        start, size = len(body), 2 + 10 * 12 + 4
        note = b'{"Frame":%d}\0' % number
        note += bytes(len(note) % 2)
        tags = [(256, 4, width), (257, 4, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, start + size)]
        tags += [(277, 3, 1), (278, 4, height), (279, 4, len(pixels))]
        entries = [struct.pack("<HHII", code, kind, 1, value) for code, kind, value in tags]
        entries.append(struct.pack("<HHII", 51123, 2, len(note), start + size + len(pixels)))
        following = start + size + len(pixels) + len(note) if number < count - 1 else 0
        body += struct.pack("<H", 10) + b"".join(entries) + struct.pack("<I", following) + pixels + note
        offsets.append(start)
    index = len(body)
    body += struct.pack("<II", 3453623, count)
    for frame, page in enumerate(order if order is not None else range(count)):
        body += struct.pack("<5I", 0, 0, frame, 0, offsets[page])
    display = len(body)
    body += struct.pack("<II", 347834724, 2) + b"{}"
    comments = len(body)
    body += struct.pack("<II", 84720485, 2) + b"{}"
    struct.pack_into("<6I", body, 8, INDEX_MAP, index, DISPLAY, display, COMMENTS, comments)
    path.write_bytes(body)
