"""Small pictures of a file before and after, as PNG, on the same grey scale."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np

from ...engine.errors import InputError
from ...engine.tiff.integrity import errors_as_input_error, open_tiff
from ...engine.tiff.quiet import quiet_tifffile

SIDE = 900  # px at most
LARGEST = 1 << 28  # pixels of a page; a larger one is not read for a preview
LOW, HIGH = 0.5, 99.8  # percentiles of the corrected plane


def previews(before: Path, after: Path) -> tuple[bytes, bytes]:
    """PNGs of the middle plane of both files. Raises InputError if one of them cannot be read."""
    planes = [_plane(path) for path in (before, after)]
    low, high = np.percentile(planes[1], (LOW, HIGH))
    scale = 255 / max(float(high - low), 1e-9)
    first, second = (_png(np.clip((plane - low) * scale, 0, 255).astype(np.uint8)) for plane in planes)
    return first, second


def _png(picture: np.ndarray) -> bytes:
    # Given its room: what the codec would give a picture of a pixel's width is too little.
    return bytes(imagecodecs.png_encode(picture, out=2 * picture.size + 4096))


def _plane(path: Path) -> np.ndarray:
    """The middle page of a file, grey, averaged down to `SIDE` px, float32 (Y, X)."""
    with errors_as_input_error(path), quiet_tifffile(), open_tiff(path) as tif:
        page = tif.pages[len(tif.pages) // 2]
        if page.size > LARGEST:
            raise InputError(path, "too large for a preview", "look at it in a viewer")
        data = page.asarray()
    data = np.asarray(data, np.float32)
    if data.ndim > 2:  # colours, or samples in front
        data = data.mean(axis=-1) if data.shape[-1] <= 4 else data.reshape(-1, *data.shape[-2:])[0]
    step = -(-max(data.shape) // SIDE)
    if step > 1:
        down, across = (min(step, side) for side in data.shape)
        height, width = data.shape[0] // down, data.shape[1] // across
        data = data[: height * down, : width * across].reshape(height, down, width, across).mean(axis=(1, 3))
    return data
