"""TensorRT for RTX itself, without a GPU: the default network built, its types read back, and the bad inputs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from defocus.engine.errors import BackendError, InputError, ModelError
from defocus.engine.inference import backends
from defocus.engine.inference.backends.tensorrt import backend
from defocus.engine.inference.backends.tensorrt.build import build, make_progress
from defocus.engine.inference.backends.tensorrt.config import BuildConfig, Profile, usual_profiles
from defocus.engine.inference.backends.tensorrt.plan_cache import PlanCache
from defocus.engine.inference.backends.tensorrt.precision import LayerPrecision, inspected, require
from defocus.engine.inference.gpu import driver
from defocus.engine.installation import install_command
from defocus.engine.model.card import model_path, read_card

RTX = backend.RTX
AHEAD = ("SM89",)


def half(source: Path, target: Path, ends: bool = False) -> Path:
    """An FP16 copy of an ONNX file, as defocus-export makes it; with `ends` its input and output are float16 too."""
    import onnx

    from defocus.export.fp16 import save_half, to_half

    save_half(to_half(onnx.load(str(source)), half_ends=ends), read_card(source), target)
    return target


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx", reason='needs TensorRT for RTX: pip install ".[rtx]"')


@pytest.fixture(scope="module")
def default_half() -> Path:
    return model_path().with_name("default_fp16.onnx")


@pytest.fixture(scope="module")
def tiny_half(tiny_model, tmp_path_factory) -> Path:
    return half(tiny_model, tmp_path_factory.mktemp("half") / "tiny_fp16.onnx")


def small(card, **changes) -> BuildConfig:
    recipe = BuildConfig((Profile.parse("field=1x1x16x16:1x1x64x64:2x1x128x128", card),), capabilities=AHEAD)
    return replace(recipe, **changes)


def test_the_default_network_builds_in_half_precision_without_a_gpu(trt, default_half, tmp_path):
    said = []
    key = RTX.build_ahead(
        default_half,
        BuildConfig(usual_profiles(read_card(default_half)), capabilities=AHEAD),
        PlanCache(tmp_path),
        said.append,
    )
    (entry,) = PlanCache(tmp_path).entries()
    assert entry.key == key
    assert entry.size > 2_000_000
    assert entry.notes["half_share"] == 1.0
    layers = entry.notes["layers"]
    assert layers["CONVOLUTION HALF"] >= 50
    assert layers["DECONVOLUTION HALF"] >= 10
    assert not [name for name in layers if name.startswith(("CONVOLUTION FLOAT", "DECONVOLUTION FLOAT"))]
    assert layers["CAST HALF"] == layers["CAST FLOAT"] == 1
    assert "building an engine of default_fp16.onnx" in said[0]
    assert "convolutions in half precision" in said[-1]


def test_an_fp32_graph_asked_for_fp16_is_refused(trt, tiny_model, tmp_path):
    with pytest.raises(
        BackendError, match=r"only 0 of 2 convolutions in half.*; make an FP16 graph with defocus-export"
    ):
        RTX.build_ahead(tiny_model, small(read_card(tiny_model)), PlanCache(tmp_path))
    assert PlanCache(tmp_path).entries() == []
    fp32 = small(read_card(tiny_model), precision="fp32")
    RTX.build_ahead(tiny_model, fp32, PlanCache(tmp_path), lambda line: None)
    (entry,) = PlanCache(tmp_path).entries()
    assert entry.notes["half_share"] == 0.0


def test_fp32_asked_of_an_fp16_graph_is_refused(trt, tiny_half, tmp_path):
    with pytest.raises(BackendError, match="FP32 is asked for, but the graph has 2 of 2 convolutions in half"):
        RTX.build_ahead(tiny_half, small(read_card(tiny_half), precision="fp32"), PlanCache(tmp_path))


def test_half_ends_are_refused(trt, tiny_model, tmp_path):
    """The session hands float32 over: read as float16 it would give rubbish without a word."""
    path = half(tiny_model, tmp_path / "ends.onnx", ends=True)
    with pytest.raises(BackendError, match=r"'image' is HALF, and .*; export it again without --fp16-io"):
        RTX.build_ahead(path, small(read_card(path)), PlanCache(tmp_path))
    assert PlanCache(tmp_path).entries() == []


@pytest.mark.parametrize("flag", ["version_compatible", "workspace"])
def test_flags_are_taken_and_make_another_engine(trt, tiny_half, tmp_path, flag):
    card = read_card(tiny_half)
    cache = PlanCache(tmp_path)
    plain = RTX.build_ahead(tiny_half, small(card), cache, lambda line: None)
    try:
        other = RTX.build_ahead(tiny_half, small(card, **{flag: 1 << 28 if flag == "workspace" else True}), cache)
    except BackendError as error:  # TensorRT for RTX may refuse a flag, but then says so
        assert "cannot build an engine" in str(error)  # noqa: PT017
        return
    assert plain.digest != other.digest


def test_a_workspace_that_is_too_small_is_one_line(trt, default_half):
    card = read_card(default_half)
    recipe = BuildConfig(usual_profiles(card), workspace=1 << 20, capabilities=AHEAD)
    with pytest.raises(BackendError, match=r"workspace limit|OutOfMemory") as caught:
        build(trt, default_half, card, recipe, lambda line: None)
    assert "\n" not in str(caught.value)


def test_an_unknown_card_generation_names_the_known(trt, tiny_half, tmp_path):
    recipe = small(read_card(tiny_half), capabilities=("SM35",))
    with pytest.raises(BackendError, match=r"cannot build for SM35; it knows SM75, .*SM89"):
        RTX.build_ahead(tiny_half, recipe, PlanCache(tmp_path), lambda line: None)


def test_an_engine_built_ahead_is_found_on_its_generation(trt, tiny_half, tmp_path):
    card, cache = read_card(tiny_half), PlanCache(tmp_path)
    said = []
    key = RTX.build_ahead(tiny_half, small(card), cache, said.append)
    assert "building an engine of tiny_fp16.onnx for any SM89; this" in said[0]
    assert ", any SM89, " in str(cache.entries()[0])
    here = driver.Gpu("NVIDIA GeForce RTX 4070", (8, 9), 46, 12 << 30, (13, 0))
    recipe = small(card, capabilities=())
    assert backend._built_ahead(cache, RTX.key(trt, card, recipe, here)) == key
    older = replace(here, compute_capability=(7, 5))
    assert backend._built_ahead(cache, RTX.key(trt, card, recipe, older)) is None


def test_an_operator_that_tensorrt_does_not_know_is_one_line(trt, tiny_half, tmp_path):
    import onnx

    model = onnx.load(tiny_half)
    model.graph.node[0].op_type = "Defocus"
    onnx.save(model, path := tmp_path / "changed.onnx")
    with pytest.raises(BackendError, match=r"TensorRT cannot read it \(.*Defocus") as caught:
        build(trt, path, read_card(path), small(read_card(path)), lambda line: None)
    assert "\n" not in str(caught.value)


def test_an_opset_of_the_future_is_refused(tiny_half, tmp_path):
    """By ONNX Runtime: TensorRT takes any number whose operators it knows."""
    import onnx

    model = onnx.load(tiny_half)
    model.opset_import[0].version = 99
    onnx.save(model, path := tmp_path / "future.onnx")
    with pytest.raises(ModelError, match="operator set is newer than ONNX Runtime") as caught:
        backends.open_session("cpu", path, read_card(path))
    assert "\n" not in str(caught.value)


def test_not_our_onnx_is_refused_before_anything_is_built(trt, tmp_path):
    (tmp_path / "photo.onnx").write_bytes(b"JFIF not a model")
    with pytest.raises(ModelError, match="not an ONNX file"):
        RTX.build_ahead(tmp_path / "photo.onnx")


def test_progress_is_told_now_and_then(trt):
    said = []
    monitor = make_progress(trt, said.append, every=0)
    monitor.phase_start("Optimizing graph", None, 30)
    assert monitor.step_complete("Optimizing graph", 2)
    monitor.phase_finish("Optimizing graph")
    assert said == ["building: Optimizing graph, step 3 of 30, 0 s"]
    quiet = []
    make_progress(trt, quiet.append, every=60).step_complete("x", 0)
    assert quiet == []


def test_the_build_prints_nothing_of_its_own(trt, tiny_half, tmp_path):
    code = f"""
