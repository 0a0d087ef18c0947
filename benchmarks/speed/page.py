"""The status page over a long journal: how fast it answers, and when a browser has painted it.

python -m benchmarks.speed.page [--rows 100000] [--repetitions 20] [-o docs/results/page.md]

The daemon is a real one, on files of our own drawing; the rows that stand before those in its journal, one in twenty of
them a quarantined file, are as real daemons write them. The paint is asked of Chromium, if it and playwright are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from benchmarks.report import BARS, Bar, publish, spread, table, write_files

ANSWER_MS, PAINT_MS = 200.0, 1000.0
FILES = 4
_FOLDER = "scope1"
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def fill(journal: Path, rows: int) -> None:
    """Write rows before those that are there: a file a minute, one in twenty quarantined."""
    with closing(sqlite3.connect(journal)) as connection, connection:
        known = "SELECT size, mtime_ns, digest, model, report, updated FROM files WHERE state = 'done' LIMIT 1"
        size, mtime_ns, digest, model, report, updated = connection.execute(known).fetchone()
        end = datetime.fromisoformat(updated).astimezone(UTC)

        def row(number: int) -> tuple:
            when = (end - timedelta(minutes=rows - number)).isoformat(timespec="seconds")
            name = f"plate{number // 1000:03d}/well{number % 1000:03d}.tif"
            same = (name, size, mtime_ns - (rows - number) * 60 * 10**9, digest, model)
            if number % 20:
                return (*same, "done", 1, "", when, report)
            reason = f"{name}: truncated (5000 of 20000 bytes); write it again"
            return (*same, "quarantined", 3, reason, when, json.dumps({"code": "truncated"}))

        columns = "relative, size, mtime_ns, digest, model, state, attempts, reason, updated, report"
        insert = f"INSERT INTO files ({columns}) VALUES ({', '.join('?' * 10)})"
        connection.executemany(insert, map(row, range(rows)))


def milliseconds(ask: Callable[[], object]) -> float:
    start = time.perf_counter()
    ask()
    return 1000 * (time.perf_counter() - start)


def fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read()


def paints(address: str, count: int) -> tuple[list[float], list[float]]:
    """ms from the navigation to the first paint, and until the numbers and the plot are there, each in a new page."""
    from playwright.sync_api import sync_playwright

    first, whole = [], []
    path = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(count + 1):
            page = browser.new_page()
            page.goto(address)
            page.wait_for_selector(".plot [data-count]")
            whole.append(page.evaluate("performance.now()"))
            name = "first-contentful-paint"
            first.append(page.evaluate(f"performance.getEntriesByName('{name}')[0].startTime"))
            page.close()
        browser.close()
    return first[1:], whole[1:]  # the first one starts the browser's own machinery


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--port", type=int, default=8799)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    address = f"http://127.0.0.1:{options.port}/"
    with tempfile.TemporaryDirectory() as folder:
        acquisition = Path(folder) / _FOLDER
        write_files(acquisition, FILES, (520, 696))
        watch = [str(Path(sys.executable).with_name("defocus-watch")), str(acquisition), "--backend", "cpu"]
        subprocess.run([*watch, "--once"], check=True, stdout=subprocess.DEVNULL)
        fill(Path(folder) / f"{_FOLDER}_corrected" / ".defocus" / "journal.sqlite", options.rows)
        begun = time.perf_counter()
        daemon = subprocess.Popen([*watch, "--status", str(options.port)], stdout=subprocess.DEVNULL)
        try:
            while True:
                with suppress(OSError):
                    fetch(address)
                    break
                if daemon.poll() is not None:
                    raise SystemExit("page: defocus-watch ended")
                time.sleep(0.01)
            listens = time.perf_counter() - begun
            while json.loads(fetch(f"{address}api/state"))["phase"] != "watching":
                time.sleep(0.05)
            state = json.loads(fetch(f"{address}api/state"))
            if state["total"] != FILES + options.rows - len(range(0, options.rows, 20)):
                raise SystemExit(f"page: {state['total']} files are counted")
            bars, sizes = [], []
            for what in ("", "api/state", "api/points?folder=0", "metrics", "healthz"):
                found = [milliseconds(lambda what=what: fetch(address + what)) for _ in range(options.repetitions)]
                bars.append(Bar(f"answer of `/{what}`, p50", ANSWER_MS, median(found), "ms", spread=spread(found)))
                sizes.append((f"`/{what}`", len(fetch(address + what))))
            try:
                first, whole = paints(address, options.repetitions // 4 + 1)
            except ImportError:
                print("page: without playwright nothing is painted", file=sys.stderr)
            else:
                bars.append(Bar("first paint, p50", PAINT_MS, median(first), "ms", spread=spread(first)))
                bars.append(Bar("numbers and plot drawn, p50", PAINT_MS, median(whole), "ms", spread=spread(whole)))
        finally:
            daemon.terminate()
            daemon.wait()
    text = (
        f"{options.rows:,} rows in the journal: {state['total']:,} corrected, {state['failed']:,} quarantined. "
        f"The daemon answered {listens:.1f} s after its start."
    )
    rows = [bar.cells() for bar in bars]
    publish("The status page", [text, table(BARS, rows), table(("address", "bytes"), sizes)], options.output)


if __name__ == "__main__":
    main()
