"""The frozen suite: the same pixels every time, verified when read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

pytest.importorskip("skimage", reason='needs scikit-image: pip install ".[train]"')

from defocus.engine.errors import InputError
from defocus.training.evaluation import suite
from defocus.training.evaluation.heldout import DISTANCES_UM, TWINS

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "quality" / "defocus_suite.py"
# Of the first drawn field, at 0, 10 and 34 um. It changes when the physics, the camera, the seeds or NumPy's random
# numbers do: then results of before and after do not compare, and docs/results must be made again.
CHECKSUM = "32b8f1222d2787f1f8e360c9c77d9a18eba9407b058690bfee9fb4f0340d78b2"


@pytest.fixture(scope="module")
def small() -> suite.Suite:
    return suite.make("small", suite.make_cases(suite.drawn_fields(1), (0, 10, 34)))


def test_the_pixels_are_those_of_every_machine(small):
    assert small.checksum == CHECKSUM


def test_a_case_is_what_the_camera_recorded(small):
    assert small.fields == ("drawn_1",)
    assert small.distances == (0, 10, 34)
    case = small.cases[1]
    assert (case.seen.dtype, case.sharp.dtype) == (np.uint16, np.float32)
    assert case.seen.shape == case.sharp.shape == (1, *suite.DRAWN_SHAPE)
    assert case.seen.std() < case.sharp.std()


def test_it_comes_back_from_its_folder(small, tmp_path):
    suite.save(small, tmp_path / "s")
    loaded = suite.load(tmp_path / "s")
    assert (loaded.title, loaded.checksum) == (small.title, small.checksum)
    for one, other in zip(loaded.cases, small.cases, strict=True):
        np.testing.assert_array_equal(one.seen, other.seen)
        np.testing.assert_array_equal(one.sharp, other.sharp)
    with pytest.raises(InputError, match="already holds a suite"):
        suite.save(small, tmp_path / "s")


def test_a_changed_pixel_is_found(small, tmp_path):
    suite.save(small, tmp_path)
    path = tmp_path / "z10" / "drawn_1.tif"
    data = tifffile.imread(path)
    data[5, 7] += 1
    tifffile.imwrite(path, data)
    with pytest.raises(InputError, match=r"drawn_1\.tif.*is not the plane"):
        suite.load(tmp_path)


def test_a_plane_left_out_of_the_index_is_found(small, tmp_path):
    suite.save(small, tmp_path)
    index = json.loads((tmp_path / suite.INDEX).read_text())
    index["cases"].pop()
    (tmp_path / suite.INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match="checksum"):
        suite.load(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"title": 1}'])
def test_what_is_no_suite_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / suite.INDEX).write_text(content)
    with pytest.raises(InputError, match=r"suite\.json.*cannot be read as a suite"):
        suite.load(tmp_path)


def test_a_crop_is_the_middle_of_the_defocused_field():
    (field,) = suite.drawn_fields(1)
    whole, part = (next(iter(suite.make_cases([field], (16,), crop))) for crop in (None, (96, 128)))
    top, left = (suite.DRAWN_SHAPE[0] - 96) // 2, (suite.DRAWN_SHAPE[1] - 128) // 2
    np.testing.assert_array_equal(part.seen, whole.seen[:, top : top + 96, left : left + 128])


def test_the_script_builds_and_verifies(tmp_path):
    (field,) = suite.drawn_fields(1)
    tifffile.imwrite(tmp_path / "x_k14_s1_w2.tif", field.data.astype(np.uint16))
    tifffile.imwrite(tmp_path / "x_a01_s1_w2.tif", field.data.astype(np.uint16))

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=300)

    built = run(str(tmp_path), "-o", str(tmp_path / "suite"))
    assert built.returncode == 0, built.stderr
    assert f"1 fields at {', '.join(map(str, DISTANCES_UM))} um" in built.stdout  # the training well is left out
    assert run("--verify", str(tmp_path / "suite")).stdout == built.stdout
    broken = run("--verify", str(tmp_path))
    assert broken.returncode != 0
    assert broken.stderr.startswith("error: ")
    assert len(broken.stderr.splitlines()) == 1


def test_the_twin_is_seen_through_an_aberrated_pupil(small, tmp_path):
    for waves, optics in TWINS.items():
        twin = suite.make("twin", suite.make_cases(suite.drawn_fields(1), (0, 10), optics=optics))
        assert twin.checksum != small.checksum
        for case, ideal in zip(twin.cases, small.cases[:2], strict=True):
            np.testing.assert_array_equal(case.sharp, ideal.sharp)
            # In focus both show what they are given; out of focus each blurs in its own way.
            assert np.array_equal(case.seen, ideal.seen) == (case.z_um == 0)
        suite.save(twin, tmp_path / f"{waves}", optics)
        assert suite.load(tmp_path / f"{waves}").checksum == twin.checksum
        assert json.loads((tmp_path / f"{waves}" / "suite.json").read_text())["optics"]["spherical_waves"] == waves
