"""Recipes and networks by name, and what a run may start from."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install ".[train]"')
pytest.importorskip("lightning", reason='needs Lightning: pip install ".[train]"')

from defocus.engine.errors import ModelError  # noqa: E402
from defocus.training.cli.train import recipe_path  # noqa: E402
from defocus.training.fit.callbacks import Estimate, duration  # noqa: E402
from defocus.training.fit.checkpoint import build_network, load_checkpoint, save_weights, start_from  # noqa: E402
from defocus.training.fit.recipe import Recipe  # noqa: E402
from defocus.training.fit.restoration import rate_factor  # noqa: E402
from defocus.training.networks.coarse_to_fine import CoarseToFine  # noqa: E402


def test_the_default_recipe_is_the_defaults():
    assert Recipe.load(recipe_path("default")) == Recipe()


def test_the_paper_s_recipe_is_what_it_states():
    paper = Recipe.load(recipe_path("paper"))
    assert (paper.learning_rate, paper.batch, paper.epochs, paper.distance) == (0.01, 8, 80, "l1")
    assert (paper.levels, paper.interaction, paper.network) == (4, "residual", "")
    assert (paper.balance, paper.frozen_norm_share, paper.ema_decay, paper.clip, paper.patience) == (0, 0, 0, 0, 0)
    assert not paper.near_identity
    assert (paper.haze, paper.empty_share, paper.thick_share, paper.wide_share) == ((0, 0), 0, 0, 0)
    assert {rate_factor(step, paper) for step in (0, 1, 5000, paper.steps - 1)} == {1.0}


def test_one_distance_of_the_paper(train, sharp, history, tmp_path):
    small = ("--steps", 1, "--network", "unet", "--hold-out", "field3*")
    out = tmp_path / "run"
    recipe = tmp_path / "paper.toml"
    text = recipe_path("paper").read_text()
    recipe.write_text(
        text.replace("steps_per_epoch = 338", "steps_per_epoch = 1") + "crop = 32\nmargin = 16\nvalidate_every = 1\n"
    )
    done = train("--simulate", sharp, "--recipe", recipe, "--distance-um", 10, *small, "-o", out)
    assert done.returncode == 0, done.stderr
    used = Recipe.load(out / "recipe.toml")
    assert (used.defocus_um, used.network, used.learning_rate) == ((10.0, 10.0), "unet", 0.01)
    (row,) = history(out)
    assert [name for name in row if "gain" in name] == ["gain_10um", "gain"]


@pytest.mark.parametrize("name", ["concat-2", "dncnn"])
def test_networks_are_trained_by_name_and_read_back(train, sharp, recipe_file, tmp_path, name):
    out = tmp_path / "run"
    recipe = recipe_file(steps=1, steps_per_epoch=1)
    done = train("--simulate", sharp, "--recipe", recipe, "--network", name, "-o", out)
    assert done.returncode == 0, done.stderr
    network, used = load_checkpoint(out / "last.ckpt")
    assert used.network == name
    assert [type(module) for module in network.modules()] == [type(module) for module in build_network(used).modules()]
    assert network(torch.zeros(1, 1, 32, 32))[0].shape == (1, 1, 32, 32)


def test_saved_weights_are_those_of_the_network_in_half_precision(tmp_path):
    torch.manual_seed(0)
    recipe = Recipe(levels=2)
    network = build_network(recipe)
    save_weights(network, recipe, tmp_path / "x.pt")
    again, used = load_checkpoint(tmp_path / "x.pt")
    assert used == recipe
    assert not again.training
    for name, value in network.state_dict().items():
        found = again.state_dict()[name]
        assert found.dtype == value.dtype
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-4)
    assert (tmp_path / "x.pt").stat().st_size < 0.55 * sum(
        value.numel() * value.element_size() for value in network.state_dict().values()
    )


@pytest.fixture
def trained(tmp_path) -> tuple[Path, CoarseToFine]:
    torch.manual_seed(0)
    network = CoarseToFine(levels=2)
    save_weights(network, Recipe(levels=2), tmp_path / "trained.pt")
    return tmp_path / "trained.pt", network


def test_a_run_starts_from_another_s_weights(train, sharp, recipe_file, tmp_path, trained):
    """With learning rate 0 they are still there at the end."""
    path, network = trained
    recipe = recipe_file(steps=1, steps_per_epoch=1, learning_rate=0.0, ema_decay=0.0)
    done = train("--simulate", sharp, "--recipe", recipe, "--from", path, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    found = dict(load_checkpoint(tmp_path / "run" / "last.ckpt")[0].named_parameters())
    for name, value in network.named_parameters():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def test_a_short_run_averages_what_it_trained(train, sharp, recipe_file, tmp_path, trained):
    """It ends before the step from which a long run averages; its average is not what it began with."""
    path, network = trained
    recipe = recipe_file(steps=6, ema_decay=0.9, ema_from_step=600, validate_every=9)
    done = train("--simulate", sharp, "--recipe", recipe, "--from", path, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    content = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    begun = network.state_dict()["levels.0.output.weight"].half().float()
    average, last = (content[key]["network.levels.0.output.weight"] for key in ("state_dict", "current_model_state"))
    assert (average - begun).abs().max() > 0.3 * (last - begun).abs().max() > 0
    assert not torch.equal(average, last)


def test_new_input_channels_start_at_zero(trained):
    path, network = trained
    wider = CoarseToFine(levels=2)
    first = wider.levels[1].encoder[0][0]  # type: ignore[index]
    wider.levels[1].encoder[0][0] = torch.nn.Conv2d(3, first.out_channels, 3, padding=1)  # type: ignore[index, operator]
    start_from(wider, path)
    weight = wider.levels[1].encoder[0][0].weight  # type: ignore[index, union-attr]
    assert not weight[:, 1:].any()  # type: ignore[index]
    expected = network.state_dict()["levels.1.encoder.0.0.weight"]
    torch.testing.assert_close(weight[:, :1], expected, rtol=1e-3, atol=1e-4)  # type: ignore[index]


@pytest.mark.parametrize(
    ("levels", "channels", "tensor"),
    [(2, 2, "levels.0.output.weight"), (3, 1, "levels.2.encoder"), (1, 1, "levels.0.encoder.0.0.weight")],
)
def test_what_does_not_fit_is_named(trained, levels, channels, tensor):
    with pytest.raises(ModelError, match=tensor):
        start_from(CoarseToFine(levels, channels=channels), trained[0])


def test_what_does_not_fit_is_one_line(train, sharp, recipe_file, tmp_path, trained):
    recipe = recipe_file(levels=3)
    done = train("--simulate", sharp, "--recipe", recipe, "--from", trained[0], "-o", tmp_path / "run")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
    assert '"levels.' in done.stderr


def test_a_recipe_survives_its_file(tmp_path):
    recipe = dataclasses.replace(Recipe(), network="concat-4", distance="mse", patience=3)
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    assert Recipe.load(tmp_path / "recipe.toml") == recipe


def test_the_versions(train, monkeypatch, capfd):
    from defocus import __version__
    from defocus.export import cli

    assert train("--version").stdout == f"defocus-train {__version__}\n"
    monkeypatch.setattr("sys.argv", ["defocus-export", "--version"])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert not leaving.value.code
    assert capfd.readouterr().out == f"defocus-export {__version__}\n"


LOADED = """
import io, json, sys
class Told(io.StringIO):
    def write(self, text):
        if text.strip():
            sys.__stderr__.write(f"{'torch' in sys.modules} {text.strip()}\\n")
        return len(text)
