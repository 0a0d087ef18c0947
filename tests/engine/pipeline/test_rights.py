"""Inputs that are read-only, as instruments leave them: corrected by one who is not root, with rights like theirs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has other rights")

CODE = """
import json, os, sys
from pathlib import Path
from defocus.engine.inference.engine import Engine
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.steps import process

folder, model = Path(sys.argv[1]), sys.argv[2]

def corrected(name):
    job = Job(folder / "in" / name, folder / "out" / name)
    outcome = process(job, engine, keep_sharp=False, memory=1 << 20)
    return str(outcome.error) if outcome.error else None

with Engine.load(model, backend="cpu") as engine:
    corrected("first.tif")  # all that is imported on the way
    if os.geteuid() == 0:
        for path in (folder, folder / "in", folder / "out", *folder.rglob("*.tif")):
            os.chown(path, 65534, 65534)
        os.setgid(65534)
        os.setuid(65534)
    print(json.dumps({name: [corrected(name), corrected(name)] for name in sys.argv[3:]}))
"""


def test_files_that_are_read_only_are_corrected_and_stay_so(tiny_model):
    pixels = np.random.default_rng(0).integers(0, 4000, (400, 500)).astype(np.uint16)
    kinds = {"large.tif": pixels, "small.tif": pixels[:100, :100], "lzw.tif": pixels[:100, :100]}
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are root's alone
        folder = Path(name)
        (folder / "in").mkdir()
        for file, data in {"first.tif": pixels, **kinds}.items():
            tifffile.imwrite(folder / "in" / file, data, compression="lzw" if file == "lzw.tif" else None)
            (folder / "in" / file).chmod(0o440)
        command = [sys.executable, "-c", CODE, name, str(tiny_model), *kinds]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {file: [None, None] for file in kinds}
        for file, data in kinds.items():
            assert stat.S_IMODE((folder / "out" / file).stat().st_mode) == 0o440
            assert tifffile.imread(folder / "out" / file).shape == data.shape
