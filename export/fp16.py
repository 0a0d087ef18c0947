"""From an FP32 ONNX file to the same network in half precision (FP16).

TensorRT 11 and TensorRT for RTX know no FP16 flag: they run each layer in the type that the graph states. So the graph
itself is converted, by the converter of ONNX Runtime; which layers stay in FP32 is decided here. Normalisation needs no
care: the exporter folds BatchNorm into the convolutions before it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.errors import InputError, MissingExtraError
from ..engine.files.atomic import commit
from ..engine.model.card import KEY, Card

OPSET = 21  # ONNX Runtime has known it since 1.20, TensorRT since 10.8
_WEIGHTED = ("Conv", "ConvTranspose")


def layers(model: Any) -> dict[str, str]:
    """The convolutions of a graph (onnx.ModelProto) in its order: the name for people, and the node's name.

    The name is that of the network's module ("levels.3.decoder.0.0"), taken from the weights' name; where they have
    none, that of the node.
    """
    found: dict[str, str] = {}
    for node in _named(model).graph.node:
        if node.op_type in _WEIGHTED:
            module = re.fullmatch(r"(?:network\.)?(\w+(?:\.\w+)+)\.weight", node.input[1])
            name = module[1] if module else node.name
            found[name if name not in found else node.name] = node.name
    return found


def chosen(names: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """The layers that `names` mean: a layer's own name, or the start of several ("levels.3").

    Raises
    ------
    InputError
        One of them is the start of no layer; a few that there are come with it.
    """
    found: list[str] = []
    for name in names:
        meant = [layer for layer in known if layer == name or layer.startswith(f"{name}.")]
        if not meant:
            some = ", ".join([*known][:3])
            raise InputError(f"--keep-fp32 {name}", "no layer has that name", f"the model has {some}, ...")
        found += [layer for layer in meant if layer not in found]
    return tuple(found)


def to_half(model: Any, keep: Collection[str] = (), half_ends: bool = False) -> Any:
    """A copy of an FP32 graph (onnx.ModelProto) in half precision.

    Parameters
    ----------
    keep : collection of str
        Layers (see `layers`) that stay in FP32, with the weightless operations behind them up to the next layer.
    half_ends : bool
        Make input and output float16 too; else they stay float32 and a Cast follows and precedes them.

    Raises
    ------
    MissingExtraError
        ONNX Runtime, whose converter this is, is not installed.
    """
    import onnx
    from onnx import version_converter

    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel
    except ImportError as error:
        raise MissingExtraError(error.name or "onnxruntime", "cpu", "export in half precision") from error

    copy = onnx.ModelProto()
    copy.CopyFrom(_named(model))
    if copy.opset_import[0].version < OPSET:
        copy = _named(version_converter.convert_version(copy, OPSET))
    own = layers(copy)
    copy = convert_float_to_float16(
        copy,
        keep_io_types=not half_ends,
        op_block_list=[],  # all that these networks use runs in half
        node_block_list=_whole(copy.graph, {own[name] for name in keep}),
    )
    _without_detours(copy.graph)
    OnnxModel(copy).topological_sort()  # the converter appends its casts behind the nodes that need them
    del copy.graph.value_info[:]
    onnx.checker.check_model(copy)
    return copy


def half_share(model: Any) -> tuple[int, int]:
    """How many of a graph's convolutions are in half precision, and how many there are."""
    from onnx import TensorProto

    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kinds = [types.get(node.input[1]) for node in model.graph.node if node.op_type in _WEIGHTED]
    return sum(kind == TensorProto.FLOAT16 for kind in kinds), len(kinds)


def rounded_like_half(model: Any) -> Any:
    """An FP32 graph that rounds as the half graph `model` does: to FP16 after every operation, and all weights.

    It runs where no hardware for half precision is (ONNX Runtime on a CPU would leave rounding out between its
    operations). Sums inside one operation stay in FP32, as tensor cores do them.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    half = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    for tensor in graph.initializer:
        if tensor.name in half:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for end in (*graph.input, *graph.output):
        end.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes = []
    for node in graph.node:
        to = next((a.i for a in node.attribute if a.name == "to"), None) if node.op_type == "Cast" else None
        is_half = to == TensorProto.FLOAT16 or (to is None and any(name in half for name in node.input))
        if to is not None:  # a Cast in FP32 changes nothing; one to half rounds
            node.op_type = "Identity"
            del node.attribute[:]
        nodes.append(node)
        if is_half:
            out = node.output[0]
            half.add(out)
            exact, rounded = f"{out}/exact", f"{out}/half"
            node.output[0] = exact
            nodes.append(helper.make_node("Cast", [exact], [rounded], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", [rounded], [out], to=TensorProto.FLOAT))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    onnx.checker.check_model(copy)
    return copy


def save_half(model: Any, card: Card, path: Path) -> None:
    """Write a half graph, whole or not at all; `card` is that of the FP32 file. Raises OutputError."""
    import onnx

    onnx.helper.set_model_props(model, {KEY: replace(card, precision="fp16", fp32_sha256=card.sha256).to_json()})
    model.producer_name = "defocus"
    with commit(Path(path)) as temporary:
        onnx.save(model, str(temporary))


def _named(model: Any) -> Any:
    """The model itself, each of its nodes with a name."""
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model


def _whole(graph: Any, kept: set[str]) -> list[str]:
    """The nodes kept in FP32: the layers `kept`, and the weightless operations that one of them feeds."""
    nodes, tensors = [], set()
    for node in graph.node:
        if node.name in kept or (node.op_type not in _WEIGHTED and tensors.intersection(node.input)):
            nodes.append(node.name)
            tensors.update(node.output)
    return nodes


def _without_detours(graph: Any) -> None:
    """Take out FP32 to FP16 to FP32: the converter leaves such casts between two operations that both stay in FP32."""
    from onnx import TensorProto

    makers = {name: node for node in graph.node for name in node.output}
    ends = {end.name for end in graph.output}

    def type_of(node: Any) -> int:
        return next((a.i for a in node.attribute if a.name == "to"), 0) if node is not None else 0

    instead: dict[str, str] = {}  # a tensor and the one that it is a rounded copy of
    for node in graph.node:
        before = makers.get(node.input[0]) if node.op_type == "Cast" else None
        if type_of(node) == TensorProto.FLOAT and before is not None and before.op_type == "Cast":
            instead[node.output[0]] = before.input[0]
    for end in ends & instead.keys():  # the graph's output keeps its name: what it is a copy of takes it
        source = instead.pop(end)
        makers[end].output[0] = f"{end}/rounded"
        makers[source].output[0] = end
        instead[source] = end
    for node in graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]
    while unused := [
        node
        for node in graph.node
        if node.op_type == "Cast" and not ends.union(*(other.input for other in graph.node)) & set(node.output)
    ]:
        for node in unused:
            graph.node.remove(node)
