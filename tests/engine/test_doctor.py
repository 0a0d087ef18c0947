"""The doctor on this machine, and on one where things are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from defocus.engine import backends, doctor
from defocus.engine.backends import ort
from defocus.engine.card import read_card
from defocus.engine.gpu.driver import why_no_gpu


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "defocus.engine.doctor_cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, env=os.environ | environment)


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
    works = {name for name, reason in picture["backends"].items() if reason is None}
    assert {trial["backend"] for trial in picture["trials"]} == works
    (cpu,) = (trial for trial in picture["trials"] if trial["backend"] == "cpu")
    assert cpu["seconds"] > 0
    for trial in picture["trials"]:
        assert trial["psnr"] is None or trial["psnr"] >= doctor.LEAST_DB or trial["error"]
    if why_no_gpu():
        assert picture["gpu"] == why_no_gpu()


def test_for_people_it_says_why_not_and_what_to_do(tiny_model):
    picture = doctor.examine(str(tiny_model))
    text = "\n".join(doctor.lines(picture))
    for name in backends.NAMES:
        reason = backends.backend(name).why_not()
        line = next(line for line in text.splitlines() if line.startswith(f"  {name} "))
        assert (reason in line) if reason else line.endswith("works")
    assert "chosen    " in text


def test_a_model_that_is_none_is_told_and_fails(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    done = command("--model", tmp_path / "bad.onnx", "--self-test")
    assert done.returncode == 1
    assert "not an ONNX file" in done.stdout
    assert "chosen    none" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_backend_that_is_wrong_fails_the_self_test(tiny_model, monkeypatch):
    """A runtime that gives nearly the right numbers: the doctor must see it."""

    class Wrong(ort.OnnxSession):
        def run(self, batch: np.ndarray) -> np.ndarray:
            return super().run(batch) * np.float32(1.02)

    class Broken(ort.OnnxRuntime):
        def open(self, path, card, threads=None):
            session = super().open(path, card, threads)
            return Wrong(session._session, "a wrong one")

    known = backends.backend
    wrong = Broken("openvino", "CPUExecutionProvider")
    monkeypatch.setattr(backends, "backend", lambda name: wrong if name == "openvino" else known(name))
    monkeypatch.setattr(doctor, "backend", backends.backend)
    picture = doctor.examine(str(tiny_model), self_test=True)
    (trial,) = (trial for trial in picture.trials if trial.backend == "openvino")
    assert trial.psnr is not None
    assert trial.psnr < doctor.LEAST_DB
    assert not picture.healthy
    assert any("FAILED: less than 50 dB" in line for line in doctor.lines(picture))


def test_values_that_are_no_numbers_are_no_parity():
    plane = np.ones((4, 4), np.float32)
    assert doctor._psnr(plane, plane * np.nan) == -np.inf
    assert doctor._psnr(plane, plane) == np.inf


@pytest.mark.parametrize("word", ["--version", "--help"])
def test_version_and_help(word):
    done = command(word)
    assert done.returncode == 0
    assert "defocus-doctor" in done.stdout or "doctor" in done.stdout
