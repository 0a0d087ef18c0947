"""Other commits of this repository beside the present one: a git worktree, and commands that run in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import ROOT


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """The tree of a commit in `folder`; "." is the present one."""
    if commit == ".":
        yield ROOT
        return
    subprocess.run(["git", "-C", ROOT, "worktree", "add", "-q", "--detach", folder, commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", folder], check=True)


def environment(tree: Path, scratch: Path) -> dict[str, str]:
    """Variables with which `import defocus` takes it from a tree, also of the time when the tree was the package."""
    path = tree / "src"
    if not (path / "defocus").is_dir():
        path = scratch / f"path-{tree.name}"
        path.mkdir(exist_ok=True)
        if not (path / "defocus").exists():
            (path / "defocus").symlink_to(tree)
    return {**os.environ, "PYTHONPATH": str(path), "ORT_TELEMETRY_DISABLED": "1"}


def command(tree: Path, name: str) -> list[str]:
    """A command line's program, such as "run", of a tree."""
    modules = {
        "run": ("engine.cli.run", "engine.cli"),
        "watch": ("watcher.cli", "watcher.cli"),
    }
    module = modules[name][0 if (tree / "engine" / "cli").is_dir() else 1]
    return [sys.executable, "-c", f"from defocus.{module} import main; main()"]
