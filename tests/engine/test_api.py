"""The public Python API: what its docstrings show is true, and importing it is quick."""

from __future__ import annotations

import doctest
import subprocess
import sys

import numpy as np
import pytest

import defocus
from defocus.engine import engine as engine_module


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


@pytest.mark.parametrize("module", ["engine.cli", "watcher.cli", "engine.doctor_cli", "export.cli"])
def test_importing_a_command_line_is_quick_and_light(module):
    """Under 0.3 s on an idle machine: what it must not load says the same without a clock."""
    heavy = "{'numpy', 'torch', 'onnxruntime', 'openvino', 'tifffile', 'onnx', 'tensorrt_rtx'}"
    code = f"import sys, defocus.{module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
