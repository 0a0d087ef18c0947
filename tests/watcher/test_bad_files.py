"""Files that are not complete yet (P5) and files that are bad (P7), given to the real process."""

from __future__ import annotations

import os
import re
import time

import numpy as np
import tifffile

from defocus.engine.tiff.read import read_tiff

from ..helpers.micromanager import write_stack
from ..helpers.waiting import wait_for
from .conftest import outputs, states, whole, write_tiff

QUICK = ("--settle", "0.3", "--rescan", "0.3", "--patience", "1")


def test_p5_a_slow_writer_is_never_taken_early(folders, start, tmp_path):
    acquisition, out = folders
    image = write_tiff(tmp_path / "whole.tif", 3, (120, 150))
    content = (tmp_path / "whole.tif").read_bytes()
    watching = start(*QUICK).ready()
    with open(acquisition / "slow.tif", "wb") as file:
        for offset in range(0, len(content) - 6000, 6000):
            file.write(content[offset : offset + 6000])
            file.flush()
            os.fsync(file.fileno())
            time.sleep(0.45)  # longer than it takes to settle
            assert outputs(out) == []
        file.write(content[offset + 6000 :])
    wait_for(lambda: outputs(out) == ["slow.tif"])
    assert read_tiff(out / "slow.tif").data.shape == image.shape
    assert watching.stop() == 0
    assert "quarantined" not in watching.said()


def test_p5_a_growing_stack_ends_with_all_its_pages(folders, start):
    """Pages appended one by one, each leaving a whole file: the last version wins."""
    acquisition, out = folders
    watching = start(*QUICK).ready()
    rng = np.random.default_rng(0)
    for count in range(1, 7):
        page = rng.integers(0, 900, (64, 64), dtype=np.uint16)
        tifffile.imwrite(acquisition / "grow.tif", page, append=True, metadata=None)
        if count in (2, 4):  # the others come while it is being corrected
            wait_for(lambda count=count: outputs(out) and read_tiff(out / "grow.tif").data.shape[0] >= count)
    wait_for(lambda: outputs(out) and whole(out / "grow.tif") and read_tiff(out / "grow.tif").data.shape[0] == 6)
    assert watching.stop() == 0


def test_p7_bad_files_are_set_aside_with_their_reason_and_the_rest_goes_on(folders, start, tmp_path):
    acquisition, out = folders
    write_tiff(tmp_path / "whole.tif", 0, (100, 100))
    content = (tmp_path / "whole.tif").read_bytes()
    (acquisition / "cut.tif").write_bytes(content[:5000])
    (acquisition / "text.tif").write_text("Dear diary,\nno TIFF today\n")
    (acquisition / "empty.tif").write_bytes(b"")
    tifffile.imwrite(acquisition / "complex.tif", np.zeros((8, 8), np.complex64))
    tifffile.imwrite(acquisition / "nan.tif", np.full((64, 64), np.nan, np.float32))
    write_stack(acquisition / "stopped.tif", np.full((2, 8, 8), 100, np.uint16))
    stopped = (acquisition / "stopped.tif").read_bytes()
    (acquisition / "stopped.tif").write_bytes(stopped[: stopped.index(b'{"Frame":1}') - 2 * 64 - 126])
    write_tiff(acquisition / "good.tif", 1)
    watching = start("--once", *QUICK)
    assert watching.process.wait(300) == 1
    assert outputs(out) == ["good.tif"]
    found = states(out)
    assert found == {"good.tif": "done"} | dict.fromkeys(
        ["cut.tif", "text.tif", "empty.tif", "complex.tif", "nan.tif", "stopped.tif"], "quarantined"
    )
    listed = watching.said().split("quarantined (6):")[1]
    for name, reason in {
        "cut.tif": "truncated",
        "text.tif": "not a TIFF",
        "empty.tif": "0 bytes",
        "complex.tif": "complex64",
        "nan.tif": "NaN",
        "stopped.tif": "page 1 is not written; wait until it is complete; if its acquisition was stopped,",
    }.items():
        (line,) = [line for line in listed.splitlines() if line.startswith(f"  {name}:")]
        assert reason in line
    assert "Traceback" not in watching.said()
    assert re.search(r"^1 corrected, 0 kept, 6 quarantined, \d+ (s|min)$", watching.said().splitlines()[-1])


def test_p7_a_repaired_file_is_a_new_version(folders, start):
    acquisition, out = folders
    (acquisition / "a.tif").write_text("broken")
    watching = start(*QUICK).ready()
    wait_for(lambda: "quarantined" in watching.said())
    write_tiff(acquisition / "a.tif", 1)
    wait_for(lambda: outputs(out) == ["a.tif"])
    wait_for(lambda: states(out) == {"a.tif": "done"})
    first = read_tiff(out / "a.tif").data
    write_tiff(acquisition / "a.tif", 2)
    wait_for(lambda: not np.array_equal(read_tiff(out / "a.tif").data, first))
    assert watching.stop() == 0
