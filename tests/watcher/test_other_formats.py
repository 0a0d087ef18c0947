"""defocus-watch, a real process: ND2 and OME-Zarr are taken when they are complete."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from defocus.engine.formats.dispatch import read_provenance
from defocus.engine.pipeline.steps import stat_of
from defocus.engine.tiff.read import read_tiff
from defocus.watcher.discovery.completeness import Completeness, PendingFile, look
from defocus.watcher.discovery.fs_events import FileEvents
from defocus.watcher.journal import Journal
from defocus.watcher.journal_entry import FileState

from ..helpers.microscope_formats import stack, write_nd2, write_ome_zarr
from ..helpers.waiting import wait_for
from .conftest import QUICK, listing

pytestmark = pytest.mark.skipif(find_spec("bioio_nd2") is None, reason='needs pip install ".[formats]"')
zarr = pytest.importorskip("zarr", reason='needs pip install ".[formats]"')


def states(out: Path) -> dict[str, FileState]:
    with Journal(out) as journal:
        return {name: entry.state for name in ("a.nd2", "b.zarr") if (entry := journal.find(Path(name))) is not None}


def test_what_is_there_is_corrected_once(folders, start):
    acquisition, out = folders
    write_nd2(acquisition / "a.nd2", stack(2, 2, 64, 80))
    write_ome_zarr(acquisition / "b.zarr", stack(1, 1, 2, 64, 64))
    before = listing(acquisition)
    watching = start("--once", *QUICK)
    assert watching.process.wait(300) == 0, watching.said()
    assert listing(acquisition) == before
    assert sorted(path.name for path in out.iterdir()) == [".defocus", "a.nd2.ome.tif", "b.zarr"]
    assert watching.said().count("corrected in") == 2
    assert states(out) == {"a.nd2": FileState.DONE, "b.zarr": FileState.DONE}
    (out / "a.nd2.ome.tif").unlink()
    shutil.rmtree(out / "b.zarr")
    watching = start("--once", *QUICK)
    assert watching.process.wait(300) == 0, watching.said()
    assert read_tiff(out / "a.nd2.ome.tif").axes == "TCYX"
    assert read_provenance(out / "b.zarr") is not None


def test_files_that_are_being_written_wait(folders, start, tmp_path):
    acquisition, out = folders
    write_nd2(tmp_path / "a.nd2", stack(2, 1, 64, 80))
    write_ome_zarr(tmp_path / "b.zarr", stack(1, 1, 2, 64, 64), levels=1)
    start("--settle", "0.1", "--rescan", "0.2", "--patience", "60").ready()
    whole = (tmp_path / "a.nd2").read_bytes()
    with open(acquisition / "a.nd2", "wb") as file:
        file.write(whole[: len(whole) // 2])
        file.flush()
        chunks = sorted(path for path in (tmp_path / "b.zarr" / "0" / "c").rglob("*") if path.is_file())
        shutil.copytree(tmp_path / "b.zarr", acquisition / "b.zarr", ignore=shutil.ignore_patterns("c"))
        for chunk in chunks[:-1]:
            place = acquisition / chunk.relative_to(tmp_path)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(chunk, place)
        write_nd2(tmp_path / "c.nd2", stack(1, 1, 64, 80))
        os.replace(tmp_path / "c.nd2", acquisition / "c.nd2")  # by which we know that the daemon has looked
        wait_for((out / "c.nd2.ome.tif").exists)
        assert not (out / "a.nd2.ome.tif").exists()
        assert not (out / "b.zarr").exists()
        file.write(whole[len(whole) // 2 :])
    place = acquisition / chunks[-1].relative_to(tmp_path)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(chunks[-1], place)
    wait_for((out / "a.nd2.ome.tif").exists)
    wait_for((out / "b.zarr").exists)
    restored = zarr.open_group(out / "b.zarr", mode="r")["0"][...]
    assert not np.array_equal(restored, zarr.open_group(acquisition / "b.zarr", mode="r")["0"][...])


def test_a_store_that_is_moved_here_whole_need_not_settle(folders, tmp_path):
    acquisition, _ = folders
    write_ome_zarr(tmp_path / "b.zarr", stack(1, 1, 2, 64, 64))
    events, found = FileEvents(acquisition), []
    assert events.start() is None
    try:
        os.replace(tmp_path / "b.zarr", acquisition / "b.zarr.part")
        os.replace(acquisition / "b.zarr.part", acquisition / "b.zarr")
        wait_for(lambda: found.extend(events.take()) or found)
    finally:
        events.stop()
    assert [(event.path, event.closed) for event in found] == [(acquisition / "b.zarr", True)]
    pending = PendingFile(stat_of(acquisition / "b.zarr"), since=0.0, seen=0.0, closed=True)
    assert look(acquisition / "b.zarr", pending, 0.0, settle=60, patience=60) is Completeness.COMPLETE
