"""EIO, EBUSY, ENOSPC and hanging calls, injected into the real process by the shim of faults.py.

Each fault begins while defocus-watch runs, and ends; then every file must be corrected, or quarantined with its reason.
"""

from __future__ import annotations

import json
import os
import threading
import time
from errno import EBUSY, EIO, ENOSPC
from pathlib import Path

import numpy as np
import pytest

from defocus.engine.files.atomic import PREFIX
from defocus.engine.tiff.read import read_tiff

from ..helpers.faults import Faults, compiled, name_of
from ..helpers.waiting import wait_for
from .conftest import Watching, free_port, listing, outputs, states, whole, write_tiff
from .status.test_status import ask, state

QUICK = ("--settle", "0.1", "--rescan", "0.2", "--patience", "0.8")
# The real program; only its pause after an output that could not be written is shorter than 5 s.
HASTY = """
import defocus.watcher.output.disk_space
defocus.watcher.output.disk_space.PAUSE = 0.2
from defocus.watcher.cli import main
main()
"""


@pytest.fixture(scope="session")
def shim(tmp_path_factory) -> Path:
    library = compiled(tmp_path_factory.mktemp("shim"))
    if library is None:
        pytest.skip("needs Linux and a C compiler: apt-get install gcc")
    return library


@pytest.fixture
def faults(shim, tmp_path) -> Faults:
    folder = tmp_path / "faults"
    folder.mkdir()
    return Faults(folder, shim)


@pytest.fixture
def begin(start, faults):
    """Start defocus-watch with the shim in it."""

    def begin(*arguments: str) -> Watching:
        return start(*QUICK, *arguments, environment=faults.environment, program=("-c", HASTY)).ready()

    return begin


def lines(watching: Watching, name: str) -> list[str]:
    """What was said of a file, but for its being corrected."""
    return [line for line in watching.said().splitlines() if name in line and ": corrected in" not in line]


def looked_at_again(faults: Faults, times: int = 3) -> None:
    """Wait until the calls that fail have been made some more times."""
    met = len(faults.met())
    wait_for(lambda: len(faults.met()) >= met + times)


def check_end(watching: Watching, names: list[str], before: dict) -> None:
    """All corrected, nothing half-written, the input untouched, one process from the first to the last."""
    wait_for(lambda: outputs(watching.out) == names)
    wait_for(lambda: states(watching.out) == dict.fromkeys(names, "done"))
    assert watching.stop() == 0
    assert listing(watching.acquisition) == before
    for name in names:
        read_tiff(watching.out / name)
    assert list(watching.out.rglob(f"{PREFIX}*")) == []
    assert "Traceback" not in watching.said()
    assert "unexpected" not in watching.said()


@pytest.mark.parametrize("number", [EIO, EBUSY, ENOSPC], ids=name_of)
def test_an_output_that_cannot_be_written_is_said_and_tried_again(folders, begin, faults, number):
    """At each call of the commit in turn: the temporary is opened, written, synced and renamed, its folder synced."""
    acquisition, out = folders
    watching = begin()
    calls = {
        "open": ("open", number, f"{out}/{PREFIX}*"),
        "write": ("write", number, f"{out}/{PREFIX}*"),
        "fsync": ("fsync", number, f"{out}/{PREFIX}*"),
        "rename": ("rename", number, f"{out}/rename.tif"),
        "folder": ("fsync", number, str(out)),
    }
    for name, rule in calls.items():
        with faults.during(rule):
            write_tiff(acquisition / f"{name}.tif", 1, compression="lzw" if name == "write" else None)
            wait_for(lambda name=name: lines(watching, f"{name}.tif"))
            if name != "folder":  # that one fails after the rename
                assert not (out / f"{name}.tif").exists()
            assert list(out.glob(f"{PREFIX}*")) == []
        wait_for(lambda name=name: states(out).get(f"{name}.tif") == "done")
        said = [line for line in watching.said().splitlines() if line.startswith(("paused: ", "will try again: "))][-1]
        if name == "rename":  # that one fails for this file alone: the folder is not paused
            assert said.startswith(f"will try again: {out / name}.tif: "), said
        else:
            assert said.startswith(f"paused: {out / name}.tif: "), said
        expected = "the disk is full" if number == ENOSPC else {EIO: "Input/output error", EBUSY: "busy"}[number]
        assert expected in said, said
    check_end(watching, sorted(f"{name}.tif" for name in calls), listing(acquisition))


