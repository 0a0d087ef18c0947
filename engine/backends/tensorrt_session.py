"""Running a TensorRT engine: two streams, page-locked staging, graphs; nothing is allocated once a shape is known.

A batch goes in parts through two slots. While the compute stream runs one part, the copy stream brings back the one
before and takes up the next:

    copy      up 0 | up 1 |          down 0 | up 2 |         down 1 | ...
    compute        | run 0           | run 1           | run 2

Each slot has an execution context of its own, so that what its graph recorded is never changed under it; the contexts
share one scratch memory, for only one of them runs at a time.

Counts are turned into unit range on the host, by the engine, as for every backend: TensorRT takes no 16-bit integers,
and a batch may hold tiles of different planes, each with its own range.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np

from ..errors import BackendError, OutOfMemoryError
from ..gpu import Device, Graph, Memory, Staging, Stream
from .tensorrt_build import first_line, out_of_memory
from .tensorrt_recipe import Profile, describe

Shape = tuple[int, ...]


class _Slot:
    """An execution context with the buffers, events and graph of one part of a batch."""

    def __init__(self, device: Device, context: Any) -> None:
        self.context, self._device = context, device
        self.uploaded, self.computed, self.downloaded = device.event(), device.event(), device.event()
        self.memory: list[Memory] = []
        self.staging: list[Staging] = []
        self.graph: Graph | None = None
        self.profile: int | None = None
        self.bound: tuple[Shape, int, int] | None = None  # shape, address of the input, address of the scratch

    def room(self, nbytes: int) -> None:
        """Make room for so many bytes in and as many out."""
        if self.memory and self.memory[0].nbytes >= nbytes:
            return
        self.free()
        for _ in range(2):
            self.memory.append(self._device.allocate(nbytes))
            self.staging.append(self._device.staging(nbytes))

    def host(self, end: int, shape: Shape) -> np.ndarray:
        """The page-locked input (0) or output (1) as float32 of that shape."""
        return self.staging[end].array[: 4 * prod(shape)].view(np.float32).reshape(shape)

    def forget(self) -> None:
        """Drop the graph and what the context was told; nothing of the slot may be running."""
        if self.graph is not None:
            self.graph.free()
        self.graph = self.bound = None

    def free(self) -> None:
        self.forget()
        for kept in (*self.memory, *self.staging):
            kept.free()
        self.memory, self.staging = [], []


class TensorRTSession:
    """An engine ready to run; see `backends.Session`. Two threads at once are refused: each needs a session.

    Parameters
    ----------
    engine : ICudaEngine
        With one float32 (N, C, H, W) input and one output of the same shape.
    device : gpu.Device
        Closed with the session.
    profiles : tuple of Profile
        Those the engine was built with, in that order.
    log : logger
        `last` holds TensorRT's last error.
    context : callable
        Makes an execution context of the engine whose device memory is given to it by its user.
    on_close : callable
        Called when the session closes, before its contexts go.
    graphs : bool
        Whether to record graphs here; TensorRT for RTX does that itself.
    owners : tuple
        What must live as long as the engine: its runtime.
    """

    def __init__(
        self,
        trt: Any,
        engine: Any,
        device: Device,
        profiles: tuple[Profile, ...],
        log: Any,
        description: str,
        context: Callable[[], Any],
        on_close: Callable[[], None] = lambda: None,
        graphs: bool = True,
        owners: tuple[Any, ...] = (),
    ) -> None:
        self.description, self._device, self._profiles, self._log = description, device, profiles, log
        self._owners = owners
        self._engine, self._on_close, self._busy = engine, on_close, threading.Lock()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._input = next(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
        self._output = next(name for name in names if name != self._input)
        self._records = graphs and device.has_graphs
        self._scratch: Memory | None = None
        self._slots: list[_Slot] = []
        with device.current():
            self._copy: Stream = device.stream()
            self._compute: Stream = device.stream()
            for _ in range(2):
                made = context()
                if made is None:
                    raise self._failure("no execution context")
                self._slots.append(_Slot(device, made))

    def run(self, batch: np.ndarray) -> np.ndarray:
        """See `backends.Session.run`."""
        if not self._busy.acquire(blocking=False):
            cause = "an execution context serves one thread at a time, and another is using it"
            raise BackendError(self.description, cause, "load an engine in each thread")
        try:
            if not self._slots:
                raise BackendError(self.description, "the session is closed", "load the engine again")
            profile = self._profile_for(batch.shape)
            result = np.empty(batch.shape, np.float32)
            with self._device.current():
                try:
                    self._run(profile, batch, result)
                except OutOfMemoryError:
                    self._release()
                    raise
                except BackendError:
                    self._idle()
                    raise
            return result
        finally:
            self._busy.release()

    def close(self) -> None:
        """See `backends.Session.close`."""
        if not self._slots:
            return
        with suppress(BackendError), self._device.current():
            self._release()
            self._on_close()
            self._slots.clear()  # the contexts go before their engine, while CUDA's context is current
            self._engine = None
        self._slots.clear()
        self._device.close()

    def _profile_for(self, shape: Shape) -> int:
        """The first profile that holds a plane of that size; larger batches go in parts."""
        for index, profile in enumerate(self._profiles):
            if profile.holds((min(shape[0], profile.most[0]), shape[2], shape[3])):
                return index
        cause = f"a batch of {'x'.join(map(str, shape))} is outside its profiles ({describe(self._profiles)})"
        raise BackendError(self.description, cause, "use another --tile, or build an engine with --profile")

    def _run(self, index: int, batch: np.ndarray, result: np.ndarray) -> None:
        # Two halves at least, so that one's copies run beside the other's computation; none below the profile's least.
        profile, count = self._profiles[index], len(batch)
        size = min(profile.most[0], max(profile.least[0], -(-count // 2)))
        starts = range(0, count, size)
        parts = [slice(start, min(start + size, count)) for start in starts]
        for number, part in enumerate(parts):
            slot = self._slots[number % 2]
            if number >= 2:  # its last part: the buffers are about to be used again
                self._collect(slot, result[parts[number - 2]])
            shape = batch[part].shape
            slot.room(4 * prod(shape))
            np.copyto(slot.host(0, shape), batch[part], casting="no")
            self._device.upload(slot.memory[0], slot.host(0, shape), self._copy)
            slot.uploaded.record(self._copy)
            self._compute.wait(slot.uploaded)
            self._enqueue(index, slot, shape)
            slot.computed.record(self._compute)
            if number:
                self._fetch(self._slots[1 - number % 2], batch[parts[number - 1]].shape)
        last = len(parts) - 1
        self._fetch(self._slots[last % 2], batch[parts[last]].shape)
        for number in range(max(0, last - 1), last + 1):
            self._collect(self._slots[number % 2], result[parts[number]])

    def _fetch(self, slot: _Slot, shape: Shape) -> None:
        """Let the copy stream bring a slot's result back once it is there."""
        self._copy.wait(slot.computed)
        self._device.download(slot.host(1, shape), slot.memory[1], self._copy)
        slot.downloaded.record(self._copy)

    def _collect(self, slot: _Slot, target: np.ndarray) -> None:
        slot.downloaded.synchronize()
        np.copyto(target, slot.host(1, target.shape))

    def _enqueue(self, profile: int, slot: _Slot, shape: Shape) -> None:
        """Put one part's computation into the compute stream, as a graph from the third time of a shape on."""
        fresh = self._bind(profile, slot, shape)
        if slot.graph is not None:
            slot.graph.launch(self._compute)
            return
        self._execute(slot)
        if self._records and not fresh:  # a context sets itself up while it first runs a shape; then it is recorded
            try:
                slot.graph = self._device.capture(self._compute, lambda: self._execute(slot))
            except BackendError:  # an engine that cannot be recorded goes on without
                self._records = False

    def _bind(self, profile: int, slot: _Slot, shape: Shape) -> bool:
        """Tell the slot's context its shape and addresses; whether any of them is new."""
        context = slot.context
        scratch = self._scratch.pointer if self._scratch else 0
        if slot.profile == profile and slot.bound == (shape, slot.memory[0].pointer, scratch):
            return False
        self._compute.synchronize()
        slot.forget()
        if slot.profile != profile:
            slot.profile = None
            if not context.set_optimization_profile_async(profile, self._compute.handle):
                raise self._failure(f"profile {self._profiles[profile].name} cannot be chosen")
            self._compute.synchronize()
            slot.profile = profile
        if not context.set_input_shape(self._input, shape):
            raise self._failure(f"shape {shape} was not taken")
        memory = self._room(context.update_device_memory_size_for_shapes())
        context.set_device_memory(memory.pointer, memory.nbytes)
        context.set_tensor_address(self._input, slot.memory[0].pointer)
        context.set_tensor_address(self._output, slot.memory[1].pointer)
        slot.bound = (shape, slot.memory[0].pointer, memory.pointer)
        return True

    def _room(self, nbytes: int) -> Memory:
        """Scratch memory of at least that size; where it grew, each slot is bound anew before it runs again."""
        if self._scratch is None or self._scratch.nbytes < nbytes:
            if self._scratch is not None:
                self._scratch.free()
                self._scratch = None
            self._scratch = self._device.allocate(max(nbytes, 1))
        return self._scratch

    def _execute(self, slot: _Slot) -> None:
        if not slot.context.execute_async_v3(self._compute.handle):
            raise self._failure("the GPU did not take the work")

    def _failure(self, what: str) -> BackendError:
        """An error that names TensorRT's own reason; its kind tells whether memory was short."""
        reason = first_line(self._log.last)
        kind = OutOfMemoryError if out_of_memory(reason) else BackendError
        return kind(self.description, f"{what} ({reason})", "try a smaller --tile or another --backend")

    def _idle(self) -> None:
        """Wait until nothing uses the buffers; a lost GPU uses nothing."""
        with suppress(BackendError):
            self._copy.synchronize()
            self._compute.synchronize()

    def _release(self) -> None:
        """Give all device memory back."""
        self._idle()
        for slot in self._slots:
            slot.free()
        if self._scratch is not None:
            self._scratch.free()
        self._scratch = None
