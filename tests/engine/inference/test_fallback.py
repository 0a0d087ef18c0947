"""Giving way (promise P11): sessions that fail, the real engine, pipeline and CPU backend around them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from defocus.engine.errors import BackendError, OutOfMemoryError
from defocus.engine.inference import backends, fallback
from defocus.engine.inference.backends import onnx_runtime
from defocus.engine.inference.engine import Engine
from defocus.engine.inference.memory import Footprint
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.steps import process
from defocus.engine.tiff.read import read_provenance

from ...helpers.sessions import watched_engine


class Card:
    """A backend named "cuda" whose memory holds `most` pixels a batch; beyond it runs the model on the processor."""

    name = "cuda"

    def __init__(self, most: int = 1 << 40, lost_after: int = 1 << 40, footprint: Footprint | None = None):
        self.most, self.lost_after, self.footprint = most, lost_after, footprint or Footprint()
        self.description, self.shapes, self.closed = "Fake card", [], 0

    def unavailable_reason(self):
        return None

    def remedy(self):
        return "none"

    def open(self, path, card, threads=None):
        self.session = onnx_runtime.CPU.open(path, card, 1)
        return self

    def run(self, batch):
        self.shapes.append(batch.shape)
        if len(self.shapes) > self.lost_after:
            raise BackendError(self.description, "the GPU is lost", "restart the machine")
        if batch.size > self.most:
            raise OutOfMemoryError(self.description, "out of device memory", "use a smaller --tile")
        return self.session.run(batch)

    def trim(self):
        pass

    def close(self):
        self.closed += 1


@pytest.fixture
def place(monkeypatch):
    """Put a card in the place of CUDA, first of all that "auto" tries."""

    def put(card: Card) -> Card:
        whole = backends.backend
        names = ("cuda", "cpu")
        for module in (backends, fallback):
            monkeypatch.setattr(module, "NAMES", names)
        monkeypatch.setattr(backends, "backend", lambda name: card if name == "cuda" else whole(name))
        return card

    return put


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(100, 4000, (2, 200, 260), dtype=np.uint16)


@pytest.fixture
def expected(tiny_model, image):
    with Engine.load(tiny_model, backend="cpu") as engine:
        return engine(image)


def test_out_of_memory_makes_the_tile_smaller_and_stays(place, tiny_model, image, expected):
    card = place(Card(most=100 * 100))
    with Engine.load(tiny_model, tile=256, batch=4) as engine:
        assert np.array_equal(engine(image), expected)
        assert (engine.backend, engine.settings.batch) == ("cuda", 1)
        assert engine.settings.tile is not None
        assert engine.settings.tile <= 100
        count = len(card.shapes)
        assert np.array_equal(engine(image), expected)
        assert all(np.prod(shape) <= card.most for shape in card.shapes[count:])  # it has learned
        account = engine.provenance()
    assert account["settings"]["tile"] == engine.settings.tile
    assert account["fallbacks"][0] == "Fake card: out of device memory; went on with batch 1, tile 256"
    assert len(account["fallbacks"]) == 3
    json.dumps(account)


def test_a_card_with_less_memory_than_it_says_gets_smaller_tiles(place, tiny_model, image, expected):
    """Tiles by its own measure: first one at a time, then of half the pixels, and so on."""
    card = place(Card(most=50 * 50, footprint=Footprint(bytes_per_pixel=100, longest_side=224, free=50_000_000)))
    with Engine.load(tiny_model, batch=4, memory=1) as engine:
        assert engine.settings.max_pixels == 300_000  # of its own memory, whatever the computer's may be
        assert np.array_equal(engine(image), expected)
        assert card.shapes[0] == (4, 1, 208, 160)  # a plane of 200 x 260, no side above 224
        assert (engine.backend, engine.settings.batch) == ("cuda", 1)
        tried = [int(np.prod(shape)) for shape in card.shapes]
        steps = engine.provenance()["fallbacks"]
        assert len(steps) == len({one for one in tried if one > card.most})  # none is tried twice
        assert steps[0].endswith("went on with batch 1, tile of 0.033 megapixels")
        count = len(card.shapes)
        assert np.array_equal(engine(image), expected)
        assert all(np.prod(shape) <= card.most for shape in card.shapes[count:])


def test_where_no_tile_is_small_enough_the_next_backend_takes_over(place, tiny_model, image, expected):
    card = place(Card(most=10))
    with Engine.load(tiny_model, tile=256) as engine:
        assert np.array_equal(engine(image), expected)
        assert engine.backend == "cpu"
        assert engine.settings.tile == 256  # what was asked for: the processor has memory
        assert engine.rejected_backends["cuda"] == "out of device memory"
        assert "CPUExecutionProvider" in engine.provenance()["fallbacks"][-1]
        assert "CPUExecutionProvider" in engine.provenance()["backend"]
    assert card.closed == 1


def test_a_lost_card_in_the_middle_of_a_file_does_not_cost_the_file(place, tiny_model, image, expected, tmp_path):
    place(Card(lost_after=3))
    source, target = tmp_path / "a.tif", tmp_path / "out.tif"
    tifffile.imwrite(source, image)
    with Engine.load(tiny_model, tile=128, batch=1) as engine:
        outcome = process(Job(source, target), engine, keep_sharp=False)
    assert outcome.error is None
    assert np.array_equal(tifffile.imread(target), expected)
    assert "the GPU is lost" in json.dumps(read_provenance(target))


def test_a_backend_that_was_named_is_not_replaced(place, tiny_model, image):
    place(Card(lost_after=0))
    with Engine.load(tiny_model, backend="cuda") as engine:
        with pytest.raises(BackendError, match="the GPU is lost"):
            engine(image)
        assert (engine.backend, engine.fallbacks) == ("cuda", [])


def test_a_named_backend_still_gets_smaller_tiles(place, tiny_model, image, expected):
    place(Card(most=100 * 100))
    with Engine.load(tiny_model, backend="cuda", tile=256) as engine:
        assert np.array_equal(engine(image), expected)
        assert engine.backend == "cuda"


def test_with_nothing_left_the_error_is_the_first_ones(tiny_model, image):
    def fails(batch, stream):
        raise OutOfMemoryError("cpu", "no memory at all", "add some")

    with watched_engine(tiny_model, fails) as engine, pytest.raises(OutOfMemoryError, match="no memory at all"):
        engine(image)


def test_without_trouble_nothing_is_told(tiny_model, image):
    with Engine.load(tiny_model, backend="cpu") as engine:
        engine(image)
        assert "fallbacks" not in engine.provenance()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 9", OutOfMemoryError),
        ("Available memory of 12 is smaller than requested bytes of 99", OutOfMemoryError),
        ("CUDA failure 2: out of memory ; GPU=0", OutOfMemoryError),
        ("std::bad_alloc", OutOfMemoryError),
        ("CUDA failure 719: unspecified launch failure", BackendError),
        ("Got invalid dimensions for input", BackendError),
    ],
)
def test_onnx_runtimes_own_words_tell_whether_memory_ran_out(message, kind):
    class Session:
        def get_inputs(self):
            return [type("End", (), {"name": "image", "type": "tensor(float)"})]

        get_outputs = get_inputs

        def run(self, names, feeds):
            raise RuntimeError(message)

    with pytest.raises(BackendError) as caught:
        onnx_runtime.OnnxSession(Session(), "ONNX Runtime").run(np.zeros((1, 1, 16, 16), np.float32))
    assert type(caught.value) is kind