def test_a_write_that_ends_short_on_a_disk_with_room_is_not_called_full(folders, begin, faults):
    """Pixels without compression go through the C library's own buffer, which hides the number of the error."""
    acquisition, out = folders
    watching = begin()
    with faults.during(("write", EIO, f"{out}/{PREFIX}*")):
        write_tiff(acquisition / "a.tif", 1, (500, 500))
        wait_for(lambda: lines(watching, "a.tif"))
    assert "cannot be written" in lines(watching, "a.tif")[0]
    assert "full" not in lines(watching, "a.tif")[0]
    check_end(watching, ["a.tif"], listing(acquisition))


def unreadable(acquisition: Path) -> dict[str, tuple[str, int, str]]:
    """Every way in which a file cannot be read: a name for each, and its rule."""
    ways = [(call, number) for call in ("open", "read") for number in (EIO, EBUSY)]
    names = {f"{call}-{name_of(number)}.tif": (call, number) for call, number in ways}
    return {name: (call, number, f"{acquisition}/{name}") for name, (call, number) in names.items()}


def test_inputs_that_cannot_be_read_for_a_moment_are_corrected_afterwards(folders, begin, faults):
    acquisition, out = folders
    watching = begin("--patience", "30")
    rules = unreadable(acquisition)
    with faults.during(*rules.values()):
        for seed, name in enumerate(rules):
            write_tiff(acquisition / name, seed)
        wait_for(lambda: {rule[0] for rule in rules.values()} == {line.split()[0] for line in faults.met()})
        looked_at_again(faults)
        assert outputs(out) == []
    check_end(watching, sorted(rules), listing(acquisition))


def test_inputs_that_can_never_be_read_are_set_aside_with_the_reason(folders, begin, faults):
    acquisition, out = folders
    port = free_port()
    watching = begin("--status", str(port))
    rules = unreadable(acquisition)
    with faults.during(*rules.values()):
        for seed, name in enumerate(rules):
            write_tiff(acquisition / name, seed)
        write_tiff(acquisition / "good.tif", 9)  # the rest goes on
        wait_for(lambda: states(out) == dict.fromkeys(rules, "quarantined") | {"good.tif": "done"})
        write_tiff(acquisition / "later.tif", 8)
        wait_for(lambda: states(out).get("later.tif") == "done")
        for name, (_, number, _) in rules.items():  # one line, however often it is looked at
            (said,) = lines(watching, name)
            assert said.startswith(f"quarantined: {acquisition / name}: cannot be read ({os.strerror(number)})"), said
    # The disk is mended, the files still have their old size and time: they are asked for.
    for name in rules:
        retry = {"folder": 0, "file": name}
        assert ask(port, "/api/retry", retry, X_Defocus=state(port)["csrf"])[0] == 200
    check_end(watching, sorted([*rules, "good.tif", "later.tif"]), listing(acquisition))


def test_an_input_that_fails_only_when_its_pixels_are_read_is_tried_three_times(folders, begin, faults):
    """It was found complete, for its headers can be read."""
    acquisition, out = folders
    watching = begin("--retries", "3")
    with faults.during(("bulk", EIO, "*/a.tif")):
        write_tiff(acquisition / "a.tif", 1, (700, 700))
        wait_for(lambda: states(out).get("a.tif") == "quarantined")
    said = lines(watching, "a.tif")
    assert [line.partition(": ")[0] for line in said] == ["will try again", "will try again", "quarantined"], said
    assert all("cannot be read (Input/output error)" in line for line in said), said
    assert watching.stop() == 0


