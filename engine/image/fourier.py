"""Fourier transforms of planes. SciPy's: NumPy's are several times slower in float32 (docs/explanation/performance.md).

SciPy is imported at the first transform, since it would add a quarter of a second to the start of every command.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..threads import check_memory_for_blas

Spectra = NDArray[np.complex64]


def rfft2(planes: np.ndarray) -> Spectra:
    """Transform float32 (..., Y, X) to complex64 (..., Y, X // 2 + 1), without a factor."""
    return np.asarray(_fft().rfft2(planes))


def irfft2(spectra: Spectra, shape: tuple[int, int]) -> np.ndarray:
    """The way back, to planes of `shape` (Y, X); `spectra` is not kept."""
    return np.asarray(_fft().irfft2(spectra, shape, overwrite_x=True))


def smoothed(plane: np.ndarray, sigma: float) -> np.ndarray:
    """A float32 plane (Y, X) blurred by a Gaussian of `sigma` px, mirrored at its borders."""
    fft = _fft()
    rows, columns = (np.exp(-0.5 * (sigma * np.pi * np.arange(n) / n) ** 2, dtype=np.float32) for n in plane.shape)
    return np.asarray(fft.idctn(fft.dctn(plane) * (rows[:, None] * columns)))


def _fft() -> Any:
    """scipy.fft. Raises OSError if memory does not suffice to load it."""
    if "scipy.fft" not in sys.modules:
        check_memory_for_blas()
    from scipy import fft

    return fft


def power(spectra: Spectra) -> np.ndarray:
    """Squared magnitude, float32 of the same shape."""
    return np.square(spectra.real) + np.square(spectra.imag)


def fast_length(length: int) -> int:
    """The smallest even length >= `length` with prime factors 2, 3 and 5 only, which are quick to transform."""
    return 2 * _fft().next_fast_len(-(-length // 2), real=True)
