"""Real files: what is sharp is kept bit for bit by default, and the file says so; --all-planes restores it, too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus.engine.inference.engine import Engine
from defocus.engine.model.card import model_path, read_card
from defocus.engine.pipeline.batch import find, restore
from defocus.engine.quality.report import PlaneReport
from defocus.engine.tiff.read import read_provenance, read_tiff
from defocus.training.data.fields import load_field
from defocus.training.evaluation.heldout import CAMERA, OPTICS, counts_pair
from defocus.training.physics.optics import defocus
from defocus.training.physics.specimen import draw_cells

KEYS = {"polarity", "focus_in", "focus_out", "fidelity", "max_local_residual", "blur_px", "copied", "verdict"}


def program(*arguments: str | Path) -> list[dict]:
    command = [sys.executable, "-m", "defocus.engine.cli.run", *map(str, arguments), "--json", "--backend", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Path:
    """An ImageJ stack of a drawn field: in focus, 12 and 24 um out of it, and a flat plane; with metadata."""
    rng = np.random.default_rng(2)
    sharp = draw_cells((256, 272), rng) * 1500
    planes = [CAMERA.expose(defocus(sharp, OPTICS, z), rng) for z in (0, 12, 24)]
    path = tmp_path_factory.mktemp("acq") / "series.tif"
    stack = np.stack([*planes, np.full_like(planes[0], 100)])
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX", "Info": "gain 3"})
    return path


def test_defocus_run_copies_the_sharp_plane_and_corrects_the_others(series, tmp_path):
    (line,) = program(series, "-o", tmp_path / "only")
    (usual,) = program(series, "-o", tmp_path / "all", "--all-planes")
    assert [report["copied"] for report in line["reports"]] == [True, False, False, True]
    assert [report["verdict"] for report in line["reports"]][:3] == ["sharp", "consistent", "consistent"]
    assert [report["copied"] for report in usual["reports"]] == [False, False, False, True]
    before = read_tiff(series)
    only, everything = (read_tiff(tmp_path / folder / "series.tif") for folder in ("only", "all"))
    for plane in (0, 3):
        assert np.array_equal(only.data[plane], before.data[plane])
    assert not np.array_equal(everything.data[0], before.data[0])
    for plane in (1, 2):
        assert np.array_equal(only.data[plane], everything.data[plane])
        assert not np.array_equal(only.data[plane], before.data[plane])
    assert only.axes == before.axes
    with tifffile.TiffFile(series) as first, tifffile.TiffFile(tmp_path / "only" / "series.tif") as second:
        assert first.imagej_metadata == second.imagej_metadata


def test_every_plane_is_reported_and_the_file_says_the_same(series, tmp_path):
    (line,) = program(series, "-o", tmp_path, "--only-defocused")  # a word that changes nothing
    assert len(line["reports"]) == line["planes"] == 4
    for report in line["reports"]:
        assert set(report) == KEYS
    focus = [report["focus_in"] for report in line["reports"]]
    assert focus[0] > focus[1] > focus[2]
    assert focus[3] is None
    for report in line["reports"][1:3]:
        assert report["focus_out"] > report["focus_in"]
        assert 0.9 < report["fidelity"] <= 1
    account = read_provenance(tmp_path / "series.tif")
    assert account is not None
    assert account["only_defocused"] is True
    assert account["planes"] == line["reports"]


def test_a_file_of_one_sharp_plane_is_copied_and_done(tmp_path):
    rng = np.random.default_rng(6)
    plane = CAMERA.expose(draw_cells((200, 210), rng) * 1500, rng)
    tifffile.imwrite(tmp_path / "a.tif", plane, compression="lzw", description="as it was", software="scope 3")
    card = read_card(model_path("default"))
    jobs = find([tmp_path / "a.tif"], tmp_path / "out")

    def load() -> Engine:
        return Engine.load("default", backend="cpu")

    (result,) = restore(jobs, card, load, keep_sharp=True)
    assert result.outcome is not None
    assert [report.copied for report in result.outcome.reports] == [True]
    with tifffile.TiffFile(tmp_path / "out" / "a.tif") as tif:
        assert np.array_equal(tif.asarray(), plane)
        assert (tif.pages.first.description, tif.pages.first.software) == ("as it was", "scope 3")
    (again,) = restore(jobs, card, load, keep_sharp=True)
    assert again.status.value == "skipped"


@pytest.mark.parametrize("choice", ["original", "corrected"])
def test_of_a_doubtful_plane_the_original_is_written_if_asked_for(tmp_path, monkeypatch, capsys, choice):
    from defocus.engine.cli import run

    monkeypatch.setattr("defocus.engine.quality.report.DOUBTFUL_SHARE", 1e-9)  # every correction is doubtful
    rng = np.random.default_rng(6)
    plane = CAMERA.expose(defocus(draw_cells((200, 210), rng) * 1500, OPTICS, 12), rng)
    tifffile.imwrite(tmp_path / "a.tif", plane)
    words = ["defocus-run", tmp_path / "a.tif", "-o", tmp_path / "out", "--json", "--backend", "cpu"]
    monkeypatch.setattr(sys, "argv", [*map(str, words), "--keep-doubtful", choice])
    with pytest.raises(SystemExit) as leaving:
        run.main()
    assert leaving.value.code == 0
    said = capsys.readouterr()
    (report,) = json.loads(said.out)["reports"]
    assert (report["verdict"], report["copied"]) == ("doubtful", choice == "original")
    assert said.err.endswith(" s; 1 of 1 planes doubtful\n")
    assert np.array_equal(tifffile.imread(tmp_path / "out" / "a.tif"), plane) == (choice == "original")
    account = read_provenance(tmp_path / "out" / "a.tif")
    assert account is not None
    assert account["keep_doubtful"] == choice


@pytest.mark.parametrize("shape", [(16, 16), (1, 1), (3, 5, 40), (2, 0, 8), (17, 700)])
def test_odd_planes_go_through(tmp_path, tiny_model, shape):
    image = np.random.default_rng(0).integers(0, 65535, shape, np.uint16)
    image.flat[: image.size // 2] = 65535
    if image.size:
        tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
        card = read_card(tiny_model)
        jobs = find([tmp_path / "a.tif"], tmp_path / "out")
        load = lambda: Engine.load(tiny_model, backend="cpu")  # noqa: E731
        (result,) = restore(jobs, card, load, keep_sharp=True)
        assert result.error is None
        assert result.outcome is not None
        assert len(result.outcome.reports) == result.outcome.planes
        json.loads(result.to_json(), parse_constant=lambda name: pytest.fail(name))


def test_a_report_says_what_a_microscopist_wants_to_read():
    assert PlaneReport(copied=True).verdict == "no structure"
    assert PlaneReport(0.02, 0.03, 0.995, 0.1, 8.0).verdict == "consistent"
    assert PlaneReport(0.02, 0.03, 0.90, 0.1, 8.0).verdict == "doubtful"
    assert PlaneReport(0.02, 0.03, 0.995, 0.7, 8.0).verdict == "doubtful"
    assert PlaneReport(0.04, 0.041, 0.999, 0.01, 0.5).verdict == "sharp"
    assert PlaneReport(0.04, 0.041, 0.95, 0.01, 0.5, copied=True).verdict == "sharp"
    assert PlaneReport(0.02, 0.03, 0.90, 0.1, 8.0, copied=True).verdict == "doubtful"  # kept for that reason
    assert PlaneReport(0.04, 0.041, 0.99, 0.2, 0.5).verdict == "consistent"  # a part of it is out of focus
    assert PlaneReport(0.04, 0.06, 0.999, 0.01, 0.5).verdict == "consistent"  # little light: the blur cannot be found


@pytest.mark.parametrize("pattern", ["infocus_w2/*_k14_*", "infocus_w1/*_a05_*"])
def test_real_fields_that_the_model_never_saw(shared_data, pattern):
    from defocus.engine.quality.assess import assess, keep_sharp_planes

    (path,) = (shared_data / "bbbc006").glob(pattern)
    field = load_field(path)
    source = np.stack([counts_pair(field, z)[0] for z in (0, 8, 24)])
    with Engine.load("default", backend="cpu") as engine:
        result = engine(source)
        reports = keep_sharp_planes(source, result, "ZYX", assess(source, result, "ZYX"))
    assert [report.copied for report in reports] == [True, False, False]
    assert all(report.verdict != "doubtful" for report in reports)
