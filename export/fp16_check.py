"""The gate of half precision: FP16 against FP32 on planes of every kind; below 60 dB an FP16 file is refused.

What is compared is what a user would get: counts of a 16-bit camera, before rounding. The PSNR is over the plane's own
range (between its percentiles, before or after restoration), so a dim plane is judged as strictly as a bright one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.errors import ModelError
from ..engine.image.normalization import Intensity, clip_with_remainder, measure, to_unit
from ..engine.model.card import Card
from ..training.data.fields import list_images, load_field
from ..training.evaluation.heldout import CAMERA, counts_pair
from ..training.evaluation.suite import drawn_fields

LEAST_DB = 60.0
CROP = 256  # px; every plane is cut to it, so that a bisection takes seconds
Run = Callable[[np.ndarray], np.ndarray]  # float32 (N, C, H, W) in unit range -> the same


@dataclass(frozen=True)
class Sample:
    """The middle of a plane as the network gets it: float32 (1, C, Y, X) in unit range, with the plane's intensity."""

    name: str
    batch: np.ndarray
    intensity: Intensity


@dataclass(frozen=True)
class Verdict:
    """One plane through both: PSNR in dB, the largest difference in counts, and whether all values are finite."""

    name: str
    shape: tuple[int, int]
    psnr: float
    worst: float
    finite: bool

    @property
    def passes(self) -> bool:
        return self.finite and self.psnr >= LEAST_DB

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        result = f"{self.psnr:6.1f} dB  {self.worst:8.2f} counts" if self.finite else "not a number or infinite"
        return f"{result}  {size:>9}  {self.name}"


def planes(images: Path | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Names and planes, uint16 (Y, X), for the gate: drawn ones of every kind, then those of the folder `images`.

    Raises
    ------
    InputError
        `images` is missing or holds no image.
    """
    cells, fine = drawn_fields(2)
    near, far = (counts_pair(cells, z)[0] for z in (10, 34))
    yield "10 um out of focus", near
    yield "34 um out of focus", far
    yield "another field, 16 um", counts_pair(fine, 16)[0]
    light = near.astype(np.float32) - CAMERA.offset
    rng = np.random.default_rng(0)
    yield "dim: 3 % of the light", CAMERA.expose(np.clip(light, 0, None).astype(np.float64) * 0.03, rng)
    yield "bright: up to 65535 counts", np.rint(light.clip(0) * (65000 / light.max()) + CAMERA.offset).astype(np.uint16)
    yield "saturated: a tenth of the pixels", np.minimum(near, np.percentile(near, 90)).astype(np.uint16)
    empty = CAMERA.expose(np.zeros(near.shape), rng)
    yield "empty: noise of the camera", empty
    hot = empty.copy()
    hot[hot.shape[0] // 2, hot.shape[1] // 2] = 65535
    yield "empty with a hot pixel of 65535", hot
    if images is not None:
        for path in list_images(images):
            data = load_field(path).data
            yield f"real {path.name[:40]}", np.clip(np.rint(data), 0, 65535).astype(np.uint16)


def samples(chosen: Iterable[tuple[str, np.ndarray]], card: Card) -> Iterator[Sample]:
    """The planes that say anything, measured: the engine gives one that is flat back without the network."""
    for name, plane in chosen:
        plane = _middle(plane, card.multiple)
        intensity = measure(plane, card.intensity)
        if not intensity.flat:
            unit, _ = clip_with_remainder(to_unit(plane, intensity))
            yield Sample(name, np.repeat(unit[None, None], card.channels, axis=1), intensity)


def compare(exact: Run, half: Run, card: Card, chosen: Iterable[Sample]) -> Iterator[Verdict]:
    """Run samples through both; one verdict each, as it is made."""
    for sample in chosen:
        scale = sample.intensity.scale
        expected = exact(sample.batch).astype(np.float64) * scale
        with np.errstate(invalid="ignore", over="ignore"):
            restored = half(sample.batch).astype(np.float64) * scale
            difference = np.abs(restored - expected)
        finite = bool(np.isfinite(restored).all())
        error = float(np.sqrt(np.mean(difference**2))) if finite else np.inf
        span = max(scale, measure(expected, card.intensity).scale)
        psnr = 20 * np.log10(span / error) if 0 < error < np.inf else (np.inf if finite else -np.inf)
        shape = (sample.batch.shape[2], sample.batch.shape[3])
        yield Verdict(sample.name, shape, float(psnr), float(difference.max()) if finite else np.inf, finite)


def refuse_imprecise(path: Path, verdicts: Sequence[Verdict], culprits: Sequence[str] = ()) -> None:
    """Raise ModelError unless every plane passes; `culprits` are the layers to keep in FP32, named as the remedy."""
    worst = min(verdicts, key=lambda verdict: verdict.psnr if verdict.finite else -np.inf)
    if worst.passes:
        return
    shortfall = f"reaches only {worst.psnr:.1f} dB" if worst.finite else "gives values that are no numbers"
    cause = f'half precision {shortfall} on "{worst.name}", {LEAST_DB:g} dB is the least'
    keep = " ".join(f"--keep-fp32 {name}" for name in culprits)
    raise ModelError(path, cause, f"export with {keep}" if keep else "use the FP32 model")


def culprits(layers: Sequence[str], passes: Callable[[Sequence[str]], bool]) -> tuple[str, ...]:
    """A smallest set of layers (none of it can be left out) that must stay in FP32 for the gate to pass.

    Bisection by QuickXplain (U. Junker, AAAI 2004, 167): a few tests for each layer found, however many there are.
    `passes(kept)` says whether the graph with those layers in FP32 passes. Empty if not even all of them suffice.
    """
    if passes(()) or not passes(layers):
        return ()

    def explain(known: tuple[str, ...], added: bool, suspects: tuple[str, ...]) -> tuple[str, ...]:
        if added and passes(known):
            return ()
        if len(suspects) == 1:
            return suspects
        first, second = suspects[: len(suspects) // 2], suspects[len(suspects) // 2 :]
        of_second = explain(known + first, True, second)
        of_first = explain(known + of_second, bool(of_second), first)
        return of_first + of_second

    return explain((), False, tuple(layers))


def on_cpu(model: Any) -> Run:
    """A graph (onnx.ModelProto) in ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: np.asarray(session.run(None, {name: batch})[0])


def _middle(plane: np.ndarray, multiple: int) -> np.ndarray:
    """The middle of a plane, `CROP` px at most, sides cut to the multiple (reflected to one where they are smaller)."""
    parts = [min(CROP, side) // multiple * multiple or multiple for side in plane.shape]
    grown = np.pad(
        plane, [(0, max(0, part - side)) for side, part in zip(plane.shape, parts, strict=True)], "symmetric"
    )
    starts = [(side - part) // 2 for side, part in zip(grown.shape, parts, strict=True)]
    return grown[starts[0] : starts[0] + parts[0], starts[1] : starts[1] + parts[1]]
