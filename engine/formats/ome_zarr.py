"""OME-Zarr (0.4 and 0.5): the output is a copy of the store in which the arrays of its images are written anew.

Each chunk is read once and written once, in the chunks and codecs of the input. Levels of a pyramid are made anew from
the level above them. Labels, tables and whatever else lies in the store are copied.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ErrorCode, InputError
from ..files.walk import walk
from ..image.memmap import Allocator, drop_resident_pages, in_memory
from ..tiff.integrity import UnfinishedError, errors_as_input_error
from ..tiff.optics import UM
from ..tiff.pages import WAIT
from ..tiff.preview import check_piece
from ..tiff.read import TiffImage
from .names import check_installed, reader_errors
from .reduce import reduced

_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
_KEY = "defocus"  # of the provenance among the attributes of the store
_AXES = "TCZYX"
_LARGEST = 1 << 26  # bytes of a metadata file


@dataclass(frozen=True)
class StoredImage:
    """An image in a store: its axes, the folders of its arrays, the largest first, and the width of its pixels, um."""

    axes: str
    levels: tuple[Path, ...]
    pixel_size_um: float | None = None


@dataclass(frozen=True, eq=False)
class ZarrFile:
    """One version of a store, with its images in the order of their paths."""

    path: Path
    images: tuple[TiffImage, ...]
    stored: tuple[StoredImage, ...]
    place: Allocator
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes that it has in memory, or will when it is restored."""
        return 2 * sum(image.data.nbytes for image in self.images)

    def write(self, restored: Sequence[np.ndarray], path: Path, provenance: Mapping[str, Any]) -> None:
        """Write the store again with other pixels. Neither syncs nor renames."""
        import zarr

        arrays = {level for image in self.stored for level in image.levels}
        _copy(self.path, path, arrays)
        with zarr.config.set({"array.write_empty_chunks": True}):  # else an output would lack chunks
            for image, data in zip(self.stored, restored, strict=True):
                above_before = above = None
                for level in image.levels:
                    old: Any = zarr.open_array(level, mode="r")
                    new: Any = zarr.open_array(path / level.relative_to(self.path), mode="r+")
                    if above is None or above_before is None:
                        above_before, above = old, data.reshape(old.shape)
                    else:
                        above = reduced(above, above_before, old, self.place)
                        above_before = old
                    for region in _regions(new):
                        new[region] = above[region]
                        drop_resident_pages(above)
        _record(path, provenance)


def read_zarr(path: Path, place: Allocator = in_memory, memory: int = 0) -> ZarrFile:
    """Read the largest level of each image of a store.

    Parameters
    ----------
    place : Allocator
        Where pixels go.
    memory : int
        Bytes that a chunk (a shard, where it has them) may have; 0: any.

    Raises
    ------
    MissingExtraError
        zarr is not installed.
    InputError
        Missing or damaged, no OME-Zarr, or with axes that have other names than T, C, Z, Y and X.
    """
    check_installed(path)
    import zarr

    with errors_as_input_error(path), reader_errors(path):
        stored = _images(path)
        arrays: list[Any] = [zarr.open_array(image.levels[0], mode="r") for image in stored]
        _check(path, stored, arrays, memory)
        place.check(2 * sum(array.nbytes for array in arrays))
        images = tuple(_image(image.axes, array, place) for image, array in zip(stored, arrays, strict=True))
        return ZarrFile(path, images, tuple(stored), place)


def axes_of_zarr(path: Path) -> tuple[str, tuple[int, ...]]:
    """Axes and shape of the first image, without reading pixels. Raises as `read_zarr` does."""
    return images_of_zarr(path, 1)[0][:2]


def images_of_zarr(path: Path, most: int | None = None) -> list[tuple[str, tuple[int, ...], str]]:
    """Axes, shape and dtype of each image, or the first ones, without reading pixels. Raises as `read_zarr` does."""
    check_installed(path)
    import zarr

    with errors_as_input_error(path), reader_errors(path):
        stored = _images(path)[:most]
        arrays: list[Any] = [zarr.open_array(image.levels[0], mode="r") for image in stored]
        _check(path, stored, arrays, 0)
        return [
            (*_squeezed(image.axes, array.shape), array.dtype.name) for image, array in zip(stored, arrays, strict=True)
        ]


