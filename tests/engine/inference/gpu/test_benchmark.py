"""benchmarks/gpu/gpu.py is ready for a GPU: what runs without one runs, the rest says why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from defocus.engine.inference.gpu.driver import why_no_gpu

ROOT = Path(__file__).resolve().parents[4]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu.gpu", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


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
    assert "- ONNX Runtime CPU FP32: ONNX Runtime " in text  # what ran is named, with its version


def test_no_row_begins_after_its_time(tmp_path):
    table = tmp_path / "gpu.md"
    done = run("--cpu", "--sizes", "64x64x1", "--minutes", 0, "--weights", "none.pt", "-o", table)
    assert done.returncode == 0, done.stderr
    text = table.read_text(encoding="utf-8")
    assert "- ONNX Runtime CPU FP32: out of time" in text
    assert "| ONNX" not in text


def test_every_way_of_the_issue_is_there():
    """By name: that they can be made is seen on a GPU only."""
    code = "from pathlib import Path; from benchmarks.gpu.ways import every; "
    code += "print(*(name for name, _ in every(Path('a'), Path('b'), object(), True)), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    names = set(done.stdout.splitlines())
    assert names >= {"torch eager FP32", "torch FP16 channels-last", "torch.compile FP16"}
    assert names >= {f"ONNX Runtime CUDA {kind}{where}" for kind in ("FP32", "FP16") for where in ("", ", on device")}
    assert names >= {f"{title} FP16{how}" for title in ("TensorRT", "TensorRT for RTX") for how in ("", ", counts")}
    assert names >= {f"engine end to end, {name}" for name in ("auto", "cuda", "rtx", "tensorrt")}
    assert done.stdout.splitlines()[-1] == "torch.compile FP16"  # what takes longest to begin comes last


def test_the_way_of_counts_holds_the_device_against_the_host(made, monkeypatch):
    """Over the late driver: equal kernels pass, one that is wrong is found out."""
    from benchmarks.gpu import ways

    way = object.__new__(ways.OfCounts)
    way._session = made.session
    batch = np.random.default_rng(0).random((2, 1, 32, 32), np.float32)
    result = way.ready(batch)
    counts = (batch * 60000).astype(np.uint16)
    assert np.array_equal(result, 2 * (counts.astype(np.float32) / np.float32(60000)) + 1)
    assert way.run(batch).dtype == np.uint16
    monkeypatch.setattr(made.session, "run_uint16", lambda batch, ranges: batch)
    with pytest.raises(RuntimeError, match="differs from the host's in 2048 pixels"):
        way.ready(batch)


@pytest.mark.skipif(why_no_gpu() is None, reason="a GPU works here")
def test_without_a_gpu_it_says_so():
    done = run()
    assert done.returncode == 1
    assert done.stderr == f"gpu: {why_no_gpu()}; give --cpu to time what runs on the processor\n"
