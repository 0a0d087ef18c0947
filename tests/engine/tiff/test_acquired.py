"""Files as pymmcore-plus writes them, by each of its writers: the output is the input with other pixels."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from .test_replace import check_bytes, rewrite

MICROSCOPE = Path(__file__).parents[2] / "watcher" / "discovery" / "microscope.py"
TIMES = 2
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pymmcore_plus") is None, reason="needs pymmcore-plus: pip install 'pymmcore-plus[io]'"
)


def described(path: Path) -> list[object]:
    """What tifffile makes of a file, or of the set that it belongs to: texts, axes, shapes."""
    with tifffile.TiffFile(path) as tif:
        series = [(one.name, one.axes, one.shape, str(one.dtype)) for one in tif.series]
        return [tif.ome_metadata, tif.pages.first.description, len(tif.pages), series]


@pytest.mark.parametrize(
    ("writer", "positions", "files"),
    [("", 1, 1), ("", 3, 3), ("tifffile", 1, 1), ("tifffile", 3, 3), ("sequence", 1, 12)],
    ids=["ome-writers", "ome-writers, positions", "tifffile", "tifffile, positions", "a file a picture"],
)
def test_what_pymmcore_plus_writes_comes_back_with_other_pixels(writer, positions, files, tmp_path):
    target = tmp_path / "in" / ("a" if writer == "sequence" else "a.ome.tif")
    target.parent.mkdir()
    line = [sys.executable, str(MICROSCOPE), str(target), str(TIMES), "0", writer, str(positions)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    paths = sorted((tmp_path / "in").rglob("*.tif"))
    assert len(paths) == files
    pictures = []
    for path in paths:
        out = tmp_path / "out" / path.relative_to(tmp_path / "in")
        out.parent.mkdir(parents=True, exist_ok=True)
        source, restored = rewrite(path, out)
        check_bytes(source, path, out)
        pictures += [plane for data in restored for plane in data.reshape(-1, *data.shape[-2:])]
        if files == 1:
            assert source.axes == "TCZYX"
    # The camera counts its pictures: none is missing, none is there twice.
    levels = np.sort([plane.mean() for plane in pictures])
    assert len(levels) == 6 * TIMES * positions
    assert (np.diff(levels) > 40).all()
    for path in paths:
        assert described(tmp_path / "out" / path.relative_to(tmp_path / "in")) == described(path)
