"""Wiener deconvolution, N. Wiener 1949, with a constant ratio of noise to signal.

Written out, because scikit-image's `wiener` regularises with a Laplacian whose weight has no meaning in photons; the
default ratio is the one that did best on drawn cells at the suite's photons (tests/training/test_classical.py).
"""

from __future__ import annotations

import numpy as np

from .padding import continued, transfer_of


def wiener(light: np.ndarray, psf: np.ndarray, noise_to_signal: float = 1e-2) -> np.ndarray:
    """Restore a plane.

    Parameters
    ----------
    light : float (Y, X)
        Counts above the camera's offset.
    psf : float (2 h + 1, 2 h + 1), sum 1, centred.
    noise_to_signal : float
        Power of the noise over that of the specimen, the same at every frequency.

    Returns
    -------
    float32 (Y, X), counts; it may undershoot below 0.
    """

    def filtered(plane: np.ndarray) -> np.ndarray:
        otf = transfer_of(psf, plane.shape)
        # The mean carries most of the power and no blur: it is kept out of the filter.
        mean = plane.mean()
        spectrum = np.fft.rfft2(plane - mean) * otf.conj() / (np.abs(otf) ** 2 + noise_to_signal)
        return np.fft.irfft2(spectrum, plane.shape) + mean

    return continued(light, psf, filtered)
