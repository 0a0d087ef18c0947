"""Measured pairs: a defocused plane and the sharp one of the same field, registered to each other and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import fourier_shift, gaussian_filter
from skimage.registration import phase_cross_correlation

from ...engine.errors import InputError

LARGEST_SHIFT = 24.0  # pixels: more is another field, not a drifting stage
BLUR_PX = 4.0  # both planes are smoothed before they are laid over one another: only one of them has fine structure
# They are then compared between two scales: slow background and the overall density of cells are alike in any two
# fields. Real planes 34 um apart correlate by 0.67 or more where they show the same, by 0.25 at most where they do not.
FINE_PX, COARSE_PX = 8.0, 24.0
LEAST_CORRELATION = 0.5
_REMEDY = "look at both files: do they show the same field?"


@dataclass(frozen=True)
class Pair:
    """Two planes of one field, float32 (C, Y, X) both, in counts.

    `z_um` is the distance of `blurred` from focus (None: not known); `name` tells the pair, `well` the specimen: pairs
    of one well are never split between training and held-out.
    """

    blurred: np.ndarray
    sharp: np.ndarray
    z_um: float | None
    name: str
    well: str


def registered(
    blurred: np.ndarray,
    sharp: np.ndarray,
    path: Path,
    partner: Path,
    name: str,
    z_um: float | None = None,
    well: str = "",
) -> Pair:
    """A checked pair: `blurred` (C, Y, X) is moved onto `sharp` (C, Y, X), and the rim that has no partner cut off.

    The shift is that of the first channel. Raises InputError, which names `path`, for other shapes, a shift beyond
    `LARGEST_SHIFT` or planes that do not correlate.
    """
    if blurred.shape != sharp.shape:
        sizes = " and ".join(" x ".join(map(str, image.shape[:0:-1])) for image in (blurred, sharp))
        raise InputError(path, f"has another size than {partner.name} ({sizes})", "pair planes of one camera setting")
    shift, correlation = offset(blurred[0], sharp[0])
    far = float(np.abs(shift).max())
    if correlation < LEAST_CORRELATION:
        raise InputError(path, f"does not match {partner.name} (correlation {correlation:.2f})", _REMEDY)
    if far > LARGEST_SHIFT:
        raise InputError(path, f"lies {far:.0f} px away from {partner.name}", _REMEDY)
    if far >= 0.25:
        blurred = np.stack([moved(plane, shift) for plane in blurred])
    rim = int(np.ceil(far)) if far >= 0.25 else 0
    inner = (slice(None), slice(rim, blurred.shape[1] - rim), slice(rim, blurred.shape[2] - rim))
    there, here = (np.ascontiguousarray(image[inner], np.float32) for image in (blurred, sharp))
    return Pair(there, here, z_um, name, well or name)


def offset(blurred: np.ndarray, sharp: np.ndarray) -> tuple[np.ndarray, float]:
    """The shift (Y, X) in pixels that brings `blurred` onto `sharp`, and how they then correlate, -1 to 1.

    Phase correlation (Guizar-Sicairos et al., Opt. Lett. 33, 156, 2008), without whitening: of a defocused plane only
    low frequencies can be believed.
    """
    planes = [np.asarray(image, np.float32) for image in (sharp, blurred)]
    flat = [gaussian_filter(plane, BLUR_PX) for plane in planes]
    window = np.outer(*(np.hanning(side + 2)[1:-1] for side in sharp.shape)).astype(np.float32)
    flat = [(image - image.mean()) * window for image in flat]
    shift, _, _ = phase_cross_correlation(*flat, upsample_factor=10, normalization=None)  # type: ignore[arg-type]
    bands = [gaussian_filter(image, FINE_PX) - gaussian_filter(image, COARSE_PX) for image in planes]
    here, there = ((image - image.mean()) * window for image in (bands[0], moved(bands[1], shift)))
    norm = float(np.linalg.norm(here) * np.linalg.norm(there))
    return np.asarray(shift, float), float((here * there).sum()) / norm if norm > 0 else 0.0


def moved(plane: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """A plane (Y, X) shifted by parts of pixels; what leaves it on one side comes in on the other."""
    # Reflected to twice its size it has no jump at the border that would ring.
    grown = np.pad(plane, [(0, side) for side in plane.shape], mode="symmetric")
    spectrum = fourier_shift(np.fft.rfft2(grown), shift, n=grown.shape[1])
    return np.fft.irfft2(spectrum, grown.shape)[: plane.shape[0], : plane.shape[1]].astype(np.float32)
