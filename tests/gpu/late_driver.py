"""A GPU that is not there: the driver's calls over host memory, as late as CUDA allows them.

Nothing put into a stream happens before somebody waits for it, so that a missing event, or a buffer used again too
early, gives wrong numbers. Only the driver is fake; what is above it is the code that runs on a card.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from defocus.tests.gpu.ptx import Ptx

LETTERS = {"P": "u64", "I": "u32", "f": "f32"}
CTYPES = {ctypes.c_void_p: "u64", ctypes.c_uint32: "u32", ctypes.c_float: "f32"}


class Record:
    def __init__(self, stream):
        self.stream = stream


class FakeGpu:
    """The state of the card; `calls` counts what was asked of the driver, `edit` spoils the text of a module."""

    def __init__(self, memory: int = 1 << 30):
        self.memory, self.used, self.lost = memory, 0, False
        self.streams: dict[int, list] = {}
        self.blocks: dict[int, np.ndarray] = {}
        self.capturing: dict[int, list] = {}
        self.contexts = threading.local()
        self.retained, self.loaded = 0, 0
        self.edit = lambda text: text
        self.calls: dict[str, int] = {}

    def here(self) -> bool:
        return bool(getattr(self.contexts, "stack", []))

    def push(self):
        self.contexts.stack = [*getattr(self.contexts, "stack", []), 1]

    def pop(self):
        self.contexts.stack.pop()

    def block(self, nbytes: int, device: bool) -> int:
        if device:
            if self.used + nbytes > self.memory:
                return 0
            self.used += nbytes
        array = np.full(nbytes, 0xFF, np.uint8)  # NaN: memory that was never written shows
        self.blocks[array.ctypes.data] = array
        return array.ctypes.data

    def free(self, pointer: int, device: bool):
        array = self.blocks.pop(pointer)
        self.used -= len(array) if device else 0

    def stream(self) -> int:
        self.streams[handle := 1000 + len(self.streams)] = []
        return handle

    def put(self, stream: int, work):
        (self.capturing[stream] if stream in self.capturing else self.streams[stream]).append(work)

    def copy(self, target: int, source: int, nbytes: int, stream: int):
        self.put(stream, lambda: ctypes.memmove(target, source, nbytes))

    def module(self, text: bytes) -> Ptx | None:
        """What the driver makes of a module's text; None if it does not understand it."""
        assert text.endswith(b"\0")
        try:
            module = Ptx(self.edit(text[:-1].decode("ascii")))
        except ValueError:
            return None
        self.loaded += 1
        return module

    def launch(self, module: Ptx, name: str, kinds, grid, block, arguments, stream: int):
        assert kinds == module.parameters[name]
        assert block[1:] == (1, 1)
        self.put(stream, lambda: module.run(name, grid[:2], block[0], arguments, self.bytes_at))

    def bytes_at(self, low: int, high: int) -> np.ndarray:
        """The memory between two addresses; whatever is outside an allocation is illegal."""
        for base, array in self.blocks.items():
            if base <= low and high <= base + len(array):
                return array[low - base : high - base]
        raise AssertionError("an illegal address")

    def record(self, stream: int) -> Record:
        mark = Record(stream)
        self.streams[stream].append(mark)
        return mark

    def wait(self, stream: int, mark: Record | None):
        if mark is not None:
            self.put(stream, lambda: self.drain(mark.stream, mark))

    def drain(self, stream: int, until: Record | None = None):
        queue = self.streams[stream]
        if until is not None and until not in queue:
            return
        while queue:
            work = queue.pop(0)
            if work is until:
                return
            if not isinstance(work, Record):
                work()


