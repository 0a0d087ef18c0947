"""Channel files with the real process and a real model of two channels: partners that come, come late, or never."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from defocus.engine.files.atomic import PREFIX, SUFFIX
from defocus.engine.tiff.read import read_provenance, read_tiff

from ...helpers.waiting import wait_for
from ..conftest import PAIRS, QUICK, Watching, check_pair, free_port, journal, listing, outputs, states, write_tiff
from ..status.test_status import ask, state
from ..test_soak import SUICIDE, _without_times

UUIDS = ("2703a47b-7574-461a-85e2-afc38bc0adae", "9f0a1b2c-0000-4444-8888-00005eadbeef")


def test_both_come(folders, pairs, expected):
    acquisition, out = folders
    (acquisition / "sub").mkdir()
    watching = pairs().ready()
    for name in ("a_w2.tif", "a_w1.tif", "sub/a_w1.tif", "sub/a_w2.tif"):  # in either order
        write_tiff(acquisition / name, len(name) + int(name[-5]))
    wait_for(lambda: len(outputs(out)) == 4)
    assert watching.stop() == 0
    check_pair(folders, expected, "a_w1.tif", "a_w2.tif")
    check_pair(folders, expected, "sub/a_w1.tif", "sub/a_w2.tif")
    assert states(out) == dict.fromkeys(outputs(acquisition), "done")
    for name in outputs(out):
        assert watching.said().count(f"{name}: corrected") >= 1
    account = read_provenance(out / "a_w2.tif")
    assert account is not None
    assert [one["name"] for one in account["channels"]] == ["a_w1.tif", "a_w2.tif"]


def test_one_that_comes_late_is_waited_for(folders, pairs, expected):
    acquisition, out = folders
    watching = pairs().ready()
    write_tiff(acquisition / "a_w1.tif", 1)
    for name in ("b_w1.tif", "b_w2.tif"):
        write_tiff(acquisition / name, 3)
    wait_for(lambda: outputs(out) == ["b_w1.tif", "b_w2.tif"])  # the other one waits
    write_tiff(acquisition / "a_w2.tif", 2)
    wait_for(lambda: outputs(out) == ["a_w1.tif", "a_w2.tif", "b_w1.tif", "b_w2.tif"])
    assert watching.stop() == 0
    check_pair(folders, expected, "a_w1.tif", "a_w2.tif")
    assert "quarantined" not in watching.said()


def test_one_that_never_comes_is_named_and_when_it_comes_both_are_done(folders, pairs, expected):
    acquisition, out = folders
    watching = pairs(wait=1).ready()
    write_tiff(acquisition / "a_w1.tif", 1)
    write_tiff(acquisition / "b_w1.tif", 3)
    write_tiff(acquisition / "b_w2.tif", 4)
    before = time.monotonic()
    wait_for(lambda: "quarantined" in watching.said())
    assert time.monotonic() - before > 0.9
    reason = f"{acquisition / 'a_w1.tif'}: waited 1 s in vain for channel 2 (a_w2.tif); it is corrected when that file"
    assert reason in watching.said()
    wait_for(lambda: states(out) == {"a_w1.tif": "quarantined", "b_w1.tif": "done", "b_w2.tif": "done"})
    write_tiff(acquisition / "a_w2.tif", 2)
    wait_for(lambda: states(out) == dict.fromkeys(["a_w1.tif", "a_w2.tif", "b_w1.tif", "b_w2.tif"], "done"))
    assert watching.stop() == 0
    check_pair(folders, expected, "a_w1.tif", "a_w2.tif")


def test_also_after_a_restart(folders, pairs, expected):
    acquisition, out = folders
    write_tiff(acquisition / "a_w2.tif", 2)
    before = listing(acquisition)
    first = pairs("--once", wait=600.0)
    assert first.process.wait(300) == 1  # with --once nobody waits
    assert "a_w2.tif: cannot be corrected without 1 more channel (a_w*.tif)" in first.said()
    assert listing(acquisition) == before
    assert outputs(out) == []
    write_tiff(acquisition / "a_w1.tif", 1)
    second = pairs("--once")
    assert second.process.wait(300) == 0, second.said()
    check_pair(folders, expected, "a_w1.tif", "a_w2.tif")
    assert states(out) == {"a_w1.tif": "done", "a_w2.tif": "done"}


def test_one_written_again_does_both_again(folders, pairs, expected):
    acquisition, out = folders
    write_tiff(acquisition / "a_w1.tif", 1)
    write_tiff(acquisition / "a_w2.tif", 2)
    watching = pairs().ready()
    wait_for(lambda: states(out) == {"a_w1.tif": "done", "a_w2.tif": "done"})
    first = read_tiff(out / "a_w1.tif").data
    write_tiff(acquisition / "a_w2.tif", 5)
    wait_for(lambda: not np.array_equal(read_tiff(out / "a_w1.tif").data, first))
    wait_for(lambda: watching.said().count("a_w2.tif: corrected") == 2)
    assert watching.stop() == 0
    check_pair(folders, expected, "a_w1.tif", "a_w2.tif")


@pytest.mark.parametrize("bad", ["a_w1.tif", "a_w2.tif"])
@pytest.mark.parametrize("bad_first", [True, False])
def test_a_bad_one_sets_the_other_aside_until_it_is_repaired(folders, pairs, expected, bad, bad_first):
    acquisition, out = folders
    (good,) = {"a_w1.tif", "a_w2.tif"} - {bad}
    watching = pairs().ready()
    for name in (bad, good) if bad_first else (good, bad):
        if name == bad:
            (acquisition / bad).write_bytes(b"II*\0 no image")
            wait_for(lambda: states(out).get(bad) == "quarantined")
        else:
            write_tiff(acquisition / good, 1)
    wait_for(lambda: states(out) == dict.fromkeys([bad, good], "quarantined"))
    reason = journal(out)[good][1]
    assert reason.startswith(f"{acquisition / good}: cannot be corrected without its partner ({acquisition / bad}: ")
    write_tiff(acquisition / bad, 2)
    wait_for(lambda: states(out) == {"a_w1.tif": "done", "a_w2.tif": "done"})
    assert watching.stop() == 0
    check_pair(folders, expected, "a_w1.tif", "a_w2.tif")


def test_channels_that_do_not_fit_are_set_aside_with_both_names(folders, pairs):
    acquisition, out = folders
    write_tiff(acquisition / "a_w1.tif", 1)
    write_tiff(acquisition / "a_w2.tif", 2, (64, 80))
    watching = pairs("--once")
    assert watching.process.wait(300) == 1
    for _, reason in journal(out).values():
        assert "a_w1.tif and " in reason
        assert "belong together, but differ in shape ((64, 64) and (64, 80))" in reason
    assert states(out) == dict.fromkeys(["a_w1.tif", "a_w2.tif"], "quarantined")
    assert outputs(out) == []


@pytest.fixture(scope="module")
def clean(tiny_model_2c, tmp_path_factory) -> Path:
    """The folder acq of four files, and out, which is what a run that nobody kills makes of them."""
    folder = tmp_path_factory.mktemp("clean")
    (folder / "acq").mkdir()
    for seed, name in enumerate(("a_w1.tif", "a_w2.tif", "b_w1.tif", "b_w2.tif"), 1):
        write_tiff(folder / "acq" / name, seed)
    given = ("--model", str(tiny_model_2c), "--channels", PAIRS, "--once", *QUICK)
    watching = Watching(folder / "acq", folder / "out", tiny_model_2c, folder / "log.txt", *given)
    assert watching.process.wait(300) == 0, watching.said()
    return folder


@pytest.mark.parametrize(
    ("step", "call"),
    [("replace", 0), ("fsync_folder", 0), ("replace", 1), ("fsync_folder", 1), ("record", 0), ("record", 1)],
)
def test_killed_between_the_two_outputs_the_next_start_completes_the_pair(
    folders, pairs, tiny_model_2c, clean, tmp_path, step, call
):
    """The process kills itself with SIGKILL at the n-th call of a step of the commit."""
    acquisition, out = folders
    for name in ("a_w1.tif", "a_w2.tif"):
        shutil.copy2(clean / "acq" / name, acquisition)
    (tmp_path / "suicide.py").write_text(SUICIDE)
    line = [sys.executable, str(tmp_path / "suicide.py"), step, str(call), str(acquisition), "-o", str(out)]
    line += ["--model", str(tiny_model_2c), "--backend", "cpu", "--all-planes", "--channels", PAIRS, "--once", *QUICK]
    assert subprocess.run(line, capture_output=True, timeout=300).returncode == -signal.SIGKILL
    committed = {("replace", 0): 0, ("fsync_folder", 0): 1, ("replace", 1): 1}.get((step, call), 2)
    assert len(outputs(out)) == committed
    for name in ("b_w1.tif", "b_w2.tif"):
        shutil.copy2(clean / "acq" / name, acquisition)
    last = pairs("--once")
    assert last.process.wait(300) == 0, last.said()
    said = last.said()
    assert outputs(out) == outputs(acquisition)
    assert states(out) == dict.fromkeys(outputs(acquisition), "done")
    assert list(out.rglob(f"{PREFIX}*{SUFFIX}")) == []
    assert outputs(clean / "out") == outputs(out)
    for name in outputs(out):
        assert _without_times(out / name) == _without_times(clean / "out" / name)
    # None is told of twice, and what was committed whole is not made again.
    assert said.count("a_w1.tif: corrected") == (0 if committed == 2 else 1)
    assert said.count("b_w2.tif: corrected") == 1


def test_killed_at_random_moments_pairs_end_as_in_a_clean_run(folders, pairs, expected):
    acquisition, out = folders
    names = [(f"{n}_w1.tif", f"{n}_w2.tif") for n in range(12)]
    for number, pair in enumerate(names):
        for channel, name in enumerate(pair):
            write_tiff(acquisition / name, 2 * number + channel, (96, 96))
    for kill in range(4):
        watching = pairs()
        wait_for(lambda kill=kill: len(outputs(out)) > 5 * kill)
        watching.kill()
    last = pairs("--once")
    assert last.process.wait(300) == 0, last.said()
    assert states(out) == dict.fromkeys(outputs(acquisition), "done")
    for pair in names:
        check_pair(folders, expected, *pair)


def test_a_retry_on_the_page_takes_the_pair_again(folders, pairs, expected):
    """Somebody else's file is in the place of one output: both are quarantined, and done at the retry of one."""
    acquisition, out = folders
    port = free_port()
    pairs("--status", str(port)).ready()
    out.mkdir(exist_ok=True)
    (out / "a_w2.tif").write_bytes(b"not ours")
    write_tiff(acquisition / "a_w1.tif", 1)
    write_tiff(acquisition / "a_w2.tif", 2)
    wait_for(lambda: state(port)["failed"] == 2)
    (out / "a_w2.tif").unlink()
    answer = ask(port, "/api/retry", {"folder": 0, "file": "a_w1.tif"}, X_Defocus=state(port)["csrf"])
    assert json.loads(answer[2]) == {"retried": True}
    wait_for(lambda: state(port)["failed"] == 0)
    wait_for(lambda: state(port)["done"] == 2)
    check_pair(folders, expected, "a_w1.tif", "a_w2.tif")


