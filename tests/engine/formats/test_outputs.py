"""What outputs of other formats than TIFF say of themselves: provenance, report, pictures, size of a pixel."""

from __future__ import annotations

import os
import time
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

import defocus
from defocus import Engine, InputError
from defocus.engine.formats.dispatch import read_optics
from defocus.engine.formats.preview import previews
from defocus.engine.model.card import read_card
from defocus.engine.pipeline.batch import find, restore
from defocus.engine.pipeline.report import Report, of_outputs

from ...helpers.microscope_formats import stack, write_czi, write_dv, write_lif, write_nd2, write_ome_zarr

FORMATS = ("nd2", "czi", "lif", "dv", "0.4.zarr", "0.5.zarr")


@pytest.fixture(scope="module")
def acq(tmp_path_factory) -> Path:
    """A folder with a file of each format."""
    for package in ("bioio_nd2", "bioio_czi", "bioio_lif", "bioio_dv", "zarr"):
        pytest.importorskip(package, reason='needs pip install ".[formats]"')
    folder = tmp_path_factory.mktemp("formats") / "acq"
    folder.mkdir()
    write_nd2(folder / "a.nd2", stack(3, 2, 64, 80))
    write_czi(folder / "a.czi", [stack(2, 2, 3, 64, 80)])
    write_lif(folder / "a.lif", {"one": stack(1, 1, 1, 48, 64, seed=1), "two": stack(2, 2, 3, 64, 80)})
    write_dv(folder / "a.dv", stack(2, 1, 3, 64, 80))
    write_ome_zarr(folder / "a.0.4.zarr", stack(2, 2, 3, 64, 96), "0.4")
    write_ome_zarr(folder / "a.0.5.zarr", stack(2, 2, 3, 64, 96), "0.5")
    return folder


@pytest.fixture(scope="module")
def out(acq, tiny_model) -> Path:
    """The outputs of them."""
    folder = acq.with_name("acq_corrected")
    report = Report(folder.with_name("report"), folder)
    for result in restore(find([acq], folder), read_card(tiny_model), lambda: Engine.load(tiny_model, backend="cpu")):
        assert result.error is None
        report.add(result)
    report.write()
    return folder


def output(out: Path, form: str) -> Path:
    return out / (f"a.{form}" if form.endswith("zarr") else f"a.{form}.ome.tif")


def test_every_output_says_how_it_was_made(acq, out, tiny_model):
    for form in FORMATS:
        source = acq / f"a.{form}"
        record = defocus.read_provenance(str(output(out, form)))
        assert record is not None, form
        assert record["model_sha256"] == read_card(tiny_model).sha256
        assert record["source"]["name"] == source.name
        assert record["planes"]
        assert defocus.read_provenance(source) is None
    with pytest.raises(InputError, match="no such file"):
        defocus.read_provenance(out / "none.zarr")


def test_the_report_shows_every_file_before_and_after(acq, out):
    page = (out.with_name("report") / "report.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 2 * len(FORMATS)
    files = {file.name: file for file in of_outputs(out)}
    assert set(files) == {output(out, form).name for form in FORMATS}
    for form in FORMATS:
        assert files[output(out, form).name].before == acq / f"a.{form}"
        assert files[output(out, form).name].optics.pixel_size_um == pytest.approx(0.25)
    report = Report(out.with_name("later"), out)
    report.files += files.values()
    assert report.write()[0].read_text(encoding="utf-8").count("<img ") == 2 * len(FORMATS)
    # Another version of an input is not shown.
    later = time.time() + 100
    for changed in (acq / "a.nd2", next((acq / "a.0.4.zarr" / "0").glob("0*"))):
        os.utime(changed, (later, later))
    assert sorted(file.name for file in of_outputs(out) if file.before is None) == ["a.0.4.zarr", "a.nd2.ome.tif"]


@pytest.mark.parametrize("form", FORMATS)
def test_the_pictures_are_of_the_same_plane(acq, out, form):
    first, second = (imagecodecs.png_decode(png) for png in previews(acq / f"a.{form}", output(out, form), 40))
    assert first.shape == second.shape
    assert max(first.shape) <= 48
    # The model of the tests changes little: only the same plane has the same spots.
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.98
    assert first.std() > 10


def test_a_plane_that_is_too_large_has_no_picture(tmp_path):
    zarr = pytest.importorskip("zarr", reason='needs pip install ".[formats]"')
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    root.create_array("0", shape=(6000, 6000), chunks=(6000, 6000), dtype="u2")
    axes = [{"name": name, "type": "space"} for name in "yx"]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    with pytest.raises(InputError, match="in pieces too large for a preview"):
        previews(tmp_path / "a.zarr", tmp_path / "a.zarr")
    assert read_optics(tmp_path / "a.zarr").pixel_size_um is None
