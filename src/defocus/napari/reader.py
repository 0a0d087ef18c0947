"""The reader: opens an output, TIFF or OME-Zarr, and keeps what it says of its making with the layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from defocus import read_provenance
from defocus.engine.errors import DefocusError
from defocus.engine.formats.names import is_store
from defocus.engine.tiff.read import read_tiff

LayerData = tuple[Any, dict[str, Any], str]


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[LayerData]] | None:
    """A reader for a file that defocus wrote; None leaves any other to napari's own readers."""
    paths = [path] if isinstance(path, str) else path
    try:
        ours = bool(paths) and all(read_provenance(name) is not None for name in paths)
    except DefocusError:
        return None
    return _read if ours else None


def _read(path: str | list[str]) -> list[LayerData]:
    return [layer for name in ([path] if isinstance(path, str) else path) for layer in _layers(Path(name))]


def _layers(path: Path) -> Iterator[LayerData]:
    """A layer for each image that was corrected (position, scene or series), with the provenance as its metadata.

    Channels become layers of their own.
    """
    record, images = read_provenance(path), list(_images(path))
    for number, (data, axes) in enumerate(images):
        name = path.stem if len(images) == 1 else f"{path.stem} {number}"
        kind: dict[str, Any] = {"name": name, "metadata": {"defocus": record}}
        if isinstance(data, list):
            kind["multiscale"] = True
        if axes.endswith("S"):
            kind["rgb"] = True
        elif "C" in axes:
            kind["channel_axis"] = axes.index("C")
            del kind["name"]  # napari numbers the channels
        yield data, kind, "image"


def _images(path: Path) -> Iterator[tuple[Any, str]]:
    """Pixels, of a pyramid a list of its levels, and axes of each image."""
    if is_store(path):
        from defocus.engine.formats.ome_zarr import arrays_of_zarr

        for axes, levels in arrays_of_zarr(path):
            yield (levels if len(levels) > 1 else levels[0]), axes
    else:
        for image in read_tiff(path).images:
            yield image.data, image.axes
