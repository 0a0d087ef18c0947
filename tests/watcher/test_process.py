"""The promises P1, P2 and P3 with the real process: real files, real kills."""

from __future__ import annotations

import re
import signal
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile

from defocus.engine.files.atomic import PREFIX, SUFFIX
from defocus.engine.tiff.read import read_provenance, read_tiff

from ..helpers.waiting import wait_for
from .conftest import listing, outputs, states, whole, write_tiff

QUICK = ("--settle", "0.3", "--rescan", "0.3", "--patience", "1")


def test_backlog_subfolders_names_and_metadata(folders, start):
    acquisition, out = folders
    (acquisition / "plate 1" / "well_\u00e4").mkdir(parents=True)
    names = ["a.tif", "plate 1/b c.TIF", "plate 1/well_\u00e4/d.ome.tif"]
    images = {name: write_tiff(acquisition / name, seed, compression="lzw") for seed, name in enumerate(names)}
    watching = start("--once", *QUICK)
    assert watching.process.wait(300) == 0, watching.said()
    assert outputs(out) == sorted(names)
    for name, image in images.items():
        corrected = read_tiff(out / name)
        assert (corrected.data.shape, corrected.data.dtype) == (image.shape, image.dtype)
        assert not np.array_equal(corrected.data, image)
        with tifffile.TiffFile(out / name) as tif:
            assert tif.pages.first.compression == 5
        made = read_provenance(out / name)
        assert made is not None
        assert made["source"]["name"] == Path(name).name


def test_p1_the_acquisition_folder_is_never_changed(folders, start):
    acquisition, _ = folders
    (acquisition / "sub").mkdir()
    write_tiff(acquisition / "a.tif")
    write_tiff(acquisition / "sub" / "b.tif", 1)
    (acquisition / "bad.tif").write_text("no TIFF")
    (acquisition / "notes.txt").write_text("mine")
    before, folder_time = listing(acquisition), acquisition.stat().st_mtime_ns
    watching = start("--once", *QUICK)
    assert watching.process.wait(300) == 1
    assert listing(acquisition) == before
    assert acquisition.stat().st_mtime_ns == folder_time


def test_p2_no_partial_output_is_ever_seen(folders, start):
    """A reader that never stops looking sees each output whole from the first moment on."""
    acquisition, out = folders
    partial, stop = [], threading.Event()

    def read_all_the_time():
        while not stop.is_set():
            for name in outputs(out):
                try:
                    tifffile.imread(out / name)
                except FileNotFoundError:
                    continue
                except Exception as error:
                    partial.append((name, error))

    reader = threading.Thread(target=read_all_the_time)
    reader.start()
    try:
        watching = start(*QUICK).ready()
        for index in range(25):
            write_tiff(acquisition / f"{index % 5}.tif", index, (200, 260))  # names are written again and again
            time.sleep(0.05)  # some are written again before they were corrected, some after
        wait_for(lambda: len(outputs(out)) == 5)
        assert watching.stop() == 0
    finally:
        stop.set()
        reader.join()
    assert partial == []


def test_p3_kill_in_the_middle_of_50_files_loses_and_doubles_nothing(folders, start, tmp_path):
    acquisition, out = folders
    images = {}
    for kill in range(5):  # each in the middle of ten
        for index in range(10 * kill, 10 * kill + 10):
            images[f"{index:02d}.tif"] = write_tiff(acquisition / f"{index:02d}.tif", index, (96, 96))
        watching = start(*QUICK)
        wait_for(lambda kill=kill: len(outputs(out)) >= 10 * kill + 5)
        watching.kill()
    images["50.tif"] = write_tiff(acquisition / "50.tif", 50, (96, 96))  # so that one is left in any case
    last = start("--once", *QUICK)
    assert last.process.wait(300) == 0, last.said()
    assert outputs(out) == sorted(images)
    assert states(out) == dict.fromkeys(images, "done")
    assert list(out.rglob(f"{PREFIX}*{SUFFIX}")) == []
    said = last.said()
    # None twice: a file is told of once, or not at all if the kill fell between its commit and its line.
    assert max(said.count(f"{name}: corrected") for name in images) == 1
    # Equal to a clean run.
    clean = tmp_path / "clean"
    again = start("-o", str(clean), "--once", *QUICK)
    assert again.process.wait(300) == 0
    for name in images:
        np.testing.assert_array_equal(read_tiff(out / name).data, read_tiff(clean / name).data)


