"""Stages side by side: the same outcomes as one after the other, bounded, and ended cleanly."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
import tifffile

from defocus import Engine
from defocus.engine import stages, tiff
from defocus.engine.jobs import Job
from defocus.engine.pipeline import pipeline


@pytest.fixture
def engine(tiny_model):
    with Engine.load(tiny_model, backend="cpu") as loaded:
        yield loaded


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    (tmp_path / "in").mkdir()
    for index in range(12):
        image = np.random.default_rng(index).integers(100, 3000, (64, 80), dtype=np.uint16)
        tifffile.imwrite(tmp_path / "in" / f"{index:02d}.tif", image, compression="lzw")
    (tmp_path / "in" / "05.tif").write_bytes(b"II*\0 no image")
    return [Job(path, tmp_path / "out" / path.name) for path in sorted((tmp_path / "in").iterdir())]


def test_the_outcomes_are_those_of_one_after_the_other(tmp_path, engine, jobs):
    (tmp_path / "out").mkdir()
    (tmp_path / "serial").mkdir()
    both = {outcome.job.source: outcome for outcome in pipeline(jobs, engine, ahead=2)}
    assert set(both) == {job.source for job in jobs}
    for job in jobs:
        (serial,) = pipeline([Job(job.source, tmp_path / "serial" / job.source.name)], engine)
        assert (both[job.source].error is None) == (serial.error is None)
        if serial.error is None:
            np.testing.assert_array_equal(tiff.read(job.target).data, tiff.read(serial.job.target).data)
            assert set(both[job.source].seconds) == set(serial.seconds)
    assert "05.tif" in str(both[jobs[5].source].error)


def test_files_in_hand_are_bounded(tmp_path, engine, jobs, monkeypatch):
    """A reader that is much quicker than the engine stops at its bound."""
    (tmp_path / "out").mkdir()
    taken, most = [], [0]
    whole = stages.infer_stage

    def slow(piece, *rest):
        time.sleep(0.03)
        return whole(piece, *rest)

    monkeypatch.setattr(stages, "infer_stage", slow)

    def told():
        for job in jobs:
            taken.append(job)
            yield job

    for number, _ in enumerate(pipeline(told(), engine, ahead=1)):
        most[0] = max(most[0], len(taken) - number)
    assert most[0] <= 2 * 1 + 1 + 1  # in hand, and the one that waits for a place


def test_bytes_in_hand_are_bounded_but_one_file_goes_in(tmp_path, engine, jobs):
    (tmp_path / "out").mkdir()
    assert len(list(pipeline(jobs, engine, ahead=3, memory=1))) == len(jobs)


def test_files_that_fail_in_the_engine_give_their_bytes_back(tmp_path, engine):
    """Or else the reader would wait for ever after enough of them."""
    (tmp_path / "nan").mkdir()
    for index in range(12):
        tifffile.imwrite(tmp_path / "nan" / f"{index}.tif", np.full((64, 64), np.nan, np.float32))
    todo = [Job(path, tmp_path / "out" / path.name) for path in (tmp_path / "nan").iterdir()]
    done = list(pipeline(todo, engine, ahead=1, memory=6 * 64 * 64 * 4 + 6))
    assert len(done) == 12
    assert all("NaN" in str(outcome.error) for outcome in done)


def test_what_the_jobs_raise_is_raised(engine):
    def broken():
        yield from ()
        raise KeyError("jobs")

    with pytest.raises(KeyError):
        list(pipeline(broken(), engine, ahead=2))


def test_a_stop_leaves_what_is_not_begun_and_writes_what_is_restored(tmp_path, engine, jobs):
    (tmp_path / "out").mkdir()
    stop = threading.Event()
    done = []
    for outcome in pipeline(jobs, engine, ahead=2, stop=stop.is_set):
        done.append(outcome)
        stop.set()
    assert 1 <= len(done) <= 2 * 2 + 1  # at most those that were in hand
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        outcome.job.target.name for outcome in done if outcome.error is None
    }


def test_leaving_early_ends_the_threads_and_leaves_whole_files(tmp_path, engine, jobs):
    (tmp_path / "out").mkdir()
    outcomes: Any = pipeline(jobs, engine, ahead=2)
    next(outcomes)
    outcomes.close()
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith(("defocus-reader", "defocus-writer"))
    ]
    for path in (tmp_path / "out").iterdir():
        assert path.suffix == ".tif"  # nothing half-written
        tiff.read(path)
