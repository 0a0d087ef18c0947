"""How much memory there is for tiles: what the user grants, what the machine has left, what a runtime takes a pixel."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MEMORY = 2 * 10**9  # bytes of tiles, and of pixels of files in memory, unless the user says otherwise
_SHARE = 0.6  # of what is free at the start; the rest is for images and other programs
_CGROUP, _MEMINFO = Path("/sys/fs/cgroup"), Path("/proc/meminfo")


@dataclass(frozen=True)
class Footprint:
    """What running a model takes.

    Attributes
    ----------
    bytes_per_pixel : float or None
        Of height x width of a batch, at the peak of a run, beyond what the session holds anyway. None: not known.
    longest_side : int or None
        Of a tile, px; None: any.
    free : int or None
        Bytes of the device's memory that are free. None: it is the processor's, or not known.
    cut_bytes_per_pixel : float or None
        What `bytes_per_pixel` is for a tile of a plane that is cut (`ExactSession`); None: the same.
    """

    bytes_per_pixel: float | None = None
    longest_side: int | None = None
    free: int | None = None
    cut_bytes_per_pixel: float | None = None


def pixels_for(footprint: Footprint, memory: int, least: int) -> int:
    """How many pixels may be on their way through the network at once; `memory` in bytes, 0 for as much as is free.

    At least `least`, a tile that is worth its halo.
    """
    assert footprint.bytes_per_pixel is not None
    free = available_memory() if footprint.free is None else footprint.free
    bounds = [memory] if memory and footprint.free is None else []  # the user's bound is the processor's memory
    bounds += [round(_SHARE * free)] if free is not None else []
    return max(least, round(min(bounds or [MEMORY]) / footprint.bytes_per_pixel))


def available_memory(cgroup: Path = _CGROUP, meminfo: Path = _MEMINFO) -> int | None:
    """Bytes that this process may still take without others being swapped out; None where that is not told."""
    if os.name == "nt":
        return _windows()
    bounds = []
    with suppress(OSError, ValueError, StopIteration):
        line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
        bounds.append(int(line.split()[1]) * 1024)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # "max" where there is no limit
            bounds.append(int((cgroup / limit).read_text()) - int((cgroup / used).read_text()) + _reclaimable(cgroup))
            break
    return max(0, min(bounds)) if bounds else None


def _reclaimable(cgroup: Path) -> int:
    """What files take of a container's memory and would give back."""
    for name in ("memory.stat", "memory/memory.stat"):
        with suppress(OSError, ValueError):
            fields = dict(line.split() for line in (cgroup / name).read_text().splitlines())
            return int(fields.get("total_inactive_file") or fields.get("inactive_file") or 0)
    return 0


def _windows() -> int | None:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "a", "b", "c", "d", "e")),
        )

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined]
        return None
    return int(status.free)
