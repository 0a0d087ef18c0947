"""A GPU that is not there: the driver's calls over host memory, as late as CUDA allows them.

Nothing put into a stream happens before somebody waits for it, so that a missing event, or a buffer used again too
early, gives wrong numbers. Only the driver is fake; what is above it is the code that runs on a card. Each layer has
its own names for the driver's calls: `late_bindings`, `late_pycuda`.
"""

from __future__ import annotations

import ctypes
import threading

import numpy as np

from tests.engine.inference.gpu.ptx import Ptx


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
