"""What every benchmark shares: the images it draws, the line that names the machine, the table and where it goes."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import tifffile

from defocus import Engine, __version__

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (520, 696)  # a field of BBBC006
_WIDTHS = (("avx512f", "AVX-512"), ("avx512_bf16", "AVX-512 bf16"), ("avx512_vnni", "VNNI"), ("amx_tile", "AMX"))


@dataclass(frozen=True)
class Bar:
    """One promise of speed and what was found.

    Attributes
    ----------
    what : str
        In a few words.
    bar, found : float
        What it should be and what it is, in `unit`.
    at_least : bool
        Whether more is better.
    spread : str
        Of repetitions, if any.
    """

    what: str
    bar: float
    found: float
    unit: str = ""
    at_least: bool = False
    spread: str = ""

    @property
    def met(self) -> bool:
        return self.found >= self.bar if self.at_least else self.found <= self.bar

    def cells(self) -> list[str]:
        """The row of a table that `BARS` heads."""
        sign, unit = "at least" if self.at_least else "at most", f" {self.unit}" if self.unit else ""
        verdict = "met" if self.met else "**missed**"
        return [self.what, f"{sign} {self.bar:g}{unit}", f"{self.found:.2f}{unit}", self.spread, verdict]


BARS = ("what", "target", "measured", "spread", "")


def machine() -> str:
    """Processor, cores, system, Python, version, day: one line."""
    name, flags = platform.processor() or platform.machine(), set()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    except OSError:
        pass
    has = [word for flag, word in _WIDTHS if flag in flags] or (["AVX2, no AVX-512"] if "avx2" in flags else [])
    kind = f" ({', '.join(has)})" if has else ""
    day = datetime.now(UTC).date().isoformat()
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    python = f"Python {platform.python_version()}"
    return f"{name}{kind}, {os.cpu_count()} cores, {system}, {python}, defocus {__version__}, {day}"


def made_with(engine: Engine) -> str:
    """Which model and runtime made a table, without a full stop. tests/test_docs.py compares the hash with the shipped
    model's: a page of another model has to be made anew."""
    model = engine.card
    system = f"{platform.system()} {platform.machine()}"
    told = f"Model {model.name}, {model.date}, sha256 {model.sha256[:16]}; defocus {__version__} on {system}"
    return f"{told}, {engine.description}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(head), " | ".join(["---"] * len(head)), *(" | ".join(map(str, row)) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def publish(title: str, parts: Iterable[str], output: Path | None) -> None:
    """Print a result and, if asked, write it as a page: title, the command that was given, the machine, the parts."""
    module = ".".join(Path(sys.argv[0]).resolve().relative_to(ROOT).with_suffix("").parts)
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    text = "\n\n".join([f"# {title}", f"    {command}", f"{machine()}.", *parts]) + "\n"
    print(text)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")


def spread(values: Sequence[float]) -> str:
    """The least and the most."""
    return f"{min(values):.2f} to {max(values):.2f}"


def draw_plane(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A specimen of our own drawing, 22 um out of focus, uint16; mirrored where it is smaller than `shape`."""
    from defocus.training.evaluation.heldout import counts_pair
    from defocus.training.evaluation.suite import drawn_fields

    plane = counts_pair(drawn_fields(1)[0], 22)[0]
    missing = [(0, max(0, want - have)) for want, have in zip(shape, plane.shape, strict=True)]
    return np.pad(plane, missing, "symmetric")[: shape[0], : shape[1]]


def write_files(folder: Path, count: int, shape: tuple[int, int] = SHAPE, ome: bool = False) -> list[Path]:
    """Drawn planes out of focus (16-bit, LZW), each another part of one specimen; with `ome`, an OME description."""
    folder.mkdir(parents=True, exist_ok=True)
    plane = draw_plane(shape)
    metadata = {"axes": "YX", "PhysicalSizeX": 0.645, "PhysicalSizeY": 0.645} if ome else None
    paths = []
    for index in range(count):
        paths.append(folder / f"{index:04d}{'.ome' if ome else ''}.tif")
        tifffile.imwrite(paths[-1], np.roll(plane, 7 * index, 1), compression="lzw", metadata=metadata)
    return paths
