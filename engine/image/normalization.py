"""Intensity: the offset and scale that take a plane to unit range, kept to come back to its own units.

    unit = (counts - offset) / scale        counts = unit * scale + offset

offset is the low percentile, scale the distance to the high one. Nothing is clipped going in; coming back, integers
are rounded and clipped to their range, never wrapped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import ErrorCode, InputError
from ..model.card import Percentiles
from .bands import bands, extremes, planes

DTYPES = tuple(
    np.dtype(name) for name in ("uint8", "uint16", "int8", "int16", "uint32", "int32", "float16", "float32", "float64")
)

# Beyond this many times the percentiles' distance the brightest pixel is no outlier: the percentiles have missed the
# specimen (a few beads on black), or the values are no image.
_REACH = 1e4
_FEW = 16  # values beyond it that may be hot or dead pixels: they go around the network (`clip_with_remainder`)
_HELD = 1e30  # times the distance: more than this float32 does not hold with room to spare
# What a network is given of a value in unit range; the rest goes around it. In half precision the default network
# overflows at a spot of 1000 (a hot pixel on a dark plane reaches 6500).
LIMIT = 250.0
# Percentiles of more values than this are taken from an even sample of them: sorting a copy of a long float stack
# would double its memory.
_SAMPLE = 1 << 24


@dataclass(frozen=True)
class Intensity:
    """`offset` and `scale` in the image's units; scale 0 means flat: nothing to restore, give it back unchanged."""

    offset: float
    scale: float

    @property
    def flat(self) -> bool:
        return self.scale == 0


def check_dtype(dtype: np.dtype, thing: object = "image") -> None:
    """Raise InputError unless the engine takes images of this dtype (either byte order)."""
    if dtype.newbyteorder("=") not in DTYPES:
        allowed = ", ".join(known.name for known in DTYPES)
        raise InputError(
            thing,
            f"pixels of type {dtype.name} are not supported",
            f"convert to one of {allowed}",
            ErrorCode.UNSUPPORTED,
        )


def measure(
    values: np.ndarray,
    rule: Percentiles,
    thing: object = "image",
    extremes: Callable[[np.ndarray], tuple[float, float]] = extremes,
) -> Intensity:
    """Find the intensity of a plane (Y, X), or of a whole stack (..., Y, X) of any dtype in `DTYPES`.

    The percentiles are exact for 8- and 16-bit integers and interpolate linearly between ranks. Where they coincide
    or lie far closer than more than a few of the brightest pixels (saturated or nearly empty planes), smallest and
    largest value take their place. An empty array is flat. `extremes` finds these two, or knows them.

    Raises
    ------
    InputError
        A dtype that is not supported; NaN, infinite, or so far apart that float32 cannot hold them.
    """
    check_dtype(values.dtype, thing)
    if values.size == 0:
        return Intensity(0.0, 0.0)
    least, most = extremes(values)  # NaN comes through both
    if not (np.isfinite(least) and np.isfinite(most)):
        kind = "NaN" if np.isnan(least) or np.isnan(most) else "infinite"
        raise InputError(
            thing,
            f"holds {kind} values",
            "replace them by numbers, for example the background level",
            ErrorCode.NOT_FINITE,
        )
    if not np.isfinite(most - least):
        raise InputError(
            thing, f"values from {least:g} to {most:g} are too far apart", "rescale the image", ErrorCode.UNSUPPORTED
        )
    if least == most:
        return Intensity(least, 0.0)
    low, high = _percentiles(values, rule)
    if high <= low or _missed(values, low, high, max(most - low, low - least)):
        low, high = least, most
    return Intensity(low, high - low)


