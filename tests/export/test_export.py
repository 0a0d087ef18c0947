"""Export for real: checkpoint to ONNX that describes itself, equal to torch, and refusals."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install ".[train]"')
onnx = pytest.importorskip("onnx", reason='needs onnx: pip install ".[train]"')
pytest.importorskip("onnxscript", reason='needs onnxscript: pip install ".[train]"')

from defocus import Engine  # noqa: E402
from defocus.engine.errors import ModelError  # noqa: E402
from defocus.engine.model.card import KEY, Card, read_card  # noqa: E402
from defocus.export import onnx_export, parity  # noqa: E402
from defocus.export.card import describe  # noqa: E402
from defocus.export.onnx_export import Finest, export_onnx  # noqa: E402
from defocus.export.parity import SIZES, TOLERANCE, Comparison, compare, refuse_differences  # noqa: E402
from defocus.training.data.paired import recipe_for  # noqa: E402
from defocus.training.data.pairs import Pair  # noqa: E402
from defocus.training.fit.checkpoint import load_checkpoint  # noqa: E402
from defocus.training.fit.recipe import Recipe  # noqa: E402
from defocus.training.networks.coarse_to_fine import CoarseToFine  # noqa: E402
from defocus.training.physics.specimen import draw_cells  # noqa: E402

from ..helpers.calling import Called, call  # noqa: E402


def save(path: Path, recipe: Recipe) -> Path:
    """A checkpoint as training writes it, with random weights and lived-in BatchNorm statistics."""
    torch.manual_seed(0)
    network = CoarseToFine.of(recipe)
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(2, recipe.channels, 64, 64))
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": weights, "hyper_parameters": dataclasses.asdict(recipe)}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("export") / "last.ckpt", Recipe())


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A checkpoint of a network of one level."""
    return save(tmp_path_factory.mktemp("small") / "last.ckpt", Recipe(na=(0.3, 0.31), levels=1))


@pytest.fixture(scope="module")
def small_exported(small, tmp_path_factory) -> Path:
    network, recipe = load_checkpoint(small)
    path = tmp_path_factory.mktemp("small") / "model.onnx"
    export_onnx(network, describe(recipe, "n", "d", "l", halo=32), path)
    return path


@pytest.fixture
def quickly(small_exported, monkeypatch) -> None:
    """What torch's exporter makes of the small checkpoint is made once, not for 5 s each time, and proven at two sizes.

    Everything else of an export is done: the card, the proofs, the file that comes and goes.
    """

    def export_again(network: object, card: Card, path: Path) -> None:
        model = onnx.load(str(small_exported))
        onnx.helper.set_model_props(model, {KEY: card.to_json()})
        onnx.save(model, str(path))

    monkeypatch.setattr(onnx_export, "export_onnx", export_again)
    monkeypatch.setattr(parity, "SIZES", SIZES[:2])


def export(*arguments: object) -> Called:
    return call("defocus.export.cli", "defocus-export", *arguments)


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("out") / "model.onnx"
    # Random weights gain nothing: the export has to be forced.
    done = export(checkpoint, "-o", out, "--name", "test", "--licence", "CC0", "--training-data", "noise", "--force")
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_one_file_that_describes_itself(exported):
    path, _ = exported
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # no external data, nothing left over
    card = read_card(path)
    recipe = Recipe()
    assert (card.name, card.channels, card.multiple, card.licence) == ("test", 1, 16, "CC0")
    assert card.training_data == "noise"
    assert card.pixel_size_um == recipe.pixel_um
    assert card.na_range == recipe.na
    assert card.defocus_um_range == recipe.defocus_um
    assert card.date
    model = onnx.load(str(path))
    assert {initializer.data_type for initializer in model.graph.initializer} <= {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
    }
    assert os.fsencode(str(Path(torch.__file__).parent)) not in path.read_bytes()  # no paths of this machine


def test_it_prints_its_proof(exported):
    _, text = exported
    for size in SIZES:
        assert text.count(f"1 x 1 x {size[0]} x {size[1]}") == 2  # random and drawn
    assert "2 x 1 x" in text
    assert "equal to torch within" in text


def test_real_images_are_part_of_the_proof(exported, checkpoint, shared_data, monkeypatch):
    monkeypatch.setattr(parity, "SIZES", (*SIZES[:2], (208, 256)))
    path, _ = exported
    network, _ = load_checkpoint(checkpoint)
    real = [
        one for one in compare(network, path, shared_data / "bbbc006" / "infocus_w2") if one.name.startswith("real")
    ]
    assert len(real) == 3
    assert len({one.shape for one in real}) == 3
    assert max(one.error for one in real) <= TOLERANCE


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (1, 1, 48, 160), (3, 1, 80, 32), (1, 1, 528, 704)])
def test_batch_height_and_width_are_free(exported, checkpoint, shape):
    path, _ = exported
    network, _ = load_checkpoint(checkpoint)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).random(shape, np.float32)
    (found,) = session.run(None, {"image": image})
    with torch.inference_mode():
        expected = network(torch.from_numpy(image))[0].numpy()
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-4 * np.ptp(expected))


