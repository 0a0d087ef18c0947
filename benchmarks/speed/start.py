"""From typing a command to its first output, and how long the command lines take to import.

python -m benchmarks.speed.start [--repetitions 5] [-o docs/results/start.md]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.report import BARS, ROOT, Bar, publish, spread, table, write_files

IMPORT_S, START_S = 0.3, 2.0


def commands() -> dict[str, str]:
    """Name and module of every command that the package installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {name: target.removesuffix(":main") for name, target in project["scripts"].items()}


def wall(command: list[str]) -> float:
    """Seconds of a process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def import_seconds(module: str) -> float:
    """Seconds that importing a module takes in a fresh interpreter, with all that it imports."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()
    # "import time: self [us] | cumulative | imported package", children first and indented by two spaces a level.
    # The packages above the module are rows of their own at the same depth, before it.
    parts = module.split(".")
    wanted = {".".join(parts[: count + 1]) for count in range(len(parts))}
    rows = [line.removeprefix("import time:").split("|") for line in lines if line.startswith("import time:")]
    return sum(int(took) for _, took, name in rows if name.removeprefix(" ") in wanted) / 1e6


def first_output(folder: Path, source: Path, backend: str) -> float:
    """Seconds from the start of defocus-run to its output, less the inference itself."""
    out = folder / "out" / source.name
    out.unlink(missing_ok=True)
    command = [_program("defocus-run"), str(source), "-o", str(out.parent), "--backend", backend, "--json"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        while not out.exists():
            if process.poll() is not None:
                raise SystemExit("start: defocus-run ended without an output")
            time.sleep(0.001)
        seconds = time.perf_counter() - start
        told = process.communicate()[0]
    return seconds - json.loads(told)["seconds"]["infer"]


def repeated(count: int, measure: Callable[[], float]) -> list[float]:
    measure()  # the file cache
    return [measure() for _ in range(count)]


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--backend", action="append", help="again for more; the default is all on a processor")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    bars = []
    for name, module in commands().items():
        found = repeated(options.repetitions, lambda module=module: import_seconds(module))
        bars.append(Bar(f"import of `{name}`", IMPORT_S, median(found), "s", spread=spread(found)))
    with tempfile.TemporaryDirectory() as folder:
        (source,) = write_files(Path(folder) / "in", 1)
        for backend in options.backend or ["cpu", "openvino", "mnn"]:
            found = repeated(options.repetitions, lambda: first_output(Path(folder), source, backend))  # noqa: B023
            what = f"start of `defocus-run` to its first output, less the inference, backend {backend}"
            bars.append(Bar(what, START_S, median(found), "s", spread=spread(found)))
    bare = repeated(options.repetitions, lambda: wall([sys.executable, "-c", ""]))
    rows = [("`python -c ''`", f"{median(bare):.2f}", spread(bare))]
    for name in commands():
        found = repeated(options.repetitions, lambda name=name: wall([_program(name), "--version"]))
        rows.append((f"`{name} --version`", f"{median(found):.2f}", spread(found)))
    parts = [table(BARS, [bar.cells() for bar in bars]), table(("the whole process", "s", "spread"), rows)]
    publish("From the command to its first output", parts, options.output)


if __name__ == "__main__":
    main()
