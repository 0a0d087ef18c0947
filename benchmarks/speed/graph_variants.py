"""The default network's graph in other forms: what benchmarks/speed/graph.py tries.

Each function takes the graph (onnx.ModelProto) and gives another that should compute the same, or nearly so.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from defocus.engine.image.normalization import clip_with_remainder, measure, to_unit
from defocus.training.data.fields import Field
from defocus.training.evaluation.heldout import counts_pair
from defocus.training.physics.specimen import draw_cells, draw_filaments, draw_points

_CROP = 256


@dataclass(frozen=True)
class Quantisation:
    """How a graph becomes INT8.

    Attributes
    ----------
    method : "MinMax", "Percentile" or "Entropy"
        How the range of an activation is found.
    ends : bool
        Whether each level's first and last convolutions are quantised too.
    narrow : bool
        7 bits for weights: without VNNI, 8 x 8 bit products saturate in 16 bits.
    """

    method: str
    ends: bool
    narrow: bool = True


def with_batchnorm(model: onnx.ModelProto) -> onnx.ModelProto:
    """The BatchNorms that the export has folded, back after their convolutions (as identities: the cost is the same).

    The exporter gives folded convolutions a name with a capital C.
    """
    graph = (model := _copy(model)).graph
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "Conv" or not node.name.startswith("node_Conv_"):
            continue
        width = _shape(graph, node.input[1])[0]
        out = node.output[0]
        node.output[0] = f"{out}_raw"
        names = [f"{node.name}_{part}" for part in ("scale", "shift", "mean", "variance")]
        for name, value in zip(names, (1, 0, 0, 1), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.full(width, value, np.float32), name))
        nodes.append(helper.make_node("BatchNormalization", [f"{out}_raw", *names], [out], epsilon=1e-12))
    return _with_nodes(model, nodes)


def without_transposed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Each transposed 2 x 2 convolution as a 1 x 1 convolution to four times the channels, then DepthToSpace."""
    graph = (model := _copy(model)).graph
    nodes = []
    for node in graph.node:
        if node.op_type != "ConvTranspose":
            nodes.append(node)
            continue
        weight = numpy_helper.to_array(_initializer(graph, node.input[1]))  # (in, out, 2, 2)
        bias = numpy_helper.to_array(_initializer(graph, node.input[2]))
        # DepthToSpace in mode CRD reads channel (out, row, column).
        unrolled = weight.transpose(1, 2, 3, 0).reshape(-1, weight.shape[0], 1, 1)
        names = [f"{node.name}_weight", f"{node.name}_bias"]
        for name, value in zip(names, (unrolled, np.repeat(bias, 4)), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        wide = f"{node.output[0]}_wide"
        nodes.append(helper.make_node("Conv", [node.input[0], *names], [wide], f"{node.name}_1x1"))
        nodes.append(helper.make_node("DepthToSpace", [wide], list(node.output), blocksize=2, mode="CRD"))
    return _with_nodes(model, nodes)


def quantised(model: onnx.ModelProto, how: Quantisation, channels: int, rule: Any) -> onnx.ModelProto:
    """INT8 (QDQ, weights per channel), calibrated on drawn planes that the gate does not use."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Planes(CalibrationDataReader):
        def __init__(self) -> None:
            self._planes = calibration(channels, rule)

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            plane = next(self._planes, None)
            return None if plane is None else {model.graph.input[0].name: plane}

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, made = (str(Path(folder) / f"{name}.onnx") for name in ("plain", "ready", "made"))
        onnx.save(model, plain)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        with redirect_stdout(io.StringIO()):  # it tells its progress
            quantize_static(
                ready,
                made,
                Planes(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=how.narrow,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod[how.method],
                nodes_to_exclude=[] if how.ends else _ends(onnx.load(ready)),
            )
        return onnx.load(made)


def calibration(channels: int, rule: Any) -> Iterator[np.ndarray]:
    """Drawn planes in unit range, (1, C, 256, 256), from sharp to far out of focus, bright and dim."""
    for seed, z in enumerate((0, 5, 10, 16, 22, 28, 34, 22)):
        rng = np.random.default_rng(1000 + seed)
        shape = (_CROP, _CROP)
        drawn = draw_cells(shape, rng) + 0.3 * draw_filaments(shape, rng, 12) + 0.2 * draw_points(shape, rng, 40)
        plane = counts_pair(Field(Path(f"calibration_{seed}.tif"), (1000 * drawn).astype(np.float32)), z)[0]
        if seed == 7:
            plane = (plane // 30 + 97).astype(np.uint16)
        unit, _ = clip_with_remainder(to_unit(plane, measure(plane, rule)))
        yield np.repeat(unit[None, None], channels, axis=1).astype(np.float32)


def _ends(model: onnx.ModelProto) -> list[str]:
    """The convolutions that read an image (one or two channels) or write one."""
    names = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            out, into = _shape(model.graph, node.input[1])[:2]
            if into <= 2 or out == 1:
                names.append(node.name)
    return names


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _with_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    del model.graph.node[:]
    del model.graph.value_info[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


def _initializer(graph: onnx.GraphProto, name: str) -> onnx.TensorProto:
    return next(value for value in graph.initializer if value.name == name)


def _shape(graph: onnx.GraphProto, name: str) -> tuple[int, ...]:
    return tuple(_initializer(graph, name).dims)
