"""What a run leaves behind while it goes on: a line an epoch, one loss curve over all resumes, whole checkpoints."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback

from ...engine.errors import one_line
from ...engine.files.atomic import commit

HISTORY = "metrics.csv"


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all: Lightning's own passes through /tmp, a copy where that is elsewhere."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with commit(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


class Progress(Callback):
    """One line an epoch where there is no terminal for a progress bar."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
            text = "  ".join(f"{name} {value:.3f}" for name, value in sorted(figures.items()))
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {text}", flush=True)


class Estimate(Callback):
    """One line after 20 steps: how long the rest will take. The first steps, which are slower, do not count."""

    FIRST, LAST = 3, 20

    def __init__(self, steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.steps, self.clock = steps, clock
        self.done, self.began = 0, 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.done += 1
        if self.done == self.FIRST:
            self.began = self.clock()
        left = self.steps - trainer.global_step
        if self.done == self.LAST and left > 0 and trainer.is_global_zero:
            step = (self.clock() - self.began) / (self.LAST - self.FIRST)
            bar = trainer.progress_bar_callback
            text = f"{step:.2g} s a step: {duration(left * step)} for the {left} steps left, validations apart"
            if bar is None:
                print(one_line(text), flush=True)
            else:
                bar.print(text)


def duration(seconds: float) -> str:
    """A time as people say it: "about 2 h 5 min", "about 12 min", "less than a minute"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"about {minutes} min"


class LossHistory(Callback):
    """metrics.csv: a row for each epoch, written before its checkpoint.

    A resume drops the rows of epochs that no checkpoint has and writes them again: whatever stopped a run, the file is
    the curve of one unbroken run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.gains: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch and self.path.is_file():
            with open(self.path, newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= trainer.current_epoch]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.gains = {name: float(value) for name, value in trainer.callback_metrics.items() if "gain" in name}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics["loss"])  # on every process: the mean over all is taken here
        if not trainer.is_global_zero:
            return
        place = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows.append({**place, "learning_rate": rate, "loss": loss, **self.gains})
        self.gains = {}
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with commit(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)
