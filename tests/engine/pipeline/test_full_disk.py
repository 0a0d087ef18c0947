"""A disk that is really full: a tmpfs of a few hundred kilobytes, written to the brim."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tifffile


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize(
    ("shape", "ballast", "cause"),
    [
        ((200, 250), 190 * 1024, "the disk is full: the output takes"),
        ((400, 500), 0, "of the output's disk, which has"),
    ],
    ids=["full", "too small"],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    small_disk, tmp_path, tiny_model, compression, shape, ballast, cause
):
    image = np.random.default_rng(0).integers(0, 60000, shape, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image, compression=compression)
    before = (tmp_path / "a.tif").read_bytes()
    (small_disk / "ballast").write_bytes(bytes(ballast))
    command = [sys.executable, "-m", "defocus.engine.cli.run", str(tmp_path / "a.tif"), "-o", str(small_disk)]
    done = subprocess.run([*command, "--model", str(tiny_model)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    errors = done.stderr.strip().splitlines()
    assert len(errors) == 2, done.stderr  # the file's line and the summary
    assert cause in errors[0]
    assert "choose another output folder with -o" in errors[0]
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
    assert (tmp_path / "a.tif").read_bytes() == before
