"""What files of OME, ImageJ and MetaMorph say of their microscope, and files that say nonsense."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tifffile

from defocus.engine.errors import InputError
from defocus.engine.tiff.optics import RecordedOptics, read_optics

IMAGE = np.zeros((32, 32), np.uint16)


def ome(pixels: str = "", objective: str = "", settings: str = "", more: str = "") -> str:
    return (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Instrument ID="I:0">'
        f'<Objective ID="O:0" {objective}/>{more}</Instrument><Image ID="Image:0">{settings}'
        '<Pixels ID="P:0" DimensionOrder="XYZCT" Type="uint16" SizeX="32" SizeY="32" SizeZ="1" SizeC="1" SizeT="1" '
        f"{pixels}><TiffData/></Pixels></Image></OME>"
    )


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (ome('PhysicalSizeX="0.65"', 'LensNA="0.5"'), RecordedOptics(0.65, 0.5)),
        (ome('PhysicalSizeX="650" PhysicalSizeXUnit="nm"', 'LensNA="0.5"'), RecordedOptics(0.65, 0.5)),
        (ome('PhysicalSizeX="0.00065" PhysicalSizeXUnit="mm"'), RecordedOptics(0.65)),
        (
            ome('PhysicalSizeX="0.65" PhysicalSizeXUnit="µm"', 'LensNA="1.2" Immersion="Water"'),
            RecordedOptics(0.65, 1.2, 1.333),
        ),
        (
            ome('PhysicalSizeX="0.1"', 'LensNA="1.4"', '<ObjectiveSettings ID="O:0" RefractiveIndex="1.515"/>'),
            RecordedOptics(0.1, 1.4, 1.515),
        ),
        (  # two objectives, the image names one
            ome("", 'LensNA="0.3"', '<ObjectiveSettings ID="O:1"/>', '<Objective ID="O:1" LensNA="0.75"/>'),
            RecordedOptics(None, 0.75),
        ),
        (ome("", 'LensNA="0.3"', "", '<Objective ID="O:1" LensNA="0.75"/>'), RecordedOptics()),  # which of the two?
        (ome('PhysicalSizeX="0.65" PhysicalSizeXUnit="pixel"'), RecordedOptics()),
        (ome('PhysicalSizeX="-1"', 'LensNA="inf"'), RecordedOptics()),
        (ome('PhysicalSizeX="wide"', 'LensNA="nan"'), RecordedOptics()),
        ("<OME", RecordedOptics()),
        ("<OME xmlns='x'><Image/></OME>", RecordedOptics()),
        ("plain", RecordedOptics()),
    ],
)
def test_ome(tmp_path, description, expected):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, description=description.encode(), metadata=None)
    found = read_optics(tmp_path / "a.tif")
    for name in ("pixel_size_um", "na", "refractive_index"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name))


@pytest.mark.parametrize(
    ("unit", "um"),
    [("micron", 0.325), ("um", 0.325), ("\\u00B5m", 0.325), ("nm", 0.000325), ("pixel", None), ("", None)],
)
def test_imagej(tmp_path, unit, um):
    tifffile.imwrite(
        tmp_path / "a.tif",
        IMAGE,
        imagej=True,
        resolution=(1 / 0.325, 1 / 0.325),
        metadata={"unit": unit} if unit else {},
    )
    assert read_optics(tmp_path / "a.tif").pixel_size_um == (pytest.approx(um, rel=1e-4) if um else None)


def test_metamorph(tmp_path):
    text = (
        "<MetaData><prop id='Description' type='string' value=''/><PlaneInfo>"
        "<prop id='spatial-calibration-state' type='bool' value='on'/>"
        "<prop id='spatial-calibration-x' type='float' value='0.3225'/>"
        "<prop id='spatial-calibration-units' type='string' value='um'/>"
        "<custom-prop id='_MagNA_' type='float' value='0.75'/><custom-prop id='_MagRI_' type='float' value='1'/>"
        "</PlaneInfo></MetaData>"
    ).replace("'", '"')
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, description=text, metadata=None, software="MetaSeries")
    assert read_optics(tmp_path / "a.tif") == RecordedOptics(0.3225, 0.75, 1.0)


def test_what_is_no_tiff(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"not a TIFF")
    with pytest.raises(InputError):
        read_optics(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("optics", "um"),
    [
        (RecordedOptics(0.65, 0.5), 0.65 * math.sqrt(0.75) / 0.5),
        (RecordedOptics(0.1, 1.4), 0.1 * math.sqrt(1.518**2 - 1.96) / 1.4),  # more than water: oil
        (RecordedOptics(0.1, 1.0), 0.1 * math.sqrt(1.333**2 - 1)),
        (RecordedOptics(0.1, 1.2, 1.1), None),  # which cannot be
        (RecordedOptics(0.65), None),
        (RecordedOptics(None, 0.5), None),
    ],
)
def test_a_pixel_of_blur_is_so_far_from_focus(optics, um):
    assert optics.defocus_um_per_px == (None if um is None else pytest.approx(um))


def test_blur_in_the_specimen():
    assert RecordedOptics(0.5).blur_um(4.0) == 2.0
    assert RecordedOptics(0.5).blur_um(None) is None
    assert RecordedOptics().blur_um(4.0) is None
