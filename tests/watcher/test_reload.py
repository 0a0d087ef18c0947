"""Settings that change, folders that meet, and what else must not end or mislead the daemon, with the real process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from defocus.watcher.journal import Journal
from defocus.watcher.journal_entry import FileState, JournalEntry
from defocus.watcher.output.lock import FolderLock

from ..helpers.waiting import wait_for
from .conftest import QUICK, Configured, command, needs_sighup, outputs, states, write_tiff


@pytest.fixture
def daemon(tmp_path, tiny_model) -> Iterator[Configured]:
    """It watches the folder "a"."""
    (tmp_path / "a").mkdir()
    with Configured(tmp_path, tiny_model).settings("a") as configured:
        watching(configured, 1)
        yield configured


def watching(daemon: Configured, times: int) -> None:
    """Wait until it has begun so many times."""
    wait_for(lambda: daemon.said().count("watching ") == times or daemon.process.poll() is not None)
    assert daemon.process.poll() is None, daemon.said()


def corrects(daemon: Configured, name: str) -> None:
    write_tiff(daemon.folder / "a" / name, 1)
    wait_for(lambda: (daemon.out("a") / name).exists())


@needs_sighup
def test_a_model_that_is_not_there_leaves_the_settings_from_before(daemon):
    daemon.settings("a", model=daemon.folder / "nope.onnx").reload()
    wait_for(lambda: "keeping the previous settings" in daemon.said())
    watching(daemon, 2)
    corrects(daemon, "after.tif")


@needs_sighup
def test_no_folder_and_no_file_in_the_settings_ends_it(daemon):
    """A path that is too long, one that leads to itself, and a pipe in the place of the file."""
    (daemon.folder / "loop").symlink_to(daemon.folder / "loop")
    before = daemon.settings("a").config.read_text()
    for number, acquisition in enumerate(("x" * 5000, "loop"), 1):
        daemon.config.write_text(before.replace(str(daemon.folder / "a"), str(daemon.folder / acquisition)))
        daemon.reload()
        wait_for(lambda number=number: daemon.said().count("keeping the previous settings") == number)
        watching(daemon, 1 + number)
    daemon.config.unlink()
    os.mkfifo(daemon.config)
    daemon.reload()
    wait_for(lambda: "not a regular file" in daemon.said())
    watching(daemon, 4)
    corrects(daemon, "after.tif")


@needs_sighup
def test_a_reload_while_a_folder_is_away_waits_for_it(daemon):
    corrects(daemon, "before.tif")
    (daemon.folder / "a").rename(daemon.folder / "away")
    daemon.reload()
    wait_for(lambda: "trying again" in daemon.said())
    (daemon.folder / "away").rename(daemon.folder / "a")
    watching(daemon, 2)
    corrects(daemon, "after.tif")


@needs_sighup
def test_a_reload_whose_output_another_daemon_holds_leaves_the_settings_from_before(daemon):
    (daemon.folder / "b").mkdir()
    with FolderLock(daemon.out("b")):
        daemon.settings("a", "b").reload()
        wait_for(lambda: "keeping the previous settings" in daemon.said())
        watching(daemon, 2)
        corrects(daemon, "after.tif")
    assert f"another defocus-watch writes there (process {os.getpid()} on " in daemon.said()
    daemon.settings("a", "b").reload()
    watching(daemon, 4)
    daemon.ends()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_systemd_is_not_told_of_a_start_on_an_output_that_another_daemon_holds(folders, tiny_model, tmp_path):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link, FolderLock(folders[1]):
        link.bind(address)
        link.setblocking(False)
        line = (folders[0], "-o", folders[1], "--model", tiny_model, "--backend", "cpu")
        done = command(*line, env=os.environ | {"NOTIFY_SOCKET": address})
        assert done.returncode == 1
        assert "another defocus-watch writes there" in done.stderr
        assert "watching " not in done.stdout
        assert link.recv(100) == b"STOPPING=1"


@needs_sighup
def test_sigterm_right_after_sighup_is_not_lost(daemon):
    daemon.reload()
    daemon.ends()


def test_the_output_of_one_folder_may_not_lie_in_another(tmp_path, tiny_model):
    (tmp_path / "data" / "plate").mkdir(parents=True)
    line = Configured(tmp_path, tiny_model).settings("data/plate", "data").line("--once")
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "lies inside the acquisition folder" in done.stderr
    assert not (tmp_path / "data" / "plate_corrected").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_and_a_hidden_folder_are_left_alone(folders, start):
    acquisition, out = folders
    watching = start(*QUICK).ready()
    os.mkfifo(acquisition / "pipe.tif")
    (acquisition / ".hidden").mkdir()
    write_tiff(acquisition / "b.tif", 2)
    wait_for(lambda: outputs(out) == ["b.tif"])
    write_tiff(acquisition / ".hidden" / "a.tif", 1)  # its events are observed now
    (acquisition / "c.tif").write_bytes(b"II*\0")
    wait_for(lambda: states(out).get("c.tif") == "quarantined")  # patience is over
    assert watching.stop() == 0
    assert outputs(out) == ["b.tif"]
    assert set(states(out)) == {"b.tif", "c.tif"}


def test_an_output_folder_that_another_daemon_has_taken_is_left_to_it(folders, start):
    acquisition, out = folders
    first = start(*QUICK).ready()
    write_tiff(acquisition / "a.tif", 1)
    wait_for(lambda: outputs(out) == ["a.tif"])
    first.process.send_signal(signal.SIGSTOP)  # or it takes the folder again by itself
    shutil.rmtree(out)
    second = start(*QUICK).ready()
    wait_for(lambda: outputs(out) == ["a.tif"])
    first.process.send_signal(signal.SIGCONT)
    write_tiff(acquisition / "b.tif", 2)
    wait_for(lambda: outputs(out) == ["a.tif", "b.tif"])
    wait_for(lambda: "b.tif: corrected" in first.said())  # a moment after its output
    wait_for(lambda: "another defocus-watch writes there now" in first.said())
    assert first.said().count("b.tif: corrected") == 1  # both write to one log
    assert second.stop() == 0


def test_a_log_of_another_code_page_does_not_end_it(folders, start):
    acquisition, out = folders
    watching = start(*QUICK, environment={"PYTHONIOENCODING": "cp1252"}).ready()
    write_tiff(acquisition / "日本.tif", 1)
    wait_for(lambda: outputs(out) == ["日本.tif"])
    wait_for(lambda: "corrected in" in watching.said())
    assert watching.stop() == 0


def test_the_journal_is_tidied_while_it_watches(folders, start):
    _, out = folders
    with Journal(out) as journal:
        journal.record(JournalEntry("gone.tif", (1, 1), "d", "m", FileState.DONE))
        journal._connection.execute("UPDATE files SET updated = '2020-01-01T00:00:00+00:00'")
        journal._connection.commit()
    watching = start(*QUICK, "--keep-days", "1").ready()

    def known() -> bool:
        with Journal(out) as journal:
            return journal.find(Path("gone.tif")) is not None

    wait_for(lambda: not known())
    assert watching.stop() == 0