def test_a_folder_that_cannot_be_listed_is_said_and_waited_for(folders, begin, faults):
    acquisition, out = folders
    port = free_port()
    watching = begin("--polling", "--status", str(port))
    ways = [(call, number) for call in ("scandir", "readdir") for number in (EIO, EBUSY)]
    for count, (call, number) in enumerate(ways, 1):
        with faults.during((call, number, str(acquisition))):
            wait_for(lambda: ask(port, "/healthz")[0] == 503)
            write_tiff(acquisition / f"{count}.tif", count)
            (problem,) = json.loads(ask(port, "/healthz")[2])["problems"]
            assert problem == f"{acquisition}: cannot be reached"
            looked_at_again(faults)
            assert len(outputs(out)) == count - 1
            assert watching.said().count(f"cannot be reached ({os.strerror(number)})") in (1, 2)  # once a call
        wait_for(lambda count=count: len(outputs(out)) == count)
        wait_for(lambda: ask(port, "/healthz")[0] == 200)
        assert watching.said().count("cannot be reached") == watching.said().count("is back") == count
    check_end(watching, ["1.tif", "2.tif", "3.tif", "4.tif"], listing(acquisition))


def test_a_subfolder_that_cannot_be_listed_is_said_and_the_rest_goes_on(folders, begin, faults):
    acquisition, out = folders
    (acquisition / "plate").mkdir()
    watching = begin("--polling")
    with faults.during(("scandir", EIO, f"{acquisition}/plate")):
        write_tiff(acquisition / "plate" / "a.tif", 1)
        write_tiff(acquisition / "b.tif", 2)
        wait_for(lambda: outputs(out) == ["b.tif"])
        looked_at_again(faults)
        assert watching.said().count(f"{acquisition / 'plate'}: cannot be read") == 1
    check_end(watching, ["b.tif", "plate/a.tif"], listing(acquisition))


def test_the_observer_comes_back_after_a_listing_that_failed_between(folders, begin, faults):
    """With events: the folder is listed once more after the observer was started, and that may fail as well."""
    acquisition, out = folders
    watching = begin()
    for name in ("a.tif", "b.tif", "c.tif"):
        with faults.during(("scandir", EIO, str(acquisition))):
            write_tiff(acquisition / name, 1)
            looked_at_again(faults, 2)
        wait_for(lambda name=name: name in outputs(out))
    check_end(watching, ["a.tif", "b.tif", "c.tif"], listing(acquisition))


def test_a_journal_that_fails_for_a_moment_stops_nothing(folders, begin, faults):
    acquisition, out = folders
    watching = begin()
    write_tiff(acquisition / "a.tif", 1)
    wait_for(lambda: states(out) == {"a.tif": "done"})
    calls = ["open", "read", "write", "fsync"]
    for count, call in enumerate(calls, 1):
        with faults.during((call, EIO, f"{out}/.defocus/journal.sqlite*")):
            write_tiff(acquisition / f"{call}.tif", count)
            wait_for(lambda count=count: watching.said().count("journal.sqlite: cannot be written") >= count)
            looked_at_again(faults, 1)
            assert watching.process.poll() is None, watching.said()
        wait_for(lambda name=f"{call}.tif": states(out).get(name) == "done" and f"{name}: corrected" in watching.said())
    assert watching.said().count("journal.sqlite: cannot be written") == len(calls)  # once each
    assert [watching.said().count(f"{call}.tif: corrected in") for call in calls] == [1] * len(calls)  # not made again
    check_end(watching, sorted(["a.tif", *(f"{call}.tif" for call in calls)]), listing(acquisition))


