"""Training crops: sharp fields, defocused on the fly by the physics of `optics`, with new optics for each crop.

Crop `i` of a run is a function of (seed, i) alone, whatever the number of workers and wherever a run was resumed.
Computing a transfer function takes several times as long as using it: crops share a bank of microscopes, whose
transfer functions are kept once they have been computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from ...engine.image.fourier import irfft2, rfft2
from ...engine.model.card import Percentiles
from ..fit.recipe import Recipe
from ..physics.optics import Aberrations, Optics, transfer
from ..physics.specimen import draw_cells, draw_filaments, draw_points
from .fields import Field

RULE = Percentiles()  # what the blurred plane's unit range is: the rule of the exported card
DRAWN_FIELDS, DRAWN_SHAPE = 24, (520, 696)
KEPT_TRANSFERS = 2048  # those of a bank of 1500 microscopes; of a 352-pixel square each is 0.5 MB

kept_transfer = lru_cache(KEPT_TRANSFERS)(transfer)


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
    """Specimens of `training.specimen`: half of them cells of several sizes, the others points and filaments."""
    rng = np.random.default_rng([seed, 1])
    fields = []
    for i in range(DRAWN_FIELDS):
        if i % 2 == 0:
            field = draw_cells(DRAWN_SHAPE, rng, int(rng.integers(20, 200)), rng.uniform(6, 24))
        elif i % 4 == 1:
            field = draw_points(DRAWN_SHAPE, rng, int(np.exp(rng.uniform(*np.log((60, 1500))))), rng.uniform(0.8, 2.5))
        else:
            field = draw_filaments(DRAWN_SHAPE, rng, int(rng.integers(10, 80)), rng.uniform(0.8, 2.0))
        top = np.percentile(field[field > 0.05], 90) if i % 4 == 1 else np.percentile(field, 99.9)
        fields.append((field / top).astype(np.float32))
    return Pool(tuple(fields), weight)


@dataclass(frozen=True)
class SimulatedMicroscope:
    """Optics of one crop.

    `relative` takes a structure for a plane that these optics recorded in focus (see `optics.transfer`); otherwise it
    is the specimen itself, and in focus it is seen through the pupil, too. With a `slope` the focus runs across the
    crop, from z (1 - slope) to z (1 + slope): a tilted slide, or the field curvature of the objective.
    """

    optics: Optics
    relative: bool
    slope: float = 0.0

    def image(self, structure: np.ndarray, z_um: float) -> np.ndarray:
        """Noiseless image of a structure `z_um` out of focus, float (Y, X) both; the borders wrap."""
        if self.relative and z_um == 0:
            return structure
        if not self.slope or z_um == 0:
            return self._blur(structure, z_um)
        ramp = np.linspace(0, 1, structure.shape[1], dtype=np.float32)
        near, far = (self._blur(structure, z_um * (1 + sign * self.slope)) for sign in (-1, 1))
        return near * (1 - ramp) + far * ramp

    def _blur(self, structure: np.ndarray, z_um: float) -> np.ndarray:
        otf = kept_transfer(self.optics, z_um, structure.shape, self.relative)
        return irfft2(rfft2(structure) * otf, structure.shape)


def draw_microscope(r: Recipe, rng: np.random.Generator) -> tuple[SimulatedMicroscope, float]:
    """The optics of a crop and how far it is out of focus, um: mostly like BBBC006's, else (`wide_share`) any."""
    z = r.defocus_um[0] + (r.defocus_um[1] - r.defocus_um[0]) * rng.uniform() ** r.near_power
    wide = rng.uniform() < r.wide_share
    spherical, other = (r.aberration_waves, r.aberration_waves / 2) if wide else (r.spherical_waves, r.asymmetric_waves)
    aberrations = Aberrations(
        spherical=rng.uniform(-1, 1) * spherical,
        coma=rng.uniform() * other,
        astigmatism=rng.uniform() * other,
        angle=rng.uniform(0, 2 * math.pi) if other else 0.0,
        depth_um=rng.uniform(0, 20) if wide and rng.uniform() < 0.3 else 0.0,
    )
    if not wide:
        numbers = (rng.uniform(*r.na), rng.uniform(*r.wavelength_um), rng.uniform(*r.pixel_um))
        microscope = SimulatedMicroscope(Optics(*numbers, aberrations=aberrations), relative=True)
    else:
        pixel = float(np.exp(rng.uniform(*np.log(r.wide_pixel_um))))
        optics = Optics(rng.uniform(*r.wide_na), rng.uniform(*r.wavelength_um), pixel, aberrations=aberrations)
        slope = rng.uniform(-0.3, 0.3) if rng.uniform() < 0.3 else 0.0
        microscope = SimulatedMicroscope(optics, relative=False, slope=slope)
        # As many pixels of blur as the others have, whatever the pixel and the aperture; either side of focus.
        typical = Optics(sum(r.na) / 2, sum(r.wavelength_um) / 2, sum(r.pixel_um) / 2)
        z *= typical.disk_radius_um(1) / typical.pixel_um * pixel / optics.disk_radius_um(1) * rng.choice((-1, 1))
    return microscope, 0.0 if rng.uniform() < r.sharp_share else float(z)


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
        blurred, sharp = (self._middle(image) for image in self._scene(rng))
        # From here on in photo-electrons.
        peak = np.exp(rng.uniform(*np.log(r.peak_photons)))
        haze = rng.uniform(*r.haze) * peak
        read_noise = rng.uniform(*r.read_noise_photons)
        seen = rng.poisson(np.clip(blurred, 0, None) * peak + haze) + rng.normal(0, read_noise, sharp.shape)
        low, high = np.percentile(seen[::2, ::2], (RULE.low, RULE.high))
        # Percentiles of a whole plane differ from those of a crop: the network must not rely on them.
        scale = (high - low) * np.exp(rng.uniform(-0.25, 0.25))
        offset = low + rng.uniform(-0.05, 0.05) * scale
        pair = [((image - offset) / scale).astype(np.float32) for image in (seen, sharp * peak + haze)]
        return torch.from_numpy(pair[0])[None], torch.from_numpy(pair[1])[None]

    def _middle(self, image: np.ndarray) -> np.ndarray:
        inner = slice(self.recipe.margin, self.recipe.margin + self.recipe.crop)
        return image[inner, inner]

    def _optics(self, rng: np.random.Generator) -> tuple[SimulatedMicroscope, float, float]:
        """(microscope, distance of the specimen, depth of a second layer, 0 without one), um."""
        r = self.recipe
        if r.optics_bank:
            rng = np.random.default_rng([r.seed, 3, int(rng.integers(r.optics_bank))])
        microscope, z = draw_microscope(r, rng)
        return microscope, z, rng.uniform(*r.thick_um) if rng.uniform() < r.thick_share else 0.0

    def _scene(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A noiseless (defocused, sharp) pair, float (side, side): one or two layers under one microscope."""
        r = self.recipe
        side = r.crop + 2 * r.margin
        microscope, z, depth = self._optics(rng)
        if rng.uniform() < r.empty_share:
            return np.zeros((side, side), np.float32), np.zeros((side, side), np.float32)
        pool = self.pools[rng.choice(len(self.pools), p=self.chances)]
        layers = [(1.0, 0.0)]
        if depth:  # a second layer of the specimen above or below the first
            layers.append((rng.uniform(0.1, 0.7), depth))
        blurred, sharp = np.zeros((2, side, side), np.float32)
        for weight, dz in layers:
            structure = weight * self._region(pool, side, rng)
            blurred += microscope.image(structure, z + dz if z else dz)
            sharp += microscope.image(structure, dz)
        return blurred, sharp

    def _region(self, pool: Pool, side: int, rng: np.random.Generator) -> np.ndarray:
        """A sharp region (side, side), turned, mirrored, rescaled and with another contrast."""
        region = self._cut(pool, side, rng)
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
            tensor = torch.from_numpy(np.ascontiguousarray(region))[None, None]
            region = interpolate(tensor, (side, side), mode="bilinear", antialias=True, align_corners=False)[
                0, 0
            ].numpy()
        region = np.rot90(region, int(rng.integers(4)))
        return np.ascontiguousarray(region[::-1] if rng.uniform() < 0.5 else region)
