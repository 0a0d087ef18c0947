"""Training on measured pairs: crops of (blurred, sharp) planes of the same place, in the blurred plane's unit range.

Crop `i` of a run is a function of (seed, i) alone, as in `data`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...engine.errors import InputError
from ...engine.image.normalization import measure
from ...engine.model.card import Percentiles
from ..fit.recipe import Recipe
from .fields import name_hash

if TYPE_CHECKING:
    from .pairs import Pair

HELD_OUT_SHARE = 0.1
LARGEST = 512  # sides of the part of a held-out pair that is validated on
CLOSE_UM = 0.5  # distances nearer than this are the same


def split_pairs(pairs: Sequence[Pair], patterns: Sequence[str] = ()) -> tuple[list[Pair], list[Pair]]:
    """Split pairs into (training, held out) by patterns of their names, else a share of them by a hash of the well.

    Raises InputError if nothing is left to train on.
    """
    if patterns:
        out = [any(fnmatch.fnmatch(pair.name, pattern) for pattern in patterns) for pair in pairs]
    else:
        out = [name_hash(pair.well or pair.name) / 2**64 < HELD_OUT_SHARE for pair in pairs]
    train = [pair for pair, held in zip(pairs, out, strict=True) if not held]
    if not train:
        raise InputError("pairs", "every pair is held out" if pairs else "there is none", "give more, hold out fewer")
    return train, [pair for pair, held in zip(pairs, out, strict=True) if held]


def at_distance(pairs: Sequence[Pair], z_um: float) -> list[Pair]:
    """The pairs that are `z_um` out of focus, on either side. Raises InputError if there are none."""
    distances = sorted({abs(pair.z_um) for pair in pairs if pair.z_um is not None})
    chosen = [pair for pair in pairs if pair.z_um is not None and abs(abs(pair.z_um) - abs(z_um)) <= CLOSE_UM]
    if not chosen:
        there = f"there are {', '.join(f'{z:g}' for z in distances)} um" if distances else "the pairs do not say theirs"
        raise InputError("--distance-um", f"no pair is {z_um:g} um out of focus", f"leave it away, or choose: {there}")
    return chosen


def recipe_for(pairs: Sequence[Pair], recipe: Recipe, multiple: int) -> Recipe:
    """The recipe with the channels of the pairs, where it does not ask for others, and with their distances.

    Raises
    ------
    InputError
        Pairs of several channel counts or of another one than the recipe's, or smaller than a crop.
    """
    first = pairs[0]
    channels = len(first.blurred)
    for pair in pairs:
        if len(pair.blurred) != channels or pair.blurred.shape != pair.sharp.shape:
            raise InputError(
                pair.name,
                f"is {_size(pair.blurred)} blurred and {_size(pair.sharp)} sharp, {first.name} has {channels} channels",
                "give pairs of one channel count, blurred and sharp of one size",
            )
        if min(pair.blurred.shape[1:]) < recipe.crop:
            fits = min(pair.blurred.shape[1:]) // multiple * multiple
            raise InputError(
                pair.name, f"is {_size(pair.blurred)}, smaller than a crop", f"set crop = {fits} in the recipe"
            )
    if recipe.channels not in (1, channels):
        raise InputError(
            "recipe", f"has {recipe.channels} channels, the pairs {channels}", f"set channels = {channels} in it"
        )
    known = [abs(pair.z_um) for pair in pairs if pair.z_um is not None]
    distances = (float(min(known)), float(max(known))) if len(known) == len(pairs) else (0.0, 0.0)
    return dataclasses.replace(recipe, channels=channels, measured=True, defocus_um=distances)


class PairedCrops(Dataset):
    """Pairs (blurred, sharp) of float32 tensors (C, crop, crop), turned and mirrored at random."""

    def __init__(self, pairs: Sequence[Pair], recipe: Recipe) -> None:
        self.pairs, self.recipe = list(pairs), recipe
        self.scales = [unit_scale(pair) for pair in self.pairs]

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        side = self.recipe.crop
        rng = np.random.default_rng([self.recipe.seed, 4, index])
        chosen = int(rng.integers(len(self.pairs)))
        pair, (offset, scale) = self.pairs[chosen], self.scales[chosen]
        y, x = (int(rng.integers(length - side + 1)) for length in pair.blurred.shape[1:])
        turns, mirror = int(rng.integers(4)), rng.uniform() < 0.5
        crops = []
        for image in (pair.blurred, pair.sharp):
            crop = (image[:, y : y + side, x : x + side] - offset) / scale
            crop = np.rot90(crop, turns, axes=(1, 2))
            crops.append(torch.from_numpy(np.ascontiguousarray(crop[:, ::-1] if mirror else crop)))
        return crops[0], crops[1]


class PairedPlanes(Dataset):
    """The middle of each held-out pair: (blurred, sharp, distance in um or NaN), cut to multiples of the network's."""

    def __init__(self, pairs: Sequence[Pair], multiple: int) -> None:
        self.pairs, self.multiple = list(pairs), multiple
        self.distances = [math.nan if pair.z_um is None else pair.z_um for pair in self.pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        pair = self.pairs[index]
        offset, scale = unit_scale(pair)
        cut: list[slice] = [slice(None)]
        for length in pair.blurred.shape[1:]:
            side = min(length, LARGEST) // self.multiple * self.multiple
            cut.append(slice((length - side) // 2, (length - side) // 2 + side))
        blurred, sharp = (
            torch.from_numpy(np.ascontiguousarray((image[tuple(cut)] - offset) / scale))
            for image in (pair.blurred, pair.sharp)
        )
        return blurred, sharp, torch.tensor(self.distances[index])


def unit_scale(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Offset and scale, float32 (C, 1, 1), that take each channel to the blurred plane's unit range."""
    intensities = [measure(plane, Percentiles(), pair.name) for plane in pair.blurred]
    values = [
        [intensity.offset for intensity in intensities],
        [1.0 if intensity.flat else intensity.scale for intensity in intensities],
    ]
    offset, scale = np.array(values, np.float32)[:, :, None, None]
    return offset, scale


def _size(image: np.ndarray) -> str:
    return " x ".join(map(str, image.shape))
