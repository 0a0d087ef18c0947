"""The life of a daemon, driven in process: settings that change, that cannot be used, and a share that is away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from defocus.engine.errors import DefocusError
from defocus.watcher.configuration.config import Config, Folder
from defocus.watcher.discovery.scanner import LONGEST_WAIT
from defocus.watcher.supervisor import RETRY_PAUSE, run

from ..helpers.clock import ManualClock
from ..helpers.waiting import wait_for


class Life:
    """`run` in a thread; what it is asked for, and what it has said."""

    def __init__(self, config: Config, capsys: pytest.CaptureFixture[str]) -> None:
        self.clock, self.code = ManualClock(), -1
        self.read_settings: Callable[[], Config] = lambda: config
        self._capsys, self._said = capsys, ""
        self._stop, self._reload, self._end = (threading.Event() for _ in range(3))
        self._thread = threading.Thread(target=self._run, args=(config,))
        self._thread.start()

    def _run(self, config: Config) -> None:
        self.code = run(config, lambda: self.read_settings(), self._stop, self._reload, self._end, clock=self.clock)

    def said(self) -> str:
        told = self._capsys.readouterr()
        self._said += told.out + told.err
        return self._said

    def waits_for(self, text: str, times: int = 1) -> None:
        wait_for(lambda: self.said().count(text) >= times)

    def reload(self) -> None:
        self._reload.set()
        self._stop.set()
        self._let_time_go_on(lambda: not self._stop.is_set())

    def end(self) -> int:
        self._end.set()
        self._stop.set()
        self._let_time_go_on(lambda: not self._thread.is_alive())
        return self.code

    def _let_time_go_on(self, over: Callable[[], bool]) -> None:
        """What looks for files notices within LONGEST_WAIT of its clock that it is to stop."""

        def step() -> bool:
            self.clock.advance(LONGEST_WAIT / 4)
            return over()

        wait_for(step)


@pytest.fixture
def config(folders, tiny_model) -> Config:
    acquisition, output = map(str, folders)
    return Config(folders=(Folder(acquisition, output),), model=str(tiny_model), backend="cpu")


@pytest.fixture
def life(config, capsys):
    life = Life(config, capsys)
    yield life
    life.end()


def test_settings_that_cannot_start_at_all_are_an_error(config):
    stop, reload, end = (threading.Event() for _ in range(3))
    with pytest.raises(DefocusError, match=r"nowhere\.onnx"):
        run(replace(config, model="nowhere.onnx"), lambda: config, stop, reload, end)


def test_new_settings_are_taken_and_what_cannot_be_used_is_not(life, config, tmp_path):
    life.waits_for("watching ")
    other = tmp_path / "other"
    other.mkdir()
    life.read_settings = lambda: replace(config, folders=(Folder(str(other), str(tmp_path / "made")),))
    life.reload()
    life.waits_for(f"watching {other} -> ")

    def broken() -> Config:
        raise ValueError("rubbish in line 3")

    life.read_settings = broken
    life.reload()
    life.waits_for(f"watching {other} -> ", 2)
    assert "settings: cannot be used (rubbish in line 3); keeping the previous ones" in life.said()
    assert life.end() == 0


def test_settings_that_read_well_but_do_not_start_give_way_to_those_before(life, config):
    """A port that somebody else has is met only when the page is opened."""
    life.waits_for("watching ")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        life.read_settings = lambda: replace(config, status=str(taken.getsockname()[1]))
        life.reload()
        life.waits_for("watching ", 2)
    (line,) = [line for line in life.said().splitlines() if line.endswith("; keeping the previous settings")]
    assert "port" in line
    assert life.end() == 0


def test_a_share_that_is_away_at_a_reload_is_tried_until_it_is_back(life, folders):
    """It is said once, however often it is tried."""
    acquisition: Path = folders[0]
    life.waits_for("watching ")
    acquisition.rename(acquisition.with_name("away"))
    life.reload()
    life.waits_for("; trying again")
    for _ in range(2):
        wait_for(life.clock.idle)
        life.clock.advance(RETRY_PAUSE)
    wait_for(life.clock.idle)
    assert life.said().count("; trying again") == 1
    assert life.said().count("watching ") == 1
    acquisition.with_name("away").rename(acquisition)
    life.clock.advance(RETRY_PAUSE)
    life.waits_for("watching ", 2)
    assert life.end() == 0


def test_whoever_ends_it_while_a_share_is_away_is_obeyed(life, folders):
    life.waits_for("watching ")
    folders[0].rename(folders[0].with_name("away"))
    life.reload()
    life.waits_for("; trying again")
    assert life.end() == 0
