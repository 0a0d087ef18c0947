"""A real defocus-watch process on real folders."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from defocus import Engine
from defocus.engine.tiff.read import read_tiff
from defocus.watcher.alerts.health import Health
from defocus.watcher.configuration.config import Config, Folder
from defocus.watcher.status.page import StatusPage

from ..helpers.waiting import wait_for

needs_sighup = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
QUICK = ("--settle", "0.1", "--rescan", "0.2", "--patience", "0.5")
PAIRS = "*_w{channel}*"


class Watching:
    """A defocus-watch process; its output is kept in a file, so that no pipe can fill."""

    def __init__(
        self,
        acquisition: Path,
        out: Path,
        model: Path,
        log: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "defocus.watcher.cli"),
    ) -> None:
        self.acquisition, self.out, self.log = acquisition, out, log
        command = [sys.executable, *program, str(acquisition), "-o", str(out)]
        command += ["--model", str(model), "--backend", "cpu", "--all-planes", *arguments]  # noise passes for sharp
        self._begun = log.stat().st_size if log.exists() else 0
        with open(log, "a") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | dict(environment or {})
            )

    def said(self) -> str:
        return self.log.read_text()

    def ready(self) -> Watching:
        wait_for(lambda: b"watching " in self.log.read_bytes()[self._begun :] or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()
        return self

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(300)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(300)


class Configured:
    """A defocus-watch process with a settings file, `defocus.toml` in `folder`; a context manager that kills it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.config, self._model = folder, folder / "defocus.toml", model
        self._log = folder / "log"

    def settings(self, *names: str, more: str = "", model: Path | None = None) -> Configured:
        """Write the file: which folders are watched, with outputs beside them, and `more` lines."""
        text = f'model = "{(model or self._model).as_posix()}"\nbackend = "cpu"\nall_planes = true\n'
        text += f"settle = 0.1\nrescan = 0.2\n{more}"
        for name in names:
            text += f'[[folders]]\nacquisition = "{(self.folder / name).as_posix()}"\n'
        self.config.write_text(text)
        return self

    def line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "defocus.watcher.cli", "--config", str(self.config), *arguments]

    def out(self, name: str) -> Path:
        return self.folder / f"{name}_corrected"

    def said(self) -> str:
        return self._log.read_text()

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def ends(self) -> None:
        """It ends well when it is asked to."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(300) == 0

    def __enter__(self) -> Configured:
        with open(self._log, "w") as file:
            self.process = subprocess.Popen(self.line(), stdout=file, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()


def command(*arguments: object, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run defocus-watch to its end."""
    line = [sys.executable, "-m", "defocus.watcher.cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, **how)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_tiff(path: Path, seed: int = 0, shape: tuple[int, int] = (64, 64), **arguments) -> np.ndarray:
    """Write a small 16-bit TIFF at once, as a rename into place, and return its pixels."""
    image = np.random.default_rng(seed).integers(100, 3000, shape, dtype=np.uint16)
    tifffile.imwrite(path, image, **arguments)
    return image


def listing(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Everything of a folder that must not change: names, bytes, times, modes."""
    return {
        path.relative_to(folder).as_posix(): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mtime_ns,
            path.stat().st_mode,
        )
        for path in folder.rglob("*")
    }


def outputs(out: Path) -> list[str]:
    """Corrected files below an output folder, without the journal."""
    return sorted(
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.is_file() and ".defocus" not in path.parts and path.name.lower().endswith((".tif", ".tiff"))
    )


def journal(out: Path) -> dict[str, tuple[str, str]]:
    """State and reason of each path; empty as long as the journal is not there."""
    where = f"file:{out / '.defocus' / 'journal.sqlite'}?mode=ro"
    try:
        with closing(sqlite3.connect(where, uri=True, timeout=10)) as connection:
            rows = connection.execute("SELECT relative, state, reason FROM files").fetchall()
    except sqlite3.OperationalError:
        return {}
    return {name: (state, why) for name, state, why in rows}


def states(out: Path) -> dict[str, str]:
    return {name: state for name, (state, _) in journal(out).items()}


def whole(path: Path) -> bool:
    try:
        read_tiff(path)
    except Exception:
        return False
    return True


def check_pair(folders, expected, *names: str) -> None:
    """A pair of files was corrected together."""
    acquisition, out = folders
    images = expected(*(acquisition / name for name in names))
    for name, image in zip(names, images, strict=True):
        np.testing.assert_array_equal(read_tiff(out / name).data, image)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    acquisition = tmp_path / "acq"
    acquisition.mkdir()
    return acquisition, tmp_path / "out"


@pytest.fixture
def start(folders, tiny_model, tmp_path) -> Iterator[Callable[..., Watching]]:
    """Start defocus-watch on `folders` with extra arguments; whatever still runs at the end is killed."""
    running: list[Watching] = []

    def begin(*arguments: str, **how) -> Watching:
        watching = Watching(*folders, tiny_model, tmp_path / "log.txt", *arguments, **how)
        running.append(watching)
        return watching

    yield begin
    for watching in running:
        if watching.process.poll() is None:
            watching.kill()


@pytest.fixture
def pairs(start, tiny_model_2c) -> Callable[..., Watching]:
    """Start defocus-watch with the model of two channels."""

    def begin(*arguments: str, pattern: str = PAIRS, wait: float = 30.0) -> Watching:
        given = ("--channels", pattern, "--partner-wait", str(wait)) if pattern else ()
        return start("--model", str(tiny_model_2c), *given, *QUICK, *arguments)

    return begin


@pytest.fixture(scope="module")
def expected(tiny_model_2c):
    """What a pair of files must become."""
    with Engine.load(tiny_model_2c, backend="cpu") as engine:
        yield lambda *files: engine(np.stack([tifffile.imread(file) for file in files]), "CYX")


@pytest.fixture
def quiet(tmp_path):
    """A page without a daemon: (page, port, folder of outputs)."""
    port = free_port()
    (tmp_path / "acq").mkdir()
    config = Config(folders=(Folder(str(tmp_path / "acq"), str(tmp_path / "out")),), status=str(port))
    page = StatusPage.of(config, config.settings(), Health())
    assert page is not None
    with page:
        yield page, port
