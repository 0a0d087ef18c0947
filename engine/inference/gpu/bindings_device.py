"""The device layer on cuda-bindings, NVIDIA's own wrapper of the driver's calls."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any

import numpy as np

# cuda-bindings belongs to an extra, and a stub cannot be had without it.
from cuda.bindings import driver  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

from ...errors import BackendError, OutOfMemoryError
from . import Graph, Memory

_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: page-locked for every context
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_TYPES = {"P": ctypes.c_void_p, "I": ctypes.c_uint32, "f": ctypes.c_float}


def call(function: Callable[..., tuple], *arguments: Any) -> Any:
    """Call a function of the driver: its one result, or None; its error code becomes one of ours."""
    code, *results = function(*arguments)
    if int(code) == int(driver.CUresult.CUDA_SUCCESS):
        return results[0] if len(results) == 1 else tuple(results) or None
    name = getattr(code, "name", str(code))
    if int(code) == int(driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY):
        raise OutOfMemoryError("GPU", "out of device memory", "use a smaller --tile, or free the GPU's memory")
    raise BackendError(
        "GPU", f"{function.__name__} failed with {name}", "restart defocus; if that does not help, restart the machine"
    )


class _Event:
    def __init__(self) -> None:
        self.handle = call(driver.cuEventCreate, _NO_TIMING)

    def record(self, stream: Any) -> None:
        call(driver.cuEventRecord, self.handle, stream.raw)

    def synchronize(self) -> None:
        call(driver.cuEventSynchronize, self.handle)


class _Stream:
    def __init__(self) -> None:
        self.raw = call(driver.cuStreamCreate, _NON_BLOCKING)
        self.handle = int(self.raw)

    def wait(self, event: Any) -> None:
        call(driver.cuStreamWaitEvent, self.raw, event.handle, 0)

    def synchronize(self) -> None:
        call(driver.cuStreamSynchronize, self.raw)


class _Memory:
    def __init__(self, nbytes: int) -> None:
        self._raw, self.nbytes = call(driver.cuMemAlloc, nbytes), nbytes
        self.pointer = int(self._raw)

    def free(self) -> None:
        if self.pointer:
            self.pointer = 0
            with suppress(BackendError):  # a lost GPU has lost its memory already
                call(driver.cuMemFree, self._raw)


class _Staging:
    def __init__(self, nbytes: int) -> None:
        self._address = call(driver.cuMemHostAlloc, nbytes, _PORTABLE)
        self.array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(int(self._address)))

    def free(self) -> None:
        if self._address:
            address, self._address, self.array = self._address, 0, np.empty(0, np.uint8)
            with suppress(BackendError):
                call(driver.cuMemFreeHost, address)


class _Graph:
    def __init__(self, graph: Any) -> None:
        self._graph, self._executable = graph, call(driver.cuGraphInstantiate, graph, 0)

    def launch(self, stream: Any) -> None:
        call(driver.cuGraphLaunch, self._executable, stream.raw)

    def free(self) -> None:
        with suppress(BackendError):
            call(driver.cuGraphExecDestroy, self._executable)
            call(driver.cuGraphDestroy, self._graph)


class _Kernels:
    def __init__(self, ptx: bytes, signatures: Mapping[str, str]) -> None:
        self._module: Any = call(driver.cuModuleLoadData, ptx + b"\0")  # the driver reads text up to a zero
        self._functions = {
            name: (call(driver.cuModuleGetFunction, self._module, name.encode()), tuple(_TYPES[kind] for kind in kinds))
            for name, kinds in signatures.items()
        }

    def launch(self, name: str, grid: tuple[int, int], threads: int, stream: Any, *arguments: float) -> None:
        function, types = self._functions[name]
        call(driver.cuLaunchKernel, function, *grid, 1, threads, 1, 1, 0, stream.raw, (arguments, types), 0)

    def free(self) -> None:
        if self._module is not None:
            module, self._module = self._module, None
            with suppress(BackendError):
                call(driver.cuModuleUnload, module)


class BindingsDevice:
    """See `gpu.Device`."""

    has_graphs = True
    allocate, staging, stream, event, kernels = _Memory, _Staging, _Stream, _Event, _Kernels

    def __init__(self) -> None:
        call(driver.cuInit, 0)
        self._device = call(driver.cuDeviceGet, 0)
        self._context = call(driver.cuDevicePrimaryCtxRetain, self._device)
        self.layer = f"cuda-bindings {version('cuda-bindings')}"

    @contextmanager
    def current(self) -> Iterator[None]:
        call(driver.cuCtxPushCurrent, self._context)
        try:
            yield
        finally:
            call(driver.cuCtxPopCurrent)

    def upload(self, target: Memory, source: np.ndarray, stream: Any) -> None:
        call(driver.cuMemcpyHtoDAsync, target.pointer, source.ctypes.data, source.nbytes, stream.raw)

    def download(self, target: np.ndarray, source: Memory, stream: Any) -> None:
        call(driver.cuMemcpyDtoHAsync, target.ctypes.data, source.pointer, target.nbytes, stream.raw)

    def capture(self, stream: Any, work: Callable[[], None]) -> Graph:
        # Thread-local: other threads may allocate meanwhile.
        call(driver.cuStreamBeginCapture, stream.raw, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            work()
        except BaseException:
            with suppress(BackendError):  # the stream leaves its capture, whatever became of it
                call(driver.cuStreamEndCapture, stream.raw)
            raise
        return _Graph(call(driver.cuStreamEndCapture, stream.raw))

    def free_memory(self) -> tuple[int, int]:
        return call(driver.cuMemGetInfo)

    def close(self) -> None:
        with suppress(BackendError):
            call(driver.cuDevicePrimaryCtxRelease, self._device)
