"""Fourier transforms of planes. SciPy's: NumPy's are several times slower in float32 (docs/explanation/performance.md).

SciPy is imported at the first transform, since it would add a quarter of a second to the start of every command.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Spectra = NDArray[np.complex64]


def rfft2(planes: np.ndarray) -> Spectra:
    """Transform float32 (..., Y, X) to complex64 (..., Y, X // 2 + 1), without a factor."""
    from scipy import fft

    return np.asarray(fft.rfft2(planes))


def irfft2(spectra: Spectra, shape: tuple[int, int]) -> np.ndarray:
    """The way back, to planes of `shape` (Y, X); `spectra` is not kept."""
    from scipy import fft

    return np.asarray(fft.irfft2(spectra, shape, overwrite_x=True))


def power(spectra: Spectra) -> np.ndarray:
    """Squared magnitude, float32 of the same shape."""
    return np.square(spectra.real) + np.square(spectra.imag)


def fast_length(length: int) -> int:
    """The smallest even length >= `length` with prime factors 2, 3 and 5 only, which are quick to transform."""
    from scipy import fft

    return 2 * fft.next_fast_len(-(-length // 2), real=True)  # type: ignore[operator]
