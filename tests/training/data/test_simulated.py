"""Training data: fields, splits, recipes, crops that depend on the seed and the index alone."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install ".[train]"')

from defocus.engine.errors import InputError  # noqa: E402
from defocus.training.data import simulated as data  # noqa: E402
from defocus.training.data.fields import Field, Source, list_images, load_field, split  # noqa: E402
from defocus.training.data.simulated import (  # noqa: E402
    DefocusedCrops,
    Pool,
    SimulatedMicroscope,
    draw_microscope,
    drawn_pool,
    make_pool,
)
from defocus.training.evaluation.heldout import DISTANCES_UM, counts_pair, unit_pair  # noqa: E402
from defocus.training.evaluation.metrics import psnr, ssim  # noqa: E402
from defocus.training.fit.recipe import Recipe  # noqa: E402
from defocus.training.physics.optics import Optics, transfer  # noqa: E402
from defocus.training.physics.specimen import draw_cells, draw_filaments, draw_points  # noqa: E402

SMALL = Recipe(crop=32, margin=16, batch=2, steps=10)


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    return draw_cells((160, 200), np.random.default_rng(5), cells=20)


@pytest.fixture(scope="module")
def crops(cells) -> DefocusedCrops:
    return DefocusedCrops([make_pool([Field(Path("cells.tif"), cells)], 1.0)], SMALL)


def test_crops_have_the_shape_and_type_the_network_takes(crops):
    assert len(crops) == SMALL.steps * SMALL.batch
    for index in range(len(crops)):
        for tensor in crops[index]:
            assert tensor.shape == (1, 32, 32)
            assert tensor.dtype == torch.float32
            assert torch.isfinite(tensor).all()


def test_a_crop_is_a_function_of_seed_and_index(cells, crops):
    pool = crops.pools
    again = DefocusedCrops(pool, SMALL)
    other = DefocusedCrops(pool, Recipe(crop=32, margin=16, batch=2, steps=10, seed=1))
    for index in (7, 3, 7):  # in any order
        torch.testing.assert_close(again[index], crops[index], rtol=0, atol=0)
        assert not torch.equal(other[index][0], crops[index][0])
    assert not torch.equal(crops[3][0], crops[4][0])


def test_a_sharp_crop_differs_from_its_target_by_noise_only(cells):
    bright = Recipe(
        crop=64, margin=16, sharp_share=1.0, empty_share=0.0, peak_photons=(1e6, 1e6), read_noise_photons=(1.0, 1.0)
    )
    blurred, sharp = DefocusedCrops([make_pool([Field(Path("cells.tif"), cells)], 1.0)], bright)[0]
    assert (blurred - sharp).abs().mean() < 0.01


def test_an_empty_crop_has_an_even_target(cells):
    empty = Recipe(crop=32, margin=16, empty_share=1.0)
    blurred, sharp = DefocusedCrops([make_pool([Field(Path("cells.tif"), cells)], 1.0)], empty)[0]
    assert sharp.std() == pytest.approx(0, abs=1e-4)
    assert blurred.std() > 0.05


def test_fields_smaller_than_a_crop_are_continued():
    tiny = make_pool([Field(Path("tiny.tif"), draw_cells((64, 64), np.random.default_rng(0)))], 1.0)
    blurred, _ = DefocusedCrops([tiny], Recipe(crop=64, margin=16))[0]
    assert blurred.shape == (1, 64, 64)


def test_a_wide_share_of_microscopes_keeps_the_blur_in_pixels():
    rng = np.random.default_rng(0)
    recipe = Recipe(wide_share=1.0, sharp_share=0.0, near_power=1.0)
    drawn = [draw_microscope(recipe, rng) for _ in range(300)]
    pixels = [scope.optics.disk_radius_um(z) / scope.optics.pixel_um for scope, z in drawn]
    assert 30 < max(pixels) < 36.0 * 1.05  # 36 um at NA 0.5 and 0.65 um a pixel is 32 pixels
    assert {np.sign(z) for _, z in drawn} == {-1.0, 1.0}
    assert max(abs(scope.optics.aberrations.spherical) for scope, _ in drawn) > 0.1
    assert any(scope.slope for scope, _ in drawn)
    assert not any(scope.relative for scope, _ in drawn)


def test_the_main_optics_are_aberrated_either_way():
    rng = np.random.default_rng(0)
    drawn = [draw_microscope(Recipe(spherical_waves=0.3, asymmetric_waves=0.06), rng)[0] for _ in range(200)]
    aberrations = [scope.optics.aberrations for scope in drawn]
    assert min(one.spherical for one in aberrations) < -0.25
    assert max(one.spherical for one in aberrations) > 0.25
    assert 0.05 < max(max(one.coma, one.astigmatism) for one in aberrations) <= 0.06
    assert all(scope.relative for scope in drawn)  # in focus they record what they are given
    ideal = draw_microscope(Recipe(spherical_waves=0.0, asymmetric_waves=0.0), rng)[0].optics
    assert ideal.aberrations.rms_waves == 0


def test_crops_share_a_bank_of_microscopes(cells, monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return transfer(*arguments)

    monkeypatch.setattr(data, "kept_transfer", lru_cache(counted))
    pools = [make_pool([Field(Path("cells.tif"), cells)], 1.0)]
    few = replace(SMALL, optics_bank=3, sharp_share=0.0, thick_share=0.0, empty_share=0.0)
    crops = DefocusedCrops(pools, few)
    images = [crops[index] for index in range(12)]
    assert len(calls) == 3
    assert len({optics for optics, *_ in calls}) == 3
    assert not torch.equal(images[0][0], images[1][0])
    torch.testing.assert_close(DefocusedCrops(pools, few)[11], images[11], rtol=0, atol=0)
    own = DefocusedCrops(pools, replace(few, optics_bank=0))
    for index in range(12):
        own[index]
    assert len(calls) == 3 + 12


def test_a_tilted_slide_is_blurred_more_on_one_side(cells):
    scope = SimulatedMicroscope(Optics(), relative=True, slope=0.6)
    image = scope.image(cells, 10.0)
    near, far = (
        SimulatedMicroscope(Optics(), True).image(cells, 4.0),
        SimulatedMicroscope(Optics(), True).image(cells, 16.0),
    )
    np.testing.assert_allclose(image[:, 0], near[:, 0], atol=1e-4)
    np.testing.assert_allclose(image[:, -1], far[:, -1], atol=1e-4)


def test_layers_of_a_thick_specimen_leave_the_light_as_it_is(cells):
    recipe = Recipe(crop=64, margin=32, thick_share=1.0, empty_share=0.0, wide_share=0.0, sharp_share=0.0)
    blurred, sharp = DefocusedCrops([Pool((cells,), 1.0)], recipe)._scene(np.random.default_rng(3))
    assert blurred.mean() == pytest.approx(sharp.mean(), rel=1e-3)
    assert blurred.std() < sharp.std()


def test_drawn_fields_are_sharp_and_reproducible(monkeypatch):
    monkeypatch.setattr(data, "DRAWN_FIELDS", 3)  # each is drawn in its turn: the first ones are the same
    first, second = drawn_pool(0, 1.0).fields[:2]
    assert np.percentile(first, 99.9) == pytest.approx(1, rel=1e-3)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, drawn_pool(0, 1.0).fields[0])


def test_split_by_pattern_takes_whole_wells():
    paths = [Path(name) for name in ("x_a01_s1_w1.tif", "x_a01_s2_w1.tif", "x_b01_s1_w1.tif")]
    train, held = split(paths, ["*_a01_*"])
    assert (train, held) == (paths[2:], paths[:2])


def test_split_by_hash_is_stable_when_files_are_added():
    paths = [Path(f"{i}.tif") for i in range(400)]
    train, held = split(paths)
    assert 20 < len(held) < 60
    assert set(held) | set(train) == set(paths)
    assert not set(held) & set(train)
    assert split(paths[:200])[1] == [path for path in held if path in paths[:200]]


def test_fields_are_read_by_content_not_by_name(tmp_path, cells):
    counts = (cells * 200).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", counts)
    tifffile.imwrite(tmp_path / "b.png", counts)  # as BBBC006 fields are passed around
    (tmp_path / "c.png").write_bytes(imagecodecs.png_encode(counts))
    (tmp_path / "notes.txt").write_text("not an image")
    paths = list_images(tmp_path)
    assert [path.name for path in paths] == ["a.tif", "b.png", "c.png"]
    for path in paths:
        np.testing.assert_array_equal(load_field(path).data, counts)


def _broken(folder: Path) -> dict[str, Path]:
    tifffile.imwrite(folder / "rgb.tif", np.zeros((80, 80, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(folder / "small.tif", np.zeros((20, 80), np.uint8))
    tifffile.imwrite(folder / "nan.tif", np.full((80, 80), np.nan, np.float32))
    (folder / "text.tif").write_text("not a TIFF at all")
    (folder / "short.png").write_bytes(imagecodecs.png_encode(np.zeros((80, 80), np.uint8))[:30])
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["rgb", "small", "nan", "text", "short"])
def test_a_field_that_cannot_be_trained_on_is_one_line(tmp_path, name):
    path = _broken(tmp_path)[name]
    with pytest.raises(InputError) as error:
        load_field(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert "train" not in error.value.remedy  # defocus-export reads its --images so, too


def test_a_missing_or_empty_folder_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such folder; give a folder of TIFF or PNG images"):
        list_images(tmp_path / "missing")
    with pytest.raises(InputError, match="holds no TIFF or PNG image; give a folder that does"):
        list_images(tmp_path)


def test_sources_are_written_with_a_weight():
    assert Source.parse("some/folder") == Source(Path("some/folder"), 1.0)
    assert Source.parse("some/folder=0.25") == Source(Path("some/folder"), 0.25)
    for wrong in ("some/folder=-1", "some/folder=much", "some/folder=0"):
        with pytest.raises(InputError, match="positive"):
            Source.parse(wrong)


def test_a_recipe_survives_its_own_file(tmp_path):
    recipe = Recipe(steps=123, na=(0.3, 0.35), interaction="concat", finest_sees_coarse=False)
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml())
    assert Recipe.load(path) == recipe
    assert Recipe.load(path, steps=7, seed=None).steps == 7
    assert Recipe.load(None) == Recipe()


def test_an_unknown_recipe_key_is_refused_with_the_nearest(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("step = 3\n")
    with pytest.raises(InputError, match='did you mean "steps"'):
        Recipe.load(path)
    path.write_text("step = = 3\n")
    with pytest.raises(InputError, match="cannot be read"):
        Recipe.load(path)


@pytest.mark.parametrize("line", ['steps = "many"', "na = 0.5", "na = [0.4]", "batch = 2.5", "finest_sees_coarse = 1"])
def test_a_recipe_value_of_another_type_is_refused(tmp_path, line):
    path = tmp_path / "recipe.toml"
    path.write_text(line)
    with pytest.raises(InputError, match=f"write something like {line.split()[0]} = "):
        Recipe.load(path)
    path.write_text("learning_rate = 1\nna = [0.4, 1]\n")
    assert Recipe.load(path).learning_rate == 1


def test_held_out_planes_are_the_same_every_time(cells):
    field = Field(Path("x_k14_s1_w2.tif"), cells)
    for z in DISTANCES_UM:
        seen, sharp = counts_pair(field, z)
        assert (seen.dtype, sharp.dtype) == (np.uint16, np.float32)
        np.testing.assert_array_equal(seen, counts_pair(field, z)[0])
    losses = [psnr(*reversed(counts_pair(field, z))) for z in DISTANCES_UM]
    assert losses == sorted(losses, reverse=True)
    seen, sharp = unit_pair(field, 10)
    assert np.percentile(seen, 1.0) == pytest.approx(0, abs=1e-6)
    assert np.percentile(seen, 99.9) == pytest.approx(1, abs=1e-6)


def test_metrics_agree_with_torchmetrics(cells):
    """The definitions written down in training.metrics, computed by another library."""
    functional = pytest.importorskip(
        "torchmetrics.functional.image", reason='needs torchmetrics: pip install ".[train]"'
    )
    truth = cells.astype(np.float64)
    image = truth + np.random.default_rng(0).normal(0, 0.05, truth.shape)
    pair = [torch.from_numpy(array)[None, None] for array in (image, truth)]
    spread = float(truth.max() - truth.min())
    assert psnr(truth, image) == pytest.approx(
        float(functional.peak_signal_noise_ratio(*pair, data_range=spread)), abs=1e-4
    )
    # torchmetrics averages its map with the mirrored rim, scikit-image without the 5 pixels of half a window.
    _, full = functional.structural_similarity_index_measure(
        *pair, data_range=spread, sigma=1.5, return_full_image=True
    )
    assert ssim(truth, image) == pytest.approx(float(full[..., 5:-5, 5:-5].mean()), abs=1e-4)


def test_the_metrics_of_the_truth_itself(cells):
    assert ssim(cells, cells) == pytest.approx(1)
    assert psnr(cells, cells + 0.1 * (cells.max() - cells.min())) == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize("draw", [draw_points, draw_filaments])
def test_points_and_filaments_are_sharp_and_reproducible(draw):
    field = draw((96, 128), np.random.default_rng(2), 30)
    np.testing.assert_array_equal(field, draw((96, 128), np.random.default_rng(2), 30))
    assert field.shape == (96, 128)
    assert field.min() >= 0
    assert np.abs(np.diff(field, axis=1)).max() > 0.1
    assert draw((16, 16), np.random.default_rng(2), 40).shape == (16, 16)


def test_specimens_are_reproducible_and_textured():
    first, same, other = (draw_cells((120, 90), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (120, 90)
    assert first.dtype == np.float32
    assert first.min() >= 0
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert (first > 0.3).mean() > 0.02
    assert (first < 0.02).mean() > 0.1
