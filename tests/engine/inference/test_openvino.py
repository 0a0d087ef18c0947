"""OpenVINO for real: the same numbers as ONNX Runtime, bfloat16 only where it is good enough, and refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino", reason='needs OpenVINO: pip install ".[openvino]"')

from defocus import Engine
from defocus.engine.errors import BackendError, ModelError
from defocus.engine.inference import parity
from defocus.engine.inference.backends import open_session, openvino
from defocus.engine.model.card import model_path, read_card


@pytest.mark.parametrize("shape", [(1, 1, 48, 32), (3, 1, 64, 160)])
def test_it_gives_what_onnx_runtime_gives(tiny_model, shape):
    card = read_card(tiny_model)
    batch = np.random.default_rng(0).random(shape, np.float32)
    one, other = (open_session(name, tiny_model, card, threads=1) for name in ("openvino", "cpu"))
    found, expected = one.session.run(batch), other.session.run(batch)
    assert found.dtype == np.float32
    psnr = 20 * np.log10(np.ptp(expected) / np.sqrt(np.mean((found - expected) ** 2)))
    assert psnr >= openvino.LEAST_DB
    assert one.session.description.startswith("OpenVINO ")
    assert one.session.description.endswith("1 thread")
    found[:] = 0  # the result is the caller's own
    assert np.array_equal(one.session.run(batch[:1]), one.session.run(batch[:1]))
    one.session.close()
    with pytest.raises(BackendError, match="closed"):
        one.session.run(batch)


def test_the_default_model_within_a_count(tiny_model):
    plane = np.random.default_rng(0).normal(500, 30, (96, 112)).clip(0).astype(np.uint16)
    with Engine.load(backend="openvino") as engine, Engine.load(backend="cpu") as reference:
        assert "f32" in engine.description or "bf16" in engine.description
        difference = np.abs(engine(plane).astype(int) - reference(plane))
    assert difference.max() <= (10 if "bf16" in engine.description else 1)


def test_bfloat16_below_the_limit_is_dropped(tiny_model, monkeypatch):
    monkeypatch.setattr(openvino, "LEAST_DB", 1000.0)
    session = openvino.OPENVINO.open(tiny_model, read_card(tiny_model))
    assert "CPU f32" in session.description
    session.close()


def test_the_proof_measures_what_it_says():
    card = read_card(model_path())

    def exact(batch):
        return batch

    assert parity.proof_db(exact, exact, card) == np.inf
    assert parity.proof_db(exact, lambda batch: batch * np.nan, card) == -np.inf
    off = parity.proof_db(exact, lambda batch: batch + np.float32(0.01), card)
    assert 40 < off < 45


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_a_file_that_is_no_model_is_one_line(tiny_model, tmp_path, content):
    path: Path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(BackendError, match="cannot read") as caught:
        openvino.OPENVINO.open(path, read_card(tiny_model))
    assert "\n" not in str(caught.value)


def test_a_model_with_other_channels_than_its_card(tiny_model, tiny_model_2c):
    with pytest.raises(ModelError, match="2 channels, the card says 1"):
        openvino.OPENVINO.open(tiny_model_2c, read_card(tiny_model))


@pytest.mark.skipif(os.name == "nt", reason="signal stacks are Unix's")
def test_a_signal_after_two_engines_have_gone_in_their_order(tiny_model):
    """Each Core of OpenVINO puts back the signal stack that it found, the second one that of the first."""
    code = """
import os, signal, sys
from defocus import Engine
first, second = (Engine.load(sys.argv[1], backend="openvino") for _ in range(2))
for engine in (first, second):
    engine.close()
del engine, first, second
signal.signal(signal.SIGTERM, lambda number, frame: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tiny_model)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
