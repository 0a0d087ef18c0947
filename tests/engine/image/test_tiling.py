from __future__ import annotations

import numpy as np
import pytest

from defocus.engine.image.tiling import Tile, computed_pixels, extract, plan, round_up, smallest_tile

SIZES = [
    (1, 1),
    (15, 17),
    (16, 16),
    (17, 16),
    (31, 1000),
    (520, 696),
    (1023, 1025),
    (1, 5000),
    (2048, 2048),
    (777, 333),
]
CUTS = [(1024, 0), (1024, 64), (256, 48), (112, 40), (48, 16), (100, 20), (63, 1), (16, 0)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("tile", "halo"), CUTS)
def test_cores_cover_the_plane_once_and_keep_their_halo(size, tile, halo):
    height, width = size
    tiles = plan(height, width, tile, halo, 16)
    covered = np.zeros(size, int)
    padded = round_up(height, 16), round_up(width, 16)
    for piece in tiles:
        covered[piece.target] += 1
        assert all(edge % 16 == 0 for edge in piece.outer)
        assert max(piece.shape) <= tile // 16 * 16
        for axis in (0, 1):
            outer, core = piece.outer[2 * axis : 2 * axis + 2], piece.core[2 * axis : 2 * axis + 2]
            assert 0 <= outer[0] <= core[0] < core[1] <= outer[1] <= padded[axis]
            assert core[0] - outer[0] >= halo or outer[0] == 0  # a full halo, or the plane's own edge
            assert outer[1] - core[1] >= halo or outer[1] == padded[axis]
    assert (covered == 1).all()
    assert len({piece.shape for piece in tiles}) == 1  # one shape: any of them can share a batch


def test_random_sizes_too():
    rng = np.random.default_rng(3)
    for _ in range(300):
        height, width = rng.integers(1, 600, 2)
        multiple = int(rng.choice([1, 8, 16]))
        halo = int(rng.integers(0, 60))
        tile = smallest_tile(halo, multiple) + int(rng.integers(0, 200))
        covered = np.zeros((height, width), int)
        for piece in plan(int(height), int(width), tile, halo, multiple):
            covered[piece.target] += 1
            assert extract(covered, piece).shape == piece.shape
            assert np.empty(piece.shape)[piece.source].shape == covered[piece.target].shape
        assert (covered == 1).all()


def test_a_plane_that_fits_is_one_tile():
    assert plan(520, 696, 1024, 300) == [Tile((0, 528, 0, 704), (0, 520, 0, 696))]


def test_tiles_are_no_larger_than_their_number_needs():
    first, second = plan(1040, 16, 1024, 192)
    assert first.shape == second.shape == (720, 16)
    assert first.core[1] == second.core[0]


def check(height, width, tiles, halo, multiple=16):
    """Every pixel belongs to one core, every core has its halo, all tiles have one shape; axis by axis, for speed."""
    for axis, length in ((0, height), (1, width)):
        parts = sorted({(t.outer[2 * axis : 2 * axis + 2], t.core[2 * axis : 2 * axis + 2]) for t in tiles})
        assert [core[0] for _, core in parts] == [0] + [core[1] for _, core in parts[:-1]]
        assert parts[-1][1][1] == length
        for outer, core in parts:
            assert outer[0] % multiple == outer[1] % multiple == 0
            assert outer[0] == 0 or core[0] - outer[0] >= halo
            assert outer[1] == round_up(length, multiple) or outer[1] - core[1] >= halo
    assert len({t.shape for t in tiles}) == 1
    assert len(tiles) == len({t.core[0] for t in tiles}) * len({t.core[2] for t in tiles})


@pytest.mark.parametrize("size", [*SIZES, (2160, 2560), (9000, 600)])
@pytest.mark.parametrize("pixels", [1, 300_000, 800_000, 2_600_000, 4_300_000])
def test_tiles_of_at_most_so_many_pixels(size, pixels):
    height, width = size
    smallest = smallest_tile(224, 16)
    tiles = plan(height, width, None, 224, 16, max(pixels, smallest**2))
    check(height, width, tiles, 224)
    tall, wide = tiles[0].shape
    assert tall * wide <= max(pixels, smallest**2)
    assert plan(height, width, 1024, 224, 16, pixels)[0].shape <= (1024, 1024)  # both bounds at once


