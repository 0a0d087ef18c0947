"""A picture of each validation: input, output and truth of a few held-out planes, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image, ImageDraw

from ...engine.files.atomic import commit

ROWS, SIDE, GAP = 4, 256, 4


class Preview(Callback):
    """Writes `epoch_0004.png` after the validation of epoch 4, a row for each of a few distances.

    Parameters
    ----------
    folder : Path
    distances : sequence of float
        Distance of each validation plane in um, NaN where it is not known.
    """

    def __init__(self, folder: Path, distances: Sequence[float]) -> None:
        self.folder, self.distances = folder, list(distances)
        self.chosen = choose(self.distances)
        self.rows: list[tuple[str, list[np.ndarray]]] = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING and batch_idx in self.chosen:
            blurred, sharp, distance = batch
            images = [image[0, 0].float().cpu().numpy() for image in (blurred, outputs, sharp)]
            z = float(distance[0])
            self.rows.append(("" if math.isnan(z) else f"{z:g} um", images))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.rows:
            picture = draw(self.rows)
            self.rows = []
            with commit(self.folder / f"epoch_{trainer.current_epoch + 1:04d}.png") as path:
                picture.save(path, "PNG")


def choose(distances: Sequence[float], count: int = ROWS) -> list[int]:
    """Indices of up to `count` planes: the first of each distance, spread evenly over the distances."""
    first: dict[float, int] = {}
    for index, z in enumerate(distances):
        first.setdefault(-1.0 - index if math.isnan(z) else abs(z), index)
    ordered = [first[z] for z in sorted(first)]
    step = max(1.0, (len(ordered) - 1) / max(count - 1, 1))
    return sorted({ordered[round(i * step)] for i in range(min(count, len(ordered)))})


def draw(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> Image.Image:
    """Rows of (label, [input, output, truth]), each image (Y, X): their middle, in the grey range of the truth."""
    panels = [(label, [_middle(image) for image in images]) for label, images in rows]
    heights = [images[0].shape[0] for _, images in panels]
    width = max(sum(image.shape[1] + GAP for image in images) for _, images in panels)
    picture = Image.new("L", (width, sum(heights) + GAP * len(heights)), 255)
    pen = ImageDraw.Draw(picture)
    y = 0
    for (label, images), height in zip(panels, heights, strict=True):
        low, high = np.percentile(images[-1], (0.5, 99.8))
        x = 0
        for image in images:
            grey = np.nan_to_num((image - low) / max(float(high - low), 1e-6))
            picture.paste(Image.fromarray((np.clip(grey, 0, 1) * 255).astype(np.uint8)), (x, y))
            x += image.shape[1] + GAP
        pen.text((5, y + 4), label, fill=255, stroke_width=1, stroke_fill=0)
        y += height + GAP
    return picture


def _middle(image: np.ndarray) -> np.ndarray:
    starts = [max(0, (length - SIDE) // 2) for length in image.shape]
    return image[starts[0] : starts[0] + SIDE, starts[1] : starts[1] + SIDE]
