from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource
from pathlib import Path
import numpy as np
from defocus.engine.errors import shortage
from defocus.engine.image.fourier import rfft2
taken = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (taken + (60 << 20), -1))
try:
    rfft2(np.zeros((8, 8), np.float32))
except OSError as error:
    print(shortage(error)[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of a process")
def test_scipy_is_not_loaded_where_memory_does_not_suffice():
    """Its OpenBLAS would ask for a buffer again and again, for ever, in the middle of the work."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.stdout == "not enough memory\n", done.stderr