def test_p3_an_output_committed_just_before_the_kill_is_not_made_again(folders, start):
    """The journal does not know of it: as if the kill had come between commit and journal."""
    acquisition, out = folders
    write_tiff(acquisition / "a.tif")
    assert start("--once", *QUICK).process.wait(300) == 0
    made = (out / "a.tif").stat().st_mtime_ns
    connection = sqlite3.connect(out / ".defocus" / "journal.sqlite")
    connection.execute("DELETE FROM files")
    connection.commit()
    connection.close()
    (out / f"{PREFIX}abc{SUFFIX}").write_bytes(b"half an output")
    assert start("--once", *QUICK).process.wait(300) == 0
    assert (out / "a.tif").stat().st_mtime_ns == made
    assert states(out) == {"a.tif": "done"}
    assert list(out.glob(f"{PREFIX}*")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_in_the_middle(folders, start, number):
    acquisition, out = folders
    for index in range(30):
        write_tiff(acquisition / f"{index:02d}.tif", index, (256, 256))
    watching = start(*QUICK)
    wait_for(lambda: len(outputs(out)) >= 2)
    assert watching.stop(number) == 0
    assert all(whole(out / name) for name in outputs(out))
    assert list(out.rglob(f"{PREFIX}*")) == []
    assert set(outputs(out)) == set(states(out))
    assert "Traceback" not in watching.said()
    lines = watching.said().splitlines()
    assert any(line.startswith(f"{acquisition}: 30 files waiting, about ") for line in lines)
    assert re.fullmatch(rf"{len(outputs(out))} corrected, 0 kept, \d+ (s|min)", lines[-1])


def test_polling_finds_files_without_events(folders, start):
    acquisition, out = folders
    watching = start("--polling", *QUICK).ready()
    write_tiff(acquisition / "a.tif")
    wait_for(lambda: outputs(out) == ["a.tif"])
    assert watching.stop() == 0


def test_a_damaged_journal_costs_nothing_but_a_line(folders, start):
    acquisition, out = folders
    write_tiff(acquisition / "a.tif")
    assert start("--once", *QUICK).process.wait(300) == 0
    made = (out / "a.tif").stat().st_mtime_ns
    (out / ".defocus" / "journal.sqlite").write_bytes(b"\0" * 100 + b"rubbish" * 1000)
    write_tiff(acquisition / "b.tif", 1)
    watching = start("--once", *QUICK)
    assert watching.process.wait(300) == 0
    assert "damaged" in watching.said()
    assert (out / "a.tif").stat().st_mtime_ns == made
    assert outputs(out) == ["a.tif", "b.tif"]


def test_somebody_elses_file_in_the_output_folder_is_not_replaced(folders, start):
    acquisition, out = folders
    out.mkdir()
    mine = write_tiff(out / "a.tif", 9)
    write_tiff(acquisition / "a.tif", 1)
    write_tiff(acquisition / "b.tif", 2)
    watching = start("--once", *QUICK)
    assert watching.process.wait(300) == 1
    np.testing.assert_array_equal(tifffile.imread(out / "a.tif"), mine)
    assert outputs(out) == ["a.tif", "b.tif"]
    assert "was not made by defocus" in watching.said()


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_memory_and_file_descriptors_are_flat_over_many_files(folders, start, count):
    acquisition, out = folders
    watching = start("--settle", "0.3", "--rescan", "1").ready()
    process = psutil.Process(watching.process.pid)
    samples = []
    for index in range(count):
        write_tiff(acquisition / f"{index:04d}.tif", index)
        if (index + 1) % (count // 20) == 0:
            wait_for((out / f"{index:04d}.tif").exists)  # listing so many again and again takes a whole core
            wait_for(lambda index=index: len(outputs(out)) == index + 1)
            samples.append((process.memory_info().rss / 2**20, process.num_fds()))
    assert watching.stop() == 0
    memory, descriptors = (list(values) for values in zip(*samples, strict=True))
    # After a fifth of the files everything is loaded and warm.
    assert max(memory[4:]) - memory[4] < 12, memory
    assert max(descriptors[4:]) <= descriptors[4] + 2, descriptors


def test_the_real_files_of_a_microscope(folders, start, shared_data):
    """The 12 BBBC006 files, dropped one by one as an acquisition does: all come out, nothing of them is lost."""
    acquisition, out = folders
    sources = sorted((shared_data / "bbbc006" / "defocused_w1_z00").glob("*.tif"))
    watching = start(*QUICK).ready()
    for source in sources:
        (acquisition / source.name).write_bytes(source.read_bytes())
    wait_for(lambda: outputs(out) == [source.name for source in sources])
    assert watching.stop() == 0
    for source in sources:
        first, second = read_tiff(source), read_tiff(out / source.name)
        assert (second.data.shape, second.data.dtype, second.axes) == (first.data.shape, first.data.dtype, first.axes)
        assert [page.storage for page in second.structure.pages] == [page.storage for page in first.structure.pages]
