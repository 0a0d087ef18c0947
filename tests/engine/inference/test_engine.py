from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tifffile
from onnx import load
from onnx.reference import ReferenceEvaluator

from defocus.engine.image.normalization import DTYPES
from defocus.engine.inference.engine import Engine
from defocus.engine.model.card import Percentiles


@pytest.fixture(scope="module")
def engine(tiny_model):
    with Engine.load(tiny_model, backend="cpu") as engine:
        yield engine


def specimen(shape, dtype: type | np.dtype = np.uint16, seed=0):
    """Blobs and noise over the last two axes, different in every plane."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[-2], : shape[-1]]
    image = rng.normal(200, 10, shape)
    for index in np.ndindex(shape[:-2]):
        for _ in range(4):
            centre = rng.uniform(0, 1, 2) * shape[-2:]
            image[index] += rng.uniform(300, 3000) * np.exp(
                -((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / rng.uniform(8, 80)
            )
    if np.dtype(dtype).itemsize == 1:
        image /= 40
    return image.astype(dtype)


def by_hand(tiny_model, plane):
    """One plane through the same steps, written differently: numpy.pad, and ONNX's own reference as the runtime."""
    low, high = np.percentile(plane.astype(np.float64), (1, 99.9))
    unit = ((plane.astype(np.float64) - low) / (high - low)).astype(np.float32)
    pads = [(0, -size % 16) for size in plane.shape]
    padded = np.pad(unit, pads, mode="reflect")[None, None]
    (restored,) = ReferenceEvaluator(load(tiny_model)).run(None, {"image": padded})
    counts = np.asarray(restored)[0, 0, : plane.shape[0], : plane.shape[1]].astype(np.float64) * (high - low) + low
    if plane.dtype.kind == "f":
        return counts.astype(plane.dtype)
    limit = np.iinfo(plane.dtype)
    return np.clip(np.rint(counts), limit.min, limit.max).astype(plane.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_plane_equals_the_steps_by_hand(engine, tiny_model, dtype):
    plane = specimen((50, 61), dtype)
    restored = engine(plane)
    assert restored.dtype == dtype
    assert restored.shape == plane.shape
    expected = by_hand(tiny_model, plane)
    assert not np.array_equal(restored, plane)
    tolerance = 1 if dtype.kind in "iu" else 2  # a count where rounding falls the other way; float16 steps by 2
    assert np.abs(restored.astype(np.float64) - expected.astype(np.float64)).max() <= tolerance
    assert np.abs(restored.astype(np.float64) - expected.astype(np.float64)).mean() < 0.02


def test_the_image_is_not_changed(engine):
    image = specimen((3, 40, 40))
    before = image.copy()
    image.flags.writeable = False
    engine(image)
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("YX", (33, 47)),
        ("ZYX", (3, 33, 47)),
        ("TZCYX", (2, 1, 3, 17, 20)),
        ("YXS", (33, 47, 3)),
        ("TYXS", (2, 33, 47, 4)),
        ("CXY", (2, 47, 33)),
        ("YZXC", (33, 3, 47, 2)),
        ("tzyx", (2, 2, 20, 20)),
        ("QQYX", (3, 2, 20, 20)),
    ],
)
def test_any_axes_plane_by_plane(engine, axes, shape):
    capitals = axes.upper()
    y, x = capitals.index("Y"), capitals.index("X")
    others = [size for i, size in enumerate(shape) if i not in (y, x)]
    planes = specimen((*others, shape[y], shape[x]))
    image = np.moveaxis(planes, (-2, -1), (y, x)) if y < x else np.moveaxis(planes, (-1, -2), (x, y))
    assert image.shape == shape
    restored = engine(image, axes)
    assert restored.shape == shape
    back = np.moveaxis(restored, (y, x), (-2, -1))
    for index in np.ndindex(*others):
        assert np.array_equal(back[index], engine(planes[index]))


