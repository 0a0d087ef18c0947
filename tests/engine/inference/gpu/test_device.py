"""The device layer: both implementations over a driver that does everything as late as it may."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest

from defocus.engine.errors import BackendError, OutOfMemoryError
from defocus.engine.inference import gpu
from defocus.engine.inference.gpu import driver
from defocus.engine.installation import install_command


def test_the_card_is_described(card):
    found = driver.find_gpu(13)
    assert (found.name, found.sm, found.multiprocessors) == ("NVIDIA GeForce RTX 4070", "SM89", 46)
    assert (found.memory, found.cuda) == (12 << 30, (13, 0))


def test_the_drivers_own_version_is_told_where_it_can_be_had(monkeypatch):
    class Management:
        answer = 0

        def nvmlInit_v2(self):
            return 0

        def nvmlSystemGetDriverVersion(self, text, size):
            text.value = b"580.65.06"
            return self.answer

        def nvmlShutdown(self):
            return 0

    monkeypatch.setattr(driver, "_management", Management)
    assert driver.driver_version() == "580.65.06"
    monkeypatch.setattr(Management, "answer", 999)
    assert driver.driver_version() is None

    def missing():
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    monkeypatch.setattr(driver, "_management", missing)
    assert driver.driver_version() is None


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"cuda": 12080}, "the NVIDIA driver is too old: it runs CUDA 12.8, 13.0 is needed"),
        ({"error": 100}, "no GPU that it can use"),
        ({"error": 34}, "stub library"),
        ({"error": 803}, "restart the machine"),
        ({"error": 35}, "CUDA error 35"),
    ],
)
def test_a_driver_that_cannot_be_used_is_one_line(card, fields, cause):
    card(**fields)
    with pytest.raises(BackendError, match=cause) as caught:
        driver.find_gpu(13)
    assert "install a current NVIDIA driver, or use --backend cpu" in str(caught.value)
    assert cause in str(driver.why_no_gpu(13))


def test_no_driver_is_one_line(monkeypatch):
    def missing():
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(driver, "_library", missing)
    assert driver.why_no_gpu() == "no NVIDIA driver"


def test_no_layer_says_what_to_install(monkeypatch):
    monkeypatch.setattr(gpu, "is_installed", lambda name: False)
    assert gpu.why_no_layer() == "neither cuda-bindings nor pycuda is installed"
    with pytest.raises(BackendError, match=r"neither .*; .*" + re.escape(install_command("rtx"))):
        gpu.open_device()


def test_a_broken_layer_is_named_and_the_next_one_tried(monkeypatch):
    def broken(name, package):
        raise ImportError("libcuda.so.1 is not what it should be")

    monkeypatch.setattr(gpu, "is_installed", lambda name: True)
    monkeypatch.setattr(gpu, "import_module", broken)
    with pytest.raises(BackendError, match=r"cuda\.bindings cannot be used \(libcuda.*pycuda cannot be used"):
        gpu.open_device()


def test_bytes_go_there_and_back(gpu, device):
    sent = np.arange(1000, dtype=np.uint8)
    with device.current():
        stream, memory = device.stream(), device.allocate(1000)
        up, down = device.staging(1000), device.staging(1000)
        up.array[:] = sent
        device.upload(memory, up.array, stream)
        device.download(down.array, memory, stream)
        assert not np.array_equal(down.array, sent)  # nothing has happened yet
        stream.synchronize()
        assert np.array_equal(down.array, sent)
        assert device.free_memory() == (gpu.memory - 1000, gpu.memory)
        for kept in (memory, up, down, memory, up, down):  # twice does no harm
            kept.free()
        assert device.free_memory() == (gpu.memory, gpu.memory)
    device.close()
    assert gpu.retained == 0
    assert not gpu.here()


def test_a_stream_waits_for_anothers_event(device):
    with device.current():
        first, second, event = device.stream(), device.stream(), device.event()
        memory, up, down = device.allocate(8), device.staging(8), device.staging(8)
        up.array[:] = 7
        device.upload(memory, up.array, first)
        event.record(first)
        second.wait(event)
        device.download(down.array, memory, second)
        done = device.event()
        done.record(second)
        done.synchronize()
        assert (down.array == 7).all()


def test_too_much_memory_has_its_own_kind(gpu, device):
    gpu.memory = 100
    with device.current(), pytest.raises(OutOfMemoryError, match="out of device memory"):
        device.allocate(101)


def test_the_context_is_current_only_inside_and_in_each_thread(gpu, device):
    with device.current():
        memory = device.allocate(8)
    with pytest.raises(BackendError, match=r"(?i)context"):
        device.allocate(8)
    seen = []

    def other():
        assert not gpu.here()
        with device.current():
            seen.append(device.allocate(8))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(300)
    assert len(seen) == 1
    with device.current():
        memory.free()
    with pytest.raises(ZeroDivisionError), device.current():
        raise ZeroDivisionError
    assert not gpu.here()


def test_a_lost_card_is_one_line(gpu, device):
    with device.current():
        stream = device.stream()
        gpu.lost = True
        with pytest.raises(BackendError, match=r"(?i)illegal") as caught:
            stream.synchronize()
    assert type(caught.value) is BackendError
    assert "\n" not in str(caught.value)


def test_a_graph_does_its_work_each_time_it_is_launched(device):
    if not device.has_graphs:
        with pytest.raises(BackendError, match="no graphs"):
            device.capture(None, lambda: None)
        return
    with device.current():
        stream, memory = device.stream(), device.allocate(4)
        up, down = device.staging(4), device.staging(4)
        graph = device.capture(stream, lambda: device.upload(memory, up.array, stream))
        for value in (3, 4):
            up.array[:] = value
            graph.launch(stream)
            device.download(down.array, memory, stream)
            stream.synchronize()
            assert (down.array == value).all()
        graph.free()


def test_work_that_fails_leaves_no_capture_behind(gpu, device):
    if not device.has_graphs:
        pytest.skip("pycuda has no graphs")

    def fails():
        raise ZeroDivisionError

    with device.current():
        stream = device.stream()
        with pytest.raises(ZeroDivisionError):
            device.capture(stream, fails)
        assert gpu.capturing == {}
