"""What is read from the wire format of a model, byte by byte, and what is refused as no model."""

from __future__ import annotations

from pathlib import Path

import pytest

from defocus.engine.model.onnx_metadata import fields, has_external_data, metadata


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def entry(key: str, value: str) -> bytes:
    return message(14, message(1, key.encode()) + message(2, value.encode()))


@pytest.fixture
def file(tmp_path):
    """Make an open file of some bytes."""
    opened = []

    def write(content: bytes):
        path = Path(tmp_path / f"{len(opened)}.onnx")
        path.write_bytes(content)
        opened.append(path.open("rb"))
        return opened[-1]

    yield write
    for one in opened:
        one.close()


def test_the_entry_of_a_key_and_whether_there_is_a_graph(file):
    model = varint(1 << 3) + varint(300) + entry("other", "no") + entry("defocus", "card") + message(7, b"")
    assert metadata(file(model), "defocus") == (b"card", True)
    assert metadata(file(model), "none") == (None, True)
    assert metadata(file(entry("defocus", "")), "defocus") == (b"", False)
    assert metadata(file(message(14, message(1, b"defocus"))), "defocus") == (b"", False)  # an entry without a value
    assert metadata(file(message(14, message(2, b"defocus"))), "defocus") == (None, False)  # and one without a key
    assert metadata(file(b""), "defocus") == (None, False)


def test_numbers_of_every_width_are_passed_over(file):
    fixed = varint(3 << 3 | 1) + bytes(8) + varint(4 << 3 | 5) + bytes(4)
    content = fixed + varint(5 << 3) + varint(1 << 40) + message(6, b"abc")
    assert [(number, wire, length) for number, wire, _, length in fields(file(content), 0, len(content))] == [
        (3, 1, 8),
        (4, 5, 4),
        (5, 0, 6),
        (6, 2, 3),
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\x80", "ends inside a number"),
        (b"\x80" * 9 + b"\xff" * 9, "more than 64 bits"),
        (varint(1 << 3 | 3), "no such wire type"),
        (varint(0 << 3 | 2) + b"\0", "no such wire type"),
        (varint(7 << 3 | 2) + varint(5) + b"abc", "over the end"),
        (varint(7 << 3 | 1) + bytes(7), "over the end"),
        (message(14, message(1, b"defocus") + message(2, bytes((1 << 20) + 1))), "more than a megabyte"),
    ],
)
def test_what_is_no_model_is_refused(file, content, complaint):
    with pytest.raises(ValueError, match=complaint):
        metadata(file(content), "defocus")


def external(*path: int) -> bytes:
    """A model in which a tensor with its numbers elsewhere lies below messages of these field numbers."""
    content = message(13, b"")
    for number in reversed(path):
        content = message(number, content)
    return content


@pytest.mark.parametrize(
    "path",
    [
        (7, 5),  # an initializer
        (7, 15, 1),  # a sparse one: its values
        (7, 15, 2),  # and its indices
        (7, 1, 5, 5),  # an attribute of a node
        (7, 1, 5, 10),
        (7, 1, 5, 22, 1),
        (7, 1, 5, 6, 5),  # within the branch of an If
        (7, 1, 5, 11, 15, 2),
        (25, 7, 5, 5),  # within a function
    ],
)
def test_numbers_in_another_file_are_found_wherever_a_tensor_may_lie(file, path):
    assert has_external_data(file(external(*path)))


def test_the_same_field_number_elsewhere_is_something_else(file):
    assert not has_external_data(file(message(13, b"")))
    assert not has_external_data(file(external(7)))
    assert not has_external_data(file(external(7, 1)))


def test_messages_are_not_followed_without_end(file):
    deep = external(7, *(1, 5, 6) * 20, 5)
    with pytest.raises(ValueError, match="nested too deeply"):
        has_external_data(file(deep))
    assert has_external_data(file(external(7, *(1, 5, 6) * 15, 5)))
