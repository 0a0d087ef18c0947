"""MNN for real: what is kept of a conversion, its proof, many shapes, and memory that runs out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("MNN", reason='needs MNN: pip install ".[mnn]"')

from defocus import Engine
from defocus.engine.errors import BackendError
from defocus.engine.inference.backends import mnn, open_session
from defocus.engine.model.card import read_card


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("DEFOCUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mnn"


@pytest.fixture
def conversions(monkeypatch):
    """Counts them."""
    real, done = mnn._convert, []
    monkeypatch.setattr(mnn, "_convert", lambda *given: (done.append(given), real(*given))[1])
    return done


def opened(model: Path, said: list[str] | None = None, **changes):
    said = [] if said is None else said
    return mnn.MNN.open(model, replace(read_card(model), **changes), 1, said.append)


def test_a_model_is_converted_once(tiny_model, folder, conversions):
    first = opened(tiny_model).run(np.ones((1, 1, 16, 32), np.float32))
    assert np.array_equal(opened(tiny_model).run(np.ones((1, 1, 16, 32), np.float32)), first)
    assert len(conversions) == 1
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".mnn"]


@pytest.mark.parametrize("damage", ["cut", "note", "unproven", "half", "folder"])
def test_damage_of_what_is_kept_is_a_line_and_another_conversion(tiny_model, folder, conversions, damage):
    opened(tiny_model)
    model, note = next(folder.glob("*.mnn")), next(folder.glob("*.json"))
    if damage == "cut":
        model.write_bytes(model.read_bytes()[:100])
    elif damage == "note":
        note.write_bytes(b"{]")
    elif damage == "unproven":
        note.write_text(json.dumps(json.loads(note.read_text()) | {"parity_db": 20}))
    elif damage == "half":
        note.write_text("{}")
    else:
        model.unlink()
        model.mkdir()
    said: list[str] = []
    session = opened(tiny_model, said)
    assert session.run(np.zeros((1, 1, 16, 16), np.float32)).shape == (1, 1, 16, 16)
    assert len(conversions) == 2
    assert said
    assert all(str(model) in line and "\n" not in line for line in said)
    if damage != "folder":  # that cannot be replaced: it goes on without
        opened(tiny_model, said)
        assert len(said) == 1
        assert len(conversions) == 2


def test_without_a_cache_it_works_and_says_so(tiny_model, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEFOCUS_CACHE", str(tmp_path / "file"))
    said: list[str] = []
    session = mnn.MNN.open(tiny_model, read_card(tiny_model), 1, said.append)
    assert session.streams(1)[0].run(np.zeros((1, 1, 48, 16), np.float32)).shape == (1, 1, 48, 16)
    (line,) = said
    assert "cannot be kept" in line


def test_what_differs_from_onnx_runtime_is_refused(tiny_model, folder, monkeypatch):
    real = mnn.MnnSession.run
    monkeypatch.setattr(mnn.MnnSession, "run", lambda self, batch: real(self, batch) * np.float32(1.01))
    with pytest.raises(BackendError, match=r"only \d+ dB near ONNX Runtime's"):
        opened(tiny_model)
    assert not list(folder.glob("*"))


def test_a_converter_that_fails_is_one_line(tiny_model, folder, monkeypatch):
    monkeypatch.setattr(mnn, "_CONVERT", "print('first'); raise SystemExit('no such\\nluck')")
    with pytest.raises(BackendError, match=r"cannot convert tiny.onnx \(luck\)"):
        opened(tiny_model)


def test_shapes_in_any_order_with_few_networks_kept(tiny_model):
    session = open_session("mnn", tiny_model, read_card(tiny_model), 1).session
    reference = open_session("cpu", tiny_model, read_card(tiny_model), 1).session
    rng = np.random.default_rng(5)
    inner = mnn.MnnSession(mnn._Converted(tiny_model, read_card(tiny_model), "3", print), read_card(tiny_model), 1, "")
    for _ in range(60):
        shape = (int(rng.integers(1, 3)), 1, 16 * int(rng.integers(1, 40)), 16 * int(rng.integers(1, 40)))
        batch = rng.random(shape, np.float32)
        expected = reference.run(batch)
        for one in (session, inner):
            assert np.abs(one.run(batch) - expected).max() < 1e-5
        assert sum(np.prod(shape) for shape, _ in inner._networks) <= max(mnn._KEPT_PX, batch.size)
        assert len(inner._networks) <= 2
    inner.trim()
    assert not inner._networks


def test_the_default_model_within_a_count():
    plane = np.random.default_rng(0).normal(500, 30, (96, 112)).clip(0).astype(np.uint16)
    with Engine.load(backend="mnn") as engine, Engine.load(backend="cpu") as reference:
        assert engine.description.startswith("MNN ")
        assert np.abs(engine(plane).astype(int) - reference(plane)).max() <= 1


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_memory_that_runs_out_is_told_and_survived(tiny_model):
    """Under a limit on its address space; a network of 1.2 GB is refused, and a small one runs after it."""
    code = """
import resource, sys
import numpy as np
from pathlib import Path
from defocus.engine.errors import OutOfMemoryError
from defocus.engine.inference.backends import open_session
from defocus.engine.model.card import model_path, read_card
path = model_path()
session = open_session("mnn", path, read_card(path), 1).session
session.run(np.zeros((1, 1, 64, 64), np.float32))
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)
try:
    session.run(np.zeros((1, 1, 2048, 2048), np.float32))
except OutOfMemoryError as error:
    assert "2048x2048" in str(error), error
else:
    raise SystemExit("no error")
session.run(np.zeros((1, 1, 64, 64), np.float32))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_others_print_meanwhile_is_not_lost(tiny_model, capfd):
    """A thread prints while networks are prepared, which takes MNN's lines out of standard output."""
    session, over = opened(tiny_model), threading.Event()

    def prepare():
        for side in range(16, 16 * 40, 16):
            session.run(np.zeros((1, 1, side, 16), np.float32))
        over.set()

    thread = threading.Thread(target=prepare)
    thread.start()
    count = 0
    while not over.is_set() or count < 1000:
        os.write(1, b"%d\n" % count)
        count += 1
    thread.join()
    assert sorted(int(line) for line in capfd.readouterr().out.split()) == list(range(count))


@pytest.mark.parametrize(("missing", "extra"), [("MNN", "mnn"), ("onnxruntime", "cpu")])
def test_the_remedy_installs_what_is_missing(monkeypatch, missing, extra):
    monkeypatch.setattr(mnn, "is_installed", lambda package: package != missing)
    assert mnn.MNN.unavailable_reason() == f"{missing} is not installed"
    assert f"[{extra}]" in mnn.MNN.remedy()
