"""The benchmarks run, and what they compare is comparable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report import BARS, Bar, table
from defocus.engine.model.card import model_path

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("bar", "verdict"),
    [
        (Bar("time", 1.1, 1.2, "s"), "**missed**"),
        (Bar("time", 1.1, 1.1, "s"), "met"),
        (Bar("rate", 0.9, 0.89, at_least=True), "**missed**"),
        (Bar("rate", 0.9, 0.95, at_least=True), "met"),
    ],
)
def test_a_bar_says_whether_it_is_met(bar, verdict):
    assert bar.cells()[-1] == verdict
    assert len(bar.cells()) == len(BARS)
    assert table(BARS, [bar.cells()]).count("\n") == 2


@pytest.mark.parametrize("change", ["with_batchnorm", "without_transposed"])
def test_a_changed_graph_computes_the_same(change):
    onnx = pytest.importorskip("onnx", reason='needs onnx: pip install ".[train]"')
    from benchmarks.speed import graph_variants
    from defocus.export.fp16_check import on_cpu

    graph = onnx.load(str(model_path()))
    changed = getattr(graph_variants, change)(graph)
    assert {node.op_type for node in changed.graph.node} != {node.op_type for node in graph.graph.node}
    batch = np.random.default_rng(0).uniform(0, 1, (1, 1, 64, 96)).astype(np.float32)
    np.testing.assert_allclose(on_cpu(changed)(batch), on_cpu(graph)(batch), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "speed.stages -n 4 --repetitions 1",
        "speed.stream --files 4",
        "speed.latency --files 4",
        "speed.page --rows 2000 --repetitions 4",
        "speed.priority --seconds 0.5 --repetitions 1",
        "speed.start --repetitions 1 --backend cpu",
        "speed.stack -n 3 --size 128 96 --repetitions 1",
        "speed.memory --files 1 --side 3000 --backend cpu",
        "speed.dask_scaling -n 2 --tasks 200",
        "speed.tiff_io --commit . -n 1 --planes 3 --repetitions 1",
        "speed.trace --commit . --repetitions 1",
        "speed.graph --repetitions 1 --side 64 64 --only planes",
    ],
)
def test_a_benchmark_writes_its_page(line, tmp_path):
    page = tmp_path / "page.md"
    command = [sys.executable, "-m", *f"benchmarks.{line}".split(), "-o", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert f"    python -m benchmarks.{line}" in text
    assert "cores, " in text
    assert "| --- |" in text
