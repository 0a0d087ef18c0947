from __future__ import annotations

import numpy as np
import pytest

from defocus.engine.errors import InputError
from defocus.engine.image.normalization import DTYPES, Intensity, from_unit, measure, to_unit
from defocus.engine.model.card import Percentiles

RULE = Percentiles(1.0, 99.9)
INTEGERS = [dtype for dtype in DTYPES if dtype.kind in "iu"]
FLOATS = [dtype for dtype in DTYPES if dtype.kind == "f"]


def textured(dtype, shape=(97, 103), seed=0):
    """A plane that uses most of the dtype's range (or of float16's exact integers)."""
    rng = np.random.default_rng(seed)
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else (-2000.0, 2000.0)
    values = rng.beta(2, 5, shape) * (high * 0.9 - low * 0.9) + low * 0.9
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_percentiles_are_numpys(dtype):
    plane = textured(dtype)
    low, high = np.percentile(plane.astype(np.float64), (RULE.low, RULE.high))
    found = measure(plane, RULE)
    assert found.offset == pytest.approx(low, rel=1e-6)
    assert found.scale == pytest.approx(high - low, rel=1e-6)
    unit = to_unit(plane, found)
    assert unit.dtype == np.float32
    assert np.percentile(unit, (1, 99.9)) == pytest.approx([0, 1], abs=1e-3)
    assert unit.max() > 1  # not clipped going in


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["<", ">"])
def test_there_and_back_gives_the_same_counts(dtype, order):
    plane = textured(dtype).astype(dtype.newbyteorder(order))
    found = measure(plane, RULE)
    back = from_unit(to_unit(plane, found), found, plane.dtype)
    assert back.dtype == plane.dtype
    if dtype.itemsize <= 2 and dtype.kind in "iu":
        assert np.array_equal(back, plane)
    else:  # float32 carries 24 bits of the plane's range
        error = np.abs(back.astype(np.float64) - plane.astype(np.float64)).max()
        assert error <= found.scale * 2.0**-23 + (1 if dtype.kind == "f" and dtype.itemsize == 2 else 0.5)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_are_rounded_and_clipped_never_wrapped(dtype):
    limit = np.iinfo(dtype)
    found = Intensity(0.0, 100.0)
    unit = np.array([[-1e9, 1e9, 0.014, 0.016, np.float32(1)]], np.float32)
    assert from_unit(unit, found, dtype).tolist() == [[limit.min, limit.max, 1, 2, 100]]


def test_float16_is_clipped_too():
    back = from_unit(np.array([[1e6, -1e6, 0.5]], np.float32), Intensity(0.0, 100.0), np.dtype(np.float16))
    assert back.tolist() == [[65504.0, -65504.0, 50.0]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(40, 50), (1, 1), (0, 7), (3, 0, 5)])
def test_flat_and_empty_planes_are_flat(dtype, shape):
    assert measure(np.full(shape, 7, dtype), RULE).flat


def test_a_few_bright_pixels_on_black():
    plane = np.zeros((100, 100), np.uint16)
    plane[3, 4:7] = [10, 500, 60000]
    assert measure(plane, RULE) == Intensity(0.0, 60000.0)


def test_a_few_dark_pixels_in_saturation():
    plane = np.full((100, 100), 4095, np.uint16)
    plane[50, :5] = [0, 10, 20, 30, 40]
    assert measure(plane, RULE) == Intensity(0.0, 4095.0)


def test_a_saturated_plane_comes_back():
    plane = textured(np.dtype(np.uint16))
    plane[plane > 12000] = 65535
    found = measure(plane, RULE)
    assert np.array_equal(from_unit(to_unit(plane, found), found, plane.dtype), plane)


def test_beads_far_above_the_percentiles():
    """Noise of a millionth of the beads' brightness: the percentiles have missed the specimen."""
    plane = np.random.default_rng(0).normal(0, 1e-6, (200, 200))
    plane[100:105, 100:105] = 1.0
    found = measure(plane, RULE)
    assert found.offset + found.scale == pytest.approx(1.0)
    assert np.abs(to_unit(plane, found)).max() <= 1


