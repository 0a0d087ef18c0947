"""Plug-and-play ADMM with a given PSF, as Liu et al. (Optics Express 2020) use it; the denoiser is handed in.

f = F^-1[(conj(H) F g + rho F (z - u)) / (|H|^2 + rho)];  z = denoise(f + u);  u += f - z.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .padding import continued, middle, reflected, transfer_of

ITERATIONS = 25
SIGMA = (45 / 255, 15 / 255)  # of the denoiser, from first to last iteration, spaced logarithmically
NOISE = 3e-2  # rho = (NOISE / sigma)^2; the best of 0.003, 0.01, 0.03 and 0.1 on drawn cells at the suite's photons

Denoise = Callable[[np.ndarray, float], np.ndarray]


def admm(light: np.ndarray, psf: np.ndarray, denoise: Denoise, iterations: int = ITERATIONS) -> np.ndarray:
    """Restore a plane.

    Parameters
    ----------
    light : float (Y, X)
        Counts above the camera's offset; the brightest pixel is taken for the denoiser's 1.
    psf : float (2 h + 1, 2 h + 1), sum 1, centred.
    denoise : callable
        (float32 (Y, X) in unit range, sigma in unit range) -> float32 (Y, X).

    Returns
    -------
    float32 (Y, X), counts.
    """

    def restored(g: np.ndarray) -> np.ndarray:
        otf = transfer_of(psf, g.shape)
        recorded = otf.conj() * np.fft.rfft2(g)
        z, u = g, np.zeros_like(g)
        for sigma in np.geomspace(*SIGMA, iterations):
            rho = (NOISE / sigma) ** 2  # the weaker the denoiser still has to be, the more it is believed
            f = np.fft.irfft2((recorded + rho * np.fft.rfft2(z - u)) / (np.abs(otf) ** 2 + rho), g.shape)
            z = reflected(denoise(middle(f + u).astype(np.float32), float(sigma)))
            u = u + f - z
        return z

    return continued(light, restored)
