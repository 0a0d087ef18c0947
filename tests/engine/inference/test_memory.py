"""Memory: what a run takes is what its session says, and tiles of a large plane stay within what is granted."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod

import numpy as np
import pytest

from defocus import Engine
from defocus.engine.image.tiling import computed_pixels
from defocus.engine.inference import backends, memory
from defocus.engine.inference.memory import Footprint, available_memory, pixels_for
from defocus.engine.inference.options import Settings, settings_for
from defocus.engine.inference.tasks import ImageRequest
from defocus.engine.inference.tile_runner import TileRunner
from defocus.engine.model.card import model_path, read_card

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
PEAK = """
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
"""


def measured(code: str, *arguments: object) -> list[float]:
    """The numbers that a fresh process prints."""
    command = [sys.executable, "-c", PEAK + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [float(number) for number in done.stdout.split()]


@LINUX
@pytest.mark.parametrize("name", ["cpu", "openvino", "mnn"])
def test_a_run_takes_what_its_session_says(name):
    """The peak of a process that runs the default model once, a tile of 1024 x 1536; in bfloat16 it may be less."""
    if reason := backends.backend(name).unavailable_reason():
        pytest.skip(reason)
    backends.open_session(name, model_path(), read_card(model_path()), 1)  # what is made once is made here
    code = """
import sys
import numpy as np
from defocus.engine.inference.backends import open_session
from defocus.engine.model.card import model_path, read_card
path = model_path()
session = open_session(sys.argv[1], path, read_card(path), 1).session
batch = np.ones((1, 1, 1024, 1536), np.float32)
before = peak()
session.run(batch)
print((peak() - before) / batch.size, session.footprint.bytes_per_pixel, int(" bf16" in session.description))
"""
    taken, told, half = measured(code, name)
    assert (0.3 if half else 0.75) * told < taken < told


@LINUX
def test_a_tile_of_a_cut_plane_takes_what_its_session_says():
    """MNN without large blocks, 1536 x 2048: less a pixel than a whole plane."""
    if reason := backends.backend("mnn").unavailable_reason():
        pytest.skip(reason)
    backends.open_session("mnn", model_path(), read_card(model_path()), 1)
    code = """
import numpy as np
from defocus.engine.inference.backends import open_session
from defocus.engine.model.card import model_path, read_card
path = model_path()
session = open_session("mnn", path, read_card(path), 1).session
batch = np.ones((1, 1, 1536, 2048), np.float32)
before = peak()
session.run_exact(batch)
print((peak() - before) / batch.size, session.footprint.cut_bytes_per_pixel)
"""
    taken, told = measured(code)
    assert 0.75 * told < taken < told


@LINUX
@pytest.mark.parametrize("name", ["cpu", "mnn"])
def test_a_plane_that_does_not_fit_stays_within_the_memory_that_is_granted(name):
    """1400 x 1400 with 0.45 GB: tiles, beside the plane itself and the engine's own arrays."""
    if reason := backends.backend(name).unavailable_reason():
        pytest.skip(reason)
    code = """
import sys
import numpy as np
from defocus.engine.inference.engine import Engine
engine = Engine.load(backend=sys.argv[1], threads=2, memory=450_000_000)
plane = np.random.default_rng(0).integers(100, 4000, (1400, 1400), dtype=np.uint16)
engine(plane[:64, :64])
before = peak()
engine(plane)
print(peak() - before)
"""
    (taken,) = measured(code, name)
    assert taken < 450e6 + 6 * 2 * 1400**2


def test_whole_planes_where_they_fit_else_what_computes_least():
    """One at a time rather than side by side where that computes less by more than a tenth."""
    two = Settings(None, 224, streams=2, max_pixels=4_400_000)
    assert [tile.shape for tile in two.tiles_for(520, 696, 16)] == [(528, 704)]
    assert [tile.shape for tile in two.tiles_for(2048, 2048, 16)] == [(2048, 2048)]
    assert two.needs_all_memory(2048**2)
    assert not two.needs_all_memory(528 * 704)
    assert {tile.shape for tile in two.tiles_for(1600, 1600, 16)} == {(1600, 1600)}
    assert {tile.shape for tile in two.tiles_for(1024, 2048, 16)} == {(1024, 2048)}
    assert not two.needs_all_memory(1024 * 2048)
    roomy = Settings(None, 224, streams=2, max_pixels=9_000_000)
    assert not roomy.needs_all_memory(2048**2)


def test_a_slide_is_computed_at_most_1_35_times_within_the_default_memory(monkeypatch):
    """20,000 x 20,000 by what MNN says it takes; arithmetic, nothing runs."""
    if reason := backends.backend("mnn").unavailable_reason():
        pytest.skip(reason)
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    card = read_card(model_path())
    footprint = backends.open_session("mnn", model_path(), card, 1).session.footprint
    settings = settings_for(card, "mnn", footprint=footprint)
    for side in ((20_000, 20_000), (19_000, 21_000), (25_000, 18_000)):
        tiles = settings.tiles_for(*side, card.multiple)
        assert computed_pixels(tiles) <= 1.35 * prod(side)
        assert footprint.cut_bytes_per_pixel is not None
        assert prod(tiles[0].shape) * footprint.cut_bytes_per_pixel <= memory.MEMORY


@pytest.mark.parametrize("name", ["cpu", "mnn"])
def test_a_plane_of_2048_goes_whole_within_1_5_gb(monkeypatch, name):
    """So it takes no longer than the whole plane in one call."""
    if reason := backends.backend(name).unavailable_reason():
        pytest.skip(reason)
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    card = read_card(model_path())
    footprint = backends.open_session(name, model_path(), card, 1).session.footprint
    settings = settings_for(card, name, memory=1_500_000_000, footprint=footprint)
    assert len(settings.tiles_for(2048, 2048, card.multiple)) == 1


