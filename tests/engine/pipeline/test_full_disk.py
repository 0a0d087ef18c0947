"""A disk that is really full: a tmpfs of a few hundred kilobytes, written to the brim."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


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


def test_the_daemon_waits_for_room_and_goes_on(small_disk, tmp_path, tiny_model):
    acquisition, out = tmp_path / "acq", small_disk / "out"
    acquisition.mkdir()
    tifffile.imwrite(acquisition / "a.tif", np.random.default_rng(0).integers(0, 60000, (200, 250), dtype=np.uint16))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(190 * 1024))
    command = [sys.executable, "-m", "defocus.watcher.cli", str(acquisition), "-o", str(out)]
    command += ["--model", str(tiny_model), "--settle", "0.2", "--rescan", "0.2", "--min-free-mb", "0"]
    log = open(tmp_path / "log.txt", "w+")  # noqa: SIM115
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        said = _wait(lambda: (tmp_path / "log.txt").read_text(), lambda text: "paused" in text)
        assert "the disk is full" in said
        ballast.unlink()
        _wait(lambda: (out / "a.tif").exists(), bool)
        assert tifffile.imread(out / "a.tif").shape == (200, 250)
    finally:
        process.terminate()
        assert process.wait(20) == 0
        log.close()
    assert "set aside" not in (tmp_path / "log.txt").read_text()


def _wait(look, good, seconds: float = 20.0):
    import time

    end = time.monotonic() + seconds
    while not good(found := look()):
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found
