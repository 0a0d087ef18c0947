"""Every way to run the network, timed and compared on one machine, as a Markdown table with the floor beside each row.

    python benchmarks/gpu/gpu.py --fp16 default_fp16.onnx -o docs/results/gpu.md [--minutes 8]
    python benchmarks/gpu/gpu.py --cpu --sizes 64x64x1 --repeat 3        # what runs without a GPU

A way that cannot run here is a line that says why. Latency is that of a call with the input in host memory and the
result back there, as the engine sees it, unless the row says "on device". Floor: two numbers are measured on this
machine, the rate of large matrix products (FLOP/s) and of copies in device memory (bytes/s); the larger of FLOP / rate
and bytes / rate is the least time, bytes being weights, input and output once. The network's own activations are not
counted, so no row can reach it.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from defocus import Engine, __version__
from defocus.engine import backends
from defocus.engine.card import model_path, read_card
from defocus.engine.errors import DefocusError
from defocus.engine.gpu.driver import find_gpu, why_no_gpu

Run = Callable[[np.ndarray], np.ndarray]
PEAK = 65535.0


@dataclass(frozen=True)
class Row:
    """One way at one shape: latency p50 and p95 (s), images/s, device memory (MiB), parity (dB), ratio to the floor."""

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
        return f"| {self.way} | {self.shape} | {times} | {memory} | {self.parity:.1f} | {floor} |"


def torch_ways(network, on_gpu: bool) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Eager FP32, FP16 channels-last and torch.compile FP16."""
    import torch

    device = "cuda" if on_gpu else "cpu"
    torch.backends.cudnn.allow_tf32 = False  # FP32 means FP32

    def make(half: bool, compiled: bool) -> Run:
        kind = torch.float16 if half else torch.float32
        form = torch.channels_last if half else torch.contiguous_format
        model = copy.deepcopy(network).eval().to(device=device, dtype=kind, memory_format=form)
        call = torch.compile(model) if compiled else model

        def run(batch: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                given = torch.from_numpy(batch).to(device=device, dtype=kind, memory_format=form)
                return call(given)[0].float().cpu().numpy()

        return run

    yield "torch eager FP32", lambda: make(False, False)
    if on_gpu:
        yield "torch FP16 channels-last", lambda: make(True, False)
        yield "torch.compile FP16", lambda: make(True, True)


def bound(path: Path) -> Run:
    """ONNX Runtime CUDA, input and output bound to device memory: only the computation is timed."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise RuntimeError("this onnxruntime is built without CUDA")
    onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(path, providers=["CUDAExecutionProvider"], enable_fallback=0)
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError("ONNX Runtime fell back to the CPU")
    source, target = session.get_inputs()[0].name, session.get_outputs()[0].name
    kept: dict[int, tuple] = {}

    def run(batch: np.ndarray) -> np.ndarray:
        if id(batch) not in kept:
            kept.clear()
            given = onnxruntime.OrtValue.ortvalue_from_numpy(batch, "cuda", 0)
            made = onnxruntime.OrtValue.ortvalue_from_shape_and_type(batch.shape, np.float32, "cuda", 0)
            binding = session.io_binding()
            binding.bind_ortvalue_input(source, given)
            binding.bind_ortvalue_output(target, made)
            kept[id(batch)] = (binding, given, made, batch)
        binding, _, made, _ = kept[id(batch)]
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return made if TIMING else made.numpy()  # type: ignore[return-value]

    return run


TIMING = False


def backend_run(name: str, path: Path) -> Run:
    """A backend of ours, as `--backend` opens it."""
    return backends.open_session(name, path, read_card(path)).session.run


def end_to_end(name: str, path: Path) -> Run:
    """The whole engine: 16-bit counts to 16-bit counts, intensity and tiles included."""
    engine = Engine.load(path, backend=name, tile=2048)

    def run(batch: np.ndarray) -> np.ndarray:
        counts = (batch * 60000).astype(np.uint16)
        return engine(counts, "TCYX").astype(np.float32) / 60000

    return run


def floor_rates() -> tuple[float, float] | None:
    """FLOP/s of FP16 matrix products and bytes/s of device copies, measured here; None without a GPU under torch."""
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


def device_memory(on_gpu: bool) -> float | None:
    """MiB of device memory in use by all processes."""
    if not on_gpu:
        return None
    import torch

    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**20


def measure(run: Run, batch: np.ndarray, repeat: int) -> tuple[np.ndarray, list[float]]:
    """The result, and the seconds of each of `repeat` calls after three that warm up (one if a single is asked)."""
    global TIMING
    TIMING = False
    result = np.array(run(batch))  # the next call may use its place again
    TIMING = True
    for _ in range(2 if repeat > 1 else 0):
        run(batch)
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run(batch)
        times.append(time.perf_counter() - start)
    TIMING = False
    return result, times


def parity(result: np.ndarray, reference: np.ndarray) -> float:
    """PSNR of the difference in 16-bit units, dB."""
    error = float(np.mean((result.astype(np.float64) - reference) ** 2)) * PEAK**2
    return 10 * float(np.log10(PEAK**2 / error)) if error else float("inf")


def ways(options, network, on_gpu: bool) -> list[tuple[str, Callable[[], Run]]]:
    """Every way by name, and what makes it; making it fails where it cannot run."""
    fp32 = model_path(options.model)
    found = list(torch_ways(network, on_gpu)) if network is not None else []
    found.append(("ONNX Runtime CPU FP32", lambda: backend_run("cpu", fp32)))
    found.append(("ONNX Runtime CUDA FP32", lambda: backend_run("cuda", fp32)))
    found.append(("ONNX Runtime CUDA FP32, on device", lambda: bound(fp32)))
    if options.fp16:
        half = options.fp16
        found.append(("ONNX Runtime CUDA FP16", lambda: backend_run("cuda", half)))
        found.append(("ONNX Runtime CUDA FP16, on device", lambda: bound(half)))
        found.append(("TensorRT FP16", lambda: backend_run("tensorrt", half)))
        found.append(("TensorRT for RTX FP16", lambda: backend_run("rtx", half)))
    found.append(("engine end to end, auto", lambda: end_to_end("auto", options.fp16 or fp32)))
    return [way for way in found if on_gpu or "CPU" in way[0] or "eager" in way[0] or "end to end" in way[0]] + [
        way for way in found if not on_gpu and ("CUDA" in way[0] or "TensorRT" in way[0])
    ]


def load_network(weights: Path | None):
    """The torch network of the weights, or None."""
    if weights is None or not weights.is_file():
        return None
    from defocus.training.checkpoint import load_checkpoint

    return load_checkpoint(weights)[0].float().eval()


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
    rates = floor_rates() if on_gpu else None
    card = read_card(model_path(options.model))
    where = f"{find_gpu().name}" if on_gpu else f"no GPU ({reason or '--cpu'})"
    lines = [
        f"defocus {__version__}, {where}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores. "
        f"Command: `python benchmarks/gpu/gpu.py`, {options.repeat} calls a row.",
        "",
        "| way | batch x C x H x W | p50 ms | p95 ms | planes/s | device MiB | parity dB | times the floor |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    if rates:
        lines[0] += f" Measured rates: {rates[0] / 1e12:.0f} TFLOP/s FP16, {rates[1] / 1e9:.0f} GB/s."
    missing: dict[str, str] = {}
    if network is None:
        missing["torch"] = f"no weights at {options.weights}"
    if not options.fp16:
        missing["every FP16 row but torch's"] = "no --fp16 graph given"
    rng = np.random.default_rng(0)
    sizes = [tuple(int(side) for side in size.split("x")) for size in options.sizes]
    inputs = {
        (count, h, w, c): rng.random((count * c, 1, -(-h // 16) * 16, -(-w // 16) * 16), np.float32)
        for h, w, c in sizes
        for count in options.batches
    }  # the model has one channel: C channels are C planes, as in the engine
    cost = None
    if network is not None and rates:
        from defocus.training.cost import gflop, parameters

        cost = partial(gflop, network, channels=card.channels), parameters(network)
    reference: dict[tuple, np.ndarray] = {}
    for name, make in ways(options, network, on_gpu):
        try:
            run = make()
        except DefocusError as error:
            missing[name] = error.cause
            continue
        except Exception as error:  # whatever a library says where it cannot run
            missing[name] = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            continue
        for key, batch in inputs.items():
            shape = f"{key[0]} x {key[3]} x {key[1]} x {key[2]}"
            if time.monotonic() - begun > options.minutes * 60:
                missing[f"{name}, {shape}"] = "out of time"
                continue
            try:
                # Beside a GPU the processor only gives the reference: timed once, or it would take all the time.
                repeat = 1 if on_gpu and "CPU" in name else options.repeat
                result, times = measure(run, batch, repeat)
            except Exception as error:
                missing[f"{name}, {shape}"] = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
                continue
            # Each family is held against its first way, FP32: torch's weights are kept in half precision, the ONNX
            # model's are not. The engine has an intensity rule of its own.
            family = (*key, name.startswith("torch"))
            reference.setdefault(family, result)
            floor = None
            if cost and rates:
                work = len(batch) * cost[0](batch.shape[2:]) * 1e9
                floor = max(work / rates[0], (2 * cost[1] + 2 * batch.nbytes) / rates[1])
            times.sort()
            p50, p95 = times[len(times) // 2], times[min(len(times) - 1, int(0.95 * len(times)))]
            same = float("nan") if "end to end" in name else parity(result, reference[family])
            row = Row(name, shape, p50, p95, len(batch) / p50, device_memory(on_gpu), same, floor)
            lines.append(str(row))
            print(row, flush=True)
        del run
    lines += ["", "Not run here:", "", *(f"- {name}: {why}" for name, why in missing.items())] if missing else []
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
