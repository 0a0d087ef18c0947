"""What a TIFF says of the microscope that took it: size of a pixel, numerical aperture, refractive index.

Read from OME-XML, ImageJ's and MetaMorph's descriptions. What a file does not say is None; nothing is guessed but the
refractive index, from the immersion or else from the numerical aperture.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tifffile

from ..files.version import open_regular
from .integrity import errors_as_input_error, open_tiff
from .quiet import quiet_tifffile

# Units of length in um, as writers spell them.
UM = {"m": 1e6, "mm": 1e3, "cm": 1e4, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "å": 1e-4, "in": 25400.0, "inch": 25400.0}
UM |= {"µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0, "\\u00b5m": 1.0}
UM |= {"meter": 1e6, "millimeter": 1e3, "nanometer": 1e-3, "angstrom": 1e-4}  # OME-Zarr has the words
_MEDIA = {"air": 1.0, "water": 1.333, "waterdipping": 1.333, "glycerol": 1.47, "oil": 1.518, "multi": None}


@dataclass(frozen=True)
class RecordedOptics:
    """Size of a pixel in the specimen (um), numerical aperture and refractive index; None: not known."""

    pixel_size_um: float | None = None
    na: float | None = None
    refractive_index: float | None = None

    def blur_um(self, blur_px: float | None) -> float | None:
        """Radius of a blur in the specimen, um."""
        return None if blur_px is None or self.pixel_size_um is None else blur_px * self.pixel_size_um

    @property
    def defocus_um_per_px(self) -> float | None:
        """Distance from focus that blurs by a radius of one pixel: the geometry of the cone of light, um a px."""
        if self.pixel_size_um is None or self.na is None:
            return None
        index = self.refractive_index or _index_of(self.na)
        if index <= self.na:
            return None
        return self.pixel_size_um * math.sqrt(index**2 - self.na**2) / self.na


def read_optics(path: str | os.PathLike[str]) -> RecordedOptics:
    """The optics that a file tells of; damaged descriptions tell of none. Raises InputError if it is no TIFF."""
    path = Path(path)
    with errors_as_input_error(path), quiet_tifffile(), open_regular(path) as file, open_tiff(file) as tif:
        for reader in (_ome, _metaseries, _stk, _imagej):
            try:
                optics = reader(tif)
            except Exception:  # whatever somebody wrote there, the image is not to blame
                optics = None
            if optics is not None and optics != RecordedOptics():
                return optics
    return RecordedOptics()


def _ome(tif: tifffile.TiffFile) -> RecordedOptics | None:
    if not tif.ome_metadata:
        return None
    root: Any = tifffile.xml2dict(tif.ome_metadata).get("OME", {})
    image = _first(root.get("Image"))
    pixels = _first(image.get("Pixels"))
    size = _positive(pixels.get("PhysicalSizeX"))
    scale = UM.get(str(pixels.get("PhysicalSizeXUnit", "um")).lower())
    chosen = _first(image.get("ObjectiveSettings") or image.get("ObjectiveRef"))
    objectives = [
        objective
        for instrument in _list(root.get("Instrument"))
        for objective in _list(instrument.get("Objective"))
        if isinstance(objective, dict)
    ]
    objective = next((candidate for candidate in objectives if candidate.get("ID") == chosen.get("ID")), None)
    objective = objective or (objectives[0] if len(objectives) == 1 else {})
    index = _positive(chosen.get("RefractiveIndex")) or _MEDIA.get(str(objective.get("Immersion", "")).lower())
    return RecordedOptics(size * scale if size and scale else None, _positive(objective.get("LensNA")), index)


def _metaseries(tif: tifffile.TiffFile) -> RecordedOptics | None:
    metadata: Any = tif.metaseries_metadata
    if not metadata:
        return None
    plane = metadata.get("PlaneInfo", {})
    unit = str(plane.get("spatial-calibration-units", "um")).lower()
    size, scale = _positive(plane.get("spatial-calibration-x")), UM.get(unit)
    calibrated = plane.get("spatial-calibration-state", True) not in (False, "off")
    return RecordedOptics(
        size * scale if size and scale and calibrated else None,
        _positive(plane.get("_MagNA_")),
        _positive(plane.get("_MagRI_")),
    )


def _stk(tif: tifffile.TiffFile) -> RecordedOptics | None:
    metadata: Any = tif.stk_metadata
    if not metadata:
        return None
    size = _positive(metadata.get("XCalibration"))
    scale = UM.get(str(metadata.get("CalibrationUnits", "um")).strip("\0 ").lower())
    return RecordedOptics(size * scale if size and scale else None, _positive(metadata.get("_MagNA_")))


def _imagej(tif: tifffile.TiffFile) -> RecordedOptics | None:
    metadata: Any = tif.imagej_metadata
    if not metadata:
        return None
    scale = UM.get(re.sub(r"\\u00[bB]5", "u", str(metadata.get("unit", ""))).lower())
    resolution = tif.pages.first.tags.get("XResolution")
    if scale is None or resolution is None:
        return None
    pixels, units = resolution.value
    return RecordedOptics(_positive(scale * units / pixels) if pixels else None)


def _index_of(na: float) -> float:
    """The thinnest usual medium that an objective of such an aperture can have."""
    return 1.0 if na < 0.98 else 1.333 if na < 1.28 else 1.518


def _positive(value: object) -> float | None:
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 < number < math.inf else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value] if value is not None else []


def _first(value: object) -> Mapping[str, Any]:
    return next((entry for entry in _list(value) if isinstance(entry, dict)), {})
