"""Training for real, at a size that two cores do in seconds: it learns, resumes, and says what is wrong."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from defocus.engine.errors import ModelError  # noqa: E402
from defocus.training.checkpoint import load_checkpoint  # noqa: E402
from defocus.training.loss import balance_weights, content_loss  # noqa: E402
from defocus.training.networks.coarse_to_fine import CoarseToFine  # noqa: E402
from defocus.training.recipe import Recipe  # noqa: E402
from defocus.training.specimen import draw_cells  # noqa: E402

TINY = Recipe(
    levels=2,
    crop=32,
    margin=16,
    batch=2,
    steps=24,
    steps_per_epoch=8,
    warmup_steps=2,
    ema_decay=0.5,
    ema_from_step=0,
    drawn_share=0.0,
)


@pytest.fixture(scope="module")
def sharp(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sharp")
    rng = np.random.default_rng(0)
    for index in range(4):
        tifffile.imwrite(folder / f"field{index}_x.tif", (draw_cells((96, 96), rng) * 1000).astype(np.uint16))
    return folder


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY.to_toml())
    return path


def train(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "defocus.training.cli", "--workers", "0", "--no-progress", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def run(sharp, recipe_file, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = train("--simulate", sharp, "--hold-out", "field3*", "--recipe", recipe_file, "-o", out)
    assert done.returncode == 0, done.stderr
    assert "defocus-export" in done.stdout
    return out


def losses(out: Path) -> list[float]:
    found = []
    for path in sorted(out.glob("log/version_*/metrics.csv")):
        with open(path, newline="") as file:
            found += [float(row["loss"]) for row in csv.DictReader(file) if row.get("loss")]
    return found


def test_a_run_leaves_recipe_split_log_and_checkpoint(run):
    assert Recipe.load(run / "recipe.toml") == TINY
    (source,) = json.loads((run / "split.json").read_text())
    assert source["held_out"] == ["field3_x.tif"]
    assert source["train"] == ["field0_x.tif", "field1_x.tif", "field2_x.tif"]
    assert len(losses(run)) == TINY.epochs
    network, recipe = load_checkpoint(run / "last.ckpt")
    assert recipe == TINY
    assert not network.training
    assert network(torch.zeros(1, 1, 32, 32))[0].shape == (1, 1, 32, 32)


def test_a_resumed_run_ends_where_a_whole_one_does(run, sharp, recipe_file, tmp_path):
    """Two epochs, a stop, a resume: the same crops in the same order, the same weights."""
    out = tmp_path / "resumed"
    arguments = ("--simulate", sharp, "--hold-out", "field3*", "-o", out)
    # Rates follow the total number of steps: constant up to the stop in both runs.
    assert train(*arguments, "--recipe", recipe_file, "--steps", 8).returncode == 0
    again = train(*arguments, "--recipe", recipe_file, "--resume")
    assert again.returncode == 0, again.stderr
    assert len(losses(out)) == TINY.epochs
    resumed, _ = load_checkpoint(out / "last.ckpt")
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == TINY.steps
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == TINY.steps
    assert all(torch.isfinite(value).all() for value in resumed.state_dict().values())


def test_the_same_seed_gives_the_same_weights(run, sharp, recipe_file, tmp_path):
    out = tmp_path / "again"
    assert train("--simulate", sharp, "--hold-out", "field3*", "--recipe", recipe_file, "-o", out).returncode == 0
    first, second = (load_checkpoint(folder / "last.ckpt")[0].state_dict() for folder in (run, out))
    assert losses(run) == losses(out)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0)


BAD = [
    (["--simulate", "missing"], "no such folder", 1),
    (["--simulate", "{sharp}=-2"], "positive", 1),
    (["--simulate", "{sharp}", "--hold-out", "*"], "every image is held out", 1),
    (["--simulate", "{sharp}", "--resume"], "nothing to resume", 1),
    (["--simulate", "{sharp}", "--recipe", "missing.toml"], "missing.toml", 1),
    (["--simulate", "{sharp}", "--steps", "0"], "steps", 2),
    ([], "simulate", 2),
]


@pytest.mark.parametrize(("arguments", "expected", "code"), BAD)
def test_bad_input_is_one_line(sharp, tmp_path, arguments, expected, code):
    done = train(*(text.format(sharp=sharp) for text in arguments), "-o", tmp_path / "run")
    assert done.returncode == code
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_run_is_never_overwritten(run, sharp):
    before = (run / "last.ckpt").read_bytes()
    done = train("--simulate", sharp, "-o", run)
    assert (done.returncode, "--resume" in done.stderr) == (1, True)
    assert (run / "last.ckpt").read_bytes() == before


def test_a_diverging_loss_stops_with_a_line(sharp, tmp_path):
    recipe = tmp_path / "wild.toml"
    recipe.write_text(TINY.to_toml().replace("learning_rate = 0.001", "learning_rate = 1e30"))
    done = train("--simulate", sharp, "--recipe", recipe, "-o", tmp_path / "run")
    assert done.returncode == 1
    assert "the loss became" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 not a zip"])
def test_a_file_that_is_no_checkpoint_is_an_error(tmp_path, content):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.ckpt"):
        load_checkpoint(path)


def test_a_foreign_checkpoint_is_an_error(tmp_path):
    torch.save({"state_dict": {}, "hyper_parameters": {"who": "someone else"}}, tmp_path / "x.ckpt")
    with pytest.raises(ModelError, match="not a checkpoint of defocus-train"):
        load_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(ModelError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "missing.ckpt")


def test_the_loss_is_equation_5():
    """Sum over the levels of the mean absolute error to the averaged target."""
    torch.manual_seed(0)
    sharp = torch.rand(2, 1, 32, 32)
    outputs = CoarseToFine(3, "residual", 1)(torch.rand(2, 1, 32, 32))
    by_hand = 0.0
    target = sharp
    for output in outputs:
        by_hand += float((output - target).detach().abs().mean())
        target = (target[..., ::2, ::2] + target[..., 1::2, ::2] + target[..., ::2, 1::2] + target[..., 1::2, 1::2]) / 4
    assert content_loss(outputs, sharp).item() == pytest.approx(by_hand, rel=1e-5)
    assert float(content_loss([sharp], sharp)) == 0


def test_balance_favours_what_is_nearly_sharp():
    sharp = torch.rand(2, 1, 16, 16)
    blurred = torch.stack([sharp[0] + 0.01, sharp[1] + 0.2])
    near, far = balance_weights(blurred, sharp, 0.7)
    assert near > 2 * far
    torch.testing.assert_close(balance_weights(blurred, sharp, 0.0), torch.ones(2))
