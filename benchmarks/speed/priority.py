"""How much a program that keeps every core busy, such as the acquisition, loses to `defocus-watch --priority low`.

    python -m benchmarks.speed.priority [--seconds 10] [--repetitions 3] [--priority low] [-o docs/results/priority.md]

One process a core counts in a loop. Its counts per second while the daemon corrects drawn files, which lie there in
plenty, are held against those once the daemon is gone; the two alternate.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from statistics import median

from benchmarks.report import BARS, Bar, publish, spread, table, write_files

MOST_LOST = 0.05
FILES = 400  # more than the daemon corrects meanwhile
PATIENCE = 120.0  # s until the first output


def count(counter: Synchronized[int]) -> None:
    """Keep a core busy and say how far it has come."""
    while True:
        for _ in range(100_000):
            pass
        counter.value += 1


def rate(counters: list[Synchronized[int]], seconds: float) -> float:
    """Counts per second of all."""
    start, before = time.perf_counter(), sum(one.value for one in counters)
    time.sleep(seconds)
    return (sum(one.value for one in counters) - before) / (time.perf_counter() - start)


def started(command: list[str], out: Path) -> subprocess.Popen[bytes]:
    """A daemon that has written its first file."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.perf_counter() + PATIENCE
    while not list(out.glob("*.tif")):
        if process.poll() is not None or time.perf_counter() > until:
            process.kill()
            sys.exit("priority: defocus-watch wrote nothing")
        time.sleep(0.05)
    return process


def processor_seconds(process: int) -> float:
    """Of a process so far, as Linux tells it; 0 elsewhere."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--priority", default="low", choices=("low", "normal"))
    parser.add_argument("--model", default="default")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counters = [multiprocessing.Value("q", lock=False) for _ in range(cores)]
    lost, share = [], []
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder, "in"), FILES)
        for index in range(options.repetitions):
            out = Path(folder, f"out{index}")
            command = [str(Path(sys.executable).with_name("defocus-watch")), str(Path(folder, "in")), "-o", str(out)]
            # Started while the cores are free: beside busy ones that alone would take a minute.
            daemon = started([*command, "--priority", options.priority, "--model", options.model], out)
            try:
                busy = [multiprocessing.Process(target=count, args=(one,), daemon=True) for one in counters]
                for process in busy:
                    process.start()
                before = processor_seconds(daemon.pid)
                beside = rate(counters, options.seconds)
                share.append((processor_seconds(daemon.pid) - before) / (cores * options.seconds))
            finally:
                daemon.kill()
                daemon.wait()
            lost.append(1 - beside / rate(counters, options.seconds))
            for process in busy:
                process.terminate()
                process.join()
    what = f"what {cores} busy processes lose, --priority {options.priority}"
    bar = Bar(what, MOST_LOST, median(lost), "", False, spread(lost))
    note = f"The daemon took {median(share):.1%} of the time of the {cores} cores meanwhile ({options.model} model)."
    publish("Beside a busy program", [table(BARS, [bar.cells()]), note], options.output)


if __name__ == "__main__":
    main()
