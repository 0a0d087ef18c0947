"""The frozen suite: sharp fields and what a drifting microscope records of them, the same planes on every machine.

A suite is a folder with `suite.json` (how it was made, and the SHA-256 of the pixels of every plane and of all of
them), `sharp/NAME.tif` (float32, the truth in camera counts) and `z00/NAME.tif` .. `z34/NAME.tif` (uint16, recorded
that many um out of focus). Optics, camera and seeds are those of `heldout`; the aberrated twin of a suite has the same
fields, camera and seeds, seen through one of the pupils of `heldout.TWINS`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from ...engine.errors import InputError
from ...engine.tiff.read import read_tiff
from ..data.fields import Field, name_hash
from ..physics.optics import Optics
from ..physics.specimen import draw_cells, draw_filaments
from .heldout import CAMERA, DISTANCES_UM, OPTICS, PEAK_COUNTS, counts_pair

INDEX = "suite.json"
FORMAT = 1
DRAWN_SHAPE = (260, 348)


@dataclass(frozen=True)
class Case:
    """One plane to restore: uint16 `seen` and float32 `sharp`, (C, Y, X) in camera counts, `z_um` out of focus."""

    name: str
    z_um: float
    seen: np.ndarray
    sharp: np.ndarray


@dataclass(frozen=True)
class Suite:
    """The cases of a suite (by field, then distance), with a title for tables and the checksum of all pixels."""

    title: str
    cases: tuple[Case, ...]
    checksum: str

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(case.name for case in self.cases))

    @property
    def distances(self) -> tuple[float, ...]:
        return tuple(sorted({case.z_um for case in self.cases}))


def make_cases(
    fields: Iterable[Field],
    distances: Sequence[float] = DISTANCES_UM,
    crop: tuple[int, ...] | None = None,
    optics: Optics = OPTICS,
) -> Iterator[Case]:
    """Defocus sharp fields to every distance.

    With `crop` (Y, X) only the middle of each is kept, cut after the defocus so that light comes in from outside.
    """
    for field in fields:
        cut = tuple(
            slice((side - part) // 2, (side - part) // 2 + part) if part < side else slice(None)
            for side, part in zip(field.data.shape, crop or field.data.shape, strict=True)
        )
        for z in distances:
            seen, sharp = counts_pair(field, z, optics)
            yield Case(field.path.stem, z, seen[cut][None], sharp[cut][None])


def make(title: str, cases: Iterable[Case]) -> Suite:
    """A suite in memory, with its checksum."""
    made = tuple(cases)
    return Suite(title, made, checksum([digest for case in made for digest in digests(case)]))


def save(suite: Suite, folder: Path, optics: Optics = OPTICS) -> None:
    """Write a suite, made with these optics, into a new folder. Raises InputError if a suite lies there already."""
    folder = Path(folder)
    if (folder / INDEX).exists():
        raise InputError(folder, "already holds a suite", "choose another folder or delete this one")
    planes = {}
    for case in suite.cases:
        for path, data in zip(_paths(case), (case.seen, case.sharp), strict=True):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / path, np.squeeze(data), compression="zlib", photometric="minisblack")
            planes[path] = pixels_hash(data)
    index = {
        "format": FORMAT,
        "title": suite.title,
        "optics": {
            "na": optics.na,
            "wavelength_um": optics.wavelength_um,
            "pixel_um": optics.pixel_um,
            "spherical_waves": optics.aberrations.spherical,
        },
        "camera": {**dataclasses.asdict(CAMERA), "peak_counts": PEAK_COUNTS},
        "cases": [[case.name, case.z_um] for case in suite.cases],
        "planes": planes,
        "checksum": suite.checksum,
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")


def load(folder: Path) -> Suite:
    """Read a suite and verify every pixel. Raises InputError if it is missing, not one, incomplete or changed."""
    if not Path(folder).is_dir():
        remedy = "give the folder of a suite (docs/guides/data.md says how to build one), or none for drawn specimens"
        raise InputError(folder, "no such folder", remedy)
    index = Path(folder) / INDEX
    try:
        record = json.loads(index.read_text(encoding="utf-8"))
        title, names, planes, total = (record[key] for key in ("title", "cases", "planes", "checksum"))
        cases = []
        for name, z in names:
            empty = Case(name, int(z), np.empty(0), np.empty(0))
            seen, sharp = (_read(Path(folder) / path, planes[path]) for path in _paths(empty))
            cases.append(dataclasses.replace(empty, seen=seen, sharp=sharp))
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = f"cannot be read as a suite ({type(error).__name__}: {error})"
        raise InputError(index, cause, "build one with benchmarks/quality/defocus_suite.py") from error
    suite = make(title, cases)
    if suite.checksum != total:
        raise InputError(index, "does not list the planes that its checksum was taken of", "build the suite again")
    return suite


def drawn_fields(count: int = 2) -> list[Field]:
    """Fields of our own drawing, for figures that may be shown anywhere: cells over filaments."""
    fields = []
    for i in range(count):
        name = f"drawn_{i + 1}"
        rng = np.random.default_rng(name_hash(name))
        cells = draw_cells(DRAWN_SHAPE, rng, 30, 13.0)
        drawn = cells + 0.3 * draw_filaments(DRAWN_SHAPE, rng, 12)
        # Whole counts: the last bits of a math library must not reach the checksum.
        fields.append(Field(Path(f"{name}.tif"), np.rint(1000 * drawn).astype(np.float32)))
    return fields


def digests(case: Case) -> Iterator[str]:
    """Hashes that name a case and its pixels."""
    yield f"{case.name} {case.z_um}"
    yield pixels_hash(case.seen)
    yield pixels_hash(case.sharp)


def checksum(parts: Sequence[str]) -> str:
    """SHA-256 of lines of text."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def pixels_hash(data: np.ndarray) -> str:
    """SHA-256 of shape, type and little-endian pixels: what is in the plane, not how the file is packed."""
    data = np.squeeze(data)
    little = data.astype(data.dtype.newbyteorder("<"))
    return hashlib.sha256(f"{data.shape} {data.dtype.name}".encode() + little.tobytes()).hexdigest()


def _paths(case: Case) -> tuple[str, str]:
    return f"z{case.z_um:02g}/{case.name}.tif", f"sharp/{case.name}.tif"


def _read(path: Path, expected: str) -> np.ndarray:
    data = np.squeeze(read_tiff(path).data)
    if pixels_hash(data) != expected:
        raise InputError(path, "is not the plane that the suite was built with", "build the suite again")
    return data if data.ndim == 3 else data[None]
