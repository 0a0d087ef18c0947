"""Priority where it is not Linux, and where it cannot be lowered; tests/watcher/configuration has the real process."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from defocus.watcher.service.priority import NICE, lower_priority

BELOW_NORMAL_PRIORITY_CLASS = 0x4000  # as Windows' documentation has it


@pytest.fixture
def lowered(monkeypatch) -> list[tuple[int, int]]:
    """What is asked of the operating system: (thread, niceness), in a process of niceness 0 and without threads."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "getpriority", lambda which, who: 0)
    monkeypatch.setattr(os, "setpriority", lambda which, who, niceness: asked.append((who, niceness)))
    return asked


def test_windows_has_a_class_below_the_normal_one(monkeypatch):
    asked: list[tuple[object, int]] = []
    kernel = SimpleNamespace(
        GetCurrentProcess=lambda: 77, SetPriorityClass=lambda process, kind: asked.append((process.value, kind))
    )
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    lower_priority()
    assert asked == [(77, BELOW_NORMAL_PRIORITY_CLASS)]


def test_on_macos_the_process_has_one_niceness(lowered, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    lower_priority()
    assert lowered == [(0, NICE)]


def test_a_process_that_is_lower_already_stays_there(lowered, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "getpriority", lambda which, who: 15)
    lower_priority()
    assert lowered == [(0, 15)]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux")
def test_what_cannot_be_lowered_stays_as_it_is(lowered, monkeypatch):
    """A thread that has ended by then, and a session that may not be touched."""
    written = []

    def refused(path, text, **how):
        written.append(str(path))
        raise PermissionError(path)

    def ended(which, who, niceness):
        lowered.append((who, niceness))
        raise ProcessLookupError(who)

    monkeypatch.setattr(os, "setpriority", ended)
    monkeypatch.setattr(os, "getsid", lambda process: os.getpid())
    monkeypatch.setattr(Path, "write_text", refused)
    lower_priority()
    assert {niceness for _, niceness in lowered} == {NICE}
    assert os.getpid() in {thread for thread, _ in lowered}
    assert written == ["/proc/self/autogroup"]
