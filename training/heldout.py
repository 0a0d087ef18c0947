"""The held-out planes: sharp fields defocused to the table's distances, the same on every machine.

Optics and camera are those of BBBC006, whose camera was measured on its z=00 files: the variance of a pixel
rises by 0.32 counts for each count above an offset of about 100, so a count is 3 photo-electrons.
"""

from __future__ import annotations

import numpy as np

from ..engine.card import Percentiles
from ..engine.intensity import measure, to_unit
from .fields import Field, name_hash
from .optics import Camera, Optics, defocus

DISTANCES_UM = (0, 10, 16, 22, 28, 34)
OPTICS = Optics(na=0.55, wavelength_um=0.52, pixel_um=0.645)
CAMERA = Camera(photons_per_count=3.0, offset=100.0, read_noise=1.5, bits=16)
PEAK_COUNTS = 1500.0  # 99.9th percentile of the sharp field above background


def counts_pair(field: Field, z_um: float) -> tuple[np.ndarray, np.ndarray]:
    """(defocused, sharp) of a field: uint16 (Y, X) as the camera records it, float32 (Y, X) in the same counts.

    The noise is seeded by the file's name and the distance.
    """
    low, high = np.percentile(field.data, (0.5, 99.9))
    sharp = np.clip(field.data - low, 0, None) * (PEAK_COUNTS / max(high - low, 1e-6))
    rng = np.random.default_rng(name_hash(f"{field.path.name} {z_um}"))
    return CAMERA.expose(defocus(sharp, OPTICS, z_um), rng), (sharp + CAMERA.offset).astype(np.float32)


def unit_pair(field: Field, z_um: float) -> tuple[np.ndarray, np.ndarray]:
    """The pair of `counts_pair` in the defocused plane's unit range, float32 (Y, X) both."""
    seen, sharp = counts_pair(field, z_um)
    intensity = measure(seen, Percentiles())
    return to_unit(seen, intensity), to_unit(sharp, intensity)
