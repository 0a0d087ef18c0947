"""A dialog of the system in which a folder is chosen, and the memory of the last one.

    python -m defocus.watcher.desktop.folder_dialog FOLDER    # prints what was chosen

The dialog runs in a process of its own: Tk must not meet the daemon's threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from ...engine.installation import is_installed

_TITLE = "Which folder does the microscope write to?"


def choose_folder() -> Path | None:
    """Ask for the acquisition folder, beginning at the last one; None if nobody can be asked, or nothing is chosen."""
    if not can_ask():
        return None
    line = [sys.executable, "-m", __name__, str(last_folder() or Path.home())]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    text = os.fsdecode(done.stdout).rstrip("\r\n")
    if done.returncode or not text:
        return None
    folder = Path(text)
    remember_folder(folder)
    return folder


def can_ask() -> bool:
    """Whether there is a desktop, and tkinter."""
    if sys.platform in ("win32", "darwin"):
        desktop = "SSH_CONNECTION" not in os.environ
    else:
        desktop = bool(os.environ.get("DISPLAY"))
    return desktop and is_installed("tkinter")


def last_folder() -> Path | None:
    """The folder that was chosen last; None if there is none, or it is gone."""
    try:
        folder = Path(os.fsdecode(_memory().read_bytes()))
        return folder if folder.is_dir() else None
    except (OSError, ValueError):
        return None


def remember_folder(folder: Path) -> None:
    """Keep a folder for the next time. That it cannot be kept is no reason to stop."""
    with suppress(OSError):
        _memory().parent.mkdir(parents=True, exist_ok=True)
        _memory().write_bytes(os.fsencode(folder))


def _memory() -> Path:
    from platformdirs import user_config_path

    return user_config_path("defocus", appauthor=False) / "last_folder"


def _ask(start: str) -> str:
    """Show the dialog; what was chosen, "" for nothing."""
    import tkinter
    from tkinter import filedialog

    root = tkinter.Tk()
    root.withdraw()
    root.attributes("-topmost", True)  # else it may open behind the window of the shortcut
    return filedialog.askdirectory(parent=root, title=_TITLE, initialdir=start, mustexist=True) or ""


if __name__ == "__main__":
    sys.stdout.buffer.write(os.fsencode(_ask(sys.argv[1])))