def test_a_plane_that_fits_only_as_a_tile_is_cut():
    """Larger tiles are for planes that are cut: a whole one takes what it always takes."""
    settings = Settings(None, 224, streams=2, max_pixels=4_000_000, larger_if_cut=1.2)
    assert len(settings.tiles_for(2048, 2048, 16)) == 2
    large = settings.tiles_for(6000, 6000, 16)
    assert 4_000_000 < prod(large[0].shape) <= 4_800_000
    assert settings.needs_all_memory(prod(large[0].shape))


def test_the_users_tile_rules():
    settings = Settings(1024, 224, streams=2, max_pixels=1000)
    assert settings.tiles_for(3000, 3000, 16)[0].shape == (960, 960)
    assert settings.needs_all_memory(960**2)


def test_a_batch_is_no_larger_than_memory():
    card = Settings(None, 224, batch=4, max_pixels=4_000_000)
    assert card.most_in_batch(528 * 704) == 4
    assert card.most_in_batch(1248 * 1248) == 2
    assert card.most_in_batch(5_000_000) == 1


@pytest.mark.parametrize(
    ("footprint", "granted", "free", "pixels"),
    [
        (Footprint(200), 2_000_000_000, 100_000_000_000, 10_000_000),
        (Footprint(200), 2_000_000_000, 1_000_000_000, 3_000_000),  # six tenths of what is free
        (Footprint(200), 0, 1_000_000_000, 3_000_000),
        (Footprint(200), 2_000_000_000, None, 10_000_000),
        (Footprint(200), 0, None, 10_000_000),
        (Footprint(200), 1, 1, 5000),
        (Footprint(200, free=10_000_000_000), 1, 1, 30_000_000),  # a card's own
    ],
)
def test_the_bounds_of_tiles(monkeypatch, footprint, granted, free, pixels):
    monkeypatch.setattr(memory, "available_memory", lambda: free)
    assert pixels_for(footprint, granted, 5000) == pixels


def test_what_is_available_is_the_least_of_machine_and_container(tmp_path):
    group, machine = tmp_path / "cgroup", tmp_path / "meminfo"
    assert available_memory(group, machine) is None
    machine.write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert available_memory(group, machine) == 4_096_000
    group.mkdir()
    for name, text in (("memory.max", "max"), ("memory.current", "900000")):
        (group / name).write_text(text)
    assert available_memory(group, machine) == 4_096_000
    (group / "memory.max").write_text("1000000\n")
    assert available_memory(group, machine) == 100_000
    (group / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    assert available_memory(group, machine) == 150_000
    (group / "memory.current").write_text("2000000\n")
    assert available_memory(group, machine) == 0
    for name in ("memory.max", "memory.current", "memory.stat"):
        (group / name).unlink()
    (group / "memory").mkdir()
    (group / "memory/memory.limit_in_bytes").write_text("500000")
    (group / "memory/memory.usage_in_bytes").write_text("100000")
    assert available_memory(group, machine) == 400_000


def test_the_machines_own_memory_is_told():
    found = available_memory()
    assert found is None or found > 10_000_000


def test_lanes_give_back_what_others_need(tiny_model, monkeypatch):
    """Two streams, then a plane that needs all memory, then two streams: each first lets the idle ones trim."""
    trimmed, real = [], TileRunner.trim
    monkeypatch.setattr(TileRunner, "trim", lambda self: (trimmed.append(self), real(self))[1])
    rng = np.random.default_rng(0)
    small, large = (rng.integers(100, 4000, shape, dtype=np.uint16) for shape in ((2, 64, 64), (1, 128, 128)))
    with Engine.load(tiny_model, backend="cpu", threads=2) as engine:
        expected = engine(small), engine(large)
        engine.settings = replace(engine.settings, max_pixels=128 * 128)
        for _ in range(2):
            assert np.array_equal(engine(small), expected[0])
            assert np.array_equal(engine(large), expected[1])
        narrow, whole = engine._sessions._narrow, engine._sessions._wide
    assert narrow is not None
    assert trimmed == [whole, *narrow, whole, *narrow]


def test_threads_that_share_an_engine_take_turns_with_planes_that_need_all_memory(tiny_model):
    """Small planes beside one another, large ones alone; nobody waits for ever, all results are right."""
    rng = np.random.default_rng(1)
    planes = [rng.integers(100, 4000, (side, side), dtype=np.uint16) for side in (64, 160, 64, 160, 96, 160) * 4]
    running, crowded, lock, real = [0], [], threading.Lock(), TileRunner.restore

    def restore(self, batch):
        pixels = int(np.prod(batch[0].tile.shape))
        with lock:
            running[0] += pixels
            crowded.append(running[0])
        real(self, batch)
        with lock:
            running[0] -= pixels

    with Engine.load(tiny_model, backend="cpu", threads=2) as engine:
        expected = [engine(plane) for plane in planes]
        engine.settings = replace(engine.settings, max_pixels=160 * 160)
        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as threads:
            patch.setattr(TileRunner, "restore", restore)
            futures = list(threads.map(lambda plane: engine.submit([ImageRequest(plane)]), planes))
            results = [future.result(60) for future in futures]
    assert all(np.array_equal(result, plane) for (result,), plane in zip(results, expected, strict=True))
    assert len(crowded) == len(planes)
    assert max(crowded) <= 160 * 160
