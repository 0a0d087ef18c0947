"""What a run leaves behind while it goes on: a line an epoch, one loss curve over all resumes, whole checkpoints."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback

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


class History(Callback):
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
