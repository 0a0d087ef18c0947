"""Fields from folders of images, and their split into training and held-out files: by file, never by crop."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np

from ...engine.errors import InputError
from ...engine.tiff.read import read_tiff

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
SUFFIXES = (".tif", ".tiff", ".png")
SMALLEST = 64  # a field smaller than this in Y or X shows too little around a defocused point


@dataclass(frozen=True)
class Field:
    """A sharp plane, float32 (Y, X) in the file's own counts, with the file it came from."""

    path: Path
    data: np.ndarray


@dataclass(frozen=True)
class Source:
    """A folder of sharp images and the share of the training crops drawn from it (relative to the others)."""

    folder: Path
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read `FOLDER` or `FOLDER=WEIGHT`, as the command line and recipes write it."""
        folder, _, weight = text.rpartition("=")
        if not folder:
            return cls(Path(text))
        try:
            value = float(weight)
        except ValueError:
            value = -1.0
        if not value > 0:
            raise InputError(text, f"the weight {weight!r} is not a positive number", "write it as FOLDER=0.5")
        return cls(Path(folder), value)


def list_images(folder: Path) -> list[Path]:
    """Image files below `folder`, sorted by relative path. Raises InputError for a missing or empty folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, "no such folder", "give a folder of TIFF or PNG images")
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not images:
        raise InputError(folder, "holds no TIFF or PNG image", "give a folder that does")
    return images


def split(paths: Sequence[Path], held_out: Sequence[str] = (), share: float = 0.1) -> tuple[list[Path], list[Path]]:
    """Split files into (training, held out).

    Files whose name matches one of the patterns `held_out` (`*_k14_*` takes a whole well) are held out. Without
    patterns a share of the files is, by a hash of the name, so that adding files moves none across.
    """
    if held_out:
        out = [path for path in paths if any(fnmatch.fnmatch(path.name, pattern) for pattern in held_out)]
    else:
        out = [path for path in paths if name_hash(path.name) / 2**64 < share]
    kept = set(out)
    return [path for path in paths if path not in kept], out


def load_field(path: Path) -> Field:
    """Read one grey plane. Raises InputError for a file that is not one grey image of at least 64 x 64 pixels."""
    data = np.squeeze(_decode(path))
    if data.ndim != 2:
        raise InputError(path, f"is not one grey plane (its shape is {data.shape})", "give single grey planes")
    if min(data.shape) < SMALLEST:
        size = f"is only {data.shape[1]} x {data.shape[0]} pixels"
        raise InputError(path, size, f"give planes of at least {SMALLEST} x {SMALLEST}")
    data = data.astype(np.float32)
    if not np.isfinite(data).all():
        raise InputError(path, "contains NaN or infinity", "remove the file from its folder")
    return Field(path, data)


def _decode(path: Path) -> np.ndarray:
    # By content: in-focus BBBC006 fields are passed around as TIFF files named .png.
    try:
        with open(path, "rb") as file:
            magic = file.read(len(PNG_MAGIC))
        if magic == PNG_MAGIC:
            return np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(path, f"cannot be read ({error})", "remove the file from its folder") from error
    return read_tiff(path).data


def name_hash(name: str) -> int:
    """64 bits that depend on the name alone, the same on every machine: for splits and seeds."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
