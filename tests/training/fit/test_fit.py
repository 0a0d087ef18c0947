"""Training for real, at a size that two cores do in seconds: it learns, survives, resumes, and says what is wrong."""

from __future__ import annotations

import errno
import json
from typing import get_args

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install ".[train]"')
pytest.importorskip("lightning", reason='needs Lightning: pip install ".[train]"')

from defocus.engine.errors import ModelError, OutputError  # noqa: E402
from defocus.training.fit.checkpoint import load_checkpoint  # noqa: E402
from defocus.training.fit.loss import balance_weights, content_loss  # noqa: E402
from defocus.training.fit.recipe import Distance, Recipe  # noqa: E402
from defocus.training.fit.restoration import LIMITS  # noqa: E402
from defocus.training.networks.coarse_to_fine import CoarseToFine  # noqa: E402

from ...helpers.waiting import wait_for  # noqa: E402

HOLD_OUT = ("--hold-out", "field3*")
FP32 = ("--precision", "fp32")


def weights(path) -> dict:
    return load_checkpoint(path)[0].state_dict()


def assert_same_curve(first: list[dict[str, float]], second: list[dict[str, float]], tolerance: float) -> None:
    assert [sorted(row) for row in first] == [sorted(row) for row in second]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose([one[name] for name in one], [other[name] for name in one], rtol=tolerance)


def test_a_run_leaves_recipe_split_curve_pictures_and_checkpoint(train, sharp, recipe_file, history, tmp_path):
    out = tmp_path / "run"
    done = train("--simulate", sharp, *HOLD_OUT, "--recipe", recipe_file(validate_every=2), "-o", out)
    assert done.returncode == 0, done.stderr
    assert "defocus-export" in done.stdout
    recipe = Recipe.load(out / "recipe.toml")
    assert (recipe.levels, recipe.validate_every) == (2, 2)
    (source,) = json.loads((out / "split.json").read_text())
    assert source["held_out"] == ["field3_x.tif"]
    assert source["train"] == ["field0_x.tif", "field1_x.tif", "field2_x.tif"]
    rows = history(out)
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 4), (2, 8), (3, 12)]
    assert ["gain_10um" in row for row in rows] == [False, True, False]
    assert [path.name for path in (out / "preview").iterdir()] == ["epoch_0002.png"]
    assert list((out / "tensorboard").glob("events*"))
    network, trained = load_checkpoint(out / "last.ckpt")
    assert trained == recipe
    assert not network.training
    assert network(torch.zeros(1, 1, 32, 32))[0].shape == (1, 1, 32, 32)
    # It is never overwritten.
    before = (out / "last.ckpt").read_bytes()
    done = train("--simulate", sharp, "-o", out)
    assert (done.returncode, "--resume" in done.stderr) == (1, True)
    assert (out / "last.ckpt").read_bytes() == before


