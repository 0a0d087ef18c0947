"""The proof at the end of `make soak-30min` finds what it is there to find."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import tifffile

from benchmarks.soak.load import Load
from benchmarks.soak.proof import wrong
from defocus.engine.files.atomic import PREFIX

from .conftest import write_tiff

ROOT = Path(__file__).resolve().parents[2]


def spoil(acquisition: Path, out: Path, names: list[str]) -> list[str]:
    """Do one of each harm to files that are right; what the proof must say, in its order."""
    lost, other, changed, added = names[:4]
    (out / lost).unlink()
    image = tifffile.imread(out / other)
    image[0, 0] += 1
    tifffile.imwrite(out / other, image)
    os.utime(acquisition / changed, (1, 1))
    (out / "nobody.tif").write_bytes(b"asked for this")
    (out / f"{PREFIX}1.part").write_bytes(b"half")
    return [
        f"input: {changed} was changed",
        f"lost: {lost}",
        f"not asked for: {PREFIX}1.part",
        "not asked for: nobody.tif",
        f"left over: {out / PREFIX}1.part",
        f"doubled: {added}, 2 times, 1 versions",
        f"other pixels: {other}",
    ]


def test_the_proof_names_every_harm(folders, start, tiny_model):
    acquisition, out = folders
    load = Load(acquisition, 1.0, (64, 64))
    names = [f"{index}.tif" for index in range(5)]
    for seed, name in enumerate(names):
        write_tiff(acquisition / name, seed)
        load._wrote(name, "at once")
    (acquisition / "bad.tif").write_bytes(b"no TIFF")
    load._wrote("bad.tif", "bad", good=False)
    assert start("--once", "--settle", "0.1", "--patience", "0.2").process.wait(300) == 1
    done = Counter(names)
    assert wrong(acquisition, out, load.files, done, str(tiny_model), "cpu") == []
    expected = spoil(acquisition, out, names)
    assert wrong(acquisition, out, load.files, done + Counter([names[3]]), str(tiny_model), "cpu") == expected


@pytest.mark.slow
def test_a_short_soak(tmp_path, tiny_model):
    """All of it, small and short: the table says that nothing is wrong."""
    line = [sys.executable, "-m", "benchmarks.soak.soak", "--minutes", "0.5", "--rate", "4"]
    line += ["--shape", "64", "96", "--model", str(tiny_model), "--work", str(tmp_path / "work")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\| lost, doubled, changed or otherwise wrong \| 0 \|", done.stdout)
    assert re.search(r"\| files in the end \| \d+: [1-9]\d* corrected, [1-9]\d* quarantined \|", done.stdout)
