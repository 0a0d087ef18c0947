"""Notifications for real: a command that runs, a server that is told, and neither in the way."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from defocus.engine.errors import ErrorCode, InputError, MissingExtraError
from defocus.engine.pipeline.jobs import Job, Outcome
from defocus.engine.quality.report import PlaneReport
from defocus.watcher.alerts import notify
from defocus.watcher.alerts.drift import RECENT
from defocus.watcher.alerts.notify import BATCH, Notifier, by_command, by_url
from defocus.watcher.events import WatchEvent

from ...helpers.clock import ManualClock
from ...helpers.waiting import wait_for


def done(blur: float | None) -> WatchEvent:
    outcome = Outcome(Job(Path("a"), Path("b")), reports=(PlaneReport(blur_px=blur),))
    return WatchEvent("done", "a.tif", outcome=outcome, folder=Path("/acq"))


def test_drift_is_told_once_it_lasts():
    told = []
    with Notifier([told.append], drift_px=5) as notifier:
        for blur in (9, 1, None, 9, 1, 1):  # odd images are no drift
            notifier.see(done(blur))
    assert told == []  # at its end all is told that was to be told
    with Notifier([told.append], drift_px=5) as notifier:
        for blur in (9, 1, None, 9, 1, 1):
            notifier.see(done(blur))
        for _ in range(RECENT):
            notifier.see(done(8.0))
        wait_for(lambda: told)
    (message,) = told
    assert message["kind"] == "drift"
    assert "blurred by 8.0 px, more than 5" in message["text"]
    assert message["folder"] == "/acq"


def test_the_end_of_a_drift_is_told_and_each_microscope_has_its_own():
    told = []
    with Notifier([told.append], drift_px=5) as notifier:
        for number in range(RECENT):
            notifier.see(done(9.0))
            notifier.see(replace(done(1.0 + number), folder=Path("/other")))  # in focus, and in between
        for _ in range(RECENT):
            notifier.see(done(2.0))
        for _ in range(RECENT):
            notifier.see(done(9.0))  # another drift: told, though the last message is young
    assert [(message["kind"], message["folder"]) for message in told] == [
        ("drift", "/acq"),
        ("drift_end", "/acq"),
        ("drift", "/acq"),
    ]
    assert "focus is back" in told[1]["text"]


def test_the_end_of_a_batch_is_told_once_the_folder_is_quiet_or_the_daemon_ends():
    told = []
    with Notifier([told.append], quiet=0.2) as notifier:
        for _ in range(BATCH):
            notifier.see(done(9.0))
        notifier.see(WatchEvent("quarantined", "x.tif", "truncated", folder=Path("/acq"), code=ErrorCode.TRUNCATED))
        wait_for(lambda: len(told) == 2)
        for _ in range(BATCH - 1):
            notifier.see(replace(done(9.0), folder=Path("/few")))  # no batch
        for _ in range(BATCH):
            notifier.see(done(9.0))
    assert [message["kind"] for message in told] == ["failed", "batch", "batch"]
    assert told[0]["code"] == "truncated"
    assert f"{BATCH} corrected, 0 kept, 1 quarantined in" in told[1]["text"]


def test_the_daily_sum_is_told_if_there_was_anything():
    told, midnights = [], [1000.0, 0.2, 0.3]
    with Notifier([told.append], until_midnight=midnights.pop) as notifier:
        notifier.see(done(9.0))
        notifier.see(done(None))
        wait_for(lambda: not midnights)  # the second day has ended, without a file
    assert [message["kind"] for message in told] == ["daily"]
    assert told[0]["text"] == "today: 2 corrected, 0 kept"


def test_a_command_that_hangs_does_not_hold_up_the_end(tmp_path):
    script = tmp_path / "hang.py"
    script.write_text("import time, sys; print('noise' * 100000, flush=True); time.sleep(60)")  # longer than END
    with Notifier([by_command(f'"{sys.executable}" "{script}"')]) as notifier:
        notifier.see(WatchEvent("quarantined", "x.tif", "truncated"))
        notifier.see(WatchEvent("quarantined", "y.tif", "truncated"))
    assert notifier._thread.is_alive()  # not waited for any longer


def test_many_failures_are_two_messages():
    told, clock = [], ManualClock()
    with Notifier([told.append], pause=60, clock=clock) as notifier:
        for number in range(50):
            notifier.see(WatchEvent("quarantined", f"{number}.tif", "truncated"))
        clock.advance(59)
        notifier.see(WatchEvent("quarantined", "early.tif", "truncated"))
        clock.advance(1)
        notifier.see(WatchEvent("quarantined", "last.tif", "truncated"))
    assert [message["file"] for message in told] == ["0.tif", "last.tif"]
    assert "(and 50 more since the last message)" in told[1]["text"]


def test_a_command_gets_json_on_its_stdin(tmp_path):
    script = tmp_path / "tell.py"
    script.write_text(f"import sys; open({str(tmp_path / 'said')!r}, 'w').write(sys.stdin.read())")
    with Notifier([by_command(f'"{sys.executable}" "{script}"')]) as notifier:
        notifier.see(WatchEvent("quarantined", "x y.tif", "truncated"))
    assert json.loads((tmp_path / "said").read_text())["file"] == "x y.tif"
    with pytest.raises(InputError, match="cannot be read"):
        by_command('"unclosed')


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (r"python C:\lab\tell.py --to me", ["python", r"C:\lab\tell.py", "--to", "me"]),
        (
            r'"C:\Program Files\py\python.exe" "C:\my lab\tell.py"',
            [r"C:\Program Files\py\python.exe", r"C:\my lab\tell.py"],
        ),
        (r"\\nas\tools\tell.exe it's", [r"\\nas\tools\tell.exe", "it's"]),
    ],
)
def test_a_command_of_windows_keeps_its_backslashes(monkeypatch, command, arguments):
    ran = []
    monkeypatch.setattr(notify, "_WINDOWS", True)
    monkeypatch.setattr(notify.subprocess, "run", lambda given, **_: ran.append(given) or CompletedProcess(given, 0))
    by_command(command)({"kind": "failed"})
    assert ran == [arguments]


def test_a_command_that_fails_is_a_line_and_no_more():
    said = []
    with Notifier([by_command("false"), by_command("no-such-program-anywhere")], say=said.append) as notifier:
        notifier.see(WatchEvent("quarantined", "x.tif", "truncated"))
    assert len(said) == 2
    assert all(line.startswith("the notification failed") and "\n" not in line for line in said)


def test_a_server_is_told():
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with Notifier([by_url(f"http://127.0.0.1:{server.server_port}/hook")]) as notifier:
            notifier.see(WatchEvent("quarantined", "x.tif", "truncated"))
    finally:
        server.shutdown()
        server.server_close()
    assert got[0]["kind"] == "failed"


def test_seeing_never_waits():
    hold, told = threading.Event(), []

    def tell(message):
        hold.wait(300)
        told.append(message)

    notifier = Notifier([tell], pause=0)
    notifier._thread.start()
    for number in range(500):
        notifier.see(WatchEvent("quarantined", f"{number}.tif", "truncated"))
    assert told == []
    hold.set()
    notifier.__exit__(None, None, None)


def test_another_kind_of_url_needs_apprise():
    try:
        import apprise  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(MissingExtraError, match="notify"):
            by_url("mailto://lab@example.org")
    else:
        with pytest.raises(InputError, match="none that apprise knows"):
            by_url("nonsense")
