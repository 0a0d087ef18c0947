"""OME-Zarr 0.4 and 0.5: the same store with other pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from defocus import Engine
from defocus.engine.errors import ChangedError, ErrorCode, InputError
from defocus.engine.formats.dispatch import axes_of, check_complete, read_other, read_provenance
from defocus.engine.model.card import read_card
from defocus.engine.pipeline import steps
from defocus.engine.pipeline.batch import Status, find, restore
from defocus.engine.pipeline.jobs import Job
from defocus.engine.tiff.integrity import UnfinishedError

from ...helpers.microscope_formats import stack, write_ome_zarr

zarr = pytest.importorskip("zarr", reason='needs pip install ".[formats]"')
DATA = stack(2, 2, 1, 128, 96)


@pytest.fixture(params=["0.4", "0.5"])
def store(request, tmp_path) -> Path:
    path = tmp_path / "acq" / "a µ.ome.zarr"
    write_ome_zarr(path, DATA, request.param, levels=3)
    return path


def run(model: Path, given: Path, out: Path, **options):
    engine = lambda: Engine.load(model, backend="cpu")  # noqa: E731
    return list(restore(find([given], out), read_card(model), engine, keep_sharp=False, **options))


def listing(path: Path) -> dict[str, bytes]:
    return {one.relative_to(path).as_posix(): one.read_bytes() for one in path.rglob("*") if one.is_file()}


def test_the_output_is_the_store_with_other_pixels(store, tmp_path, tiny_model):
    before = listing(store)
    (result,) = run(tiny_model, store.parent, tmp_path / "out")
    assert result.error is None
    target = tmp_path / "out" / store.name
    assert result.job.target == target
    assert listing(store) == before
    after = listing(target)
    assert before.keys() == after.keys()  # every chunk, and nothing else
    differ = {name for name in before if before[name] != after[name]}
    root = ".zattrs" if ".zattrs" in before else "zarr.json"
    assert {name for name in differ if name[0] not in "012"} == {root}  # labels, metadata of arrays
    attributes = [json.loads(one[root]) for one in (before, after)]
    account = (attributes[1].get("attributes") or attributes[1]).pop("defocus")
    assert attributes[0] == attributes[1]
    assert account == read_provenance(target)
    assert account["source"]["name"] == store.name
    with Engine.load(tiny_model, backend="cpu") as engine:
        expected = engine(DATA, "TCZYX")
    pixels = zarr.open_group(target, mode="r")
    assert np.array_equal(pixels["0"][...], expected)
    for level in ("1", "2"):
        blocks = expected.reshape(*expected.shape[:3], expected.shape[3] // 2, 2, expected.shape[4] // 2, 2)
        expected = np.rint(blocks.mean((4, 6)))
        assert np.array_equal(pixels[level][...], expected)


def test_levels_of_every_second_pixel_stay_that(tmp_path, tiny_model):
    write_ome_zarr(tmp_path / "a.zarr", DATA, levels=2, means=False)
    run(tiny_model, tmp_path / "a.zarr", tmp_path / "out")
    pixels = zarr.open_group(tmp_path / "out" / "a.zarr", mode="r")
    assert np.array_equal(pixels["1"][...], pixels["0"][..., ::2, ::2])


@pytest.mark.filterwarnings("ignore:.*dimension_names")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_output_is_valid(version, tmp_path, tiny_model):
    yaozarrs = pytest.importorskip("yaozarrs", reason="needs yaozarrs: pip install yaozarrs")
    write_ome_zarr(tmp_path / "a.zarr", DATA, version, levels=1)
    yaozarrs.validate_zarr_store(tmp_path / "a.zarr")
    run(tiny_model, tmp_path / "a.zarr", tmp_path / "out")
    yaozarrs.validate_zarr_store(tmp_path / "out" / "a.zarr")


def test_what_is_done_is_skipped_and_made_anew_when_it_changes(store, tmp_path, tiny_model):
    run(tiny_model, store, tmp_path / "out")
    (again,) = run(tiny_model, store, tmp_path / "out")
    assert again.status is Status.SKIPPED
    told = json.loads(again.to_json())
    assert (told["axes"], told["shape"], told["planes"]) == ("TCYX", [2, 2, 128, 96], 4)
    first = listing(tmp_path / "out" / store.name)
    zarr.open_group(store, mode="r+")["0"][0] = 500
    (changed,) = run(tiny_model, store, tmp_path / "out")
    assert changed.status is Status.DONE
    assert listing(tmp_path / "out" / store.name) != first
    assert [one.name for one in (tmp_path / "out").iterdir()] == [store.name]  # nothing is left of the old one
    (own,) = run(tiny_model, tmp_path / "out" / store.name, tmp_path / "twice")
    assert own.status is Status.SKIPPED


def test_somebody_elses_store_is_not_replaced(store, tmp_path, tiny_model):
    write_ome_zarr(tmp_path / "out" / store.name, DATA)
    (result,) = run(tiny_model, store, tmp_path / "out")
    assert result.error is not None
    assert result.error.code is ErrorCode.OCCUPIED
    (result,) = run(tiny_model, store, tmp_path / "out", overwrite=True)
    assert result.status is Status.DONE


def test_large_stores_go_through_the_disk_with_the_same_result(store, tmp_path, tiny_model):
    run(tiny_model, store, tmp_path / "small", memory=50_000)
    run(tiny_model, store, tmp_path / "large")
    small, large = (zarr.open_group(tmp_path / size / store.name, mode="r") for size in ("small", "large"))
    assert all(np.array_equal(small[level][...], large[level][...]) for level in "012")


def test_shards_and_chunks_of_several_planes(tmp_path, tiny_model):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    data = stack(5, 70, 90)
    array = root.create_array("s0", shape=data.shape, chunks=(2, 32, 32), shards=(4, 64, 64), dtype=data.dtype)
    array[...] = data
    axes = [{"name": axis} for axis in "zyx"]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "s0"}]}]}
    run(tiny_model, tmp_path / "a.zarr", tmp_path / "out")
    with Engine.load(tiny_model, backend="cpu") as engine:
        written = zarr.open_group(tmp_path / "out" / "a.zarr", mode="r")["s0"]
        assert np.array_equal(written[...], engine(data, "ZYX"))
    assert (written.chunks, written.shards) == (array.chunks, array.shards)


def test_every_image_of_a_plate_is_corrected(tmp_path, tiny_model):
    for field in ("A/1/0", "A/1/1", "B/2/0"):
        write_ome_zarr(tmp_path / "plate.zarr" / field, DATA[:1], "0.4", levels=1)
    zarr.open_group(tmp_path / "plate.zarr", mode="a", zarr_format=2).attrs["plate"] = {"wells": []}
    (result,) = run(tiny_model, tmp_path / "plate.zarr", tmp_path / "out")
    assert result.outcome is not None
    assert [image.axes for image in result.outcome.images] == ["CYX"] * 3
    assert [report.image for report in result.outcome.reports] == [1, 1, 2, 2, 3, 3]


def test_a_store_that_grows_is_not_finished(store):
    check_complete(store, finished=True)
    chunk = next(one for one in sorted((store / "0").rglob("*")) if one.is_file() and one.name[0].isdigit())
    chunk.unlink()
    check_complete(store)
    with pytest.raises(UnfinishedError, match="47 of 48 chunks of 0 are there"):
        check_complete(store, finished=True)


def test_what_is_no_ome_zarr_is_refused(tmp_path):
    path = tmp_path / "a.zarr"
    zarr.open_group(path, mode="w", zarr_format=3).create_array("0", shape=(4, 4), chunks=(4, 4), dtype="u2")
    with pytest.raises(InputError, match="holds no OME-Zarr image"):
        read_other(path)
    (path / "zarr.json").write_text("[1]")
    with pytest.raises(InputError, match="is no metadata of a Zarr"):
        check_complete(path)
    with pytest.raises(InputError, match="no such file"):
        check_complete(tmp_path / "b.zarr")
    (tmp_path / "c.zarr").write_text("a file")
    with pytest.raises(InputError, match=r"c\.zarr"):
        read_provenance(tmp_path / "c.zarr")
    write_ome_zarr(tmp_path / "d.zarr", DATA)
    group = json.loads((tmp_path / "d.zarr" / "zarr.json").read_text())
    group["attributes"]["ome"]["multiscales"][0]["axes"][0]["name"] = "angle"
    (tmp_path / "d.zarr" / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(InputError, match="has an axis 'angle'"):
        axes_of(tmp_path / "d.zarr")


def test_a_store_that_changes_while_it_is_copied_is_left_for_later(store, tmp_path, tiny_model, monkeypatch):
    with Engine.load(tiny_model, backend="cpu") as engine:
        item = steps.infer_stage(steps.read_stage(Job(store, tmp_path / "out" / store.name)), engine)
        (store / "labels" / "new").write_text("a label")
        outcome = steps.write_stage(item, engine, keep_sharp=False)
    assert isinstance(outcome.error, ChangedError)
    assert list((tmp_path / "out").iterdir()) == []
