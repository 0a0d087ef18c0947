"""A model's graph with less to keep in memory: a convolution over two concatenated tensors becomes one over each.

Where a U-Net joins its decoder to its encoder, runtimes hold both tensors and their copy in one, the most they ever
hold. By sum of two convolutions it is a third less (docs/explanation/tiles.md), the same up to float32 rounding, and
no slower. Only that pattern is touched, and a graph in which anything is unusual stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

import numpy as np

from .onnx_metadata import BYTES, GRAPH, VARINT, fields

# Field numbers of onnx.GraphProto, NodeProto, AttributeProto, TensorProto and ValueInfoProto.
_NODE, _TENSOR, _GRAPH_OUTPUT = 1, 5, 12
_INPUT, _OUTPUT, _NAME, _OPERATOR, _ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _VALUE_NAME = 1, 3, 1
_DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW_DATA = 1, 2, 8, 9
_DTYPES = {1: np.dtype("<f4"), 10: np.dtype("<f2")}  # TensorProto.DataType


class _Node(NamedTuple):
    inputs: list[str]
    outputs: list[str]
    operator: str
    integers: dict[str, int]  # attributes of one number
    attributes: list[bytes]  # all, as they are


def split_concatenations(model: bytes) -> bytes:
    """The same serialized ModelProto without concatenations before convolutions; itself where there are none.

    What is split is Conv(Concat(ConvTranspose(x), y)), along the channels, if nothing else uses the concatenation.
    """
    try:
        return _split(model)
    except (ValueError, KeyError, IndexError):  # the runtime will say what is wrong with it
        return model


def _split(model: bytes) -> bytes:
    top = list(_contents(model))
    (graph,) = (content for number, _, content in top if number == GRAPH)
    parts = list(_contents(graph))
    nodes = [_node(content) for number, _, content in parts if number == _NODE]
    weights = dict(_weight(content) for number, _, content in parts if number == _TENSOR)
    made_by = {name: node for node in nodes for name in node.outputs}
    ends = [
        name.decode()
        for number, _, content in parts
        if number == _GRAPH_OUTPUT
        for key, _, name in _contents(content)
        if key == _VALUE_NAME
    ]
    uses = Counter([*ends, *(name for node in nodes for name in node.inputs)])
    dropped: set[str] = set()  # concatenations and weights
    replacements: dict[int, list[bytes]] = {}
    tensors: list[bytes] = []
    for index, node in enumerate(nodes):
        joined = made_by.get(node.inputs[0]) if node.operator == "Conv" else None
        if joined is None or uses[node.inputs[0]] != 1 or (channels := _first_channels(joined, made_by, weights)) == 0:
            continue
        weight, out = weights.get(node.inputs[1]), node.outputs[0]
        names = [f"{out}/{part}" for part in ("first", "second", "first weight", "second weight")]
        if weight is None or node.integers.get("group", 1) != 1 or any(name in made_by for name in names):
            continue
        dropped.add(node.inputs[0])
        if uses[node.inputs[1]] == 1:
            dropped.add(node.inputs[1])
        for name, part in zip(names[2:], (weight[:, :channels], weight[:, channels:]), strict=True):
            tensors.append(_tensor(name, part))
        first, second, first_weight, second_weight = names
        (x, y), bias = joined.inputs, node.inputs[2:]
        replacements[index] = [
            _serialized(_Node([x, first_weight], [first], "Conv", {}, node.attributes)),
            _serialized(_Node([y, second_weight, *bias], [second], "Conv", {}, node.attributes)),
            _serialized(_Node([first, second], [out], "Add", {}, [])),
        ]
    if not replacements:
        return model
    kept_fields, index = [], iter(range(len(nodes)))
    for number, wire, content in parts:
        if number != _NODE:
            if number != _TENSOR or _name(content) not in dropped:
                kept_fields.append(_field(number, wire, content))
        elif dropped.isdisjoint(nodes[at := next(index)].outputs):
            kept_fields.extend(_field(_NODE, BYTES, node) for node in replacements.get(at, [content]))
    kept_fields.extend(_field(_TENSOR, BYTES, tensor) for tensor in tensors)
    graph = b"".join(kept_fields)
    return b"".join(_field(number, wire, graph if number == GRAPH else content) for number, wire, content in top)


def _first_channels(joined: _Node, made_by: dict[str, _Node], weights: dict[str, np.ndarray | None]) -> int:
    """How many channels the first of two concatenated tensors has, if that is known; else 0."""
    if joined.operator != "Concat" or len(joined.inputs) != 2 or joined.integers.get("axis") != 1:
        return 0
    first = made_by.get(joined.inputs[0])
    if first is None or first.operator != "ConvTranspose" or first.integers.get("group", 1) != 1:
        return 0
    weight = weights.get(first.inputs[1])
    return 0 if weight is None else weight.shape[1]


def _node(message: bytes) -> _Node:
    node = _Node([], [], "", {}, [])
    for number, _, content in _contents(message):
        if number in (_INPUT, _OUTPUT):
            (node.inputs if number == _INPUT else node.outputs).append(content.decode())
        elif number == _OPERATOR:
            node = node._replace(operator=content.decode())
        elif number == _ATTRIBUTE:
            node.attributes.append(content)
            attribute = {key: value for key, _, value in _contents(content)}
            if _ATTRIBUTE_INT in attribute:
                node.integers[attribute[_ATTRIBUTE_NAME].decode()] = _integer(attribute[_ATTRIBUTE_INT])
    return node


def _weight(message: bytes) -> tuple[str, np.ndarray | None]:
    """A tensor's name, and its numbers if it is weights of a convolution in floats: four axes, two of channels."""
    name, dtype, dims, raw = "", None, [], None
    for number, _, content in _contents(message):
        if number == _TENSOR_NAME:
            name = content.decode()
        elif number == _DATA_TYPE:
            dtype = _DTYPES.get(_integer(content))
        elif number == _DIMS:
            dims.append(_integer(content))
        elif number == _RAW_DATA:
            raw = content
    return name, np.frombuffer(raw, dtype).reshape(dims) if raw and dtype and len(dims) == 4 else None


def _name(tensor: bytes) -> str:
    return next((content.decode() for number, _, content in _contents(tensor) if number == _TENSOR_NAME), "")


def _tensor(name: str, weight: np.ndarray) -> bytes:
    dtype = next(number for number, dtype in _DTYPES.items() if dtype == weight.dtype)
    dims = b"".join(_field(_DIMS, VARINT, _varint(length)) for length in weight.shape)
    return b"".join(
        (
            dims,
            _field(_DATA_TYPE, VARINT, _varint(dtype)),
            _field(_TENSOR_NAME, BYTES, name.encode()),
            _field(_RAW_DATA, BYTES, weight.tobytes()),
        )
    )


def _serialized(node: _Node) -> bytes:
    texts = [*((_INPUT, name) for name in node.inputs), *((_OUTPUT, name) for name in node.outputs)]
    fields = [
        (number, text.encode()) for number, text in (*texts, (_NAME, node.outputs[0]), (_OPERATOR, node.operator))
    ]
    return b"".join(
        _field(number, BYTES, content) for number, content in [*fields, *((_ATTRIBUTE, a) for a in node.attributes)]
    )


def _contents(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Each field of a message: its number, its wire type and its bytes."""
    for number, wire, start, length in fields(BytesIO(message), 0, len(message)):
        yield number, wire, message[start : start + length]


def _field(number: int, wire: int, content: bytes) -> bytes:
    return _varint(8 * number + wire) + (_varint(len(content)) if wire == BYTES else b"") + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _integer(varint: bytes) -> int:
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(varint))
