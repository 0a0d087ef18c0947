"""Names and times that microscopes, copies and file systems come up with, through the real process."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from defocus import Engine
from defocus.engine.tiff.read import read_tiff

from ..helpers.waiting import wait_for
from .conftest import Watching, free_port, listing, outputs, states, write_tiff
from .status.test_status import ask, state
from .test_faults import begin, faults, shim  # noqa: F401  fixtures

QUICK = ("--settle", "0.1", "--rescan", "0.2", "--patience", "0.5")
NAMES = [
    "with space.tif",
    " leading and trailing .tif",
    "ü_µm_Ω_試料.tif",
    "u\u0308 decomposed.tif",  # beside the composed one on file systems that tell them apart
    "\U0001f52c.ome.tif",
    "100%_[w1]{a}(b)$HOME`x`;'\"&.tif",
    "new\nline.tif",
    "-o.tif",
    "A.TIF",
    "a.tif",  # differs from the one before by case alone
    "plate 1/well A01/föld/x.tif",
    "x" * 251 + ".tif",  # the longest name there is
]


def check_all(acquisition: Path, out: Path, model: Path, names: list[str]) -> None:
    """Each output is what the engine makes of its own input: no name was taken for another."""
    with Engine.load(str(model), backend="cpu") as engine:
        for name in names:
            stack = read_tiff(acquisition / name)
            np.testing.assert_array_equal(read_tiff(out / name).data, engine(stack.data, stack.axes))


@pytest.mark.parametrize("how", [(), ("--polling",), ("--log-json",)], ids=["events", "polling", "json"])
def test_every_name_keeps_its_own_file(folders, start, tiny_model, how):
    acquisition, out = folders
    port = free_port()
    watching = start(*QUICK, *how, "--status", str(port))
    watching.ready() if "--log-json" not in how else wait_for(lambda: (out / ".defocus" / "daemon.json").exists())
    for seed, name in enumerate(NAMES):
        (acquisition / name).parent.mkdir(parents=True, exist_ok=True)
        write_tiff(acquisition / name, seed)
    before = listing(acquisition)
    wait_for(lambda: states(out) == dict.fromkeys(NAMES, "done"))
    assert state(port)["done"] == len(NAMES)
    assert ask(port, "/metrics")[0] == 200
    assert watching.stop() == 0
    assert outputs(out) == sorted(NAMES)
    assert listing(acquisition) == before
    check_all(acquisition, out, tiny_model, NAMES)


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names that are any bytes")
@pytest.mark.parametrize("how", [(), ("--log-json",)], ids=["lines", "json"])
def test_names_that_are_no_text_are_corrected_too(folders, start, tiny_model, how):
    """Latin-1 names of an old share: bytes that are not UTF-8."""
    acquisition, out = folders
    good, bad = os.fsdecode(b"Pr\xe4parat.tif"), os.fsdecode(b"schl\xe4cht.tif")
    write_tiff(acquisition / good, 1)
    (acquisition / bad).write_bytes(b"no TIFF")
    port = free_port()
    watching = start(*QUICK, *how, "--status", str(port))
    wait_for(lambda: outputs(out) == [good])
    wait_for(lambda: sorted(states(out).values()) == ["done", "quarantined"])
    wait_for(lambda: state(port)["failed"] == 1)
    (group,) = state(port)["folders"][0]["failures"]
    ((_, file, _),) = group["files"]
    assert file == "schl\\udce4cht.tif"
    retry = {"folder": 0, "file": file}
    assert json.loads(ask(port, "/api/retry", retry, X_Defocus=state(port)["csrf"])[2]) == {"retried": True}
    wait_for(lambda: watching.said().count("not a TIFF") >= 2)
    assert ask(port, "/metrics")[0] == 200
    made = (out / good).stat().st_mtime_ns
    assert watching.stop() == 0
    assert "Traceback" not in watching.said()
    assert start(*QUICK, "--once").process.wait(300) == 1
    assert (out / good).stat().st_mtime_ns == made  # known from before
    check_all(acquisition, out, tiny_model, [good])


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names that are any bytes")
def test_bytes_that_are_no_text_and_their_escape_are_two_files(folders, start, tiny_model):
    acquisition, out = folders
    names = [os.fsdecode(name) for name in (b"a\xe4.tif", rb"a\udce4.tif", rb"a\\udce4.tif", "aä.tif".encode())]
    for seed, name in enumerate(names):
        write_tiff(acquisition / name, seed)
    watching = start(*QUICK)
    wait_for(lambda: outputs(out) == sorted(names))
    wait_for(lambda: list(states(out).values()) == ["done"] * 4)
    made = {name: (out / name).stat().st_mtime_ns for name in names}
    assert watching.stop() == 0
    assert start(*QUICK, "--once").process.wait(60) == 0
    assert {name: (out / name).stat().st_mtime_ns for name in names} == made  # each is known from before
    write_tiff(acquisition / names[1], 9)  # a new version of one of them alone
    assert start(*QUICK, "--once").process.wait(60) == 0
    assert [(out / name).stat().st_mtime_ns == made[name] for name in names] == [True, False, True, True]
    check_all(acquisition, out, tiny_model, names)


def test_a_path_too_long_for_its_output_is_set_aside_and_the_rest_goes_on(tmp_path, tiny_model):
    acquisition, out = tmp_path / "a", tmp_path / ("o" * 100)
    long = 4000 - len(str(acquisition))
    deep = Path(*["d" * 200] * (long // 201), "e" * (long % 201))
    os.makedirs(acquisition / deep)
    assert len(str(acquisition / deep / "a.tif")) < 4095 < len(str(out / deep / "a.tif"))
    write_tiff(acquisition / deep / "a.tif", 1)
    write_tiff(acquisition / "b.tif", 2)
    write_tiff(acquisition / deep.parent / "long.tif", 3)
    watching = Watching(acquisition, out, tiny_model, tmp_path / "log", *QUICK, "--once")
    try:
        assert watching.process.wait(300) == 1, watching.said()
        assert sorted(Path(name).name for name in outputs(out)) == ["b.tif", "long.tif"], watching.said()
        assert "its output's path is too long" in watching.said()
        assert "paused" not in watching.said()
    finally:
        watching.kill()


def test_times_of_long_ago_and_of_the_future(folders, start, tiny_model):
    acquisition, out = folders
    watching = start(*QUICK, "--polling").ready()
    times = {"1970.tif": 0, "1960.tif": -300_000_000, "2100.tif": 4_102_444_800, "2400.tif": 13_569_465_600}
    for seed, (name, when) in enumerate(times.items()):
        aside = acquisition / f".{name}"
        write_tiff(aside, seed)
        os.utime(aside, (when, when))
        aside.rename(acquisition / name)
    before = listing(acquisition)
    wait_for(lambda: states(out) == dict.fromkeys(times, "done"))
    made = {name: (out / name).stat().st_mtime_ns for name in times}
    assert watching.stop() == 0
    assert start(*QUICK, "--once").process.wait(300) == 0
    assert {name: (out / name).stat().st_mtime_ns for name in times} == made  # each once
    assert listing(acquisition) == before
    check_all(acquisition, out, tiny_model, list(times))


def test_a_name_used_again_with_an_older_time_is_a_new_version(folders, start, tiny_model):
    """A file copied over another, its time of modification earlier than that of the first."""
    acquisition, out = folders
    watching = start(*QUICK, "--polling").ready()
    for seed in range(4):
        aside = acquisition / ".a.tif"
        write_tiff(aside, seed)
        os.utime(aside, (10**9 - seed, 10**9 - seed))
        aside.replace(acquisition / "a.tif")
        wait_for(lambda seed=seed: watching.said().count("a.tif: corrected") == seed + 1)
    assert watching.stop() == 0
    check_all(acquisition, out, tiny_model, ["a.tif"])


def test_a_clock_that_is_set_back_and_forth(folders, begin, faults, tiny_model):  # noqa: F811
    """By a day, while it runs: nothing is lost, done twice or taken early, and it is not thought to hang."""
    acquisition, out = folders
    port = free_port()
    watching = begin("--status", str(port), "--max-age", "604800")
    names = []
    for seed, shift in enumerate((0.0, -86400.0, 86400.0, -3600.0)):
        faults.begin(("clock", 0, "*"), seconds=shift)
        names.append(f"{seed}.tif")
        write_tiff(acquisition / names[-1], seed)
        wait_for(lambda: outputs(out) == names)
        assert ask(port, "/healthz")[0] == 200
        wait_for(lambda: state(port)["done"] == len(names))
        assert abs(time.time() + shift - state(port)["folders"][0]["last"][0]) < 60  # it does see another time
    wait_for(lambda: states(out) == dict.fromkeys(names, "done"))
    wait_for(lambda: all(f"{name}: corrected" in watching.said() for name in names))
    assert [watching.said().count(f"{name}: corrected") for name in names] == [1, 1, 1, 1]
    assert watching.stop() == 0
    check_all(acquisition, out, tiny_model, names)
