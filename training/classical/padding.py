"""Deconvolution of a plane that goes on beyond its border."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def continued(light: np.ndarray, psf: np.ndarray, algorithm: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Run an algorithm on `light` (Y, X) continued by reflection over the PSF's half width, and cut the middle out.

    The algorithm sees float32 scaled so that the brightest pixel is 1; its result is scaled back.
    """
    light = np.asarray(light, np.float32)
    scale = float(light.max())
    if scale <= 0:
        return light.copy()
    pad_y, pad_x = (min(psf.shape[0] // 2, side - 1) for side in light.shape)
    padded = np.pad(light / scale, ((pad_y, pad_y), (pad_x, pad_x)), mode="reflect")
    restored = algorithm(padded)[pad_y : pad_y + light.shape[0], pad_x : pad_x + light.shape[1]]
    return (restored * scale).astype(np.float32)


def transfer_of(psf: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The OTF of a centred PSF on the grid of `numpy.fft.rfft2`; a PSF wider than the shape wraps around."""
    half_y, half_x = psf.shape[0] // 2, psf.shape[1] // 2
    placed = np.zeros(shape, np.float32)
    y = np.arange(-half_y, psf.shape[0] - half_y) % shape[0]
    x = np.arange(-half_x, psf.shape[1] - half_x) % shape[1]
    np.add.at(placed, (y[:, None], x[None, :]), psf)
    return np.fft.rfft2(placed)
