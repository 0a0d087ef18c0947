"""Fixtures of every room: a tiny real model and the shared images."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
TINY_HALO = 16  # the receptive field of two 3x3 convolutions is 2 px; 16 keeps the tile origins on the multiple
# What stands in the text of a module or fixture that may start a process, sleep, or load PyTorch, which takes seconds.
NOT_QUICK = re.compile(
    r"subprocess|multiprocessing|ProcessPool|Popen|os\.fork|sleep\(|playwright|\bdistributed\b|\bdask\b|helpers\.calling"
    r"|\"mnn\"|\btorch\b|\blightning\b|\bimport\b.*\b(Watching|Configured|command)\b|Watching\("
)
# Files of tests that take longest: they are begun first, or else a worker would wait for the other's last one.
LONGEST = {
    "test_export.py",
    "test_packaging.py",
    "test_train_default.py",
    "test_fit.py",
    "test_browser.py",
    "test_tutorial.py",
    "test_fit_recipes.py",
    "test_docs_commands.py",
    "test_process.py",
    "test_faults.py",
    "test_writers.py",
    "test_channel_assembler.py",
    "test_other_formats.py",
    "test_default_model.py",
    "test_memory.py",
    "test_memmap.py",
    "test_batch.py",
}
STARTS_OR_SLEEPS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "time.sleep"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import, for `make test-quick`, what it does not run: PyTorch would come with it."""
    if config.option.markexpr == "quick" and collection_path.match("test_*.py"):
        return _starts_or_loads(collection_path) or None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `quick` what starts no process, does not sleep and does not compute for seconds; the longest go first."""
    for item in items:
        fixtures = getattr(item, "_fixtureinfo").name2fixturedefs.values()  # noqa: B009  of pytest's own
        sources = [item.path, *(one.func for found in fixtures for one in found)]
        long = item.get_closest_marker("slow") or item.get_closest_marker("seconds")
        if not long and not any(map(_starts_or_loads, sources)):
            item.add_marker("quick")
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def quick_means_quick(request: pytest.FixtureRequest) -> None:
    """In `make test-quick`, a test that starts a process nevertheless fails (or, from Python 3.13, one that sleeps)."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS_OR_SLEEPS and "ldconfig" not in str(arguments):  # with which ctypes looks for CUDA
            raise AssertionError(f"{event}{arguments} in a test that is marked quick")

    if request.config.option.markexpr == "quick":
        sys.addaudithook(refuse)


@pytest.fixture(autouse=True)
def _disable_qt_warnings() -> None:
    """In place of napari's, which imports all of its Qt in every run; tests/test_napari.py takes the real one."""


@pytest.fixture(autouse=True)
def _clean_themes() -> None:
    """Likewise."""


@cache
def _starts_or_loads(source: Any) -> bool:
    """Whether a file or a function has in its text what is not quick."""
    try:
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else inspect.getsource(source)
    except (OSError, TypeError):  # built in
        return False
    return NOT_QUICK.search(text) is not None


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory):
    """What backends keep (converted models, plans) goes into a folder of this run, not into the user's."""
    with pytest.MonkeyPatch.context() as patch:
        if "DEFOCUS_CACHE" not in os.environ:
            patch.setenv("DEFOCUS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, or a skip that says why."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real images of {folder}")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KB that is really full when it is full: a tmpfs."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def make_model():
    """A function `make_model(path, channels=1, card=..., **changes)` that writes a small real ONNX file.

    The network is x + conv3x3(relu(conv3x3(x))) with fixed random weights: float32, "image" (N, C, H, W) to
    "restored" of the same shape, H and W any multiple of 16 at run time.
    `card` is the whole card, as a dict or as text, `changes` replace fields of the usual one; `card=None` leaves the
    metadata out.
    """
    return write_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path to a small one-channel model with a card: multiple 16, halo 16."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny.onnx")


@pytest.fixture(scope="session")
def tiny_model_2c(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for two channels."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny2.onnx", channels=2)


def write_model(path: Path, channels: int = 1, card: dict | str | None = "default", width: int = 4, **changes) -> Path:
    onnx = pytest.importorskip("onnx", reason='needs onnx: pip install ".[train]"')
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(7)
    shape = ["batch", channels, "height", "width"]
    first = rng.normal(0, 0.2, (width, channels, 3, 3)).astype(np.float32)
    second = rng.normal(0, 0.1, (channels, width, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w1", "b1"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w2"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Add", ["image", "c"], ["restored"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("restored", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(first, "w1"),
            numpy_helper.from_array(rng.normal(0, 0.1, width).astype(np.float32), "b1"),
            numpy_helper.from_array(second, "w2"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if card is not None:
        fields = tiny_card(channels) | changes if card == "default" else card
        text = fields if isinstance(fields, str) else json.dumps(fields)
        helper.set_model_props(model, {"other": "entry", "defocus": text})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def tiny_card(channels: int = 1) -> dict:
    """What `Card.to_json()` writes, spelled out: the file format, kept here so that a change of it is noticed."""
    return {
        "format": 1,
        "name": "tiny",
        "channels": channels,
        "multiple": 16,
        "halo": TINY_HALO,
        "intensity": {"rule": "percentile", "low": 1.0, "high": 99.9},
        "pixel_size_um": [0.3, 0.7],
        "na_range": [0.4, 0.6],
        "wavelength_um_range": [0.45, 0.65],
        "defocus_um_range": [0.0, 35.0],
        "training_data": "random numbers",
        "date": "2026-11-23",
        "licence": "CC0",
    }