def bindings(gpu: FakeGpu, monkeypatch):
    """NVIDIA's module with its calls replaced; a name that it does not have fails here."""
    driver = pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings: pip install cuda-bindings")
    codes, events, graphs, modules = driver.CUresult, {}, {}, {}

    def needs_context(name, work):
        def wrapped(*arguments):
            gpu.calls[name] = gpu.calls.get(name, 0) + 1
            if not gpu.here():
                return (codes.CUDA_ERROR_INVALID_CONTEXT,)
            if gpu.lost:
                return (codes.CUDA_ERROR_ILLEGAL_ADDRESS,)
            result = work(*arguments)
            return result if isinstance(result, tuple) else (codes.CUDA_SUCCESS, *([] if result is None else [result]))

        wrapped.__name__ = name
        return wrapped

    def retain(device):
        gpu.retained += 1
        return codes.CUDA_SUCCESS, "primary"

    def release(device):
        gpu.retained -= 1
        return (codes.CUDA_SUCCESS,)

    def allocate(nbytes):
        return gpu.block(nbytes, True) or (codes.CUDA_ERROR_OUT_OF_MEMORY,)

    def event(flags):
        events[handle := len(events) + 1] = None
        return handle

    def record(handle, stream):
        events[handle] = gpu.record(stream)

    def event_wait(handle):
        if events[handle] is not None:
            gpu.drain(events[handle].stream, events[handle])

    def begin(stream, mode):
        assert mode == driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        gpu.capturing[stream] = []

    def end(stream):
        graphs[handle := len(graphs) + 1] = gpu.capturing.pop(stream)
        return handle

    def launch_graph(graph, stream):
        for work in graphs[graph]:
            gpu.put(stream, work)

    def load(image):
        if (module := gpu.module(image)) is None:
            return (codes.CUDA_ERROR_INVALID_PTX,)
        modules[handle := len(modules) + 1] = module
        return handle

    def unload(module):
        gpu.loaded -= 1
        del modules[module]

    def function(module, name):
        known = name.decode() in modules[module].parameters
        return (codes.CUDA_SUCCESS, (module, name.decode())) if known else (codes.CUDA_ERROR_NOT_FOUND,)

    def launch_kernel(function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        values, types = parameters
        assert (gz, shared, extra) == (1, 0, 0)
        kinds = [CTYPES[kind] for kind in types]
        gpu.launch(modules[function[0]], function[1], kinds, (gx, gy), (bx, by, bz), values, stream)

    free = {
        "cuInit": lambda flags: (codes.CUDA_SUCCESS,),
        "cuDeviceGet": lambda index: (codes.CUDA_SUCCESS, index),
        "cuDevicePrimaryCtxRetain": retain,
        "cuDevicePrimaryCtxRelease": release,
        "cuCtxPushCurrent": lambda context: (gpu.push(), (codes.CUDA_SUCCESS,))[1],
        "cuCtxPopCurrent": lambda: (gpu.pop(), (codes.CUDA_SUCCESS, "primary"))[1],
    }
    bound = {
        "cuMemAlloc": allocate,
        "cuMemFree": lambda pointer: gpu.free(pointer, True),
        "cuMemHostAlloc": lambda nbytes, flags: gpu.block(nbytes, False),
        "cuMemFreeHost": lambda pointer: gpu.free(pointer, False),
        "cuStreamCreate": lambda flags: gpu.stream(),
        "cuStreamSynchronize": lambda stream: gpu.drain(stream),
        "cuStreamWaitEvent": lambda stream, handle, flags: gpu.wait(stream, events[handle]),
        "cuEventCreate": event,
        "cuEventRecord": record,
        "cuEventSynchronize": event_wait,
        "cuMemcpyHtoDAsync": lambda target, source, nbytes, stream: gpu.copy(target, source, nbytes, stream),
        "cuMemcpyDtoHAsync": lambda target, source, nbytes, stream: gpu.copy(target, source, nbytes, stream),
        "cuStreamBeginCapture": begin,
        "cuStreamEndCapture": end,
        "cuGraphInstantiate": lambda graph, flags: graph,
        "cuGraphLaunch": launch_graph,
        "cuGraphExecDestroy": lambda graph: None,
        "cuGraphDestroy": lambda graph: graphs.pop(graph) and None,
        "cuModuleLoadData": load,
        "cuModuleUnload": unload,
        "cuModuleGetFunction": function,
        "cuLaunchKernel": launch_kernel,
        "cuMemGetInfo": lambda: (codes.CUDA_SUCCESS, gpu.memory - gpu.used, gpu.memory),
    }
    for name, work in free.items():
        monkeypatch.setattr(driver, name, work)
    for name, work in bound.items():
        monkeypatch.setattr(driver, name, needs_context(name, work))
    from defocus.engine.gpu.bindings_device import open_device

    return open_device(0)


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
    monkeypatch.delitem(sys.modules, "defocus.engine.gpu.pycuda_device", raising=False)
    from defocus.engine.gpu.pycuda_device import open_device

    return open_device(0)


class FakeLibrary:
    """libcuda as `driver` asks it, for one card."""

    def __init__(self, cuda=13000, error=0, name=b"NVIDIA GeForce RTX 4070", capability=(8, 9)):
        self.cuda, self.error, self.name, self.capability = cuda, error, name, capability

    def cuInit(self, flags):
        return self.error

    def cuDriverGetVersion(self, to):
        to._obj.value = self.cuda
        return 0

    def cuDeviceGet(self, to, index):
        to._obj.value = index
        return 0 if index == 0 else 101

    def cuDeviceGetName(self, to, size, device):
        to.value = self.name
        return 0

    def cuDeviceTotalMem_v2(self, to, device):
        to._obj.value = 12 << 30
        return 0

    def cuDeviceGetAttribute(self, to, key, device):
        to._obj.value = {16: 46, 75: self.capability[0], 76: self.capability[1]}[key]
        return 0
