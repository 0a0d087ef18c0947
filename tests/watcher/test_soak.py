"""Long soaks, run by `make soak`."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from defocus.engine import tiff
from defocus.engine.commit import PREFIX, SUFFIX

from .conftest import outputs, write_tiff


@pytest.mark.slow
def test_sixty_kills_at_random_moments_lose_and_double_nothing(folders, start, tmp_path):
    """Files keep arriving and being rewritten while the daemon is killed again and again."""
    acquisition, out = folders
    rng = random.Random(0)
    for round_ in range(60):
        for index in range(5):
            # Five new names a round; every third round the first ones are written again.
            name = f"{index if round_ % 3 == 2 else 5 * round_ + index:03d}.tif"
            write_tiff(acquisition / name, 1000 * round_ + index, (96, 96))
        watching = start("--settle", "0.1", "--rescan", "0.2")
        time.sleep(rng.uniform(0.3, 1.5))
        watching.kill()
    last = start("--once", "--settle", "0.1", "--rescan", "0.2")
    assert last.process.wait(120) == 0, last.said()
    assert outputs(out) == outputs(acquisition)
    assert list(out.rglob(f"{PREFIX}*{SUFFIX}")) == []
    clean = tmp_path / "clean"
    assert start("-o", str(clean), "--once", "--settle", "0.1").process.wait(120) == 0
    for name in outputs(clean):
        np.testing.assert_array_equal(tiff.read(out / name).data, tiff.read(clean / name).data)
