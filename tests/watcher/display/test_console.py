"""What the daemon shows."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from defocus.watcher.display.console import Live
from defocus.watcher.events import WatchEvent


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=200, highlight=False, markup=False, soft_wrap=True), text


def test_the_live_line_tells_queue_rate_latency_and_failures():
    live = Live(console(terminal=True)[0])
    with live.running():
        for index in range(3):
            live.show(WatchEvent("done", f"{index}.tif", latency=0.25, queued=7))
        live.show(WatchEvent("quarantined", "bad.tif", "bad.tif: truncated; write it again", queued=6))
        assert "partner" not in live.line()
        for folder, waiting in (("one", 2), ("two", 4), ("one", 1)):
            live.show(WatchEvent("waiting", queued=6, waiting=waiting, folder=Path(folder)))
        line = live.line()
    assert line.startswith("queue 6  done 3  ")
    assert "files/s" in line
    assert "last latency 0.25 s" in line
    assert line.endswith("  waiting for a partner 5  quarantined 1")


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