def test_the_page_tells_what_is_missing(folders, pairs):
    acquisition, out = folders
    port = free_port()
    pairs("--status", str(port), wait=0.5).ready()
    write_tiff(acquisition / "b_w1.tif", 1)
    wait_for(lambda: state(port)["failed"] == 1)
    (group,) = state(port)["folders"][0]["failures"]
    assert group["code"] == "no_partner"
    assert "in vain for 1 more channel (b_w*.tif)" in journal(out)["b_w1.tif"][1]
    assert 'reason="no_partner"} 1' in ask(port, "/metrics")[2].decode()
    # Try again: it waits once more, and is quarantined once more.
    ask(port, "/api/retry", {"folder": 0, "file": "b_w1.tif"}, X_Defocus=state(port)["csrf"])
    wait_for(lambda: state(port)["failed"] == 0)
    wait_for(lambda: state(port)["failed"] == 1)


def test_the_page_tells_how_many_wait(folders, pairs):
    acquisition, out = folders
    port = free_port()
    pairs("--status", str(port)).ready()
    assert state(port)["folders"][0]["waiting"] == 0
    for index, name in enumerate(("a_w1.tif", "b_w2.tif")):
        write_tiff(acquisition / name, index)
        wait_for(lambda: state(port)["folders"][0]["waiting"] == index + 1)  # noqa: B023
    assert re.search(r"defocus_waiting_files\S* 2\n", ask(port, "/metrics")[2].decode())
    write_tiff(acquisition / "a_w2.tif", 3)
    wait_for(lambda: outputs(out) == ["a_w1.tif", "a_w2.tif"])
    assert state(port)["folders"][0]["waiting"] == 1
    assert (acquisition / "b_w2.tif").exists()
    (acquisition / "b_w1.tif").write_bytes((acquisition / "a_w1.tif").read_bytes())
    wait_for(lambda: state(port)["folders"][0]["waiting"] == 0)
