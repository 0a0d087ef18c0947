"""OME metadata of an output: what bioio's reader knows, made to fit the pages that are written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from warnings import catch_warnings

import numpy as np

_TYPES = {"float32": "float", "float64": "double"}


def describe(reader: Any, scenes: Sequence[str], arrays: Sequence[tuple[str, tuple[int, ...], np.dtype]]) -> Any:
    """The OME (ome_types.OME) of a file with one image for each scene.

    What does not fit the pixels is left out. Without any that fits there are names, pixel sizes and times.

    Parameters
    ----------
    reader : bioio_base.reader.Reader
        Its scene is changed.
    arrays : sequence of (axes, shape, dtype)
        Of each scene, as its planes will be written: the last axis changes fastest.
    """
    from ome_types.model import OME

    ome = OME()
    with suppress(Exception), catch_warnings(action="ignore"):  # readers fail in many ways; pixels do not depend on it
        ome = reader.ome_metadata.model_copy(deep=True)
    known = ome.images if len(ome.images) == len(scenes) else []
    images, page = [], 0
    for number, (scene, (axes, shape, dtype)) in enumerate(zip(scenes, arrays, strict=True)):
        sizes = dict(zip(axes, shape, strict=True))
        reader.set_scene(number)
        image = known[number] if known and _same_size(known[number].pixels, sizes) else _simple(reader, number, sizes)
        image.name = image.name or scene
        page = _fit(image.pixels, axes, sizes, dtype, page)
        images.append(image)
    ome.images = images
    if not known:  # what else there is refers to images that are not there
        ome.plates = []
    return ome


def _same_size(pixels: Any, sizes: dict[str, int]) -> bool:
    """Whether the metadata are of an image of this size."""
    stated = {"X": pixels.size_x, "Y": pixels.size_y, "Z": pixels.size_z, "T": pixels.size_t}
    channels = sizes.get("C", 1)
    return (
        all(sizes.get(axis, 1) == size for axis, size in stated.items())
        and pixels.size_c in (channels, channels * sizes.get("S", 1))
        and len(pixels.channels) in (0, channels)
    )


def _simple(reader: Any, number: int, sizes: dict[str, int]) -> Any:
    """An image with the little that every reader knows."""
    from ome_types.model import Channel, Image, Pixels

    pixels: dict[str, Any] = {}
    with suppress(Exception):
        pixel_sizes = reader.physical_pixel_sizes
        pixels |= {
            f"physical_size_{axis.lower()}": getattr(pixel_sizes, axis) for axis in "XYZ" if getattr(pixel_sizes, axis)
        }
    with suppress(Exception):
        if (interval := reader.time_interval) is not None:
            pixels |= {"time_increment": getattr(interval, "total_seconds", lambda: interval)()}
    names: list[Any] = []
    with suppress(Exception):
        names = [str(name) for name in reader.channel_names or ()]
    count = sizes.get("C", 1)
    names = names if len(names) == count else [None] * count
    channels = [Channel(id=f"Channel:{number}:{index}", name=name or None) for index, name in enumerate(names)]
    size = {f"size_{axis.lower()}": sizes.get(axis, 1) for axis in "XYZCT"}
    whole: dict[str, Any] = {"dimension_order": "XYZCT", "type": "uint8", "channels": channels, **size, **pixels}
    return Image(id=f"Image:{number}", pixels=Pixels(id=f"Pixels:{number}", **whole))


def _fit(pixels: Any, axes: str, sizes: dict[str, int], dtype: np.dtype, page: int) -> int:
    """Have the metadata say how the planes are written, from `page` on; the first page behind them."""
    from ome_types.model import Channel, Pixels_DimensionOrder, PixelType, TiffData

    order = [axis for axis in reversed(axes) if axis in "ZCT"]
    order += [axis for axis in "ZCT" if axis not in order]
    pixels.dimension_order = Pixels_DimensionOrder("XY" + "".join(order))
    pixels.type = PixelType(_TYPES.get(dtype.name, dtype.name))
    samples, channels = sizes.get("S", 1), sizes.get("C", 1)
    pixels.size_c = channels * samples
    if not pixels.channels:
        pixels.channels = [Channel(id=f"{pixels.id}:{index}") for index in range(channels)]
    for channel in pixels.channels:
        channel.samples_per_pixel = samples
    bits = pixels.significant_bits
    if bits is not None and not (dtype.kind == "u" and 0 < bits <= 8 * dtype.itemsize):
        pixels.significant_bits = None
    count = channels * sizes.get("Z", 1) * sizes.get("T", 1)
    pixels.big_endian = pixels.interleaved = pixels.metadata_only = None
    pixels.bin_data_blocks = []
    pixels.tiff_data_blocks = [TiffData(ifd=page, plane_count=count)]
    return page + count
