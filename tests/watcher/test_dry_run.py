"""What `--dry-run` says is what the daemon does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile

from .conftest import PAIRS, QUICK, command, listing, states, write_tiff


@pytest.fixture
def said(folders, tiny_model):
    """What is said of each file; nothing of the folders may change."""

    def ask(*arguments: object, model: Path = tiny_model) -> dict[str, str]:
        acquisition, out = folders
        before = listing(acquisition) | listing(out)
        line = (acquisition, "-o", out, "--model", model, "--backend", "cpu", "--dry-run", *arguments)
        done: subprocess.CompletedProcess[str] = command(*line)
        assert done.returncode == 0, done.stderr
        assert listing(acquisition) | listing(out) == before
        return dict(one.removeprefix(f"{acquisition}/").split(": ", 1) for one in done.stdout.splitlines())

    return ask


def test_what_was_set_aside_stays_so_until_it_changes(folders, start, said):
    acquisition, out = folders
    write_tiff(acquisition / "good.tif")
    image = np.full((64, 64), np.nan, np.float32)
    tifffile.imwrite(acquisition / "nan.tif", image)
    tifffile.imwrite(acquisition / "mended.tif", image)
    assert start("--once", *QUICK).process.wait(300) == 1
    assert states(out) == {"good.tif": "done", "nan.tif": "quarantined", "mended.tif": "quarantined"}
    write_tiff(acquisition / "mended.tif", 1)
    found = said()
    assert found["nan.tif"].startswith("quarantined: ")
    assert "holds NaN values" in found["nan.tif"]
    assert (found["good.tif"], found["mended.tif"]) == ("done", "correct")


def test_another_model_tries_again(folders, start, said, make_model, tmp_path):
    acquisition, _ = folders
    tifffile.imwrite(acquisition / "nan.tif", np.full((64, 64), np.nan, np.float32))
    assert start("--once", *QUICK).process.wait(300) == 1
    assert said(model=make_model(tmp_path / "other.onnx", name="other")) == {"nan.tif": "correct"}


def test_a_file_that_was_set_aside_without_its_partner_is_corrected_with_it(folders, pairs, said, tiny_model_2c):
    acquisition, out = folders
    write_tiff(acquisition / "a_w1.tif")
    assert pairs("--once").process.wait(300) == 1
    assert states(out) == {"a_w1.tif": "quarantined"}
    write_tiff(acquisition / "a_w2.tif", 1)
    found = said("--channels", PAIRS, model=tiny_model_2c)
    assert found == {"a_w1.tif": "correct, together with a_w2.tif", "a_w2.tif": "correct, together with a_w1.tif"}


def test_a_line_break_in_a_name_makes_no_line(folders, said):
    write_tiff(folders[0] / "a.tif: correct\nb.tif")
    assert said() == {"a.tif": r"correct\nb.tif: correct"}