def test_more_channels_and_the_other_variant(tmp_path):
    channels = 3
    recipe = Recipe(levels=2, channels=channels, interaction="concat")
    out = tmp_path / "model.onnx"
    export_onnx(CoarseToFine.of(recipe).eval(), describe(recipe, "n", "d", "l"), out)
    image = draw_cells((50, 60), np.random.default_rng(0), cells=5)
    stack = (np.stack([image] * channels) * 500).astype(np.uint16)
    with Engine.load(out, backend="cpu") as engine:
        assert engine(stack, axes="CYX").shape == stack.shape


def test_a_file_that_differs_is_refused(exported, tmp_path):
    """The same file judged against another network: the proof must fail."""
    path, _ = exported
    torch.manual_seed(1)
    other = CoarseToFine.of(Recipe()).eval()
    comparisons = []
    for one in compare(other, path):
        comparisons.append(one)
        break
    with pytest.raises(ModelError, match="differs from torch"):
        refuse_differences(path, comparisons)


@pytest.mark.parametrize("error", [float("nan"), float("inf"), 2e-4])
def test_not_a_number_fails_the_proof(error):
    with pytest.raises(ModelError, match="bad"):
        refuse_differences(Path("x.onnx"), [Comparison("fine", (1,), 0.0), Comparison("bad", (1,), error)])


@pytest.mark.usefixtures("quickly")
def test_a_failed_proof_leaves_nothing(small, tmp_path, monkeypatch):
    from defocus.export import cli

    monkeypatch.setattr(parity, "TOLERANCE", -1.0)  # nothing is that equal
    out = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match="differs from torch"):
        cli.export(small, out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quickly")
def test_a_checkpoint_becomes_half_precision_proven_against_torch(small, tmp_path):
    done = export(small, "-o", tmp_path / "model.onnx", "--fp16", "--name", "half", "--force")
    assert done.returncode == 0, done.stderr
    assert "equal to torch within" in done.stdout
    assert "23 of 23 convolutions in half precision" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    card = read_card(tmp_path / "model.onnx")
    assert (card.name, card.precision) == ("half", "fp16")


@pytest.mark.usefixtures("quickly")
def test_a_model_that_loses_is_refused_and_leaves_nothing(small, tmp_path):
    done = export(small, "-o", tmp_path / "model.onnx")
    assert done.returncode == 1
    for z_um in (10, 16, 22, 28, 34):
        assert f"\n    {z_um} um " in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert "against its input; train it for longer, or export it all the same with --force" in done.stderr
    assert list(tmp_path.iterdir()) == []
    forced = export(small, "-o", tmp_path / "model.onnx", "--force")
    assert forced.returncode == 0, forced.stderr
    assert "exported all the same: it loses" in forced.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_bad_checkpoints_are_one_line(tmp_path):
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    command = [sys.executable, "-m", "defocus.export.cli", tmp_path / "text.ckpt", "-o", tmp_path / "model.onnx"]
    in_a_process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    in_this_one = export(tmp_path / "missing.ckpt", "-o", tmp_path / "model.onnx")
    for name, done in (("text.ckpt", in_a_process), ("missing.ckpt", in_this_one)):
        assert done.returncode == 1
        assert name in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_an_output_folder_that_cannot_be_made_is_one_line(checkpoint, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = export(checkpoint, "-o", tmp_path / "file" / "model.onnx")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize(("z_um", "distances"), [((10.0, -30.0), (10.0, 30.0)), ((10.0, None), None)])
def test_a_card_of_measured_pairs_claims_no_simulated_optics(z_um, distances):
    planes = np.zeros((1, 32, 32), np.float32)
    recipe = recipe_for([Pair(planes, planes, z, "a", "a") for z in z_um], Recipe(crop=32), 16)
    card = describe(recipe, "n", "d", "l")
    assert (card.pixel_size_um, card.na_range, card.wavelength_um_range) == (None, None, None)
    assert card.defocus_um_range == distances
    assert Card.from_json(card.to_json(), "card") == card


def test_a_card_says_what_the_recipe_knows(small_exported):
    card = read_card(small_exported)
    assert (card.na_range, card.halo) == ((0.3, 0.31), 32)


def test_only_the_finest_image_is_exported():
    with torch.inference_mode():
        assert Finest(CoarseToFine.of(Recipe(levels=2))).eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 1, 32, 32)
