"""Long soaks, run by `make soak`."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from defocus.engine.files.atomic import PREFIX, SUFFIX
from defocus.engine.tiff.read import read_tiff

from .conftest import outputs, write_tiff


@pytest.mark.slow
def test_sixty_kills_at_random_moments_lose_and_double_nothing(folders, start, tmp_path):
    """Files keep arriving and being rewritten while the daemon is killed again and again."""
    acquisition, out = folders
    rng = random.Random(0)
    for round_ in range(60):
        for index in range(5):
            # Five new names a round; every third round the first ones are written again.
            name = f"{index if round_ % 3 == 2 else 5 * round_ + index:03d}.tif"
            write_tiff(acquisition / name, 1000 * round_ + index, (96, 96))
        watching = start("--settle", "0.1", "--rescan", "0.2")
        time.sleep(rng.uniform(0.3, 1.5))  # any moment may be that of the kill
        watching.kill()
    last = start("--once", "--settle", "0.1", "--rescan", "0.2")
    assert last.process.wait(300) == 0, last.said()
    assert outputs(out) == outputs(acquisition)
    assert list(out.rglob(f"{PREFIX}*{SUFFIX}")) == []
    clean = tmp_path / "clean"
    assert start("-o", str(clean), "--once", "--settle", "0.1").process.wait(300) == 0
    for name in outputs(clean):
        np.testing.assert_array_equal(read_tiff(out / name).data, read_tiff(clean / name).data)


COMMIT_STEPS = ("tiff.write", "fsync", "replace", "fsync_folder", "record")


@pytest.mark.slow
def test_two_hundred_kills_at_every_step_of_the_commit_give_the_set_of_a_clean_run(tmp_path, tiny_model):
    """The process kills itself with SIGKILL at the n-th call of one step; 40 rounds for each of five steps."""
    import subprocess
    import sys

    acquisition, out, clean = (tmp_path / name for name in ("acq", "out", "clean"))
    acquisition.mkdir()
    for index in range(8):
        write_tiff(acquisition / f"{index}.tif", index)
    script = tmp_path / "suicide.py"
    script.write_text(SUICIDE)
    arguments = ["--model", str(tiny_model), "--backend", "cpu", "--once", "--settle", "0.05", "--rescan", "0.1"]

    def run(folder, step="never", call=0) -> int:
        line = [sys.executable, str(script), step, str(call), str(acquisition), "-o", str(folder), *arguments]
        return subprocess.run(line, capture_output=True, timeout=300).returncode

    assert run(clean) == 0
    killed, over = 0, False
    for round_ in range(200):
        step, call = COMMIT_STEPS[round_ % len(COMMIT_STEPS)], round_ // len(COMMIT_STEPS) % 4
        if over:  # all was done in spite of the kills: begin anew
            for path in sorted(out.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
        over = (code := run(out, step, call)) == 0
        assert code in (0, -9)
        killed += not over
        assert not [name for name in outputs(out) if not (clean / name).exists()]
    assert killed >= 120
    assert run(out) == 0
    assert outputs(out) == outputs(clean) == outputs(acquisition)
    assert list(out.rglob(f"{PREFIX}*{SUFFIX}")) == []
    for name in outputs(clean):
        ours, theirs = (_without_times(folder / name) for folder in (out, clean))
        assert ours == theirs, name


SUICIDE = '''
"""defocus-watch that dies by SIGKILL at the n-th call of a step: STEP N ARGUMENTS."""
import os, signal, sys
step, call = sys.argv[1], int(sys.argv[2])
sys.argv[1:3] = []
from defocus.engine.pipeline import steps
from defocus.watcher import journal
seen = {"n": 0}

def deadly(owner, name, after=False):
    whole = getattr(owner, name)
    def call_it(*a, **k):
        if any(".defocus" + os.sep in str(argument) for argument in a):  # of the lock, not of an output
            return whole(*a, **k)
        n = seen["n"]
        seen["n"] += 1
        if n == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = whole(*a, **k)
        if n == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, call_it)

if step == "tiff.write":
    deadly(steps, "write_tiff", after=True)
elif step == "fsync":
    deadly(os, "fsync")
elif step == "replace":
    deadly(os, "replace")
elif step == "fsync_folder":
    deadly(os, "replace", after=True)
elif step == "record":
    deadly(journal.Journal, "record")
from defocus.watcher.cli import main
main()
'''


def _without_times(path):
    """A file's bytes without the numbers that differ between any two runs: none do, but for times of making."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        tags = {
            tag.code: tag.value
            for tag in tif.pages.first.tags
            if tag.name not in ("StripOffsets", "StripByteCounts", "DateTime")
        }
        return str(tags).encode() + tif.asarray().tobytes()
