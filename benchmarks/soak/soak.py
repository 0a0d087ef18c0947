"""The real defocus-watch under a stated load for a stated time, with kills and faults; then the proof and a table.

    python -m benchmarks.soak.soak --minutes 30 [--rate 2] [--model default] [-o docs/results/soak.md]

Writers of seven kinds (load.py) fill an acquisition folder. SIGKILL ends the daemon now and then; it is started anew,
as by a service manager. Calls of the operating system fail or hang for some seconds (tests/helpers/faults.c, where
there is a C compiler). What is looked at meanwhile: memory, file descriptors, queue, /healthz, latency. At the end
(proof.py): no file lost or doubled, every output equal to what the engine makes of its input, every bad file
quarantined with a reason, no file of the acquisition folder touched. The exit code is 1 if any of that does not hold.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median

import psutil

from benchmarks.soak.load import Load, Written
from benchmarks.soak.neighbours import Neighbours
from benchmarks.soak.proof import journal_of, settled, wrong
from defocus.engine.threads import available_cores
from tests.helpers.faults import Faults, compiled

FAULT_S = 6.0  # how long a fault lasts
LOOK_S = 1.0  # between two looks at the process


@dataclass(frozen=True)
class Look:
    """The daemon at one moment."""

    when: float
    life: int
    memory_mb: float
    descriptors: int
    queue: int | None  # None: the page did not answer
    healthy: bool | None
    answered_s: float


@dataclass
class Daemon:
    """A defocus-watch that is started again and again, always with the same log."""

    command: list[str]
    log: Path
    environment: dict[str, str]
    port: int
    lives: int = 0
    ends: int = 0  # by itself, as when it starts while the share is away
    looks: list[Look] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)

    def start(self) -> None:
        with open(self.log, "a") as file:
            self.process = subprocess.Popen(
                self.command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | self.environment
            )
        self.lives += 1

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def watch(self, stop: threading.Event) -> None:
        """Look at it until the stop."""
        while not stop.wait(LOOK_S):
            asked = time.monotonic()
            try:
                process = psutil.Process(self.process.pid)
                memory, descriptors = process.memory_info().rss / 2**20, process.num_fds()
            except psutil.Error:
                continue  # killed at this moment
            if self.process.poll() is not None and not stop.is_set():
                self.ends += 1
                self.start()
                continue
            queue = healthy = None
            try:
                queue = json.loads(self._ask("/api/state"))["queue"]
                told = json.loads(self._ask("/healthz"))
                healthy = told["healthy"]
                self.problems.update(problem.partition(": ")[2].partition(" (")[0] for problem in told["problems"])
            except OSError:
                pass  # it has not opened its page yet
            took = time.monotonic() - asked
            self.looks.append(Look(asked, self.lives, memory, descriptors, queue, healthy, took))

    def events(self) -> list[dict]:
        """What it said, of all lives; a line that a kill cut in two is passed over."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def _ask(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:  # /healthz: 503
            return error.read()


def faults_of(acquisition: Path, out: Path) -> list[tuple[str, float, list[tuple[str, int, str]]]]:
    """Name, seconds that each call takes, rules."""
    temporaries = f"{out}/*.part"
    return [
        ("writes of outputs fail (EIO)", 0.0, [("write", errno.EIO, temporaries)]),
        ("the disk is full (ENOSPC)", 0.0, [("open", errno.ENOSPC, temporaries)]),
        ("the share cannot be listed (EIO)", 0.0, [("scandir", errno.EIO, str(acquisition))]),
        ("every read of a file takes 1 s longer", 1.0, [("open", 0, f"{acquisition}/*")]),
        ("renames fail (EBUSY)", 0.0, [("rename", errno.EBUSY, f"{out}/*.tif")]),
        ("inputs cannot be read (EBUSY)", 0.0, [("open", errno.EBUSY, f"{acquisition}/*")]),
        ("the journal cannot be written (EIO)", 0.0, [("write", errno.EIO, f"{out}/.defocus/*")]),
    ]


def trouble(
    daemon: Daemon, faults: Faults | None, folders: tuple[Path, Path], seconds: float, stop: threading.Event
) -> tuple[int, Counter[str]]:
    """Kill in the first 60 % of the time, let calls fail all the time; how often each. The last life is a long one."""
    begun, kills, met = time.monotonic(), 0, Counter()
    ends, fails = max(2, round(seconds / 225)), max(7, round(seconds / 128))
    moments = [(0.6 * seconds * (n + 1) / (ends + 1), "kill") for n in range(ends)]
    moments += [(seconds * (n + 0.5) / fails, n) for n in range(fails)]
    for moment, what in sorted(moments, key=lambda one: one[0]):
        if stop.wait(max(0.0, begun + moment - time.monotonic())):
            break
        if what == "kill":
            daemon.kill()
            daemon.start()
            kills += 1
        elif faults is not None:
            every = faults_of(*folders)
            name, slow, rules = every[int(what) % len(every)]
            before = len(faults.met())
            faults.begin(*rules, seconds=slow)
            stop.wait(min(FAULT_S, seconds / 20))
            faults.end()
            met[name] += len(faults.met()) > before
    return kills, met


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values) or [float("nan")]
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def latencies(events: list[dict], files: dict[str, Written]) -> tuple[list[float], list[float]]:
    """From the close to the corrected file: as the daemon counts it, and by the time of day, its deaths included."""
    own, whole = [], []
    last: dict[str, float] = {}
    for event in events:
        if event.get("event") == "done":
            own += [event["latency"]] if "latency" in event else []  # what was there at a start has none
            last[event["file"]] = datetime.fromisoformat(event["time"]).timestamp()
    for name, when in last.items():
        if name in files:
            whole.append(when - files[name].closed)
    return own, whole


