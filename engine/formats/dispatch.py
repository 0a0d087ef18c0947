"""What the pipeline and the daemon ask of a file of any format, handed to the module that knows it.

What is no TIFF is an `OtherFile` once it has been read: its images, and how they are written again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..image.memmap import Allocator, in_memory
from ..tiff import integrity, optics, provenance
from ..tiff import read as tiff
from ..tiff.optics import RecordedOptics
from ..tiff.read import TiffImage
from .names import is_other, is_store


class OtherFile(Protocol):
    """One version of a file that is no TIFF: its images, with what its output needs beside their pixels."""

    @property
    def images(self) -> tuple[TiffImage, ...]:
        """What is to be corrected."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it is treated, a line each."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that it has in memory, or will when it is restored."""
        ...

    def write(self, restored: Sequence[np.ndarray], path: Path, provenance: Mapping[str, Any]) -> None:
        """Write the output; neither syncs nor renames. Raises OSError."""
        ...


def read_other(path: Path, place: Allocator = in_memory, memory: int = 0) -> OtherFile:
    """Read a file that `is_other`. Raises MissingExtraError and InputError; see `tiff.read.read_tiff`."""
    if is_store(path):
        from .ome_zarr import read_zarr

        return read_zarr(path, place, memory)
    from .bioio_file import read_with_bioio

    return read_with_bioio(path, place, memory)


def axes_of(path: Path) -> tuple[str, tuple[int, ...]]:
    """Axes and shape of the first image of a file, without reading pixels. Raises MissingExtraError and InputError."""
    if not is_other(path):
        return tiff.axes_of(path)
    if is_store(path):
        from .ome_zarr import axes_of_zarr

        return axes_of_zarr(path)
    from .bioio_file import axes_with_bioio

    return axes_with_bioio(path)


def images_of_output(path: Path) -> list[tuple[str, tuple[int, ...], str]]:
    """Axes, shape and dtype of each image of an output, a TIFF or an OME-Zarr, without reading pixels.

    Raises MissingExtraError and InputError.
    """
    if is_store(path):
        from .ome_zarr import images_of_zarr

        return images_of_zarr(path)
    return [(plan.axes, plan.shape, plan.dtype.name) for plan in tiff.plans_of(path)]


def check_complete(path: Path, finished: bool = False) -> None:
    """Raise InputError unless a file is whole, as far as can be told; see `tiff.integrity.check_complete`."""
    if not is_other(path):
        return integrity.check_complete(path, finished)
    if is_store(path):
        from .ome_zarr import check_zarr

        return check_zarr(path, finished)
    from .complete import check_whole

    return check_whole(path)


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What defocus recorded in an output: model, settings, source, reports of its planes. None if it did not write it.

    Raises
    ------
    InputError
        The file cannot be read, or is neither a TIFF nor a Zarr.
    """
    path = Path(path)
    if is_store(path):
        from .ome_zarr import provenance_of_zarr

        return provenance_of_zarr(path)
    return provenance.read_provenance(path) if not is_other(path) else None


def read_optics(path: Path) -> RecordedOptics:
    """The optics that an output tells of, or a TIFF; of a Zarr, the size of its pixels. Raises InputError."""
    if is_store(path):
        from .ome_zarr import pixel_size_of_zarr

        return RecordedOptics(pixel_size_of_zarr(path))
    return optics.read_optics(path)
