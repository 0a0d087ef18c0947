"""Half precision on a card that is not there: only whether a backend works, and where it computes, is made up."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from defocus import Engine
from defocus.engine.errors import BackendError
from defocus.engine.inference import backends, fallback
from defocus.engine.inference.backends import onnx_runtime
from defocus.engine.model.card import model_path, read_card

from ...helpers.sessions import WatchedSession

HALF = model_path().with_name("default_fp16.onnx")


class OnProcessor:
    """A card's backend whose sessions the processor runs; `opened` are the files that it was given."""

    def __init__(self, name: str) -> None:
        self.name, self.opened, self.lost = name, [], False

    def unavailable_reason(self):
        return None

    def remedy(self):
        return "none"

    def open(self, path, card, threads=None):
        self.opened.append(path)
        return WatchedSession(onnx_runtime.CPU.open(path, card, 1), self._fail_if_lost)

    def _fail_if_lost(self, batch, stream):
        if self.lost:
            raise BackendError(self.name, "the GPU is lost", "restart the machine")


@pytest.fixture
def put(monkeypatch):
    """Put a card's backend first of all that "auto" tries, before the processor's."""

    def put(name: str) -> OnProcessor:
        card, whole = OnProcessor(name), backends.backend
        for module in (backends, fallback):
            monkeypatch.setattr(module, "NAMES", (name, "cpu"))
        monkeypatch.setattr(backends, "backend", lambda asked: card if asked == name else whole(asked))
        return card

    return put


@pytest.mark.parametrize("chosen", ["auto", "named"])
@pytest.mark.parametrize("name", backends.ON_CARD)
def test_on_a_card_the_default_model_runs_in_half_precision(put, name, chosen):
    card = put(name)
    with Engine.load(backend="auto" if chosen == "auto" else name) as engine:
        assert engine.backend == name
        assert card.opened == [HALF]
        account = engine.provenance()
    assert account["half_sha256"] == read_card(HALF).sha256
    # What is done stays done where another machine goes on, with a card or without.
    assert account["model_sha256"] == engine.card.sha256 == read_card(model_path()).sha256


def test_on_the_processor_it_runs_in_full_precision():
    with Engine.load(backend="cpu") as engine:
        assert "half_sha256" not in engine.provenance()
        assert engine.card.precision == "fp32"


def test_a_card_that_is_lost_leaves_the_full_precision_of_the_processor(put):
    image = np.random.default_rng(0).integers(100, 4000, (64, 80), dtype=np.uint16)
    with Engine.load(backend="cpu", threads=1) as engine:
        expected = engine(image)
    card = put("cuda")
    with Engine.load(threads=1) as engine:
        half = engine(image)
        assert not np.array_equal(half, expected)
        assert np.abs(half.astype(int) - expected).max() < 40  # of 3900
        card.lost = True
        assert np.array_equal(engine(image), expected)
        assert engine.backend == "cpu"
        account = engine.provenance()
        assert "half_sha256" not in account
        assert "the GPU is lost" in account["fallbacks"][0]


@pytest.mark.parametrize("damage", ["cut short", "no graph"])
@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_a_damaged_file_in_half_precision_leaves_full_precision_with_one_line(
    put, make_model, tmp_path, damage, asked, caplog
):
    full, half = make_model(tmp_path / "m.onnx"), tmp_path / "m_fp16.onnx"
    make_model(half, precision="fp16", fp32_sha256=read_card(full).sha256)
    if damage == "cut short":
        half.write_bytes(half.read_bytes()[:-100])
    else:  # its card can be read, and names this model
        model = onnx.load(str(half))
        model.graph.node[0].input[0] = "nothing"
        onnx.save(model, str(half))
    card = put("cuda")
    with Engine.load(full, backend=asked) as engine:
        assert engine.backend == "cuda"
        assert card.opened[-1] == full
        assert "half_sha256" not in engine.provenance()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    line = record.getMessage()
    assert line.startswith(f"{half}: ")
    assert line.endswith("; m.onnx runs in full precision")
    assert "\n" not in line


def test_a_model_without_such_a_file_runs_as_it_is(put, tiny_model):
    card = put("cuda")
    with Engine.load(tiny_model) as engine:
        assert card.opened == [tiny_model]
        assert "half_sha256" not in engine.provenance()


def test_onnx_runtime_on_a_card_says_that_it_runs_half_precision(make_model, tmp_path, monkeypatch):
    """CUDA itself, but for the provider: the processor's answers to its name."""
    import onnxruntime

    class Pretending(onnxruntime.InferenceSession):
        def __init__(self, path, options, providers, **rest):
            super().__init__(path, options, providers=["CPUExecutionProvider"], **rest)

        def get_providers(self):
            return ["CUDAExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Pretending)
    monkeypatch.setattr(onnx_runtime.OnnxRuntime, "unavailable_reason", lambda self: None)
    full = make_model(tmp_path / "m.onnx")
    make_model(tmp_path / "m_fp16.onnx", precision="fp16", fp32_sha256=read_card(full).sha256)
    with Engine.load(full, backend="cuda") as engine:
        assert engine.description.endswith(" CUDAExecutionProvider, half precision")
    (tmp_path / "m_fp16.onnx").unlink()
    with Engine.load(full, backend="cuda") as engine:
        assert engine.description.endswith(" CUDAExecutionProvider")
