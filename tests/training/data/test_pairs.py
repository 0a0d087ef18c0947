"""Measured pairs and focus stacks: registered, checked, and refused with the file's name."""

from __future__ import annotations

import uuid
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

pytest.importorskip("skimage", reason='needs scikit-image: pip install ".[train]"')

from defocus.engine.errors import InputError
from defocus.training.data.folders import pairs_from_folders
from defocus.training.data.pairs import moved, offset
from defocus.training.data.stacks import pairs_from_stacks, read_stack, sharpest
from defocus.training.evaluation.heldout import counts_pair
from defocus.training.evaluation.suite import drawn_fields

CELLS, OTHERS = drawn_fields(2)


def seen(z: int, field=CELLS) -> np.ndarray:
    return simulated(z, field is OTHERS)


@cache
def simulated(z: int, others: bool) -> np.ndarray:
    plane = counts_pair(OTHERS if others else CELLS, z)[0]
    plane.setflags(write=False)
    return plane


def stack(distances: tuple[int, ...] = (-16, -8, 0, 8, 16)) -> np.ndarray:
    return np.stack([seen(abs(z)) for z in distances])


def write(path: Path, data: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options.setdefault("photometric", "minisblack")
    tifffile.imwrite(path, data, **options)
    return path


@pytest.mark.parametrize("z", [0, 10, 22, 34])
def test_a_shift_is_found_through_the_blur(z):
    shift, correlation = offset(np.roll(seen(z), (3, -5), (0, 1)), counts_pair(CELLS, z)[1])
    np.testing.assert_allclose(shift, (-3, 5), atol=0.1 + z / 25)
    assert correlation > 0.6


def test_another_field_does_not_correlate():
    assert offset(seen(10, OTHERS), seen(0))[1] < 0.1


def test_moving_by_parts_of_a_pixel_and_back():
    smooth = seen(16).astype(np.float32)
    there = moved(smooth, np.array((0.4, -1.3)))
    inner = (slice(4, -4),) * 2
    np.testing.assert_allclose(moved(there, np.array((-0.4, 1.3)))[inner], smooth[inner], atol=0.02 * smooth.max())


def test_folders_are_paired_by_name(tmp_path):
    write(tmp_path / "blurred" / "day" / "a.tif", np.roll(seen(10), 4, 0))
    write(tmp_path / "sharp" / "day" / "a.tiff", seen(0))
    (pair,) = pairs_from_folders(tmp_path / "blurred", tmp_path / "sharp")
    assert (pair.name, pair.z_um) == ("day/a", None)
    height, _ = CELLS.data.shape
    assert pair.blurred.shape == pair.sharp.shape
    assert pair.sharp.shape[1] in range(height - 10, height - 7)  # the rim of 4 or 5 px is cut off
    assert pair.blurred.dtype == np.float32
    np.testing.assert_allclose(offset(pair.blurred[0], pair.sharp[0])[0], 0, atol=0.3)


def bbbc006(well: str, site: int, channel: int) -> str:
    return f"mcf-z-stacks-03212011_{well}_s{site}_w{channel}{uuid.uuid4()}.tif"


def test_files_of_bbbc006_are_paired_by_well_site_and_channel(tmp_path):
    planes = {(1, 1): CELLS, (1, 2): OTHERS, (2, 1): OTHERS}
    for (site, channel), field in planes.items():
        write(tmp_path / "BBBC006_v1_images_z_21" / bbbc006("k14", site, channel), seen(10, field))
        write(tmp_path / "BBBC006_v1_images_z_16" / bbbc006("k14", site, channel), seen(0, field))
    pairs = pairs_from_folders(tmp_path / "BBBC006_v1_images_z_21", tmp_path / "BBBC006_v1_images_z_16", 10.0)
    names = ["mcf-z-stacks-03212011_k14_s1_w1", "mcf-z-stacks-03212011_k14_s1_w2", "mcf-z-stacks-03212011_k14_s2_w1"]
    assert sorted(pair.name for pair in pairs) == names
    assert {(pair.well, pair.z_um, len(pair.sharp)) for pair in pairs} == {("k14", 10.0, 1)}


@pytest.fixture(scope="module")
def folders_that_are_wrong(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("folders")
    write(root / "lonely/b/a.tif", seen(0))
    write(root / "lonely/s/a.tif", seen(0))
    write(root / "lonely/s/c.tif", seen(0))
    write(root / "size/b/a.tif", seen(0)[:200])
    write(root / "size/s/a.tif", seen(0))
    write(root / "field/b/a.tif", seen(10, OTHERS))
    write(root / "field/s/a.tif", seen(0))
    write(root / "far/b/a.tif", np.roll(seen(0), 60, 1))
    write(root / "far/s/a.tif", seen(0))
    write(root / "colour/b/a.tif", np.zeros((80, 90, 3), np.uint8), photometric="rgb")
    write(root / "colour/s/a.tif", np.zeros((80, 90), np.uint8))
    write(root / "twice/b" / bbbc006("a01", 1, 1), seen(10))
    write(root / "twice/b" / bbbc006("a01", 1, 1), seen(10))
    write(root / "twice/s" / bbbc006("a01", 1, 1), seen(0))
    write(root / "suffix/b/a.tif", seen(10))
    write(root / "suffix/b/a.tiff", seen(10))
    write(root / "suffix/s/a.tif", seen(0))
    write(root / "channel/b" / bbbc006("a01", 1, 1), seen(10))
    write(root / "channel/s" / bbbc006("a01", 1, 2), seen(0))
    return root, {
        "lonely": r"c\.tif: has no partner",
        "size": r"a\.tif: has another size than a\.tif \(348 x 200 x 1 and 348 x 260 x 1\)|has another size",
        "field": r"a\.tif: does not match",
        "far": r"a\.tif: (lies \d+ px away|does not match)",
        "colour": r"a\.tif: is not one grey plane",
        "twice": r"_a01_s1_w1.*would have the same partner as mcf-",
        "suffix": r"a\.tiff: would have the same partner as a\.tif",
        "channel": r"_a01_s1_w1.*has no partner in .*of the same well, site and channel",
    }


@pytest.mark.parametrize("case", ["lonely", "size", "field", "far", "colour", "twice", "suffix", "channel"])
def test_folders_that_do_not_match_are_refused(folders_that_are_wrong, case):
    root, causes = folders_that_are_wrong
    with pytest.raises(InputError, match=causes[case]):
        pairs_from_folders(root / case / "b", root / case / "s")


def test_the_sharpest_plane_is_that_of_focus():
    assert sharpest(list(stack())) == 2
    dim = np.random.default_rng(0).poisson(stack() / 50.0)
    assert sharpest(list(dim)) == 2


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeZ": 8.0, "PhysicalSizeZUnit": "µm"}}, 8.0),
        ({"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeZ": 8000.0, "PhysicalSizeZUnit": "nm"}}, 8.0),
        ({"imagej": True, "metadata": {"axes": "ZYX", "spacing": 8.0, "unit": "um"}}, 8.0),
        ({"imagej": True, "metadata": {"axes": "ZYX", "spacing": 8.0, "unit": "furlong"}}, None),
        ({}, None),
    ],
)
def test_the_step_is_read_from_the_metadata(tmp_path, options, step):
    planes, known = read_stack(write(tmp_path / "a.tif", stack(), **options))
    assert planes.shape == (5, *CELLS.data.shape)
    assert known == step


