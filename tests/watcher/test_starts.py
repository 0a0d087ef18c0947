"""Starts of the real process that cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import command, listing


def bad_starts(acquisition: Path, out: Path) -> dict[str, tuple[list[str], str]]:
    (acquisition / "inner").mkdir()
    (acquisition.parent / "file").write_text("x")
    (acquisition.parent / "link").symlink_to(acquisition / "inner")
    parent = acquisition.parent
    return {
        "missing": ([str(parent / "nowhere")], "no such folder"),
        "file": ([str(parent / "file")], "not a folder"),
        "inside": ([str(acquisition), "-o", str(acquisition / "inner")], "lies inside the acquisition folder"),
        "same": ([str(acquisition), "-o", str(acquisition)], "lies inside the acquisition folder"),
        "by link": ([str(acquisition), "-o", str(parent / "link")], "lies inside the acquisition folder"),
        "around": ([str(acquisition), "-o", str(parent)], "lies inside the output folder"),
        "out is a file": ([str(acquisition), "-o", str(parent / "file")], "in the place of a folder"),
        "no model": ([str(acquisition), "--model", str(parent / "no.onnx")], "no such model file"),
        "no ONNX": ([str(acquisition), "--model", str(parent / "file")], "not an ONNX file"),
        "no backend": ([str(acquisition), "--backend", "abacus"], "abacus"),
        "no address": ([str(acquisition), "--status", "here"], ": --status: is 'here', without a port"),
        "no pattern": ([str(acquisition), "--channels", "x"], ': --channels: is "x": has no {channel}'),
        "no command": ([str(acquisition), "--notify-command", "'x"], ": --notify-command: is "),
    }


NAMES = ["missing", "file", "inside", "same", "by link", "around", "out is a file", "no model", "no ONNX", "no backend"]
NAMES += ["no address", "no pattern", "no command"]  # told by the option's name, not by the key of a settings file


@pytest.mark.parametrize("name", NAMES)
def test_a_start_that_cannot_work_is_one_line(folders, tiny_model, name):
    acquisition, out = folders
    arguments, expected = bad_starts(acquisition, out)[name]
    if "--model" not in arguments:
        arguments = [*arguments, "--model", str(tiny_model)]
    before = listing(acquisition)
    done = command(*arguments, "--once")
    assert done.returncode == 1, done.stderr
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert listing(acquisition) == before
