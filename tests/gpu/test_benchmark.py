"""benchmarks/gpu/gpu.py is ready for a GPU: what runs without one runs, the rest says why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from defocus.engine.gpu.driver import why_no_gpu

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "gpu.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_processors_rows_and_what_is_missing(tmp_path):
    table = tmp_path / "gpu.md"
    done = run("--cpu", "--sizes", "64x64x1", "--batches", 2, "--repeat", 2, "--weights", "none.pt", "-o", table)
    assert done.returncode == 0, done.stderr
    text = table.read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| ONNX", "| engine"))]
    assert [row[0] for row in rows] == ["| ONNX Runtime CPU FP32", "| engine end to end, auto"]
    assert all(float(row[2]) > 0 and row[1] == "2 x 1 x 64 x 64" for row in rows)
    for missing in (
        "torch: no weights at none.pt",
        "ONNX Runtime CUDA FP32: ",
        "every FP16 row but torch's: no --fp16",
    ):
        assert f"- {missing}" in text


@pytest.mark.skipif(why_no_gpu() is None, reason="a GPU works here")
def test_without_a_gpu_it_says_so():
    done = run()
    assert done.returncode == 1
    assert done.stderr == f"gpu: {why_no_gpu()}; give --cpu to time what runs on the processor\n"
