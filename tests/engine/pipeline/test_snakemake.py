"""The Snakemake rule, run by Snakemake itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

SNAKEFILE = Path(__file__).resolve().parents[3] / "pipelines" / "snakemake" / "Snakefile"
SNAKEMAKE = os.environ.get("SNAKEMAKE") or shutil.which("snakemake", path=str(Path(sys.executable).parent))


@pytest.mark.slow
@pytest.mark.skipif(SNAKEMAKE is None, reason="needs snakemake: pip install snakemake, or SNAKEMAKE=/path/to/it")
def test_a_job_a_file_and_nothing_twice(tmp_path, tiny_model):
    for index in range(3):
        folder = tmp_path / "raw" / f"plate {index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / f"{index}.tif", np.random.default_rng(index).integers(0, 999, (64, 64), np.uint16))
    # Snakemake runs the defocus-run of this environment, whichever environment it is in itself.
    programs = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    line = [str(SNAKEMAKE), "--snakefile", str(SNAKEFILE), "--cores", "2", "--config", "input=raw", "output=corrected"]
    line += [f"model={tiny_model}", "backend=cpu"]

    def run() -> str:
        done = subprocess.run(
            line, cwd=tmp_path, env=os.environ | programs, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stderr + done.stdout

    run()
    made = sorted(
        path.relative_to(tmp_path / "corrected").as_posix() for path in (tmp_path / "corrected").rglob("*.tif")
    )
    assert made == ["plate 0/0.tif", "plate 0/2.tif", "plate 1/1.tif"]
    report = json.loads((tmp_path / "logs" / "defocus" / "plate 0" / "0.tif.json").read_text())
    assert report["status"] == "done"
    assert "Nothing to be done" in run()
