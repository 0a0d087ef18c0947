from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from defocus.engine import installation
from defocus.engine.errors import BackendError, MissingExtraError, ModelError, first_line
from defocus.engine.inference import backends
from defocus.engine.inference.backends import onnx_runtime
from defocus.engine.installation import install_command
from defocus.engine.model.card import read_card


@pytest.fixture(params=["cpu", "openvino", "mnn"])
def processor(request):
    """Each backend that runs on a processor."""
    if reason := backends.backend(request.param).unavailable_reason():
        pytest.skip(f"{reason}; {backends.backend(request.param).remedy()}")
    return request.param


@pytest.mark.parametrize("shape", [(3, 1, 48, 32), (1, 1, 16, 16), (1, 1, 16, 1008)])
def test_runs_what_the_graph_says(tiny_model, processor, shape):
    opened = backends.open_session(processor, tiny_model, read_card(tiny_model), threads=1)
    batch = np.random.default_rng(0).random(shape, np.float32)
    first = opened.session.run(batch)
    assert first.shape == batch.shape
    assert first.dtype == np.float32
    (expected,) = ReferenceEvaluator(str(tiny_model)).run(None, {"image": batch})
    assert np.abs(first - np.asarray(expected)).max() < (1e-3 if " bf16" in opened.session.description else 1e-5)
    start = {"cpu": "ONNX Runtime ", "openvino": "OpenVINO ", "mnn": "MNN "}[processor]
    assert opened.session.description.startswith(start)
    assert opened.session.description.endswith(", 1 thread")
    assert np.array_equal(opened.session.run(batch), opened.session.run(batch))
    assert opened.session.run(batch[:1]).shape == (1, *shape[1:])


def test_auto_takes_what_works_and_says_why_not_the_others(tiny_model):
    opened = backends.open_session("auto", tiny_model, read_card(tiny_model))
    for name in backends.NAMES[: backends.NAMES.index(opened.name)]:
        assert opened.rejected_backends[name]
    assert opened.name not in opened.rejected_backends


def test_every_backend_answers_why_not():
    for name in backends.NAMES:
        reason = backends.backend(name).unavailable_reason()
        assert reason is None or (reason and "\n" not in reason)
        assert backends.backend(name).remedy()
    assert backends.backend("cpu").unavailable_reason() is None


def test_an_unknown_name_lists_the_known():
    with pytest.raises(BackendError, match="choose one of: auto, tensorrt, rtx, cuda, mnn, openvino, cpu"):
        backends.backend("quantum")


@pytest.mark.skipif(onnx_runtime.CUDA.unavailable_reason() is None, reason="CUDA works here")
def test_cuda_is_refused_where_it_cannot_run(tiny_model):
    with pytest.raises(BackendError, match=r"backend cuda: .*; .*--backend cpu") as caught:
        backends.open_session("cuda", tiny_model, read_card(tiny_model))
    assert caught.value.cause == onnx_runtime.CUDA.unavailable_reason()


