"""Training of the compared methods alike, and defocus-evaluate from end to end on what came of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install ".[train]"')
pytest.importorskip("lightning", reason='needs Lightning: pip install ".[train]"')
pytest.importorskip("matplotlib", reason='needs Matplotlib: pip install ".[train]"')

from defocus.engine.errors import InputError  # noqa: E402
from defocus.training.classical.denoiser import fit_denoiser  # noqa: E402
from defocus.training.cli import evaluate as evaluate_cli  # noqa: E402
from defocus.training.evaluation import suite  # noqa: E402
from defocus.training.evaluation.compare import budgets, recipe_for_method, record, train_all  # noqa: E402
from defocus.training.fit.checkpoint import load_checkpoint  # noqa: E402

SECONDS = 0.9


def evaluate(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "defocus.training.cli.evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharp")
    for i, field in enumerate(suite.drawn_fields(2)):
        tifffile.imwrite(folder / f"cells_{i}.tif", field.data.astype(np.uint16))
    return folder


def test_a_plan_is_a_recipe_for_so_many_steps():
    light, heavy = recipe_for_method("residual-4", 500, 3), recipe_for_method("rdn-light", 40, 3)
    assert (light.network, light.steps, light.seed, light.epochs) == ("residual-4", 500, 3, 10)
    assert heavy.crop < light.crop  # a network at full resolution throughout sees smaller crops in the same time


def test_admm_has_the_budget_of_its_denoiser(tmp_path):
    crops = [(torch.rand(1, 100, 100), torch.rand(1, 100, 100))] * 400
    steps, recipe = fit_denoiser(crops, tmp_path / "denoiser.pt", 0.3)  # type: ignore[arg-type]
    record(tmp_path, "denoiser", {"steps": steps, "batch": recipe.batch, "crop": recipe.crop, "seconds": 0})
    assert budgets(tmp_path)["admm"] == f"its denoiser: {steps} steps of 4 x 96 px, 0 s"


@pytest.mark.slow
def test_the_command_trains_evaluates_and_reports(sharp, tmp_path):
    frozen = suite.make("small", suite.make_cases(suite.drawn_fields(1), (0, 16), (64, 80)))
    suite.save(frozen, tmp_path / "suite")
    weights, out = tmp_path / "weights", tmp_path / "results"
    options = ["--weights", weights, "-o", out, "--method", "dncnn", "--method", "rl", "--method", "admm"]
    training = ["--train", "--simulate", sharp, "--hold-out", "*_1.tif", "--minutes", SECONDS / 60]
    options += ["--method", "denoiser", "--runs", tmp_path / "runs", "--figure", "drawn_1"]
    done = evaluate(tmp_path / "suite", *options, *training)
    assert done.returncode == 0, done.stderr
    network, recipe = load_checkpoint(weights / "dncnn.pt")
    assert recipe.network == "dncnn"
    assert not network.training
    assert set(budgets(weights)) == {"dncnn", "denoiser", "admm", "default"}
    assert json.loads((tmp_path / "runs" / "dncnn" / "split.json").read_text())[0]["held_out"] == ["cells_1.tif"]
    text = (out / "methods.md").read_text()
    assert frozen.checksum in text
    for title in ("Richardson-Lucy, true PSF (o)", "Liu (residual CNN)", "Liu (plug-and-play ADMM, true PSF) (o)"):
        assert title in text
    assert (out / "figure_drawn_1.png").stat().st_size > 10_000
    # A second time nothing is trained, and the tables come out the same.
    before = (out / "table2.csv").read_text()
    again = evaluate(tmp_path / "suite", *options, *training)
    assert "is there already" in again.stdout
    assert (out / "table2.csv").read_text() == before


def test_what_cannot_be_trained_is_one_line(sharp, tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError, match="no method that can be trained"):
        train_all(["rl"], [], (), tmp_path, tmp_path, SECONDS)
    for wrong, cause in (
        (["--train"], "nothing to train on"),
        ([tmp_path / "nowhere"], "nowhere: no such folder; give the folder of a suite"),
        (["--figure", "nothing"], "no field of the suite"),
        (["--method", "nothing"], "no method that we know; choose from wiener, rl"),
        (["--method", "nah"], "no weights of these methods"),
    ):
        # In this process, where torch has been loaded: four processes would take half a minute for that alone.
        monkeypatch.setattr(sys, "argv", ["defocus-evaluate", *map(str, wrong), "-o", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as ended:
            evaluate_cli.main()
        assert ended.value.code == 1
        told = capsys.readouterr().err
        assert cause in told
        assert len(told.strip().splitlines()) == 1


def test_an_unknown_method_is_told_with_those_there_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["defocus-evaluate", "--method", "nonsense", "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as leaving:
        evaluate_cli.main()
    assert leaving.value.code == 1
    assert "nonsense: is no method that we know; choose from wiener, rl, " in (error := capsys.readouterr().err)
    for name in ("admm", "care", "residual-4", "rdn", "default"):
        assert name in error
    assert not list(tmp_path.iterdir())
