"""Training crops: sharp fields, defocused on the fly by the physics of `optics`, with new optics for each crop.

Crop `i` of a run is a function of (seed, i) alone, whatever the number of workers and wherever a run was resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset, Sampler

from ..engine.card import Percentiles
from .fields import Field
from .optics import Optics, transfer
from .recipe import Recipe
from .specimen import draw_cells

RULE = Percentiles()  # what the blurred plane's unit range is: the rule of the exported card
DRAWN_FIELDS, DRAWN_SHAPE = 24, (520, 696)


@dataclass(frozen=True)
class Pool:
    """Sharp fields of one folder, scaled so that background is 0 and the 99.9th percentile 1, and their share."""

    fields: tuple[np.ndarray, ...]
    weight: float


def make_pool(fields: Sequence[Field], weight: float) -> Pool:
    """Scale fields for training (see `Pool`)."""
    scaled = []
    for field in fields:
        low, high = np.percentile(field.data, (0.5, 99.9))
        scaled.append(np.clip((field.data - low) / max(high - low, 1e-6), 0, None).astype(np.float32))
    return Pool(tuple(scaled), weight)


def drawn_pool(seed: int, weight: float) -> Pool:
    """Specimens of `specimen.draw_cells` of several sizes."""
    rng = np.random.default_rng([seed, 1])
    fields = []
    for _ in range(DRAWN_FIELDS):
        cells = draw_cells(DRAWN_SHAPE, rng, int(rng.integers(20, 200)), rng.uniform(6, 24))
        fields.append((cells / np.percentile(cells, 99.9)).astype(np.float32))
    return Pool(tuple(fields), weight)


class DefocusedCrops(Dataset):
    """Pairs (defocused, sharp) of float32 tensors (1, crop, crop) in the blurred plane's unit range.

    The sharp crop has the same offset and scale as the defocused one, so its peaks rise above 1.
    """

    def __init__(self, pools: Sequence[Pool], recipe: Recipe) -> None:
        self.pools, self.recipe = list(pools), recipe
        weights = np.array([pool.weight for pool in self.pools], float)
        self.chances = weights / weights.sum()

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        r = self.recipe
        rng = np.random.default_rng([r.seed, 2, index])
        side = r.crop + 2 * r.margin
        sharp = np.zeros((side, side), np.float32) if rng.uniform() < r.empty_share else self._region(side, rng)
        z = 0.0 if rng.uniform() < r.sharp_share else rng.uniform(*r.defocus_um)
        optics = Optics(rng.uniform(*r.na), rng.uniform(*r.wavelength_um), rng.uniform(*r.pixel_um))
        blurred = np.fft.irfft2(np.fft.rfft2(sharp) * transfer(optics, z, sharp.shape, relative=True), sharp.shape)
        # From here on in photo-electrons.
        peak = np.exp(rng.uniform(*np.log(r.peak_photons)))
        haze = rng.uniform(*r.haze) * peak
        read_noise = rng.uniform(*r.read_noise_photons)
        seen = rng.poisson(np.clip(blurred, 0, None) * peak + haze) + rng.normal(0, read_noise, sharp.shape)
        low, high = np.percentile(seen[::2, ::2], (RULE.low, RULE.high))
        # Percentiles of a whole plane differ from those of a crop: the network must not rely on them.
        scale = (high - low) * np.exp(rng.uniform(-0.25, 0.25))
        offset = low + rng.uniform(-0.05, 0.05) * scale
        middle = slice(r.margin, r.margin + r.crop)
        pair = [((image[middle, middle] - offset) / scale).astype(np.float32) for image in (seen, sharp * peak + haze)]
        return torch.from_numpy(pair[0])[None], torch.from_numpy(pair[1])[None]

    def _region(self, side: int, rng: np.random.Generator) -> np.ndarray:
        """A sharp region (side, side), turned, mirrored, rescaled and with another contrast."""
        pool = self.pools[rng.choice(len(self.pools), p=self.chances)]
        region = self._cut(pool, side, rng)
        if rng.uniform() < 0.15:  # structures over one another, as in a thick specimen
            region = region + rng.uniform(0.1, 0.7) * self._cut(pool, side, rng)
        if rng.uniform() < 0.3:
            region = region ** np.exp(rng.uniform(-0.35, 0.45))
        return region

    def _cut(self, pool: Pool, side: int, rng: np.random.Generator) -> np.ndarray:
        field = pool.fields[rng.integers(len(pool.fields))]
        # Only shrinking: enlarging would pass a blurred structure for a sharp one.
        largest = min(1.6, min(field.shape) / side)
        zoom = rng.uniform(1.0, largest) if largest > 1.0 and rng.uniform() < 0.4 else 1.0
        cut = round(side * zoom)
        if min(field.shape) < cut:
            grow = [(0, max(0, cut - length)) for length in field.shape]
            field = np.pad(field, grow, mode="symmetric")
        y, x = (int(rng.integers(length - cut + 1)) for length in field.shape)
        region = field[y : y + cut, x : x + cut]
        if cut != side:
            whole = torch.from_numpy(np.ascontiguousarray(region))[None, None]
            region = interpolate(whole, (side, side), mode="bilinear", antialias=True, align_corners=False)[
                0, 0
            ].numpy()
        region = np.rot90(region, int(rng.integers(4)))
        return np.ascontiguousarray(region[::-1] if rng.uniform() < 0.5 else region)


class EpochSampler(Sampler[int]):
    """Indices of epoch e: e * length .. (e + 1) * length - 1. Lightning sets the epoch, also after a resume."""

    def __init__(self, length: int) -> None:
        self.length, self.epoch = length, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch * self.length, (self.epoch + 1) * self.length))
