"""Dask: from one worker to two, and what a task costs the scheduler in time and memory.

    python -m benchmarks.speed.dask_scaling [-n 24] [--tasks 20000] [-o docs/results/dask.md]

Drawn planes of 520 x 696 through `restore_on` with one worker of one thread, and with two; a bare loop of `process`
with one thread in the same run is what a worker does without Dask. The time of a task is that of one that does nothing,
with two workers. Its memory is what a scheduler of its own holds more with `--tasks` of ours waiting, divided by them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import publish, table, write_files
from defocus import Engine
from defocus.engine.model.card import model_path, read_card
from defocus.engine.pipeline.batch import find
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.on_dask import SUBMITTED, Task, restore_on
from defocus.engine.pipeline.steps import process

MILLIONS = 10
NODE_CORES = 2


def task_bytes(count: int, task: Task) -> float:
    """Bytes that a scheduler holds for each of so many waiting tasks with a file and its settings."""
    from distributed import Client

    def nothing(job: Job, task: Task) -> Job:
        return job

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
        command += ["--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)]
        scheduler = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with Client(scheduler_file=str(file), timeout="60s") as connected:
                client: Any = connected
                held = psutil.Process(scheduler.pid).memory_info
                before = held().rss
                jobs = [
                    Job(Path(f"/data/plate_01/{i:07d}.tif"), Path(f"/out/plate_01/{i:07d}.tif")) for i in range(count)
                ]
                futures = client.map(nothing, jobs, task=task, pure=False)
                while len(client.run_on_scheduler(_known)) < count:
                    time.sleep(0.2)
                after = held().rss
                del futures
        finally:
            scheduler.kill()  # it has nothing to save, and would first forget every task
            scheduler.wait(30)
    return (after - before) / count


def _known(dask_scheduler: Any) -> range:
    return range(len(dask_scheduler.tasks))


def on_paper(empty: float, bare: float, size: float) -> str:
    """What ten million files on a hundred nodes would take, from what was measured here."""
    rate, node = 1 / empty, NODE_CORES / bare
    together = min(rate, 100 * node)
    return (
        f"On paper, {MILLIONS} million files of this size on 100 nodes of {NODE_CORES} such cores take "
        f"{MILLIONS * 1e6 / together / 3600:.1f} hours: a node restores {node:.1f} files a second, and all of them "
        f"{100 * node:.0f}. One scheduler hands out {rate:.0f} tasks a second, so it is the limit at "
        f"{rate / node:.0f} such nodes. If it knew all files at once, it would hold {MILLIONS * 1e6 * size / 1e9:.0f} "
        f"GB; it is given {SUBMITTED:,} at a time, {SUBMITTED * size / 1e6:.0f} MB. The file system would have to read "
        f"and write {together:.0f} files every second. The command lists and checks all its files before it sends the "
        "first, so give it one plate or one folder at a time, some 100,000 files each."
    )


def main() -> None:
    from distributed import Client, LocalCluster

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=24)
    parser.add_argument("--tasks", type=int, default=20_000, help="waiting, for the scheduler's memory")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    card = read_card(model_path())
    task = Task(str(model_path()), card.sha256, "cpu", None, None, "plane", 1, False)
    empty = 0.0
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        write_files(source, options.n)
        with Engine.load(backend="cpu", threads=1) as engine:
            jobs = find([source], Path(folder) / "bare")
            process(jobs[0], engine)
            start = time.perf_counter()
            for job in jobs:
                process(job, engine)
            bare = (time.perf_counter() - start) / options.n
        seconds = {}
        for workers in (1, 2):
            with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
                address = str(getattr(cluster, "scheduler_address"))  # noqa: B009
                warm = find([source], Path(folder) / f"warm{workers}")[: 2 * workers]
                list(restore_on(address, warm, card, task))  # each worker loads the model
                jobs = find([source], Path(folder) / f"out{workers}")
                start = time.perf_counter()
                results = list(restore_on(address, jobs, card, task))
                seconds[workers] = (time.perf_counter() - start) / options.n
                if any(result.error for result in results):
                    raise SystemExit("dask_scaling: a file failed")
                with Client(address) as connected:
                    client: Any = connected
                    count = 20 * options.n
                    start = time.perf_counter()
                    client.gather(client.map(abs, range(count), pure=False))
                    empty = (time.perf_counter() - start) / count
    size = task_bytes(options.tasks, task)
    rows = [
        ("one worker, time a file", f"{seconds[1] / bare:.2f}"),
        ("two workers, time a file", f"{seconds[2] / bare:.2f}"),
        ("one to two workers, speed", f"{seconds[1] / seconds[2]:.2f}"),
        ("a task that does nothing, two workers", f"{empty / bare:.4f} ({1e3 * empty:.2f} ms)"),
        (f"memory of the scheduler for a waiting task, of {options.tasks:,}", f"{size / 1e3:.2f} kB"),
    ]
    head = ("", f"relative to a bare loop with one thread ({1e3 * bare:.0f} ms a file)")
    publish("Dask", [table(head, rows), on_paper(empty, bare, size)], options.output)


if __name__ == "__main__":
    main()
