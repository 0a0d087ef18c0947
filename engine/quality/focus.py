"""The focus score: the root mean square spatial frequency of what a plane shows above its noise, in cycles a pixel.

Defocus takes high frequencies first, so within one field the score falls as the distance from focus grows, on either
side. Specimens differ: compare scores of one field, or of a plane and its restored one, never of two specimens.

The power spectrum is averaged over Hann windows spread over the plane (P. D. Welch, IEEE Trans. Audio Electroacoust.
15, 70, 1967) and over rings of equal frequency. White noise is taken off at the level of the spectrum's corners, beyond
0.5 cycles a pixel, where structure is weakest, and rings that do not stand clearly above it do not count. The score is
the energy of the gradient over the energy of the image, the measure of J. F. Brenner et al., J. Histochem. Cytochem.
24, 100 (1976) and its kin, freed of noise, brightness and offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from ..image.bands import extremes
from ..image.fourier import power, rfft2
from ..image.hot_pixels import HotPixels, without

JUDGED = 768, 4  # px of a window and how many, by which a large plane is compared with its restored one
SMALLEST = 16  # px; a plane narrower than this shows too few frequencies to be judged
_SIDE = 256  # px of a window: a disk of 35 px, about the largest that is restored, has its first dark ring at 57 px
_MOST = 6  # windows of a plane: what bounds the cost of a large one
_RINGS = 128  # a cycle per pixel
_NYQUIST = 0.5  # cycles a pixel


def focus_score(plane: np.ndarray, hot: HotPixels = (), ends: tuple[float, float] | None = None) -> float | None:
    """Score a plane (Y, X) of any real dtype, finite; its `hot` pixels do not count.

    `ends` are its `extremes`, where they are known.

    Returns
    -------
    float or None
        Cycles a pixel, 0 to 0.5. None: nothing stands above the noise, or the plane is under 16 px wide.
    """
    if min(plane.shape) < SMALLEST:
        return None
    power_of_ring, samples, frequency = _spectrum(plane, hot, span(ends or extremes(plane)))
    corner = (frequency > _NYQUIST) & (samples > 0)
    inside = (frequency <= _NYQUIST) & (samples > 0)
    noise = float(np.median(power_of_ring[corner]))
    # Twice the noise, and more where so few samples make a ring that noise alone reaches that.
    clear = inside & (power_of_ring > noise * np.maximum(2.0, 1 + 10 / np.sqrt(np.maximum(samples, 1))))
    clear &= power_of_ring > 1e-9 * power_of_ring.sum()  # rounding, in planes without noise
    weight = np.where(clear, power_of_ring - noise, 0.0) * frequency  # a ring's samples grow with its radius
    total = float(weight.sum())
    return float(np.sqrt((frequency**2 * weight).sum() / total)) if total > 0 else None


def windows(plane: np.ndarray, side: int, most: int, hot: HotPixels = ()) -> Iterator[np.ndarray]:
    """Views of at most `side` px a side, spread evenly over a plane (Y, X): enough to cover it, but at most `most`.

    Of one with `hot` pixels, a copy without them.
    """
    starts = [_starts(length, side, most) for length in plane.shape]
    corners = [(y, x) for y in starts[0] for x in starts[1]]
    if len(corners) > most:
        corners = [corners[i] for i in np.linspace(0, len(corners) - 1, most).round().astype(int)]
    for y, x in corners:
        yield without(plane[y : y + side, x : x + side], (y, x), hot)


def span(ends: tuple[float, float]) -> float:
    """From the least to the largest value of a plane; 1 for a flat one."""
    least, most = ends
    return most - least or 1.0


def scaled(planes: np.ndarray, scale: float) -> np.ndarray:
    """Planes of any real dtype over `scale`, which keeps sums and squares of large numbers from overflowing.

    A new array: float32, or float64 where float32 would lose counts.
    """
    work = planes.astype(np.float32 if planes.dtype.itemsize <= 2 else np.float64)
    work /= work.dtype.type(scale)
    return work


def even(plane: np.ndarray, scale: float) -> np.ndarray:
    """As much of a plane as has an even width and height, over `scale`."""
    height, width = (length // 2 * 2 for length in plane.shape)
    return scaled(plane[:height, :width], scale)


def halved(plane: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels less the plane's: float32."""
    sums = plane[::2] + plane[1::2]
    means = (sums[:, ::2] + sums[:, 1::2]) / 4
    means -= means.mean()
    return means.astype(np.float32, copy=False)


def _starts(length: int, side: int, most: int) -> list[int]:
    count = min(-(-length // side), most)
    return np.linspace(0, max(length - side, 0), count).round().astype(int).tolist()


def _spectrum(plane: np.ndarray, hot: HotPixels, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean power of each ring, how many samples made it, and its frequency in cycles a pixel."""
    views = scaled(np.stack(list(windows(plane, _SIDE, _MOST, hot))), scale)
    views -= views.mean(axis=(-2, -1), keepdims=True)
    taper, ring, samples, frequency = _rings(views.shape[1:])
    views = np.multiply(views, taper, dtype=np.float32)
    total_power = np.bincount(ring, power(rfft2(views)).sum(axis=0).ravel())
    samples = samples * len(views)
    return total_power / np.maximum(samples, 1), samples, frequency


@lru_cache(maxsize=4)
def _rings(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Hann taper (Y, X), ring of each sample of `rfft2`, samples of each ring and their mean frequency."""
    taper = (np.hanning(shape[0] + 2)[1:-1, None] * np.hanning(shape[1] + 2)[None, 1:-1]).astype(np.float32)
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]).ravel()
    ring = (radius * _RINGS).astype(np.intp)
    samples = np.bincount(ring)
    return taper, ring, samples, np.bincount(ring, radius) / np.maximum(samples, 1)