def test_byte_order_and_strides_are_no_matter(engine):
    image = specimen((40, 50))
    expected = engine(image)
    swapped = engine(image.astype(">u2"))
    assert swapped.dtype == np.dtype(">u2")
    assert np.array_equal(swapped, expected)
    assert np.array_equal(engine(np.asfortranarray(image)), expected)
    assert np.array_equal(engine(image[::-1, ::-1][::-1, ::-1]), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 40), (15, 17), (16, 16), (17, 1)])
def test_tiny_images_work(engine, size):
    image = specimen(size)
    restored = engine(image)
    assert restored.shape == size
    assert restored.dtype == np.uint16
    if size == (1, 1):
        assert restored == image


@pytest.mark.parametrize("tile", [48, 64, 100, 160])
@pytest.mark.parametrize("size", [(200, 173), (161, 333), (48, 500)])
def test_no_seam(tiny_model, tile, size):
    """With a halo of the receptive field, tiles give what the whole plane gives: to the last bit of 16."""
    image = specimen(size)
    whole = Engine.load(tiny_model, backend="cpu", tile=1024)(image)
    tiled = Engine.load(tiny_model, backend="cpu", tile=tile)
    assert tiled.settings.halo == 16
    assert np.array_equal(tiled(image), whole)
    floats = image.astype(np.float32)
    difference = np.abs(tiled(floats) - Engine.load(tiny_model, backend="cpu", tile=1024)(floats))
    assert difference.max() < 1e-2


def test_without_halo_there_would_be_a_seam(tiny_model):
    image = specimen((200, 200))
    whole = Engine.load(tiny_model, backend="cpu")(image)
    tiled = Engine.load(tiny_model, backend="cpu", tile=64, halo=0)(image)
    assert not np.array_equal(tiled, whole)
    assert np.array_equal(tiled[2:62, 2:62], whole[2:62, 2:62])  # wrong only within reach of the cut


@pytest.mark.parametrize("batch", [2, 3, 64])
def test_a_batch_changes_nothing(tiny_model, batch):
    image = specimen((5, 130, 70))
    one = Engine.load(tiny_model, backend="cpu", tile=64)(image)
    assert np.array_equal(Engine.load(tiny_model, backend="cpu", tile=64, batch=batch)(image), one)