def check_zarr(path: Path, finished: bool = False) -> None:
    """Raise InputError unless a store has images whose arrays are there.

    With `finished`, UnfinishedError unless every chunk is there: writers may leave out those that hold nothing.
    """
    check_installed(path)
    import zarr

    with errors_as_input_error(path), reader_errors(path):
        for image in _images(path):
            for level in image.levels:
                array: Any = zarr.open_array(level, mode="r")
                if finished and (present := array.nchunks_initialized) < array.nchunks:
                    cause = f"not complete: {present} of {array.nchunks} chunks of {level.relative_to(path)} are there"
                    raise UnfinishedError(path, cause, WAIT)


def provenance_of_zarr(path: Path) -> dict[str, Any] | None:
    """What defocus recorded in a store; None if it did not write it. Raises InputError if it cannot be read."""
    with errors_as_input_error(path):
        if not path.is_dir():
            os.stat(path)
            raise InputError(path, "a file, but its name is that of a Zarr folder", WAIT, ErrorCode.DAMAGED)
        record = (_attributes(path) or {}).get(_KEY)
        return record if isinstance(record, dict) else None


def arrays_of_zarr(path: Path) -> list[tuple[str, list[Any]]]:
    """Axes and levels (zarr.Array), the largest first, of each image. Raises as `read_zarr` does."""
    check_installed(path)
    with errors_as_input_error(path), reader_errors(path):
        return [(image.axes, _levels(image)) for image in _images(path)]


def pixel_size_of_zarr(path: Path) -> float | None:
    """How wide a pixel of the first image is, um; None if the store does not say. Raises InputError."""
    with errors_as_input_error(path), reader_errors(path):
        return _images(path)[0].pixel_size_um


