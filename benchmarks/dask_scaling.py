"""Dask: from one worker to two, and what a task adds.

    python benchmarks/dask_scaling.py [-n 24] [-o FILE]

Drawn planes of 520 x 696 through `restore_on` with one worker of one thread, and with two; a bare loop of `process`
with one thread in the same run is what a worker does without Dask. Then as many empty tasks as there are files, twenty
times over: the time of one is what the scheduler adds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from defocus import Engine
from defocus.engine.batch import find
from defocus.engine.card import model_path, read_card
from defocus.engine.dask_run import Task, restore_on
from defocus.engine.pipeline import process

from throughput import write_files  # pyright: ignore[reportMissingImports]  # isort: skip


def main() -> None:
    from distributed import Client, LocalCluster

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=24)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    card = read_card(model_path())
    task = Task(str(model_path()), card.sha256, "cpu", None, None, "plane", 1, False)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        source.mkdir()
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
                assert all(result.error is None for result in results)
                with Client(address) as connected:
                    client: Any = connected
                    count = 20 * options.n
                    start = time.perf_counter()
                    client.gather(client.map(abs, range(count), pure=False))
                    empty = (time.perf_counter() - start) / count
    text = (
        "| | relative to a bare loop with one thread |\n| --- | --- |\n"
        f"| one worker, time a file | {seconds[1] / bare:.2f} |\n"
        f"| two workers, time a file | {seconds[2] / bare:.2f} |\n"
        f"| one to two workers, speed | {seconds[1] / seconds[2]:.2f} |\n"
        f"| an empty task, with two workers | {empty / bare:.4f} ({1e3 * empty:.2f} ms) |\n"
    )
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
