"""Convolutions over concatenations become two: the same numbers, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from defocus.engine.model.card import model_path
from defocus.engine.model.lean_graph import split_concatenations


def run(model: bytes, image: np.ndarray) -> np.ndarray:
    return np.asarray(onnxruntime.InferenceSession(model).run(None, {"image": image})[0])


def joined(used_twice: bool = False, axis: int = 1, dtype: type = np.float32) -> bytes:
    """image -> pooled -> up (3 channels), joined with the image (2 channels), through a convolution."""
    rng = np.random.default_rng(0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = {"up weight": (2, 3, 2, 2), "weight": (4, 5, 3, 3), "bias": (4,)}
    if axis != 1:
        weights |= {"up weight": (2, 2, 2, 2), "weight": (4, 2, 3, 3)}
    nodes = [
        helper.make_node("MaxPool", ["image"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("ConvTranspose", ["pooled", "up weight"], ["up"], strides=[2, 2], kernel_shape=[2, 2]),
        helper.make_node("Concat", ["up", "image"], ["joined"], axis=axis),
        helper.make_node("Conv", ["joined", "weight", "bias"], ["out"], pads=[1, 1, 1, 1]),
    ]
    ends = [helper.make_tensor_value_info("out", kind, ["n", 4, "h", "w"])]
    if used_twice:
        ends.append(helper.make_tensor_value_info("joined", kind, ["n", 5, "h", "w"]))
    graph = helper.make_graph(
        nodes,
        "joined",
        [helper.make_tensor_value_info("image", kind, ["n", 2, "h", "w"])],
        ends,
        [numpy_helper.from_array(rng.normal(size=shape).astype(dtype), name) for name, shape in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def operators(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_convolution_over_a_concatenation_becomes_two(dtype):
    model = joined(dtype=dtype)
    lean = split_concatenations(model)
    onnx.checker.check_model(onnx.load_from_string(lean))
    assert operators(lean) == ["MaxPool", "ConvTranspose", "Conv", "Conv", "Add"]
    image = np.random.default_rng(1).random((2, 2, 16, 24)).astype(dtype)
    expected = run(model, image)
    assert np.allclose(run(lean, image), expected, rtol=0, atol=np.finfo(dtype).eps * 8 * np.abs(expected).max())
    names = {tensor.name for tensor in onnx.load_from_string(lean).graph.initializer}
    assert "weight" not in names
    assert {"out/first weight", "out/second weight", "up weight", "bias"} <= names


@pytest.mark.parametrize(
    "model",
    [
        joined(used_twice=True),
        joined(axis=0),
        b"",
        b"not a model",
        joined()[:-20],
        helper.make_model(
            helper.make_graph([], "empty", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)])
        ).SerializeToString(),
    ],
    ids=["used twice", "other axis", "empty file", "text", "cut", "no nodes"],
)
def test_what_is_unusual_stays_as_it_is(model):
    assert split_concatenations(model) is model


def test_the_default_model_is_the_same_up_to_rounding():
    model = model_path().read_bytes()
    lean = split_concatenations(model)
    before, after = (onnx.load_from_string(one) for one in (model, lean))
    assert before.metadata_props == after.metadata_props
    assert operators(model).count("Concat") - operators(lean).count("Concat") == 10  # 4 + 3 + 2 + 1 decoder stages
    image = np.random.default_rng(2).random((1, 1, 64, 96), dtype=np.float32)
    assert np.abs(run(lean, image) - run(model, image)).max() < 1 / 65535
