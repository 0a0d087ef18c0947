"""16-bit counts converted on the device: half as many bytes go up and come down, and the processor is left alone.

The kernels (`gpu/uint16.cu`, loaded as PTX) do what `normalization` does on the host, bit for bit. That is proven on
the card itself before they are used (`proven`): nothing else shows that its driver made of the PTX what was meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ....errors import BackendError, first_line
from ....image.normalization import LIMIT, Intensity, clip_with_remainder, from_unit, to_unit
from ... import gpu
from ...gpu import Device, Kernels, Memory, Stream

PTX = Path(gpu.__file__).with_name("uint16.ptx")
# Parameters: addresses of counts, ranges, unit; pixels, limit, and of restored, ranges, counts, flag; pixels, limit.
SIGNATURES = {"counts_to_unit": "PPPIf", "unit_to_counts": "PPPPIf"}
_THREADS = 256
_RANGES_AT = 16  # bytes; the flag alone lies before
_PROOF = (
    Intensity(0.0, 65535.0),
    Intensity(0.0, 1.0),  # all beyond the limit but a few
    Intensity(101.3, 0.7),
    Intensity(3.0, 0.0),  # flat
    Intensity(487.25, 3911.6),
    Intensity(65534.9, 1 / 3),
    Intensity(-20.0, 1e4),
)


@dataclass(frozen=True)
class Uint16Buffer:
    """How counts of a shape (N, C, H, W) travel in one piece, with each plane's range and a flag for the way back.

    uint32 flag | float32 (N, C, 2) offsets and scales | uint16 (N, C, H, W) counts
    """

    shape: tuple[int, int, int, int]

    @property
    def planes(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def pixels(self) -> int:
        """Of one plane."""
        return self.shape[2] * self.shape[3]

    @property
    def counts_at(self) -> int:
        return -(-(_RANGES_AT + 8 * self.planes) // 16) * 16

    @property
    def nbytes(self) -> int:
        return self.counts_at + 2 * prod(self.shape)

    def views(self, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flag (1,), ranges (N, C, 2) and counts (N, C, H, W) in host memory, uint8."""
        ranges = memory[_RANGES_AT : _RANGES_AT + 8 * self.planes].view(np.float32)
        counts = memory[self.counts_at : self.nbytes].view(np.uint16)
        return memory[:4].view(np.uint32), ranges.reshape(*self.shape[:2], 2), counts.reshape(self.shape)