def test_every_plane_is_paired_with_the_sharpest(tmp_path):
    write(tmp_path / "well_1.ome.tif", stack(), ome=True, metadata={"axes": "ZYX", "PhysicalSizeZ": 8.0})
    pairs = pairs_from_stacks(tmp_path)
    assert [(pair.well, pair.z_um) for pair in pairs] == [("well_1", z) for z in (-16.0, -8.0, 8.0, 16.0)]
    for pair in pairs:
        np.testing.assert_array_equal(pair.sharp[0], seen(0))
    assert [pair.z_um for pair in pairs_from_stacks(tmp_path, distances=[16])] == [-16.0, 16.0]
    with pytest.raises(InputError, match="no plane at these distances"):
        pairs_from_stacks(tmp_path, distances=[40])


def test_one_file_a_plane(tmp_path):
    for index, plane in enumerate(stack()):
        write(tmp_path / f"B02_s1_z{index:02d}.tif", plane)
    pairs = pairs_from_stacks(tmp_path, "{field}_z{z}.tif", 8.0)
    assert {pair.well for pair in pairs} == {"B02_s1"}
    assert [pair.z_um for pair in pairs] == [-16.0, -8.0, 8.0, 16.0]


@pytest.fixture(scope="module")
def stacks_that_are_wrong(tmp_path_factory) -> tuple[Path, dict[str, tuple[str, dict]]]:
    root = tmp_path_factory.mktemp("stacks")
    write(root / "step/a.tif", stack())
    write(root / "end/a.tif", stack((0, 8, 16)))
    write(root / "one/a.tif", stack()[:1])
    write(root / "colour/a.tif", np.zeros((5, 80, 90, 3), np.uint8), photometric="rgb")
    write(root / "sizes/a_z0.tif", seen(8))
    write(root / "sizes/a_z1.tif", seen(0))
    write(root / "sizes/a_z2.tif", seen(8)[:200])
    write(root / "pattern/a.tif", stack())
    write(root / "noise/a.tif", stack())
    write(root / "mixed/a.tif", np.stack([seen(8), seen(0), seen(8, OTHERS)]))
    (root / "text").mkdir()
    (root / "text/a.tif").write_text("no TIFF")
    return root, {
        "step": (r"a\.tif: does not say how far.*--step-um", {}),
        "end": (r"a\.tif: the first plane of a is its sharpest", {"step_um": 8.0}),
        "one": (r'a\.tif: holds a single plane; .*--plane-pattern "\{field\}_z\{z\}\.tif"', {"step_um": 8.0}),
        "colour": (r"a\.tif: is no z-stack", {"step_um": 8.0}),
        "sizes": (r"a_z2\.tif: has another size", {"pattern": "{field}_z{z}.tif", "step_um": 8.0}),
        "pattern": (r"holds no file named like", {"pattern": "{field}_z{z}.tif", "step_um": 8.0}),
        "noise": (r"does not say where field and plane stand", {"pattern": "x.tif", "step_um": 8.0}),
        "mixed": (r"a\.tif: does not match", {"step_um": 8.0}),
        "text": (r"a\.tif: cannot be read", {"step_um": 8.0}),
    }


@pytest.mark.parametrize("case", ["step", "end", "one", "colour", "sizes", "pattern", "noise", "mixed", "text"])
def test_stacks_that_cannot_be_used_are_refused(stacks_that_are_wrong, case):
    root, causes = stacks_that_are_wrong
    cause, options = causes[case]
    with pytest.raises(InputError, match=cause):
        pairs_from_stacks(root / case, **options)


@pytest.mark.seconds
def test_the_real_bead_stacks(shared_data):
    pairs = pairs_from_stacks(shared_data / "beads", "{field}_z{z}.tif", 5.0, distances=[10, 20])
    assert len(pairs) == 16  # 4 stacks, z05 the sharpest of each, planes at -20, -10, 10 and 20 um
    assert sorted({pair.z_um or 0.0 for pair in pairs}) == [-20.0, -10.0, 10.0, 20.0]
