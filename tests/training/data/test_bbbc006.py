"""The reader of BBBC006 on a small tree in its exact layout, and on the real files where they are."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest
import tifffile

pytest.importorskip("skimage", reason='needs scikit-image: pip install ".[train]"')

from defocus.engine.errors import InputError
from defocus.training.data import bbbc006
from defocus.training.evaluation.heldout import counts_pair
from defocus.training.evaluation.suite import drawn_fields

from ...helpers.calling import call

WELLS = ("a01", "a02", "p24")


def file_name(well: str, site: int, channel: int) -> str:
    return f"mcf-z-stacks-03212011_{well}_s{site}_w{channel}{uuid.uuid4()}.tif"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three wells, two sites and channels, the planes 11, 16, 17 and 21, each file with a uuid of its own."""
    root = tmp_path_factory.mktemp("BBBC006")
    images = {}
    for channel, field in enumerate(drawn_fields(2), 1):
        for z in (11, 16, 17, 21):
            images[z, channel] = counts_pair(field, abs(z - 16) * 2)[0]
    for (z, channel), image in images.items():
        folder = bbbc006.plane_folder(root, z)
        folder.mkdir(exist_ok=True)
        for well in WELLS:
            for site in (1, 2):
                tifffile.imwrite(folder / file_name(well, site, channel), image, compression="lzw")
    return root


@pytest.fixture(autouse=True)
def fresh():
    bbbc006.files_of_plane.cache_clear()


def test_fields_are_paired_by_well_and_site(tree):
    assert bbbc006.read_fields(tree) == [(well, site) for well in WELLS for site in (1, 2)]


@pytest.mark.parametrize(("z", "focus", "distance"), [(21, 16, 10.0), (11, 16, -10.0), (21, 17, 8.0)])
def test_a_pair_has_both_channels_and_its_distance(tree, z, focus, distance):
    pair = bbbc006.load_pair(tree, ("a02", 2), z, focus)
    assert (pair.z_um, pair.well, pair.name) == (distance, "a02", f"a02_s2_z{z}")
    assert pair.sharp.shape[0] == 2
    assert pair.blurred.dtype == np.float32
    if focus == 16:
        sharp = [counts_pair(field, 0)[0] for field in drawn_fields(2)]
        rim = (sharp[0].shape[0] - pair.sharp.shape[1]) // 2
        inner = slice(rim, -rim) if rim else slice(None)
        np.testing.assert_array_equal(pair.sharp, np.stack(sharp)[:, inner, inner])


def test_the_splits():
    fields = [(well, site) for well in bbbc006.WELLS for site in bbbc006.SITES]
    train, test = bbbc006.paper_split(fields)
    assert (len(train), len(test)) == (675, 93)
    assert train + test == fields
    train, test = bbbc006.well_split(fields)
    assert not {well for well, _ in train} & {well for well, _ in test}
    assert 0.06 < len(test) / len(fields) < 0.18
    fewer = bbbc006.well_split(fields[: len(fields) // 2])[1]
    assert set(fewer) <= set(test)


def test_a_field_is_cut_in_four():
    data = np.arange(2 * 520 * 696, dtype=np.float32).reshape(2, 520, 696)
    parts = bbbc006.crops(bbbc006.Pair(data, data, 10.0, "a01_s1_z21", "a01"))
    assert [part.sharp.shape for part in parts] == [(2, 260, 348)] * 4
    np.testing.assert_array_equal(parts[3].blurred, data[:, 260:, 348:])
    assert [part.name for part in parts] == [f"a01_s1_z21_{i}" for i in (1, 2, 3, 4)]


def test_what_is_wrong_is_named(tree, tmp_path):
    with pytest.raises(InputError, match=r"BBBC006_v1_images_z_16: no such folder"):
        bbbc006.read_fields(tmp_path)
    with pytest.raises(InputError, match=r"z_16: has 12 of 1536 images; the first missing is a03 s1 w1"):
        bbbc006.verify(tree, [16])
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    folder = bbbc006.plane_folder(copy, 16)
    (lost,) = folder.glob("*_a01_s1_w2*")
    lost.unlink()
    with pytest.raises(InputError, match=r"_a01_s1_w1.*has no w2 beside it"):
        bbbc006.read_fields(copy)
    shutil.copy(next(folder.glob("*_a02_s1_w1*")), folder / file_name("a02", 1, 1))
    bbbc006.files_of_plane.cache_clear()
    with pytest.raises(InputError, match="second file of the field"):
        bbbc006.read_fields(copy)
    (bbbc006.plane_folder(copy, 21) / file_name("b09", 1, 1)).touch()
    with pytest.raises(InputError, match="lacks w2 of well b09, site 1"):
        bbbc006.load_pair(copy, ("b09", 1), 21)


def test_the_real_files_in_their_layout(shared_data, tmp_path):
    """z=00 of w1 is real; no in-focus partner of the same field is here, so the pair must be refused."""
    for source, z in (("defocused_w1_z00", 0), ("infocus_w1", 16)):
        folder = bbbc006.plane_folder(tmp_path, z)
        folder.mkdir()
        paths = sorted((shared_data / "bbbc006" / source).iterdir())[:2]
        for well, path in zip(("a01", "a02"), paths, strict=True):
            for channel in (1, 2):
                shutil.copy(path, folder / file_name(well, 1, channel))
    assert bbbc006.read_fields(tmp_path) == [("a01", 1), ("a02", 1)]
    with pytest.raises(InputError, match=r"does not match|px away"):
        bbbc006.load_pair(tmp_path, ("a01", 1), 0)
    (_, path), *_ = bbbc006.files_of_plane(bbbc006.plane_folder(tmp_path, 0)).items()
    assert tifffile.imread(path).shape == bbbc006.SHAPE


def test_defocus_evaluate_trains_and_tests_on_it(tree, tmp_path, monkeypatch):
    """The paper's split of six fields: five to train on, one to test, in four crops of two channels."""
    pytest.importorskip("lightning", reason='needs Lightning: pip install ".[train]"')
    from defocus.training.evaluation.compare import PLANS

    monkeypatch.setitem(PLANS, "residual-1", {"crop": 64, "batch": 2})  # its 20 steps are all of the training
    given = ["--bbbc006", tree, "--distance-um", "10", "--train", "--minutes", "0.015"]
    given += ["--method", "residual-1", "--method", "rl"]
    given += ["--weights", tmp_path / "weights", "--runs", tmp_path / "runs", "-o", tmp_path / "results"]
    done = call("defocus.training.cli.evaluate", "defocus-evaluate", *given)
    assert done.returncode == 0, done.stderr
    scores = (tmp_path / "results" / "scores.csv").read_text().splitlines()
    assert len(scores) == 1 + 3 * 4  # input, Richardson-Lucy, U-Net
    assert "residual-1,p24_s2_z21_4,10," in "\n".join(scores)
    assert "BBBC006, the paper's test fields" in (tmp_path / "results" / "methods.md").read_text()
