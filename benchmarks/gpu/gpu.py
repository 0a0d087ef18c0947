"""Every way to run the network, timed and compared on one machine, as a Markdown table with the floor beside each row.

    python -m benchmarks.gpu.gpu --fp16 engine/model/default_fp16.onnx -o runs/gpu/gpu.md [--minutes 8]
    python -m benchmarks.gpu.gpu --cpu --sizes 64x64x1 --repeat 3        # what runs without a GPU

A way that cannot run here is a line that says why. Latency is that of a call with the input in host memory and the
result back there, as the engine sees it, unless the row says "on device"; "counts": 16-bit counts in and out, converted
on the device, which must give the same bits as the host. Floor: two numbers are measured on this machine, the rate of
large FP16 matrix products (FLOP/s) and of copies in device memory (bytes/s); the larger of FLOP / rate and bytes / rate
is the least time, bytes being weights, input and output once. The network's own activations are not counted, so no row
can reach it.

No row begins after --minutes, and none takes longer than about 5 s; what is left then is making the last way (torch
compiles for up to a minute a shape, so it comes last): 8 minutes end before 9. docs/results/gpu.md has the steps for a
machine without a package index.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.ways import Way, every
from defocus import __version__
from defocus.engine.errors import BackendError, DefocusError
from defocus.engine.inference import gpu
from defocus.engine.inference.gpu.driver import driver_version, find_gpu, why_no_gpu
from defocus.engine.model.card import Card, model_path, read_card

PEAK = 65535.0
ROW_S = 5.0  # a row's calls together, about
Key = tuple[int, int, int, int]  # batch, height, width, channels


@dataclass(frozen=True)
class Row:
    """One way at one shape: latency p50 and p95 (s), planes/s, device memory (MiB), parity (dB), ratio to the floor."""

    way: str
    shape: str
    p50: float
    p95: float
    rate: float
    memory: float | None
    parity: float
    floor: float | None

    def __str__(self) -> str:
        memory = "" if self.memory is None else f"{self.memory:.0f}"
        floor = "" if self.floor is None else f"{self.p50 / self.floor:.1f}"
        times = f"{self.p50 * 1e3:.2f} | {self.p95 * 1e3:.2f} | {self.rate:.1f}"
        parity = "" if np.isnan(self.parity) else f"{self.parity:.1f}"
        return f"| {self.way} | {self.shape} | {times} | {memory} | {parity} | {floor} |"


@dataclass(frozen=True)
class Floor:
    """The least time of a batch on this machine: `rates` are FLOP/s and bytes/s, `flop` one plane's of a size."""

    rates: tuple[float, float]
    flop: Callable[[tuple[int, int]], float]
    weights: int

    def seconds(self, batch: np.ndarray) -> float:
        height, width = batch.shape[2:]
        work, moved = len(batch) * self.flop((height, width)), 2 * self.weights + 2 * batch.nbytes
        return max(work / self.rates[0], moved / self.rates[1])


def floor_rates() -> tuple[float, float] | None:
    """FLOP/s of FP16 matrix products and bytes/s of device copies, measured here; None without a GPU under torch."""
    if find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(12):
            torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return min(times)

    a = torch.rand(8192, 8192, device="cuda", dtype=torch.float16)
    flops = 2 * 8192**3 / best(lambda: a @ a)
    b = torch.empty(1 << 29, device="cuda", dtype=torch.uint8)
    c = torch.empty_like(b)
    return flops, 2 * b.numel() / best(lambda: c.copy_(b))


class Meter:
    """MiB of device memory that is in use, by all processes, above what was when this was made."""

    def __init__(self, on_gpu: bool) -> None:
        self._device = None
        if on_gpu:
            try:
                self._device = gpu.open_device()
            except BackendError:  # no layer is installed: torch may know
                self._device = None
        self._torch = on_gpu and self._device is None and find_spec("torch") is not None
        self._before = self._used()

    def read(self) -> float | None:
        used = self._used()
        return None if used is None or self._before is None else (used - self._before) / 2**20

    def _used(self) -> int | None:
        if self._device is not None:
            with self._device.current():
                free, total = self._device.free_memory()
            return total - free
        if self._torch:
            import torch

            free, total = torch.cuda.mem_get_info()
            return total - free
        return None

    def close(self) -> None:
        if self._device is not None:
            self._device.close()


def measure(way: Way, batch: np.ndarray, repeat: int) -> tuple[np.ndarray, list[float]]:
    """The result, and the seconds of each of `repeat` calls, fewer where they take long, after two that warm up."""
    result = way.ready(batch)
    start = time.perf_counter()
    way.run(batch)
    took = time.perf_counter() - start
    if repeat > 1:
        way.run(batch)
    times = []
    for _ in range(max(1, min(repeat, int(ROW_S / max(took, 1e-6))))):
        start = time.perf_counter()
        way.run(batch)
        times.append(time.perf_counter() - start)
    return result, times


def parity(result: np.ndarray, reference: np.ndarray) -> float:
    """PSNR of the difference in 16-bit units, dB."""
    error = float(np.mean((result.astype(np.float64) - reference) ** 2)) * PEAK**2
    return 10 * float(np.log10(PEAK**2 / error)) if error else float("inf")


