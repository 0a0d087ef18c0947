from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus.engine.errors import BackendError, ChangedError, DefocusError, InputError, OutputError
from defocus.engine.inference.engine import Engine
from defocus.engine.pipeline import steps
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.run import pipeline
from defocus.engine.pipeline.steps import stat_of
from defocus.engine.tiff.read import read_provenance, read_tiff

from ...helpers.sessions import watched_engine


@pytest.fixture(scope="module")
def engine(tiny_model) -> Iterator[Engine]:
    with Engine.load(tiny_model, backend="cpu") as engine:
        yield engine


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    stack = np.random.default_rng(0).integers(100, 4000, (3, 2, 40, 50), np.uint16)
    path = tmp_path / "in" / "stack.tif"
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZCYX"})
    return path


def one(job: Job, engine: Engine):
    (outcome,) = pipeline([job], engine, keep_sharp=False)
    return outcome


def test_a_file_is_restored(tmp_path, engine, source):
    before = source.read_bytes(), source.stat()
    target = tmp_path / "out" / "deep" / "stack.tif"
    outcome = one(Job(source, target), engine)
    assert outcome.error is None
    assert (outcome.shape, outcome.dtype, outcome.axes, outcome.planes) == ((3, 2, 40, 50), "uint16", "ZCYX", 6)
    assert set(outcome.seconds) == {"read", "infer", "assess", "write"}
    assert len(outcome.reports) == 6
    assert all(seconds > 0 for seconds in outcome.seconds.values())
    written = read_tiff(target)
    assert written.axes == "ZCYX"
    assert written.data.dtype == np.uint16
    assert np.array_equal(written.data, engine(tifffile.imread(source), "ZCYX"))
    assert list(target.parent.iterdir()) == [target]
    assert source.read_bytes() == before[0]
    assert source.stat().st_mtime_ns == before[1].st_mtime_ns


def test_the_output_says_what_it_was_made_from(tmp_path, engine, source):
    outcome = one(Job(source, tmp_path / "out.tif"), engine)
    assert outcome.error is None
    account = read_provenance(tmp_path / "out.tif")
    size, mtime_ns = stat_of(source)
    assert account == engine.provenance() | {
        "source": {"name": "stack.tif", "size": size, "mtime_ns": mtime_ns},
        "only_defocused": False,
        "keep_doubtful": "corrected",
        "planes": [report.as_dict() for report in outcome.reports],
    }


def test_jobs_are_taken_one_at_a_time(tmp_path, engine, source):
    taken = []

    def jobs():
        for i in range(3):
            taken.append(i)
            yield Job(source, tmp_path / f"{i}.tif")

    outcomes = pipeline(jobs(), engine, keep_sharp=False)
    assert taken == []
    next(outcomes)
    assert taken == [0]


def test_bad_files_do_not_end_it(tmp_path, engine, source):
    whole = source.read_bytes()
    bad = {
        "text.tif": b"this is a text\n" * 20,
        "empty.tif": b"",
        "cut.tif": whole[: len(whole) // 2],
        "zeros.tif": bytes(5000),
    }
    for name, content in bad.items():
        (source.parent / name).write_bytes(content)
    tifffile.imwrite(source.parent / "complex.tif", np.ones((9, 9), np.complex64))
    tifffile.imwrite(source.parent / "long.tif", np.ones((9, 9), np.int64))
    tifffile.imwrite(source.parent / "nan.tif", np.full((9, 9), np.nan, np.float32))
    (source.parent / "folder.tif").mkdir()
    names = [*bad, "complex.tif", "long.tif", "nan.tif", "folder.tif", "absent.tif"]
    jobs = [Job(source.parent / name, tmp_path / "out" / name) for name in names]
    outcomes = list(pipeline([*jobs, Job(source, tmp_path / "out" / "good.tif")], engine, keep_sharp=False))
    assert outcomes[-1].error is None
    for name, outcome in zip(names, outcomes, strict=False):
        assert isinstance(outcome.error, InputError), (name, outcome.error)
        assert name in outcome.error.thing
        assert "\n" not in str(outcome.error)
        assert outcome.error.remedy
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.tif"]


def test_another_version_than_the_jobs_is_not_written(tmp_path, engine, source):
    size, mtime_ns = stat_of(source)
    target = tmp_path / "out.tif"
    assert isinstance(one(Job(source, target, (size + 1, mtime_ns)), engine).error, ChangedError)
    assert isinstance(one(Job(source, target, (size, mtime_ns - 1)), engine).error, ChangedError)
    assert not target.exists()
    assert one(Job(source, target, (size, mtime_ns)), engine).error is None
    assert target.exists()


def test_a_change_while_reading_is_noticed(tmp_path, engine, source, monkeypatch):
    read = read_tiff

    def slow(path, *rest):
        stack = read(path, *rest)
        with open(path, "ab") as file:
            file.write(b"more")
        return stack

    monkeypatch.setattr(steps, "read_tiff", slow)
    outcome = one(Job(source, tmp_path / "out.tif"), engine)
    assert isinstance(outcome.error, ChangedError)
    assert not (tmp_path / "out.tif").exists()


def test_half_a_file_that_still_grows_is_not_bad_but_early(tmp_path, engine, source):
    version = stat_of(source)
    source.write_bytes(source.read_bytes()[:500])
    assert isinstance(one(Job(source, tmp_path / "out.tif", version), engine).error, ChangedError)
    source.unlink()
    assert isinstance(one(Job(source, tmp_path / "out.tif", version), engine).error, ChangedError)


def test_an_output_never_replaces_its_input(tmp_path, engine, source):
    before = source.read_bytes()
    assert "would replace it" in str(one(Job(source, source), engine).error)
    link = tmp_path / "link.tif"
    link.symlink_to(source)
    assert "would replace it" in str(one(Job(source, link), engine).error)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("code", "cause"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission"), (errno.EIO, "cannot be written")],
)
def test_what_cannot_be_written_is_not_the_inputs_fault(tmp_path, engine, source, monkeypatch, code, cause):
    target = tmp_path / "out" / "a.tif"
    target.parent.mkdir()
    target.write_bytes(b"what was there")

    def fails(stack, restored, path, provenance):
        Path(path).write_bytes(b"half")
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(steps, "write_tiff", fails)
    outcome = one(Job(source, target), engine)
    assert isinstance(outcome.error, OutputError)
    assert cause in str(outcome.error)
    assert target.read_bytes() == b"what was there"
    assert list(target.parent.iterdir()) == [target]


def test_a_file_in_the_place_of_a_folder(tmp_path, engine, source):
    (tmp_path / "out").write_bytes(b"")
    outcome = one(Job(source, tmp_path / "out" / "a.tif"), engine)
    assert isinstance(outcome.error, OutputError)
    assert "a file is in the place of a folder" in str(outcome.error)


@pytest.mark.parametrize(
    ("raised", "kind", "cause"),
    [
        (MemoryError(), DefocusError, "not enough memory for restoring it"),
        (OSError(errno.EMFILE, "Too many open files"), DefocusError, "not enough file descriptors for restoring it"),
        (RuntimeError("can't start new thread"), DefocusError, "not enough threads for restoring it"),
        (RuntimeError("odd"), DefocusError, "unexpected error while restoring it"),
        (ZeroDivisionError("1/0"), DefocusError, r"unexpected error while restoring it \(ZeroDivisionError: 1/0\)"),
        (BackendError("cuda", "lost", "try again"), BackendError, "cuda: lost"),
    ],
)
def test_whatever_the_engine_raises_is_an_outcome(tmp_path, tiny_model, source, raised, kind, cause):
    def fails(batch, stream):
        raise raised

    with watched_engine(tiny_model, fails) as engine:
        outcome = one(Job(source, tmp_path / "out.tif"), engine)
    assert type(outcome.error) is kind
    assert re.search(cause, str(outcome.error))
    assert not (tmp_path / "out.tif").exists()


def test_ctrl_c_passes_and_leaves_nothing(tmp_path, engine, source, monkeypatch):
    def interrupted(stack, restored, path, provenance):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "write_tiff", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one(Job(source, tmp_path / "out" / "a.tif"), engine)
    assert list((tmp_path / "out").iterdir()) == []


def test_real_files(tmp_path, engine, shared_data):
    sources = sorted((shared_data / "bbbc006" / "defocused_w1_z00").glob("*.tif"))[:2]
    for outcome in pipeline([Job(path, tmp_path / path.name) for path in sources], engine, keep_sharp=False):
        assert outcome.error is None
        with tifffile.TiffFile(outcome.job.target) as written, tifffile.TiffFile(outcome.job.source) as read:
            assert written.asarray().shape == read.asarray().shape == (520, 696)
            assert written.asarray().dtype == np.uint16
            assert written.pages.first.compression == read.pages.first.compression
