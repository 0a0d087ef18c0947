from __future__ import annotations

import json
import os
from dataclasses import FrozenInstanceError, replace
from hashlib import sha256

import numpy as np
import onnx
import pytest

from defocus.engine.errors import ModelError
from defocus.engine.model.card import KEY, Card, Percentiles, half_precision, model_path, read_card


def test_reads_what_a_file_says(tiny_model):
    card = read_card(tiny_model)
    assert (card.name, card.channels, card.multiple, card.halo) == ("tiny", 1, 16, 16)
    assert card.intensity == Percentiles(1.0, 99.9)
    assert card.pixel_size_um == (0.3, 0.7)
    assert card.na_range == (0.4, 0.6)
    assert card.defocus_um_range == (0.0, 35.0)
    assert card.licence == "CC0"
    assert card.sha256 == sha256(tiny_model.read_bytes()).hexdigest()
    with pytest.raises(FrozenInstanceError):
        card.name = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_what_is_written_is_read(tiny_model, tmp_path):
    card = Card(
        "Zellkern µ", 2, 16, 160, Percentiles(2, 99), (0.65, 0.65), None, (0.4, 0.7), None, "mine", "2026", "MIT"
    )
    model = onnx.load(tiny_model)
    onnx.helper.set_model_props(model, {KEY: card.to_json()})
    onnx.save(model, tmp_path / "model.onnx")
    read = read_card(tmp_path / "model.onnx")
    assert replace(read, sha256="") == card


def test_agrees_with_onnx_about_a_file_with_many_fields(tiny_model, tmp_path):
    model = onnx.load(tiny_model)
    model.producer_name, model.producer_version, model.domain = "someone", "1.2", "org.example"
    model.model_version, model.doc_string = 1 << 60, "text " * 1000
    model.functions.add().name = "unused"
    model.metadata_props.add(key="zz", value="last" * 500)
    path = tmp_path / "many.onnx"
    onnx.save(model, path)
    assert replace(read_card(path), sha256="") == replace(read_card(tiny_model), sha256="")


def test_one_number_is_a_range(make_model, tmp_path):
    assert read_card(make_model(tmp_path / "m.onnx", pixel_size_um=0.65)).pixel_size_um == (0.65, 0.65)


