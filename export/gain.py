"""Gain: whether a model brings out-of-focus planes nearer to the truth, before it is handed to people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..engine.errors import ModelError
from ..engine.image.normalization import measure, to_unit
from ..engine.model.card import Card
from ..training.data.fields import list_images, load_field
from ..training.evaluation.heldout import DISTANCES_UM, OPTICS
from ..training.evaluation.metrics import psnr
from ..training.evaluation.suite import drawn_fields, make_cases
from .fp16_check import Run

FIELDS, CROP = 4, (384, 512)  # of a folder of images, and the middle of each that is measured
NOTHING = 0.1  # dB: what a model has to gain, in the mean over the distances, to have learnt anything


@dataclass(frozen=True)
class Gain:
    """Mean PSNR in dB of input and output over some fields at one distance."""

    z_um: float
    before: float
    after: float

    @property
    def decibels(self) -> float:
        """What the model gains; 0 where nothing was left to be gained."""
        return 0.0 if self.after == self.before else self.after - self.before

    def __str__(self) -> str:
        return f"{self.z_um:4g} um  {self.before:6.2f} dB  {self.after:6.2f} dB  {self.decibels:+6.2f} dB"


def measure_gain(run: Run, card: Card, images: Path | None = None) -> Iterator[Gain]:
    """Defocus sharp images of a folder (None: drawn ones) to distances that the model is for, and restore them.

    The optics are BBBC006's (`training.evaluation.heldout`), or where the card has others the middle of its ranges. A
    model of several channels gets the plane in each of them. Nothing is yielded for a model trained on measured planes
    at distances that are not known.

    Raises
    ------
    InputError
        `images` is missing, holds no image, or an image cannot be read as one sharp plane.
    """
    if card.defocus_um_range is None:
        return
    low, high = card.defocus_um_range
    distances = [z for z in DISTANCES_UM if z and low <= z <= high] or [high]
    paths = list_images(images) if images else []
    chosen = [paths[i] for i in sorted({round(i) for i in np.linspace(0, len(paths) - 1, FIELDS)})] if paths else []
    fields = [load_field(path) for path in chosen] or drawn_fields()
    optics = OPTICS
    for name, limits in (
        ("na", card.na_range),
        ("wavelength_um", card.wavelength_um_range),
        ("pixel_um", card.pixel_size_um),
    ):
        if limits and not limits[0] <= getattr(OPTICS, name) <= limits[1]:
            optics = replace(optics, **{name: sum(limits) / 2})
    crop = tuple(
        min(most, *(field.data.shape[axis] for field in fields)) // card.multiple * card.multiple
        for axis, most in enumerate(CROP)
    )
    for z in distances:
        pairs = [_restore(run, card, case) for case in make_cases(fields, [z], crop, optics)]
        yield Gain(z, *(float(np.mean(figures)) for figures in zip(*pairs, strict=True)))


def _restore(run: Run, card: Card, case) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    intensity = measure(case.seen[0], card.intensity)
    seen, sharp = (to_unit(image[0], intensity) for image in (case.seen, case.sharp))
    output = run(np.repeat(seen[None, None], card.channels, axis=1))[0, 0]
    return psnr(sharp, seen), psnr(sharp, output)


def refuse_losses(path: Path, gains: Sequence[Gain]) -> None:
    """Raise ModelError for a model that loses at a distance, or gains next to nothing over all of them (NaN does)."""
    worst = min(gains, key=lambda gain: gain.decibels if gain.decibels == gain.decibels else -np.inf)
    mean = float(np.mean([gain.decibels for gain in gains]))
    if worst.decibels >= 0 and mean >= NOTHING:
        return
    loses = f"loses {-worst.decibels:.2f} dB at {worst.z_um:g} um"
    cause = f"gains {mean:.2f} dB only" if worst.decibels >= 0 else loses
    raise ModelError(path, f"{cause} against its input", "train it for longer, or export it all the same with --force")
