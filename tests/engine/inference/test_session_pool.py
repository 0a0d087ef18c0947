"""Sessions: batches side by side give the same bits as one after the other, and leave when they cannot go on."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from defocus.engine.errors import OutOfMemoryError
from defocus.engine.inference.backends import StreamsSession, open_session
from defocus.engine.inference.engine import Engine
from defocus.engine.inference.options import settings_for
from defocus.engine.model.card import read_card

from ...helpers.sessions import watched_engine


@pytest.fixture
def stack() -> np.ndarray:
    return np.random.default_rng(5).integers(100, 4000, (5, 70, 90), np.uint16)


@pytest.mark.parametrize("backend", ["cpu", "openvino", "mnn"])
def test_side_by_side_gives_the_same_bits(tiny_model, stack, backend):
    module = {"cpu": "onnxruntime", "openvino": "openvino", "mnn": "MNN"}[backend]
    pytest.importorskip(module, reason=f'needs {module}: pip install ".[{backend}]"')
    with (
        Engine.load(tiny_model, backend=backend, threads=2, streams=1) as one,
        Engine.load(tiny_model, backend=backend, threads=2, streams=2) as two,
    ):
        assert np.array_equal(two(stack), one(stack))
        assert np.array_equal(two(stack[0]), one(stack[0]))
    with (
        Engine.load(tiny_model, backend=backend, tile=64, threads=3, streams=1) as one,
        Engine.load(tiny_model, backend=backend, tile=64, threads=3, streams=3) as three,
    ):
        assert np.array_equal(three(stack), one(stack))


def test_batches_run_side_by_side_and_a_lone_one_on_all_threads(tiny_model, stack):
    seen, both = [], threading.Barrier(2, timeout=300)
    others = set(threading.enumerate())  # engines of other tests may be open

    def before(batch, stream):
        seen.append(stream)
        if stream is not None:
            both.wait()  # breaks unless two run at once

    with watched_engine(tiny_model, before) as engine:
        engine(stack[:4])
        engine(stack[0])
        assert set(seen[:4]) == {0, 1}
        assert seen[4:] == [None]
    assert not any(thread.name.startswith("defocus-engine") for thread in set(threading.enumerate()) - others)


def test_without_memory_for_both_they_go_one_by_one(tiny_model, stack):
    refused = threading.Event()

    def before(batch, stream):
        if stream is not None and refused.is_set():
            raise OutOfMemoryError("cpu", "no memory for two", "add some")

    with watched_engine(tiny_model, before) as engine:
        expected = engine(stack)
        refused.set()
        assert np.array_equal(engine(stack), expected)
        assert engine.settings.streams == 1
        assert "no memory for two" in engine.fallbacks[0]


def test_a_model_that_was_replaced_meanwhile_is_not_opened_again(tiny_model, stack, tmp_path):
    model = tmp_path / "model.onnx"
    shutil.copy(tiny_model, model)
    with Engine.load(model, backend="cpu", threads=2) as engine:
        expected = engine(stack[:1])
        model.write_bytes(b"another one")
        assert np.array_equal(engine(stack)[:1], expected)


@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (2, 2), (64, 2)])
def test_no_more_streams_than_threads(tiny_model, threads, streams):
    card = read_card(tiny_model)
    assert settings_for(card, "cpu", threads=threads).streams == streams
    assert settings_for(card, "cuda", threads=threads).streams == 1


def test_only_a_processor_has_streams(tiny_model):
    card = read_card(tiny_model)
    session = open_session("cpu", tiny_model, card, 2).session
    assert isinstance(session, StreamsSession)
    narrow = session.streams(2)
    assert len(narrow) == 2
    assert not any(isinstance(one, StreamsSession) for one in narrow)


def test_no_batch_is_left_out_where_more_streams_are_asked_for_than_are_open(tiny_model, stack):
    with Engine.load(tiny_model, backend="cpu", threads=2, streams=2) as engine:
        expected = engine(stack)
        engine.settings = replace(engine.settings, streams=4)
        np.testing.assert_array_equal(engine(stack), expected)
