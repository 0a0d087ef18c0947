"""The network at inference: every way to run its graph that might be faster, its time and how near it stays.

    python -m benchmarks.speed.graph [--repetitions 7] [--only batch] [-o docs/results/graph.md]

A ratio is the time of a plane of 520 x 696 over that of the backend as the engine opens it, both in one repetition; the
median and the spread stand in the table. Parity is PSNR to FP32 over drawn planes in camera counts, as `defocus-export
--fp16` measures it (export/fp16_check.py): the least of the planes and the median. A way wins with a ratio below 0.95,
in no repetition above 1, and at least 50 dB on every plane.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.report import SHAPE, publish, spread, table
from benchmarks.speed.graph_variants import Quantisation, quantised, with_batchnorm, without_transposed
from defocus.engine.image.tiling import round_up
from defocus.engine.inference.backends.onnx_runtime import CPU
from defocus.engine.inference.backends.openvino import OPENVINO
from defocus.engine.model.card import Card, model_path, read_card
from defocus.engine.threads import available_cores
from defocus.export.fp16_check import Run, Sample, compare, planes, samples

GATE_DB = 50.0
WORTH = 0.95
HEAD = ("tried", "expected", "parity, dB: least", "median", "time, relative", "spread", "verdict")


@dataclass
class Variant:
    """One way to run the network.

    Attributes
    ----------
    name, expected : str
        What is tried and what for.
    open : callable
        Gives what runs it, float32 (N, C, H, W) to the same; may raise if it cannot be had here.
    base : str
        The variant that its time is compared with.
    count : int
        Planes a call.
    gate : float
        dB that it must reach.
    rounds : callable or None
        Seconds a plane, given what `open` gave and a plane, where a single call would not show it.
    """

    name: str
    expected: str
    open: Callable[[], Any]
    base: str
    count: int = 1
    gate: float = GATE_DB
    rounds: Callable[[Any, np.ndarray], float] | None = None
    seconds: list[float] = field(default_factory=list)

    def time(self, run: Any, plane: np.ndarray) -> float:
        if self.rounds:
            return self.rounds(run, plane)
        batch = np.repeat(plane, self.count, axis=0)
        start = time.perf_counter()
        run(batch)
        return (time.perf_counter() - start) / self.count


def onnx_run(graph: Path | bytes, session: dict[str, Any] | None = None, **entries: str) -> Run:
    """The CPU provider, with the engine's settings but for those given."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = available_cores()
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    for key, value in (session or {}).items():
        setattr(options, key, value)
    for key, value in ({"session.intra_op.allow_spinning": "0"} | entries).items():
        options.add_session_config_entry(key, value)
    made = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = made.get_inputs()[0].name
    return lambda batch: np.asarray(made.run(None, {name: batch})[0])


def openvino_compiled(graph: Path | bytes, **settings: object) -> Any:
    import openvino

    core = openvino.Core()
    model = core.read_model(str(graph)) if isinstance(graph, Path) else core.read_model(graph)
    usual = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": available_cores(),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return core.compile_model(model, "CPU", usual | settings)


def openvino_run(graph: Path | bytes, needs: str = "", **settings: object) -> Run:
    """OpenVINO as the engine opens it, but for the settings given; `needs` is a capability of the processor."""
    import openvino

    has = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if needs and needs not in has:
        raise RuntimeError(f"this processor has {', '.join(has)}")
    request = openvino_compiled(graph, **settings).create_infer_request()

    def run(batch: np.ndarray) -> np.ndarray:
        request.infer({0: batch}, share_inputs=True)
        return request.get_output_tensor(0).data.copy()

    return run


def side_by_side(runs: list[Run], plane: np.ndarray) -> float:
    """Seconds a plane with each run in a thread of its own, four planes each."""
    with ThreadPoolExecutor(len(runs)) as pool:
        start = time.perf_counter()
        list(pool.map(lambda run: [run(plane) for _ in range(4)], runs))
        return (time.perf_counter() - start) / (4 * len(runs))


