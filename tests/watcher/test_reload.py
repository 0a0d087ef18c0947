"""Settings that change, folders that meet, and what else must not end or mislead the daemon, with the real process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tifffile

from .conftest import QUICK, outputs, wait_for, write_tiff

needs_sighup = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")


class Configured:
    """A daemon with a settings file."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model, self.config, self.log = folder, model, folder / "defocus.toml", folder / "log"
        self.write("a")

    def write(self, *names: str, model: Path | None = None) -> None:
        text = f'model = "{(model or self.model).as_posix()}"\nbackend = "cpu"\nsettle = 0.1\nrescan = 0.2\n'
        for name in names:
            acquisition = self.folder / name
            text += f'[[folders]]\nacquisition = "{acquisition.as_posix()}"\n'
        self.config.write_text(text)

    def begin(self) -> Configured:
        for name in ("a", "b"):
            (self.folder / name).mkdir(exist_ok=True)
        line = [sys.executable, "-m", "defocus.watcher.cli", "--config", str(self.config)]
        self.process = subprocess.Popen(line, stdout=open(self.log, "w"), stderr=subprocess.STDOUT)  # noqa: SIM115
        self.watching(1)
        return self

    def watching(self, times: int) -> None:
        wait_for(lambda: self.said().count("watching ") == times or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.said()

    def said(self) -> str:
        return self.log.read_text()

    def corrects(self, name: str, folder: str = "a") -> None:
        write_tiff(self.folder / folder / name, 1)
        wait_for(lambda: (self.folder / f"{folder}_corrected" / name).exists())


@pytest.fixture
def configured(tmp_path, tiny_model):
    daemon = Configured(tmp_path, tiny_model)
    yield daemon
    daemon.process.kill()
    daemon.process.wait()


@needs_sighup
def test_a_model_that_is_not_there_leaves_the_settings_from_before(configured):
    daemon = configured.begin()
    daemon.write("a", model=daemon.folder / "nope.onnx")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "going on with the settings from before" in daemon.said())
    daemon.watching(2)
    daemon.corrects("after.tif")


@needs_sighup
def test_a_reload_while_a_folder_is_away_waits_for_it(configured):
    daemon = configured.begin()
    daemon.corrects("before.tif")
    (daemon.folder / "a").rename(daemon.folder / "away")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "trying again" in daemon.said())
    (daemon.folder / "away").rename(daemon.folder / "a")
    daemon.watching(2)
    daemon.corrects("after.tif")


@needs_sighup
def test_sigterm_right_after_sighup_is_not_lost(configured):
    daemon = configured.begin()
    daemon.process.send_signal(signal.SIGHUP)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(30) == 0


def test_the_output_of_one_folder_may_not_lie_in_another(tmp_path, tiny_model):
    daemon = Configured(tmp_path, tiny_model)
    (tmp_path / "data" / "plate").mkdir(parents=True)
    daemon.write("data/plate", "data")
    line = [sys.executable, "-m", "defocus.watcher.cli", "--config", str(daemon.config), "--once"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "lies inside the acquisition folder" in done.stderr
    assert not (tmp_path / "data" / "plate_corrected").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_and_a_hidden_folder_are_left_alone(folders, start):
    acquisition, out = folders
    watching = start(*QUICK).ready()
    os.mkfifo(acquisition / "pipe.tif")
    (acquisition / ".hidden").mkdir()
    time.sleep(0.3)  # its events are observed now
    write_tiff(acquisition / ".hidden" / "a.tif", 1)
    time.sleep(1.5)  # patience is over
    write_tiff(acquisition / "b.tif", 2)
    wait_for(lambda: outputs(out) == ["b.tif"])
    assert watching.stop() == 0
    assert outputs(out) == ["b.tif"]
    assert "set aside" not in watching.said()


def test_an_output_folder_that_another_daemon_has_taken_is_left_to_it(folders, start):
    acquisition, out = folders
    first = start(*QUICK).ready()
    write_tiff(acquisition / "a.tif", 1)
    wait_for(lambda: outputs(out) == ["a.tif"])
    shutil.rmtree(out)
    second = start(*QUICK).ready()
    wait_for(lambda: outputs(out) == ["a.tif"])
    write_tiff(acquisition / "b.tif", 2)
    wait_for(lambda: outputs(out) == ["a.tif", "b.tif"])
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
    from defocus.watcher.journal import Entry, Journal, State

    _, out = folders
    with Journal(out) as journal:
        journal.record(Entry("gone.tif", (1, 1), "d", "m", State.DONE))
        journal._connection.execute("UPDATE files SET updated = '2020-01-01T00:00:00+00:00'")
        journal._connection.commit()
    watching = start(*QUICK, "--keep-days", "1").ready()

    def known() -> bool:
        with Journal(out) as journal:
            return journal.find(Path("gone.tif")) is not None

    wait_for(lambda: not known())
    assert watching.stop() == 0


def test_once_forgets_a_bad_file_that_was_taken_away(folders, start):
    acquisition, _ = folders
    (acquisition / "bad.tif").write_bytes(b"no image")
    first = start(*QUICK, "--once")
    assert first.process.wait(60) == 1
    (acquisition / "bad.tif").unlink()
    tifffile.imwrite(acquisition / "good.tif", write_tiff(acquisition / "good.tif", 1))
    assert start(*QUICK, "--once").process.wait(60) == 0
