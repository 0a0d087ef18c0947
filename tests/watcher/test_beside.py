"""What lies beside TIFFs: companion files are copied by a real daemon, other formats are named wherever one looks."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from ..helpers.waiting import wait_for
from .conftest import QUICK, command, free_port, listing, outputs, write_tiff

EXPORT = "in cellSens or OlyVIA: Export > TIFF"
LINE = f"holds no TIFF, but 2 .vsi, 1 .oib; export them {EXPORT}, or use bfconvert"


@pytest.fixture
def acquisition(folders) -> Path:
    """A folder of formats only that no extra reads."""
    (folders[0] / "plate").mkdir()
    for name in ("a.vsi", "plate/b.vsi", "c.oib", "notes.txt"):
        (folders[0] / name).write_bytes(b"not a TIFF")
    return folders[0]


def test_companions_follow_their_files_and_their_changes_but_never_replace_a_foreign_file(folders, start):
    acquisition, out = folders
    (acquisition / "exp").mkdir()
    for name in ("metadata.txt", "exp/comments.txt", "exp/display_and_comments.txt", "notes.txt"):
        (acquisition / name).write_text(f"first {name}")
    (out / "exp").mkdir(parents=True)
    (out / "exp" / "comments.txt").write_text("somebody else's")
    daemon = start(*QUICK).ready()
    write_tiff(acquisition / "exp" / "a.tif")
    copied = [out / "exp" / "display_and_comments.txt", out / "metadata.txt"]
    wait_for(lambda: all(one.exists() for one in copied) and "not replaced" in daemon.said())
    wait_for(lambda: outputs(out) == ["exp/a.tif"])
    (acquisition / "metadata.txt").write_text("second")
    wait_for(lambda: copied[1].read_text() == "second")
    copied[0].write_text("edited by hand")
    (acquisition / "exp" / "display_and_comments.txt").write_text("third")
    wait_for(lambda: daemon.said().count("not replaced") == 2)
    assert daemon.stop() == 0
    assert copied[0].read_text() == "edited by hand"
    assert (out / "exp" / "comments.txt").read_text() == "somebody else's"
    assert not (out / "notes.txt").exists()
    assert not list(out.rglob("*.part"))
    # Another run knows which of them are ours.
    (acquisition / "metadata.txt").write_text("third")
    assert start("--once", *QUICK).process.wait(300) == 0
    assert copied[1].read_text() == "third"
    assert copied[0].read_text() == "edited by hand"


def test_once_and_dry_run_name_other_formats_in_one_line(folders, acquisition, tiny_model):
    before = listing(acquisition)
    for more in (("--dry-run",), ("--once", *QUICK)):
        done = command(acquisition, "-o", folders[1], "--model", tiny_model, "--backend", "cpu", *more)
        assert done.returncode == 0, done.stderr
        lines = [line for line in (done.stdout + done.stderr).splitlines() if ".vsi" in line]
        assert lines == [f"{acquisition}: {LINE}"]
    assert listing(acquisition) == before
    assert outputs(folders[1]) == []


def test_defocus_run_names_them_too(folders, acquisition, tiny_model):
    line = [sys.executable, "-m", "defocus.engine.cli.run", acquisition, "-o", folders[1], "--model", tiny_model]
    done = subprocess.run([*map(str, line), "--backend", "cpu"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert next(one for one in done.stderr.splitlines() if ".vsi" in one).endswith(f"{acquisition}: {LINE}")


def test_the_log_and_the_page_name_them_once_until_there_are_tiffs(folders, acquisition, start):
    port = free_port()
    daemon = start(*QUICK, "--status", str(port)).ready()

    def notes() -> list[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/state", timeout=60) as answer:
            return [text for _, text in json.load(answer)["notes"]]

    wait_for(lambda: notes() == [f"{acquisition}: {LINE}"])
    write_tiff(acquisition / "a.tif")
    wait_for(lambda: outputs(folders[1]) == ["a.tif"])
    assert notes() == [f"{acquisition}: {LINE}"]
    assert daemon.stop() == 0
    assert daemon.said().count(LINE) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_shows_it_above_the_live_line(folders, acquisition, tiny_model, tmp_path):
    import os
    import pty

    controller, terminal = pty.openpty()
    line = [sys.executable, "-m", "defocus.watcher.cli", acquisition, "-o", folders[1], "--model", tiny_model]
    process = subprocess.Popen(
        [*map(str, line), "--backend", "cpu", "--once", *QUICK],
        stdout=terminal,
        stderr=terminal,
        env=os.environ | {"COLUMNS": "400", "TERM": "xterm"},
    )
    os.close(terminal)
    said = b""
    try:
        while part := os.read(controller, 4096):
            said += part
    except OSError:  # Linux says so when the other end is closed
        pass
    finally:
        os.close(controller)
    assert process.wait(300) == 0
    text = said.decode(errors="replace")
    assert text.count("holds no TIFF, but 2 .vsi, 1 .oib") == 1
    assert "queue 0" in text
