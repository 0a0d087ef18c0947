"""The doctor on this machine, and on one where things are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from defocus.engine import diagnostics
from defocus.engine.inference import backends, parity
from defocus.engine.inference.backends import onnx_runtime
from defocus.engine.inference.gpu.driver import Gpu, why_no_gpu
from defocus.engine.model.card import read_card


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "defocus.engine.cli.doctor", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, env=os.environ | environment)


def test_the_whole_picture_with_a_self_test(tiny_model, tmp_path):
    done = command("--model", tiny_model, "--self-test", "--json", DEFOCUS_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    picture = json.loads(done.stdout)
    assert picture["healthy"] is True
    assert set(picture["backends"]) == set(backends.NAMES)
    assert picture["model"]["sha256"] == read_card(tiny_model).sha256
    assert picture["engines"] == []
    assert picture["engine_folder"].startswith(str(tmp_path))
    assert picture["packages"]["onnxruntime"]
    assert "CPUExecutionProvider" in picture["providers"]
    works = {name for name, reason in picture["backends"].items() if reason is None}
    assert {trial["backend"] for trial in picture["trials"]} == works
    (cpu,) = (trial for trial in picture["trials"] if trial["backend"] == "cpu")
    assert cpu["seconds"] > 0
    for trial in picture["trials"]:
        assert trial["psnr"] is None or trial["psnr"] >= diagnostics.LEAST_DB or trial["error"]
    if why_no_gpu():
        assert picture["gpu"] == why_no_gpu()


def test_for_people_it_says_why_not_and_what_to_do(tiny_model):
    picture = diagnostics.examine(str(tiny_model))
    text = "\n".join(diagnostics.lines(picture))
    for name in backends.NAMES:
        reason = backends.backend(name).unavailable_reason()
        line = next(line for line in text.splitlines() if line.startswith(f"  {name} "))
        assert (reason in line) if reason else line.endswith("works")
    assert "chosen    " in text
    assert "providers of ONNX Runtime: " in text
    assert "CPUExecutionProvider" in text


def test_a_file_in_half_precision_is_told(make_model, tmp_path):
    full = make_model(tmp_path / "m.onnx")
    card = read_card(full)
    half = read_card(make_model(tmp_path / "m_fp16.onnx", precision="fp16", fp32_sha256=card.sha256))
    picture = diagnostics.examine(str(full))
    told = f"model     tiny, fp32, sha256 {card.sha256[:12]}; on a card fp16, sha256 {half.sha256[:12]}"
    assert told in diagnostics.lines(picture)
    assert picture.to_dict()["model"]["half_sha256"] == half.sha256
    (tmp_path / "m_fp16.onnx").write_bytes(b"cut short")
    picture = diagnostics.examine(str(full))
    assert picture.chosen
    (line,) = (line for line in diagnostics.lines(picture) if "m_fp16.onnx" in line)
    assert "not an ONNX file" in line


def test_a_card_is_told_with_its_driver_and_where_counts_are_converted(tiny_model, monkeypatch):
    """Over a card that is not there: only what is asked of the driver and of TensorRT is made up."""
    monkeypatch.setattr(diagnostics, "why_no_gpu", lambda: None)
    monkeypatch.setattr(diagnostics, "find_gpu", lambda: Gpu("NVIDIA RTX 4070", (8, 9), 46, 12 << 30, (13, 0)))
    known = onnx_runtime.CPU.open

    def with_a_note(path, card, threads=None):
        session = known(path, card, threads)
        session.description += ", counts converted on the host (CUDA_ERROR_INVALID_PTX)"
        return session

    monkeypatch.setattr(onnx_runtime.CPU, "open", with_a_note)
    monkeypatch.setattr(backends, "NAMES", ("cpu",))
    for version, says in (("580.65.06", "SM89, driver 580.65.06 for CUDA 13.0"), (None, "SM89, driver for CUDA 13.0")):
        monkeypatch.setattr(diagnostics, "driver_version", lambda version=version: version)
        text = "\n".join(diagnostics.lines(diagnostics.examine(str(tiny_model))))
        assert f"GPU       NVIDIA RTX 4070, 12.0 GiB, {says}\n" in text
        assert "counts converted on the host (CUDA_ERROR_INVALID_PTX)" in text


def test_the_self_test_takes_about_six_seconds_of_runs(tiny_model):
    """A second a backend at most, of which there are six."""
    picture = diagnostics.examine(str(tiny_model), self_test=True)
    assert len(backends.NAMES) == 6
    for trial in picture.trials:
        assert trial.runs in (3, 50) or (trial.runs - 1) * trial.seconds < 2  # 3 of the slowest, 50 of the fastest


def test_a_model_that_is_none_is_told_and_fails(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    done = command("--model", tmp_path / "bad.onnx", "--self-test")
    assert done.returncode == 1
    assert "not an ONNX file" in done.stdout
    assert "chosen    none" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_backend_that_is_wrong_fails_the_self_test(tiny_model, monkeypatch):
    """A runtime that gives nearly the right numbers: the doctor must see it."""

    class Wrong(onnx_runtime.OnnxSession):
        def run(self, batch: np.ndarray) -> np.ndarray:
            return super().run(batch) * np.float32(1.02)

    class Broken(onnx_runtime.OnnxRuntime):
        def open(self, path, card, threads=None):
            return Wrong(self._session(path, 1), "a wrong one")

    known = backends.backend
    wrong = Broken("openvino", "CPUExecutionProvider")
    monkeypatch.setattr(backends, "backend", lambda name: wrong if name == "openvino" else known(name))
    monkeypatch.setattr(diagnostics, "backend", backends.backend)
    picture = diagnostics.examine(str(tiny_model), self_test=True)
    (trial,) = (trial for trial in picture.trials if trial.backend == "openvino")
    assert trial.psnr is not None
    assert trial.psnr < diagnostics.LEAST_DB
    assert not picture.healthy
    assert any("FAILED: less than 50 dB" in line for line in diagnostics.lines(picture))


def test_values_that_are_no_numbers_are_no_parity():
    plane = np.ones((4, 4), np.float32)
    assert parity.psnr(plane, plane * np.nan) == -np.inf
    assert parity.psnr(plane, plane) == np.inf


@pytest.mark.parametrize("word", ["--version", "--help"])
def test_version_and_help(word):
    done = command(word)
    assert done.returncode == 0
    assert "defocus-doctor" in done.stdout or "doctor" in done.stdout