@pytest.mark.parametrize(("dtype", "hot"), [("uint16", 65535), ("float32", 1e5), ("float32", -1e30)])
def test_a_few_hot_pixels_are_no_specimen(dtype, hot):
    """The range is that of all the others: with a range up to the hot pixel the specimen would be lost in rounding."""
    plane = np.random.default_rng(0).normal(100, 1, (200, 200)).astype(dtype)
    usual = measure(plane, RULE)
    plane[20, ::40] = hot
    assert measure(plane, RULE).scale == pytest.approx(usual.scale, rel=0.2)


def test_a_hot_pixel_beyond_what_float32_holds_sets_the_range():
    plane = np.random.default_rng(0).normal(100, 1, (200, 200))
    plane[20, 20] = 1e200
    assert np.isfinite(to_unit(plane, measure(plane, RULE))).all()


def test_doubles_far_from_zero_keep_their_detail():
    detail = textured(np.dtype(np.float64))
    plane = detail + 1e9
    found = measure(plane, RULE)
    back = from_unit(to_unit(plane, found), found, plane.dtype)
    assert np.abs(back - plane).max() < 1e-3  # float32 of 1e9 has steps of 64


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e-38, 1e30, 1e300])
def test_doubles_of_any_size(scale):
    plane = np.linspace(0, 1, 1000).reshape(20, 50) * scale
    found = measure(plane, RULE)
    unit = to_unit(plane, found)
    assert np.isfinite(unit).all()
    assert np.isfinite(from_unit(unit, found, plane.dtype)).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_what_is_no_number_is_named(dtype, value, word):
    plane = np.ones((9, 9), dtype)
    plane[4, 4] = value
    with pytest.raises(InputError, match=f"a.tif: holds {word} values; replace them"):
        measure(plane, RULE, "a.tif")


def test_values_too_far_apart():
    with pytest.raises(InputError, match="too far apart"):
        measure(np.array([[-1.7e308, 1.7e308]]), RULE)


@pytest.mark.parametrize(
    "dtype", [bool, np.complex64, np.int64, np.uint64, "S3", "datetime64[s]", object, np.longdouble]
)
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(InputError, match=r"pixels of type .* are not supported; convert to one of uint8, .*float64"):
        measure(np.zeros((3, 3), dtype), RULE)


def test_a_stack_is_measured_as_one():
    for dtype in (np.uint16, np.int8, np.float32, np.float64, np.uint32):
        stack = textured(np.dtype(dtype), (3, 4, 31, 33))
        low, high = np.percentile(stack.astype(np.float64), (1, 99.9))
        assert measure(stack, RULE).offset == pytest.approx(low, rel=1e-6)
        assert measure(stack[:, ::2].swapaxes(0, 1), RULE).scale > 0
        assert measure(stack, RULE).scale == pytest.approx(high - low, rel=1e-6)


def test_long_float_stacks_are_sampled(monkeypatch):
    from defocus.engine.image import normalization

    monkeypatch.setattr(normalization, "_SAMPLE", 10_000)
    stack = np.random.default_rng(0).normal(100, 10, (40, 100, 101)).astype(np.float32)
    low, high = np.percentile(stack, (1, 99.9))
    found = measure(stack, RULE)
    assert found.offset == pytest.approx(low, abs=2)
    assert found.offset + found.scale == pytest.approx(high, abs=5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_into_a_given_array_the_same_bits_come(dtype):
    rng = np.random.default_rng(3)
    plane = rng.integers(0, 100, (9, 14)).astype(dtype)
    intensity = Intensity(2.3, 61.7)
    unit = to_unit(plane, intensity)
    given = np.full((2, 9, 14), np.nan, np.float32)
    assert to_unit(plane, intensity, out=given[1]).base is given
    assert np.array_equal(given[1], unit)
    assert np.isnan(given[0]).all()
    restored = unit + rng.normal(0, 0.5, unit.shape).astype(np.float32)
    expected = from_unit(restored, intensity, dtype)
    target = np.zeros((9, 28), dtype)
    from_unit(restored, intensity, dtype, out=target[:, ::2])  # strided, as a core in its plane
    assert np.array_equal(target[:, ::2], expected)
    assert not target[:, 1::2].any()
