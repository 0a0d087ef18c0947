"""Pixels of a strip or tile as bytes, stored as their page says; and reduced copies of a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import imagecodecs
import numpy as np
import tifffile

from ..image.bands import bands
from .pages import LOSSLESS, ImagePage

_LERC, _PACKBITS = 34887, 32773

Encode = Callable[[np.ndarray], bytes]


def encoder(page: ImagePage, compression: int, order: Literal["<", ">"]) -> Encode:
    """A function that encodes pixels (Z, Y, X, samples) of a strip or tile as the page's tags say."""
    predictor, bits = page.number(317, 1), page.bits
    reverse = page.number(266, 1) == 2
    compress = tifffile.TIFF.COMPRESSORS[compression] if compression != 1 else None
    lerc: Any = {1: "deflate", 2: "zstd"}.get((*page.numbers.get(50674, ()), 0, 0)[1])
    if page.compression not in LOSSLESS and predictor not in (1, 2, 3):
        predictor = 1

    def encode(pixels: np.ndarray) -> bytes:
        raw: Any
        pixels = np.ascontiguousarray(pixels)
        if compression == _LERC:
            block = pixels[0] if pixels.shape[3] > 1 else pixels[0, :, :, 0]
            return bytes(imagecodecs.lerc_encode(block, level=0, compression=lerc))
        if bits not in (8, 16, 32, 64):
            raw = _packed(pixels, bits)
        elif predictor == 3:
            raw = np.asarray(tifffile.TIFF.PREDICTORS[3](pixels, axis=-2)).tobytes()
        else:
            if predictor == 2:
                pixels = tifffile.TIFF.PREDICTORS[2](pixels, axis=-2)
            raw = pixels.astype(pixels.dtype.newbyteorder(order), copy=False).tobytes()
        if compression == _PACKBITS:  # row by row
            rows = np.frombuffer(raw, np.uint8).reshape(pixels.shape[0] * pixels.shape[1], -1)
            raw = imagecodecs.packbits_encode(rows, axis=-1)
        elif compress is not None:
            raw = compress(raw)
        return bytes(imagecodecs.bitorder_encode(raw) if reverse else raw)

    return encode


def _packed(pixels: np.ndarray, bits: int) -> bytes:
    """Numbers of so many bits one behind the other, each row beginning with a byte."""
    rows = pixels.reshape(-1, pixels.shape[2] * pixels.shape[3])
    packed = []
    for band in (rows[start : start + 256] for start in range(0, len(rows), 256)):
        wide = np.unpackbits(band.astype(">u2").view(np.uint8).reshape(*band.shape, 2), axis=-1)[..., 16 - bits :]
        packed.append(np.packbits(wide.reshape(len(band), -1), axis=-1).tobytes())
    return b"".join(packed)


def put_back(blank: np.ndarray | None, value: float, *arrays: np.ndarray) -> None:
    """Give pixels that have no value that value again, in place; one that has come to it takes what is next to it."""
    if blank is None:
        return
    for array in arrays:
        step = 1 if value <= 0 else -1
        near = np.nextafter(value, step, dtype=array.dtype) if array.dtype.kind == "f" else int(value) + step
        for sample in range(array.shape[-1]):
            for part, mask in zip(bands(array[..., sample]), bands(blank[..., sample]), strict=True):
                part[(part == value) & ~mask] = near
                part[mask] = value


def reduced(
    before: np.ndarray, after: np.ndarray, small: ImagePage, old: np.ndarray, no_value: float | None
) -> np.ndarray:
    """A reduced copy of `after`, in the way in which `old` was made of `before`: every n-th pixel, or means.

    All are (separate samples, Z, Y, X, samples). Where `old` has `no_value`, so has the new one.
    """
    blank = None if no_value is None else np.isnan(old) if no_value != no_value else old == no_value
    made = _picked(before, small)
    put_back(blank, no_value or 0, made)
    every_nth = np.array_equal(made, old, equal_nan=old.dtype.kind == "f")
    made = _picked(after, small) if every_nth else _means(after, small)
    put_back(blank, no_value or 0, made)
    return made


def _picked(full: np.ndarray, small: ImagePage) -> np.ndarray:
    """Every n-th pixel of every n-th row, as many as a reduced copy has."""
    rows = np.minimum(np.arange(small.length) * max(1, round(full.shape[2] / small.length)), full.shape[2] - 1)
    columns = np.minimum(np.arange(small.width) * max(1, round(full.shape[3] / small.width)), full.shape[3] - 1)
    return full[:, :, rows][:, :, :, columns]


def _means(full: np.ndarray, small: ImagePage) -> np.ndarray:
    """Means of the pixels that each one of a reduced copy stands for."""
    out = np.empty((*full.shape[:2], small.length, small.width, full.shape[4]), full.dtype)
    rows = np.arange(small.length + 1) * full.shape[2] // small.length
    columns = np.arange(small.width + 1) * full.shape[3] // small.width
    wide = np.maximum(1, np.diff(columns))[:, None]
    for number in range(small.length):
        band = full[:, :, rows[number] : max(rows[number] + 1, rows[number + 1])]
        sums = np.add.reduceat(band.sum(axis=2, dtype=np.float64), columns[:-1], axis=2)
        mean = sums / (wide * band.shape[2])
        out[:, :, number] = np.rint(mean) if out.dtype.kind in "iu" else mean
    return out
