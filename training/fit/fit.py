"""Fitting with Lightning: the data, the held-out planes a run is judged on, and `fit`, which ties them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ...engine.errors import InputError, ModelError
from ..data.fields import Field, Source, load_field
from ..data.paired import PairedCrops, PairedPlanes, recipe_for, split_pairs
from ..data.simulated import DefocusedCrops
from ..data.sources import load_pools, split_sources
from ..evaluation.heldout import DISTANCES_UM, unit_pair
from .callbacks import HISTORY, Estimate, LossHistory, Progress, WholeCheckpoints
from .checkpoint import build_network, read, start_from
from .preview import Preview
from .recipe import Recipe
from .restoration import CHECKPOINT, LIMITS, RestorationModule, multiple_of

if TYPE_CHECKING:
    from ..data.pairs import Pair


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a run computes on. The recipe's batch is that of all devices together: each takes its share."""

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a run ends with: its checkpoint, and the mean gain in dB on what was held out.

    `gains` has "gain" for all planes and "gain_10um" for those of a distance, if it is known; it is empty where nothing
    was held out, or where a run that was resumed had nothing left to do.
    """

    checkpoint: Path
    gains: dict[str, float] = dataclasses.field(default_factory=dict)


def fit(
    sources: Sequence[Source],
    out: Path,
    recipe: Recipe,
    held_out: Sequence[str] = (),
    resume: bool = False,
    workers: int = 1,
    progress_bar: bool = True,
    precision: str | None = None,
    pairs: Sequence[Pair] = (),
    start: Path | None = None,
    devices: Devices = Devices(),
) -> Fitted:
    """Train a network.

    Trains on the sharp images of `sources`, defocused on the fly, or on measured `pairs`. Writes into `out`:
    recipe.toml, split.json (what was trained on, what held out), metrics.csv (a row an epoch), tensorboard/,
    preview/ (a picture a validation) and last.ckpt after every epoch; its weights are the exponential moving average
    if the recipe keeps one; with patience best.ckpt as well. The same seed gives the same crops in the same order, on
    any number of devices.

    Parameters
    ----------
    held_out : patterns of file names, or of the pairs' names, that are not trained on.
    resume : go on from last.ckpt, up to the recipe's steps.
    start : checkpoint of another run whose weights the network starts with.

    Raises
    ------
    InputError
        A folder, image, pair or recipe that cannot be used, nothing left to train on, nothing to resume, or a run that
        has made more steps than it is to make.
    ModelError
        The loss diverged, or the weights of `start` or of the run to resume do not fit.
    """
    out = Path(out)
    checkpoint = out / CHECKPOINT
    if resume and not checkpoint.is_file():
        raise InputError(checkpoint, "there is nothing to resume from", "start without --resume")
    if resume and start:
        raise InputError(start, "is a second thing to start from", "give --resume or --from, not both")
    if checkpoint.exists() and not resume:
        raise InputError(out, "already holds a training run", "go on with --resume or choose another folder with -o")
    if sources and pairs:
        raise InputError("training data", "is both simulated and measured", "give sources or pairs, not both")
    check(recipe, devices)
    epochs = recipe.epochs
    if resume:
        epochs_done, done = progress(checkpoint)
        if done == recipe.steps:
            return Fitted(checkpoint)
        if done > recipe.steps:
            cause = f"has made {done} steps already, more than the {recipe.steps} asked for"
            raise InputError(out, cause, "ask for more with --steps, or train anew in another folder")
        epochs = epochs_done - (done - recipe.steps) // recipe.steps_per_epoch
    if start:
        read(start)  # an error now, not after the data
    multiple = multiple_of(build_network(recipe))
    if recipe.crop % multiple:
        raise InputError("recipe", f"crop is {recipe.crop}", f"set it to a multiple of {multiple}")
    crops: Dataset
    planes: HeldOutPlanes | PairedPlanes
    if pairs:
        train, held = split_pairs(pairs, held_out)
        recipe = recipe_for(pairs, recipe, multiple)
        crops, planes = PairedCrops(train, recipe), PairedPlanes(held, multiple)
        record = [{"train": [pair.name for pair in train], "held_out": [pair.name for pair in held]}]
    else:
        if recipe.channels != 1:
            raise InputError("recipe", f"has {recipe.channels} channels", "simulated crops have one: set channels = 1")
        recipe = dataclasses.replace(recipe, measured=False)
        splits = split_sources(sources, held_out)
        fields = [load_field(path) for one in splits for path in one.held_out]
        low, high = recipe.defocus_um
        distances = [z for z in DISTANCES_UM if low <= z <= high] or [high]
        crops, planes = DefocusedCrops(load_pools(splits, recipe), recipe), HeldOutPlanes(fields, multiple, distances)
        record = [one.record() for one in splits]
    if recipe.patience and not len(planes):
        raise InputError("recipe", "has patience, but nothing is held out", "hold out files, or set patience = 0")
    pl.seed_everything(recipe.seed, workers=True, verbose=False)
    module = RestorationModule(**dataclasses.asdict(recipe)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if start or resume:  # a resume reads them again, but would not say what does not fit
        start_from(module.network, start or checkpoint)
    trainer = make_trainer(out, recipe, epochs, planes, precision, progress_bar, devices)
    if trainer.is_global_zero:
        out.mkdir(parents=True, exist_ok=True)
        (out / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
        (out / "split.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    share = recipe.batch // trainer.world_size
    loader = DataLoader(
        crops,
        batch_size=share,
        sampler=ShareSampler(recipe, trainer.global_rank * share, share, lambda: trainer.global_step),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    validation = DataLoader(planes, batch_size=1) if len(planes) else None
    try:
        trainer.fit(module, loader, validation, ckpt_path=checkpoint if resume else None, weights_only=True)
    except SystemExit as leaving:
        if leaving.code == 1:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        raise
    gains = trainer.validate(module, validation, verbose=False)[0] if validation else {}
    return Fitted(checkpoint, {name: float(value) for name, value in gains.items()})


def progress(checkpoint: Path) -> tuple[int, int]:
    """How many epochs and steps a checkpoint has made. Raises ModelError if it is none that training can go on from."""
    content = read(checkpoint)
    try:
        return int(content["epoch"]) + 1, int(content["global_step"])  # it is written at the end of its epoch
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(checkpoint, "is no checkpoint to go on from", "give it with --from to a new run") from error


def make_trainer(
    out: Path,
    recipe: Recipe,
    epochs: int,
    planes: HeldOutPlanes | PairedPlanes,
    precision: str | None,
    progress_bar: bool,
    devices: Devices,
) -> pl.Trainer:
    """Lightning's trainer with what a recipe asks for; `epochs` are those of the whole run, before and after a resume.

    Raises InputError for devices that are not there.
    """
    callbacks: list[Callback] = [LossHistory(out / HISTORY), Estimate(recipe.steps)]
    if recipe.ema_decay:
        begin = min(recipe.ema_from_step, recipe.steps // 3)  # a short run would keep the weights that it began with
        callbacks.append(EMAWeightAveraging(decay=recipe.ema_decay, update_starting_at_step=begin))
    callbacks.append(ModelCheckpoint(out, filename="last", enable_version_counter=False, save_on_train_epoch_end=True))
    if len(planes):
        callbacks.append(Preview(out / "preview", planes.distances))
    if recipe.patience:
        callbacks.append(EarlyStopping("gain", patience=recipe.patience, mode="max", check_on_train_epoch_end=False))
        best = ModelCheckpoint(out, filename="best", monitor="gain", mode="max", enable_version_counter=False)
        callbacks.append(best)
    if not progress_bar:
        callbacks.append(Progress())
    several = devices.devices * devices.nodes > 1
    strategy = devices.strategy if devices.strategy != "auto" or not several else "ddp"
    try:
        trainer = pl.Trainer(
            default_root_dir=out,
            accelerator=devices.accelerator,
            devices=devices.devices,
            num_nodes=devices.nodes,
            strategy=strategy,
            use_distributed_sampler=False,  # ShareSampler gives each process its share
            sync_batchnorm=several and torch.cuda.is_available() and devices.accelerator != "cpu",
            max_epochs=epochs,
            reload_dataloaders_every_n_epochs=1,  # the last epoch may be a short one: its length is asked for anew
            precision=precision or default_precision(devices.accelerator),  # type: ignore[arg-type]
            gradient_clip_val=recipe.clip or None,
            logger=TensorBoardLogger(out, "tensorboard", "") if importlib.util.find_spec("tensorboard") else False,
            plugins=[WholeCheckpoints()],
            callbacks=callbacks,
            enable_progress_bar=progress_bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            check_val_every_n_epoch=recipe.validate_every,
            log_every_n_steps=50,
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise InputError("devices", str(error), "see --accelerator, --devices and --nodes") from error
    return trainer


def check(recipe: Recipe, devices: Devices) -> None:
    """Raise InputError for values of a recipe that no run can have."""
    for name in ("batch", "steps", "steps_per_epoch", "validate_every", "crop", "channels"):
        if getattr(recipe, name) < 1:
            raise InputError("recipe", f"{name} is {getattr(recipe, name)}", "set it to 1 or more")
    if recipe.network == "denoiser":
        raise InputError("network denoiser", "takes a noise level, not a defocused image", "choose another one")
    if recipe.distance not in LIMITS:
        known = " or ".join(f'"{name}"' for name in LIMITS)
        raise InputError("recipe", f'distance is "{recipe.distance}"', f"set it to {known}")
    if not 0 <= recipe.ema_decay < 1:
        raise InputError("recipe", f"ema_decay is {recipe.ema_decay}", "set it below 1, for example to 0.999; 0 is off")
    world = devices.devices * devices.nodes
    if recipe.batch % world:
        raise InputError(
            "recipe", f"a batch of {recipe.batch} cannot be shared by {world} devices", f"set batch to {world} times n"
        )


class ShareSampler(Sampler[int]):
    """One process's share of each batch of the epoch that begins: all processes together see what a single one would.

    Step s takes the crops s * batch .. (s + 1) * batch - 1. `done` says how many steps the run has made, also after a
    resume; the last epoch ends with the recipe's steps.
    """

    def __init__(self, recipe: Recipe, start: int, share: int, done: Callable[[], int]) -> None:
        self.recipe, self.start, self.share, self.done = recipe, start, share, done

    def __len__(self) -> int:
        return min(self.recipe.steps_per_epoch, self.recipe.steps - self.done()) * self.share

    def __iter__(self) -> Iterator[int]:
        batch, first = self.recipe.batch, self.done()
        for step in range(first, first + len(self) // self.share):
            yield from range(step * batch + self.start, step * batch + self.start + self.share)


class HeldOutPlanes(Dataset):
    """Each held-out field at each distance: (defocused, sharp, distance in um), cut to whole multiples."""

    def __init__(self, fields: Sequence[Field], multiple: int, distances: Sequence[float]) -> None:
        self.cases = [(field, z) for field in fields for z in distances]
        self.multiple, self.distances = multiple, [z for _, z in self.cases]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        field, z = self.cases[index]
        pair = unit_pair(field, z)
        cut = tuple(slice(0, side // self.multiple * self.multiple) for side in field.data.shape)
        blurred, sharp = (torch.from_numpy(np.ascontiguousarray(image[cut]))[None] for image in pair)
        return blurred, sharp, torch.tensor(float(z))


def default_precision(accelerator: str = "auto") -> str:
    """bf16 mixed precision where the hardware computes in it, else FP32."""
    if torch.cuda.is_available() and accelerator != "cpu":
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported() else "32-true"
