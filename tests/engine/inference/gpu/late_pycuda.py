"""pycuda's names over a GPU that is not there (`late_driver`)."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np

from tests.engine.inference.gpu.late_driver import FakeGpu

LETTERS = {"P": "u64", "I": "u32", "f": "f32"}


def pycuda(gpu: FakeGpu, monkeypatch):
    """A module with pycuda's names: it is built from source, so it is rarely here."""
    driver = ModuleType("pycuda.driver")
    error = type("Error", (Exception,), {})
    memory_error, logic = type("MemoryError", (error,), {}), type("LogicError", (error,), {})

    def check(name):
        gpu.calls[name] = gpu.calls.get(name, 0) + 1
        if not gpu.here():
            raise logic(f"{name} failed: invalid device context")
        if gpu.lost:
            raise logic(f"{name} failed: an illegal memory access was encountered")

    class Context:
        @staticmethod
        def pop():
            gpu.pop()

        def push(self):
            gpu.push()

        def detach(self):
            gpu.retained -= 1

    class Device:
        def __init__(self, index):
            assert index == 0

        def retain_primary_context(self):
            gpu.retained += 1
            return Context()

    class Stream:
        def __init__(self, flags):
            check("Stream")
            self.handle = gpu.stream()

        def synchronize(self):
            check("synchronize")
            gpu.drain(self.handle)

        def wait_for_event(self, event):
            gpu.wait(self.handle, event.mark)

    class Event:
        mark = None

        def __init__(self, flags):
            check("Event")

        def record(self, stream):
            self.mark = gpu.record(stream.handle)

        def synchronize(self):
            check("synchronize")
            if self.mark is not None:
                gpu.drain(self.mark.stream, self.mark)

    class Allocation:
        def __init__(self, nbytes):
            check("mem_alloc")
            if not (pointer := gpu.block(nbytes, True)):
                raise memory_error("cuMemAlloc failed: out of memory")
            self.pointer = pointer

        def __int__(self):
            return self.pointer

        def free(self):
            gpu.free(self.pointer, True)

    def pagelocked(nbytes, dtype):
        check("pagelocked_empty")
        return np.full(nbytes, 0xFF, dtype)

    class Function:
        def __init__(self, module, name):
            self.module, self.name = module, name

        def prepare(self, kinds):
            self.kinds = [LETTERS[letter] for letter in kinds]

        def prepared_async_call(self, grid, block, stream, *arguments):
            check("prepared_async_call")
            gpu.launch(self.module, self.name, self.kinds, grid, block, arguments, stream.handle)

    class Module:
        def __init__(self, text):
            check("module_from_buffer")
            if (module := gpu.module(text)) is None:
                raise logic("cuModuleLoadDataEx failed: a PTX JIT compilation failed")
            self.module = module

        def get_function(self, name):
            if name not in self.module.parameters:
                raise logic("cuModuleGetFunction failed: named symbol not found")
            return Function(self.module, name)

        def __del__(self):
            gpu.loaded -= hasattr(self, "module")

    names = {
        "module_from_buffer": Module,
        "Error": error,
        "MemoryError": memory_error,
        "init": lambda: None,
        "Device": Device,
        "Context": Context,
        "Stream": Stream,
        "Event": Event,
        "event_flags": SimpleNamespace(DISABLE_TIMING=2),
        "mem_alloc": Allocation,
        "pagelocked_empty": pagelocked,
        "memcpy_htod_async": lambda to, source, stream: gpu.copy(to, source.ctypes.data, source.nbytes, stream.handle),
        "memcpy_dtoh_async": lambda to, source, stream: gpu.copy(to.ctypes.data, source, to.nbytes, stream.handle),
        "mem_get_info": lambda: (gpu.memory - gpu.used, gpu.memory),
    }
    for name, value in names.items():
        setattr(driver, name, value)
    package = ModuleType("pycuda")
    package.driver, package.VERSION = driver, (2026, 1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.delitem(sys.modules, "defocus.engine.inference.gpu.pycuda_device", raising=False)
    from defocus.engine.inference.gpu.pycuda_device import PycudaDevice

    return PycudaDevice()
