"""The device layer on pycuda. It has no graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pycuda.driver as driver  # pyright: ignore[reportMissingImports]

from ...errors import BackendError, OutOfMemoryError, first_line
from . import Graph, Memory


@contextmanager
def ours() -> Iterator[None]:
    """Turn pycuda's errors into ours."""
    try:
        yield
    except driver.MemoryError as error:
        remedy = "use a smaller --tile, or free the GPU's memory"
        raise OutOfMemoryError("GPU", "out of device memory", remedy) from error
    except driver.Error as error:
        raise BackendError(
            "GPU", first_line(error), "restart defocus; if that does not help, restart the machine"
        ) from error


class _Event:
    def __init__(self) -> None:
        with ours():
            self.raw = driver.Event(driver.event_flags.DISABLE_TIMING)

    def record(self, stream: Any) -> None:
        with ours():
            self.raw.record(stream.raw)

    def synchronize(self) -> None:
        with ours():
            self.raw.synchronize()


class _Stream:
    def __init__(self) -> None:
        with ours():
            self.raw = driver.Stream(1)  # CU_STREAM_NON_BLOCKING
        self.handle = int(self.raw.handle)

    def wait(self, event: Any) -> None:
        with ours():
            self.raw.wait_for_event(event.raw)

    def synchronize(self) -> None:
        with ours():
            self.raw.synchronize()


class _Memory:
    def __init__(self, nbytes: int) -> None:
        with ours():
            self._raw: Any = driver.mem_alloc(nbytes)
        self.pointer, self.nbytes = int(self._raw), nbytes

    def free(self) -> None:
        if self.pointer:
            self.pointer = 0
            with suppress(driver.Error):  # a lost GPU has lost its memory already
                self._raw.free()


class _Staging:
    def __init__(self, nbytes: int) -> None:
        with ours():
            self.array = driver.pagelocked_empty(nbytes, np.uint8)

    def free(self) -> None:
        self.array = np.empty(0, np.uint8)  # pycuda gives the memory back with its array


class _Kernels:
    def __init__(self, ptx: bytes, signatures: Mapping[str, str]) -> None:
        with ours():
            self._module: Any = driver.module_from_buffer(ptx + b"\0")  # the driver reads text up to a zero
            self._functions = {name: self._module.get_function(name) for name in signatures}
        for name, kinds in signatures.items():
            # Calls without it keep each one's arguments for ever, and mix those up that are equal but of other types.
            self._functions[name].prepare(kinds)

    def launch(self, name: str, grid: tuple[int, int], threads: int, stream: Any, *arguments: float) -> None:
        with ours():
            self._functions[name].prepared_async_call(grid, (threads, 1, 1), stream.raw, *arguments)

    def free(self) -> None:
        self._module, self._functions = None, {}  # pycuda gives the module back with its object


class PycudaDevice:
    """See `gpu.Device`."""

    has_graphs = False
    allocate, staging, stream, event, kernels = _Memory, _Staging, _Stream, _Event, _Kernels

    def __init__(self) -> None:
        with ours():
            driver.init()
            self._context = driver.Device(0).retain_primary_context()
        self.layer = f"pycuda {'.'.join(map(str, _version()))}"

    @contextmanager
    def current(self) -> Iterator[None]:
        with ours():
            self._context.push()
        try:
            yield
        finally:
            driver.Context.pop()

    def upload(self, target: Memory, source: np.ndarray, stream: Any) -> None:
        with ours():
            driver.memcpy_htod_async(target.pointer, source, stream.raw)

    def download(self, target: np.ndarray, source: Memory, stream: Any) -> None:
        with ours():
            driver.memcpy_dtoh_async(target, source.pointer, stream.raw)

    def capture(self, stream: Any, work: Callable[[], None]) -> Graph:
        raise BackendError("GPU", "pycuda has no graphs", "install cuda-bindings")

    def free_memory(self) -> tuple[int, int]:
        with ours():
            return driver.mem_get_info()

    def close(self) -> None:
        with suppress(driver.Error):
            self._context.detach()


def _version() -> tuple[int, ...]:
    import pycuda  # pyright: ignore[reportMissingImports]

    return pycuda.VERSION
