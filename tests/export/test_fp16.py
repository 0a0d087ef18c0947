"""Half precision: the graph converted, the gate that can refuse, the layers found that need FP32, the command."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

onnx = pytest.importorskip("onnx", reason='needs onnx: pip install ".[train]"')
pytest.importorskip("torch", reason='needs PyTorch: pip install ".[train]"')
from onnx import TensorProto, numpy_helper  # noqa: E402
from scipy.ndimage import correlate  # noqa: E402

from defocus import Engine  # noqa: E402
from defocus.engine.errors import InputError, ModelError  # noqa: E402
from defocus.engine.image.normalization import LIMIT, measure  # noqa: E402
from defocus.engine.model.card import half_precision, model_path, read_card  # noqa: E402
from defocus.export import fp16, fp16_check, workflow  # noqa: E402
from defocus.export.fp16_check import LEAST_DB, Verdict, compare, culprits, on_cpu, planes, refuse_imprecise, samples  # noqa: E402

from ..helpers.calling import Called, call  # noqa: E402


@pytest.fixture(scope="module")
def default():
    return onnx.load(str(model_path()))


def command(*arguments: object, **environment: str) -> Called:
    return call("defocus.export.cli", "defocus-export", *arguments, **environment)


def overflowing(source: Path, target: Path) -> Path:
    """A model that half precision cannot hold: its first convolution gives 1e6 times too much, its last takes it back.

    FP32 gives what the source gives.
    """
    model = onnx.load(str(source))
    for tensor in model.graph.initializer:
        factor = {"w1": 1e6, "b1": 1e6, "w2": 1e-6}[tensor.name]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    onnx.save(model, target)
    return target


def test_layers_have_the_names_of_the_network(default):
    names = list(fp16.layers(default))
    assert len(names) == 62
    assert "levels.3.encoder.0.0" in names
    assert names[-1] == "levels.0.output"


def test_every_convolution_is_in_half_and_the_ends_are_not(default):
    made = fp16.to_half(default)
    assert fp16.half_share(made) == (62, 62)
    assert fp16.half_share(default) == (0, 62)
    (image,), (restored,) = made.graph.input, made.graph.output
    assert image.type.tensor_type.elem_type == restored.type.tensor_type.elem_type == TensorProto.FLOAT
    assert [dim.dim_param for dim in image.type.tensor_type.shape.dim] == ["batch", "", "height", "width"]
    assert made.opset_import[0].version == fp16.OPSET
    assert fp16.half_share(default) == (0, 62)  # the source is left alone


def test_kept_layers_stay_in_fp32_and_the_ends_can_be_half(default):
    names = fp16.layers(default)
    kept = fp16.chosen(["levels.3", "levels.0.output"], names)
    made = fp16.to_half(default, kept)
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    nodes = {node.name: node for node in made.graph.node}
    for name, node in names.items():
        expected = TensorProto.FLOAT if name in kept else TensorProto.FLOAT16
        assert types[nodes[node].input[1]] == expected, name
    ends = fp16.to_half(default, half_ends=True)
    assert {end.type.tensor_type.elem_type for end in (*ends.graph.input, *ends.graph.output)} == {TensorProto.FLOAT16}


def test_an_unknown_layer_names_some_that_there_are(default):
    with pytest.raises(InputError, match=r"levels\.7: no layer has that name; the model has levels\.3\.encoder\.0\.0"):
        fp16.chosen(["levels.7"], fp16.layers(default))


def test_rounding_is_that_of_numpys_half(tiny_model):
    """The graph that rounds like half, against the same sums with every operation's result rounded by numpy."""
    model = onnx.load(str(tiny_model))
    rounded, exact = on_cpu(fp16.rounded_like_half(fp16.to_half(model))), on_cpu(model)
    image = np.random.default_rng(0).random((1, 1, 32, 48), np.float32)
    found = rounded(image)
    assert np.array_equal(found, found.astype(np.float16))  # the last sum was rounded to half
    assert 1e-5 < np.abs(found - exact(image)).max() < 1e-2

    def rounds(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float16).astype(np.float32)

    def convolved(planes: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return np.stack([sum(map(partial(correlate, mode="constant"), planes, one)) for one in weight])

    weights = {tensor.name: rounds(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
    seen = rounds(image[0])
    inner = rounds(convolved(seen, weights["w1"]) + weights["b1"][:, None, None])
    by_hand = rounds(seen + rounds(convolved(inner.clip(0), weights["w2"])))
    # Sums in another order come out on the other side of a rounding now and then.
    assert np.mean(found[0] == by_hand) > 0.99
    np.testing.assert_allclose(found[0], by_hand, rtol=2**-9, atol=2**-12)


@pytest.mark.parametrize("how", ["as ONNX Runtime runs it", "rounded after every operation"])
def test_the_default_models_two_files_belong_together(default, how):
    """The one in half precision was made from the other, and passes on planes of every kind."""
    card = read_card(model_path())
    pair = half_precision(model_path(), card)
    assert pair is not None, "make model makes both"
    assert pair[1] == replace(card, precision="fp16", fp32_sha256=card.sha256, sha256=pair[1].sha256)
    half = onnx.load(str(pair[0]))
    assert fp16.half_share(half)[0] > 31
    run = on_cpu(fp16.rounded_like_half(half) if how.startswith("rounded") else half)
    verdicts = list(compare(on_cpu(default), run, card, samples(planes(), card)))
    assert {verdict.name.split(":")[0].split()[0] for verdict in verdicts} >= {"dim", "bright", "saturated", "empty"}
    for verdict in verdicts:
        assert verdict.passes, str(verdict)
        assert verdict.psnr < 100  # half precision really was there
    refuse_imprecise(Path("x.onnx"), verdicts)


def test_real_defocused_planes_pass(default, shared_data):
    card = read_card(model_path())
    rounded = on_cpu(fp16.rounded_like_half(fp16.to_half(default)))
    drawn = len(list(planes()))
    real = list(planes(shared_data / "bbbc006" / "defocused_w1_z00"))[drawn : drawn + 4]
    assert len(real) == 4
    refuse_imprecise(Path("x.onnx"), list(compare(on_cpu(default), rounded, card, samples(real, card))))


def test_what_a_hot_pixel_is_above_the_limit_goes_around_the_network(default):
    """Without it half precision overflows there; the pixel itself comes back near what it was."""
    plane = np.random.default_rng(0).normal(100, 3, (96, 96)).astype(np.uint16)
    plane[40:43, 40:43] = 60000
    half_model = fp16.rounded_like_half(fp16.to_half(default))
    card = read_card(model_path())
    (verdict,) = compare(on_cpu(default), on_cpu(half_model), card, samples([("spot", plane)], card))
    assert verdict.passes
    beyond = np.full((1, 1, 96, 96), 0.5, np.float32)
    beyond[0, 0, 20:76, 20:76] = 40 * LIMIT
    assert not np.isfinite(on_cpu(half_model)(beyond)).all()
    with Engine.load(backend="cpu") as engine:
        restored = engine(plane)
    assert 50000 < restored[41, 41] <= 65535
    assert abs(float(restored[:20].mean()) - 100) < 3


def test_the_gate_refuses_and_names_what_to_keep(tiny_model, tmp_path):
    wild = overflowing(tiny_model, tmp_path / "wild.onnx")
    out = tmp_path / "wild16.onnx"
    done = command(wild, "-o", out, "--fp16")
    assert done.returncode == 1
    assert "gives values that are no numbers" in done.stderr
    assert "export with --keep-fp32 Conv_0" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [wild]
    kept = command(wild, "-o", out, "--fp16", "--keep-fp32", "auto")
    assert kept.returncode == 0, kept.stderr
    assert "kept in FP32: Conv_0" in kept.stdout
    assert read_card(out).precision == "fp16"
    image = (np.random.default_rng(0).random((40, 50)) * 4000).astype(np.uint16)
    with Engine.load(out, backend="cpu") as engine, Engine.load(wild, backend="cpu") as exact:
        assert np.abs(engine(image).astype(int) - exact(image)).max() <= 40


def test_command_prints_the_table_and_the_share(tiny_model, tmp_path):
    out = tmp_path / "tiny16.onnx"
    line = [sys.executable, "-m", "defocus.export.cli", tiny_model, "-o", out, "--fp16", "--fp16-io"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" dB ") >= 8
    assert "2 of 2 convolutions in half precision (100 %)" in done.stdout
    model = onnx.load(str(out))
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    with Engine.load(out, backend="cpu") as engine:  # the backend converts
        assert engine(np.eye(48, dtype=np.uint16) * 900).shape == (48, 48)
    again = command(out, "-o", tmp_path / "x.onnx", "--fp16")
    assert again.returncode == 1
    assert "is fp16 already" in again.stderr


def test_flat_images_say_nothing_and_fail_nothing(tiny_model, tmp_path):
    """An empty well has no structure to compare: the engine gives it back without the network."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    tifffile.imwrite(tmp_path / "images" / "empty.tif", np.full((80, 90), 100, np.uint16))
    tifffile.imwrite(tmp_path / "images" / "cells.tif", rng.integers(100, 4000, (80, 90), np.uint16))
    done = command(tiny_model, "-o", tmp_path / "tiny16.onnx", "--fp16", "--images", tmp_path / "images")
    assert done.returncode == 0, done.stderr
    assert "real cells.tif" in done.stdout
    assert "empty.tif" not in done.stdout


def test_each_plane_is_measured_once(tiny_model, monkeypatch):
    """However often the gate is asked: a bisection compares the same planes many times."""
    card, measured = read_card(tiny_model), []
    monkeypatch.setattr(fp16_check, "measure", lambda plane, rule: measured.append(plane.dtype) or measure(plane, rule))
    chosen = list(samples(planes(), card))
    for _ in range(2):
        list(compare(lambda batch: batch, lambda batch: batch, card, chosen))
    assert measured.count(np.dtype(np.uint16)) == len(list(planes()))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give a checkpoint"),
        (("default", "--fp16"), "--fp16 needs -o"),
        (("default", "-o", "x.onnx"), "is a model already"),
        (("default", "-o", "x.onnx", "--fp16-io", "--tensorrt"), "belong to --fp16"),
        (("run.ckpt",), "a checkpoint needs -o"),
    ],
)
def test_commands_typed_wrongly_are_one_line(arguments, says):
    done = command(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_engines_are_built_listed_and_cleared(tiny_model, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT for RTX: pip install ".[rtx]"')
    cache = {"DEFOCUS_CACHE": str(tmp_path / "cache")}
    out = tmp_path / "tiny16.onnx"
    sizes = "1x1x16x16:1x1x64x64:2x1x128x128,small=1x1x32x32"
    done = command(tiny_model, "-o", out, "--fp16", "--tensorrt", "--profile", sizes, "--capability", "SM89", **cache)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 convolutions in half precision" in done.stdout
    listed = command("--list-engines", **cache)
    assert "small=1x32x32" in listed.stdout
    assert "tiny fp16" in listed.stdout
    assert "any SM89" in listed.stdout
    assert "1 engine deleted" in command("--clear-engines", **cache).stdout
    assert "no engines in" in command("--list-engines", **cache).stdout
    full = command(tiny_model, "--tensorrt", "--capability", "SM89", **cache)
    assert full.returncode == 1
    assert "make an FP16 graph with defocus-export --fp16" in full.stderr


def test_the_engine_is_built_of_the_file_in_half_precision(make_model, tmp_path, monkeypatch):
    built = []

    class Builds:
        def build_ahead(self, model, recipe, say):
            built.append((model, recipe.profiles))
            return SimpleNamespace(digest="0")

    monkeypatch.setattr(workflow, "_flavour", lambda recipe: Builds())
    full = make_model(tmp_path / "m.onnx")
    half = make_model(tmp_path / "m_fp16.onnx", precision="fp16", fp32_sha256=read_card(full).sha256)
    for source in (full, half):
        workflow.build_engine(source, (), lambda line: None)
    assert [model for model, _ in built] == [half, half]


@pytest.mark.skipif(workflow.backend("rtx").unavailable_reason() is None, reason="a GPU is here")
def test_without_a_gpu_the_generation_has_to_be_named(tiny_model):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT for RTX: pip install ".[rtx]"')
    with pytest.raises(workflow.BackendError, match="name its generation: --capability SM89"):
        workflow.build_engine(tiny_model, (), lambda line: None)


@pytest.mark.parametrize("needed", [(), ("c",), ("a", "f"), ("b", "c", "h"), tuple("abcdefgh")])
def test_bisection_finds_exactly_what_is_needed(needed):
    tests = []

    def passes(kept):
        tests.append(kept)
        return set(needed) <= set(kept)

    assert set(culprits("abcdefgh", passes)) == set(needed)
    assert len(tests) <= 2 + 2 * len(needed) * 4


def test_bisection_gives_up_where_fp32_does_not_help():
    assert culprits("abcd", lambda kept: False) == ()


@pytest.mark.parametrize(
    "bad", [Verdict("bad", (1, 1), LEAST_DB - 0.1, 1.0, True), Verdict("bad", (1, 1), -np.inf, np.inf, False)]
)
def test_one_bad_plane_fails_the_gate(bad):
    fine = Verdict("fine", (1, 1), 80.0, 1.0, True)
    with pytest.raises(ModelError, match=r'"bad".*; export with --keep-fp32 levels\.0'):
        refuse_imprecise(Path("x.onnx"), [fine, bad], ("levels.0",))
    refuse_imprecise(Path("x.onnx"), [fine])


def test_the_gate_sees_what_differs(tiny_model):
    """Both ends of the gate's scale: an error of known size gives the PSNR it must."""
    card = read_card(tiny_model)
    plane = (np.arange(64 * 64).reshape(64, 64) % 1000).astype(np.uint16)

    def exact(batch):
        return batch

    def off(batch):
        return batch + np.float32(0.001)  # 60 dB of the unit range

    (verdict,) = compare(exact, off, card, samples([("ramp", plane)], card))
    assert verdict.psnr == pytest.approx(60, abs=0.2)
    assert verdict.worst == pytest.approx(0.001 * 989, rel=0.05)
