"""The public Python API: what its docstrings show is true, and importing it is quick."""

from __future__ import annotations

import doctest
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import defocus
from defocus.engine import api
from defocus.engine.inference import engine as engine_module
from defocus.engine.inference.cached_engine import CachedEngine


@pytest.mark.parametrize("module", [defocus, engine_module])
def test_docstrings_are_true(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_deblur_keeps_its_engine_and_gives_what_the_engine_gives(tiny_model):
    image = np.random.default_rng(0).integers(100, 4000, (2, 48, 64), dtype=np.uint16)
    first = defocus.deblur(image, "CYX", model=str(tiny_model), backend="cpu")
    with defocus.Engine.load(tiny_model, backend="cpu") as engine:
        np.testing.assert_array_equal(first, engine(image, "CYX"))
        for mapped, plane in zip(engine.map(iter(image)), image, strict=True):
            np.testing.assert_array_equal(mapped, engine(plane))
    assert first.dtype == image.dtype


def test_deblur_closes_the_engine_that_it_replaces_once_nobody_uses_it(tiny_model, monkeypatch):
    """Threads that take turns with two models: no engine is closed under another's feet, and one is open at most."""
    now, most, load, close = [], [], defocus.Engine.load, defocus.Engine.close

    def opened(*given):
        now.append(load(*given))
        most.append(len(now))
        return now[-1]

    def closed(engine):
        now.remove(engine)
        close(engine)

    monkeypatch.setattr(api, "_ENGINE", CachedEngine[tuple[str, str]](lambda what: opened(*what)))
    monkeypatch.setattr(defocus.Engine, "close", closed)
    image = np.random.default_rng(0).integers(100, 4000, (48, 64), dtype=np.uint16)
    models = [str(tiny_model), f"{tiny_model.parent}/./{tiny_model.name}"]

    def work(number: int) -> np.ndarray:
        return defocus.deblur(image, model=models[number % 2], backend="cpu")

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(12)))
    assert all(np.array_equal(one, results[0]) for one in results)
    assert set(most) == {1}
    assert len(most) > 1
    close(now[0])


def test_of_an_engine_that_cannot_be_loaded_nothing_is_kept(tiny_model):
    image = np.full((40, 40), 7, np.uint8)
    for _ in range(2):
        with pytest.raises(defocus.ModelError, match="no such model file"):
            defocus.deblur(image, model="none.onnx")
    assert defocus.deblur(image, model=str(tiny_model), backend="cpu").shape == (40, 40)


def test_map_is_lazy_and_names_the_image_that_is_bad(tiny_model):
    taken = []

    def images():
        for number in range(3):
            taken.append(number)
            yield np.full((32, 32), np.nan) if number == 1 else np.eye(32)

    with defocus.Engine.load(tiny_model, backend="cpu") as engine:
        stream = engine.map(images())
        next(stream)
        assert taken == [0]
        with pytest.raises(defocus.InputError, match="image 1"):
            next(stream)


@pytest.mark.parametrize("module", ["engine.cli.run", "watcher.cli", "engine.cli.doctor", "export.cli"])
def test_importing_a_command_line_is_quick_and_light(module):
    """Under 0.3 s on an idle machine: what it must not load says the same without a clock."""
    heavy = "{'numpy', 'torch', 'onnxruntime', 'openvino', 'tifffile', 'onnx', 'tensorrt_rtx'}"
    code = f"import sys, defocus.{module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
