"""The TensorRT runtime over the late driver: what the context is told, in which order things happen, what is kept."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from defocus.engine.errors import BackendError, OutOfMemoryError


def batch(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 9, 23])
def test_every_plane_comes_back_from_its_own_place(made, count):
    for seed in range(4):  # plainly, recorded, and as a graph
        given = batch(count, 1, 32, 48, seed=seed)
        assert np.array_equal(made.session.run(given), 2 * given + 1)


def test_shapes_and_profiles_may_change_at_any_time(made):
    for seed, shape in enumerate(
        [(1, 1, 32, 32), (4, 1, 64, 64), (1, 1, 128, 96), (9, 1, 16, 16), (1, 1, 128, 96)] * 3
    ):
        given = batch(*shape, seed=seed)
        assert np.array_equal(made.session.run(given), 2 * given + 1)


def test_a_strided_batch_is_taken(made):
    given = batch(2, 1, 64, 64)[:, :, ::2, ::2]
    assert np.array_equal(made.session.run(given), 2 * given + 1)


def test_nothing_is_allocated_once_a_shape_is_known(gpu, made):
    given = batch(4, 1, 64, 64)
    for _ in range(3):
        made.session.run(given)
        made.session.run(batch(2, 1, 64, 64))
    asked = ("cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuEventCreate", "mem_alloc", "Stream", "Event")
    asked += ("cuGraphInstantiate", "pagelocked_empty")
    before, blocks = {name: gpu.calls.get(name) for name in asked}, set(gpu.blocks)
    for _ in range(5):
        made.session.run(given)
        made.session.run(batch(2, 1, 64, 64))
    assert {name: gpu.calls.get(name) for name in asked} == before
    assert set(gpu.blocks) == blocks


def test_a_shape_becomes_a_graph_where_the_layer_has_them(gpu, made, device):
    given = batch(1, 1, 64, 64)
    for _ in range(6):
        made.session.run(given)
    runs = sum(context.runs for context in made.contexts)
    # Plain, plain and recorded; then only launched.
    assert (runs, gpu.calls.get("cuGraphLaunch", 0)) == ((3, 4) if device.has_graphs else (6, 0))


def test_a_shape_outside_the_profiles_names_them(made):
    with pytest.raises(BackendError, match=r"batch of 1x1x256x256 is outside its profiles \(tiles=1x16x16:.*planes="):
        made.session.run(batch(1, 1, 256, 256))


def test_out_of_memory_has_its_own_kind_gives_all_back_and_goes_on(gpu, made):
    given = batch(1, 1, 32, 32)
    made.session.run(given)
    gpu.memory = 50_000
    with pytest.raises(OutOfMemoryError):
        made.session.run(batch(4, 1, 64, 64))
    assert gpu.used == 0
    assert np.array_equal(made.session.run(given), 2 * given + 1)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Error Code 2: OutOfMemory (Requested size was 9 bytes.)", OutOfMemoryError),
        ("Error Code 1: Cuda", BackendError),
    ],
)
def test_what_tensorrt_refuses_is_one_line(made, message, kind):
    for context in made.contexts:
        context.fails = message + "\nand more"
    with pytest.raises(BackendError) as caught:
        made.session.run(batch(1, 1, 32, 32))
    assert type(caught.value) is kind
    assert message in str(caught.value)
    assert "and more" not in str(caught.value)


def test_a_lost_card_is_an_error_each_time_and_closing_it_is_none(gpu, made):
    made.session.run(batch(1, 1, 32, 32))
    gpu.lost = True
    for _ in range(2):
        with pytest.raises(BackendError, match=r"(?i)illegal"):
            made.session.run(batch(1, 1, 32, 32))
    made.session.close()
    gpu.lost, gpu.used, gpu.loaded = False, 0, 0  # it keeps what it had


def test_a_closed_session_says_so(gpu, made):
    made.session.run(batch(1, 1, 32, 32))
    made.session.close()
    made.session.close()
    assert made.closed == [1]
    with pytest.raises(BackendError, match="closed"):
        made.session.run(batch(1, 1, 32, 32))


def test_two_threads_at_once_are_refused_one_after_the_other_not(made):
    given, results = batch(1, 1, 32, 32), []
    thread = threading.Thread(target=lambda: results.append(made.session.run(given)))
    thread.start()
    thread.join(300)
    assert np.array_equal(results[0], 2 * given + 1)
    original = made.contexts[0].execute_async_v3

    def meanwhile(stream):
        with pytest.raises(BackendError, match="one thread at a time"):
            made.session.run(given)
        results.append("refused")
        return original(stream)

    made.contexts[0].execute_async_v3 = meanwhile
    made.session.run(given)
    assert results[1] == "refused"
