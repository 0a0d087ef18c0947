"""The steady state: once a shape is known, no memory of a batch's size is made anew, on the host or on the card.

What the fake driver needs to compute is not counted: on a card that happens on the card.
"""

from __future__ import annotations

import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest

from defocus.engine.image.normalization import Intensity
from defocus.engine.inference.backends import OpenedSession
from defocus.engine.inference.engine import Engine
from defocus.engine.inference.memory import Footprint
from defocus.engine.inference.options import Settings
from defocus.engine.inference.tasks import ImageRequest, ImageTask
from defocus.engine.model.card import read_card

RUNS = 20


class Meter:
    """The most memory that was held above what was held at the start, bytes."""

    def __init__(self):
        self.start, self.most = tracemalloc.get_traced_memory()[0], 0

    def read(self):
        self.most = max(self.most, tracemalloc.get_traced_memory()[1] - self.start)

    def skip(self, work):
        """The same work, not counted."""

        def skipped(*arguments):
            self.read()
            try:
                return work(*arguments)
            finally:
                tracemalloc.reset_peak()

        return skipped


@contextmanager
def metered(gpu):
    tracemalloc.start()
    try:
        meter = Meter()
        tracemalloc.reset_peak()
        gpu.drain = meter.skip(gpu.drain)
        yield meter
        meter.read()
    finally:
        tracemalloc.stop()
        del gpu.drain


def allocations(gpu) -> dict[str, int]:
    names = (
        "cuMemAlloc",
        "cuMemHostAlloc",
        "cuStreamCreate",
        "cuEventCreate",
        "cuGraphInstantiate",
        "cuModuleLoadData",
    )
    names += ("mem_alloc", "pagelocked_empty", "Stream", "Event", "module_from_buffer")
    return {name: gpu.calls.get(name, 0) for name in names}


def test_a_session_makes_nothing_anew(gpu, made):
    rng = np.random.default_rng(0)
    floats, counts = rng.random((64, 1, 64, 64), np.float32), rng.integers(0, 4000, (64, 1, 64, 64), np.uint16)
    ranges = [(Intensity(100, 3000 + number),) for number in range(64)]
    gpu.launch = lambda *arguments: None  # what kernels compute is no matter here

    def both():
        made.session.run(floats)
        made.session.run_uint16(counts, ranges)

    for _ in range(3):
        both()
    before, blocks = allocations(gpu), set(gpu.blocks)
    with metered(gpu) as meter:
        for _ in range(RUNS):
            both()
    assert allocations(gpu) == before
    assert set(gpu.blocks) == blocks
    assert meter.most < counts.nbytes / 8


def test_a_result_is_valid_until_the_next_run_and_its_place_is_used_again(made):
    first = made.session.run(np.zeros((2, 1, 32, 32), np.float32))
    assert (first == 1).all()
    second = made.session.run(np.ones((2, 1, 32, 32), np.float32))
    assert np.shares_memory(first, second)
    assert (second == 3).all()


class InPlace:
    """A session of the least memory: it gives back what it is given."""

    description, footprint = "in place", Footprint()

    def run(self, batch):
        return batch

    def trim(self):
        pass

    def close(self):
        pass


@pytest.mark.parametrize("way", ["counts", "floats"])
def test_the_engine_makes_nothing_anew(gpu, made, tiny_model, way):
    session, shape = (made.session, (64, 1, 60, 62)) if way == "counts" else (InPlace(), (2, 1, 520, 696))
    engine = Engine(read_card(tiny_model), OpenedSession("rtx", session), Settings(1024, 16, batch=64))
    image = np.random.default_rng(0).integers(0, 4000, shape, np.uint16)
    gpu.launch = lambda *arguments: None
    work = ImageTask(ImageRequest(image, "TCYX"), engine.card)
    pieces = list(work.tile_tasks(engine.settings))
    assert len(pieces) == len(image)
    for _ in range(3):
        engine._sessions.run([pieces], engine.settings)
    before = allocations(gpu)
    with metered(gpu) as meter:
        for _ in range(RUNS):
            engine._sessions.run([pieces], engine.settings)
    assert allocations(gpu) == before
    assert meter.most < image.nbytes / 8
    assert np.array_equal(work.result, image)


def test_the_meter_sees_what_is_made(gpu):
    with metered(gpu) as meter:
        np.empty(1 << 20, np.uint8)
    assert meter.most > 1 << 20


def test_shapes_that_take_turns_keep_their_graphs(gpu, made, device):
    """Two of a plane's tiles and one more, as an engine runs them: none is set up anew."""
    given = [np.random.default_rng(n).random((n, 1, 32, 32), np.float32) for n in (4, 2, 1)]
    for _ in range(3):
        for batch in given:
            made.session.run(batch)
    ran, graphs = [context.runs for context in made.contexts], gpu.calls.get("cuGraphLaunch", 0)
    for _ in range(4):
        for batch in given:
            assert np.array_equal(made.session.run(batch), 2 * batch + 1)
    if device.has_graphs:
        assert [context.runs for context in made.contexts] == ran
        assert gpu.calls["cuGraphLaunch"] == graphs + 4 * 5  # in two parts each but the last


def test_a_fourth_shape_takes_the_place_of_the_one_used_longest_ago(gpu, made):
    for _ in range(3):
        for count in (1, 2, 3, 4, 5, 6):
            batch = np.random.default_rng(count).random((count, 1, 32, 32), np.float32)
            assert np.array_equal(made.session.run(batch), 2 * batch + 1)
    assert len(made.contexts) == 2 * 3


def test_memory_that_other_shapes_keep_is_given_up_before_it_is_short(gpu, made):
    small, large = np.zeros((2, 1, 32, 32), np.float32), np.zeros((4, 1, 64, 64), np.float32)
    made.session.run(small)
    gpu.memory = gpu.used + 1000
    with pytest.raises(Exception, match="out of device memory"):
        made.session.run(large)
    assert gpu.used == 0
    made.session.run(small)
    gpu.memory = 2 * 2 * 2 * 4 * 64 * 64 + 2 * 2 * 4 * 64 * 64  # what the large one needs by itself
    assert (made.session.run(large) == 1).all()
