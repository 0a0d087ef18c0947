"""Stages side by side: the same outcomes as one after the other, bounded, and ended cleanly."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest
import tifffile

from defocus import Engine
from defocus.engine.errors import BackendError, InputError, OutOfMemoryError
from defocus.engine.inference.session_pool import Lane, Lanes
from defocus.engine.inference.tasks import ImageRequest
from defocus.engine.pipeline import concurrent
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.steps import pipeline
from defocus.engine.tiff.read import read_tiff


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


def test_files_in_hand_are_bounded(tmp_path, engine, jobs, monkeypatch):
    """A reader that is much quicker than the engine stops at its bound."""
    (tmp_path / "out").mkdir()
    taken, most = [], [0]
    whole = concurrent.infer_stage

    def slow(*given, **named):
        time.sleep(0.03)
        return whole(*given, **named)

    monkeypatch.setattr(concurrent, "infer_stage", slow)

    def told():
        for job in jobs:
            taken.append(job)
            yield job

    for number, _ in enumerate(pipeline(told(), engine, keep_sharp=False, ahead=1)):
        most[0] = max(most[0], len(taken) - number)
    assert most[0] <= 2 * 1 + engine.settings.tiles_in_flight + 1  # in hand, and the one that waits for a place


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


def test_files_share_batches_where_the_engine_takes_several(tmp_path, tiny_model, sets, monkeypatch):
    batches, whole = [], Engine._restore

    def counted(self, group, shared):
        batches.extend(map(len, group))
        whole(self, group, shared)

    monkeypatch.setattr(Engine, "_restore", counted)
    with Engine.load(tiny_model, backend="cpu", batch=4) as engine:

        def jobs():
            yield from sets
            time.sleep(0.5)  # the engine is slower than that, so the others have been read

        first = engine.restore_many
        engine.restore_many = lambda *given: (time.sleep(0.2), first(*given))[1]  # type: ignore[method-assign]
        done = {outcome.job.source.name: outcome for outcome in pipeline(jobs(), engine, keep_sharp=False, ahead=2)}
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


def test_a_backend_that_fails_fails_all_files_of_the_batch(tmp_path, tiny_model, sets, monkeypatch):
    def fails(self, group, shared):
        raise BackendError("cpu", "broken", "mend it")

    monkeypatch.setattr(Engine, "_restore", fails)
    with Engine.load(tiny_model, backend="cpu", batch=4) as engine:
        whole = [job.source for job in sets if job.source.name != "10.tif"]
        found = engine.restore_many([ImageRequest(tifffile.imread(path)) for path in whole])
    kinds = {path.name: type(one) for path, one in zip(whole, found, strict=True)}
    assert kinds.pop("06.tif") is np.ndarray  # flat: the backend never sees it
    assert kinds.pop("08.tif") is InputError  # its own fault
    assert set(kinds.values()) == {BackendError}


def test_a_file_that_breaks_the_network_fails_alone(tiny_model, monkeypatch):
    """Also if others went through the network beside it."""
    whole = Lane.restore

    def fails(self, batch):
        if any(portion.source.max() > 60_000 for portion in batch):
            raise BackendError("cpu", "broken", "mend it")
        whole(self, batch)

    monkeypatch.setattr(Lane, "restore", fails)
    images = [np.random.default_rng(i).integers(0, 4000, (50, 60), np.uint16) for i in range(5)]
    images[2][7, 7] = 65_535
    with Engine.load(tiny_model, backend="cpu", streams=2, threads=2) as engine:
        found = engine.restore_many([ImageRequest(image) for image in images])
        assert [isinstance(one, BackendError) for one in found] == [False, False, True, False, False]
        for one, image in zip(found, images, strict=True):
            if isinstance(one, np.ndarray):
                assert np.array_equal(one, engine(image))


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


def test_what_a_stream_refuses_is_tried_with_the_whole_engine(tmp_path, tiny_model, jobs, monkeypatch):
    """Two streams want more memory than one: each file still gets its output, and the engine goes on with one."""
    whole = Lanes.run_one

    def refuses(self, batch, streams):
        raise OutOfMemoryError("cpu", "no memory for two", "add some")

    monkeypatch.setattr(Lanes, "run_one", refuses)
    with Engine.load(tiny_model, backend="cpu", threads=2) as engine:
        done = list(pipeline(jobs, engine, keep_sharp=False, ahead=2))
        assert [outcome.job.source.name for outcome in done if outcome.error] == ["05.tif"]
        monkeypatch.setattr(Lanes, "run_one", whole)
        for job in (outcome.job for outcome in done if not outcome.error):
            assert np.array_equal(tifffile.imread(job.target), engine(tifffile.imread(job.source)))


def test_files_share_the_engine_a_stream_each(tmp_path, tiny_model, jobs, monkeypatch):
    taken, whole, alone, both = [], Lanes.run_one, Lanes.run, threading.Barrier(2, timeout=20)
    read = threading.Event()

    def run_one(self, batch, streams):
        taken.append(threading.current_thread().name)
        if len(taken) <= 2:
            both.wait()  # breaks unless two are there at once
        whole(self, batch, streams)

    monkeypatch.setattr(Lanes, "run_one", run_one)
    monkeypatch.setattr(Lanes, "run", lambda *given: read.wait(20) and alone(*given))
    with Engine.load(tiny_model, backend="cpu", threads=2) as engine:

        def read_first():
            yield from jobs
            read.set()

        done = list(pipeline(read_first(), engine, keep_sharp=False, ahead=len(jobs)))
        assert set(taken) == {"defocus-engine-0", "defocus-engine-1"}
        assert [outcome.job.source.name for outcome in done if outcome.error] == ["05.tif"]
        for job in (outcome.job for outcome in done if not outcome.error):
            assert np.array_equal(tifffile.imread(job.target), engine(tifffile.imread(job.source)))


def test_leaving_early_does_not_wait_for_the_end_of_a_long_file(tmp_path, tiny_model, monkeypatch):
    """Ctrl-C in the middle of a stack of thousands of planes."""
    (tmp_path / "out").mkdir()
    stack = np.random.default_rng(0).integers(0, 4000, (2000, 32, 32), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack[0])
    tifffile.imwrite(tmp_path / "b.tif", stack)
    ran, whole = [], Lane.restore

    def restore(self, batch):
        ran.append(len(batch))
        time.sleep(0.01)
        whole(self, batch)

    monkeypatch.setattr(Lane, "restore", restore)
    jobs = [Job(tmp_path / name, tmp_path / "out" / name) for name in ("a.tif", "b.tif")]
    with Engine.load(tiny_model, backend="cpu", threads=2) as engine:
        outcomes = pipeline(jobs, engine, keep_sharp=False, ahead=2)
        assert next(outcomes).job == jobs[0]
        outcomes.close()
    assert len(ran) < 1000
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.tif"]


def test_a_thread_that_dies_is_heard_of_although_no_job_comes(tmp_path, engine, jobs, monkeypatch):
    """The daemon's jobs end only when it has heard of the error."""
    monkeypatch.setattr(concurrent, "write_stage", lambda *given: (_ for _ in ()).throw(SystemError("broken")))
    heard = threading.Event()

    def endless():
        yield jobs[0]
        heard.wait(30)

    start = time.monotonic()
    with pytest.raises(SystemError, match="broken"):
        list(pipeline(endless(), engine, keep_sharp=False, ahead=2))
    assert time.monotonic() - start < 20
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
        more.wait(30)

    gc.disable()
    try:
        outcomes = pipeline(quiet(), engine, keep_sharp=False, ahead=2)
        outcome = next(outcomes)
        assert (outcome.error is not None) == bad
        end = time.monotonic() + 10
        while alive[0]() is not None and time.monotonic() < end:
            time.sleep(0.01)
        assert alive[0]() is None
    finally:
        gc.enable()
        more.set()
    assert list(outcomes) == []
