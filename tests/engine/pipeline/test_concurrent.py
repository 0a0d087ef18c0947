"""Stages side by side: the same outcomes as one after the other, bounded, and ended cleanly."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest
import tifffile

from defocus import Engine
from defocus.engine.errors import BackendError, InputError, OutOfMemoryError
from defocus.engine.inference.tasks import ImageRequest
from defocus.engine.pipeline import concurrent
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.run import pipeline
from defocus.engine.tiff.read import read_tiff

from ...helpers.sessions import watched_engine
from ...helpers.waiting import wait_for


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
    both = {outcome.job.source: outcome for outcome in pipeline(jobs, engine, keep_sharp=False, ahead=2)}
    assert set(both) == {job.source for job in jobs}
    for job in jobs:
        (serial,) = pipeline([Job(job.source, tmp_path / "serial" / job.source.name)], engine, keep_sharp=False)
        assert (both[job.source].error is None) == (serial.error is None)
        if serial.error is None:
            np.testing.assert_array_equal(read_tiff(job.target).data, read_tiff(serial.job.target).data)
            assert set(both[job.source].seconds) == set(serial.seconds)
    assert "05.tif" in str(both[jobs[5].source].error)


def test_files_in_progress_are_bounded(tmp_path, tiny_model, jobs):
    """A reader that is much quicker than the engine stops at its bound."""
    taken, most, bound_reached = [], 0, threading.Event()

    def told():
        for job in jobs:
            taken.append(job)
            if len(taken) > 2 + 2:
                bound_reached.set()
            yield job

    with watched_engine(tiny_model, lambda batch, stream: (bound_reached.wait(300), None)[1]) as engine:
        for number, _ in enumerate(pipeline(told(), engine, keep_sharp=False, ahead=1)):
            most = max(most, len(taken) - number)
        assert 2 < most <= 2 * 1 + engine.settings.tiles_in_flight + 1  # and the one that waits for a place


def test_bytes_in_hand_are_bounded_but_one_file_goes_in(tmp_path, engine, jobs):
    (tmp_path / "out").mkdir()
    assert len(list(pipeline(jobs, engine, keep_sharp=False, ahead=3, memory=1))) == len(jobs)


@pytest.fixture
def sets(tmp_path) -> list[Job]:
    """Files that may share batches, and among them one of another shape, a bad one, a flat one and one with NaN."""
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(3)
    for index in range(14):
        image = rng.normal(1000, 200, (50, 60)).astype(np.float32)
        image = {4: image[:30], 6: np.full_like(image, 7.0), 8: np.where(image > 1500, np.nan, image)}.get(index, image)
        tifffile.imwrite(tmp_path / "in" / f"{index:02d}.tif", image, metadata=None)
    image[0, 0] = np.nan
    tifffile.imwrite(tmp_path / "in" / "08.tif", image, metadata=None)
    (tmp_path / "in" / "10.tif").write_bytes(b"II*\0 no image")
    return [Job(path, tmp_path / "out" / path.name) for path in sorted((tmp_path / "in").iterdir())]


def test_files_share_batches_where_the_engine_takes_several(tmp_path, tiny_model, sets):
    batches, read = [], threading.Event()

    def before(batch, stream):
        read.wait(300)  # all others have been read by then
        batches.append(len(batch))

    def jobs():
        yield from sets
        read.set()

    with watched_engine(tiny_model, before, batch=4, streams=1) as engine:
        outcomes = pipeline(jobs(), engine, keep_sharp=False, ahead=len(sets))
        done = {outcome.job.source.name: outcome for outcome in outcomes}
    assert 1 < max(batches) <= 4
    bad = {name for name, outcome in done.items() if outcome.error}
    assert bad == {"08.tif", "10.tif"}
    assert "NaN" in str(done["08.tif"].error)
    assert "08.tif" in str(done["08.tif"].error)
    with Engine.load(tiny_model, backend="cpu") as engine:
        for job in sets:
            if job.source.name not in bad:
                expected = engine(tifffile.imread(job.source))
                np.testing.assert_allclose(tifffile.imread(job.target), expected, rtol=1e-5)


def test_a_backend_that_fails_fails_all_files_of_the_batch(tiny_model, sets):
    def fails(batch, stream):
        raise BackendError("cpu", "broken", "mend it")

    with watched_engine(tiny_model, fails, batch=4) as engine:
        paths = [job.source for job in sets if job.source.name != "10.tif"]
        results = engine.restore_many([ImageRequest(tifffile.imread(path)) for path in paths])
    kinds = {path.name: type(result) for path, result in zip(paths, results, strict=True)}
    assert kinds.pop("06.tif") is np.ndarray  # flat: the backend never sees it
    assert kinds.pop("08.tif") is InputError  # its own fault
    assert set(kinds.values()) == {BackendError}


def test_a_file_that_breaks_the_network_fails_alone(tiny_model):
    """Also if others went through the network beside it."""
    images = [np.random.default_rng(i).normal(2000, 300, (50, 60)).astype(np.float32) for i in range(5)]
    images[2][10:30] *= 1e12  # what the network sees of it lies far outside the others' range
    images[2][10:30, ::2] = 0

    def fails(batch, stream):
        if np.median(batch) < 1e-3:
            raise BackendError("cpu", "broken", "mend it")

    with watched_engine(tiny_model, fails, streams=2) as engine:
        results = engine.restore_many([ImageRequest(image) for image in images])
        assert [isinstance(result, BackendError) for result in results] == [False, False, True, False, False]
        for result, image in zip(results, images, strict=True):
            if isinstance(result, np.ndarray):
                assert np.array_equal(result, engine(image))


def test_files_that_fail_in_the_engine_give_their_bytes_back(tmp_path, engine):
    """Or else the reader would wait for ever after enough of them."""
    (tmp_path / "nan").mkdir()
    for index in range(12):
        tifffile.imwrite(tmp_path / "nan" / f"{index}.tif", np.full((64, 64), np.nan, np.float32))
    todo = [Job(path, tmp_path / "out" / path.name) for path in (tmp_path / "nan").iterdir()]
    done = list(pipeline(todo, engine, keep_sharp=False, ahead=1, memory=6 * 64 * 64 * 4 + 6))
    assert len(done) == 12
    assert all("NaN" in str(outcome.error) for outcome in done)


def test_what_the_jobs_raise_is_raised(engine):
    def broken():
        yield from ()
        raise KeyError("jobs")

    with pytest.raises(KeyError):
        list(pipeline(broken(), engine, keep_sharp=False, ahead=2))


def test_a_stop_leaves_what_is_not_begun_and_writes_what_is_restored(tmp_path, engine, jobs):
    (tmp_path / "out").mkdir()
    stop = threading.Event()
    done = []
    for outcome in pipeline(jobs, engine, keep_sharp=False, ahead=2, stop=stop.is_set):
        done.append(outcome)
        stop.set()
    assert 1 <= len(done) <= 2 * 2 + engine.settings.tiles_in_flight  # at most those that were in hand
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        outcome.job.target.name for outcome in done if outcome.error is None
    }


def test_leaving_early_ends_the_threads_and_leaves_whole_files(tmp_path, engine, jobs):
    (tmp_path / "out").mkdir()
    outcomes: Any = pipeline(jobs, engine, keep_sharp=False, ahead=2)
    next(outcomes)
    outcomes.close()
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith(("defocus-reader", "defocus-writer"))
    ]
    for path in (tmp_path / "out").iterdir():
        assert path.suffix == ".tif"  # nothing half-written
        read_tiff(path)


def test_what_a_stream_refuses_is_tried_with_the_whole_engine(tiny_model, jobs):
    """Two streams want more memory than one: each file still gets its output, and the engine goes on with one."""
    read, refused = threading.Event(), []

    def refuses(batch, stream):
        read.wait(300)
        if stream is not None:
            refused.append(stream)
            raise OutOfMemoryError("cpu", "no memory for two", "add some")

    def read_first():
        yield from jobs
        read.set()

    with watched_engine(tiny_model, refuses) as engine:
        done = list(pipeline(read_first(), engine, keep_sharp=False, ahead=len(jobs)))
    assert refused
    check_outputs(done, tiny_model)


def test_files_share_the_engine_a_stream_each(tiny_model, jobs):
    streams, read, both = [], threading.Event(), threading.Barrier(2, timeout=300)

    def before(batch, stream):
        read.wait(300)
        streams.append(stream)
        if stream is not None and streams.count(None) + 2 >= len(streams):
            both.wait()  # breaks unless two are there at once

    def read_first():
        yield from jobs
        read.set()

    with watched_engine(tiny_model, before) as engine:
        done = list(pipeline(read_first(), engine, keep_sharp=False, ahead=len(jobs)))
    assert {0, 1} <= set(streams)
    check_outputs(done, tiny_model)


def check_outputs(done, tiny_model):
    """All but the bad file are what the engine makes of them alone."""
    assert [outcome.job.source.name for outcome in done if outcome.error] == ["05.tif"]
    with Engine.load(tiny_model, backend="cpu", threads=2) as engine:
        for job in (outcome.job for outcome in done if not outcome.error):
            assert np.array_equal(tifffile.imread(job.target), engine(tifffile.imread(job.source)))


def test_leaving_early_does_not_wait_for_the_end_of_a_long_file(tmp_path, tiny_model):
    """Ctrl-C in the middle of a stack of thousands of planes."""
    stack = np.random.default_rng(0).integers(0, 4000, (2000, 32, 32), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack[0])
    tifffile.imwrite(tmp_path / "b.tif", stack)
    ran, second, left = [], threading.Event(), threading.Event()

    def before(batch, stream):
        ran.append(len(batch))
        if len(ran) > 1:
            second.set()
            left.wait(0.01)

    jobs = [Job(tmp_path / name, tmp_path / "out" / name) for name in ("a.tif", "b.tif")]
    with watched_engine(tiny_model, before) as engine:
        outcomes = pipeline(jobs, engine, keep_sharp=False, ahead=2)
        assert next(outcomes).job == jobs[0]
        assert second.wait(300)
        outcomes.close()
    assert len(ran) < 1000
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.tif"]


def test_a_thread_that_dies_is_heard_of_although_no_job_comes(tmp_path, engine, jobs, monkeypatch):
    """The daemon's jobs end only when it has heard of the error."""
    monkeypatch.setattr(concurrent, "write_stage", lambda *given: (_ for _ in ()).throw(SystemError("broken")))
    heard, waited = threading.Event(), []

    def endless():
        yield jobs[0]
        waited.append(heard.wait(300))

    with pytest.raises(SystemError, match="broken"):
        list(pipeline(endless(), engine, keep_sharp=False, ahead=2))
    assert waited == []
    heard.set()


@pytest.mark.parametrize("bad", [False, True])
def test_pixels_go_as_soon_as_their_file_is_done(tmp_path, engine, monkeypatch, bad):
    """Also those of a file that failed in the engine, while its outcome is kept, and while no other file comes."""
    image = np.full((64, 64), np.nan if bad else 3.0, np.float32)
    image[0, 0] = 7
    tifffile.imwrite(tmp_path / "a.tif", image)
    alive: list[weakref.ref] = []
    read = concurrent.read_stage

    def watched(*given):
        piece = read(*given)
        alive.append(weakref.ref(piece.images[0].data))
        return piece

    monkeypatch.setattr(concurrent, "read_stage", watched)
    more = threading.Event()

    def quiet():
        yield Job(tmp_path / "a.tif", tmp_path / "out" / "a.tif")
        more.wait(300)

    gc.disable()
    try:
        outcomes = pipeline(quiet(), engine, keep_sharp=False, ahead=2)
        outcome = next(outcomes)
        assert (outcome.error is not None) == bad
        wait_for(lambda: alive[0]() is None)
    finally:
        gc.enable()
        more.set()
    assert list(outcomes) == []
