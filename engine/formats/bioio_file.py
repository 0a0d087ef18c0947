"""Files that bioio's readers read: their planes are read one by one, and the output is an OME-TIFF."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from ..errors import ErrorCode, InputError
from ..files.atomic import rights_at_the_end, rights_to_write
from ..image.memmap import Allocator, drop_resident_pages, in_memory
from ..tiff.integrity import errors_as_input_error
from ..tiff.preview import check_piece
from ..tiff.provenance import PROCESSING_SOFTWARE, PROVENANCE_TAG, lines
from ..tiff.read import TiffImage
from .complete import check_whole
from .names import READERS, check_installed, module_of, reader_errors
from .ome import describe

_AXES = "TCZYXS"  # what an OME-TIFF can hold
_SMALL = 1 << 26  # bytes of a plane that are always let in
_CLASSIC = 2**32 - 2**25  # bytes of pixels for which a classic TIFF has room


@dataclass(frozen=True, eq=False)
class BioioFile:
    """One version of a file, with an image for each scene or position.

    Attributes
    ----------
    ome : ome_types.OME
        What the output says of itself.
    mode : int
        The file's permissions.
    """

    path: Path
    images: tuple[TiffImage, ...]
    ome: Any
    notes: tuple[str, ...] = ()
    mode: int = 0o666

    @property
    def nbytes(self) -> int:
        """Bytes that it has in memory, or will when it is restored."""
        return 2 * sum(image.data.nbytes for image in self.images)

    def write(self, restored: Sequence[np.ndarray], path: Path, provenance: Mapping[str, Any]) -> None:
        """Write the restored pixels as an OME-TIFF, a series for each image. Neither syncs nor renames."""
        line, record = lines(provenance)
        tags = [(PROVENANCE_TAG, 2, len(record), record, True), (PROCESSING_SOFTWARE, 2, len(line), line, True)]
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, rights_to_write(self.mode)))
        big = sum(data.nbytes for data in restored) > _CLASSIC
        description = self.ome.to_xml(indent=0).encode()
        with tifffile.TiffWriter(path, bigtiff=big, ome=False) as tif:
            for image, data in zip(self.images, restored, strict=True):
                planes = data.reshape(-1, *data.shape[_leading(image.axes) :])
                tif.write(
                    _one_by_one(planes),
                    shape=planes.shape,
                    dtype=planes.dtype,
                    photometric="rgb" if "S" in image.axes else "minisblack",
                    description=description,
                    metadata=None,
                    software=False,
                    extratags=tags,
                )
                description, tags = None, []
        rights_at_the_end(path, self.mode)


def read_with_bioio(path: Path, place: Allocator = in_memory, memory: int = 0) -> BioioFile:
    """Read a file of a microscope's own format.

    Parameters
    ----------
    place : Allocator
        Where pixels go.
    memory : int
        Bytes that a plane may have; 0: any.

    Raises
    ------
    MissingExtraError
        The reader of this format is not installed.
    InputError
        Missing, unreadable, truncated or damaged; it has axes that an OME-TIFF has not.
    """
    check_installed(path)
    check_whole(path)
    with errors_as_input_error(path), reader_errors(path):
        reader = _open(path)
        scenes = [str(scene) for scene in reader.scenes]
        lazy = [_scene(reader, number, path) for number in range(len(scenes))]
        _check_whole(lazy, path)
        largest = max(prod(array.shape[_leading(axes) :]) * array.dtype.itemsize for axes, array in lazy)
        if memory and largest > max(memory, _SMALL):
            cause = f"a plane takes {largest / 1e9:.1f} GB, more than --memory allows"
            raise InputError(path, cause, "raise --memory", ErrorCode.MEMORY)
        place.check(2 * sum(array.nbytes for _, array in lazy))
        ome = describe(reader, scenes, [(axes, array.shape, array.dtype) for axes, array in lazy])
        images = tuple(
            _image(axes, array, pixels.significant_bits, place)
            for (axes, array), pixels in zip(lazy, (image.pixels for image in ome.images), strict=True)
        )
        return BioioFile(path, images, ome, mode=os.stat(path).st_mode & 0o777)


def axes_with_bioio(path: Path) -> tuple[str, tuple[int, ...]]:
    """Axes and shape of the first scene, without reading pixels. Raises as `read_with_bioio` does."""
    check_installed(path)
    check_whole(path)
    with errors_as_input_error(path), reader_errors(path):
        axes, lazy = _scene(_open(path), 0, path)
        return axes, lazy.shape


def middle_with_bioio(path: Path) -> np.ndarray:
    """The plane (Y, X) or (Y, X, samples) that becomes the middle page of the output, for a small picture."""
    check_whole(path)
    reader = _open(path)
    lazy = [_scene(reader, number, path) for number in range(len(reader.scenes))]
    counts = [prod(array.shape[: _leading(axes)]) for axes, array in lazy]
    middle, number = sum(counts) // 2, 0
    while middle >= counts[number]:
        middle, number = middle - counts[number], number + 1
    axes, array = lazy[number]
    plane = array[np.unravel_index(middle, array.shape[: _leading(axes)])]
    check_piece(plane.nbytes, path)
    return plane.compute(scheduler="synchronous")


def _open(path: Path) -> Any:
    """The reader of a file, told to read planes where it can be told."""
    reader = importlib.import_module(module_of(READERS[path.suffix.lower()])).Reader
    try:
        return reader(path, chunk_dims=["Y", "X"])
    except TypeError:
        return reader(path)


def _scene(reader: Any, number: int, path: Path) -> tuple[str, Any]:
    """Axes, without those of one entry, and the lazy array (dask) of a scene; tiles of a mosaic are put together."""
    reader.set_scene(number)
    lazy = reader.mosaic_xarray_dask_data if "M" in reader.dims.order else reader.xarray_dask_data
    axes, data = "".join(lazy.dims), lazy.data
    if axes.endswith("S") and data.shape[-1] in (2, 4):  # transparency, which is no light
        data = data[..., : data.shape[-1] - 1]
    keep_axis = [axis in "YX" or size > 1 for axis, size in zip(axes, data.shape, strict=True)]
    data = data[tuple(slice(None) if keep else 0 for keep in keep_axis)]
    axes = "".join(axis for axis, keep in zip(axes, keep_axis, strict=True) if keep)
    for axis, size in zip(axes, data.shape, strict=True):
        if axis not in _AXES:
            cause = f"scene {number} has {size} entries along an axis {axis}, for which an OME-TIFF has no place"
            raise InputError(path, cause, "export it without that axis", ErrorCode.UNSUPPORTED)
    if not axes.endswith(("YX", "YXS")) or data.dtype.kind not in "uif":
        cause = f"scene {number} has axes {axes} of {data.dtype}"
        raise InputError(path, cause, "export it as TIFF with axes T, C, Z, Y and X", ErrorCode.UNSUPPORTED)
    return axes, data


def _check_whole(lazy: Sequence[tuple[str, Any]], path: Path) -> None:
    """Raise InputError if a reader passes over planes: bioio-lif does so along axes that it has no name for, and
    bioio-czi with scenes of which the metadata do not tell.
    """
    suffix, remedy = path.suffix.lower(), "export it as TIFF"
    if suffix == ".lif":
        from liffile import LifFile

        with LifFile(path) as file:
            for (axes, data), image in zip(lazy, file.images, strict=True):
                if prod(data.shape) < prod(image.sizes.values()):
                    extra = ", ".join(f"{axis} ({size})" for axis, size in image.sizes.items() if axis not in axes)
                    cause = f"{image.name} has axes that cannot be read: {extra}"
                    raise InputError(path, cause, remedy, ErrorCode.UNSUPPORTED)
    elif suffix == ".czi":
        from aicspylibczi import CziFile

        count = max(shape.get("S", (0, 1))[1] for shape in CziFile(path).get_dims_shape())
        if count > len(lazy):
            cause = f"its metadata tell of {len(lazy)} of its {count} scenes"
            raise InputError(path, cause, remedy, ErrorCode.UNSUPPORTED)


def _image(axes: str, lazy: Any, bits: int | None, place: Allocator) -> TiffImage:
    """Read an array plane by plane."""
    dtype = lazy.dtype.newbyteorder("=")
    data = place(lazy.shape, dtype)
    for index in np.ndindex(lazy.shape[: _leading(axes)]):
        data[index] = lazy[index].compute(scheduler="synchronous")
        drop_resident_pages(data)
    limit = (1 << bits) - 1 if bits else None
    return TiffImage(data, axes, (), limit if limit is not None and int(data.max()) <= limit else None)


def _leading(axes: str) -> int:
    """How many axes come before those of a plane, Y X or Y X S."""
    return axes.index("Y")


def _one_by_one(planes: np.ndarray) -> Iterator[np.ndarray]:
    for plane in planes:
        yield plane
        drop_resident_pages(planes)
