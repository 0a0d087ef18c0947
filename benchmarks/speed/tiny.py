"""A network so small that reading and writing take longer: x plus one 3 x 3 convolution of it.

python -m benchmarks.speed.tiny runs/tiny.onnx
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from defocus.engine.model.card import KEY, model_path, read_card


def write_tiny(path: Path) -> Path:
    """Write it as a model file with the default model's card, but for name, halo and channels."""
    card = replace(read_card(model_path()), name="tiny", halo=16, channels=1)
    shape = ["batch", 1, "height", "width"]
    kernel = np.full((1, 1, 3, 3), -0.01, np.float32)
    kernel[0, 0, 1, 1] = 0.08
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "kernel"], ["detail"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Add", ["image", "detail"], ["restored"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("restored", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {KEY: card.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


if __name__ == "__main__":
    write_tiny(Path(sys.argv[1]))
