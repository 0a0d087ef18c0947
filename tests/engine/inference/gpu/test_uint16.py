"""Counts converted on the device: the PTX of the package itself, run by `ptx.py` over the late driver."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from defocus.engine.errors import BackendError
from defocus.engine.image.normalization import LIMIT, Intensity, clip_with_remainder, from_unit, to_unit
from defocus.engine.inference.backends import OpenedSession, Uint16Session
from defocus.engine.inference.backends.tensorrt import uint16
from defocus.engine.inference.backends.tensorrt.uint16 import (
    PTX,
    SIGNATURES,
    DeviceCounts,
    Uint16Buffer,
    as_ranges,
    proven,
)
from defocus.engine.inference.engine import Engine
from defocus.engine.inference.options import Settings
from defocus.engine.model.card import read_card
from tests.engine.inference.gpu import fake_tensorrt
from tests.engine.inference.gpu.late_pycuda import LETTERS
from tests.engine.inference.gpu.ptx import Ptx

SCRIPT = Path(__file__).resolve().parents[4] / "benchmarks" / "gpu" / "ptx.py"


def test_the_ptx_declares_what_is_passed():
    text = PTX.read_text(encoding="ascii")
    assert Ptx(text).parameters == {
        name: [LETTERS[letter] for letter in letters] for name, letters in SIGNATURES.items()
    }
    assert ".target sm_75\n" in text
    version = re.search(r"^\.version (\d+)\.(\d+)$", text, re.MULTILINE)
    assert version is not None
    assert tuple(map(int, version.groups())) <= (7, 8)  # drivers of CUDA 12 and 13 know it


def test_the_ptx_was_made_of_the_source_beside_it():
    source = hashlib.sha256(PTX.with_suffix(".cu").read_bytes()).hexdigest()
    assert PTX.read_text(encoding="ascii").startswith(f"// of uint16.cu, sha256 {source}\n")


def test_no_operation_of_the_ptx_is_fused_or_approximate():
    """What makes a difference of one bit now and then, which no test finds for certain."""
    assert not re.findall(r"\b(?:fma|mad\.f32|\S*\.approx|\S*\.full|\S*\.ftz)\b", PTX.read_text(encoding="ascii"))


def test_nvidias_assembler_takes_it_for_every_card():
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, timeout=300)
    if done.returncode == 2:
        pytest.skip(f"{done.stdout.strip()}: {SCRIPT.name} says how to get it")
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()][:2] == ["sm_75", "sm_80"]


def test_a_packet_holds_its_parts_apart():
    packet = Uint16Buffer((3, 2, 4, 5))
    memory = np.zeros(packet.nbytes, np.uint8)
    flag, ranges, counts = packet.views(memory)
    flag[:], ranges[:], counts[:] = 0xFFFFFFFF, 1.5, 7
    assert (counts.shape, ranges.shape, packet.counts_at % 16) == ((3, 2, 4, 5), (3, 2, 2), 0)
    assert (flag[0], set(ranges.flat), set(counts.flat)) == (0xFFFFFFFF, {1.5}, {7})


@pytest.mark.parametrize("offset", [0.0, 99.7, 487.25, 65535.0, -1e4])
@pytest.mark.parametrize("scale", [0.0, 1 / 3, 1.0, 255.9, 4096.0, 65535.0])
def test_every_count_in_every_range_as_on_the_host(gpu, device, offset, scale):
    packet, intensity = Uint16Buffer((1, 1, 256, 256)), Intensity(offset, scale)
    given = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    inside, remainder = np.zeros(given.shape, np.float32), None
    if scale:
        inside, remainder = clip_with_remainder(to_unit(given, intensity))
    with device.current():
        kernels, stream = DeviceCounts(device), device.stream()
        at, unit = device.allocate(packet.nbytes), device.allocate(4 * given.size)
        staging, floats = device.staging(packet.nbytes), device.staging(4 * given.size)
        flag, ranges, counts = packet.views(staging.array)
        flag[0], ranges[:], counts[:] = 0, as_ranges([(intensity,)]), given
        found = floats.array.view(np.float32).reshape(given.shape)
        device.upload(at, staging.array, stream)
        kernels.to_unit(packet, at, unit, stream)
        device.download(found, unit, stream)
        stream.synchronize()
        assert np.array_equal(found.view(np.uint32) << 1, inside.view(np.uint32) << 1)  # but for the sign of zero
        assert np.abs(found).max() <= LIMIT
        found += np.random.default_rng(1).normal(0, 0.4, given.shape).astype(np.float32)
        restored = found.copy()
        device.upload(unit, found, stream)
        kernels.to_counts(packet, unit, at, stream)
        device.download(staging.array, at, stream)
        stream.synchronize()
        kernels.free()
    expected = given
    if scale:
        expected = from_unit(restored if remainder is None else restored + remainder, intensity, given.dtype)
    assert np.array_equal(counts[0, 0], expected)
    assert flag[0] == 0


WRONG = {
    "a range that is off by a little": ("div.rn.f32", "mul.rn.f32", "counts to unit range"),
    "no limit": ("min.f32 \t%f15, %f14, %f6", "mov.f32 \t%f15, %f14", "counts to unit range"),
    "counts cut instead of rounded": ("cvt.rni.f32.f32 \t%f19, %f18", "mov.f32 \t%f19, %f18", "unit range to counts"),
    "flat planes filled": (
        "setp.eq.f32 \t%p3, %f7, 0f00000000",
        "setp.eq.f32 \t%p3, %f7, 0fBF800000",
        "unit range to counts",
    ),
    "nothing goes around": ("add.rn.f32 \t%f16, %f4, %f15", "mov.f32 \t%f16, %f4", "unit range to counts"),
    "no flag": ("mov.u32 \t%r7, 1", "mov.u32 \t%r7, 0", "values that are no numbers"),
    "always a flag": ("setp.le.f32 \t%p2, %f8, 0f7F7FFFFF", "setp.le.f32 \t%p2, %f8, 0f00000000", "values that"),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_proof_finds_kernels_that_are_wrong(gpu, device, what):
    before, after, says = WRONG[what]
    gpu.edit = lambda text: text.replace(before, after)
    assert gpu.edit(PTX.read_text(encoding="ascii")) != PTX.read_text(encoding="ascii")
    with device.current():
        stream = device.stream()
        with pytest.raises(BackendError, match=rf"other values than the host \({says}"):
            proven(device, stream)
    assert (gpu.used, gpu.loaded) == (0, 0)


def test_kernels_that_are_right_pass_and_leave_nothing_but_themselves(gpu, device):
    with device.current():
        kernels = proven(device, device.stream())
        assert (gpu.used, gpu.loaded) == (0, 1)
        kernels.free()
    assert gpu.loaded == 0


def test_ptx_that_the_driver_does_not_take_or_that_lacks_a_kernel_is_one_line(device):
    with device.current():
        for text in (b"no ptx", PTX.read_bytes().replace(b"unit_to_counts", b"another")):
            with pytest.raises(BackendError) as caught:
                device.kernels(text, SIGNATURES)
            assert "\n" not in str(caught.value)


# The session and the engine above it.


class HostOnly:
    """The same session without its conversion: what an engine does with every other backend."""

    def __init__(self, session):
        self.run, self.close, self.description = session.run, session.close, session.description


def engine(session, model: Path, batch: int = 1, tile: int = 64, halo: int = 16) -> Engine:
    return Engine(read_card(model), OpenedSession("rtx", session), Settings(tile, halo, batch=batch))


def sharper(given: np.ndarray) -> np.ndarray:
    """A network whose result lies beyond both ends of the range now and then."""
    return np.float32(1.7) * given - np.float32(0.3)


def launches(gpu) -> int:
    """How often kernels were launched or recorded."""
    return gpu.calls.get("cuLaunchKernel", 0) + gpu.calls.get("prepared_async_call", 0)


def specimen(*shape: int) -> np.ndarray:
    """Planes of different brightness, with a hot pixel far beyond the limit in the first and a flat one among them."""
    rng = np.random.default_rng(5)
    image = rng.normal(800, 40, shape) * (1 + np.arange(shape[0])).reshape(-1, *[1] * (len(shape) - 1))
    counts = np.clip(image, 0, 65535).astype(np.uint16)
    counts[0, ..., 20, 20] = 65535
    counts[0] = np.where(counts[0] == 65535, 65535, counts[0] // 100 + 100)
    counts[min(1, shape[0] - 1)] = 77
    return counts


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_the_engine_gives_the_same_as_over_the_host_bit_for_bit(gpu, made, tiny_model, batch):
    made.graph.network = sharper
    image = specimen(4, 90, 110)  # several tiles a plane, mirrored at the edges; planes share batches
    assert isinstance(made.session, Uint16Session)
    for _ in range(3):  # plainly, recorded, and as a graph
        on_device = engine(made.session, tiny_model, batch)(image, "TYX")
    launched = launches(gpu)
    assert launched > 10
    on_host = engine(HostOnly(made.session), tiny_model, batch)(image, "TYX")
    assert np.array_equal(on_device, on_host)
    assert np.array_equal(on_device[1], image[1])  # flat
    assert on_device[0, 20, 20] > 60000  # the hot pixel went around
    assert not np.array_equal(on_device[3], image[3])
    assert launches(gpu) == launched


def test_big_endian_counts_are_taken_and_other_types_go_over_the_host(made, tiny_model, monkeypatch):
    with_counts = []
    original = made.session.run_uint16
    monkeypatch.setattr(made.session, "run_uint16", lambda *given: (with_counts.append(1), original(*given))[1])
    image = specimen(2, 60, 60)
    expected = engine(HostOnly(made.session), tiny_model)(image, "TYX")
    found = engine(made.session, tiny_model)(image.astype(">u2"), "TYX")
    assert found.dtype == np.dtype(">u2")
    assert np.array_equal(found, expected)
    count = len(with_counts)
    assert count
    for kind in (np.uint8, np.float32, np.int16):
        assert engine(made.session, tiny_model)(image.astype(kind), "TYX").dtype == kind
    assert len(with_counts) == count


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_the_same_error_as_on_the_host(made, tiny_model, bad):
    def broken(given):
        found = given.copy()
        found[-1] = bad
        return found

    made.graph.network = broken
    image = specimen(4, 60, 60)
    for session in (made.session, HostOnly(made.session)):
        with pytest.raises(BackendError, match="the network gave NaN or infinite values; try another --backend"):
            engine(session, tiny_model)(image[2:], "TYX")
    made.graph.network = sharper
    assert engine(made.session, tiny_model)(image, "TYX").shape == image.shape  # the flag is gone


def test_a_flat_channel_of_a_plane_keeps_its_counts(gpu, device, tiny_model_2c):
    made = fake_tensorrt.make(gpu, device)
    made.graph.network = sharper
    image = np.stack([specimen(3, 60, 60), np.roll(specimen(3, 60, 60), 1, 0)], 1)
    found = engine(made.session, tiny_model_2c, 3)(image, "TCYX")
    assert np.array_equal(found, engine(HostOnly(made.session), tiny_model_2c, 3)(image, "TCYX"))
    assert np.array_equal(found[1, 0], image[1, 0])
    assert np.array_equal(found[2, 1], image[2, 1])
    made.session.close()


@pytest.mark.parametrize("why", ["wrong", "refused", "no loader", "no file"])
def test_where_the_kernels_cannot_be_used_the_host_converts_and_it_is_told(gpu, device, tiny_model, monkeypatch, why):
    if why == "wrong":
        gpu.edit = lambda text: text.replace("div.rn.f32", "mul.rn.f32")
    elif why == "refused":
        gpu.edit = lambda text: ""
    elif why == "no file":
        monkeypatch.setattr(uint16, "PTX", Path("none.ptx"))
    else:
        monkeypatch.delattr(type(device), "kernels")
    made = fake_tensorrt.make(gpu, device)
    says = {"wrong": "counts to unit range", "refused": "PTX", "no loader": "kernels", "no file": "No such file"}[why]
    assert "counts converted on the host (" in made.session.description
    assert says in made.session.description
    assert "\n" not in made.session.description
    assert not made.session.takes_uint16(np.dtype(np.uint16))
    with pytest.raises(BackendError, match="it takes no counts"):
        made.session.run_uint16(np.zeros((1, 1, 16, 16), np.uint16), [(Intensity(0, 1),)])
    image = specimen(2, 60, 60)
    restored = engine(made.session, tiny_model)
    assert restored.description == made.session.description  # provenance, defocus-doctor
    assert restored(image, "TYX").shape == image.shape
    made.session.close()
    assert (gpu.used, gpu.loaded) == (0, 0)


def test_proven_kernels_are_told_too(made):
    assert made.session.description == "TensorRT 11, counts converted on the device"
    assert made.session.takes_uint16(np.dtype(">u2"))
    assert not made.session.takes_uint16(np.dtype(np.int16))
