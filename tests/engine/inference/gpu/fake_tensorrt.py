"""A TensorRT engine that is not there: it checks what it is told, and computes when the stream gets there."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np

from defocus.engine.inference.backends.tensorrt.config import Profile
from defocus.engine.inference.backends.tensorrt.session import TensorRTSession

PROFILES = (
    Profile("tiles", (1, 16, 16), (1, 32, 32), (4, 64, 64)),
    Profile("planes", (1, 16, 16), (1, 128, 128), (1, 128, 128)),
)


class Context:
    """An execution context that computes `graph.network`, and insists on being told what TensorRT must be told."""

    def __init__(self, gpu, log, graph):
        self.gpu, self.log, self.graph = gpu, log, graph
        self.profile: Profile | None = None
        self.shape: tuple[int, ...] = ()
        self.addresses, self.memory = {}, 0
        self.runs, self.fails = 0, ""

    def set_optimization_profile_async(self, index, stream):
        self.profile, self.shape = PROFILES[index], ()
        return True

    def set_input_shape(self, name, shape):
        assert name == "image"
        assert self.profile is not None
        self.shape, self.memory = shape, 0
        return self.profile.holds((shape[0], *shape[2:]))

    def update_device_memory_size_for_shapes(self):
        return 2 * 4 * int(np.prod(self.shape))

    def set_device_memory(self, pointer, nbytes):
        assert nbytes >= self.update_device_memory_size_for_shapes()
        self.memory = pointer

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer

    def execute_async_v3(self, stream):
        assert self.memory in self.gpu.blocks
        if self.fails:
            self.log.last = self.fails
            return False
        self.runs += 1
        count, source, target = int(np.prod(self.shape)), self.addresses["image"], self.addresses["restored"]

        def work():
            given = np.ctypeslib.as_array((ctypes.c_float * count).from_address(source))
            np.ctypeslib.as_array((ctypes.c_float * count).from_address(target))[:] = self.graph.network(given)

        self.gpu.put(stream, work)
        return True


class Made(SimpleNamespace):
    session: TensorRTSession
    graph: SimpleNamespace
    contexts: list[Context]


def make(gpu, device) -> Made:
    """A session over a fake engine that computes 2 x + 1, the contexts it made, and how often it was closed."""
    log, contexts, closed = SimpleNamespace(last=""), [], []
    graph = SimpleNamespace(network=lambda given: 2 * given + 1)
    trt = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT=0, OUTPUT=1))
    engine = SimpleNamespace(
        num_io_tensors=2, get_tensor_name=("restored", "image").__getitem__, get_tensor_mode=lambda n: int(n[0] == "r")
    )

    def context():
        contexts.append(Context(gpu, log, graph))
        return contexts[-1]

    session = TensorRTSession(
        trt, engine, device, PROFILES, log, "TensorRT 11", context, on_close=lambda: closed.append(1)
    )
    return Made(session=session, graph=graph, contexts=contexts, closed=closed)