class DeviceCounts:
    """The two kernels on one device. Every method is called where the device is current."""

    def __init__(self, device: Device) -> None:
        try:
            text = PTX.read_bytes()
        except OSError as error:
            raise BackendError(PTX, str(error.strerror), "install defocus again") from error
        self._kernels: Kernels = device.kernels(text, SIGNATURES)

    def to_unit(self, packet: Uint16Buffer, at: Memory, unit: Memory, stream: Stream) -> None:
        """Put into a stream: the packet's counts to float32 in unit range, +-`LIMIT` at most."""
        ranges, counts = at.pointer + _RANGES_AT, at.pointer + packet.counts_at
        self._launch("counts_to_unit", packet, stream, counts, ranges, unit.pointer)

    def to_counts(self, packet: Uint16Buffer, restored: Memory, at: Memory, stream: Stream) -> None:
        """Put into a stream: what the network gave, with what went around it, to counts in the packet.

        Its flag is set if anything in `restored` is NaN or infinite. Flat planes keep their counts.
        """
        ranges, counts = at.pointer + _RANGES_AT, at.pointer + packet.counts_at
        self._launch("unit_to_counts", packet, stream, restored.pointer, ranges, counts, at.pointer)

    def free(self) -> None:
        self._kernels.free()

    def _launch(self, name: str, packet: Uint16Buffer, stream: Stream, *addresses: int) -> None:
        grid = -(-packet.pixels // _THREADS), packet.planes
        self._kernels.launch(name, grid, _THREADS, stream, *addresses, packet.pixels, LIMIT)


def as_ranges(intensities: Sequence[tuple[Intensity, ...]]) -> np.ndarray:
    """Offsets and scales as the kernels take them, float32 (N, C, 2)."""
    return np.array(
        [[(intensity.offset, intensity.scale) for intensity in channels] for channels in intensities], np.float32
    )


def converter(device: Device, stream: Stream) -> tuple[DeviceCounts | None, str]:
    """The proven kernels, or None and why the host has to convert."""
    try:
        return proven(device, stream), ""
    except BackendError as error:
        return None, error.cause
    except Exception as error:  # a layer that lacks what loads kernels fails with whatever it says
        return None, first_line(error)


def proven(device: Device, stream: Stream) -> DeviceCounts:
    """The kernels, loaded and found equal to the host's conversion of many counts in ranges of every kind.

    Raises
    ------
    BackendError
        They cannot be loaded here, or give other values; `cause` is a few words.
    """
    kernels = DeviceCounts(device)
    try:
        for wrong in _proof(device, stream, kernels):
            if wrong:
                raise BackendError("GPU", f"the kernels give other values than the host ({wrong})", "report it")
    except BaseException:
        kernels.free()
        raise
    return kernels


def _proof(device: Device, stream: Stream, kernels: DeviceCounts) -> Iterator[str]:
    """What is wrong, step by step; "" for a step that is right."""
    packet = Uint16Buffer((len(_PROOF), 1, 64, 64))
    # Both ends, and every 31st between: the launch has more than one block a plane.
    some = np.r_[:1024, 1024:64512:31, 64512:65536].astype(np.uint16)
    given = np.broadcast_to(some.reshape(packet.shape[2:]), packet.shape)
    with ExitStack() as cleanup:

        def kept(resource):  # type: ignore[no-untyped-def]
            cleanup.callback(resource.free)
            return resource

        at, unit = (kept(device.allocate(nbytes)) for nbytes in (packet.nbytes, 4 * given.size))
        up, floats = (kept(device.staging(nbytes)) for nbytes in (packet.nbytes, 4 * given.size))
        cleanup.callback(stream.synchronize)  # nothing is freed while it is in use
        flag, ranges, counts = packet.views(up.array)
        inside = floats.array.view(np.float32).reshape(packet.shape)

        def send() -> None:
            flag[:], ranges[:], counts[:] = 0, as_ranges([(intensity,) for intensity in _PROOF]), given
            device.upload(at, up.array, stream)

        send()
        kernels.to_unit(packet, at, unit, stream)
        device.download(inside, unit, stream)
        stream.synchronize()
        expected, remainder = _host_unit(given)
        yield "" if np.array_equal(inside, expected) else "counts to unit range"

        restored = _as_if_restored(expected)
        for bad in (0.0, np.nan, np.inf, -np.inf):
            inside[:] = restored
            inside[-1, 0, -1, -1] += bad
            send()
            device.upload(unit, inside, stream)
            kernels.to_counts(packet, unit, at, stream)
            device.download(up.array, at, stream)
            stream.synchronize()
            if bad == 0:
                yield "" if np.array_equal(counts, _host_counts(given, restored, remainder)) else "unit range to counts"
            yield "" if bool(flag[0]) == (bad != 0) else "values that are no numbers"


def _host_unit(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the network is given, and what goes around it, by the host."""
    unit = np.zeros(given.shape, np.float32)
    for plane, counts, intensity in zip(unit, given, _PROOF, strict=True):
        if not intensity.flat:
            plane[:] = to_unit(counts, intensity)
    inside, remainder = clip_with_remainder(unit)
    return inside, np.zeros_like(unit) if remainder is None else remainder


def _host_counts(given: np.ndarray, restored: np.ndarray, remainder: np.ndarray) -> np.ndarray:
    result = given.copy()
    with np.errstate(over="ignore"):  # that comes back as the highest count
        for counts, unit, rest, intensity in zip(result, restored, remainder, _PROOF, strict=True):
            if not intensity.flat:
                counts[:] = from_unit(unit + rest, intensity, counts.dtype)
    return result


def _as_if_restored(given: np.ndarray) -> np.ndarray:
    """Values of a network: near what it was given, some far from it, and ties between two counts (the second plane)."""
    values = given + np.random.default_rng(0).normal(0, 0.3, given.shape).astype(np.float32)
    values[1] = given[1] + np.float32(0.5)
    values[:, :, 0, :4] = -3e38, 3e38, -1e5, 1e5
    return values
