"""The map: imports run one way only, relative, and neither engine nor watcher ever needs torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "engine": {"engine"},
    "watcher": {"watcher", "engine"},
    "training": {"training", "engine"},
    "export": {"export", "training", "engine"},
}
MODULES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of every import in a file, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module:
                yield node.level, node.module
            else:
                yield from ((node.level, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    depth = len(path.relative_to(ROOT).parts)  # so many dots lead to the package itself
    for level, name in imports(path):
        first = name.split(".")[0]
        assert first != "defocus", f"{name}: imports between rooms are relative"
        if room in ("engine", "watcher"):
            assert first not in ("torch", "lightning", "onnx"), name
        if level == depth:
            assert first in MAY_IMPORT[room] | {"_version"}, name
        assert level <= depth


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_is_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 320  # about 300


@pytest.mark.parametrize(
    "module", ["defocus", "defocus.engine.cli.run", "defocus.watcher.cli", "defocus.engine.inference.engine"]
)
def test_nothing_heavy_is_loaded_with_the_commands(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'lightning', 'onnx', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
