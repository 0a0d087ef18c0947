"""The text of a shortcut that starts `defocus-watch`, and where it belongs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from ...engine.errors import InputError

_LINES = re.compile(r"[\x00-\x1f\x7f]")


def shortcut_name(platform: str = sys.platform) -> str:
    """What the file is called. Raises InputError where there is no such file."""
    if platform == "darwin":
        raise InputError("install-shortcut", "is for Windows and Linux", "start defocus-watch in a terminal")
    return "defocus-watch.cmd" if platform == "win32" else "defocus-watch.desktop"


def shortcut_folder(platform: str = sys.platform) -> Path:
    """Where it belongs: on Windows on the desktop, on Linux among the applications."""
    import platformdirs

    if platform == "win32":
        return platformdirs.user_desktop_path()
    return platformdirs.user_data_path() / "applications"


def shortcut_text(program: str, platform: str = sys.platform) -> str:
    """The file's text; `program` is the path of defocus-watch.

    The window stays open after a failure, so that its reason can be read. Raises InputError for a path that no
    shortcut can hold.
    """
    if _LINES.search(program):
        raise InputError(program, "has a name that no shortcut can hold", "install defocus in another folder")
    return _cmd(program) if platform == "win32" else _desktop_entry(program)


def _cmd(program: str) -> str:
    path = program.replace("%", "%%")
    return f'@echo off\r\nchcp 65001 >nul\r\ntitle defocus-watch\r\n"{path}"\r\nif errorlevel 1 pause\r\n'


def _desktop_entry(program: str) -> str:
    command = " ".join(map(_quoted, ("/bin/sh", "-c", '"$0" || { echo "Press Enter to close."; read -r _; }', program)))
    return f"""[Desktop Entry]
Type=Application
Name=defocus-watch
Comment=Corrects what a microscope writes out of focus
Exec={command}
Terminal=true
Categories=Science;Graphics;
"""


def _quoted(argument: str) -> str:
    """An argument of Exec: quoted, and then escaped once more as every value of the file (desktop entry spec 1.5)."""
    quoted = re.sub(r'(["`$\\])', r"\\\1", argument).replace("\\", "\\\\").replace("%", "%%")
    return f'"{quoted}"'
