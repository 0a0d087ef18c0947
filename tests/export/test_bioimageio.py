"""The bioimage.io package for real: bioimageio.core loads it, tests it and gives what our engine gives."""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason='needs onnx: pip install ".[train]"')

from defocus import Engine
from defocus.engine.errors import InputError
from defocus.engine.image.normalization import measure
from defocus.engine.model.card import model_path, read_card
from defocus.export.bioimageio import Contacts, write_package

pytestmark = [  # not imported to collect the tests: that takes 3 s
    pytest.mark.seconds,
    pytest.mark.skipif(find_spec("bioimageio") is None, reason='needs bioimageio.core: pip install ".[bioimageio]"'),
]


def predicted(package, plane: np.ndarray) -> np.ndarray:
    """A plane (Y, X) of counts through bioimageio.core, in units of its range."""
    from bioimageio.core import load_model_description, predict

    model = load_model_description(package, perform_io_checks=False)
    inputs: Any = {"image": plane[None, None].astype(np.float32)}
    members: Any = predict(model=model, inputs=inputs).members
    return np.asarray(members["restored"].data)[0, 0]


def check(model, tmp_path) -> None:
    said: list[str] = []
    package = tmp_path / "model.bioimageio.zip"
    write_package(model, package, said.append)
    assert "passed by bioimageio.core" in said[-1]
    card = read_card(model)
    with zipfile.ZipFile(package) as files:
        names = set(files.namelist())
        assert names >= {"rdf.yaml", "weights.onnx", "cover.png", "documentation.md", "test_input.npy"}
        description = files.read("rdf.yaml").decode()
        assert files.read("weights.onnx") == model.read_bytes()
    assert f"halo: {card.halo}" in description
    assert "scale_range" in description
    side = 2 * card.halo + 64
    plane = (np.random.default_rng(0).random((side, side)) * 900 + 100).astype(np.uint16)
    intensity = measure(plane, card.intensity)
    with Engine.load(model, backend="cpu") as engine:
        ours = engine(plane.astype(np.float32))
    theirs = predicted(package, plane) * intensity.scale + intensity.offset
    # bioimageio.core mirrors a halo around the image and then takes the percentiles: the border is another, and the
    # range differs by a thousandth.
    core = (slice(card.halo, -card.halo),) * 2
    assert ours[core].size >= 64 * 64
    assert np.abs(theirs - ours)[core].max() < 0.005 * intensity.scale
    gain, offset = np.polyfit(ours[core].ravel(), theirs[core].ravel(), 1)
    assert abs(gain - 1) < 0.002
    assert np.abs(gain * ours + offset - theirs)[core].max() < 0.001 * intensity.scale


def test_a_package_gives_what_the_engine_gives(tiny_model, tmp_path):
    check(tiny_model, tmp_path)


@pytest.mark.slow
def test_the_default_model_as_a_package(tmp_path):
    check(model_path(), tmp_path)


def test_a_package_is_a_zip(tiny_model, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.zip"):
        write_package(tiny_model, tmp_path / "model.tar")


def test_who_stands_behind_a_package(tiny_model, tmp_path):
    from bioimageio.spec import InvalidDescr, ValidationContext, load_description
    from bioimageio.spec.model.v0_5 import ModelDescr

    contacts = Contacts(["A. Author", "B. Author"], ["a-maintainer"], "https://example.org/defocus")
    write_package(tiny_model, tmp_path / "model.zip", contacts=contacts)
    with ValidationContext(perform_io_checks=False):  # nobody on the network is asked
        model = load_description(tmp_path / "model.zip")
        assert not isinstance(model, InvalidDescr)
        assert isinstance(model, ModelDescr)
        assert [author.name for author in model.authors] == ["A. Author", "B. Author"]
        assert [maintainer.github_user for maintainer in model.maintainers] == ["a-maintainer"]
        assert str(model.git_repo) == "https://example.org/defocus"
        assert [str(cover.source) for cover in model.covers] == ["cover.png"]
        summary = model.validation_summary
    assert summary.status in ("valid-format", "passed")
    # Nothing that the format recommends is missing but the licence, which the tests' model does not state.
    assert [warning.loc for detail in summary.details for warning in detail.warnings] == [("license",)]
    with pytest.raises(InputError, match="not accepted"):
        write_package(tiny_model, tmp_path / "model.zip", contacts=Contacts(["with/slash"]))
    with pytest.raises(InputError, match="not accepted"):
        write_package(tiny_model, tmp_path / "model.zip", contacts=Contacts(git_repo="no address"))
