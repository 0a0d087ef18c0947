"""Opening a model with TensorRT, on a card and a library that are not there: what is built, kept, found and refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from defocus.engine.errors import BackendError
from defocus.engine.inference.backends.tensorrt import backend
from defocus.engine.inference.backends.tensorrt.backend import RTX, TENSORRT
from defocus.engine.inference.backends.tensorrt.plan_cache import PlanCache
from defocus.engine.inference.backends.tensorrt.precision import LayerPrecision
from defocus.engine.model.card import read_card

from .fake_tensorrt import PROFILES, Context

HALF = LayerPrecision({("CONVOLUTION", "HALF"): 2})


class Logger:
    Severity = SimpleNamespace(ERROR=1)


class Kernels:
    """The runtime cache of TensorRT for RTX: what is compiled on the card, as bytes."""

    def __init__(self) -> None:
        self.given = b""

    def deserialize(self, data: bytes) -> None:
        self.given = data

    def serialize(self) -> bytes:
        return self.given + b" kernels"


class Library:
    """What both flavours have of `tensorrt`: an engine that computes 2 x + 1 on the card of `late_driver`."""

    __version__ = "11.1.0"
    ILogger, TensorIOMode = Logger, SimpleNamespace(INPUT=0, OUTPUT=1)
    LayerInformationFormat = SimpleNamespace(JSON="json")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="the user's")

    def __init__(self, gpu) -> None:
        self.gpu, self.log, self.graph = gpu, None, SimpleNamespace(network=lambda given: 2 * given + 1)
        self.datatype, self.strategies, self.built_with, self.loaded = "FP16", [], [], []

    def Runtime(self, log):
        self.log = log
        return SimpleNamespace(deserialize_cuda_engine=self.engine)

    def engine(self, data: bytes):
        self.loaded.append(data)
        layer = {"LayerType": "convolution", "Outputs": [{"Format/Datatype": self.datatype}]}
        account = json.dumps({"Layers": [layer] * 2})
        return SimpleNamespace(
            num_io_tensors=2,
            get_tensor_name=("restored", "image").__getitem__,
            get_tensor_mode=lambda name: int(name[0] == "r"),
            create_engine_inspector=lambda: SimpleNamespace(get_engine_information=lambda form: account),
            create_execution_context=self.context,
        )

    def context(self, strategy):
        self.strategies.append(strategy)
        return Context(self.gpu, self.log, self.graph)

    def build(self, trt, path, card, recipe, say, timing):
        self.built_with.append(timing)
        return SimpleNamespace(data=b"engine", seconds=61.0, precision=HALF), timing + b" timing"


class LibraryForRTX(Library):
    __version__ = "1.2.0"
    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")

    def __init__(self, gpu) -> None:
        super().__init__(gpu)
        self.kernels: list[Kernels] = []

    def engine(self, data: bytes):
        engine = super().engine(data)
        engine.create_runtime_config = lambda: SimpleNamespace(
            set_execution_context_allocation_strategy=self.strategies.append,
            create_runtime_cache=lambda: self.kernels.append(Kernels()) or self.kernels[-1],
            set_runtime_cache=lambda kernels: None,
        )
        return engine

    def context(self, config):
        assert config.cuda_graph_strategy == "whole"
        return Context(self.gpu, self.log, self.graph)


@pytest.fixture
def installed(gpu, device, card, monkeypatch, tmp_path):
    """A function that puts a library in the place of TensorRT's; the cache is an empty folder."""

    def put(library):
        monkeypatch.setattr(backend, "import_module", lambda name: library)
        monkeypatch.setattr(backend, "build", library.build)
        return library

    monkeypatch.setenv("DEFOCUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(backend, "is_installed", lambda package: True)
    monkeypatch.setattr(backend.gpu, "open_device", lambda: device)
    monkeypatch.setattr(backend, "usual_profiles", lambda card: PROFILES)
    return put


def opened(flavour, model):
    return flavour.open(model, read_card(model))


def test_an_engine_is_built_at_the_first_opening_and_kept(installed, gpu, tiny_model, capsys):
    library = installed(Library(gpu))
    session = opened(TENSORRT, tiny_model)
    said = capsys.readouterr().err.splitlines()
    assert "building an engine of tiny.onnx for " in said[0]
    assert said[-1].endswith("built in 61.0 s, 0.0 MiB, 2 of 2 convolutions in half precision")
    assert session.description.startswith("TensorRT 11.1.0 on ")
    assert "2 of 2 convolutions in half precision" in session.description
    batch = np.random.default_rng(0).random((3, 1, 32, 48), np.float32)
    np.testing.assert_array_equal(session.run(batch), 2 * batch + 1)
    assert set(library.strategies) == {"the user's"}
    session.close()
    assert (gpu.used, gpu.retained) == (0, 0)


def test_the_next_opening_finds_it(installed, gpu, tiny_model, monkeypatch, capsys):
    library = installed(Library(gpu))
    recipe = backend.BuildConfig(PROFILES)
    key = TENSORRT.build_ahead(tiny_model, recipe)
    capsys.readouterr()
    monkeypatch.setattr(backend, "build", None)  # nothing is built
    opened(TENSORRT, tiny_model).close()
    assert capsys.readouterr().err == ""
    assert library.loaded == [b"engine"]
    assert [entry.key for entry in PlanCache().entries()] == [key]


def test_the_timings_of_one_build_serve_the_next(installed, gpu, tiny_model, make_model, tmp_path):
    library = installed(Library(gpu))
    for model in (tiny_model, make_model(tmp_path / "other.onnx", name="other")):
        TENSORRT.build_ahead(model, backend.BuildConfig(PROFILES), say=lambda line: None)
    assert library.built_with == [b"", b" timing"]


def test_an_engine_in_full_precision_is_refused_and_the_card_given_back(installed, gpu, tiny_model):
    installed(Library(gpu)).datatype = "FP32"
    with pytest.raises(BackendError, match="FP16 is asked for, but the graph has only 0 of 2 convolutions"):
        opened(TENSORRT, tiny_model)
    assert (gpu.used, gpu.retained) == (0, 0)


def test_tensorrt_for_rtx_keeps_the_kernels_that_it_compiled(installed, gpu, tiny_model):
    library = installed(LibraryForRTX(gpu))
    for given in (b"", b" kernels"):
        session = opened(RTX, tiny_model)
        assert library.kernels[-1].given == given
        assert session.description.startswith("TensorRT for RTX 1.2.0 on ")
        batch = np.ones((1, 1, 32, 32), np.float32)
        np.testing.assert_array_equal(session.run(batch), 2 * batch + 1)
        session.close()
    assert set(library.strategies) == {"the user's"}


@pytest.mark.parametrize(
    ("version", "cause"), [("10.13", "tensorrt 10.13 is too old, 11 is needed"), ("x.y", "tensorrt cannot be imported")]
)
def test_a_library_that_will_not_do_is_refused_before_anything_is_built(installed, gpu, tiny_model, version, cause):
    installed(Library(gpu)).__version__ = version
    with pytest.raises(BackendError, match=cause):
        opened(TENSORRT, tiny_model)
    assert gpu.retained == 0