def load_network(weights: Path | None) -> Any:
    """The torch network of the weights, or None."""
    if weights is None or not weights.is_file():
        return None
    from defocus.training.fit.checkpoint import load_checkpoint

    return load_checkpoint(weights)[0].float().eval()


def find_floor(network: Any, card: Card) -> Floor | None:
    """The floor on this GPU, or None without torch or its weights."""
    rates = floor_rates()
    if network is None or rates is None:
        return None
    from defocus.training.evaluation.cost import gflop, parameters

    cost = partial(gflop, network, channels=card.channels)
    return Floor(rates, lambda size: cost(size) * 1e9, parameters(network))


def make_inputs(sizes: list[str], batches: list[int]) -> dict[Key, np.ndarray]:
    """Noise of every size and batch. The model has one channel: C channels are C planes, as in the engine."""
    rng = np.random.default_rng(0)
    made = {}
    for size in sizes:
        height, width, channels = (int(side) for side in size.split("x"))
        for count in batches:
            shape = (count * channels, 1, -(-height // 16) * 16, -(-width // 16) * 16)
            made[count, height, width, channels] = rng.random(shape, np.float32)
    return made


def first_line(error: Exception) -> str:
    if isinstance(error, DefocusError):
        return error.cause
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def header(on_gpu: bool, reason: str | None, options: argparse.Namespace, floor: Floor | None) -> str:
    """The machine, the command and the two numbers, in one paragraph."""
    where = f"no GPU ({reason or '--cpu'})"
    if on_gpu:
        card = find_gpu()
        cuda = "{}.{}".format(*card.cuda)
        where = f"{card.name} ({card.sm}), driver {driver_version() or 'unknown'} for CUDA {cuda}"
    text = (
        f"defocus {__version__}, {where}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores. "
        f"Command: `python -m benchmarks.gpu.gpu`, {options.repeat} calls a row at most."
    )
    if floor:
        text += f" Measured rates: {floor.rates[0] / 1e12:.0f} TFLOP/s FP16, {floor.rates[1] / 1e9:.0f} GB/s."
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="default", help="the FP32 ONNX")
    parser.add_argument("--fp16", type=Path, help="its FP16 graph, by defocus-export --fp16")
    parser.add_argument("--weights", type=Path, default=Path("docs/models/default/weights.pt"), help="for torch")
    parser.add_argument("--sizes", nargs="+", default=["520x696x1", "520x696x2", "2048x2048x1"], help="HxWxC")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=8.0, help="no row begins after that")
    parser.add_argument("--cpu", action="store_true", help="without a GPU: only what runs on the processor is timed")
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    begun, reason = time.monotonic(), why_no_gpu()
    if reason and not options.cpu:
        raise SystemExit(f"gpu: {reason}; give --cpu to time what runs on the processor")
    on_gpu, network = reason is None and not options.cpu, load_network(options.weights)
    fp32 = model_path(options.model)
    floor = find_floor(network, read_card(fp32)) if on_gpu else None
    if floor:
        import torch

        torch.cuda.empty_cache()  # what it was measured with is no row's memory
    missing: dict[str, str] = {}
    if network is None:
        missing["torch"] = f"no weights at {options.weights}"
    if not options.fp16:
        missing["every FP16 row but torch's"] = "no --fp16 graph given"
    rows, ran = [], []
    inputs = make_inputs(options.sizes, options.batches)
    reference: dict[tuple, np.ndarray] = {}

    def late() -> bool:
        return time.monotonic() - begun > options.minutes * 60

    for name, make in every(fp32, options.fp16, network, on_gpu):
        if late():
            missing[name] = "out of time"
            continue
        meter = Meter(on_gpu)
        try:
            way = make()
        except Exception as error:  # whatever a library says where it cannot run
            missing[name] = first_line(error)
            meter.close()
            continue
        ran.append(f"- {name}: {way.description}")
        for key, batch in inputs.items():
            shape = f"{key[0]} x {key[3]} x {key[1]} x {key[2]}"
            if late():
                missing[f"{name}, {shape}"] = "out of time"
                continue
            try:
                # Beside a GPU the processor only gives the reference: timed once, or it would take all the time.
                result, times = measure(way, batch, 1 if on_gpu and "CPU" in name else options.repeat)
            except Exception as error:
                missing[f"{name}, {shape}"] = first_line(error)
                continue
            # Each family is held against its first way, FP32: torch's weights are kept in half precision, the ONNX
            # model's are not. The engine has an intensity rule of its own.
            family = (*key, name.startswith("torch"))
            reference.setdefault(family, result)
            times.sort()
            p50, p95 = times[len(times) // 2], times[min(len(times) - 1, int(0.95 * len(times)))]
            same = float("nan") if "end to end" in name else parity(result, reference[family])
            least = floor.seconds(batch) if floor else None
            rows.append(Row(name, shape, p50, p95, len(batch) / p50, meter.read(), same, least))
            print(rows[-1], flush=True)
        way.close()
        meter.close()
    lines = [
        header(on_gpu, reason, options, floor),
        "",
        "| way | batch x C x H x W | p50 ms | p95 ms | planes/s | device MiB | parity dB | times the floor |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(str, rows),
        *(["", "What ran:", "", *ran] if ran else []),
        *(["", "Not run here:", "", *(f"- {name}: {why}" for name, why in missing.items())] if missing else []),
        "",
        f"All of it took {time.monotonic() - begun:.0f} s.",
    ]
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
