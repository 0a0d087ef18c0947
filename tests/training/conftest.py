"""What the tests of training share: drawn fields, a recipe that two cores run in a second, and the command itself."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile

TINY = {
    "levels": 2,
    "crop": 32,
    "margin": 16,
    "batch": 2,
    "steps": 12,
    "steps_per_epoch": 4,
    "warmup_steps": 2,
    "ema_decay": 0.5,
    "ema_from_step": 0,
    "drawn_share": 0.0,
    "distance": "l1",
}


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def sharp(tmp_path_factory) -> Path:
    """A folder of four drawn fields, field0_x.tif and on."""
    from defocus.training.physics.specimen import draw_cells

    folder = tmp_path_factory.mktemp("sharp")
    rng = np.random.default_rng(0)
    for index in range(4):
        tifffile.imwrite(folder / f"field{index}_x.tif", (draw_cells((96, 96), rng) * 1000).astype(np.uint16))
    return folder


@pytest.fixture
def recipe_file(tmp_path) -> Callable[..., Path]:
    """A function that writes the tiny recipe with changes to a file."""

    def write(**changes: object) -> Path:
        path = tmp_path / f"recipe{len(list(tmp_path.glob('recipe*.toml')))}.toml"
        values = {**TINY, **changes}
        path.write_text("".join(f"{name} = {toml(value)}\n" for name, value in values.items()))
        return path

    return write


def toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


@pytest.fixture
def train(monkeypatch, capfd) -> Callable[..., Done]:
    """defocus-train in this process, through its `main`: importing torch takes longer than a tiny run."""
    pytest.importorskip("lightning", reason='needs Lightning: pip install ".[train]"')
    from defocus.training.cli import train as cli

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["defocus-train", "--no-progress", "--workers", "0", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        return Done(int(leaving.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """defocus-train as a process of its own, with one thread."""

    def run(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "defocus.training.cli.train", "--no-progress", "--workers", "0"]
        return subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return run


@pytest.fixture
def history() -> Callable[[Path], list[dict[str, float]]]:
    """Read metrics.csv of a run: a row an epoch, what an epoch did not measure left out."""

    def read(out: Path) -> list[dict[str, float]]:
        with open(out / "metrics.csv", newline="") as file:
            return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]

    return read
