"""Started with a double click: a real dialog on a virtual display, the folder kept, the page in a browser."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from defocus.watcher.desktop import folder_dialog, start

from ...helpers.waiting import wait_for
from ..conftest import outputs, write_tiff

WATCH = Path(sys.executable).with_name("defocus-watch")
XVFB = shutil.which("Xvfb")
needs_display = pytest.mark.skipif(
    XVFB is None or find_spec("tkinter") is None, reason="needs Xvfb and tkinter: apt-get install xvfb python3-tk"
)
# Tk reads it at its start: it presses a button of the dialog as soon as there is one.
PRESS = """
proc press {window} {
    foreach child [winfo children $window] {
        if {[winfo class $child] in {Button TButton} && [$child cget -text] eq "BUTTON"} { $child invoke; return 1 }
        if {[press $child]} { return 1 }
    }
    return 0
}
proc again {} { if {![press .]} { after 50 again } }
after 50 again
"""


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A virtual display."""
    read, write = os.pipe()
    line = [str(XVFB), "-displayfd", str(write), "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    server = subprocess.Popen(line, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as told:
        yield f":{told.readline().strip()}"
    server.terminate()
    server.wait()


@pytest.fixture
def home(tmp_path, display) -> Callable[[str], dict[str, str]]:
    """The surroundings of a user whose dialog is answered with a button, and whose browser notes what it opens."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/opened\n')
    browser.chmod(0o755)

    def surroundings(button: str) -> dict[str, str]:
        (tmp_path / ".Tk.tcl").write_text(PRESS.replace("BUTTON", button))
        own = {"HOME": str(tmp_path), "DISPLAY": display, "BROWSER": f"{browser} %s"}
        return {name: value for name, value in os.environ.items() if not name.startswith("XDG_")} | own

    return surroundings


@needs_display
def test_without_arguments_it_asks_and_opens_the_page(tmp_path, home):
    acquisition = tmp_path / "acq µ 1"
    acquisition.mkdir()
    write_tiff(acquisition / "a.tif")
    remembered = tmp_path / ".config" / "defocus" / "last_folder"
    remembered.parent.mkdir(parents=True)
    remembered.write_bytes(os.fsencode(acquisition))  # the dialog begins there
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([WATCH], env=home("OK"), stdout=log, stderr=subprocess.STDOUT)
    try:
        opened = tmp_path / "opened"
        wait_for(lambda: (opened.exists() and opened.read_text()) or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "log").read_text()
        address = opened.read_text().strip()
        with urllib.request.urlopen(address, timeout=300) as answer:
            assert b"<title>defocus</title>" in answer.read()
        wait_for(lambda: outputs(tmp_path / "acq µ 1_corrected") == ["a.tif"])
        assert f"status page at {address}" in (tmp_path / "log").read_text()
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(300) == 0
    assert opened.read_text().count("http") == 1


@needs_display
def test_what_is_chosen_is_remembered_and_where_the_dialog_begins(tmp_path, home, monkeypatch):
    for name, value in home("OK").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("platformdirs.user_config_path", lambda *names, **how: tmp_path / "settings")
    assert folder_dialog.last_folder() is None
    assert folder_dialog.choose_folder() == tmp_path  # the home, for want of another
    assert folder_dialog.last_folder() == tmp_path
    (tmp_path / "é \n x").mkdir()
    folder_dialog.remember_folder(tmp_path / "é \n x")
    assert folder_dialog.choose_folder() == tmp_path / "é \n x"
    (tmp_path / "é \n x").rmdir()
    assert folder_dialog.last_folder() is None


@needs_display
def test_a_dialog_that_is_cancelled_is_a_usage_error(tmp_path, home):
    done = subprocess.run([WATCH], env=home("Cancel"), capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no folder to watch; give ACQ" in done.stderr
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("arguments", [(), ("--backend", "cpu")])
def test_without_a_display_or_with_arguments_nobody_is_asked(arguments):
    surroundings = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    surroundings |= {"DISPLAY": ":12345"} if arguments else {}
    done = subprocess.run([WATCH, *arguments], env=surroundings, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no folder to watch; give ACQ" in done.stderr


@pytest.mark.parametrize(
    ("platform", "environment", "asks"),
    [
        ("win32", {}, True),
        ("win32", {"SSH_CONNECTION": "10.0.0.1"}, False),
        ("darwin", {}, True),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"DISPLAY": ""}, False),
        ("linux", {}, False),
    ],
)
def test_where_somebody_can_be_asked(monkeypatch, platform, environment, asks):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(folder_dialog, "is_installed", lambda name: True)
    assert folder_dialog.can_ask() is asks
    monkeypatch.setattr(folder_dialog, "is_installed", lambda name: False)
    assert not folder_dialog.can_ask()


def test_a_port_that_is_taken_gives_way_to_any(monkeypatch):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(start, "USUAL_PORT", taken.getsockname()[1])
        assert start.page_port() == 0
    assert start.page_port() == start.USUAL_PORT
