"""Shares that go away while files are in the queue, with each error that file systems give: no file is to blame.

Every call on a path below the folder fails, by the shim of faults.py, until the share is back. One attempt a file is
all there is, so that a single one that is counted would show.
"""

from __future__ import annotations

import signal
from errno import EHOSTDOWN, EIO, ENOTCONN, EROFS, ESTALE

import pytest

from ..helpers.faults import name_of
from ..helpers.waiting import wait_for
from .conftest import free_port, listing, outputs, states, write_tiff
from .status.test_status import ask
from .test_faults import begin, check_end, faults, shim  # noqa: F401  fixtures

NAMES = [f"{number:02}.tif" for number in range(30)]


@pytest.mark.parametrize("number", [ENOTCONN, ESTALE, EHOSTDOWN, EIO], ids=name_of)
@pytest.mark.parametrize("side", ["acq", "out"])
def test_a_share_that_is_away_for_a_while_costs_no_file(folders, begin, faults, side, number):  # noqa: F811
    acquisition, out = folders
    port = free_port()
    watching = begin("--status", str(port), "--retries", "1", "--min-free-mb", "0")
    for seed, name in enumerate(NAMES):
        write_tiff(acquisition / name, seed, (300, 400))
    before = listing(acquisition)
    wait_for(lambda: outputs(out))
    with faults.during(("any", number, f"{folders[side == 'out']}*")):
        wait_for(lambda: ask(port, "/healthz")[0] == 503)
        # An output that is back before its first failure is looked into would be that file's fault.
        wait_for(lambda: side == "acq" or "paused: " in watching.said())
        met = len(faults.met())
        wait_for(lambda: len(faults.met()) > met + 10)  # it goes on trying, whatever was queued
        assert watching.process.poll() is None, watching.said()
    wait_for(lambda: outputs(out) == NAMES)
    wait_for(lambda: ask(port, "/healthz")[0] == 200)
    wait_for(lambda: states(out) == dict.fromkeys(NAMES, "done"))
    assert watching.stop() == 0
    check_end(begin(), NAMES, before)  # a temporary that could not be removed from the share is by the next start
    assert "quarantined" not in watching.said()
    assert len([line for line in watching.said().splitlines() if ": corrected in" not in line]) < 20  # not one a file


def test_a_reload_and_the_end_do_not_wait_for_an_output_that_is_away(folders, begin, faults):  # noqa: F811
    acquisition, out = folders
    port = free_port()
    watching = begin("--status", str(port), "--min-free-mb", "0")
    with faults.during(("any", ENOTCONN, f"{out}*")):
        write_tiff(acquisition / "a.tif")
        wait_for(lambda: ask(port, "/healthz")[0] == 503)
        watching.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "; trying again" in watching.said())
    wait_for(lambda: states(out) == {"a.tif": "done"})
    with faults.during(("any", ENOTCONN, f"{out}*")):
        write_tiff(acquisition / "b.tif")
        wait_for(lambda: ask(port, "/healthz")[0] == 503)
        assert watching.stop() == 0
    assert "unexpected" not in watching.said()


def test_an_output_that_cannot_be_looked_into_just_now_is_not_called_foreign(folders, begin, faults):  # noqa: F811
    """Killed before the journal knew of it: the next start finds an output there, on a disk that cannot be read."""
    acquisition, out = folders
    write_tiff(acquisition / "a.tif")
    watching = begin()
    wait_for(lambda: outputs(out) == ["a.tif"])
    watching.kill()
    (out / ".defocus" / "journal.sqlite").unlink()
    made = (out / "a.tif").stat().st_mtime_ns
    with faults.during(("open", EIO, f"{out}/a.tif")):
        watching = begin("--retries", "100")
        wait_for(lambda: "will try again: " in watching.said())
    check_end(watching, ["a.tif"], listing(acquisition))
    assert f"will try again: {out / 'a.tif'}: cannot be read" in watching.said()
    assert "quarantined" not in watching.said()
    assert (out / "a.tif").stat().st_mtime_ns == made


def test_a_disk_that_is_read_only_is_told_as_that(folders, begin, faults):  # noqa: F811
    acquisition, out = folders
    watching = begin()
    with faults.during(("open", EROFS, f"{out}/.defocus-*")):
        write_tiff(acquisition / "a.tif")
        wait_for(lambda: "paused: " in watching.said())
    check_end(watching, ["a.tif"], listing(acquisition))
    assert "the disk is read-only; check the disk and mount it for writing" in watching.said()