def test_tiles_stream(tiny_model, monkeypatch):
    """No more than a batch of tiles is ever in the runtime's hands."""
    engine = Engine.load(tiny_model, backend="cpu", tile=64, batch=2, streams=1)
    seen = []
    run = engine._sessions.session.run
    monkeypatch.setattr(engine._sessions.session, "run", lambda batch: seen.append(batch.shape) or run(batch))
    engine(specimen((300, 300)))
    assert len(seen) > 10
    assert {shape[0] for shape in seen} <= {1, 2}
    assert {shape[2:] for shape in seen} == {(64, 64)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("per", ["plane", "stack"])
def test_flat_planes_come_back_bit_for_bit(tiny_model, dtype, per):
    stack = np.stack([specimen((40, 40), dtype), np.full((40, 40), 77, dtype), np.zeros((40, 40), dtype)])
    restored = Engine.load(tiny_model, backend="cpu", per=per)(stack)
    assert np.array_equal(restored[1:], stack[1:])
    assert not np.array_equal(restored[0], stack[0])


def test_empty_axes_come_back(engine):
    assert engine(np.zeros((0, 20, 20), np.uint8)).shape == (0, 20, 20)
    assert engine(np.zeros((2, 20, 0), np.uint8)).shape == (2, 20, 0)


def test_saturation_never_wraps(engine):
    image = specimen((64, 64)).astype(np.float64)
    for dtype, top in ((np.uint8, 255), (np.uint16, 65535)):
        bright = np.clip(image / image.max() * top * 3, 0, top).astype(dtype)
        restored = engine(bright)
        saturated = bright == top
        assert saturated.mean() > 0.01
        assert restored[saturated].min() > top // 2
        assert restored[bright == bright.min()].max() < top // 2


def test_nearly_empty_planes_behave(engine):
    plane = np.zeros((100, 100), np.uint16)
    plane[50, 50] = 60000
    restored = engine(plane)
    assert restored[50, 50] > 30000
    assert restored[:40].max() < 20000


def test_planes_have_intensities_of_their_own_or_share_one(tiny_model):
    """Per plane, a dim plane next to a bright one is restored as if alone; per stack, they keep one scale."""
    dim, bright = specimen((48, 48)), specimen((48, 48), seed=1) * 8
    stack = np.stack([dim, bright])
    alone = Engine.load(tiny_model, backend="cpu")
    assert np.array_equal(alone(stack)[0], alone(dim))
    together = Engine.load(tiny_model, backend="cpu", per="stack")
    assert np.array_equal(together(dim), alone(dim))
    assert not np.array_equal(together(stack)[0], alone(dim))
    assert together.settings.per == "stack"


def test_per_stack_means_per_channel(tiny_model):
    """Dyes have nothing to do with one another: each channel of a stack has its own intensity."""
    engine = Engine.load(tiny_model, backend="cpu", per="stack")
    dim, bright = specimen((3, 48, 48)), specimen((3, 48, 48), seed=1) * 8
    restored = engine(np.stack([dim, bright], axis=1), "ZCYX")
    assert np.array_equal(restored[:, 0], engine(dim, "ZYX"))
    assert np.array_equal(restored[:, 1], engine(bright, "ZYX"))
    colours = engine(np.stack([dim, bright], axis=-1), "ZYXS")
    assert np.array_equal(colours[..., 1], restored[:, 1])


@pytest.mark.parametrize("per", ["plane", "stack"])
def test_a_model_of_two_channels(tiny_model_2c, per):
    engine = Engine.load(tiny_model_2c, backend="cpu", tile=64, per=per)
    stack = specimen((3, 2, 100, 40))
    stack[1, 1] = 5  # a flat channel beside one that is not
    restored = engine(stack, "ZCYX")
    assert restored.shape == stack.shape
    assert np.array_equal(restored[1, 1], stack[1, 1])
    assert not np.array_equal(restored[1, 0], stack[1, 0])
    assert np.array_equal(engine(np.moveaxis(stack, 1, -1), "ZYXS"), np.moveaxis(restored, 1, -1))
    whole = Engine.load(tiny_model_2c, backend="cpu", per=per)(stack, "ZCYX")
    assert np.array_equal(restored, whole)


def test_another_rule_is_followed(make_model, tmp_path):
    model = make_model(tmp_path / "m.onnx", intensity={"rule": "percentile", "low": 5, "high": 95})
    engine = Engine.load(model, backend="cpu")
    assert engine.card.intensity == Percentiles(5.0, 95.0)


def test_a_real_field(engine, shared_data):
    path = sorted((shared_data / "bbbc006" / "defocused_w1_z00").glob("*.tif"))[0]
    image = tifffile.imread(path)
    restored = engine(image)
    assert restored.shape == (520, 696)
    assert restored.dtype == np.uint16
    assert not np.array_equal(restored, image)


def imported(code: str, *modules: str) -> list[str]:
    """Which of the modules a fresh interpreter has imported after running the code."""
    code += f"\nimport sys; print(*(name for name in {modules} if name in sys.modules))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_defocus_imports_little():
    assert imported("import defocus", "numpy", "torch", "onnxruntime", "tifffile", "rich") == []
    assert imported("from defocus import Engine", "torch", "onnx", "onnxruntime") == []


def test_the_engine_room_never_imports_torch(tiny_model):
    code = f"import numpy, defocus; defocus.Engine.load({str(tiny_model)!r})(numpy.eye(20, dtype='u1'))"
    assert imported(code, "torch", "onnx", "lightning", "onnxruntime") == ["onnxruntime"]


def test_progress_is_told_between_tiles_of_what_has_several(tiny_model):
    with Engine.load(tiny_model, backend="cpu", tile=64, streams=1) as engine:
        told = []
        engine.progress = lambda name, share: told.append((name, share))
        engine(specimen((40, 50)), name="small")
        engine(specimen((2, 70, 50)), name="large")
    assert told == [("large", 0.25), ("large", 0.5), ("large", 0.75)]  # two tiles of each of two planes