def table(
    options: argparse.Namespace,
    load: Load,
    daemon: Daemon,
    kills: int,
    met: Counter[str],
    beside: Counter[str],
    bad: list[str],
) -> str:
    """All of it as Markdown."""
    events = daemon.events()
    own, whole = latencies(events, load.files)
    last = [look for look in daemon.looks if look.life == daemon.lives]
    warm = last[len(last) // 4 :] or last  # of the last and longest life, after its first quarter
    answered = [look for look in daemon.looks if look.queue is not None]
    journal = journal_of(Path(options.work) / "out")
    states = Counter(state for state, _ in journal.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(load.kinds.items()))
    faults = ", ".join(f"{name} ({count})" for name, count in sorted(met.items())) or "none: no C compiler here"
    rows = [
        (
            "load",
            f"{options.minutes:g} min, {options.rate:g} files/s of {options.shape[0]} x {options.shape[1]}, 16 bit",
        ),
        ("written", f"{sum(load.kinds.values())} ({load.bytes / 1e6:.0f} MB): {kinds}"),
        ("model, cores", f"{options.model}, backend {options.backend}, {available_cores()} cores"),
        ("SIGKILL and restart; starts that ended by themselves", f"{kills}; {daemon.ends}"),
        ("faults met, about 6 s each", faults),
        ("neighbours", ", ".join(f"{name} ({count})" for name, count in sorted(beside.items()))),
        ("files in the end", f"{len(load.files)}: {states['done']} corrected, {states['quarantined']} quarantined"),
        ("lost, doubled, changed or otherwise wrong", str(len(bad))),
        ("latency as the daemon counts it, p50, p95", f"{quantile(own, 0.5):.2f} s, {quantile(own, 0.95):.2f} s"),
        (
            "close to corrected file, kills and faults included, p50, p95, longest",
            f"{quantile(whole, 0.5):.2f} s, {quantile(whole, 0.95):.2f} s, {quantile(whole, 1.0):.1f} s",
        ),
        (
            "queue, median and longest",
            f"{median(look.queue or 0 for look in answered):.0f}, {max(look.queue or 0 for look in answered)}",
        ),
        (
            "memory of the last life, after its first quarter",
            f"{warm[0].memory_mb:.0f} MB at first, {warm[-1].memory_mb:.0f} MB at the end, "
            f"{max(look.memory_mb for look in warm):.0f} MB at most ({warm[-1].when - warm[0].when:.0f} s)",
        ),
        (
            "file descriptors, likewise",
            f"{warm[0].descriptors}, {warm[-1].descriptors}, {max(x.descriptors for x in warm)}",
        ),
        (
            "`/healthz` red",
            f"{sum(look.healthy is False for look in answered)} of {len(answered)} looks: "
            + (", ".join(f"{problem} ({count})" for problem, count in daemon.problems.most_common()) or "never"),
        ),
        (
            "page and `/healthz` together answered, p95",
            f"{1000 * quantile([x.answered_s for x in answered], 0.95):.0f} ms",
        ),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=2.0, help="files a second")
    parser.add_argument("--shape", type=int, nargs=2, default=(520, 696))
    parser.add_argument("--model", default="default")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", help="folder to work in; kept. By default a temporary one.")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="defocus-soak-") as folder:
        options.work = options.work or folder
        return run(options)


def run(options: argparse.Namespace) -> int:
    """The soak, its proof and its table; the exit code."""
    work = Path(options.work)
    acquisition, out, aside = work / "acq", work / "out", work / "faults"
    for one in (acquisition, aside):
        one.mkdir(parents=True)
    library = compiled(work)
    faults = Faults(aside, library) if library is not None else None
    port = free_port()
    command = [sys.executable, "-m", "defocus.watcher.cli", str(acquisition), "-o", str(out), "--log-json"]
    command += ["--model", options.model, "--backend", options.backend, "--status", str(port)]
    command += ["--settle", "1", "--rescan", "2", "--patience", "15", "--all-planes"]  # the proof restores all, too
    daemon = Daemon(command, work / "log.jsonl", faults.environment if faults else {}, port)
    load = Load(acquisition, options.rate, tuple(options.shape), options.seed)
    seconds, stop = 60 * options.minutes, threading.Event()
    daemon.start()
    watcher = threading.Thread(target=daemon.watch, args=(stop,))
    writer = threading.Thread(target=load.run, args=(time.monotonic() + seconds, stop))
    neighbours = Neighbours(work, out, options.model, options.backend, port, stop)
    try:
        watcher.start()
        writer.start()
        neighbours.start()
        kills, met = trouble(daemon, faults, (acquisition, out), seconds, stop)
        writer.join()
        end = time.monotonic() + 120 + seconds
        while not settled(out, load.files) and time.monotonic() < end:
            time.sleep(0.5)
    finally:
        stop.set()
        daemon.process.terminate()
        code = daemon.process.wait(60)
        watcher.join()
        writer.join()
        neighbours.join()
    done = Counter(event["file"] for event in daemon.events() if event.get("event") == "done")
    bad = neighbours.wrong + wrong(acquisition, out, load.files, done, options.model, options.backend)
    if code != 0:
        bad.insert(0, f"the daemon ended with {code}: {daemon.log.read_text().splitlines()[-1:]}")
    text = table(options, load, daemon, kills, met, neighbours.met, bad)
    print(text)
    for line in bad[:50]:
        print(line, file=sys.stderr)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
