"""Through-focus stacks: the sharpest plane of each field is the truth for all others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

from ...engine.errors import InputError
from ...engine.tiff.integrity import open_tiff
from .fields import list_images, load_field
from .pairs import Pair, registered

# Metadata writes units in many ways; all to um.
UNITS = {"um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "\\u00b5m": 1.0, "nm": 1e-3, "mm": 1e3}
NEAREST = 0.25  # of the step: how far from a wanted distance a plane may lie
_STEP = "give the distance of the planes with --step-um"


def pairs_from_stacks(
    folder: Path,
    pattern: str | None = None,
    step_um: float | None = None,
    distances: Sequence[float] | None = None,
) -> list[Pair]:
    """Pairs of every plane of every stack with the stack's sharpest plane.

    Parameters
    ----------
    folder : of z-stacks (TIFF, OME-TIFF or ImageJ, one grey channel), or of single planes if there is a `pattern`.
    pattern : a file name with {field} and {z}, such as "{field}_z{z}.tif"; {z} is a whole number.
    step_um : distance of neighbouring planes; by default what the file's metadata says.
    distances : only planes so far from focus, um, on either side; by default all.

    Raises
    ------
    InputError
        A stack of one plane, of planes of several sizes, without a known step, or whose sharpest plane is its first or
        last, so that the focus may lie outside; planes that cannot be registered; nothing at the distances.
    """
    stacks = _by_name(Path(folder), pattern) if pattern else _by_file(Path(folder))
    pairs = []
    for name, paths, planes, indices, known in stacks:
        step = step_um or known
        if not step:
            raise InputError(paths[0], "does not say how far its planes are apart", _STEP)
        best = sharpest(planes)
        if best in (0, len(planes) - 1):
            end = "first" if best == 0 else "last"
            cause = f"the {end} plane of {name} is its sharpest: the focus may lie outside of the stack"
            raise InputError(paths[best], cause, "record planes on both sides of focus, or leave the stack out")
        for path, plane, index in zip(paths, planes, indices, strict=True):
            z = (index - indices[best]) * step
            wanted = distances is None or any(abs(abs(z) - abs(one)) <= NEAREST * step for one in distances)
            if z and wanted:
                pairs.append(registered(plane[None], planes[best][None], path, paths[best], f"{name} z{z:+g}", z, name))
    if not pairs:
        raise InputError(folder, "holds no plane at these distances", "ask for others or check --step-um")
    return pairs


def sharpest(planes: Sequence[np.ndarray]) -> int:
    """Index of the sharpest plane (Y, X): the greatest normalised variance after light smoothing.

    Source: Y. Sun, S. Duthaler, B. J. Nelson, Microsc. Res. Tech. 65, 139 (2004), where the normalised variance is the
    best of 18 measures for fluorescence; smoothed, so that the noise of a dim plane does not pass for structure.
    """
    return int(np.argmax([_normalised_variance(plane) for plane in planes]))


def _normalised_variance(plane: np.ndarray) -> float:
    smooth = gaussian_filter(np.asarray(plane, np.float64), 1.0)
    smooth -= np.percentile(smooth, 1)  # the camera's offset would hide what changes
    return float(smooth.var() / max(float(smooth.mean()), 1e-9))


Stack = tuple[str, list[Path], list[np.ndarray], list[int], float | None]


def _by_file(folder: Path) -> Iterator[Stack]:
    for path in list_images(folder):
        planes, step = read_stack(path)
        yield path.name.partition(".")[0], [path] * len(planes), list(planes), list(range(len(planes))), step


def _by_name(folder: Path, pattern: str) -> Iterator[Stack]:
    if "{field}" not in pattern or "{z}" not in pattern:
        raise InputError(pattern, "does not say where field and plane stand", 'write it like "{field}_z{z}.tif"')
    escaped = re.escape(pattern).replace(r"\{field\}", "(?P<field>.+)").replace(r"\{z\}", r"(?P<z>\d+)")
    fields: dict[str, dict[int, Path]] = {}
    for path in list_images(folder):
        match = re.fullmatch(escaped, path.name)
        if match:
            fields.setdefault(match["field"], {})[int(match["z"])] = path
    if not fields:
        raise InputError(folder, f"holds no file named like {pattern}", "check --plane-pattern")
    for name, by_index in sorted(fields.items()):
        indices = sorted(by_index)
        paths = [by_index[index] for index in indices]
        planes = [load_field(path).data for path in paths]
        _check(paths, planes, name)
        yield name, paths, planes, indices, None


def read_stack(path: Path) -> tuple[np.ndarray, float | None]:
    """A z-stack, float32 (Z, Y, X), and the distance of its planes in um if the metadata says it."""
    try:
        with open_tiff(path) as file:
            series = file.series[0]
            data, axes, step = series.asarray(), series.axes, _step(file)
    except (OSError, ValueError, IndexError, tifffile.TiffFileError) as error:
        raise InputError(
            path, f"cannot be read ({error})", "give TIFF stacks, or single planes and a pattern"
        ) from error
    drop = tuple(i for i, size in enumerate(data.shape) if size == 1)
    data = data.squeeze(drop)
    axes = "".join(axis for i, axis in enumerate(axes) if i not in drop)
    if data.ndim != 3 or axes[-2:] != "YX" or axes[0] in "CST":
        cause = f"is no z-stack of one grey channel (axes {axes}, shape {data.shape})"
        if data.ndim == 2:
            remedy = 'if each file holds one plane, say how they are named: --plane-pattern "{field}_z{z}.tif"'
            raise InputError(path, "holds a single plane", remedy)
        raise InputError(path, cause, "split channels and times into files of their own")
    planes = data.astype(np.float32)
    _check([path] * len(planes), list(planes), path.name)
    return planes, step


def _step(file: tifffile.TiffFile) -> float | None:
    if file.ome_metadata:
        size = re.search(r'PhysicalSizeZ="([^"]+)"', file.ome_metadata)
        unit = re.search(r'PhysicalSizeZUnit="([^"]+)"', file.ome_metadata)
        return _um(size and size[1], unit[1] if unit else "um")
    imagej = file.imagej_metadata or {}
    return _um(imagej.get("spacing"), imagej.get("unit") or "")


def _um(size: object, unit: str) -> float | None:
    try:
        value = float(str(size)) * UNITS[unit]
    except (ValueError, KeyError):
        return None
    return value if value > 0 else None


def _check(paths: Sequence[Path], planes: Sequence[np.ndarray], name: str) -> None:
    if len(planes) < 3:
        raise InputError(paths[0], f"{name} has {len(planes)} plane(s)", "a stack needs planes on both sides of focus")
    for path, plane in zip(paths, planes, strict=True):
        if plane.shape != planes[0].shape:
            cause = f"has another size than the first plane of {name}"
            raise InputError(path, cause, "record all planes of a stack with one camera setting")
        if not np.isfinite(plane).all():
            raise InputError(path, "contains NaN or infinity", "remove the file from the folder")
