"""The held-out planes: sharp fields defocused to the table's distances, the same on every machine.

Optics and camera are those of BBBC006, whose camera was measured on its z=00 files: the variance of a pixel
rises by 0.32 counts for each count above an offset of about 100, so a count is 3 photo-electrons.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...engine.errors import InputError
from ...engine.image.normalization import measure, to_unit
from ...engine.model.card import Percentiles
from ..data.fields import Field, list_images, name_hash, split
from ..physics.optics import Aberrations, Camera, Optics, defocus

DISTANCES_UM = (0, 10, 16, 22, 28, 34)
OPTICS = Optics(na=0.55, wavelength_um=0.52, pixel_um=0.645)
# The aberrated twins of these optics, by waves of spherical aberration (root mean square): NA 0.5 and -0.2 waves are
# what fits a real pair of BBBC006's planes best.
TWINS = {waves: replace(OPTICS, na=0.5, aberrations=Aberrations(spherical=waves)) for waves in (-0.2, 0.2)}
CAMERA = Camera(photons_per_count=3.0, offset=100.0, read_noise=1.5, bits=16)
PEAK_COUNTS = 1500.0  # 99.9th percentile of the sharp field above background

# What the default model was trained without (docs/models/default/split.json): wells of BBBC006, images of DSB 2018.
HELD_OUT = ("*_d16_*", "*_k14_*", "*_n22_*", "*_p19_*", "*__a05__*", "[0f]*.png")


def held_out_files(folders: Iterable[Path], patterns: Sequence[str] = HELD_OUT) -> list[Path]:
    """Image files of the folders that match one of the name patterns, in order. Raises InputError if there are none."""
    folders = list(folders)
    files = [path for folder in folders for path in split(list_images(folder), patterns)[1]]
    if not files:
        raise InputError(folders[0], f"holds no file like {' or '.join(patterns)}", "give the folders of sharp fields")
    return files


def counts_pair(field: Field, z_um: float, optics: Optics = OPTICS) -> tuple[np.ndarray, np.ndarray]:
    """(defocused, sharp) of a field: uint16 (Y, X) as the camera records it, float32 (Y, X) in the same counts.

    The noise is seeded by the file's name and the distance. Double precision and a noiseless image rounded to 1/16
    count keep differences of FFT libraries out of it: the counts are the same on every machine.
    """
    data = field.data.astype(np.float64)
    low, high = np.percentile(data, (0.5, 99.9))
    sharp = np.clip(data - low, 0, None) * (PEAK_COUNTS / max(high - low, 1e-6))
    rng = np.random.default_rng(name_hash(f"{field.path.name} {z_um}"))
    blurred = np.rint(defocus(sharp, optics, z_um, dtype=np.float64) * 16) / 16
    return CAMERA.expose(blurred, rng), (sharp + CAMERA.offset).astype(np.float32)


def unit_pair(field: Field, z_um: float) -> tuple[np.ndarray, np.ndarray]:
    """The pair of `counts_pair` in the defocused plane's unit range, float32 (Y, X) both."""
    seen, sharp = counts_pair(field, z_um)
    intensity = measure(seen, Percentiles())
    return to_unit(seen, intensity), to_unit(sharp, intensity)