def test_no_other_cut_computes_less():
    """Held against every number of rows and columns there is."""
    rng = np.random.default_rng(4)
    for _ in range(60):
        height, width, pixels = (int(rng.integers(low, high)) for low, high in ((1, 900), (1, 900), (9216, 200_000)))
        found = computed_pixels(plan(height, width, None, 40, 16, pixels))
        sides = [[round_up(n, 16), *range(112, round_up(n, 16), 16)] for n in (height, width)]
        counts = [
            {s: 1 if s >= n else -(-(round_up(n, 16) - 96) // (s - 96)) for s in each}
            for n, each in zip((height, width), sides, strict=True)
        ]
        every = [
            tall * rows * wide * columns
            for tall, rows in counts[0].items()
            for wide, columns in counts[1].items()
            if tall * wide <= pixels
        ]
        assert not every or found == min(every)


def test_the_cut_of_a_camera_and_of_a_slide():
    """2048 x 2048 whole or in two halves; 20,000 x 20,000 at most 1.35 times computed, given the pixels for it."""
    assert computed_pixels(plan(2048, 2048, None, 224, 16, 2048**2)) == 2048**2
    assert {tile.shape for tile in plan(2048, 2048, None, 224, 16, 3_000_000)} == {(2048, 1248)}
    slide = plan(20_000, 20_000, None, 224, 16, 10_400_000)
    check(20_000, 20_000, slide, 224)
    assert computed_pixels(slide) < 1.35 * 20_000**2


def test_too_few_pixels_for_a_core_give_the_smallest_tile():
    assert {tile.shape for tile in plan(500, 90, None, 40, 16, 100)} == {(112, 96)}


def test_a_tile_without_a_core_is_refused():
    with pytest.raises(ValueError, match="no core"):
        plan(500, 500, 64, 32)
    with pytest.raises(ValueError, match="0 px"):
        plan(0, 5, 64, 16)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (9, 9), (15, 17), (40, 70)])
def test_cut_mirrors_like_numpy(size):
    plane = np.arange(size[0] * size[1]).reshape(size)
    (tile,) = plan(size[0], size[1], 128, 16)
    expected = plane
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (0, round_up(size[axis], 16) - size[axis])
        expected = np.pad(expected, pad, mode="reflect" if pad[axis][1] < size[axis] else "edge")
    assert np.array_equal(extract(plane, tile), expected)


def test_cut_pieces_are_pieces_of_the_padded_plane():
    plane = np.arange(3 * 150 * 217).reshape(3, 150, 217)
    padded = np.pad(plane, [(0, 0), (0, 10), (0, 7)], mode="reflect")
    for tile in plan(150, 217, 80, 16):
        top, bottom, left, right = tile.outer
        assert np.array_equal(extract(plane, tile), padded[:, top:bottom, left:right])


@pytest.mark.parametrize("shape", [(64, 64), (90, 110), (5, 7), (1, 40), (2, 17, 33)])
@pytest.mark.parametrize("tile", [16, 48, 128])
def test_what_a_tile_sees_is_the_padded_plane(shape, tile):
    """Into a given array or a new one; held against numpy's own padding."""
    plane = np.random.default_rng(1).integers(0, 65535, shape, np.uint16)
    height, width = shape[-2:]
    rows, columns = round_up(height, 16) - height, round_up(width, 16) - width
    padded = plane
    for axis, length, more in ((-2, height, rows), (-1, width, columns)):
        widths = [(0, 0)] * plane.ndim
        widths[axis] = (0, more)
        padded = np.pad(padded, widths, "reflect" if more < length else "edge")
    for one in plan(height, width, tile, 0):
        top, bottom, left, right = one.outer
        room = np.zeros((*shape[:-2], *one.shape), np.uint16)
        for seen in (extract(plane, one), extract(plane, one, room)):
            assert np.array_equal(seen, padded[..., top:bottom, left:right])
