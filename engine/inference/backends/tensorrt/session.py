"""Running a TensorRT engine: two streams, page-locked staging, graphs; nothing is allocated once a shape is known.

A batch goes in parts through two slots. While the compute stream runs one part, the copy stream brings back the one
before and takes up the next:

    copy      up 0 | up 1 |          down 0 | up 2 |         down 1 | ...
    compute        | run 0           | run 1           | run 2

Each slot has an execution context of its own, so that what its graph recorded is never changed under it; the contexts
share one scratch memory, for only one of them runs at a time. The last few shapes of batches each keep their own two
slots, so that shapes that take turns keep their graphs.

Counts of 16 bits are converted on the device (`uint16`) where that is proven right when the session opens, else
on the host, by the engine, as for every backend.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np

from ....errors import BackendError, OutOfMemoryError, first_line
from ....image.normalization import Intensity
from ...buffer import Buffer
from ...gpu import Device, Memory, Stream
from ...memory import Footprint
from .. import closed, not_finite
from .build import out_of_memory
from .config import Profile, describe
from .slot import Counts, Floats, Shape, Slot, Transfer
from .uint16 import as_ranges, converter

SHAPES = 3  # of batches that keep their slots: two of a plane's tiles, and one more

Key = tuple[type, Shape]  # how a batch or a part of it travels, and its shape


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
        self._context, self._scratch, self._result = context, None, Buffer()
        self._pairs: dict[Key, tuple[Slot, Slot]] = {}  # the one that was used last comes last
        self._spare: list[tuple[Slot, Slot]] = []
        with device.current():
            self._copy: Stream = device.stream()
            self._compute: Stream = device.stream()
            self._spare.append(self._new_pair())
            self._counts, unavailable_reason = converter(device, self._compute)
        self.description += ", counts converted on the " + (
            f"host ({unavailable_reason})" if unavailable_reason else "device"
        )

    def run(self, batch: np.ndarray) -> np.ndarray:
        """See `backends.Session.run`."""
        result = self._result.array(batch.shape, np.float32)
        self._run(Floats(self._device, batch, result))
        return result

    @property
    def footprint(self) -> Footprint:
        """See `backends.Session.footprint`: what the plan says its largest shape needs, and two slots' images."""
        largest = max(self._profiles, key=lambda profile: prod(profile.most))
        plane = max(self._profiles, key=lambda profile: min(profile.most[1:]))
        scratch = getattr(self._engine, "device_memory_size_v2", 0) / prod(largest.most)
        with self._device.current():
            free, _ = self._device.free_memory()
        return Footprint(scratch + 16 if scratch else None, min(plane.most[1:]), free)

    def trim(self) -> None:
        """See `backends.Session.trim`. It keeps the shapes that it has graphs for."""

    def takes_uint16(self, dtype: np.dtype) -> bool:
        """See `backends.Uint16Session.takes_uint16`."""
        return self._counts is not None and dtype.newbyteorder("=") == np.uint16

    def run_uint16(self, batch: np.ndarray, intensities: Sequence[tuple[Intensity, ...]]) -> np.ndarray:
        """See `backends.Uint16Session.run_uint16`."""
        if self._counts is None:
            raise BackendError(self.description, "it takes no counts", "convert them on the host")
        result = self._result.array(batch.shape, np.uint16)
        transfer = Counts(self._device, self._counts, batch, as_ranges(intensities), result)
        self._run(transfer)
        if not transfer.finite:
            raise not_finite(self.description)
        return result

    def close(self) -> None:
        """See `backends.Session.close`."""
        if self._engine is None:
            return
        with suppress(BackendError), self._device.current():
            self._release()
            if self._counts is not None:
                self._counts.free()
            self._on_close()
            self._pairs.clear()  # the contexts go before their engine, while CUDA's context is current
            self._spare.clear()
        self._pairs.clear()
        self._spare.clear()
        self._engine = self._counts = None
        self._device.close()

    def _profile_for(self, shape: Shape) -> int:
        """The first profile that holds a plane of that size; larger batches go in parts."""
        for index, profile in enumerate(self._profiles):
            if profile.holds((min(shape[0], profile.most[0]), shape[2], shape[3])):
                return index
        cause = f"a batch of {'x'.join(map(str, shape))} is outside its profiles ({describe(self._profiles)})"
        raise BackendError(self.description, cause, "use another --tile, or build an engine with --profile")

    def _run(self, transfer: Transfer) -> None:
        """Take a batch through the GPU."""
        if not self._busy.acquire(blocking=False):
            cause = "an execution context serves one thread at a time, and another is using it"
            raise BackendError(self.description, cause, "load an engine in each thread")
        try:
            if self._engine is None:
                raise closed(self.description)
            profile = self._profile_for(transfer.shape)
            with self._device.current():
                crowded = len(self._pairs) > ((type(transfer), transfer.shape) in self._pairs)
                try:
                    self._whole(profile, transfer)
                except OutOfMemoryError:
                    if not crowded:
                        raise
                    self._whole(profile, transfer)  # what other shapes had kept is free now
        finally:
            self._busy.release()

    def _whole(self, profile: int, transfer: Transfer) -> None:
        """All parts; after an error nothing is under way, and where memory was short all of it is given back."""
        try:
            self._parts(profile, transfer)
        except OutOfMemoryError:
            self._release()
            raise
        except BackendError:
            self._idle()
            raise

    def _parts(self, index: int, transfer: Transfer) -> None:
        # Two halves at least, so that one's copies run beside the other's computation; none below the profile's least.
        profile, count = self._profiles[index], transfer.shape[0]
        size = min(profile.most[0], max(profile.least[0], -(-count // 2)))
        parts = [slice(start, min(start + size, count)) for start in range(0, count, size)]
        slots = self._pair((type(transfer), transfer.shape))
        for number, part in enumerate(parts):
            slot = slots[number % 2]
            if number >= 2:  # its last part: the buffers are about to be used again
                self._collect(transfer, slot, parts[number - 2])
            transfer.up(slot, part, self._copy)
            slot.uploaded.record(self._copy)
            self._compute.wait(slot.uploaded)
            self._enqueue(index, slot, (part.stop - part.start, *transfer.shape[1:]), transfer)
            slot.computed.record(self._compute)
            if number:
                self._fetch(transfer, slots[1 - number % 2], parts[number - 1])
        last = len(parts) - 1
        self._fetch(transfer, slots[last % 2], parts[last])
        for number in range(max(0, last - 1), last + 1):
            self._collect(transfer, slots[number % 2], parts[number])

    def _fetch(self, transfer: Transfer, slot: Slot, part: slice) -> None:
        """Let the copy stream bring a slot's result back once it is there."""
        self._copy.wait(slot.computed)
        transfer.down(slot, part, self._copy)
        slot.downloaded.record(self._copy)

    def _collect(self, transfer: Transfer, slot: Slot, part: slice) -> None:
        slot.downloaded.synchronize()
        transfer.collect(slot, part)

    def _pair(self, key: Key) -> tuple[Slot, Slot]:
        """The slots of that kind of batch: its own, or new ones, or those of the kind that was not used for longest."""
        if key in self._pairs:
            pair = self._pairs.pop(key)
        elif self._spare:
            pair = self._spare.pop()
        elif len(self._pairs) < SHAPES:
            pair = self._new_pair()
        else:
            pair = self._pairs.pop(next(iter(self._pairs)))
        self._pairs[key] = pair
        return pair

    def _new_pair(self) -> tuple[Slot, Slot]:
        """Two slots with a context each, which are kept until the session closes: making contexts anew leaks."""
        contexts = [self._context(), self._context()]
        if None in contexts:
            raise self._failure("no execution context")
        first, second = (Slot(self._device, context) for context in contexts)
        return first, second

    def _enqueue(self, profile: int, slot: Slot, shape: Shape, transfer: Transfer) -> None:
        """Put one part's computation into the compute stream, as a graph from the third time of a shape on."""
        fresh = self._bind(profile, slot, (type(transfer), shape))
        if slot.graph is not None:
            slot.graph.launch(self._compute)
            return

        def work() -> None:
            transfer.compute(slot, shape, lambda: self._execute(slot), self._compute)

        work()
        if self._records and not fresh:  # a context sets itself up while it first runs a shape; then it is recorded
            try:
                slot.graph = self._device.capture(self._compute, work)
            except BackendError:  # an engine that cannot be recorded goes on without
                self._records = False

    def _bind(self, profile: int, slot: Slot, key: Key) -> bool:
        """Tell the slot's context its shape and addresses; whether any of them is new."""
        context, shape = slot.context, key[1]
        scratch = self._scratch.pointer if self._scratch else 0
        if slot.profile == profile and slot.bound == (*key, slot.image.pointer, scratch):
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
        context.set_tensor_address(self._input, slot.image.pointer)
        context.set_tensor_address(self._output, slot.restored.pointer)
        slot.bound = (*key, slot.image.pointer, memory.pointer)
        return True

    def _room(self, nbytes: int) -> Memory:
        """Scratch memory of at least that size; where it grew, each slot is bound anew before it runs again."""
        if self._scratch is None or self._scratch.nbytes < nbytes:
            if self._scratch is not None:
                self._scratch.free()
                self._scratch = None
            self._scratch = self._device.allocate(max(nbytes, 1))
        return self._scratch

    def _execute(self, slot: Slot) -> None:
        if not slot.context.execute_async_v3(self._compute.handle):
            raise self._failure("the GPU did not take the work")

    def _failure(self, problem: str) -> BackendError:
        """An error that names TensorRT's own reason; its kind tells whether memory was short."""
        reason = first_line(self._log.last)
        kind = OutOfMemoryError if out_of_memory(reason) else BackendError
        return kind(self.description, f"{problem} ({reason})", "try a smaller --tile or another --backend")

    def _idle(self) -> None:
        """Wait until nothing uses the buffers; a lost GPU uses nothing."""
        with suppress(BackendError):
            self._copy.synchronize()
            self._compute.synchronize()

    def _release(self) -> None:
        """Give all memory of batches back; the contexts are kept."""
        self._idle()
        self._spare += self._pairs.values()
        self._pairs.clear()
        for pair in self._spare:
            for slot in pair:
                slot.free()
        if self._scratch is not None:
            self._scratch.free()
        self._scratch = None
