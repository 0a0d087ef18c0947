"""`defocus install-shortcut`: the text for each system, and on Linux what GLib makes of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from defocus.engine.errors import InputError
from defocus.watcher.desktop.shortcut import shortcut_folder, shortcut_name, shortcut_text

from ...helpers.waiting import wait_for


def test_the_text_for_windows():
    text = shortcut_text(r"C:\Users\Jörg Müller\100%\Scripts\defocus-watch.exe", "win32")
    assert text.split("\r\n") == [
        "@echo off",
        "chcp 65001 >nul",
        "title defocus-watch",
        r'"C:\Users\Jörg Müller\100%%\Scripts\defocus-watch.exe"',
        "if errorlevel 1 pause",
        "",
    ]
    assert text.encode("utf-8")[0] != 0xEF  # cmd takes a byte order mark for a part of the first command


def test_the_names_and_places():
    assert shortcut_name("win32") == "defocus-watch.cmd"
    assert shortcut_name("linux") == "defocus-watch.desktop"
    assert shortcut_folder("linux").name == "applications"
    with pytest.raises(InputError, match="is for Windows and Linux; start defocus-watch in a terminal"):
        shortcut_name("darwin")
    for platform in ("win32", "linux"):
        with pytest.raises(InputError, match="no shortcut can hold"):
            shortcut_text("/a\nb/defocus-watch", platform)


def test_the_command_writes_it(tmp_path):
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    for line, folder in (((), tmp_path / "data" / "applications"), (("--to", tmp_path / "to"), tmp_path / "to")):
        done = subprocess.run(
            [sys.executable, "-m", "defocus", "install-shortcut", *map(str, line)],
            env=os.environ | home,
            capture_output=True,
            text=True,
            timeout=300,
        )
        path = folder / "defocus-watch.desktop"
        assert (done.returncode, done.stdout) == (0, f"{path}\n"), done.stderr
        assert os.access(path, os.X_OK)
        assert str(Path(sys.executable).with_name("defocus-watch")) in path.read_text(encoding="utf-8")
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "defocus", "install-shortcut", "--to", tmp_path / "file"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert str(tmp_path / "file") in done.stderr


@pytest.mark.skipif(shutil.which("gio") is None, reason="needs gio: apt-get install libglib2.0-bin")
@pytest.mark.parametrize("folder", ["plain", "a \"b\" 'c'", "$HOME `id` 100% %f", "back\\slash é"])
def test_a_desktop_starts_the_program_wherever_it_lies(tmp_path, folder):
    program = tmp_path / folder / "defocus-watch"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$#" > {tmp_path}/started\n')
    program.chmod(0o755)
    text = shortcut_text(str(program), "linux")
    assert re.search("^Terminal=true$", text, re.MULTILINE)
    entry = tmp_path / "defocus-watch.desktop"
    entry.write_text(text.replace("Terminal=true", "Terminal=false"), encoding="utf-8")  # there is no terminal here
    done = subprocess.run(["gio", "launch", entry], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: (tmp_path / "started").exists() and (tmp_path / "started").read_text() == "0\n")


def test_the_window_stays_open_after_a_failure(tmp_path):
    """The line that a desktop gives to sh, with a program that fails, and one that does not."""
    (command,) = re.findall(r'^Exec="/bin/sh" "-c" "(.*)" "/x"$', shortcut_text("/x", "linux"), re.MULTILINE)
    script = re.sub(r"\\\\(.)", r"\1", command)
    for program, waits in (("/bin/false", True), ("/bin/true", False)):
        done = subprocess.run(
            ["/bin/sh", "-c", script, program], input="\n", capture_output=True, text=True, timeout=300
        )
        assert ("Press Enter" in done.stdout) is waits
