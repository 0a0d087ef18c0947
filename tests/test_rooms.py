"""Modules are short, and a command loads only what it needs. Which may import which: `make check`, import-linter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for room in ("engine", "watcher", "training", "export") for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_is_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 320  # about 300


@pytest.mark.parametrize(
    "module", ["defocus", "defocus.engine.cli.run", "defocus.watcher.cli", "defocus.engine.inference.engine"]
)
def test_nothing_heavy_is_loaded_with_the_commands(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'lightning', 'onnx', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr
