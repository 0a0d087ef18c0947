"""Files of one channel each that go through a two-channel model together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus.engine.errors import ChangedError, InputError, OutputError
from defocus.engine.image import memmap
from defocus.engine.image.memmap import on_disk
from defocus.engine.inference.engine import Engine
from defocus.engine.pipeline.batch import is_done
from defocus.engine.pipeline.jobs import Job, Outcome
from defocus.engine.pipeline.run import pipeline
from defocus.engine.pipeline.steps import process, stat_of
from defocus.engine.tiff.read import read_provenance, read_tiff


@pytest.fixture(scope="module")
def engine(tiny_model_2c) -> Iterator[Engine]:
    with Engine.load(tiny_model_2c, backend="cpu") as engine:
        yield engine


def draw(path: Path, seed: int, shape: tuple[int, ...] = (64, 80), dtype: str = "uint16", **arguments) -> np.ndarray:
    image = np.random.default_rng(seed).integers(100, 200 if dtype == "uint8" else 4000, shape).astype(dtype)
    tifffile.imwrite(path, image, **arguments)
    return image


@pytest.fixture
def job(tmp_path) -> Job:
    """A group of two files that are stored differently."""
    (tmp_path / "in").mkdir()
    draw(tmp_path / "in" / "a_w1.tif", 1, compression="lzw", description="nuclei")
    draw(tmp_path / "in" / "a_w2.tif", 2, compression="zlib", description="actin", resolution=(3.5, 3.5))
    return group(tmp_path, "a_w1.tif", "a_w2.tif")


def group(root: Path, *names: str) -> Job:
    first, *others = (Job(root / "in" / name, root / "out" / name) for name in names)
    return replace(first, others=tuple(others))


def one(job: Job, engine: Engine, ahead: int = 0) -> tuple[Outcome, ...]:
    (outcome,) = pipeline([job], engine, keep_sharp=False, ahead=ahead)
    found = outcome.each()
    assert [each.job for each in found] == list(job.each())
    return found


@pytest.mark.parametrize("ahead", [0, 2])
def test_each_file_gets_its_own_output_of_one_joint_run(tmp_path, engine, job, ahead):
    first, second = one(job, engine, ahead)
    assert first.error is None
    assert second.error is None
    inputs = [read_tiff(each.source) for each in job.each()]
    expected = engine(np.stack([stack.data for stack in inputs]), "CYX")
    swapped = engine(np.stack([stack.data for stack in reversed(inputs)]), "CYX")
    assert not np.array_equal(expected, swapped[::-1])  # the order of channels matters to this model
    for each, stack, restored in zip(job.each(), inputs, expected, strict=True):
        written = read_tiff(each.target)
        np.testing.assert_array_equal(written.data, restored)
        assert written.images[0].pages[0].storage == stack.images[0].pages[0].storage
        with tifffile.TiffFile(each.source) as before, tifffile.TiffFile(each.target) as after:
            assert before.pages.first.description == after.pages.first.description
    for outcome in (first, second):
        assert (outcome.planes, outcome.shape, outcome.axes) == (1, (64, 80), "YX")
        assert len(outcome.reports) == 1
        assert set(outcome.seconds) == {"read", "infer", "assess", "write"}


def test_the_provenance_names_the_partners(engine, job):
    one(job, engine)
    sources = []
    for each in job.each():
        size, mtime_ns = stat_of(each.source)
        sources.append({"name": each.source.name, "size": size, "mtime_ns": mtime_ns})
    for each, source in zip(job.each(), sources, strict=True):
        account = read_provenance(each.target)
        assert account is not None
        assert account["source"] == source
        assert account["channels"] == sources


def test_stacks_go_plane_by_plane(tmp_path, engine):
    (tmp_path / "in").mkdir()
    images = [
        draw(tmp_path / "in" / f"C{n}-x.tif", n, (3, 48, 64), imagej=True, metadata={"axes": "ZYX"}) for n in (1, 2)
    ]
    job = group(tmp_path, "C1-x.tif", "C2-x.tif")
    outcomes = one(job, engine)
    assert [(outcome.error, outcome.planes, outcome.axes) for outcome in outcomes] == [(None, 3, "ZYX")] * 2
    expected = engine(np.stack(images), "CZYX")
    for each, restored in zip(job.each(), expected, strict=True):
        np.testing.assert_array_equal(read_tiff(each.target).data, restored)


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"shape": (64, 64)}, r"differ in shape \(\(64, 80\) and \(64, 64\)\)"),
        ({"dtype": "uint8"}, r"differ in type \(uint16 and uint8\)"),
    ],
)
def test_channels_that_do_not_fit_are_named_both(tmp_path, engine, job, second, says):
    draw(tmp_path / "in" / "a_w2.tif", 2, **second)
    for outcome in one(job, engine):
        assert isinstance(outcome.error, InputError)
        assert f"{tmp_path / 'in' / 'a_w1.tif'} and {tmp_path / 'in' / 'a_w2.tif'}" in str(outcome.error)
        with pytest.raises(InputError, match=says):
            raise outcome.error
    assert not (tmp_path / "out").exists()


def test_a_file_of_several_channels_is_no_channel(tmp_path, engine, job):
    draw(tmp_path / "in" / "a_w2.tif", 2, (2, 64, 80), imagej=True, metadata={"axes": "CYX"})
    for outcome in one(job, engine):
        assert "a_w2.tif: has 2 channels itself" in str(outcome.error)


def test_one_bad_file_is_told_of_both(tmp_path, engine, job):
    (tmp_path / "in" / "a_w2.tif").write_bytes(b"II*\0 no image")
    first, second = one(job, engine)
    assert first.error is not None
    assert second.error is not None
    assert str(first.error).startswith(f"{tmp_path / 'in' / 'a_w1.tif'}: cannot be corrected without its partner")
    assert second.error.cause in str(first.error)
    assert str(second.error).startswith(str(tmp_path / "in" / "a_w2.tif"))
    assert not (tmp_path / "out").exists()


def test_pixels_that_are_no_numbers_name_both(tmp_path, engine, job):
    draw(tmp_path / "in" / "a_w1.tif", 2, dtype="float32")
    tifffile.imwrite(tmp_path / "in" / "a_w2.tif", np.full((64, 80), np.nan, np.float32))
    for outcome in one(job, engine):
        assert "a_w1.tif and " in str(outcome.error)
        assert "NaN" in str(outcome.error)


def test_memory_that_does_not_hold_both_is_told_of_both(engine, job, monkeypatch):
    allocate = memmap.DiskAllocator.__call__

    def full(self, shape, dtype):
        if len(shape) > 2:  # both channels
            raise MemoryError
        return allocate(self, shape, dtype)

    monkeypatch.setattr(memmap.DiskAllocator, "__call__", full)
    for outcome in one(job, engine):
        assert "not enough memory" in str(outcome.error)


def test_a_partner_of_another_version_is_no_failure(engine, job):
    (second,) = job.others
    stale = replace(second, stat=(1, 1))
    for outcome in pipeline([replace(job, others=(stale,))], engine, keep_sharp=False):
        assert [type(each.error) for each in outcome.each()] == [ChangedError, ChangedError]


def test_a_group_is_done_when_all_of_it_is(engine, job):
    (second,) = job.others
    assert not is_done(job, engine.card)
    one(job, engine)
    assert is_done(job, engine.card)
    second.target.unlink()  # killed between the two commits
    assert not is_done(job, engine.card)
    one(job, engine)
    assert is_done(job, engine.card)
    assert not is_done(replace(second, others=(replace(job, others=()),)), engine.card)  # in another order
    assert not is_done(second, engine.card)  # or alone
    draw(second.source, 7)
    assert not is_done(job, engine.card)  # from another version of one of them


def test_an_output_that_cannot_be_written_fails_the_group(tmp_path, engine, job):
    (second,) = job.others
    (tmp_path / "out" / "a_w2.tif").mkdir(parents=True)
    for outcome in one(job, engine):
        assert isinstance(outcome.error, OutputError)
    with pytest.raises(OutputError):
        is_done(job, engine.card)
    second.target.rmdir()
    assert [outcome.error for outcome in one(job, engine)] == [None, None]


def test_large_groups_go_by_the_disk_and_come_out_the_same(engine, job, monkeypatch):
    made = []
    monkeypatch.setattr(memmap, "is_local", lambda _: True)
    monkeypatch.setattr(memmap, "on_disk", lambda *given: made.append(given) or on_disk(*given))
    results = []
    for memory in (0, 1):
        outcome = process(job, engine, keep_sharp=False, memory=memory)
        assert outcome.error is None
        results.append([one.target.read_bytes() for one in job.each()])
    assert results[0] == results[1]
    assert len(made) == 4  # each file's pixels, both together, and the result
