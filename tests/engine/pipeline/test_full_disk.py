"""A disk that is really full: a tmpfs of a few hundred kilobytes, written to the brim."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tifffile


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_a_full_disk_is_one_line_and_leaves_nothing(small_disk, tmp_path, tiny_model, compression):
    image = np.random.default_rng(0).integers(0, 60000, (400, 500), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image, compression=compression)
    before = (tmp_path / "a.tif").read_bytes()
    command = [sys.executable, "-m", "defocus.engine.cli.run", str(tmp_path / "a.tif"), "-o", str(small_disk)]
    done = subprocess.run([*command, "--model", str(tiny_model)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    errors = done.stderr.strip().splitlines()
    assert len(errors) == 2, done.stderr  # the file's line and the summary
    assert "the disk is full; free some space" in errors[0]
    assert list(small_disk.iterdir()) == []
    assert (tmp_path / "a.tif").read_bytes() == before
