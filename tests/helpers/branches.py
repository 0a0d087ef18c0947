"""The share of branches that tests have taken, from `coverage json`: python -m tests.helpers.branches FILE LEAST."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path


def shares(report: dict) -> dict[str, float]:
    """Percent of the branches taken, by top folder."""
    taken, there = Counter[str](), Counter[str]()
    for path, found in report["files"].items():
        folder = Path(path.replace("\\", "/")).parts[0]
        taken[folder] += found["summary"]["covered_branches"]
        there[folder] += found["summary"]["num_branches"]
    return {folder: 100 * taken[folder] / count for folder, count in there.items() if count}


def main(file: str, least: str) -> int:
    """Print the shares; the exit code is 1 if one is below `least`, or if engine or watcher is missing."""
    found = shares(json.loads(Path(file).read_text(encoding="utf-8")))
    for folder, share in found.items():
        print(f"{folder}: {share:.1f} % of the branches, {least} are needed")
    return 0 if all(found.get(folder, 0) >= float(least) for folder in ("engine", "watcher")) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
