"""How near `defocus-run` comes to its floor: the processor time of decode, inference and encode over the cores.

    python -m benchmarks.speed.throughput [-n 40] [--backend cpu --backend mnn] [-o docs/results/throughput.md]

Drawn planes of 520 x 696, 16-bit, LZW. Each repetition measures, one after the other: decode, inference and encode of
the same files in bare loops (their processor time over the cores is the floor), the pipeline with its stages side by
side as `defocus-run` drives it, and one stage after the other. Inference goes plane by plane on all threads, and by
streams side by side; the floor takes what is less in the median. Ratios are of one repetition; their median stands in
the table. The judging of every plane (focus score and fidelity, docs/explanation/trust.md) is no part of the floor: it
is shown by itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.report import publish, spread, table, write_files
from defocus import Engine
from defocus.engine.inference.tasks import ImageRequest
from defocus.engine.pipeline.batch import AHEAD
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.run import pipeline
from defocus.engine.quality.assess import assess
from defocus.engine.threads import available_cores
from defocus.engine.tiff.read import read_tiff, write_tiff


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of a piece of work."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def repetition(engine: Engine, paths: list[Path], folder: Path) -> dict[str, float]:
    """Seconds a file of everything that is compared."""
    stacks = [read_tiff(path) for path in paths]
    restored = [engine(stack.data, stack.axes) for stack in stacks]
    cores, count = available_cores(), len(paths)
    _, decode = timed(lambda: [read_tiff(path) for path in paths])
    infer_wall, infer = timed(lambda: [engine(stack.data, stack.axes) for stack in stacks])
    images = [ImageRequest(stack.data, stack.axes) for stack in stacks]
    _, streams = timed(lambda: engine.restore_many(images))
    pairs, bare = list(zip(stacks, restored, strict=True)), folder / "bare.tif"
    _, encode = timed(lambda: [write_tiff(stack, [data], bare, engine.provenance()) for stack, data in pairs])
    _, judged = timed(
        lambda: [assess(stack.data, image, stack.axes) for stack, image in zip(stacks, restored, strict=True)]
    )
    found = {
        "decode": decode / count,
        "inference": infer / count,
        "inference, wall": infer_wall / count,
        "by streams": streams / count,
        "encode": encode / count,
        "assess": judged / count,
        "floor, plane by plane": (decode + infer + encode) / cores / count,
        "floor, by streams": (decode + streams + encode) / cores / count,
    }
    for name, ahead in (("side by side", AHEAD), ("one after the other", 0)):
        with tempfile.TemporaryDirectory() as out:
            jobs = [Job(path, Path(out) / path.name) for path in paths]
            wall, processor = timed(lambda jobs=jobs, ahead=ahead: _all_done(pipeline(jobs, engine, ahead=ahead)))
        found[name] = wall / count
        found[f"{name}, processor"] = processor / count
    return found


def _all_done(outcomes) -> None:  # type: ignore[no-untyped-def]
    for outcome in outcomes:
        if outcome.error:
            raise outcome.error


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=30, help="files")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--backend", action="append")
    parser.add_argument("--model", default="default")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.backend or ["cpu", "openvino", "mnn"]:
        with tempfile.TemporaryDirectory() as folder, Engine.load(options.model, backend=name) as engine:
            paths = write_files(Path(folder), options.n)
            repetition(engine, paths[:2], Path(folder))
            runs = [repetition(engine, paths, Path(folder)) for _ in range(options.repetitions)]
            # The same one in all repetitions: the lesser of two noisy times would be too low each time.
            floor = min(
                ("floor, plane by plane", "floor, by streams"), key=lambda way: median(run[way] for run in runs)
            )
            rows.append((engine.description, [run | {"floor": run[floor]} for run in runs]))
    shown = ("decode", "inference", "by streams", "encode", "assess", "floor", "side by side")
    head = ("backend", *(f"{name}, ms" for name in shown))
    head += ("floor over side by side", "spread", "floor over one after the other")
    lines = []
    for description, runs in rows:
        stages = [f"{1e3 * median(run[key] for run in runs):.1f}" for key in shown]
        ratios = sorted(run["floor"] / run["side by side"] for run in runs)
        serial = median(run["floor"] / run["one after the other"] for run in runs)
        lines.append((description, *stages, f"{median(ratios):.2f}", spread(ratios), f"{serial:.2f}"))
    publish("`defocus-run` against its floor", [table(head, lines)], options.output)


if __name__ == "__main__":
    main()