def broken(folder, make_model):
    """(file, what the error must say)"""
    good = json.loads(Card("m", 1, 16, 16).to_json())
    whole = make_model(folder / "whole.onnx").read_bytes()

    def file(name, content):
        (folder / name).write_bytes(content)
        return folder / name

    yield folder / "absent.onnx", "no such model file"
    yield folder, "cannot be read"
    yield file("empty.onnx", b""), "not an ONNX file"
    yield file("text.onnx", b"this is no model, it is a text of some length\n" * 9), "not an ONNX file"
    yield file("zeros.onnx", bytes(4096)), "not an ONNX file"
    yield file("cut.onnx", whole[: len(whole) // 2]), "not an ONNX file"
    yield file("image.onnx", b"II*\0\x08\0\0\0" + bytes(range(256))), "not an ONNX file"
    yield make_model(folder / "bare.onnx", card=None), "without a defocus card"
    yield make_model(folder / "garbled.onnx", card="{half"), "card cannot be read"
    yield make_model(folder / "list.onnx", card="[1]"), "card cannot be read"
    yield make_model(folder / "newer.onnx", format=2), "has format 2"
    yield make_model(folder / "none.onnx", format=None), "format is None"
    yield make_model(folder / "channels.onnx", card=good | {"channels": "two"}), "channels is 'two'"
    yield make_model(folder / "halo.onnx", halo=-1), "halo is -1"
    yield make_model(folder / "rule.onnx", intensity={"rule": "magic"}), "magic"
    yield make_model(folder / "order.onnx", intensity={"rule": "percentile", "low": 99, "high": 1}), "percentiles 99"
    yield make_model(folder / "range.onnx", na_range=[0.6, 0.4]), "na_range"
    yield make_model(folder / "pair.onnx", na_range="wide"), "card makes no sense"
    for missing in ("name", "channels", "multiple", "halo", "intensity"):
        fields = {key: value for key, value in good.items() if key != missing}
        yield make_model(folder / f"no_{missing}.onnx", card=fields), f"lacks '{missing}'"


def test_bad_files_are_told_apart_in_one_line(tmp_path, make_model):
    for path, cause in broken(tmp_path, make_model):
        with pytest.raises(ModelError) as caught:
            read_card(path)
        line = str(caught.value)
        assert cause in line
        assert line.startswith(f"{path}: ")
        assert "\n" not in line
        assert caught.value.remedy


def test_a_file_without_permission(tmp_path, make_model):
    path = make_model(tmp_path / "m.onnx")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")
    with pytest.raises(ModelError, match="Permission denied"):
        read_card(path)


def test_every_cut_of_a_file_is_refused_or_the_same(tiny_model, tmp_path):
    """No prefix of a model crashes the reader; one that still holds the card reads it unchanged."""
    whole, card = tiny_model.read_bytes(), read_card(tiny_model)
    path = tmp_path / "cut.onnx"
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        try:
            assert replace(read_card(path), sha256="") == replace(card, sha256="")
        except ModelError:
            continue


def test_the_default_model(tmp_path):
    assert model_path(tmp_path / "mine.onnx") == tmp_path / "mine.onnx"
    try:
        assert read_card(model_path("default")).channels == 1
    except ModelError as error:
        assert "no default model" in str(error)  # noqa: PT017 (a tree without the trained model)


def test_half_precision_is_taken_of_this_very_file_only(make_model, tmp_path):
    full, half = make_model(tmp_path / "m.onnx"), tmp_path / "m_fp16.onnx"
    card = read_card(full)
    assert half_precision(full, card) is None
    make_model(half, precision="fp16", fp32_sha256=card.sha256)
    assert half_precision(full, card) == (half, read_card(half))
    assert half_precision(half, read_card(half)) is None
    other = read_card(make_model(full, name="trained further"))
    assert half_precision(full, other) is None
    half.write_bytes(half.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"m_fp16\.onnx: not an ONNX file"):
        half_precision(full, card)


def test_weights_in_another_file_are_refused(tiny_model, tmp_path):
    """The hash of the model would say nothing about them: also in an attribute of a node, and in a graph within it."""
    plain = onnx.load(str(tiny_model))
    path = tmp_path / "outside.onnx"
    onnx.save_model(
        plain, str(path), save_as_external_data=True, location="w.bin", size_threshold=0, convert_attribute=True
    )
    with pytest.raises(ModelError, match="weights lie in another file"):
        read_card(path)
    nested = onnx.load(str(tiny_model))
    inner = onnx.helper.make_graph([], "inner", [], [])
    tensor = inner.initializer.add()
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(3, np.float32), "w"))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    nested.graph.node[0].attribute.append(onnx.helper.make_attribute("body", inner))
    path.write_bytes(nested.SerializeToString())
    with pytest.raises(ModelError, match="weights lie in another file"):
        read_card(path)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"channels": 10**6}, "channels is 10+, not between 1 and 64"),
        ({"multiple": 10**9}, "multiple is 10+, not between 1 and 1024"),
        ({"halo": 10**9}, "halo is 10+, not between 0 and 2048"),
        ({"intensity": {"rule": "percentile", "low": 1, "high": 10**400}}, "its card makes no sense"),
        ({"pixel_size_um": [0.1, float("inf")]}, "pixel_size_um"),
        ({"name": "n" * 900_000}, "name has 900000 characters, more than 200"),
    ],
)
def test_numbers_of_a_card_have_bounds(tiny_model, tmp_path, change, cause):
    path = with_card(tiny_model, tmp_path, json.dumps(json.loads(read_card(tiny_model).to_json()) | change))
    with pytest.raises(ModelError, match=cause):
        read_card(path)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"format": 1, "a": ' + "[" * 200_000, "x" * 2_000_000])
def test_a_card_of_nonsense_is_one_line(tiny_model, tmp_path, text):
    with pytest.raises(ModelError) as caught:
        read_card(with_card(tiny_model, tmp_path, text))
    assert len(str(caught.value)) < 400


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", "/dev/zero"):
        with pytest.raises(ModelError, match="not a regular file"):
            read_card(path)


def with_card(model, folder, text):
    """A copy of a model with another card."""
    changed = onnx.load(str(model))
    onnx.helper.set_model_props(changed, {KEY: text})
    path = folder / "changed.onnx"
    path.write_bytes(changed.SerializeToString())
    return path
