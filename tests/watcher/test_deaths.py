"""A file over which the process dies is given up after a few deaths, and the others are corrected."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from defocus.watcher.journal import Journal

from .conftest import QUICK, journal, outputs, states, write_tiff

# The real program, which the system ends as soon as it has read the pixels of one file, as for want of memory.
POISONED = """
import os, signal
from pathlib import Path
from defocus.engine.pipeline import steps
real = steps.read_tiff
def read_tiff(path, *rest, **more):
    stack = real(path, *rest, **more)
    if Path(path).name == "poison.tif":
        os.kill(os.getpid(), signal.SIGKILL)
    return stack
steps.read_tiff = read_tiff
from defocus.watcher.cli import main
main()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_file_that_kills_the_process_is_quarantined_after_three_deaths(folders, tiny_model):
    acquisition, out = folders
    for seed, name in enumerate(["poison.tif", "a.tif", "b.tif", "c.tif"]):
        write_tiff(acquisition / name, seed)
    line = [sys.executable, "-c", POISONED, str(acquisition), "-o", str(out), "--model", str(tiny_model)]
    line += ["--backend", "cpu", "--all-planes", "--once", "--retries", "3", *QUICK]
    ends = [subprocess.run(line, capture_output=True, timeout=300).returncode for _ in range(4)]
    assert ends == [-signal.SIGKILL] * 3 + [1]
    assert outputs(out) == ["a.tif", "b.tif", "c.tif"]
    assert states(out) == {"poison.tif": "quarantined", "a.tif": "done", "b.tif": "done", "c.tif": "done"}
    assert "was ended 3 times while it was correcting it" in journal(out)["poison.tif"][1]


def test_what_was_only_left_is_no_death(tmp_path):
    stat, path = (1, 1), Path("a.tif")
    with Journal(tmp_path) as first:
        first.begin([(path, stat)])
    with Journal(tmp_path) as second:
        assert second.deaths(path, stat) == 1
        assert second.deaths(path, (2, 2)) == 0  # another version is another file
        second.begin([(path, stat)])
        second.leave([(path, stat)])
    with Journal(tmp_path) as third:
        assert third.deaths(path, stat) == 1
        third.begin([(path, stat)])
    with Journal(tmp_path) as fourth:
        assert fourth.deaths(path, stat) == 2
        fourth.forget("a.tif")
        assert fourth.deaths(path, stat) == 0
    with Journal(tmp_path) as fifth:
        assert fifth.deaths(path, stat) == 0
