"""Mutated TIFFs of every codec: no crash, no hang, one line where refused, other bytes only where pixels are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .mutated import CODECS, SECONDS

ROOT = Path(__file__).resolve().parents[3]
FILES = 800  # of each codec: 12,000 in all


def treat(codec: str, first: int, count: int, tmp_path: Path) -> tuple[int, int]:
    """How many files of a codec were written, and refused, from number `first` on; fails if one broke a rule."""
    command = [sys.executable, "-m", "tests.engine.tiff.mutated", codec, str(first), str(count), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=count * SECONDS, errors="replace"
    )
    last = tmp_path / "last"
    where = last.read_text(encoding="utf-8") if last.exists() else "before the first file"
    assert done.returncode == 0, f"{where}: ended with {done.returncode}\n{done.stderr[-3000:]}"
    *broken, summary = done.stdout.splitlines()
    assert not broken, "\n".join(broken[:20])
    assert "Traceback" not in done.stderr, done.stderr[-3000:]  # libpng and jxrlib have words of their own there
    written, refused = map(int, re.findall(r"\d+", summary))
    assert written + refused == count
    return written, refused


@pytest.mark.parametrize("count", [10, pytest.param(FILES, marks=pytest.mark.slow)])
@pytest.mark.parametrize("codec", CODECS)
def test_a_mutated_file_is_refused_or_keeps_all_but_its_pixels(codec, count, tmp_path):
    written, refused = treat(codec, 0, count, tmp_path)
    if count == FILES:
        assert refused > FILES // 20
        assert written > FILES // 20 or codec.startswith("group")  # of one bit, which is not corrected


def test_a_strip_that_crashes_its_decoder_is_refused(tmp_path):
    """The header of one strip is such that JPEG XR's library divides by zero, which would end the process."""
    assert treat("jpegxr", 671, 1, tmp_path) == (0, 1)


def test_a_page_that_is_stored_otherwise_than_the_others_is_corrected_too(tmp_path):
    """One of three says that its JPEG is of the old kind; written as deflate, the three are one image."""
    assert treat("jpeg", 146, 1, tmp_path) == (1, 0)