def middle_of_zarr(path: Path, side: int) -> np.ndarray:
    """The middle plane (Y, X) of the middle image, for a small picture.

    Of a pyramid the smallest level is taken that is still `side` px wide or high.
    """
    images = _images(path)
    image = images[len(images) // 2]
    levels = _levels(image)
    _check(path, [image], levels[:1], 0)
    level = next((level for level in reversed(levels) if max(level.shape[-2:]) >= side), levels[0])
    check_piece(max(int(np.prod(level.chunks)), int(np.prod(level.shape[-2:]))) * level.dtype.itemsize, path)
    return level[tuple(size // 2 for size in level.shape[:-2])]


def _levels(image: StoredImage) -> list[Any]:
    """Its arrays (zarr.Array), the largest first."""
    import zarr

    return [zarr.open_array(level, mode="r") for level in image.levels]


def _images(path: Path) -> list[StoredImage]:
    """The images of a store, without labels. Raises InputError if there is none."""
    images = []
    os.stat(path)
    for folder, folders, _ in walk(path):
        attributes = _attributes(folder)
        if attributes is None:  # an array
            folders.clear()
            continue
        folders.sort()
        ome = attributes.get("ome", attributes)
        if "image-label" in ome:
            continue
        for multiscale in ome.get("multiscales", ()):
            names = [axis["name"] if isinstance(axis, dict) else axis for axis in multiscale.get("axes", "tczyx")]
            levels = tuple(folder / level["path"] for level in multiscale["datasets"])
            axes = "".join(_letter(name, path) for name in names)
            images.append(StoredImage(axes, levels, _pixel_size(multiscale)))
    if not images:
        cause = "holds no OME-Zarr image (no multiscales in its attributes)"
        raise InputError(path, cause, "wait until it is complete, or give an OME-Zarr", ErrorCode.INCOMPLETE)
    return images


def _pixel_size(multiscale: Mapping[str, Any]) -> float | None:
    """How wide a pixel of the first level is, um; None if that is not said."""
    try:
        size = UM[multiscale["axes"][-1]["unit"]]
        first = multiscale["datasets"][0]
        steps = [*first["coordinateTransformations"], *multiscale.get("coordinateTransformations", ())]
        for step in steps:
            size *= float(step["scale"][-1]) if step["type"] == "scale" else 1
    except (LookupError, TypeError, ValueError):
        return None
    return size if 0 < size < math.inf else None


def _letter(name: str, path: Path) -> str:
    if len(name) != 1 or name.upper() not in _AXES:
        raise InputError(path, f"has an axis {name!r}", "name its axes t, c, z, y and x", ErrorCode.UNSUPPORTED)
    return name.upper()


def _attributes(folder: Path) -> dict[str, Any] | None:
    """The attributes of a group, {} of a folder that is none; None of an array."""
    if (folder / "zarr.json").exists():
        node = _json(folder / "zarr.json")
        return None if node.get("node_type") == "array" else node.get("attributes", {})
    if (folder / ".zarray").exists():
        return None
    return _json(folder / ".zattrs") if (folder / ".zattrs").exists() else {}


def _json(path: Path) -> dict[str, Any]:
    metadata = json.loads(path.read_bytes()) if path.stat().st_size <= _LARGEST else None
    if not isinstance(metadata, dict):
        raise InputError(path, "is no metadata of a Zarr", WAIT, ErrorCode.DAMAGED)
    return metadata


def _check(path: Path, stored: Sequence[StoredImage], arrays: Sequence[Any], memory: int) -> None:
    """Raise InputError for what cannot be corrected."""
    for image, array in zip(stored, arrays, strict=True):
        if len(image.axes) != array.ndim or not image.axes.endswith("YX") or array.dtype.kind not in "uif":
            cause = f"{image.levels[0].relative_to(path)} has axes {image.axes}, shape {array.shape} of {array.dtype}"
            raise InputError(path, cause, "its axes must end in y and x, of numbers", ErrorCode.UNSUPPORTED)
        size = int(np.prod(_step(array))) * array.dtype.itemsize
        if memory and size > max(memory, _LARGEST):
            cause = f"a chunk takes {size / 1e9:.1f} GB, more than --memory allows"
            raise InputError(path, cause, "save it in smaller chunks, or raise --memory", ErrorCode.MEMORY)


def _squeezed(axes: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Axes and shape without the axes of one entry."""
    dimensions = [(axis, size) for axis, size in zip(axes, shape, strict=True) if axis in "YX" or size > 1]
    return "".join(axis for axis, _ in dimensions), tuple(size for _, size in dimensions)


def _image(axes: str, array: Any, place: Allocator) -> TiffImage:
    """Read an array chunk by chunk."""
    dtype = array.dtype.newbyteorder("=")
    data = place(array.shape, dtype)
    for region in _regions(array):
        data[region] = array[region]
        drop_resident_pages(data)
    axes, shape = _squeezed(axes, array.shape)
    return TiffImage(data.reshape(shape), axes, ())


def _step(array: Any) -> tuple[int, ...]:
    """The shape of what is read or written at once."""
    return array.shards or array.chunks


def _regions(array: Any) -> Iterator[tuple[slice, ...]]:
    """The chunks, or shards, of an array."""
    starts = [range(0, size, step) for size, step in zip(array.shape, _step(array), strict=True)]
    for corner in product(*starts):
        yield tuple(slice(start, start + step) for start, step in zip(corner, _step(array), strict=True))


def _copy(source: Path, target: Path, arrays: set[Path]) -> None:
    """Copy all of a store but the chunks of these arrays."""
    for folder, folders, names in walk(source):
        copy = target / folder.relative_to(source)
        copy.mkdir(mode=0o700 | (folder.stat().st_mode & 0o777))
        if folder in arrays:
            names, folders[:] = [name for name in names if name in _METADATA], []
        for name in names:
            shutil.copy(folder / name, copy / name)


def _record(path: Path, provenance: Mapping[str, Any]) -> None:
    """Write the provenance into the attributes of a store, and where they are said again."""
    for name, keys in (
        ("zarr.json", ["attributes"]),
        (".zattrs", []),
        (".zmetadata", ["metadata", ".zattrs"]),
    ):
        file = path / name
        if file.exists() or (name == ".zattrs" and not (path / "zarr.json").exists()):
            content = attributes = _json(file) if file.exists() else {}
            for key in keys:
                attributes = attributes.setdefault(key, {})
            attributes[_KEY] = dict(provenance)
            file.write_text(json.dumps(content, indent=4), encoding="utf-8")
