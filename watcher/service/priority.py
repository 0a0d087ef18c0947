"""Priority: the acquisition and whoever sits at the microscope come first."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

NICE = 10
_BELOW_NORMAL = 0x4000  # BELOW_NORMAL_PRIORITY_CLASS


def lower_priority() -> None:
    """Lower the priority of this process.

    Where Linux groups sessions (autogroup), niceness counts only within one. So a process that leads its session (a
    service, setsid) lowers that of the session, too. The session of a user's shell is left as it is: it would stay low
    after this process has ended. What cannot be lowered stays as it is.
    """
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        kernel.SetPriorityClass(ctypes.c_void_p(kernel.GetCurrentProcess()), _BELOW_NORMAL)
        return
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    # Linux: each thread has its own, and those of numpy are there already.
    threads = [int(name) for name in os.listdir("/proc/self/task")] if sys.platform == "linux" else [0]
    for thread in threads:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, max(NICE, niceness))
    if sys.platform == "linux" and os.getsid(0) == os.getpid():
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICE), encoding="ascii")