def variants(path: Path, card: Card) -> Iterator[Variant]:
    """What is tried, the two that the engine opens first."""
    level, mode, cores = ort.GraphOptimizationLevel, ort.ExecutionMode, available_cores()
    graph = onnx.load(str(path))
    a, b = "ONNX Runtime, as the engine opens it", "OpenVINO, as the engine opens it"
    yield Variant(a, "", lambda: CPU.open(path, card).run, a)
    yield Variant(b, "", lambda: OPENVINO.open(path, card).run, b)

    def other(name: str, expected: str, base: str, change: Callable[[], onnx.ModelProto], **more: Any) -> Variant:
        engine = onnx_run if base == a else openvino_run
        return Variant(name, expected, lambda: engine(change().SerializeToString()), base, **more)

    yield other(
        "BatchNorm not folded", "slower; the shipped graph is folded", a, lambda: with_batchnorm(graph), gate=100
    )
    for name, one, expected in (
        ("no graph optimisation", level.ORT_DISABLE_ALL, "slower: ReLUs by themselves"),
        ("basic optimisation", level.ORT_ENABLE_BASIC, "slower: ReLUs by themselves"),
        ("extended: no blocked layout (NCHWc)", level.ORT_ENABLE_EXTENDED, "slower: plain NCHW convolutions"),
    ):
        yield Variant(name, expected, partial(onnx_run, path, {"graph_optimization_level": one}), a, gate=100)
    yield other(
        "transposed convolutions as 1 x 1 + DepthToSpace",
        "a few %: they have no blocked kernel",
        a,
        lambda: without_transposed(graph),
        gate=100,
    )
    yield other("the same, OpenVINO", "nothing: it has kernels", b, lambda: without_transposed(graph), gate=100)
    yield Variant(
        "threads that spin",
        "faster alone",
        partial(onnx_run, path, None, **{"session.intra_op.allow_spinning": "1"}),
        a,
    )
    parallel = {"execution_mode": mode.ORT_PARALLEL, "inter_op_num_threads": 2}
    yield Variant("levels side by side: parallel mode, 2 x 1", "little: each level waits for the coarser one",
                  partial(onnx_run, path, parallel | {"intra_op_num_threads": 1}), a)  # fmt: skip
    yield Variant(f"parallel mode, 2 x {cores}", "little", partial(onnx_run, path, parallel), a)
    yield Variant("memory pattern", "nothing", partial(onnx_run, path, {"enable_mem_pattern": True}), a)
    one_thread = {"intra_op_num_threads": 1}
    yield Variant("one thread", "twice the time", partial(onnx_run, path, one_thread), a)
    yield Variant(
        "two sessions of one thread, a file each", "a few %: no waiting at every layer",
        lambda: [onnx_run(path, one_thread) for _ in range(2)], a, rounds=side_by_side,
    )  # fmt: skip
    yield Variant("one thread, OpenVINO", "twice the time", partial(openvino_run, path, INFERENCE_NUM_THREADS=1), b)
    yield Variant(
        "two OpenVINO requests of one thread, a file each", "a few %",
        lambda: [openvino_run(path, INFERENCE_NUM_THREADS=1) for _ in range(2)], b, rounds=side_by_side,
    )  # fmt: skip
    yield Variant("OpenVINO, hint THROUGHPUT", "nothing for one plane at a time",
                  partial(openvino_run, path, PERFORMANCE_HINT="THROUGHPUT"), b)  # fmt: skip
    for precision in ("bf16", "f16"):
        needs = {"bf16": "BF16", "f16": "FP16"}[precision]
        run = partial(openvino_run, path, needs, INFERENCE_PRECISION_HINT=precision)
        yield Variant(f"OpenVINO in {precision}", "twice the speed where the processor computes in it", run, b)
    for count in (2, 4, 8):
        yield Variant(f"{count} planes a call", "a few %", partial(onnx_run, path), a, count)
        yield Variant(f"{count} planes a call, OpenVINO", "a few %", partial(openvino_run, path), b, count)
    yield from int8(graph, card, a, b)


