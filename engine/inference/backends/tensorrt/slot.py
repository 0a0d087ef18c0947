"""One part of a batch on its way through the GPU: the slot it goes in, and the two forms it can travel in.

`Floats` are what every backend takes. `Counts` go up and come down as the camera's 16-bit integers, and are converted
on the device beside the network.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Protocol

import numpy as np

from ...gpu import Device, Graph, Memory, Staging, Stream
from .uint16 import DeviceCounts, Uint16Buffer

Shape = tuple[int, ...]


class Slot:
    """An execution context with the buffers, events and graph of one part of a batch."""

    def __init__(self, device: Device, context: Any) -> None:
        self.context, self._device = context, device
        self.uploaded, self.computed, self.downloaded = device.event(), device.event(), device.event()
        self.memory: list[Memory] = []  # the network's input, its output, and a packet of counts if they travel so
        self.staging: list[Staging] = []  # what goes up, and what comes down
        self.graph: Graph | None = None
        self.profile: int | None = None
        # What its context and graph were told: form and shape of the part, addresses of its input and of the scratch.
        self.bound: tuple[type, Shape, int, int] | None = None

    @property
    def image(self) -> Memory:
        return self.memory[0]

    @property
    def restored(self) -> Memory:
        return self.memory[1]

    @property
    def packet(self) -> Memory:
        return self.memory[2]

    def room(self, floats: int, packet: int = 0) -> None:
        """Make room for so many bytes of float32 in and out; with a packet only that is staged on the host."""
        wanted, staged = [floats, floats, packet] if packet else [floats, floats], packet or floats
        held, host = [memory.nbytes for memory in self.memory], [staging.array.nbytes for staging in self.staging]
        enough = len(held) >= len(wanted) and len(host) == 2 and min(host) >= staged
        if enough and all(have >= need for have, need in zip(held, wanted, strict=False)):
            return
        self.free()
        self.memory.extend(self._device.allocate(nbytes) for nbytes in wanted)
        self.staging.extend(self._device.staging(staged) for _ in range(2))

    def staged(self, end: int, shape: Shape) -> np.ndarray:
        """The page-locked input (0) or output (1) as float32 of that shape."""
        return self.staging[end].array[: 4 * prod(shape)].view(np.float32).reshape(shape)

    def forget(self) -> None:
        """Drop the graph and what the context was told; nothing of the slot may be running."""
        if self.graph is not None:
            self.graph.free()
        self.graph = self.bound = None

    def free(self) -> None:
        """Give all memory back; nothing of the slot may be running."""
        self.forget()
        for buffer in (*self.memory, *self.staging):
            buffer.free()
        self.memory, self.staging = [], []


class Transfer(Protocol):
    """A batch and where its result goes; a part of it is a slice of its first axis."""

    @property
    def shape(self) -> Shape:
        """(N, C, H, W)."""
        ...

    def up(self, slot: Slot, part: slice, stream: Stream) -> None:
        """Stage a part and put its upload into a stream."""
        ...

    def compute(self, slot: Slot, shape: Shape, network: Callable[[], None], stream: Stream) -> None:
        """Put the network, and what goes before and after it, into a stream."""
        ...

    def down(self, slot: Slot, part: slice, stream: Stream) -> None:
        """Put a part's download into a stream."""
        ...

    def collect(self, slot: Slot, part: slice) -> None:
        """Take a part's result, which has come down, out of its staging."""
        ...


class Floats:
    """float32 to float32."""

    def __init__(self, device: Device, batch: np.ndarray, result: np.ndarray) -> None:
        self._device, self._batch, self._result = device, batch, result
        self.shape = batch.shape

    def up(self, slot: Slot, part: slice, stream: Stream) -> None:
        given = self._batch[part]
        slot.room(4 * given.size)
        staged = slot.staged(0, given.shape)
        np.copyto(staged, given, casting="no")
        self._device.upload(slot.image, staged, stream)

    def compute(self, slot: Slot, shape: Shape, network: Callable[[], None], stream: Stream) -> None:
        network()

    def down(self, slot: Slot, part: slice, stream: Stream) -> None:
        self._device.download(slot.staged(1, self._result[part].shape), slot.restored, stream)

    def collect(self, slot: Slot, part: slice) -> None:
        target = self._result[part]
        np.copyto(target, slot.staged(1, target.shape))


class Counts:
    """uint16 to uint16. `finite` tells afterwards whether the network gave numbers only."""

    def __init__(
        self, device: Device, kernels: DeviceCounts, batch: np.ndarray, ranges: np.ndarray, result: np.ndarray
    ) -> None:
        self._device, self._kernels = device, kernels
        self._batch, self._ranges, self._result = batch, ranges, result
        self.shape, self.finite = batch.shape, True

    def up(self, slot: Slot, part: slice, stream: Stream) -> None:
        packet = self._packet(part)
        slot.room(4 * prod(packet.shape), packet.nbytes)
        staged = slot.staging[0].array[: packet.nbytes]
        flag, ranges, counts = packet.views(staged)
        flag[0] = 0
        ranges[:] = self._ranges[part]
        np.copyto(counts, self._batch[part], casting="equiv")
        self._device.upload(slot.packet, staged, stream)

    def compute(self, slot: Slot, shape: Shape, network: Callable[[], None], stream: Stream) -> None:
        packet = Uint16Buffer((shape[0], shape[1], shape[2], shape[3]))
        self._kernels.to_unit(packet, slot.packet, slot.image, stream)
        network()
        self._kernels.to_counts(packet, slot.restored, slot.packet, stream)

    def down(self, slot: Slot, part: slice, stream: Stream) -> None:
        self._device.download(slot.staging[1].array[: self._packet(part).nbytes], slot.packet, stream)

    def collect(self, slot: Slot, part: slice) -> None:
        flag, _, counts = self._packet(part).views(slot.staging[1].array)
        self.finite = self.finite and not flag[0]
        np.copyto(self._result[part], counts)

    def _packet(self, part: slice) -> Uint16Buffer:
        count, channels, height, width = self._batch[part].shape
        return Uint16Buffer((count, channels, height, width))