sys.stdout = Told()
from defocus.training.cli.train import main
for line in json.load(sys.stdin):
    sys.argv = ["defocus-train", *line]
    try:
        main()
    except SystemExit:
        sys.__stderr__.write(f"{'torch' in sys.modules} end\\n")
"""


def told(*lines: tuple[object, ...]) -> list[str]:
    """What defocus-train says in one process of its own to each line, and whether torch was loaded by then."""
    given = json.dumps([list(map(str, line)) for line in lines])
    return subprocess.run(
        [sys.executable, "-c", LOADED], input=given, capture_output=True, text=True, timeout=300
    ).stderr.splitlines()


def test_the_first_line_comes_before_torch_is_loaded(sharp, tmp_path):
    lines = told(("--simulate", sharp, "-o", tmp_path / "run", "--from", sharp / "field0_x.tif", "--no-progress"))
    assert lines[0] == "False 4 images to train on; loading PyTorch"
    assert "cannot be read as a checkpoint" in lines[1]


def test_what_is_missing_is_told_before_torch_is_loaded(sharp, tmp_path):
    causes = {
        ("--simulate", "missing=0.5"): "missing: no such folder",
        ("--stacks", "missing"): "missing: no such folder",
        ("--pairs", sharp, "missing"): "missing: no such folder",
        ("--simulate", sharp, "--from", "missing.ckpt"): "missing.ckpt: no such checkpoint",
        ("--simulate", sharp, "--recipe", "missing.toml"): "missing.toml: no such recipe",
    }
    said = told(*((*line, "-o", tmp_path / "run") for line in causes))
    assert said[1::2] == ["False end"] * len(causes)
    for line, cause in zip(said[::2], causes.values(), strict=True):
        assert cause in line


def test_after_20_steps_it_says_how_long_the_rest_takes(capsys):
    times = iter([10.0, 27.0])
    estimate = Estimate(7220, clock=lambda: next(times))
    trainer = SimpleNamespace(global_step=0, is_global_zero=True, progress_bar_callback=None)
    for step in range(1, 30):
        trainer.global_step = step
        estimate.on_train_batch_end(trainer, None, None, None, 0)  # type: ignore[arg-type]
    assert capsys.readouterr().out == "1 s a step: about 2 h 0 min for the 7200 steps left, validations apart\n"
    assert (duration(20), duration(700)) == ("less than a minute", "about 12 min")


def test_the_last_line_has_gain_and_checkpoint(train, sharp, recipe_file, tmp_path):
    out = tmp_path / "run"
    done = train("--simulate", sharp, "--hold-out", "field3*", "--recipe", recipe_file(validate_every=2), "-o", out)
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"trained: {out / 'last.ckpt'}; gain on what was held out: 0 um ")
    for z_um in (10, 16, 22, 28, 34):
        assert re.search(rf"\b{z_um} um [+-]\d+\.\d\d dB", last)
    (preview,) = (out / "preview").iterdir()
    assert preview.name == "epoch_0002.png"
