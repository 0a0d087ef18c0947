"""A command called in this process, by its `main`: starting Python or loading PyTorch takes longer than most calls."""

from __future__ import annotations

import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO

import pytest


@dataclass(frozen=True)
class Called:
    returncode: int
    stdout: str
    stderr: str


def call(module: str, name: str, *arguments: object, **environment: str) -> Called:
    """Call `main` of the module as the command `name`; it must end as a command does, by SystemExit."""
    told, complaint = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told), redirect_stderr(complaint):
        patch.setattr("defocus.watcher.service.priority.lower_priority", lambda: None)  # of the tests themselves
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        for variable, value in environment.items():
            patch.setenv(variable, value)
        with pytest.raises(SystemExit) as ended:
            import_module(module).main()
    return Called(int(ended.value.code or 0), told.getvalue(), complaint.getvalue())
