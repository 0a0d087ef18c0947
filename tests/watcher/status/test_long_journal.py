"""A page over a journal of 100,000 rows: what it costs to answer. Wall time: benchmarks/speed/page.py."""

from __future__ import annotations

import json
import time

import pytest

from benchmarks.speed.page import fill
from defocus.engine.quality.report import PlaneReport
from defocus.watcher.alerts.health import Health
from defocus.watcher.configuration.config import Config, Folder
from defocus.watcher.journal import Journal
from defocus.watcher.journal_entry import FileState, JournalEntry
from defocus.watcher.status.server import Server
from defocus.watcher.status.statistics import State

ROWS, ANSWER_S = 100_000, 0.2


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    (folder / "acq").mkdir()
    with Journal(folder / "out") as journal:
        report = json.dumps([PlaneReport(0.1, 0.2, 0.99, 0.1, 3.0).as_dict()])
        version = ("last.tif", (20_000, time.time_ns()), "digest", "model")
        journal.record(JournalEntry(*version, FileState.DONE, report=report))
    fill(folder / "out" / ".defocus" / "journal.sqlite", ROWS)
    config = Config(folders=(Folder(str(folder / "acq"), str(folder / "out")),))
    with Server("127.0.0.1", 0, "", State(config.settings(), Health())) as server:
        yield server


def spent(ask) -> float:
    """Processor time of this thread, s, the least of three."""
    found = []
    for _ in range(3):
        begun = time.thread_time()
        ask()
        found.append(time.thread_time() - begun)
    return min(found)


def test_the_totals_are_those_of_the_journal(server):
    state = server.state.picture()
    assert state["total"] == 1 + ROWS - ROWS // 20
    assert state["failed"] == ROWS // 20
    (folder,) = state["folders"]
    (group,) = folder["failures"]
    assert (group["code"], group["count"]) == ("truncated", ROWS // 20)
    assert len(group["files"]) < 100
    assert len(server.state.points(0, 0.0)) == folder["points"] < 3000
    assert folder["last"][-1] == "last.tif"


def test_every_answer_is_cheap(server):
    state = server.state

    def anew() -> None:
        state.version += 1
        server.state_json()

    assert spent(anew) < ANSWER_S
    assert spent(lambda: state.points(0, 0.0)) < ANSWER_S
    assert spent(lambda: state.pair(0, "plate001/well001.tif")) < ANSWER_S
    assert len(server.state_json()[1]) < 20_000
