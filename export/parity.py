"""Parity: the exported file, run as the engine will run it, against the torch network it came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..engine.errors import ModelError
from ..engine.image.normalization import measure, to_unit
from ..engine.inference.backends import open_session
from ..engine.model.card import read_card
from ..training.data.fields import list_images, load_field
from ..training.networks.coarse_to_fine import MULTIPLE
from ..training.physics.specimen import draw_cells

TOLERANCE = 1e-4  # of the range of torch's output
SIZES = ((64, 64), (192, 320), (528, 704))


@dataclass(frozen=True)
class Comparison:
    """One input through both: `error` is the largest absolute difference over the range of torch's output."""

    name: str
    shape: tuple[int, ...]
    error: float


def compare(network: nn.Module, path: Path, images: Path | None = None) -> Iterator[Comparison]:
    """Run random, drawn and (from the folder `images`) real planes at three sizes through torch and the ONNX file.

    Yields one comparison an input, as it is made. A batch of two is among them.

    Raises
    ------
    InputError
        `images` is missing, holds no image, or an image is smaller than 64 x 64.
    """
    card = read_card(path)
    opened = open_session("cpu", path, card)
    try:
        for name, batch in _inputs(card.channels, images, card):
            with torch.inference_mode():
                expected = network(torch.from_numpy(batch))[0].numpy()
            restored = opened.session.run(batch)
            spread = float(expected.max() - expected.min())
            error = (
                float(np.abs(restored - expected).max()) / max(spread, 1e-12)
                if restored.shape == expected.shape
                else np.inf
            )
            yield Comparison(name, batch.shape, error)
    finally:
        opened.session.close()


def refuse_differences(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Raise ModelError, naming the worst input, unless all lie within the tolerance (NaN does not)."""
    worst = max(comparisons, key=lambda one: one.error if one.error == one.error else np.inf)
    if not worst.error <= TOLERANCE:
        size = " x ".join(map(str, worst.shape))
        raise ModelError(
            path,
            f'differs from torch by {worst.error:.1e} of the range on "{worst.name}" ({size}), more than {TOLERANCE:g}',
            "do not use it; report it with the versions of torch, onnx and onnxruntime",
        )


def _inputs(channels: int, images: Path | None, card) -> Iterator[tuple[str, np.ndarray]]:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    for shape in SIZES:
        yield "random", rng.random((1, channels, *shape), np.float32)
    for shape in SIZES:
        yield "drawn", np.stack([_unit(draw_cells(shape, rng), card) for _ in range(channels)])[None]
    yield "random, batch of two", rng.random((2, channels, *SIZES[0]), np.float32)
    if images is None:
        return
    for path, shape in zip(cycle(list_images(images)), SIZES, strict=False):
        plane = _unit(load_field(path).data, card)
        cut = [min(side // MULTIPLE * MULTIPLE, wanted) for side, wanted in zip(plane.shape, shape, strict=True)]
        plane = np.ascontiguousarray(plane[: cut[0], : cut[1]])
        yield f"real {path.name[:40]}", np.repeat(plane[None, None], channels, axis=1)


def _unit(plane: np.ndarray, card) -> np.ndarray:  # type: ignore[no-untyped-def]
    return to_unit(plane, measure(plane, card.intensity))
