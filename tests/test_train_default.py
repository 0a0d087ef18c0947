"""The script that trains the default model on a lent GPU, on the processor with tiny numbers: calls that go on."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

pytest.importorskip("torch", reason='needs PyTorch: pip install ".[train]"')
pytest.importorskip("lightning", reason='needs Lightning: pip install ".[train]"')

from defocus.training.fit.checkpoint import load_checkpoint, save_weights
from defocus.training.fit.fit import build_network
from defocus.training.fit.recipe import Recipe
from defocus.training.physics.specimen import draw_cells

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("bbbc006/infocus_w2", "bbbc006/infocus_w1", "dsb2018/520x696", "cellprofiler_gfp")
TINY = {"levels": 1, "crop": 16, "margin": 8, "batch": 2, "steps_per_epoch": 2, "drawn_share": 0.0, "warmup_steps": 1}

pytestmark = pytest.mark.skipif(not all(map(shutil.which, ("bash", "timeout", "xz"))), reason="needs bash and xz")


def test_calls_go_on_where_the_last_stopped(tmp_path):
    rng = np.random.default_rng(0)
    for folder in FOLDERS:
        (tmp_path / "data" / folder).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "data" / folder / "cells.tif", (draw_cells((64, 64), rng) * 900).astype(np.uint16))
    recipe = Recipe(**TINY)  # type: ignore[arg-type]
    (tmp_path / "tiny.toml").write_text("".join(f"{name} = {str(value).lower()}\n" for name, value in TINY.items()))
    save_weights(build_network(recipe), recipe, tmp_path / "start.pt")
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "RECIPE": str(tmp_path / "tiny.toml"),
        "WEIGHTS": "nowhere.pt",
        "WORKERS": "0",
        "PRECISION": "fp32",
        "MINUTES": "5",
        "OMP_NUM_THREADS": "1",
    }

    def call(*arguments: object, steps: int = 1, code: int = 0) -> str:
        command = ["bash", str(ROOT / "benchmarks" / "gpu" / "train_default.sh"), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, env={**environment, "STEPS": str(steps)}, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def steps() -> list[int]:
        with open(tmp_path / "out" / "metrics.csv", newline="") as file:
            return [int(row["step"]) for row in csv.DictReader(file)]

    assert "data.tar.xz" in call("pack", tmp_path / "data")
    # The very first call begins with the weights of the default model; they are looked for before PyTorch is loaded.
    assert "nowhere.pt: no such checkpoint" in call("train", tmp_path / "out", code=1)
    # A fresh machine has the weights that came back from another.
    shutil.copy(tmp_path / "start.pt", tmp_path / "runs" / "gpu-train" / "weights.pt")
    call("train", tmp_path / "out", steps=4)
    assert steps() == [2, 4]
    call("train", tmp_path / "out", steps=6)  # the same machine: its checkpoint is there
    assert steps() == [2, 4, 6]
    network, _ = load_checkpoint(tmp_path / "out" / "weights.pt")
    assert {name: value.shape for name, value in network.state_dict().items()} == {
        name: value.shape for name, value in build_network(recipe).state_dict().items()
    }
    assert "trained:" in (tmp_path / "out" / "train.log").read_text()