@pytest.mark.parametrize(
    ("damage", "next_start"), [(b"rubbish ", "kept as journal.sqlite.damaged-"), (b"", "watching")]
)
def test_a_journal_that_is_damaged_in_use_ends_it_and_the_next_start_begins_anew(folders, begin, damage, next_start):
    acquisition, out = folders
    watching = begin()
    for seed in range(3):
        write_tiff(acquisition / f"{seed}.tif", seed)
    wait_for(lambda: len(states(out)) == 3)
    made = [(out / name).stat().st_mtime_ns for name in outputs(out)]
    journal = out / ".defocus" / "journal.sqlite"
    journal.write_bytes(damage * (journal.stat().st_size // 8))
    write_tiff(acquisition / "3.tif", 3)
    assert watching.process.wait(300) == 1
    said = watching.said().splitlines()[-1]
    assert "was damaged while it was in use" in said
    assert "start defocus-watch again" in said
    again = begin()
    wait_for(lambda: next_start in again.said())
    check_end(again, [f"{seed}.tif" for seed in range(4)], listing(acquisition))
    assert [(out / f"{seed}.tif").stat().st_mtime_ns for seed in range(3)] == made  # their outputs say what they are


def test_a_share_that_hangs_for_seconds_costs_only_seconds(folders, begin, faults):
    """Every read of it takes 3 s longer; meanwhile the page answers and a writer is not disturbed."""
    acquisition, out = folders
    port = free_port()
    watching = begin("--polling", "--status", str(port))
    with faults.during(("open", 0, f"{acquisition}/*"), ("scandir", 0, f"{acquisition}"), seconds=3.0):
        for index in range(3):
            write_tiff(acquisition / f"{index}.tif", index)
        end, slowest = time.monotonic() + 7.0, 0.0
        while time.monotonic() < end:
            asked = time.monotonic()
            assert ask(port, "/healthz")[0] == 200  # a hang of seconds is none that a restart would heal
            slowest = max(slowest, time.monotonic() - asked)
        assert slowest < 3.0  # it does not wait for the share
        assert all(whole(out / name) for name in outputs(out))
    check_end(watching, ["0.tif", "1.tif", "2.tif"], listing(acquisition))


def test_it_stops_while_the_share_hangs(folders, begin, faults):
    acquisition, _ = folders
    watching = begin("--polling")
    write_tiff(acquisition / "a.tif", 1)
    with faults.during(("read", 0, f"{acquisition}/*"), ("scandir", 0, f"{acquisition}"), seconds=1.0):
        wait_for(lambda: faults.met())
        assert watching.stop() == 0


def test_nobody_sees_half_a_file_while_writes_fail_at_random(folders, begin, faults):
    """Writes, syncs and renames fail and work in turns, and a reader looks all the time."""
    acquisition, out = folders
    watching = begin("--retries", "100")  # as many as a slow machine may need
    partial, stop = [], threading.Event()

    def look() -> None:
        while not stop.wait(0.005):
            partial.extend(name for name in outputs(out) if not whole(out / name))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        rng = np.random.default_rng(0)
        for index in range(12):  # each call with each error
            write_tiff(acquisition / f"{index % 8}.tif", index, (200, 260))
            call = ("write", "fsync", "rename", "open")[index % 4]
            pattern = f"{out}/*.tif" if call == "rename" else f"{out}/{PREFIX}*"
            with faults.during((call, (EIO, EBUSY, ENOSPC)[index % 3], pattern)):
                looked_at_again(faults, 1)
            time.sleep(rng.uniform(0.0, 0.2))  # how long none comes
        check_end(watching, [f"{index}.tif" for index in range(8)], listing(acquisition))
    finally:
        stop.set()
        reader.join()
    assert partial == []


def test_a_start_on_an_output_that_cannot_be_opened_is_one_line(folders, start, faults):
    _, out = folders
    out.mkdir()
    faults.begin(("open", EIO, f"{out}*"))
    watching = start(*QUICK, environment=faults.environment)
    assert watching.process.wait(300) == 1
    (said,) = [line for line in watching.said().splitlines() if "watching" not in line]
    assert f"{out}/.defocus: cannot be written (Input/output error)" in said


def test_a_start_on_an_output_that_cannot_be_listed_goes_on(folders, begin, faults):
    """What a killed process left there is removed by the next start that can."""
    acquisition, out = folders
    out.mkdir()
    left = out / f"{PREFIX}1.part"
    left.write_bytes(b"half an output")
    write_tiff(acquisition / "a.tif")
    with faults.during(("scandir", EIO, str(out))):
        watching = begin()
        wait_for(lambda: outputs(out) == ["a.tif"])
        assert watching.stop() == 0
    assert left.exists()
    check_end(begin(), ["a.tif"], listing(acquisition))
