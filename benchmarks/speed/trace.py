"""The way of one file through the code, before and after: calls, modules, crossings, and what is done more than once.

    python -m benchmarks.speed.trace [--commit 3f57640] [--repetitions 3] [-o docs/results/trace.md]

One drawn plane of 520 x 696 (16-bit, LZW) goes through `defocus-run` and `defocus-watch --once`, of an older commit and
of the present checkout, under Python's profiler, audit hooks and SQLite's trace. "." is the present checkout.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import Any

from benchmarks.report import publish, table, write_files
from benchmarks.speed.checkouts import checkout, command, environment

PROBE = Path(__file__).with_name("trace_probe.py")
COMMANDS = ("run", "watch")


def traced(tree: Path, name: str, scratch: Path) -> dict[str, Any]:
    """What the command `name` of a tree does for one file: "counts", "modules" with their calls, who "opens" it."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    (source,) = write_files(folder / "in", 1)
    arguments = ["--backend", "cpu", "--output", str(folder / "out")]
    arguments = [str(source), *arguments] if name == "run" else [str(source.parent), *arguments, "--once"]
    start = [sys.executable, "-P", PROBE, folder / "found.json", source, command(tree, name)[-1], *arguments]
    done = subprocess.run(
        start, env=environment(tree, scratch), cwd=folder, capture_output=True, text=True, check=False
    )
    found = json.loads((folder / "found.json").read_text(encoding="utf-8")) if done.returncode == 0 else {}
    if found.get("exit") != 0 or not (folder / "out" / source.name).exists():
        sys.exit(f"trace: defocus-{name} of {tree} corrected nothing: {done.stderr}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--commit", default="3f57640", help="the older one")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--repetitions", type=int, default=3, help="of which the least counts are taken")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary).resolve()
        with checkout(options.commit, scratch / "before") as before, checkout(".", scratch) as after:
            ways = [(tree, name) for name in COMMANDS for tree in (before, after)]
            found = [[traced(tree, name, scratch) for _ in range(options.repetitions)] for tree, name in ways]
    head = ["", *(f"`defocus-{name}`, {when}" for name in COMMANDS for when in ("before", "after"))]
    rows = [[what, *(min(each["counts"][what] for each in way) for way in found)] for what in found[0][0]["counts"]]
    # The daemon's threads look up now and then while they wait: the run that waited least says most.
    least = [min(way, key=lambda each: sum(each["modules"].values())) for way in found]
    modules = [[(f"`{name}`", count) for name, count in way["modules"].items()] for way in least[-2:]]
    parts = [
        f"One file of 520 x 696 (16-bit, LZW). Before: commit {options.commit}; after: the present checkout. Counted "
        "from the moment the model is loaded to the end of the command, which includes looking through the folder and "
        f"closing down; the least of {options.repetitions} runs, as the daemon's threads look up while they wait. A "
        "generator counts each time it goes on; a crossing is a call whose nearest caller of ours lies in another "
        "module, different ones are counted once each. One of the scans for extremes is of the restored plane. "
        "The daemon looks into a file before it takes it, and reads it when its turn comes; it may have changed. "
        "`--once` looks through the folder twice, and asks the journal each time. What "
        "libraries do is not counted: before, tifffile read and wrote what our own code does now.",
        table(head, rows),
        "## The modules that `defocus-watch --once` goes through\n\nIn the order of their first call, with calls. "
        + " ".join(
            f"{when} the input is opened by {', '.join(f'`{name}`' for name in way['opens'])}."
            for when, way in zip(("Before,", "After,"), least[-2:], strict=True)
        ),
        table(
            ("before", "calls", "after", "calls"),
            [(*one, *other) for one, other in zip_longest(*modules, fillvalue=("", ""))],
        ),
    ]
    publish("The way of one file", parts, options.output)


if __name__ == "__main__":
    main()
