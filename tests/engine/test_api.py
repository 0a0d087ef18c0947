"""The public Python API: what its docstrings show is true, and importing it is quick."""

from __future__ import annotations

import doctest
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

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
    first = defocus.deblur(image, "CYX", model=str(tiny_model), backend="cpu", all_planes=True)
    with defocus.Engine.load(tiny_model, backend="cpu") as engine:
        np.testing.assert_array_equal(first, engine(image, "CYX"))
        for mapped, plane in zip(engine.map(iter(image)), image, strict=True):
            np.testing.assert_array_equal(mapped, engine(plane))
    assert first.dtype == image.dtype


def test_deblur_closes_the_engine_that_it_replaces_once_nobody_uses_it(tiny_model, monkeypatch):
    """Threads that take turns with two models: no engine is closed under another's feet, and one is open at most."""
    now, most, load, close = [], [], defocus.Engine.load, defocus.Engine.close

    def opened(model, backend):
        now.append(load(model, backend=backend))
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.fixture
def stack() -> np.ndarray:
    """Three planes: noise, nothing at all, and blobs (Z, Y, X)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :80]
    blobs = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 18) for a, b in rng.uniform(8, 60, (12, 2)))
    planes = [rng.normal(500, 20, (64, 80)), np.full((64, 80), 300.0), 200 + 3000 * np.asarray(blobs)]
    return np.stack(planes).round().astype(np.uint16)


def test_deblur_keeps_and_reports_planes_as_the_commands_do(stack, tiny_model, tmp_path):
    path, out = tmp_path / "raw" / "a.tif", tmp_path / "out"
    path.parent.mkdir()
    tifffile.imwrite(path, stack, photometric="minisblack", metadata={"axes": "ZYX"})
    for all_planes in (False, True):
        line = [Path(sys.executable).with_name("defocus-run"), path, "-o", out, "--model", tiny_model]
        line += ["--backend", "cpu", "--overwrite", *["--all-planes"] * all_planes]
        subprocess.run(line, check=True, capture_output=True, timeout=300)
        options = {"model": str(tiny_model), "backend": "cpu", "all_planes": all_planes}
        restored, reports = defocus.deblur(stack, "ZYX", report=True, **options)
        np.testing.assert_array_equal(restored, tifffile.imread(out / "a.tif"))
        np.testing.assert_array_equal(restored, defocus.deblur(stack, **options))
        record = defocus.read_provenance(out / "a.tif")
        assert record is not None
        assert [report.as_dict() for report in reports] == record["planes"]
        assert reports[1].copied
        assert any(not report.copied for report in reports) or not all_planes
    assert defocus.read_provenance(path) is None


def test_assess_reports_on_what_anything_restored(stack, tiny_model):
    restored, reports = defocus.deblur(stack, model=str(tiny_model), backend="cpu", all_planes=True, report=True)
    assert isinstance(reports[0], defocus.PlaneReport)
    assert defocus.assess(stack, restored) == defocus.assess(stack, restored, "zyx") == reports


@pytest.mark.parametrize(
    ("before", "after", "axes", "says"),
    [
        (np.zeros((8, 9), "u2"), np.zeros((9, 8), "u2"), None, r"before: has shape \(8, 9\)"),
        (np.zeros((8, 9), "u2"), np.zeros((8, 9), "f4"), None, "uint16, after .* float32"),
        (np.zeros((8, 9), "c8"), np.zeros((8, 9), "c8"), None, "has dtype complex64"),
        (np.zeros((8, 9)), np.full((8, 9), np.nan), None, "after: has NaN"),
        (np.zeros((8, 9)), np.zeros((8, 9)), "ZYX", "axes ZYX name 3 of 2"),
    ],
)
def test_assess_says_what_it_cannot_take(before, after, axes, says):
    with pytest.raises(defocus.InputError, match=says):
        defocus.assess(before, after, axes)


def test_options_of_load_are_named(tiny_model):
    with pytest.raises(TypeError, match="positional"):
        defocus.Engine.load(tiny_model, "cpu")  # pyright: ignore[reportCallIssue]
