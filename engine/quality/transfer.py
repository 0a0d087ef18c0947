"""Transfer functions of the blurs that fidelity tries, on the rings of a spectrum.

Everything is in pixels binned 2 x 2. Out of focus a ray through the pupil at a share p of its radius lands at
p + k (2 p^3 - p) radii of the disk, k being the spherical aberration; see `fidelity`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ..image.fourier import fast_length

PAD = 24  # binned px around a window, mirrored
RADII = np.concatenate([[0.0], np.geomspace(0.24, 24.0, 96)])  # disk radii that are tried, binned px
SOFTNESS = (0.05, 0.15, 0.25, 0.4)  # Gaussian sigma over disk radius: within 1 % for NA 0.4 to 0.75
# k; 0.2 waves at NA 0.5 are 1.1 at 10 um and 0.3 at 34 um
ABERRATIONS = (-1.0, -0.7, -0.5, -0.35, -0.25, -0.15, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4)
_RINGS = 512  # a cycle per binned pixel
_DARKEST = 0.15  # contrast in focus below which the geometric limit tells too little of it to divide by


def padded_shape(shape: tuple[int, int]) -> tuple[int, int]:
    return fast_length(shape[0] + 2 * PAD), fast_length(shape[1] + 2 * PAD)


@lru_cache(maxsize=4)
def rings(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Ring of each sample of `rfft2` (flat; the redundant half counts as the other does), frequency of each ring."""
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]).ravel()
    ring = (radius * _RINGS).astype(np.intp)
    samples = np.bincount(ring)
    return ring, np.where(samples, np.bincount(ring, radius) / np.maximum(samples, 1), 0.0)


def gaussian(x: np.ndarray, softness: float) -> np.ndarray:
    """Transfer function of the Gaussian, x as in `disk`."""
    return np.exp(-0.5 * (softness * x) ** 2)


@lru_cache(maxsize=4 * (len(ABERRATIONS) + 1))
def disks(shape: tuple[int, int], aberration: float) -> np.ndarray:
    """Transfer functions (radii, rings) on this grid of disks of all radii that are tried."""
    return np.interp(2 * math.pi * RADII[:, None] * rings(shape)[1], *disk(aberration))


@lru_cache(maxsize=4 * len(SOFTNESS))
def gaussians(shape: tuple[int, int], softness: float) -> np.ndarray:
    """Transfer functions (radii, rings) of the Gaussians that soften them."""
    return gaussian(2 * math.pi * RADII[:, None] * rings(shape)[1], softness)


@lru_cache(maxsize=len(ABERRATIONS) + 1)
def disk(aberration: float) -> tuple[np.ndarray, np.ndarray]:
    """(x, transfer function) of the geometric blur out of focus over that in focus, at most 1.

    Each is the mean of J0(x d) over the pupil, where d is how far rays land. Without aberration this is 2 J1(x) / x.
    """
    x = np.linspace(0, 4 * math.pi * RADII[-1], 2048)
    pupil = np.sqrt((np.arange(128) + 0.5) / 128)  # equal areas
    moved = aberration * (2 * pupil**3 - pupil)
    blurred, focused = (np.interp(x[:, None] * np.abs(d), *_bessel()).mean(axis=1) for d in (pupil + moved, moved))
    ratio = blurred * focused / np.maximum(np.square(focused), _DARKEST**2)
    return x, ratio / np.maximum(np.abs(ratio), 1.0)


@lru_cache(maxsize=1)
def _bessel() -> tuple[np.ndarray, np.ndarray]:
    """(x, J0(x)), from the integral J0(x) = 1 / pi int_0^pi cos(x sin t) dt."""
    x = np.linspace(0, 12 * math.pi * RADII[-1], 8192)
    t = (np.arange(512) + 0.5) * (math.pi / 512)
    return x, np.cos(x[:, None] * np.sin(t)).mean(axis=1)
