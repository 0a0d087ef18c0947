"""PSNR and SSIM, defined once for training, evaluation and the demo (scikit-image computes them).

Both compare float64 planes (Y, X) in the truth's own units. The data range is the truth's maximum minus its
minimum, so that neither the camera's offset nor its bit depth changes a figure. SSIM is that of Wang et al.,
IEEE TIP 13, 600 (2004): Gaussian window of sigma 1.5 (11 x 11), K1 = 0.01, K2 = 0.03, population covariance.
"""

from __future__ import annotations

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


def data_range(truth: np.ndarray) -> float:
    """Maximum minus minimum of the truth."""
    return float(truth.max()) - float(truth.min())


def psnr(truth: np.ndarray, image: np.ndarray) -> float:
    """Peak signal to noise ratio of `image` (Y, X) against `truth` (Y, X), dB."""
    truth, image = np.asarray(truth, np.float64), np.asarray(image, np.float64)
    return float(peak_signal_noise_ratio(truth, image, data_range=data_range(truth)))


def ssim(truth: np.ndarray, image: np.ndarray) -> float:
    """Structural similarity of `image` (Y, X) with `truth` (Y, X), at most 1."""
    truth, image = np.asarray(truth, np.float64), np.asarray(image, np.float64)
    value = structural_similarity(
        truth, image, data_range=data_range(truth), gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(np.asarray(value))
