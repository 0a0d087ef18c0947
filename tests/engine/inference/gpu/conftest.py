"""A GPU that is not there (`late_driver`), a device of each layer on it, and a TensorRT session over that."""

from __future__ import annotations

import pytest

from tests.engine.inference.gpu import fake_tensorrt, late_bindings, late_driver, late_pycuda


@pytest.fixture
def gpu():
    return late_driver.FakeGpu()


@pytest.fixture(params=["cuda-bindings", "pycuda"])
def device(request, gpu, monkeypatch):
    """A device of each layer over the fake card."""
    return (late_bindings.bindings if request.param == "cuda-bindings" else late_pycuda.pycuda)(gpu, monkeypatch)


@pytest.fixture
def made(gpu, device):
    """A session that computes 2 x + 1; once closed it has given everything back."""
    made = fake_tensorrt.make(gpu, device)
    yield made
    made.session.close()
    assert (gpu.used, gpu.retained, gpu.loaded) == (0, 0, 0)


@pytest.fixture
def card(monkeypatch):
    """A function that puts a driver's library in place: `card(cuda=12080)`; the usual one is there already."""
    from defocus.engine.inference.gpu import driver

    def place(**fields):
        monkeypatch.setattr(driver, "_library", lambda: late_driver.FakeLibrary(**fields))

    place()
    return place
