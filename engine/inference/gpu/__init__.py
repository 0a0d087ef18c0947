"""The device layer: memory, streams, events and graphs of one GPU, behind one small interface.

Two packages can be behind it: NVIDIA's cuda-bindings (wheels for Linux and Windows; graphs), or pycuda. Either way the
primary context is retained, so that ONNX Runtime and torch in the same process share it, and it is pushed and popped
around each use in each thread; nothing is initialised on import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Protocol

import numpy as np

from ...errors import BackendError, first_line
from ...installation import install_command, is_installed

# In order of preference: the first has graphs.
_LAYERS = {"cuda.bindings": ("bindings_device", "BindingsDevice"), "pycuda": ("pycuda_device", "PycudaDevice")}


class Event(Protocol):
    """A point in a stream's work."""

    def record(self, stream: Stream) -> None:
        """Take place when all work now in the stream is done."""
        ...

    def synchronize(self) -> None:
        """Block this thread until it has taken place. Raises BackendError when work before it failed."""
        ...


class Stream(Protocol):
    """A queue of the GPU's work."""

    @property
    def handle(self) -> int:
        """The CUstream, for other libraries."""
        ...

    def wait(self, event: Event) -> None:
        """Let later work of this stream begin after the event; returns at once."""
        ...

    def synchronize(self) -> None:
        """Block this thread until the stream is empty."""
        ...


class Memory(Protocol):
    """Device memory."""

    @property
    def pointer(self) -> int:
        """Its address on the device."""
        ...

    @property
    def nbytes(self) -> int:
        """Its size."""
        ...

    def free(self) -> None:
        """Give it back; twice does no harm."""
        ...


class Staging(Protocol):
    """Page-locked memory of the host: copies from and to it run beside other work."""

    @property
    def array(self) -> np.ndarray:
        """uint8 (nbytes,), valid until `free`."""
        ...

    def free(self) -> None:
        """Give it back; twice does no harm."""
        ...


class Graph(Protocol):
    """Recorded work that is launched in one call."""

    def launch(self, stream: Stream) -> None:
        """Put the whole recorded work into a stream."""
        ...

    def free(self) -> None:
        """Give it back."""
        ...


class Kernels(Protocol):
    """Functions of a PTX module, made for this card by its driver."""

    def launch(self, name: str, grid: tuple[int, int], threads: int, stream: Stream, *arguments: float) -> None:
        """Put one into a stream: `grid` blocks (x, y) of so many threads; the arguments are those of its signature."""
        ...

    def free(self) -> None:
        """Give the module back; nothing of it may be running."""
        ...


class Device(Protocol):
    """A GPU. Every method but `current` and `close` is called inside `with device.current():`."""

    @property
    def layer(self) -> str:
        """The package behind it and its version."""
        ...

    @property
    def has_graphs(self) -> bool:
        """Whether `capture` works."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU's primary context this thread's own for a while."""
        ...

    def allocate(self, nbytes: int) -> Memory:
        """Device memory. Raises OutOfMemoryError."""
        ...

    def staging(self, nbytes: int) -> Staging:
        """Page-locked host memory. Raises OutOfMemoryError."""
        ...

    def stream(self) -> Stream:
        """A stream that does not wait for the default one."""
        ...

    def event(self) -> Event:
        """An event without a time stamp."""
        ...

    def upload(self, target: Memory, source: np.ndarray, stream: Stream) -> None:
        """Copy contiguous page-locked `source` to the device; returns at once."""
        ...

    def download(self, target: np.ndarray, source: Memory, stream: Stream) -> None:
        """Copy from the device into contiguous page-locked `target`; returns at once."""
        ...

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Record what `work` puts into the stream, without running it."""
        ...

    def kernels(self, ptx: bytes, signatures: Mapping[str, str]) -> Kernels:
        """Load functions of a PTX text, each with a letter a parameter: P address, I uint32, f float32.

        Raises BackendError where the driver does not take the text, or a function is not in it.
        """
        ...

    def free_memory(self) -> tuple[int, int]:
        """Bytes of device memory that are free, and all."""
        ...

    def close(self) -> None:
        """Release the primary context."""
        ...


def why_no_layer() -> str | None:
    """Why no device layer can be used, in a few words, or None. Imports nothing."""
    return None if _installed() else "neither cuda-bindings nor pycuda is installed"


def open_device() -> Device:
    """Open the first GPU with the first device layer that works; `driver.find_gpu` must have succeeded before.

    Raises
    ------
    BackendError
        No layer is installed, or none works; the cause names each one's reason.
    """
    reasons = []
    for package in _installed():
        try:
            module, device = _LAYERS[package]
            return getattr(import_module(f".{module}", __package__), device)()
        except BackendError as error:
            reasons.append(error.cause)
        except Exception as error:  # a broken install fails with whatever the loader says
            reasons.append(f"{package} cannot be used ({first_line(error)})")
    raise BackendError(
        "GPU", ", ".join(reasons) or str(why_no_layer()), f"install the device layer with: {install_command('rtx')}"
    )


def _installed() -> list[str]:
    return [package for package in _LAYERS if is_installed(package)]