def test_a_silent_fall_back_to_the_cpu_is_noticed(tiny_model, monkeypatch):
    """ONNX Runtime given a provider whose library is missing opens on the CPU: that is an error, and auto goes on."""
    import onnxruntime

    whole = onnxruntime.InferenceSession

    def falls_back(path, options, providers, **rest):
        return whole(path, options, providers=["CPUExecutionProvider"], **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    monkeypatch.setattr(onnx_runtime.OnnxRuntime, "unavailable_reason", lambda self: None)
    with pytest.raises(BackendError, match="fell back to CPUExecutionProvider"):
        backends.open_session("cuda", tiny_model, read_card(tiny_model))
    for name in ("mnn", "openvino"):
        monkeypatch.setattr(backends.backend(name), "unavailable_reason", lambda: "not installed")
    opened = backends.open_session("auto", tiny_model, read_card(tiny_model))
    assert opened.name == "cpu"
    assert "fell back" in opened.rejected_backends["cuda"]


COMMAND = re.escape(install_command("cpu"))


def test_without_any_runtime_the_install_command_is_named(tiny_model, monkeypatch):
    monkeypatch.setattr(installation, "find_spec", lambda name: None)
    monkeypatch.setattr(backends.backend("openvino"), "unavailable_reason", lambda: "openvino is not installed")
    with pytest.raises(MissingExtraError, match=COMMAND):
        backends.open_session("auto", tiny_model, read_card(tiny_model))
    with pytest.raises(BackendError, match=r"onnxruntime is not installed; .*" + COMMAND):
        backends.open_session("cpu", tiny_model, read_card(tiny_model))


def test_a_module_that_some_loader_left_without_a_spec_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", ModuleType("openvino"))
    assert not installation.is_installed("openvino")
    assert backends.backend("openvino").unavailable_reason() == "openvino is not installed"


@pytest.mark.parametrize(
    ("said", "line"),
    [(OSError(" no\nyes"), "no"), (OSError(" \n"), "OSError"), ("", "no reason given"), ("a" * 300, "a" * 200)],
)
def test_what_a_library_says_is_one_line(said, line):
    assert first_line(said) == line


def make(path: Path, source, change) -> Path:
    model = onnx.load(source)
    change(model)
    onnx.save(model, path)
    return path


def fixed_size(model):
    for end in (*model.graph.input, *model.graph.output):
        end.type.tensor_type.shape.dim[2].dim_value = 64


def doubles(model):
    graph = model.graph
    graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    graph.node.insert(0, helper.make_node("Cast", ["image"], ["single"], to=TensorProto.FLOAT))
    for node in graph.node[1:]:
        node.input[:] = ["single" if name == "image" else name for name in node.input]


def second_output(model):
    model.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["batch", 4, "height", "width"]))


def broken_graph(model):
    model.graph.node[0].input[0] = "nowhere"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (fixed_size, "takes only one size"),
        (doubles, r"tensor\(double\), not float32 or float16"),
        (second_output, "1 inputs and 2 outputs"),
        (broken_graph, "ONNX Runtime cannot read it"),
    ],
)
@pytest.mark.parametrize("backend", ["cpu", "mnn"])  # OpenVINO's words are its own: test_openvino.py
def test_a_graph_that_does_not_fit_its_card_is_refused(tiny_model, tmp_path, change, cause, backend):
    if reason := backends.backend(backend).unavailable_reason():
        pytest.skip(reason)
    path = make(tmp_path / "changed.onnx", tiny_model, change)
    with pytest.raises(ModelError, match=cause):
        backends.open_session(backend, path, read_card(path))


def test_channels_must_be_the_cards(tiny_model, processor):
    with pytest.raises(ModelError, match="'image' has 1 channels, the card says 3"):
        backends.open_session(processor, tiny_model, replace(read_card(tiny_model), channels=3))


def test_a_failing_run_is_one_line(tiny_model, processor):
    session = backends.open_session(processor, tiny_model, read_card(tiny_model)).session
    with pytest.raises(BackendError, match="failed on a batch of 1x2x16x16") as caught:
        session.run(np.zeros((1, 2, 16, 16), np.float32))
    assert "\n" not in str(caught.value)
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(np.zeros((1, 1, 16, 16), np.float32))


def test_the_runtime_says_nothing_of_its_own(tiny_model, tmp_path, processor):
    """Neither a good run nor a broken model may print: the line on stderr is ours."""
    bad = make(tmp_path / "bad.onnx", tiny_model, broken_graph)
    code = f"""
import numpy as np
from pathlib import Path
from defocus.engine.inference import backends
from defocus.engine.model.card import read_card
from defocus.engine.errors import DefocusError
for path in {[str(tiny_model), str(bad)]}:
    try:
        session = backends.open_session({processor!r}, Path(path), read_card(path)).session
        session.run(np.zeros((1, 1, 32, 16), np.float32))
        session.run(np.zeros((1, 9, 16, 16), np.float32))
    except DefocusError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
