"""Deconvolution of a plane that goes on beyond its border."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def continued(light: np.ndarray, algorithm: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Run an algorithm on `light` (Y, X) continued by `reflected`, and cut the middle out.

    The algorithm sees float32 scaled so that the brightest pixel is 1; its result is scaled back.
    """
    light = np.asarray(light, np.float32)
    scale = float(light.max())
    if scale <= 0:
        return light.copy()
    return (middle(algorithm(reflected(light / scale))) * scale).astype(np.float32)


def reflected(plane: np.ndarray) -> np.ndarray:
    """A plane (Y, X) with a mirror at each border: twice as high and wide, itself in the middle.

    Its opposite borders fit together without a step, as methods that work with Fourier transforms take for granted:
    such a step spreads over the whole plane when the blur is undone.
    """
    return np.pad(plane, [(side // 2, side - side // 2) for side in plane.shape], mode="symmetric")


def middle(twice: np.ndarray) -> np.ndarray:
    """What `reflected` was given."""
    height, width = twice.shape[0] // 2, twice.shape[1] // 2
    return twice[height // 2 : height // 2 + height, width // 2 : width // 2 + width]


def transfer_of(psf: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The OTF of a centred PSF on the grid of `numpy.fft.rfft2`; a PSF wider than the shape wraps around."""
    half_y, half_x = psf.shape[0] // 2, psf.shape[1] // 2
    placed = np.zeros(shape, np.float32)
    y = np.arange(-half_y, psf.shape[0] - half_y) % shape[0]
    x = np.arange(-half_x, psf.shape[1] - half_x) % shape[1]
    np.add.at(placed, (y[:, None], x[None, :]), psf)
    return np.fft.rfft2(placed)
