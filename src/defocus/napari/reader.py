"""The reader: opens a corrected TIFF, and keeps what it says of its making with the layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tifffile

from defocus.engine.errors import DefocusError
from defocus.engine.tiff.read import read_provenance

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
    return [_layer(Path(name)) for name in ([path] if isinstance(path, str) else path)]


def _layer(path: Path) -> LayerData:
    """The image of a file, with its provenance as the layer's metadata; channels become layers of their own."""
    with tifffile.TiffFile(path, is_mmstack=False, is_ndtiff=False) as tif:
        series = tif.series[0]
        data, axes = series.asarray(), series.axes
    kind: dict[str, Any] = {"name": path.stem, "metadata": {"defocus": read_provenance(path)}}
    if axes.endswith("S"):
        kind["rgb"] = True
    elif "C" in axes:
        kind["channel_axis"] = axes.index("C")
        del kind["name"]  # napari numbers the channels
    return data, kind, "image"
