"""defocus-watch, a real process: sharp files are kept bit for bit, and the journal says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile

from defocus.engine.tiff.read import read_provenance
from defocus.training.evaluation.heldout import CAMERA, OPTICS
from defocus.training.physics.optics import defocus
from defocus.training.physics.specimen import draw_cells
from defocus.watcher.journal import Journal


def test_sharp_files_are_copied_and_defocused_ones_corrected(folders):
    acquisition, out = folders
    rng = np.random.default_rng(8)
    sharp = draw_cells((240, 256), rng) * 1500
    planes = {name: CAMERA.expose(defocus(sharp, OPTICS, z), rng) for name, z in (("sharp.tif", 0), ("far.tif", 16))}
    for name, plane in planes.items():
        tifffile.imwrite(acquisition / name, plane, description="stage 3")
    command = [sys.executable, "-m", "defocus.watcher.cli", str(acquisition), "-o", str(out), "--once"]
    command += ["--settle", "0.1", "--backend", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sharp.tif: kept in" in done.stdout
    assert "far.tif: corrected in" in done.stdout
    assert np.array_equal(tifffile.imread(out / "sharp.tif"), planes["sharp.tif"])
    assert not np.array_equal(tifffile.imread(out / "far.tif"), planes["far.tif"])
    with Journal(out) as journal:
        for name, copied in (("sharp.tif", True), ("far.tif", False)):
            entry = journal.find(Path(name))
            assert entry is not None
            (report,) = json.loads(entry.report)
            assert report["copied"] is copied
            account = read_provenance(out / name)
            assert account is not None
            assert account["planes"] == [report]
            with tifffile.TiffFile(out / name) as tif:
                assert tif.pages.first.description == "stage 3"
