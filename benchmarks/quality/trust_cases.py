"""What `trust.py` judges: held-out fields at every distance and light, their outputs, and outputs spoilt on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from defocus import Engine
from defocus.engine.quality.assess import assess
from defocus.engine.quality.report import PlaneReport
from defocus.training.data.fields import Field, load_field, name_hash
from defocus.training.evaluation.heldout import CAMERA, OPTICS, counts_pair
from defocus.training.physics.optics import defocus
from defocus.training.physics.specimen import draw_cells, smooth_noise

RESTORED_UM = (0, 4, 8, 12, 20, 28, 34)
LIGHT = (1.0, 0.05)  # of the 1500 counts at the peak: 75 counts are 225 photons
PATCH, PATCHES = 48, 3  # px: about a cell; places of an output that are corrupted

Corruption = Callable[[np.ndarray, np.random.Generator, np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Case:
    """A plane, its output and what the engine says of them; `kind` is "intact" or what was done to the output."""

    kind: str
    field: str
    z_um: float
    light: float
    report: PlaneReport


def expose(field: Field, z_um: float, light: float) -> np.ndarray:
    """The field `z_um` out of focus, uint16 (Y, X) counts."""
    rng = np.random.default_rng(name_hash(f"{field.path.name} {z_um} {light} trust"))
    return CAMERA.expose(defocus(_counts(field.path) * light, OPTICS, z_um), rng)


@lru_cache(maxsize=64)
def _counts(path: Path) -> np.ndarray:
    return counts_pair(load_field(path), 0)[1] - CAMERA.offset


def moved(output: np.ndarray, rng: np.random.Generator, other: np.ndarray, z_um: float) -> np.ndarray:
    """Three patches with structure pasted 12 to 24 px from where they belong."""
    result, blend = output.copy(), _taper()
    for y, x in _places(output, rng):
        shift = rng.choice((-1, 1), 2) * rng.integers(12, 24, 2)
        to_y, to_x = np.clip(np.add(shift, (y, x)), 0, np.subtract(output.shape, PATCH))
        target = result[to_y : to_y + PATCH, to_x : to_x + PATCH]
        target += blend * (output[y : y + PATCH, x : x + PATCH] - target)
    return result


def erased(output: np.ndarray, rng: np.random.Generator, other: np.ndarray, z_um: float) -> np.ndarray:
    """Three patches with structure replaced by their background."""
    result, blend = output.copy(), _taper()
    for y, x in _places(output, rng):
        target = result[y : y + PATCH, x : x + PATCH]
        target += blend * (np.percentile(target, 15) - target)
    return result


def added(output: np.ndarray, rng: np.random.Generator, other: np.ndarray, z_um: float) -> np.ndarray:
    """Three blobs of 9 px radius, 0.6 times as bright as the field's bright structures, anywhere."""
    result = output.copy()
    height = 0.6 * float(np.percentile(output, 97) - np.percentile(output, 20))
    y, x = np.mgrid[: output.shape[0], : output.shape[1]]
    for _ in range(PATCHES):
        centre = rng.uniform(20, np.array(output.shape) - 20)
        away = np.hypot(y - centre[0], x - centre[1])
        result += height / (1 + np.exp(np.clip(away - 9, -50, 50)))
    return result


def mixed(output: np.ndarray, rng: np.random.Generator, other: np.ndarray, z_um: float) -> np.ndarray:
    """30 % of another field's output."""
    return 0.7 * output + 0.3 * other


def texture(output: np.ndarray, rng: np.random.Generator, other: np.ndarray, z_um: float) -> np.ndarray:
    """Random texture as coarse as the blur disk, a quarter of the output's contrast: in the band the input can show."""
    grain = max(2.0, 0.35 * OPTICS.disk_radius_um(z_um) / OPTICS.pixel_um)
    noise = smooth_noise(output.shape, grain, rng) - smooth_noise(output.shape, 2 * grain, rng)
    return output + (0.25 * output.std() / noise.std()) * noise


CORRUPTIONS: tuple[Corruption, ...] = (moved, erased, added, mixed, texture)


def restored(fields: Sequence[Field], engine: Engine) -> Iterator[Case]:
    """Intact outputs at every distance and light, and corrupted ones of those at full light."""
    rng = np.random.default_rng(0)
    for light in LIGHT:
        for z in RESTORED_UM:
            pairs = [(field.path.name, seen, engine(seen)) for field in fields for seen in [expose(field, z, light)]]
            for number, (name, seen, output) in enumerate(pairs):
                yield Case("intact", name, z, light, report(seen, output))
                if light != LIGHT[0]:
                    continue
                others = [one for _, _, one in pairs[number + 1 :] + pairs[:number] if one.shape == output.shape]
                for corrupt in CORRUPTIONS:
                    if others or corrupt is not mixed:
                        wrong = corrupt(output.astype(np.float32), rng, others[0] if others else output, z)
                        yield Case(corrupt.__name__, name, z, light, report(seen, wrong))


def halves(fields: Sequence[Field], engine: Engine) -> Iterator[Case]:
    """Planes whose right half is out of focus, as on a tilted slide."""
    for field in fields:
        seen, far = expose(field, 0, LIGHT[0]), expose(field, 12, LIGHT[0])
        middle = seen.shape[1] // 2
        seen[:, middle:] = far[:, middle:]
        yield Case("half", field.path.name, 12, LIGHT[0], report(seen, engine(seen)))


def strangers(engine: Engine, shape: tuple[int, int], count: int = 12) -> Iterator[Case]:
    """Inputs that are no fluorescence planes: drawn brightfield, sharp and defocused, and noise without a specimen."""
    rng = np.random.default_rng(1)
    for number in range(count):
        cells = draw_cells(shape, rng)
        edges = sum(np.gradient(cells))  # bright on one side, dark on the other
        plane = 3000 * (1 + 0.05 * smooth_noise(shape, 60, rng)) * (1 - 0.06 * cells + 0.25 * edges)
        z = (0, 10, 20)[number % 3]
        seen = CAMERA.expose(defocus(plane, OPTICS, z), rng)
        yield Case("brightfield", "", z, 1.0, report(seen, engine(seen)))
        seen = CAMERA.expose(np.full(shape, (5.0, 100.0, 2000.0)[number % 3]), rng)
        yield Case("noise", "", 0, 1.0, report(seen, engine(seen)))


def report(seen: np.ndarray, output: np.ndarray) -> PlaneReport:
    return assess(seen, output, "YX")[0]


def _taper() -> np.ndarray:
    ramp = np.minimum(1, np.minimum(np.arange(PATCH), np.arange(PATCH)[::-1]) / 6)
    return (ramp[:, None] * ramp).astype(np.float32)


def _places(output: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Corners of patches, each that with most contrast of twelve."""
    for _ in range(PATCHES):
        tries = rng.integers(0, np.array(output.shape) - PATCH, (12, 2))
        y, x = max(tries, key=lambda at: float(output[at[0] : at[0] + PATCH, at[1] : at[1] + PATCH].std()))
        yield int(y), int(x)