def int8(graph: onnx.ModelProto, card: Card, a: str, b: str) -> Iterator[Variant]:
    """Every calibration, in both runtimes."""
    for how in (
        Quantisation("MinMax", True),
        Quantisation("MinMax", False),
        Quantisation("Percentile", True),
        Quantisation("Percentile", False),
        Quantisation("Entropy", False),
        Quantisation("MinMax", False, narrow=False),
    ):
        made: list[bytes] = []

        def serialised(how: Quantisation = how, made: list[bytes] = made) -> bytes:
            if not made:
                made.append(quantised(graph, how, card.channels, card.intensity).SerializeToString())
            return made[0]

        ends = "" if how.ends else ", first and last convolutions in float"
        bits = "" if how.narrow else ", weights of 8 bits"
        name = f"INT8, {how.method.lower()}{ends}{bits}"
        yield Variant(name, "faster, far from FP32", lambda made=serialised: onnx_run(made()), a)
        yield Variant(f"{name}, OpenVINO", "faster, far from FP32", lambda made=serialised: openvino_run(made()), b)


@dataclass(frozen=True)
class Parity:
    """How near a way stays to FP32: dB of the worst plane, which one that is, and the median of all."""

    least: float
    plane: str
    middle: float


def parity(exact: Run, run: Any, card: Card, chosen: list[Sample]) -> Parity:
    """Compare a way with FP32 on every plane."""
    run = run[0] if isinstance(run, list) else run
    found = sorted((one.psnr if one.finite else -np.inf, one.name) for one in compare(exact, run, card, chosen))
    return Parity(*found[0], found[len(found) // 2][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--only", default="", help="variants whose name holds this, beside the two defaults")
    parser.add_argument("--side", type=int, nargs=2, default=SHAPE, help="rows and columns of the plane that is timed")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    path, card = model_path(), read_card(model_path())
    rows, columns = (round_up(side, card.multiple) for side in options.side)
    plane = np.random.default_rng(0).uniform(0, 1, (1, card.channels, rows, columns)).astype(np.float32)
    chosen = list(samples(planes(), card))
    exact = onnx_run(path)
    opened: list[tuple[Variant, Any, Parity]] = []
    missing = []
    for variant in variants(path, card):
        if options.only not in variant.name and variant.name != variant.base:
            continue
        try:
            run = variant.open()
            opened.append((variant, run, parity(exact, run, card, chosen)))
            variant.time(run, plane)  # the first is not counted
        except Exception as error:
            missing.append(f"- {variant.name}: {(str(error) or type(error).__name__).splitlines()[0][:160]}")
    for _ in range(options.repetitions):
        for variant, run, _ in opened:
            variant.seconds.append(variant.time(run, plane))
    times = {variant.name: variant.seconds for variant, *_ in opened}
    lines = []
    for variant, _, near in opened:
        ratios = [one / base for one, base in zip(variant.seconds, times[variant.base], strict=True)]
        ratio = median(ratios)
        if variant.name == variant.base:
            verdict = f"default, {1e3 * median(variant.seconds):.0f} ms"
        elif near.least < variant.gate:
            verdict = f"no: below {variant.gate:g} dB ({near.plane})"
        else:
            verdict = "**wins**" if ratio < WORTH and max(ratios) < 1 else "no: not faster"
        shown = f"{near.least:.1f}", f"{near.middle:.1f}"
        lines.append((variant.name, variant.expected, *shown, f"{ratio:.2f}", spread(ratios), verdict))
    parts = [table(HEAD, lines)] + (["Not to be had here:", "\n".join(missing)] if missing else [])
    publish("The network at inference", parts, options.output)


if __name__ == "__main__":
    main()
