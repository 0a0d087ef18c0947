"""From a trained network to one ONNX file that describes itself."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ..engine.files.atomic import commit
from ..engine.model.card import KEY, Card
from ..training.networks.coarse_to_fine import MULTIPLE

INPUT, OUTPUT = "image", "restored"
OPSET = 20


class Finest(nn.Module):
    """What is exported: the image of the finest level; the coarser ones only serve the loss."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)[0]


def export_onnx(network: nn.Module, card: Card, path: Path) -> None:
    """Write `network` as FP32 ONNX with `card` in its metadata, whole or not at all.

    The graph maps float32 "image" (batch, channels, Y, X) to "restored" of the same shape; batch, Y and X are free,
    Y and X in multiples of 16.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    import onnx

    # No side of the example is 1 or equal to another: the exporter would take it for a constant.
    example = torch.zeros(2, card.channels, 4 * MULTIPLE, 5 * MULTIPLE)
    free = {
        0: torch.export.Dim("batch", min=1),
        2: MULTIPLE * torch.export.Dim("height16", min=1),
        3: MULTIPLE * torch.export.Dim("width16", min=1),
    }
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "model.onnx"
        program = torch.onnx.export(
            Finest(network).eval(),
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"image": free},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        assert program is not None
        program.save(str(plain), external_data=False)
        model = onnx.load(str(plain))
    _name_axes(model, card.channels)
    onnx.helper.set_model_props(model, {KEY: card.to_json()})
    model.producer_name = "defocus"
    del model.graph.metadata_props[:]
    for node in model.graph.node:  # the exporter's stack traces: paths of this machine, and half the file's text
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(model)
    with commit(Path(path)) as temporary:
        onnx.save(model, str(temporary))


def _name_axes(model, channels: int) -> None:  # type: ignore[no-untyped-def]
    """Give the free axes the same readable names on the way in and out."""
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].Clear()
            value.type.tensor_type.shape.dim[axis].dim_param = name
        value.type.tensor_type.shape.dim[1].dim_value = channels


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """The exporter tells its progress and its deprecations; our users have no use for them."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
