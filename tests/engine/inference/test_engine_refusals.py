"""What an engine refuses, and what it says of itself."""

from __future__ import annotations

import json

import numpy as np
import pytest

import defocus
from defocus.engine.errors import BackendError, InputError
from defocus.engine.inference.engine import Engine

from .test_engine import specimen


@pytest.fixture(scope="module")
def engine(tiny_model):
    with Engine.load(tiny_model, backend="cpu") as engine:
        yield engine


@pytest.mark.parametrize(
    ("shape", "axes", "cause"),
    [
        ((3, 20, 20), "CYX", "has 3 channels"),
        ((20, 20), None, "has no channel axis"),
        ((2, 20, 20), "ZYX", "has no channel axis"),
        ((20, 20, 3), "YXS", "has 3 channels"),
    ],
)
def test_wrong_channels_are_refused(tiny_model_2c, shape, axes, cause):
    with pytest.raises(InputError, match=f"{cause}.* the model takes 2 channels together; give an axis C"):
        Engine.load(tiny_model_2c, backend="cpu")(np.ones(shape, np.uint8), axes)


@pytest.mark.parametrize(
    ("shape", "axes", "cause"),
    [
        ((20,), None, "without a Y and an X axis"),
        ((), None, "without a Y and an X axis"),
        ((20, 20), "ZYX", "axes ZYX name 3 of 2 dimensions"),
        ((20, 20), "ZC", "have no Y and X"),
        ((20, 20), "YZ", "have no Y and X"),
        ((2, 20, 20), "XYX", "repeat Y or X"),
        ((20, 20, 3), None, "may be a colour image"),
        ((5, 20, 20, 4), None, "may be a colour image"),
    ],
)
def test_axes_that_make_no_sense_are_refused(engine, shape, axes, cause):
    with pytest.raises(InputError, match=cause):
        engine(np.ones(shape, np.uint8), axes)


def test_bad_values_name_file_and_plane(engine):
    stack = specimen((2, 3, 20, 20), np.float32)
    stack[1, 2, 3, 4] = np.nan
    with pytest.raises(InputError, match=r"^a\.tif plane \(1, 2\): holds NaN values"):
        engine(stack, name="a.tif")
    with pytest.raises(InputError, match="complex64 are not supported"):
        engine(stack.astype(np.complex64))


def test_a_network_that_gives_nan_is_noticed(engine, monkeypatch):
    monkeypatch.setattr(engine._sessions.session, "run", lambda batch: batch * np.float32(np.nan))
    with pytest.raises(BackendError, match="gave NaN"):
        engine(specimen((20, 20)))
    monkeypatch.setattr(engine._sessions.session, "run", lambda batch: batch[..., 1:])
    with pytest.raises(BackendError, match="gave shape"):
        engine(specimen((20, 20)))


@pytest.mark.parametrize(
    ("choice", "cause"),
    [
        ({"tile": 47}, "leaves no core between halos of 16 px; use at least 48"),
        ({"tile": 64, "halo": 25}, "use at least 80"),
        ({"tile": 0}, "leaves no core between halos of 16 px; use at least 48"),
        ({"halo": -1}, "too small"),
        ({"batch": 0}, "too small"),
        ({"threads": 0}, "too small"),
        ({"per": "pixel"}, "unknown"),
    ],
)
def test_settings_that_make_no_sense(tiny_model, choice, cause):
    with pytest.raises(InputError, match=cause):
        Engine.load(tiny_model, **choice)


def test_a_tile_is_worth_its_halo_however_little_memory_there_is(make_model, tmp_path):
    settings = Engine.load(make_model(tmp_path / "wide.onnx", halo=400), backend="cpu", memory=1).settings
    assert (settings.tile, settings.halo, settings.max_pixels) == (None, 400, 1600**2)
    (tile, *_) = settings.tiles_for(5000, 5000, 16)
    assert 0.9 * 1600**2 < np.prod(tile.shape) <= 1600**2


def test_provenance_says_what_made_it(engine):
    account = json.loads(json.dumps(engine.provenance()))
    assert account["software"] == f"defocus {defocus.__version__}"
    assert account["model"] == "tiny"
    assert account["model_sha256"] == engine.card.sha256
    assert account["backend"] == engine.description
    assert account["settings"]["halo"] == 16
    assert account["settings"]["intensity"] == {"low": 1.0, "high": 99.9, "rule": "percentile"}


def test_a_closed_engine_says_so(tiny_model):
    with Engine.load(tiny_model, backend="cpu") as engine:
        engine(specimen((16, 16)))
    with pytest.raises(BackendError, match="closed"):
        engine(specimen((16, 16)))
