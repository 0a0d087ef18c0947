"""Files that libtiff wrote, in layouts of its own: corrected, and read back by libtiff pixel for pixel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile

from .test_replace import check_bytes, image, rewrite

pytestmark = pytest.mark.skipif(shutil.which("tiffcp") is None, reason="needs tiffcp: apt-get install libtiff-tools")

GREY = np.stack([image(100, 130) + number for number in range(3)])
COLOURS = np.dstack([image() // 16 + number for number in range(3)]).astype(np.uint8)
FLOATS = GREY.astype(np.float32)
LAYOUTS: dict[str, tuple[np.ndarray, list[str]]] = {
    "minisblack": (
        GREY,
        [
            "-c lzw:2 -B",
            "-c zip:2 -t -w 48 -l 64 -8",
            "-c none -r 7 -B",
            "-c packbits -8",
            "-c zstd",
            "-c lzma -r 1000",
        ],
    ),
    "rgb": (COLOURS, ["-p separate -c lzw:2 -B", "-p separate -t -w 32 -l 48 -c zip:2", "-p contig -c none -r 1000"]),
}
LAYOUTS["minisblack, bits reversed"] = (GREY, ["-c none -t -w 32 -l 32 -f lsb2msb", "-c lzw -f lsb2msb -r 5 -B"])
LAYOUTS["minisblack, floats"] = (FLOATS, ["-c zip:3 -r 10", "-c lzw:3 -t -w 64 -l 64"])
CASES = [(name, options) for name, (_, every) in LAYOUTS.items() for options in every]


def tiffcp(options: str, source: Path, target: Path) -> None:
    subprocess.run(["tiffcp", *options.split(), source, target], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_layout_of_libtiff_is_kept_and_read_back(name, options, tmp_path):
    plain, path, out, back = (tmp_path / f"{stem}.tif" for stem in ("plain", "a", "b", "back"))
    data, _ = LAYOUTS[name]
    tifffile.imwrite(plain, data, metadata=None, photometric=name.split(",")[0])
    tiffcp(options, plain, path)
    source, restored = rewrite(path, out)
    apart = "-p separate" in options
    np.testing.assert_array_equal(np.moveaxis(source.data, 0, -1) if apart else source.data, data)
    check_bytes(source, path, out)
    tiffcp("-c none -L", out, back)
    np.testing.assert_array_equal(tifffile.imread(back), restored[0])