from defocus.engine.inference.backends.tensorrt import backend as t
from defocus.engine.inference.backends.tensorrt.config import BuildConfig, usual_profiles
from defocus.engine.model.card import read_card
from pathlib import Path
path = Path({str(tiny_half)!r})
t.RTX.build_ahead(path, BuildConfig(usual_profiles(read_card(path)), capabilities=("SM89",)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "DEFOCUS_CACHE": str(tmp_path)},
    )
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith("TensorRT: ") for line in lines)
    assert len(list((tmp_path / "engines").glob("*.engine"))) == 1


@pytest.mark.skipif(driver.why_no_gpu() is None, reason="a GPU works here")
def test_without_a_driver_it_ends_before_tensorrt_is_loaded(tiny_half, tmp_path):
    """In a process of its own: TensorRT's objects, made without CUDA, crash it."""
    code = f"""
import sys
from pathlib import Path
from defocus.engine.inference import backends
from defocus.engine.model.card import read_card
path = Path({str(tiny_half)!r})
for name in ("tensorrt", "rtx"):
    try:
        backends.open_session(name, path, read_card(path))
    except backends.BackendError as error:
        print(error)
print("tensorrt_rtx" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, loaded = done.stdout.splitlines()
    assert first.startswith("backend tensorrt: ")
    assert second.startswith("backend rtx: ")
    assert loaded == "False"


def test_auto_goes_on_past_what_cannot_run(tiny_half):
    opened = backends.open_session("auto", tiny_half, read_card(tiny_half))
    given = np.random.default_rng(0).random((1, 1, 32, 32), np.float32)
    assert opened.session.run(given).shape == given.shape
    for name in backends.NAMES[: backends.NAMES.index(opened.name)]:
        assert opened.rejected_backends[name]


@pytest.mark.parametrize(
    ("fields", "reason", "remedy"),
    [
        ({"cuda": 12080}, "the NVIDIA driver is too old: it runs CUDA 12.8, 13.0 is needed", "NVIDIA driver"),
        ({"error": 100}, "an NVIDIA driver, but no GPU that it can use", "NVIDIA driver"),
    ],
)
def test_why_not_names_the_driver(trt, card, fields, reason, remedy):
    card(**fields)
    assert RTX.unavailable_reason() == reason
    assert remedy in RTX.remedy()


def test_why_not_names_what_is_not_installed(monkeypatch, card):
    monkeypatch.setattr(backend, "is_installed", lambda package: False)
    assert backend.TENSORRT.unavailable_reason() == "tensorrt is not installed"
    assert install_command("tensorrt") in backend.TENSORRT.remedy()


def test_an_old_tensorrt_is_refused(monkeypatch, card):
    monkeypatch.setattr(backend, "is_installed", lambda package: True)
    monkeypatch.setattr(backend, "import_module", lambda name: SimpleNamespace(__version__="10.13.0.35"))
    monkeypatch.setattr(backend.gpu, "why_no_layer", lambda: None)
    assert backend.TENSORRT.unavailable_reason() == "tensorrt 10.13.0.35 is too old, 11 is needed"


def test_an_engine_for_another_card_or_of_rubbish_is_not_accepted():
    validity = SimpleNamespace(INVALID=2)
    trt, log = SimpleNamespace(EngineValidity=validity), SimpleNamespace(last="")
    with pytest.raises(BackendError, match="another card or version"):
        backend._deserialized(trt, SimpleNamespace(get_engine_validity=lambda data: (2, "")), log, b"x")

    def fails(data):
        log.last = "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed\nmore"

    with pytest.raises(BackendError, match="Serialization assertion"):
        backend._deserialized(trt, SimpleNamespace(deserialize_cuda_engine=fails), log, b"x")


def test_profiles_are_read_and_written_alike(tiny_model):
    card = read_card(tiny_model)
    profile = Profile.parse("tiles=1x1x16x16:1x1x64x64:8x1x128x256", card)
    assert profile == Profile("tiles", (1, 16, 16), (1, 64, 64), (8, 128, 256))
    assert str(profile) == "tiles=1x16x16:1x64x64:8x128x256"
    assert profile.holds((8, 128, 16))
    assert not profile.holds((9, 128, 16))
    assert not profile.holds((1, 144, 16))
    assert Profile.parse("1x1x528x704", card) == Profile("1x1x528x704", *[(1, 528, 704)] * 3)
    for usual in usual_profiles(card):
        assert usual.holds(usual.best)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("528x704", "not of the form"),
        ("1x1xAx704", "not of the form"),
        ("1x1x16x16:2x1x16x16", "not of the form"),
        ("1x3x528x704", "the model has 1 channels"),
        ("1x1x520x704", "multiples of 16"),
        ("0x1x16x16", "multiples of 16"),
        ("1x1x64x64:1x1x32x64:1x1x64x64", "ascending"),
    ],
)
def test_a_profile_that_makes_no_sense_is_one_line(tiny_model, text, cause):
    with pytest.raises(InputError, match=cause):
        Profile.parse(text, read_card(tiny_model))


INSPECTED = """{"Layers": [
 {"Name": "cast", "LayerType": "Reformat", "Outputs": [{"Format/Datatype": "Half"}]},
 {"Name": "a", "LayerType": "CaskConvolution", "Outputs": [{"Format/Datatype": "Channel major FP16 format"}]},
 {"Name": "b", "LayerType": "CaskDeconvolutionV2", "Outputs": [{"Format/Datatype": "Half"}]},
 {"Name": "c", "LayerType": "kgen", "ParameterType": "Convolution", "Outputs": [{"Format/Datatype": "Float"}]}]}"""


def test_the_inspectors_account_is_read():
    found = inspected(INSPECTED)
    assert found is not None
    assert (found.half, found.arithmetic) == (2, 3)
    assert str(found) == "2 of 3 convolutions in half precision"
    for nothing in ("", "{}", '{"Layers": ["cast"]}', "[1]"):
        assert inspected(nothing) is None


def test_a_mostly_fp32_engine_is_no_fp16():
    recipe = BuildConfig(())
    require(LayerPrecision({("CONVOLUTION", "HALF"): 5, ("CONVOLUTION", "FLOAT"): 5}), recipe, Path("x"))
    with pytest.raises(BackendError, match="only 4 of 10"):
        require(LayerPrecision({("CONVOLUTION", "HALF"): 4, ("CONVOLUTION", "FLOAT"): 6}), recipe, Path("x"))
    with pytest.raises(BackendError, match="only 0 of 0"):
        require(LayerPrecision({("POOLING", "HALF"): 4}), recipe, Path("x"))
