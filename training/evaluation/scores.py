"""Scores of methods on a suite: one row for each method, field and distance."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from ...engine.errors import InputError
from .methods import Method
from .metrics import psnr, ssim
from .suite import Case, Suite

INPUT = "input"


@dataclass(frozen=True)
class Score:
    """PSNR (dB) and SSIM of one restored plane against its truth (means over channels, see `metrics`)."""

    method: str
    field: str
    z_um: float
    psnr: float
    ssim: float


def score(name: str, case: Case, image: np.ndarray) -> Score:
    """Score an image (C, Y, X) of a case."""
    pairs = list(zip(case.sharp, image, strict=True))
    figures = (float(np.mean([metric(truth, plane) for truth, plane in pairs])) for metric in (psnr, ssim))
    return Score(name, case.name, case.z_um, *figures)


def evaluate(
    suite: Suite, methods: Iterable[Method], tell: Callable[[str], None] = lambda line: None
) -> Iterator[Score]:
    """Scores of the input and of every method on every case, in order."""
    for case in suite.cases:
        yield score(INPUT, case, case.seen)
    for method in methods:
        tell(f"{method.title}: {len(suite.cases)} planes")
        for case in suite.cases:
            yield score(method.name, case, method.restore(case))


def mean_by_distance(scores: Sequence[Score], method: str, metric: str) -> dict[float, float]:
    """Mean of `psnr` or `ssim` over the fields, for each distance."""
    values: dict[float, list[float]] = {}
    for row in scores:
        if row.method == method:
            values.setdefault(row.z_um, []).append(getattr(row, metric))
    return {z: float(np.mean(found)) for z, found in sorted(values.items())}


def methods_in(scores: Sequence[Score]) -> tuple[str, ...]:
    """Names of the methods, in order."""
    return tuple(dict.fromkeys(row.method for row in scores))


def save(scores: Sequence[Score], path: Path) -> None:
    """Write scores as CSV, a row each."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Score))
        for row in scores:
            writer.writerow((*astuple(row)[:3], f"{row.psnr:.4f}", f"{row.ssim:.5f}"))


def load(path: Path) -> list[Score]:
    """Read what `save` wrote. Raises InputError."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [
                Score(row["method"], row["field"], int(row["z_um"]), float(row["psnr"]), float(row["ssim"]))
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(path, f"cannot be read as scores ({error})", "run defocus-evaluate again") from error