def test_the_same_seed_gives_the_same_weights(train, sharp, recipe_file, tmp_path):
    recipe = recipe_file(steps=4)
    for name in ("a", "b"):
        assert train("--simulate", sharp, *HOLD_OUT, "--recipe", recipe, "-o", tmp_path / name).returncode == 0
    first, second = (weights(tmp_path / name / "last.ckpt") for name in ("a", "b"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0)


@pytest.fixture
def one_thread():
    """As many as `start` gives to a process: two threads may add in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_goes_on_as_if_unbroken(start, train, sharp, recipe_file, history, tmp_path):
    """SIGKILL once an epoch has its checkpoint; the resumed run has the curve and the weights of one never killed."""
    recipe = recipe_file(steps=40, steps_per_epoch=8, validate_every=2)
    arguments = ("--simulate", sharp, *HOLD_OUT, "--recipe", recipe, *FP32, "-o")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    victim = start(*arguments, killed)
    wait_for(lambda: (killed / "last.ckpt").exists() or victim.poll() is not None)
    victim.kill()
    victim.communicate()
    assert 1 <= len(history(killed)) < 5, "it was to be killed in the middle"
    load_checkpoint(killed / "last.ckpt")
    for rest in ((killed, "--resume"), (whole,)):
        done = train(*arguments, *rest)
        assert done.returncode == 0, done.stderr
    assert len(history(whole)) == 5
    assert_same_curve(history(killed), history(whole), 1e-6)
    first, second = weights(killed / "last.ckpt"), weights(whole / "last.ckpt")
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-6, atol=1e-7)


def test_two_processes_do_what_one_does(start, train, sharp, recipe_file, history, tmp_path):
    """Each takes its share of each batch: with frozen statistics the curve is that of a single process."""
    recipe = recipe_file(frozen_norm_share=1.0, validate_every=3, batch=4)
    arguments = ("--simulate", sharp, *HOLD_OUT, "--recipe", recipe, *FP32, "--accelerator", "cpu", "-o")
    both = start(*arguments, tmp_path / "two", "--devices", 2, "--strategy", "ddp")
    output, complaint = both.communicate(timeout=300)
    assert both.returncode == 0, complaint
    assert output.count("epoch 3/3") == output.count("trained:") == 1, "only the first process speaks"
    assert train(*arguments, tmp_path / "one").returncode == 0
    assert_same_curve(history(tmp_path / "two"), history(tmp_path / "one"), 1e-3)
    names = [sorted(path.name for path in (tmp_path / run).iterdir()) for run in ("one", "two")]
    assert names[0] == names[1]
    first, second = (weights(tmp_path / run / "last.ckpt") for run in ("one", "two"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-4)


def test_the_shares_of_a_batch_are_all_of_it():
    from defocus.training.fit.fit import ShareSampler

    recipe = Recipe(batch=6, steps_per_epoch=5, steps=18)
    done = 0
    samplers = [ShareSampler(recipe, rank * 2, 2, lambda: done) for rank in range(3)]
    for done, count in ((0, 5), (5, 5), (15, 3), (18, 0)):
        shares = [list(sampler) for sampler in samplers]
        assert all(len(share) == len(sampler) for share, sampler in zip(shares, samplers, strict=True))
        steps = [[index for share in shares for index in share[2 * i : 2 * i + 2]] for i in range(count)]
        assert steps == [list(range(6 * (done + i), 6 * (done + i) + 6)) for i in range(count)]
        assert sum(map(len, shares)) == 6 * count


def test_a_run_makes_the_steps_that_it_was_asked_for(train, sharp, recipe_file, history, tmp_path):
    """Also where they are no whole epochs: the last is a short one, and is validated like any other."""
    recipe = recipe_file(steps=6, validate_every=1)
    arguments = ("--simulate", sharp, *HOLD_OUT, *FP32, "-o")
    done = train(*arguments, tmp_path / "run", "--recipe", recipe)
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2" in done.stdout
    rows = history(tmp_path / "run")
    assert [row["step"] for row in rows] == [4, 6]
    assert all("gain" in row for row in rows)
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 6
    # Gone on with, it makes no step more either.
    done = train(*arguments, tmp_path / "run", "--resume", "--steps", 11)
    assert done.returncode == 0, done.stderr
    assert "epoch 4/4" in done.stdout
    assert [row["step"] for row in history(tmp_path / "run")] == [4, 6, 10, 11]


def test_a_resumed_run_takes_the_crops_behind_those_that_it_has_seen(train, sharp, recipe_file, monkeypatch, tmp_path):
    """Also with workers, which fetch before the first step."""
    from defocus.training.fit.restoration import RestorationModule

    seen: list[float] = []
    step = RestorationModule.training_step

    def looked_at(module, batch, index):
        seen.append(float(batch[0].sum()))
        return step(module, batch, index)

    monkeypatch.setattr(RestorationModule, "training_step", looked_at)
    arguments = ("--simulate", sharp, *HOLD_OUT, *FP32, "--workers", 1, "-o")
    assert train(*arguments, tmp_path / "run", "--recipe", recipe_file(steps=8)).returncode == 0
    whole, seen = seen[:], []
    assert train(*arguments, tmp_path / "two", "--recipe", recipe_file(steps=4)).returncode == 0
    assert train(*arguments, tmp_path / "two", "--resume", "--steps", 8).returncode == 0
    assert seen == whole
    assert len(set(whole)) == 8


def test_a_resumed_run_has_the_recipe_that_it_began_with(train, sharp, recipe_file, history, tmp_path):
    out = tmp_path / "run"
    arguments = ("--simulate", sharp, *HOLD_OUT, "-o", out)
    recipe = recipe_file(steps=8, learning_rate=2e-4)
    assert train(*arguments, "--recipe", recipe).returncode == 0
    before = (out / "recipe.toml").read_text()
    done = train(*arguments, "--resume", "--steps", 12)
    assert done.returncode == 0, done.stderr
    assert (out / "recipe.toml").read_text() == before.replace("steps = 8\n", "steps = 12\n")
    assert len(history(out)) == 3
    # Nothing is left to do.
    done = train(*arguments, "--resume")
    assert (done.returncode, "trained:" in done.stdout) == (0, True)
    assert len(history(out)) == 3


def test_a_resume_that_cannot_be_is_one_line(train, sharp, recipe_file, tmp_path):
    out = tmp_path / "run"
    arguments = ("--simulate", sharp, *HOLD_OUT, "-o", out)
    assert train(*arguments, "--recipe", recipe_file(steps=8)).returncode == 0
    before = (out / "last.ckpt").read_bytes()
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "last.ckpt").write_bytes(before)
    for wrong, cause in (
        (("--resume", "--steps", 4), "has made 8 steps already, more than the 4 asked for"),
        (("--resume", "--recipe", recipe_file(steps=12, levels=3)), "the recipe that made this one"),
        (("--resume", "-o", tmp_path / "again"), "recipe.toml: cannot be read as a recipe"),
    ):
        done = train(*arguments, *wrong)
        assert done.returncode == 1
        assert cause in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert (out / "last.ckpt").read_bytes() == before


def test_statistics_are_frozen_once_they_have_seen_images(train, sharp, recipe_file, tmp_path):
    """From a tenth of the steps on, also of a short run: BatchNorm does not keep the statistics of no image."""
    assert (Recipe().frozen_from, Recipe(steps=1000).frozen_from, Recipe(steps=4).frozen_from) == (2000, 100, 1)
    assert (Recipe(frozen_norm_share=1.0).frozen_from, Recipe(frozen_norm_share=0.0).frozen_from) == (0, 20000)
    recipe = recipe_file(steps=4, frozen_norm_share=0.5, ema_decay=0.0)
    assert train("--simulate", sharp, *HOLD_OUT, "--recipe", recipe, "-o", tmp_path / "run").returncode == 0
    found = weights(tmp_path / "run" / "last.ckpt")
    assert {int(value) for name, value in found.items() if name.endswith("num_batches_tracked")} == {2}


def test_a_diverging_loss_stops_and_the_last_good_state_goes_on(train, sharp, recipe_file, tmp_path):
    out, good = tmp_path / "run", recipe_file(steps=8)
    arguments = ("--simulate", sharp, *HOLD_OUT, "-o", out)
    assert train(*arguments, "--recipe", good, "--steps", 4).returncode == 0
    before = (out / "last.ckpt").read_bytes()
    done = train(*arguments, "--recipe", recipe_file(steps=8, learning_rate=1e30), "--resume")
    assert done.returncode == 1
    assert "the loss became" in done.stderr
    assert "lower the learning rate (it is 1e+30)" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert (out / "last.ckpt").read_bytes() == before
    assert all(value.isfinite().all() for value in weights(out / "last.ckpt").values())
    done = train(*arguments, "--recipe", good, "--resume")  # what the line says to do
    assert done.returncode == 0, done.stderr
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == 8


def test_weights_that_ran_away_in_the_last_step_become_no_checkpoint(train, sharp, recipe_file, tmp_path):
    recipe = recipe_file(steps=1, steps_per_epoch=1, learning_rate=1e30, decay_share=0.0)
    done = train("--simulate", sharp, "--recipe", recipe, "-o", tmp_path / "run")
    assert done.returncode == 1
    assert "the loss became" in done.stderr
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_a_run_without_gain_stops_early(train, sharp, recipe_file, history, tmp_path):
    recipe = recipe_file(learning_rate=0.0, frozen_norm_share=1.0, validate_every=1, patience=1)
    done = train("--simulate", sharp, *HOLD_OUT, "--recipe", recipe, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert len(history(tmp_path / "run")) == 2
    load_checkpoint(tmp_path / "run" / "best.ckpt")


def test_without_tensorboard_and_average_it_runs(train, sharp, recipe_file, history, tmp_path, monkeypatch):
    from defocus.training.fit import fit

    find = fit.importlib.util.find_spec
    monkeypatch.setattr(fit.importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name))
    recipe = recipe_file(ema_decay=0.0, clip=0.0, steps=4)
    done = train("--simulate", sharp, "--recipe", recipe, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert len(history(tmp_path / "run")) == 1
    content = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert "current_model_state" not in content


def test_a_checkpoint_is_whole_or_the_one_before(tmp_path, monkeypatch):
    from defocus.training.fit.callbacks import WholeCheckpoints

    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"a": 1}, path)
    before = path.read_bytes()

    def full_disk(content, target):
        target.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OutputError, match="disk is full"):
        WholeCheckpoints().save_checkpoint({"a": 2}, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


BAD = [
    (["--simulate", "missing"], "no such folder", 1),
    (["--simulate", "{sharp}=-2"], "positive", 1),
    (["--simulate", "{sharp}", "--hold-out", "*"], "every image is held out", 1),
    (["--simulate", "{sharp}", "--resume"], "nothing to resume", 1),
    (["--simulate", "{sharp}", "--recipe", "missing.toml"], "missing.toml", 1),
    (["--simulate", "{sharp}", "--recipe", "papre"], "choose default or paper", 1),
    (["--simulate", "{sharp}", "--network", "residul-4"], "residual-4", 1),
    (["--simulate", "{sharp}", "--network", "denoiser"], "noise level", 1),
    (["--simulate", "{sharp}", "--from", "missing.ckpt"], "no such checkpoint", 1),
    (["--simulate", "{sharp}", "--devices", "3"], "cannot be shared by 3 devices", 1),
    (["--simulate", "{sharp}", "--steps", "0"], "steps", 2),
    (["--simulate", "{sharp}", "--step-um", "2"], "are for --stacks", 2),
    (["--simulate", "{sharp}", "--pairs", "a", "b"], "--simulate and --pairs are two kinds of data", 2),
    ([], "give one of --simulate, --pairs and --stacks", 2),
]


@pytest.mark.parametrize(("arguments", "expected", "code"), BAD)
def test_bad_input_is_one_line(train, sharp, tmp_path, arguments, expected, code):
    done = train(*(text.format(sharp=sharp) for text in arguments), "-o", tmp_path / "run")
    assert done.returncode == code
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


BAD_RECIPES = [
    ({"crop": 40}, "multiple of 16"),
    ({"channels": 2}, "simulated crops have one"),
    ({"batch": 0}, "batch is 0"),
    ({"distance": "l3"}, '"l1" or "mse" or'),
    ({"levels": 7}, "levels must be"),
    ({"ema_decay": 1.0}, "ema_decay"),
    ({"patience": 1}, "nothing is held out"),
]


@pytest.mark.parametrize(("changes", "expected"), BAD_RECIPES)
def test_a_bad_recipe_is_one_line(train, sharp, recipe_file, tmp_path, changes, expected):
    done = train(
        "--simulate", sharp, "--hold-out", "nothing", "--recipe", recipe_file(**changes), "-o", tmp_path / "run"
    )
    assert done.returncode == 1
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_one_line(train, sharp, recipe_file, tmp_path):
    done = train("--simulate", sharp, "--recipe", recipe_file(), "-o", tmp_path / "run", "--accelerator", "gpu")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
    assert "--accelerator" in done.stderr


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 not a zip"])
def test_a_file_that_is_no_checkpoint_is_an_error(tmp_path, content):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.ckpt"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [{"state_dict": {}, "hyper_parameters": {"who": "someone else"}}, [1, 2], {}])
def test_a_foreign_checkpoint_is_an_error(tmp_path, content):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ModelError, match="not a checkpoint of defocus-train"):
        load_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(ModelError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "missing.ckpt")


def test_every_distance_has_a_limit():
    assert set(LIMITS) == set(get_args(Distance))


@pytest.mark.parametrize("distance", ["l1", "mse"])
def test_the_loss_is_equation_5(distance):
    """Sum over the levels of the mean error to the averaged target."""
    torch.manual_seed(0)
    sharp = torch.rand(2, 1, 32, 32)
    outputs = CoarseToFine(3, "residual", 1)(torch.rand(2, 1, 32, 32))
    by_hand = 0.0
    target = sharp
    for output in outputs:
        by_hand += float((output - target).detach().abs().pow(1 if distance == "l1" else 2).mean())
        target = (target[..., ::2, ::2] + target[..., 1::2, ::2] + target[..., ::2, 1::2] + target[..., 1::2, 1::2]) / 4
    assert content_loss(outputs, sharp, distance=distance).item() == pytest.approx(by_hand, rel=1e-5)
    assert float(content_loss([sharp], sharp, distance=distance)) == 0


def test_the_mean_error_can_count_more():
    """A plane that is too dark all over, against one with the same mean square and all of its light."""
    sharp = torch.rand(1, 1, 16, 16)
    even = 0.01 * torch.tensor([1.0, -1.0]).repeat(16, 8)
    darker, noisier = (content_loss([sharp + change], sharp, None, "mse", 9.0) for change in (-0.01, even))
    assert float(darker) == pytest.approx(10 * 1e-4, rel=1e-3)
    assert float(noisier) == pytest.approx(1e-4, rel=1e-3)


def test_coarse_levels_can_count_less():
    sharp = torch.rand(1, 1, 16, 16)
    fine, coarse = sharp + 0.01, torch.nn.functional.avg_pool2d(sharp, 2) + 0.02
    all_alike, less = (content_loss([fine, coarse], sharp, None, "mse", 0.0, weight) for weight in (1.0, 0.25))
    assert float(all_alike) == pytest.approx(1e-4 + 4e-4, rel=1e-3)
    assert float(less) == pytest.approx(1e-4 + 1e-4, rel=1e-3)


def test_balance_favours_what_is_nearly_sharp():
    sharp = torch.rand(2, 1, 16, 16)
    blurred = torch.stack([sharp[0] + 0.01, sharp[1] + 0.2])
    near, far = balance_weights(blurred, sharp, 0.7)
    assert near > 2 * far
    torch.testing.assert_close(balance_weights(blurred, sharp, 0.0), torch.ones(2))
