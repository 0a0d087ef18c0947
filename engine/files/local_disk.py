"""Whether a file lies on a disk of this machine, not on a share or a stick that may go while it is in use."""

from __future__ import annotations

import os
from pathlib import Path

_LOCAL = {"ext2", "ext3", "ext4", "xfs", "f2fs", "jfs", "zfs", "tmpfs", "overlay"}
_MOUNTS = Path("/proc/self/mountinfo")


def is_local(descriptor: int) -> bool:
    """False where that is not known: on other systems than Linux, and of file systems not named here."""
    device = os.fstat(descriptor).st_dev
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for fields in map(str.split, lines):  # 36 35 98:0 /root /mount options shared:1 - ext4 /dev/sda1 options
        if len(fields) > 2 and fields[2] == wanted and "-" in fields:
            return fields[fields.index("-") + 1] in _LOCAL
    return False
