"""What the daemon shows."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from defocus.engine.pipeline.jobs import Job, Outcome
from defocus.engine.quality.report import PlaneReport
from defocus.watcher.display.console import Live
from defocus.watcher.display.json_log import JsonLog
from defocus.watcher.events import WatchEvent
from defocus.watcher.tally import duration


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=200, highlight=False, markup=False, soft_wrap=True), text


def test_the_live_line_tells_queue_rate_latency_and_failures():
    live = Live(console(terminal=True)[0])
    with live.running():
        for index in range(3):
            live.show(WatchEvent("done", f"{index}.tif", latency=900.0, queued=7, outcome=outcome(blur_px=3.21)))
        live.show(WatchEvent("quarantined", "bad.tif", "bad.tif: truncated; write it again", queued=6))
        assert "partner" not in live.line()
        for folder, waiting in (("one", 2), ("two", 4), ("one", 1)):
            live.show(WatchEvent("waiting", queued=6, waiting=waiting, folder=Path(folder)))
        line = live.line()
    assert line.startswith("queue 6  done 3  ")
    assert "files/s" in line
    assert "  last 2.tif: restored, blur 3.2 px, 0.25 s  " in line  # its own time, not since the start
    assert line.endswith("  waiting for a partner 5  quarantined 1")


def outcome(**known) -> Outcome:
    report = PlaneReport(fidelity=0.99, max_local_residual=0.1, **known)
    return Outcome(Job(Path("a"), Path("b")), reports=(report,), seconds={"read": 0.05, "infer": 0.2})


def backlog(live: Live, now: list[float], files: int = 20) -> None:
    """Two folders have 113 files, of which some are corrected; a new one comes in between."""
    one, two = Path("one"), Path("two")
    live.show(WatchEvent("backlog", left=100, forecast=600.0, folder=one))
    live.show(WatchEvent("backlog", left=13, forecast=180.0, folder=two))
    for number in range(files):
        now[0] += 6.0 if number else 300.0  # the first one waited
        kind = "done" if number % 2 else "skipped"
        live.show(WatchEvent(kind, f"{number}.tif", latency=None, left=99 - number, folder=one))
        live.show(WatchEvent("done", "new.tif", latency=0.5, folder=one))


def test_a_backlog_says_how_many_and_how_long_before_it_begins_and_anew_as_it_goes():
    out, text = console(terminal=False)
    now = [0.0]
    backlog(Live(out, lambda: now[0]), now)
    told = [line for line in text.getvalue().splitlines() if ".tif" not in line]
    assert told == [
        "one: 100 files waiting, about 10 min",
        "two: 13 files waiting, about 13 min with the 100 of other folders",
        "109 files left, about 11 min",
        "97 files left, about 10 min",
    ]


def test_the_live_line_tells_what_is_left_of_a_backlog():
    now = [0.0]
    live = Live(console(terminal=True)[0], lambda: now[0])
    with live.running():
        backlog(live, now, files=1)
        assert live.line().startswith("queue 112, about 13 min  done 1  ")
        assert "  last new.tif: " in live.line()
        live.show(WatchEvent("done", "a.tif", left=0, folder=Path("one")))
        live.show(WatchEvent("waiting", left=0, folder=Path("two")))
        assert live.line().startswith("queue 0  done 2  ")


def test_a_backlog_of_unknown_length_says_how_many():
    out, text = console(terminal=False)
    Live(out).show(WatchEvent("backlog", left=100, folder=Path("one")))
    assert text.getvalue() == "one: 100 files waiting\n"


def test_a_long_name_keeps_its_end():
    live = Live(console(terminal=True)[0])
    live.show(WatchEvent("done", "plate/" * 20 + "a01.tif", latency=0.5))
    assert live.line().endswith("te/plate/plate/plate/plate/a01.tif: 0.50 s")
    assert "last ...plate/" in live.line() or "last ...te/" in live.line()


def test_a_terminal_of_80_columns_has_room_for_the_last_file():
    live = Live(Console(file=io.StringIO(), force_terminal=True, width=80))
    live.show(WatchEvent("done", "plate 7/frame_011_z34um.tif", queued=12, outcome=outcome(blur_px=30.3)))
    assert live.line().endswith("_z34um.tif: restored, blur 30.3 px")
    assert len(live.line()) <= 77  # and a spinner
    live.show(WatchEvent("backlog", left=400, forecast=720.0))
    assert live.line() == "queue 400, about 12 min  done 1  last ...11_z34um.tif: restored, blur 30.3 px"


@pytest.mark.parametrize(
    ("seconds", "words"), [(4.4, "4 s"), (59.2, "59 s"), (60, "1 min"), (3500, "58 min"), (12000, "3 h 20 min")]
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize("terminal", [True, False])
def test_doubtful_planes_are_counted(terminal):
    out, text = console(terminal)
    live = Live(out)
    doubtful, fine = PlaneReport(0.02, 0.03, 0.90, 0.1, 8.0), PlaneReport(0.02, 0.03, 0.99, 0.1, 8.0)
    job = Job(Path("a.tif"), Path("out/a.tif"))
    with live.running():
        for planes in ((fine, fine), (doubtful, fine, doubtful), (doubtful,)):
            live.show(WatchEvent("done", "a.tif", latency=0.25, outcome=Outcome(job, reports=planes)))
        assert live.line().endswith("  doubtful planes 3")
    live.end()
    assert "3 of 6 planes doubtful: compare input and output before you use them\n" in text.getvalue()


def test_without_doubt_nothing_is_said_at_the_end():
    out, text = console(terminal=False)
    live = Live(out)
    live.end()
    assert text.getvalue() == ""


def test_without_a_terminal_each_file_has_a_line():
    out, text = console(terminal=False)
    live = Live(out)
    with live.running():
        live.show(WatchEvent("done", "a [b].tif", latency=0.5))
        live.show(WatchEvent("quarantined", "bad.tif", "bad.tif: truncated; write it again"))
        live.show(WatchEvent("warning", text="acq: is back"))
        live.show(WatchEvent("skipped", "old.tif"))
    assert text.getvalue().splitlines() == [
        "a [b].tif: corrected in 0.50 s",
        "quarantined: bad.tif: truncated; write it again",
        "acq: is back",
    ]


def test_a_name_cannot_make_a_line_of_its_own():
    out, text = console(terminal=False)
    live = Live(out)
    live.show(WatchEvent("done", "a.tif: corrected in 0.10 s\nb\x1b[2J\u2028\x85ü 試.tif", latency=0.5))
    live.say("  c\r\nd.tif: truncated")
    assert text.getvalue() == (
        "a.tif: corrected in 0.10 s\\nb\\x1b[2J\\u2028\\x85ü 試.tif: corrected in 0.50 s\n  c\\r\\nd.tif: truncated\n"
    )


def test_a_terminal_shows_failures_above_the_line():
    out, text = console(terminal=True)
    live = Live(out)
    with live.running():
        live.show(WatchEvent("done", "a.tif", latency=0.5))
        live.show(WatchEvent("quarantined", "bad.tif", "bad.tif: truncated; write it again"))
    assert "quarantined: bad.tif: truncated" in text.getvalue()
    assert "a.tif: corrected" not in text.getvalue()


@pytest.mark.parametrize("trouble", ["the reader has gone", "the disk is full"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_log_that_cannot_be_written_stops_no_image(trouble):
    if trouble == "the disk is full":
        stream = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    else:
        reading, writing = os.pipe()
        os.close(reading)
        stream = os.fdopen(writing, "w")
    for display in (Live(Console(file=stream)), JsonLog(stream)):
        display.show(WatchEvent("done", "a.tif", latency=0.5))
        display.say("a line")
    with suppress(OSError):
        stream.close()
