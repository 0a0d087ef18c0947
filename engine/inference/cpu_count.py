"""How many processor cores this process may really use: affinity and the container's quota count, not the machine."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_cores(cgroup: Path = _CGROUP) -> int:
    """At least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, min(cores, math.ceil(quota)) if quota else cores)


def _quota(cgroup: Path) -> float | None:
    """Cores' worth of processor time that the container grants, None where it sets no limit."""
    with suppress(OSError, ValueError):
        limit, period = (cgroup / "cpu.max").read_text().split()  # version 2: "200000 100000" or "max 100000"
        return None if limit == "max" else int(limit) / int(period)
    with suppress(OSError, ValueError):
        limit = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())  # version 1: -1 means no limit
        return limit / int((cgroup / "cpu/cpu.cfs_period_us").read_text()) if limit > 0 else None
    return None
