"""Writers as cameras, acquisition programs and copies behave, in front of the real process.

What comes out is compared with what the engine makes of the file as it was in the end.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus import Engine
from defocus.engine.tiff.read import read_provenance, read_tiff

from ...helpers.waiting import wait_for
from ..conftest import Watching, outputs, states, whole, write_tiff

QUICK = ("--settle", "0.3", "--rescan", "0.2", "--patience", "3")
WAYS = pytest.mark.parametrize("how", [(), ("--polling",)], ids=["events", "polling"])
MICROSCOPE = Path(__file__).with_name("microscope.py")
needs_microscope = pytest.mark.skipif(
    importlib.util.find_spec("pymmcore_plus") is None, reason="needs pymmcore-plus: pip install 'pymmcore-plus[io]'"
)


def check(watching: Watching, model: Path, names: list[str]) -> None:
    """After the end of the process: each output is what the engine makes of its input, nothing else is there."""
    acquisition, out = watching.acquisition, watching.out
    assert outputs(out) == sorted(names)
    assert states(out) == dict.fromkeys(names, "done"), watching.said()
    assert "Traceback" not in watching.said()
    with Engine.load(str(model), backend="cpu") as engine:
        for name in names:
            stack = read_tiff(acquisition / name)
            np.testing.assert_array_equal(read_tiff(out / name).data, engine(stack.data, stack.axes), err_msg=name)


@contextmanager
def reader(out: Path) -> Iterator[None]:
    """Somebody who opens every output all the time: each must be whole from the first moment on."""
    partial, stop = [], threading.Event()

    def look() -> None:
        while not stop.wait(0.02):
            partial.extend(name for name in outputs(out) if not whole(out / name))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert partial == []


def acquire(target: Path, times: int, seconds: float) -> None:
    line = [sys.executable, str(MICROSCOPE), str(target), str(times), str(seconds)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300 + 2 * times * seconds)
    assert done.returncode == 0, done.stderr


@needs_microscope
@WAYS
def test_an_acquisition_of_pymmcore_plus_that_grows_page_by_page(folders, start, tiny_model, how):
    """Cameras and drives in Python, useq-schema, ome-writers. It pauses longer than a file needs to settle."""
    times, seconds = 3, 0.9
    acquisition, out = folders
    watching = start(*QUICK, *how).ready()
    with reader(out):
        acquire(acquisition / "a.ome.tif", times, seconds)
        shape = (times, 2, 3, 96, 128)
        wait_for(lambda: (out / "a.ome.tif").exists() and read_tiff(out / "a.ome.tif").data.shape == shape)
        wait_for(lambda: states(out) == {"a.ome.tif": "done"})
    assert watching.stop() == 0
    check(watching, tiny_model, ["a.ome.tif"])
    corrected = read_tiff(out / "a.ome.tif")
    assert corrected.axes == "TCZYX"
    means = corrected.data.mean((-1, -2)).ravel()
    assert (np.diff(means) > 50).all()  # the pictures in the order in which they were taken


@needs_microscope
def test_an_acquisition_that_is_killed_leaves_what_it_has_or_a_reason(folders, start, tiny_model):
    """The acquisition program dies: its file stays as it is, without the pages that its description tells of."""
    acquisition, out = folders
    watching = start(*QUICK).ready()
    line = [sys.executable, str(MICROSCOPE), str(acquisition / "a.ome.tif"), "50", "0.3"]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = acquisition / "a.ome.tif"
    wait_for(lambda: path.exists() and path.stat().st_size > 200_000)
    process.kill()
    process.wait()
    wait_for(lambda: states(out).get("a.ome.tif") in ("done", "quarantined"))
    write_tiff(acquisition / "next.tif", 1)
    wait_for(lambda: states(out).get("next.tif") == "done")
    assert watching.stop() == 0
    if states(out)["a.ome.tif"] == "done":
        check(watching, tiny_model, ["a.ome.tif", "next.tif"])
    else:
        assert outputs(out) == ["next.tif"]
        assert "quarantined: " in watching.said()


def copy_as_over_smb(source: Path, target: Path, pause: float, long_pause: float = 0.0) -> None:
    """64 KiB at a time, the handle open all the while; the time of modification is set back at the end."""
    content, stat = source.read_bytes(), source.stat()
    pieces = range(0, len(content), 1 << 16)
    with open(target, "wb", buffering=0) as file:
        for number, at in enumerate(pieces):
            file.write(content[at : at + (1 << 16)])
            time.sleep(long_pause if number == len(pieces) // 2 else pause)  # as slow as the network
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_copy_over_smb_that_is_only_seen_by_polling(folders, start, tiny_model, tmp_path, compression):
    acquisition, out = folders
    source = tmp_path / "source.tif"
    rng = np.random.default_rng(0)
    tifffile.imwrite(source, rng.integers(100, 3000, (5, 256, 384), dtype=np.uint16), compression=compression)
    os.utime(source, (1_500_000_000, 1_500_000_000))
    watching = start(*QUICK, "--polling").ready()
    with reader(out):
        copy_as_over_smb(source, acquisition / "a.tif", 0.1, long_pause=1.0)
        wait_for(lambda: states(out) == {"a.tif": "done"} and "a.tif: corrected" in watching.said())  # told after
    assert watching.said().count("a.tif: corrected") in (1, 2)  # twice if it was whole before its time was set back
    assert watching.stop() == 0
    made = read_provenance(out / "a.tif")
    assert made is not None
    assert made["source"]["mtime_ns"] == 1_500_000_000 * 10**9
    check(watching, tiny_model, ["a.tif"])


@needs_microscope
@pytest.mark.slow
def test_growing_over_two_minutes_and_pausing_for_one(folders, start, tiny_model, tmp_path):
    """Two daemons look on, one by events and one by polling, both with the usual times but for a short settling.

    The pause is longer than their patience of 30 s: the file is quarantined meanwhile, and corrected when it is whole.
    """
    acquisition, out = folders
    write_tiff(tmp_path / "source.tif", 1, (300, 400))
    content = (tmp_path / "source.tif").read_bytes()
    events = start("--settle", "1").ready()
    polling = Watching(
        acquisition, tmp_path / "polled", tiny_model, tmp_path / "polled.log", "--settle", "1", "--polling"
    )
    growing = threading.Thread(target=acquire, args=(acquisition / "grows.ome.tif", 60, 2.0))
    try:
        polling.ready()
        with reader(out), reader(polling.out):
            growing.start()
            with open(acquisition / "pauses.tif", "wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                time.sleep(60)  # longer than their patience
                assert not [one.out for one in (events, polling) if (one.out / "pauses.tif").exists()]
                file.write(content[len(content) // 2 :])
            growing.join()
            for one in (events, polling):
                wait_for(lambda one=one: states(one.out) == {"grows.ome.tif": "done", "pauses.tif": "done"})
                wait_for(lambda one=one: read_tiff(one.out / "grows.ome.tif").data.shape == (60, 2, 3, 96, 128))
        for one in (events, polling):
            assert one.stop() == 0
            assert "pauses.tif: truncated" in one.said()
            check(one, tiny_model, ["grows.ome.tif", "pauses.tif"])
    finally:
        growing.join()
        polling.kill()


@WAYS
def test_the_same_name_written_again_and_again(folders, start, tiny_model, how):
    """Faster than it can be corrected, with other pixels and the same size each time: the last one counts."""
    acquisition, out = folders
    watching = start(*QUICK, *how).ready()
    with reader(out):
        for seed in range(40):
            write_tiff(acquisition / "live.tif", seed, (200, 200))
            if seed % 8 == 7:  # now and then one is there for long enough to be corrected
                wait_for(lambda: states(out) == {"live.tif": "done"})
    assert watching.stop() == 0
    last = start(*QUICK, *how, "--once")  # whichever was the last
    assert last.process.wait(300) == 0, last.said()
    check(watching, tiny_model, ["live.tif"])


@pytest.mark.parametrize(
    ("order", "count"),
    [
        ("oldest", 300),
        ("newest", 300),
        pytest.param("oldest", 10_000, marks=pytest.mark.slow),
        pytest.param("newest", 3_000, marks=pytest.mark.slow),
    ],
)
def test_a_burst_of_more_files_than_the_line_holds(folders, start, tiny_model, tmp_path, order, count):
    """All at once, into a line of 256: nothing is lost, nothing is done twice, whichever goes first."""
    acquisition, out = folders
    source = tmp_path / "source.tif"
    write_tiff(source, 0, (32, 32))
    content = bytearray(source.read_bytes())
    with tifffile.TiffFile(source) as tif:
        at = tif.pages.first.dataoffsets[0]
    timing = ("--settle", "0.3", "--rescan", "0.5" if count < 1000 else "3", "--patience", "3")
    watching = start(*timing, "--order", order).ready()
    names = [f"{index:05d}.tif" for index in range(count)]
    for index, name in enumerate(names):
        content[at : at + 4] = index.to_bytes(4, "little")  # no two are alike
        (acquisition / name).write_bytes(content)
    wait_for(lambda: watching.said().count(": corrected in") >= count, 300 + count / 5)
    assert watching.stop() == 0
    last = start(*timing, "--once")
    assert last.process.wait(300 + count / 20) == 0, last.said()
    assert last.said().count(": corrected in") == count  # of both: nothing was left, or is made again
    assert states(out) == dict.fromkeys(names, "done")
    check(watching, tiny_model, names)
