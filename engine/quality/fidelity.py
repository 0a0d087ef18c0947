"""Fidelity: does the restored plane, blurred again, give back what the camera saw?

The restored plane is blurred by the defocus that fits best, a disk softened by a Gaussian: the geometric limit of the
defocused transfer function (H. H. Hopkins, Proc. R. Soc. A 231, 91, 1955), 2 J1(x) / x with x = 2 pi r f, and what
diffraction and the Gaussian leave of it; with spherical aberration, which no objective is free of far from focus, a ray
through the pupil at a share p of its radius lands at p + k (2 p^3 - p) radii, the slope of Noll's Z11 over that of
defocus. In focus it lands at k (2 p^3 - p) radii already, and a restored plane still has that; so what is tried, for
several k of either sign, is the ratio of the two. What of the input it then does not explain, noise apart, was added,
lost or moved by the network, or is no defocus at all. It says nothing of detail that the input cannot show: such detail
vanishes in the blur, whether it is true or not.

Everything is computed on pixels binned 2 x 2, which defocus worth restoring does not notice. Noise is measured where
it is, from the diagonal differences within each 2 x 2, so that the bright parts of a plane may have more of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..image.bands import extremes
from ..image.fourier import irfft2, power, rfft2
from ..image.hot_pixels import HotPixels
from .focus import JUDGED, SMALLEST, even, halved, span, windows
from .transfer import ABERRATIONS, PAD, RADII, SOFTNESS, disk, disks, gaussian, gaussians, padded_shape, rings

REGION_PX = 32  # side of the place whose unexplained share is `max_local_residual`: about a nucleus at 20x

_COARSE, _NEAR = 3, 6  # of the radii that are tried, every third at first, then those at most six away
# An aberration must earn it away from the rims, over which comes light that looks like a little of one: it leaves less
# than this of what was left without, which was more than `_ALL` of the structure.
_WORTH, _ALL = 0.7, 0.002
_SHARPER = SOFTNESS[:2]  # of the aberrated ones: a Gaussian as wide would hide the aberration
_NARROWEST = 0.3  # squared, over the disk's: to look for radii by; k = -1 would be
_WEAKEST = 0.2  # structure over noise, variances of binned pixels, below which the share explained has no meaning


@dataclass(frozen=True)
class Fidelity:
    """How well a restored plane explains the plane that the camera saw.

    Attributes
    ----------
    share_explained : float
        Share of the input's variance above noise that the blurred output explains: 1 all, 0 none.
    max_local_residual : float
        The largest unexplained variance in any place of 32 x 32 px, over the structure there plus half the
        plane's mean; 0 is best.
    blur_px : float
        Radius, in px, of the disk as wide (in second moment) as the blur that fits best is without its aberration,
        about as wide as the geometric disk of defocus: how much sharper than the input the output is.
    """

    share_explained: float
    max_local_residual: float
    blur_px: float


def fidelity(
    seen: np.ndarray, restored: np.ndarray, hot: HotPixels = (), ends: tuple[float, float] | None = None
) -> Fidelity | None:
    """Judge a restored plane (Y, X) by the plane that was seen, of the same shape and units, any real dtype.

    Large planes are judged by four windows of 768 px; the `hot` pixels of the one that was seen do not count.
    `ends` are its `extremes`, where they are known.

    Returns
    -------
    Fidelity or None
        None: no structure to judge by, less than a fifth of the noise, or a plane under 32 px wide.
    """
    if min(seen.shape) < 2 * SMALLEST:
        return None
    scale = span(ends or extremes(seen))
    pairs = [
        _Pair.of(before, after, scale)
        for before, after in zip(*(windows(plane, *JUDGED, hot) for plane in (seen, restored)), strict=True)
    ]
    plain, aberrated = _fit(pairs)
    blur, residuals = plain, [pair.residual(plain) for pair in pairs]
    structure = float(np.mean([residual.structure for residual in residuals]))
    noise = float(np.mean([residual.noise for residual in residuals]))
    if structure <= _WEAKEST * noise or structure <= 0:
        return None
    unexplained = _unexplained(residuals)
    if aberrated and unexplained > _ALL * structure:
        others = [pair.residual(aberrated) for pair in pairs]
        if _unexplained(others) < _WORTH * unexplained:
            blur, residuals, unexplained = aberrated, others, _unexplained(others)
    local = max(residual.max_local_residual(structure) for residual in residuals)
    return Fidelity(1 - unexplained / structure, local, 2 * blur.disk)


class _Blur(NamedTuple):
    """A disk radius in binned px, and what softness and aberration make of the disk."""

    radius: float
    softness: float
    aberration: float

    @property
    def disk(self) -> float:
        """Radius of the disk of the same second moment as the blur has without the aberration, binned px."""
        return self.radius * math.sqrt(1 + 4 * self.softness**2)

    @property
    def width(self) -> float:
        """Radius of the disk of the same second moment, binned px."""
        return self.radius * math.sqrt(max(_squared_width(self.aberration), 0.0) + 4 * self.softness**2)


def _squared_width(aberration: float) -> float:
    """Second moment of where the rays land, less that in focus, over that of the disk."""
    return 1 + 2 / 3 * aberration


class _Pair(NamedTuple):
    """A window of the input and the output, binned, and what their spectra have in common."""

    seen: np.ndarray
    noise: np.ndarray  # variance of each binned pixel's noise: noisy itself, to be averaged
    spectrum: np.ndarray  # of the output, padded
    output: np.ndarray  # power of each ring
    cross: np.ndarray  # Re(input x conj(output)) of each ring

    @classmethod
    def of(cls, seen: np.ndarray, restored: np.ndarray, scale: float) -> _Pair:
        before, after = even(seen, scale), even(restored, scale)
        binned, other = halved(before), halved(after)
        padded = padded_shape(binned.shape)
        ring = rings(padded)[0]
        first, second = rfft2(np.stack([_extend(binned, padded), _extend(other, padded)]))
        output = np.bincount(ring, power(second).ravel())
        cross = np.bincount(ring, (first.real * second.real + first.imag * second.imag).ravel())
        return cls(binned, _noise(before), second, output, cross)

    def residual(self, blur: _Blur) -> _Residual:
        """What the blurred output does not explain."""
        height, width = self.seen.shape
        padded = padded_shape(self.seen.shape)
        ring, frequency = rings(padded)
        x = 2 * math.pi * blur.radius * frequency
        transfer = (np.interp(x, *disk(blur.aberration)) * gaussian(x, blur.softness)).astype(np.float32)
        spectrum = np.multiply(self.spectrum, transfer[ring].reshape(self.spectrum.shape), dtype=np.complex64)
        blurred = irfft2(spectrum, padded)
        # Light from outside the plane has come in over the rim, as far as the blur reaches.
        rim = int(min(max(2, blur.width), min(height, width) // 8))
        inner = (slice(rim, height - rim), slice(rim, width - rim))
        seen = self.seen[inner]
        difference = seen - blurred[PAD : PAD + height, PAD : PAD + width][inner]
        return _Residual(seen - seen.mean(), difference - difference.mean(), self.noise[inner])


class _Residual(NamedTuple):
    """Input, unexplained part and noise variance of a window's inner part, binned."""

    seen: np.ndarray
    difference: np.ndarray
    noise_map: np.ndarray

    @property
    def noise(self) -> float:
        return float(self.noise_map.mean())

    @property
    def structure(self) -> float:
        return float(np.square(self.seen).mean()) - self.noise

    @property
    def unexplained(self) -> float:
        return max(float(np.square(self.difference).mean()) - self.noise, 0.0)

    def max_local_residual(self, structure: float) -> float:
        """The largest unexplained share of a place, `structure` being the plane's."""
        side = min(REGION_PX // 2, *self.seen.shape)
        # Squares of noise scatter: five standard deviations of their mean are noise, too.
        beyond = _means(np.square(self.difference) - self.noise_map * (1 + 5 * math.sqrt(2) / side), side)
        structure_map = np.maximum(_means(np.square(self.seen) - self.noise_map, side), 0)
        return max(float((beyond / (structure_map + 0.5 * structure)).max()), 0.0)


def _unexplained(residuals: list[_Residual]) -> float:
    return float(np.mean([residual.unexplained for residual in residuals]))


def _fit(pairs: list[_Pair]) -> tuple[_Blur, _Blur | None]:
    """The blurs without and with aberration that leave least unexplained, over all windows; None if it is no better."""
    plain = [_least(pairs, softness, 0.0, slice(None, None, _COARSE)) for softness in SOFTNESS]
    least, best = min(plain)
    least, best = min(_least(pairs, softness, 0.0, _around(best.disk, softness, 0.0)) for softness in SOFTNESS)
    aberrated = min(
        _least(pairs, softness, k, _around(best.disk, softness, k)) for k in ABERRATIONS for softness in _SHARPER
    )
    return best, aberrated[1] if aberrated[0] < least else None


def _around(disk: float, softness: float, aberration: float) -> slice:
    """Which radii make a blur about as wide as a disk."""
    radius = disk / math.sqrt(max(_squared_width(aberration), _NARROWEST) + 4 * softness**2)
    at = int(np.searchsorted(RADII, radius))
    return slice(max(at - _NEAR, 0), at + _NEAR + 1)


def _least(pairs: list[_Pair], softness: float, aberration: float, among: slice) -> tuple[float, _Blur]:
    """Of the radii `among` all, the one that leaves least unexplained, and how much that is, less the input's power."""
    radii = RADII[among]
    left = np.zeros(len(radii))
    for pair in pairs:
        shape = padded_shape(pair.seen.shape)
        transfer = disks(shape, aberration)[among] * gaussians(shape, softness)[among]
        left += np.square(transfer) @ pair.output - 2 * transfer @ pair.cross
    at = int(left.argmin())
    return float(left[at]), _Blur(_between(radii, left, at), softness, aberration)


def _between(radii: np.ndarray, left: np.ndarray, at: int) -> float:
    """The radius at the lowest point of the parabola through a minimum and its neighbours."""
    if not 0 < at < len(radii) - 1:
        return float(radii[at])
    below, lowest, above = left[at - 1 : at + 2]
    bend = below - 2 * lowest + above
    shift = 0.5 * (below - above) / bend if bend > 0 else 0.0
    return float(np.interp(at + shift, np.arange(len(radii)), radii))


def _noise(plane: np.ndarray) -> np.ndarray:
    """A rough variance of the noise of each mean of 2 x 2 pixels, from their diagonal differences: float32."""
    differences = plane[::2] - plane[1::2]
    diagonal = (differences[:, ::2] - differences[:, 1::2]).astype(np.float32, copy=False)
    return np.square(diagonal) / 16


def _extend(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = (_mirrored(length, total) for length, total in zip(plane.shape, shape, strict=True))
    return plane[rows][:, columns]


@lru_cache(maxsize=8)
def _mirrored(length: int, total: int) -> np.ndarray:
    """Where `total` px come from, `length` of them a plane's and the others beyond its rims, `PAD` before it."""
    return np.pad(np.arange(length), (PAD, total - length - PAD), mode="reflect")


def _means(values: np.ndarray, side: int) -> np.ndarray:
    """Means over every square of `side` x `side`."""
    return _sums(_sums(values, side).T, side).T / side**2


def _sums(values: np.ndarray, length: int) -> np.ndarray:
    """Sums over every `length` neighbours along the first axis, from sums of 1, 2, 4, ... of them."""
    count = len(values) - length + 1
    total, done, width = np.zeros((count, *values.shape[1:]), values.dtype), 0, 1
    while True:
        if length & width:
            total += values[done : done + count]
            done += width
        if done == length:
            return total
        values, width = values[:-width] + values[width:], 2 * width
