"""Training on measured pairs: the crops, the split, and the command from folders to checkpoint."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tifffile

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install ".[train]"')
pytest.importorskip("lightning", reason='needs Lightning: pip install ".[train]"')

from defocus.engine.errors import InputError  # noqa: E402
from defocus.training.data.paired import (  # noqa: E402
    PairedCrops,
    PairedPlanes,
    at_distance,
    recipe_for,
    split_pairs,
)
from defocus.training.data.pairs import Pair  # noqa: E402
from defocus.training.fit.checkpoint import load_checkpoint  # noqa: E402
from defocus.training.fit.preview import choose, draw  # noqa: E402
from defocus.training.fit.recipe import Recipe  # noqa: E402
from defocus.training.physics.specimen import draw_cells  # noqa: E402

SMALL = Recipe(crop=32, batch=2, steps=4, channels=2)


def pair(index: int, z_um: float | None = 10.0, channels: int = 2, side: int = 96) -> Pair:
    """Sharp counts, and the same at half the contrast as "blurred": what a crop shows can be told from its partner."""
    rng = np.random.default_rng(index)
    sharp = rng.uniform(100, 1100, (channels, side, side + 16)).astype(np.float32)
    return Pair(blurred=100 + (sharp - 100) / 2, sharp=sharp, z_um=z_um, name=f"well{index}_s1", well=f"well{index}")


def test_a_crop_is_a_function_of_seed_and_index():
    pairs = [pair(0), pair(1)]
    first, second = PairedCrops(pairs, SMALL), PairedCrops(pairs, SMALL)
    for index in (7, 0, 7):
        for one, other in zip(first[index], second[index], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert not torch.equal(first[0][0], first[1][0])
    elsewhere = PairedCrops(pairs, Recipe(crop=32, batch=2, steps=4, channels=2, seed=1))
    assert not torch.equal(first[0][0], elsewhere[0][0])


def test_both_crops_show_the_same_place_in_the_blurred_plane_s_range():
    crops = PairedCrops([pair(0)], SMALL)
    whole, places = pair(0).sharp, set()
    for index in range(20):
        blurred, sharp = crops[index]
        assert blurred.shape == sharp.shape == (2, 32, 32)
        assert blurred.dtype == sharp.dtype == torch.float32
        assert -0.1 < float(blurred.min()) < 0.05
        assert 0.9 < float(blurred.max()) < 1.1
        assert 1.8 < float(sharp.max()) < 2.2  # the same counts as twice the contrast
        for channel in range(2):  # a straight line, if they show the same place
            joint = np.corrcoef(blurred[channel].flatten().numpy(), sharp[channel].flatten().numpy())
            assert joint[0, 1] > 0.999
        places.add(float(sharp[0, 0, 0]))
    assert len(places) == 20
    assert whole.shape == (2, 96, 112)


def test_flips_and_turns_all_come():
    one = pair(0, channels=1, side=32)
    square = Pair(one.blurred[:, :, :32], one.sharp[:, :, :32], 10.0, "a", "a")
    crops = PairedCrops([square], Recipe(crop=32))
    assert len({crops[index][1].numpy().tobytes() for index in range(80)}) == 8


def test_the_split_keeps_a_well_together_and_takes_patterns():
    pairs = [
        Pair(np.zeros((1, 32, 32), np.float32), np.zeros((1, 32, 32), np.float32), z, f"w{well}_z{z}", f"w{well}")
        for well in range(60)
        for z in (10.0, 20.0)
    ]
    train, held = split_pairs(pairs)
    assert train
    assert held
    assert not {one.well for one in train} & {one.well for one in held}
    _, held = split_pairs(pairs, ["w7_*"])
    assert [one.name for one in held] == ["w7_z10.0", "w7_z20.0"]
    with pytest.raises(InputError, match="every pair is held out"):
        split_pairs(pairs, ["*"])


def test_pairs_of_one_distance():
    pairs = [pair(0, 10.0), pair(1, -10.0), pair(2, 20.0)]
    assert [one.name for one in at_distance(pairs, 10)] == ["well0_s1", "well1_s1"]
    with pytest.raises(InputError, match="10, 20 um"):
        at_distance(pairs, 15)
    with pytest.raises(InputError, match="do not say"):
        at_distance([pair(0, None)], 15)


def test_the_recipe_takes_the_channels_of_the_pairs():
    pairs = [pair(0), pair(1)]
    assert recipe_for(pairs, Recipe(crop=32), 16).channels == 2
    with pytest.raises(InputError, match="set channels = 2"):
        recipe_for(pairs, Recipe(crop=32, channels=3), 16)
    with pytest.raises(InputError, match="set crop = 96"):
        recipe_for(pairs, Recipe(crop=128), 16)
    with pytest.raises(InputError, match="one channel count"):
        recipe_for([pair(0), pair(1, channels=1)], Recipe(crop=32), 16)


def test_held_out_pairs_show_their_middle():
    planes = PairedPlanes([pair(0, side=100), pair(1, None, side=700)], 16)
    blurred, sharp, z = planes[0]
    assert (blurred.shape, float(z)) == ((2, 96, 112), 10.0)
    assert sharp.shape == blurred.shape
    blurred, _, z = planes[1]
    assert blurred.shape == (2, 512, 512)
    assert math.isnan(float(z))


def test_previews_spread_over_the_distances():
    assert choose([0, 10, 16, 22, 28, 34, 0, 10]) == [0, 2, 3, 5]
    assert choose([10, -10, 10]) == [0]
    assert choose([math.nan, math.nan]) == [0, 1]
    assert choose([]) == []
    image = np.linspace(0, 1, 300 * 40, dtype=np.float32).reshape(300, 40)
    picture = draw([("10 um", [image, np.full_like(image, np.nan), image])])
    assert picture.size == (3 * 44, 260)


@pytest.fixture
def folders(tmp_path):
    """Two folders of the same four fields: sharp, and smoothed by a box."""
    rng = np.random.default_rng(0)
    blurred, sharp = tmp_path / "blurred", tmp_path / "sharp"
    blurred.mkdir()
    sharp.mkdir()
    for index in range(4):
        field = draw_cells((96, 96), rng) * 1000 + 100
        smooth = sum(np.roll(field, (dy, dx), (0, 1)) for dy in range(-3, 4) for dx in range(-3, 4)) / 49
        tifffile.imwrite(sharp / f"field{index}.tif", field.astype(np.uint16))
        tifffile.imwrite(blurred / f"field{index}.tif", np.asarray(smooth).astype(np.uint16))
    return blurred, sharp


def test_the_command_trains_on_pairs_of_folders(train, recipe_file, history, folders, tmp_path):
    out = tmp_path / "run"
    recipe = recipe_file(validate_every=3)
    done = train("--pairs", *folders, "--hold-out", "field3*", "--recipe", recipe, "-o", out)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads((out / "split.json").read_text())
    assert (len(record["train"]), len(record["held_out"])) == (3, 1)
    rows = history(out)
    assert len(rows) == 3
    assert "gain" in rows[-1]
    assert list((out / "preview").glob("*.png"))
    load_checkpoint(out / "last.ckpt")
    done = train("--pairs", *folders, "--hold-out", "field3*", "--recipe", recipe, "--steps", 16, "-o", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert len(history(out)) == 4


def test_the_distance_of_pairs_is_what_the_command_says(train, recipe_file, history, folders, tmp_path):
    """Files of two folders do not say how far they are out of focus; without --distance-um nobody knows."""
    recipe = recipe_file(steps=1, validate_every=1)
    arguments = ("--pairs", *folders, "--hold-out", "field3*", "--recipe", recipe)
    for name, more, gains, distances in (
        ("known", ("--distance-um", 22), ["gain_22um", "gain"], (22.0, 22.0)),
        ("unknown", (), ["gain"], (0.0, 0.0)),
    ):
        done = train(*arguments, *more, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
        (row,) = history(tmp_path / name)
        assert [column for column in row if "gain" in column] == gains
        _, used = load_checkpoint(tmp_path / name / "last.ckpt")
        assert (used.measured, used.defocus_um) == (True, distances)


BAD = [
    (["--pairs", "missing", "{sharp}"], "missing"),
    (["--pairs", "{blurred}", "{sharp}", "--hold-out", "*"], "every pair is held out"),
    (["--pairs", "{blurred}", "{sharp}"], "set crop = 96"),
    (["--stacks", "missing"], "missing"),
]


@pytest.mark.parametrize(("arguments", "expected"), BAD)
def test_bad_pairs_are_one_line(train, folders, tmp_path, arguments, expected):
    texts = [text.format(blurred=folders[0], sharp=folders[1]) for text in arguments]
    done = train(*texts, "-o", tmp_path / "run")
    assert done.returncode == 1
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
