"""Richardson-Lucy deconvolution (W. H. Richardson 1972, L. B. Lucy 1974) by scikit-image."""

from __future__ import annotations

import numpy as np
from skimage import restoration

from .padding import continued


def richardson_lucy(light: np.ndarray, psf: np.ndarray, iterations: int = 30) -> np.ndarray:
    """Restore a plane: float (Y, X) counts above the camera's offset to float32 (Y, X) counts, never negative.

    `psf` is (2 h + 1, 2 h + 1) with sum 1. Zeros are raised to a thousandth of the brightest pixel, for the division.
    """

    def restored(plane: np.ndarray) -> np.ndarray:
        return restoration.richardson_lucy(np.clip(plane, 1e-3, None), psf, num_iter=iterations, clip=False)

    return continued(light, restored)
