"""`defocus-run` with a network so small that reading and writing take the time: against its slowest stage.

    python -m benchmarks.speed.stages [-n 200] [--repetitions 5] [-o docs/results/stages.md]

Each repetition sends the same drawn files (520 x 696, 16-bit, LZW) through the stages one after the other, which gives
each stage's own time, then through what `defocus-run` does, and then through a process for each core, each with its
share of the files and nothing in common with the others. On paper the most that can be had is one file in the time of
the slowest stage, or in the processor time of all of them over the cores where that is longer, as it is on few cores;
the processes show how much of that the machine gives when nobody waits for anybody.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import BARS, Bar, publish, spread, table, write_files
from benchmarks.speed.tiny import write_tiny
from defocus import Engine
from defocus.engine.model.card import read_card
from defocus.engine.pipeline.batch import Status, find, restore
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.steps import process
from defocus.engine.threads import available_cores

LEAST = 0.9

_engine: Engine  # of each process that shares nothing


@dataclass(frozen=True)
class Repetition:
    """Seconds a file: of each stage by itself, of the processor for all of them over the cores, of the batch, and of
    processes that share nothing."""

    stages: dict[str, float]
    processor: float
    batch: float
    apart: float

    @property
    def slowest(self) -> float:
        return max(self.stages.values())

    @property
    def floor(self) -> float:
        return max(self.slowest, self.processor)


def repetition(model: Path, source: Path, backend: str) -> Repetition:
    """Measure the stages and the batch once."""
    card = read_card(model)
    with tempfile.TemporaryDirectory() as folder:
        with Engine.load(model, backend=backend) as engine:
            jobs = find([source], Path(folder) / "one")
            process(jobs[0], engine)
            total: Counter[str] = Counter()
            processor = time.process_time()
            for job in jobs:
                outcome = process(job, engine)
                if outcome.error:
                    raise outcome.error
                total.update(outcome.seconds)
            processor = time.process_time() - processor
        jobs = find([source], Path(folder) / "batch")
        engine = Engine.load(model, backend=backend)
        start = time.perf_counter()
        results = list(restore(jobs, card, lambda: engine))
        batch = time.perf_counter() - start
        if any(result.status is not Status.DONE for result in results):
            raise SystemExit("stages: a file failed")
        apart = in_processes(model, backend, find([source], Path(folder) / "apart"))
    count = len(jobs)
    stages = {stage: seconds / count for stage, seconds in total.items()}
    return Repetition(stages, processor / count / available_cores(), batch / count, apart / count)


def in_processes(model: Path, backend: str, jobs: Sequence[Job]) -> float:
    """Seconds that a process for each core takes for all jobs, once all of them are at work."""
    cores = available_cores()
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(cores + 1)
    with ProcessPoolExecutor(cores, context, _begin, (model, backend, jobs[0], start)) as pool:
        shares = [pool.submit(_share, jobs[core::cores]) for core in range(cores)]
        start.wait()
        begun = time.perf_counter()
        for share in shares:
            share.result()
        return time.perf_counter() - begun


def _begin(model: Path, backend: str, job: Job, start: Any) -> None:
    """In a process of its own: open the engine on one thread, send a file through it, and wait for the others."""
    global _engine
    _engine = Engine.load(model, backend=backend, threads=1)
    _share([replace(job, target=job.target.with_name(f"warm{os.getpid()}.tif"))])
    start.wait()


def _share(jobs: Sequence[Job]) -> None:
    for job in jobs:
        outcome = process(job, _engine)
        if outcome.error:
            raise outcome.error


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny(Path(folder) / "tiny.onnx")
        source = Path(folder) / "in"
        write_files(source, options.n)
        runs = [repetition(model, source, options.backend) for _ in range(options.repetitions)]
    of_slowest = [run.slowest / run.batch for run in runs]
    of_floor = [run.floor / run.batch for run in runs]
    of_apart = [run.apart / run.batch for run in runs]
    bars = [
        Bar("rate, of the slowest stage's own", LEAST, median(of_slowest), "", True, spread(of_slowest)),
        Bar("rate, of the most that the cores allow on paper", LEAST, median(of_floor), "", True, spread(of_floor)),
        Bar("rate, of a process a core that share nothing", LEAST, median(of_apart), "", True, spread(of_apart)),
    ]
    stages = [
        (stage, f"{1e3 * median(run.stages[stage] for run in runs):.1f}")
        for stage in sorted(runs[0].stages, key=lambda stage: -runs[0].stages[stage])
    ]
    stages += [
        ("all of them, processor over cores", f"{1e3 * median(run.processor for run in runs):.1f}"),
        ("a process a core that share nothing", f"{1e3 * median(run.apart for run in runs):.1f}"),
        ("`defocus-run`", f"{1e3 * median(run.batch for run in runs):.1f}"),
    ]
    parts = [table(BARS, [bar.cells() for bar in bars]), table(("", "ms a file"), stages)]
    publish("Where reading and writing take the time", parts, options.output)


if __name__ == "__main__":
    main()
