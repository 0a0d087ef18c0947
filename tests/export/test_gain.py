"""A model that loses against its input is not exported unless it is forced."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile

pytest.importorskip("torch", reason='needs PyTorch: pip install ".[train]"')
pytest.importorskip("onnx", reason='needs onnx: pip install ".[train]"')
pytest.importorskip("skimage", reason='needs scikit-image: pip install ".[train]"')

from defocus.engine.errors import InputError, ModelError
from defocus.engine.model.card import Card
from defocus.export.gain import Gain, measure_gain, refuse_losses
from defocus.training.physics.specimen import draw_cells

CARD = Card("x", channels=1, multiple=16, halo=32, defocus_um_range=(0.0, 20.0))


def test_what_passes_its_input_on_gains_nothing_and_is_refused():
    gains = list(measure_gain(lambda batch: batch, CARD))
    assert [gain.z_um for gain in gains] == [10, 16]
    assert [gain.decibels for gain in gains] == [0.0, 0.0]
    assert 15 < gains[1].before < gains[0].before < 40
    with pytest.raises(ModelError, match=r"gains 0.00 dB only against its input; .*--force"):
        refuse_losses(Path("x.onnx"), gains)


def test_a_loss_is_told_with_its_distance():
    gains = list(measure_gain(lambda batch: batch * 0.5, CARD))
    assert all(gain.decibels < -1 for gain in gains)
    with pytest.raises(ModelError, match=r"x.onnx: loses \d+.\d+ dB at 1[06] um against its input"):
        refuse_losses(Path("x.onnx"), gains)


@pytest.mark.parametrize(
    ("gains", "refused"),
    [
        ([(20.0, 21.0), (20.0, 20.0)], False),
        ([(20.0, 23.0), (20.0, 19.9)], True),
        ([(20.0, 20.05)], True),
        ([(20.0, math.nan), (20.0, 25.0)], True),
        ([(math.inf, math.inf), (20.0, 21.0)], False),  # a plane that came back as it was is no loss
    ],
)
def test_what_is_refused(gains, refused):
    measured = [Gain(z, *pair) for z, pair in enumerate(gains)]
    if refused:
        with pytest.raises(ModelError):
            refuse_losses(Path("x.onnx"), measured)
    else:
        refuse_losses(Path("x.onnx"), measured)


def test_it_is_measured_on_the_images_given_in_every_channel(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(6):
        tifffile.imwrite(tmp_path / f"{index}.tif", (draw_cells((70, 100), rng) * 900).astype(np.uint16))
    shapes = []

    def run(batch: np.ndarray) -> np.ndarray:
        shapes.append(batch.shape)
        return batch

    two = Card("x", channels=2, multiple=16, halo=32, defocus_um_range=(25.0, 25.0), na_range=(0.2, 0.3))
    (gain,) = measure_gain(run, two, tmp_path)
    assert gain.z_um == 25
    assert shapes == [(1, 2, 64, 96)] * 4  # four of the six, in whole multiples
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no TIFF or PNG image"):
        list(measure_gain(run, two, tmp_path / "empty"))


def test_of_unknown_distances_nothing_is_measured():
    assert list(measure_gain(lambda batch: batch, Card("x", 1, 16, 32))) == []
