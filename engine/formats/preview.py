"""Small pictures of a file of any format before and after, as PNG, on the same grey scale."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np

from ..tiff import preview as tiff
from ..tiff.integrity import errors_as_input_error
from .names import check_installed, is_other, is_store, reader_errors

SIDE, THUMBNAIL = 900, 160  # px at most
LOW, HIGH = 0.5, 99.8  # percentiles of the corrected plane


def previews(before: Path, after: Path, side: int = SIDE) -> tuple[bytes, bytes]:
    """PNGs of the middle plane of both files, at most `side` px wide and high.

    Raises InputError if one of them cannot be read, or only with more memory than a preview is worth;
    MissingExtraError without the reader of its format.
    """
    planes = [_plane(path, side) for path in (before, after)]
    low, high = np.percentile(planes[1], (LOW, HIGH))
    scale = 255 / max(float(high - low), 1e-9)
    first, second = (_png(np.clip((plane - low) * scale, 0, 255).astype(np.uint8)) for plane in planes)
    return first, second


def _png(picture: np.ndarray) -> bytes:
    # Given its room: what the codec would give a picture of a pixel's width is too little.
    return bytes(imagecodecs.png_encode(picture, out=2 * picture.size + 4096))


def _plane(path: Path, side: int) -> np.ndarray:
    """The middle plane of a file, grey, averaged down to `side` px, float32 (Y, X)."""
    if not is_other(path):
        return tiff.middle_plane(path, side)
    check_installed(path)
    with errors_as_input_error(path), reader_errors(path):
        if is_store(path):
            from .ome_zarr import middle_of_zarr

            plane = middle_of_zarr(path, side)
        else:
            from .bioio_file import middle_with_bioio

            plane = middle_with_bioio(path)
    height, width = plane.shape[:2]
    binned = tiff.Binned(height, width, side)
    binned.add(plane.reshape(height, width, -1), 0, 0)
    return binned.mean()
