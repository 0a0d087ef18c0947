"""Fitting with Lightning: the module, the held-out planes it is judged on, and `fit`, which ties them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..engine.errors import InputError, ModelError
from .data import DefocusedCrops, EpochSampler, Pool, drawn_pool, make_pool
from .fields import Field, Source, list_images, load_field, split
from .heldout import DISTANCES_UM, unit_pair
from .loss import balance_weights, content_loss
from .networks.coarse_to_fine import MULTIPLE, CoarseToFine, start_near_identity
from .recipe import Recipe

CHECKPOINT = "last.ckpt"


class Restoration(pl.LightningModule):
    """The network, eq. (5) and Adam, as a recipe asks for them."""

    def __init__(self, **recipe: Any) -> None:
        super().__init__()
        self.save_hyperparameters(recipe)
        self.recipe = Recipe(**recipe)
        self.network = start_near_identity(CoarseToFine.of(self.recipe))

    def on_train_epoch_start(self) -> None:
        if self.current_epoch >= round(self.recipe.epochs * (1 - self.recipe.frozen_norm_share)):
            # The last steps see the running statistics, as inference does.
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        blurred, sharp = batch
        outputs = self.network(blurred.contiguous(memory_format=torch.channels_last))
        weights = balance_weights(blurred, sharp, self.recipe.balance)
        loss = content_loss(outputs, sharp, weights)
        if not torch.isfinite(loss):
            raise ModelError(
                "training",
                f"the loss became {float(loss)} at step {self.global_step}",
                f"lower the learning rate (it is {self.recipe.learning_rate}); {CHECKPOINT} holds the last good state",
            )
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> None:
        blurred, sharp, distance = batch
        with torch.autocast(blurred.device.type, enabled=False):  # as the engine runs it; bf16 would cap the PSNR
            output = self.network(blurred)[0]
        for before, after, truth, z in zip(blurred, output.float(), sharp, distance, strict=True):
            gain = 10 * torch.log10((before - truth).square().mean() / (after - truth).square().mean())
            self.log(f"gain_{int(z):02d}um", gain, on_epoch=True, batch_size=1)
            self.log("gain", gain, prog_bar=True, on_epoch=True, batch_size=1)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.recipe.learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, self.recipe))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate_factor(step: int, recipe: Recipe) -> float:
    """Learning rate relative to the recipe's: linear warm-up, constant, then half a cosine down to 1/100.

    The constant part lets a run that is resumed with another number of steps go on where it was.
    """
    start = recipe.steps * (1 - recipe.decay_share)
    along = min(max((step - start) / max(recipe.steps - start, 1), 0.0), 1.0)
    return min(1.0, (step + 1) / max(recipe.warmup_steps, 1)) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * along)))


class HeldOutPlanes(Dataset):
    """Each held-out field at each distance of the table: (defocused, sharp, distance in um), cut to multiples of 16."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.cases = [(field, z) for field in fields for z in DISTANCES_UM]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        field, z = self.cases[index]
        pair = unit_pair(field, z)
        cut = tuple(slice(0, side // MULTIPLE * MULTIPLE) for side in field.data.shape)
        blurred, sharp = (torch.from_numpy(np.ascontiguousarray(image[cut]))[None] for image in pair)
        return blurred, sharp, torch.tensor(z)


class Progress(Callback):
    """One line an epoch where there is no terminal for a progress bar."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        text = "  ".join(f"{name} {value:.3f}" for name, value in sorted(figures.items()))
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {text}", flush=True)


def fit(
    sources: Sequence[Source],
    out: Path,
    recipe: Recipe,
    held_out: Sequence[str] = (),
    resume: bool = False,
    workers: int = 1,
    progress_bar: bool = True,
    precision: str | None = None,
) -> Path:
    """Train a network on the sharp images of `sources`, defocused on the fly, and return its checkpoint.

    Writes into `out`: recipe.toml, split.json (which file was trained on, which held out), log/version_*/metrics.csv
    (one for each resume) and last.ckpt after every epoch; its weights are the exponential moving average. The same
    seed gives the same crops in the same order. `resume` goes on from last.ckpt.

    Raises
    ------
    InputError
        A folder or image that cannot be used, nothing left to train on, or nothing to resume.
    ModelError
        The loss diverged.
    """
    out = Path(out)
    checkpoint = out / CHECKPOINT
    if resume and not checkpoint.is_file():
        raise InputError(checkpoint, "there is nothing to resume from", "start without --resume")
    if checkpoint.exists() and not resume:
        raise InputError(out, "already holds a training run", "go on with --resume or choose another folder with -o")
    splits = split_sources(sources, held_out)
    pools = load_pools(splits, recipe)
    held = [load_field(path) for one in splits for path in one.held_out]
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    (out / "split.json").write_text(json.dumps([one.record() for one in splits], indent=1), encoding="utf-8")
    pl.seed_everything(recipe.seed, workers=True, verbose=False)
    trainer = pl.Trainer(
        default_root_dir=out,
        max_epochs=recipe.epochs,
        precision=precision or default_precision(),  # type: ignore[arg-type]
        gradient_clip_val=1.0,
        logger=CSVLogger(out, name="log"),  # a folder for each part of a run: a resume keeps the old one
        callbacks=[
            EMAWeightAveraging(decay=recipe.ema_decay, update_starting_at_step=recipe.ema_from_step),
            ModelCheckpoint(out, filename="last", enable_version_counter=False, save_on_train_epoch_end=True),
            *([] if progress_bar else [Progress()]),
        ],
        enable_progress_bar=progress_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=recipe.validate_every,
        log_every_n_steps=50,
    )
    module = Restoration(**dataclasses.asdict(recipe)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    crops = DataLoader(
        DefocusedCrops(pools, recipe),
        batch_size=recipe.batch,
        sampler=EpochSampler(recipe.steps_per_epoch * recipe.batch),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    planes = DataLoader(HeldOutPlanes(held), batch_size=1) if held else None
    trainer.fit(module, crops, planes, ckpt_path=checkpoint if resume else None, weights_only=True)
    return checkpoint


@dataclasses.dataclass(frozen=True)
class SourceSplit:
    """The files of one source: those to train on and those held out."""

    source: Source
    train: list[Path]
    held_out: list[Path]

    def record(self) -> dict[str, Any]:
        """For split.json: paths below the source's folder."""
        folder = self.source.folder
        train, held_out = (
            [path.relative_to(folder).as_posix() for path in paths] for paths in (self.train, self.held_out)
        )
        return {"folder": folder.name, "weight": self.source.weight, "train": train, "held_out": held_out}


def split_sources(sources: Sequence[Source], held_out: Sequence[str]) -> list[SourceSplit]:
    """List the files of each source and split them. Raises InputError if nothing is left to train on."""
    splits = [SourceSplit(source, *split(list_images(source.folder), held_out)) for source in sources]
    if splits and not any(one.train for one in splits):
        raise InputError(sources[0].folder, "every image is held out", "hold out fewer files")
    return splits


def load_pools(splits: Sequence[SourceSplit], recipe: Recipe) -> list[Pool]:
    """Read what is trained on, each source with its share, and draw the specimens that have theirs."""
    total = sum(one.source.weight for one in splits)
    pools = [
        make_pool([load_field(path) for path in one.train], one.source.weight / total * (1 - recipe.drawn_share))
        for one in splits
        if one.train
    ]
    if recipe.drawn_share > 0 or not pools:
        pools.append(drawn_pool(recipe.seed, recipe.drawn_share or 1.0))
    return pools


def default_precision() -> str:
    """bf16 mixed precision where the hardware computes in it, else FP32."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported() else "32-true"
