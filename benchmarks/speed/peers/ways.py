"""The ways that are compared: what each runs, and in which environment."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.peers import environments
from defocus.engine.model.card import model_path
from defocus.training.fit.checkpoint import load_checkpoint

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
OURS = "defocus-run"  # with the backend that it chooses


@dataclass(frozen=True)
class Way:
    """One way to restore a folder.

    Attributes
    ----------
    command : tuple of str
        `{in}` and `{out}` stand for folders.
    tiled, whole : tuple of str or None
        What is added to cut an image into tiles, and not to. None: it has no tiles.
    unit : bool
        Its outputs are in units of the input's range (1st to 99.9th percentile), not in counts.
    cuts : bool
        Large planes are timed in tiles, as its users would run them; else as the way itself chooses.
    """

    name: str
    command: tuple[str, ...]
    tiled: tuple[str, ...] | None = None
    whole: tuple[str, ...] | None = None
    unit: bool = False
    cuts: bool = False

    def filled(self, source: Path, out: Path, more: tuple[str, ...] = ()) -> list[str]:
        return [part.replace("{in}", str(source)).replace("{out}", str(out)) for part in (*self.command, *more)]


def make_ways(scratch: Path, cache: Path, plane: np.ndarray) -> tuple[list[Way], list[str]]:
    """The ways that can be had here, ours first, and a line for each that cannot.

    `plane` gives CAREamics the minimum and maximum that it would have taken from its training images.
    """
    program, package = scratch / "network.pt2", scratch / "default.zip"
    _export_program(program)
    here = Path(sys.executable).parent
    run, export = str(here / "defocus-run"), str(here / "defocus-export")
    low, high = (str(float(value)) for value in np.percentile(plane, (1, 99.9)))
    tiles, no_tiles = ("--tile", "672"), ("--tile", "4096")
    ways = [
        Way(OURS, (run, "{in}", "-o", "{out}"), tiles, no_tiles),
        Way("defocus-run, ONNX Runtime", (run, "{in}", "-o", "{out}", "--backend", "cpu"), tiles, no_tiles),
        Way("defocus-run, OpenVINO", (run, "{in}", "-o", "{out}", "--backend", "openvino"), tiles, no_tiles),
        Way("a process a file: xargs -P2 defocus-run", ("sh", _path("each.sh"), run, "{in}", "{out}"), tiles, no_tiles),
    ]
    missing = []

    def add(name: str, environment: environments.Environment, *arguments: str, **more) -> None:  # type: ignore[no-untyped-def]
        try:
            python = str(environment.python(cache))
        except RuntimeError as error:
            missing.append(f"{name}: pip could not install it ({error})")
            return
        ways.append(Way(name, (python, *arguments), **more))

    io = ("{in}", "{out}")
    add("tifffile + ONNX Runtime loop", environments.PLAIN, _path("plain.py"), *io, str(model_path()))
    for kind, name in (("eager", "torch, eager"), ("compile", "torch.compile")):
        add(name, environments.TORCH, _path("with_torch.py"), *io, str(program), kind)
    careamics = (_path("with_careamics.py"), *io, str(program), low, high)
    add("careamics, its loop over our network", environments.CAREAMICS, *careamics, tiled=("512",), whole=(), cuts=True)
    made = subprocess.run(
        [export, "default", "--bioimageio", str(package)], capture_output=True, text=True, check=False
    )
    if made.returncode == 0:
        core = (_path("with_bioimageio.py"), *io, str(package))
        add("bioimageio.core", environments.BIOIMAGEIO, *core, tiled=("10",), whole=(), unit=True, cuts=True)
    else:
        missing.append(f"bioimageio.core: the package could not be made ({made.stderr.strip()})")
    return ways, missing


class _Finest(torch.nn.Module):
    """The first of what the network gives: the result at full size."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image)[0]


def _export_program(path: Path) -> None:
    """The default model's weights as a program that torch runs without any code of ours."""
    network, _ = load_checkpoint(ROOT / "docs" / "models" / "default" / "weights.pt")
    sides = {axis: torch.export.Dim(f"side{axis}", min=2) * 16 for axis in (2, 3)}
    with torch.inference_mode():
        exported = torch.export.export(_Finest(network), (torch.rand(1, 1, 64, 96),), dynamic_shapes=(sides,))
    torch.export.save(exported, path)


def _path(name: str) -> str:
    return str(HERE / name)