def to_unit(plane: np.ndarray, intensity: Intensity, out: np.ndarray | None = None) -> np.ndarray:
    """Take counts to unit range: any dtype in `DTYPES` to float32, same shape, C-contiguous; `out`, or a new array."""
    # 32-bit integers and doubles lose counts in float32 unless the offset goes first.
    work = _work(plane.dtype)
    if out is not None and work is np.float32:
        unit = out
        np.copyto(unit, plane)
    else:
        unit = plane.astype(work, order="C")
    unit -= unit.dtype.type(intensity.offset)
    unit /= unit.dtype.type(intensity.scale)
    if out is None:
        return unit.astype(np.float32, copy=False)
    if unit is not out:
        np.copyto(out, unit, casting="same_kind")
    return out


def clip_with_remainder(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Split float32 in unit range into what a network is given and the rest beyond +-`LIMIT`, to be added afterwards.

    The rest is None where there is none, which is nearly always.
    """
    if unit.size == 0 or (float(unit.max()) <= LIMIT and float(unit.min()) >= -LIMIT):
        return unit, None
    inside = unit.clip(-LIMIT, LIMIT)
    return inside, unit - inside


def from_unit(unit: np.ndarray, intensity: Intensity, dtype: np.dtype, out: np.ndarray | None = None) -> np.ndarray:
    """Bring float32 in unit range back to counts of `dtype`: rounded if integer, clipped to the dtype's range.

    They go to `out` if it is given, and `unit` may then be overwritten; else to a new array.
    """
    dtype = np.dtype(dtype)
    counts = unit.astype(_work(dtype), copy=out is None)
    counts *= counts.dtype.type(intensity.scale)
    counts += counts.dtype.type(intensity.offset)
    if dtype.kind == "f":
        least, most = float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    else:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        np.rint(counts, out=counts)
    counts.clip(least, most, out=counts)
    if out is None:
        return counts.astype(dtype)
    np.copyto(out, counts, casting="unsafe")
    return out


def _work(dtype: np.dtype) -> type[np.floating]:
    return np.float32 if dtype.itemsize <= 2 else np.float64


def _missed(values: np.ndarray, low: float, high: float, reach: float) -> bool:
    """Whether the percentiles have missed the specimen; `reach` is how far the values go beyond one of them."""
    far = _REACH * (high - low)
    if reach <= far:
        return False
    if reach > _HELD * (high - low):
        return True
    return sum(int(np.count_nonzero((band > low + far) | (band < low - far))) for band in bands(values)) > _FEW


def _percentiles(values: np.ndarray, rule: Percentiles) -> tuple[float, float]:
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        return _histogram_percentiles(values, rule)
    flat = values.reshape(-1) if values.size <= _SAMPLE else _sample(values)
    if flat.dtype.kind == "f" and flat.dtype.itemsize < 8:
        flat = flat.astype(np.float32 if flat.dtype.itemsize == 4 else np.float64)  # float16 would overflow
    low, high = np.percentile(flat, (rule.low, rule.high))
    return float(low), float(high)


def _histogram_percentiles(values: np.ndarray, rule: Percentiles) -> tuple[float, float]:
    """Exact percentiles of 8- and 16-bit integers, band by band, in memory that does not grow with the image."""
    limit = np.iinfo(values.dtype)
    histogram = np.zeros(limit.max - limit.min + 1, np.int64)
    for rows in bands(values):
        shifted = rows.reshape(-1)
        if limit.min:
            shifted = shifted.astype(np.int32) - limit.min
        histogram += np.bincount(shifted, minlength=histogram.size)
    cumulative = np.cumsum(histogram)

    def percentile(q: float) -> float:
        rank = q / 100 * (values.size - 1)
        below = int(rank)
        first, second = np.searchsorted(cumulative, (below, min(below + 1, values.size - 1)), side="right")
        return float(first + (second - first) * (rank - below) + limit.min)

    return percentile(rule.low), percentile(rule.high)


def _sample(values: np.ndarray) -> np.ndarray:
    step = -(-values.size // _SAMPLE)
    return np.concatenate([plane.flat[::step] for plane in planes(values)])
