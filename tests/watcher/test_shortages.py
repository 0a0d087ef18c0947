"""Too few file descriptors and little memory, of the real process: told as that, and nothing waits for ever."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from errno import EMFILE

import pytest

from ..helpers.waiting import wait_for
from .conftest import command, listing, outputs, states, write_tiff
from .test_faults import QUICK, begin, check_end, faults, looked_at_again, shim  # noqa: F401  fixtures

TOO_FEW = "not enough file descriptors for"


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of a process")
@pytest.mark.parametrize("descriptors", [6, 8, 10])
def test_once_with_few_descriptors_does_its_work_or_ends_with_a_line(folders, tiny_model, descriptors):
    import resource

    acquisition, out = folders
    for seed in range(3):
        write_tiff(acquisition / f"{seed}.tif", seed)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    arguments = (acquisition, "-o", out, "--model", tiny_model, "--backend", "cpu", "--once", *QUICK)
    done = command(*arguments, preexec_fn=limit)
    if done.returncode == 0:
        assert outputs(out) == ["0.tif", "1.tif", "2.tif"]
    else:
        assert done.returncode == 1
        assert TOO_FEW in done.stderr.splitlines()[-1]
        assert len(done.stderr.splitlines()) == 1


def test_descriptors_that_run_out_for_a_while_cost_no_file(folders, begin, faults):  # noqa: F811
    acquisition, _ = folders
    watching = begin("--retries", "2")
    with faults.during(("open", EMFILE, f"{acquisition}/*.tif")):
        for seed in range(3):
            write_tiff(acquisition / f"{seed}.tif", seed)
        wait_for(lambda: f"tif: {TOO_FEW} reading it" in watching.said() and "paused: " in watching.said())
        looked_at_again(faults, 12)
        assert "quarantined" not in watching.said()
        assert watching.said().count("paused: ") == 1
    check_end(watching, ["0.tif", "1.tif", "2.tif"], listing(acquisition))


@pytest.mark.parametrize("place", ["", "/plate"])
def test_a_folder_that_no_descriptor_is_left_for_is_told_as_that(folders, begin, faults, place):  # noqa: F811
    acquisition, _ = folders
    (acquisition / "plate").mkdir()
    watching = begin("--polling")
    with faults.during(("scandir", EMFILE, f"{acquisition}{place}")):
        write_tiff(acquisition / "plate" / "a.tif")
        looked_at_again(faults)
        wait_for(lambda: f"{acquisition}: {TOO_FEW} looking for files" in watching.said())
    check_end(watching, ["plate/a.tif"], listing(acquisition))
    assert watching.said().count(TOO_FEW) == 1


def test_the_journal_tells_of_too_few_descriptors(folders, begin, faults):  # noqa: F811
    acquisition, out = folders
    watching = begin()
    with faults.during(("open", EMFILE, f"{out}/.defocus/journal.sqlite*")):
        write_tiff(acquisition / "a.tif")
        wait_for(lambda: f"journal.sqlite: {TOO_FEW} writing it" in watching.said())
    check_end(watching, ["a.tif"], listing(acquisition))


def test_an_output_that_no_descriptor_is_left_for_is_not_called_foreign(folders, begin, faults):  # noqa: F811
    acquisition, out = folders
    watching = begin()
    write_tiff(acquisition / "a.tif")
    wait_for(lambda: states(out) == {"a.tif": "done"})
    watching.kill()
    with closing(sqlite3.connect(out / ".defocus" / "journal.sqlite")) as connection, connection:
        connection.execute("DELETE FROM files")  # as if it was killed before it wrote that down
    made = (out / "a.tif").stat().st_mtime_ns
    with faults.during(("open", EMFILE, f"{out}/a.tif")):
        watching = begin("--retries", "2")
        wait_for(lambda: f"a.tif: {TOO_FEW} looking into it" in watching.said())
        looked_at_again(faults)
    check_end(watching, ["a.tif"], listing(acquisition))
    assert (out / "a.tif").stat().st_mtime_ns == made
    assert "quarantined" not in watching.said()


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of a process")
@pytest.mark.parametrize("megabytes", [60, 90, 100, 110, 150, 200])
def test_a_start_with_little_memory_is_one_line(folders, tiny_model, megabytes):
    """OpenBLAS printed a line of its own in some of them and ended the process, without one of ours."""
    import resource

    acquisition, out = folders
    limits = (megabytes << 20, megabytes << 20)
    done = command(
        *(acquisition, "-o", out, "--model", tiny_model, "--backend", "cpu", "--once", *QUICK),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limits),
    )
    assert done.returncode == 1
    assert [line.partition(": ")[2] for line in done.stderr.splitlines()] == [
        "not enough memory; use a smaller --tile or free memory"
    ]
