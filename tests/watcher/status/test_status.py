"""The status page over real HTTP, with a real daemon behind it: what it tells, and what it refuses."""

from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from defocus.engine.errors import ErrorCode, InputError
from defocus.engine.quality.report import PlaneReport
from defocus.watcher.config import Config, Folder
from defocus.watcher.events import WatchEvent
from defocus.watcher.health import Health
from defocus.watcher.journal import FileState, Journal, JournalEntry
from defocus.watcher.status.metrics import metrics
from defocus.watcher.status.page import Page
from defocus.watcher.status.server import ASSETS
from defocus.watcher.status.statistics import SHOWN_FAILURES, Histogram, State

from ..conftest import free_port, outputs, wait_for, write_tiff

QUICK = ("--settle", "0.1", "--rescan", "0.2", "--patience", "0.3")
EVIL = "<img src=x onerror=alert(1)>.tif"


def ask(port: int, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    data = None if body is None else (body if isinstance(body, bytes) else json.dumps(body).encode())
    try:
        link.request(
            "GET" if data is None else "POST", path, data, {name.replace("_", "-"): v for name, v in headers.items()}
        )
        answer = link.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        link.close()


def state(port: int) -> dict:
    return json.loads(ask(port, "/api/state")[2])


def test_a_running_daemon_seen_from_outside(folders, start):
    acquisition, out = folders
    port = free_port()
    begun = time.monotonic()
    watching = start(*QUICK, "--status", str(port))
    wait_for(lambda: listens(port), 10)
    assert state(port)["phase"] in ("starting", "watching")
    assert time.monotonic() - begun < 10  # 2 s on an idle machine; this one may be busy
    watching.ready()
    assert f"status page at http://127.0.0.1:{port}/" in watching.said()
    write_tiff(acquisition / "a.tif")
    (acquisition / EVIL).write_bytes(b"not a TIFF")
    wait_for(lambda: outputs(out) == ["a.tif"])
    wait_for(lambda: state(port)["failed"] == state(port)["done"] == 1)
    seen = state(port)
    assert (seen["done"], seen["last"]["file"], seen["problems"]) == (1, "a.tif", [])
    assert seen["latency_p50_s"] > 0
    assert seen["model"] == "tiny"
    assert seen["failures"][0]["file"] == EVIL
    assert len(seen["focus"]) == 1
    for which in ("before", "after"):
        status, headers, png = ask(port, f"/api/{which}.png")
        assert (status, headers["Content-Type"], png[:8]) == (200, "image/png", b"\x89PNG\r\n\x1a\n")
    status, _, body = ask(port, "/healthz")
    assert (status, json.loads(body)) == (200, {"healthy": True, "problems": []})
    # Repaired, but with its old time and size: nothing would tell, so it is asked for.
    retry = {"folder": 0, "file": EVIL}
    assert ask(port, "/api/retry", retry, X_Defocus=seen["csrf"])[0] == 200
    text = ask(port, "/metrics")[2].decode()
    assert 'defocus_files_total{outcome="done"} 1' in text
    assert "defocus_latency_seconds_count 1" in text
    assert 'defocus_stage_seconds_bucket{stage="infer",le="+Inf"} 1' in text
    assert "defocus_up 1" in text
    acquisition.rename(acquisition.with_name("away"))
    wait_for(lambda: ask(port, "/healthz")[0] == 503)
    assert "cannot be reached" in json.loads(ask(port, "/healthz")[2])["problems"][0]
    acquisition.with_name("away").rename(acquisition)
    wait_for(lambda: ask(port, "/healthz")[0] == 200)


def test_a_daemon_that_was_killed_can_have_its_port_again_at_once(folders, start):
    """A page was open; the system keeps such a port for a minute, and a restart must not wait for that."""
    port = free_port()
    watching = start(*QUICK, "--status", str(port)).ready()
    with socket.create_connection(("127.0.0.1", port)) as visitor:
        visitor.sendall(b"GET /api/state HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert visitor.recv(100)
        watching.kill()
        again = start(*QUICK, "--status", str(port)).ready()
        assert state(port)["phase"] == "watching"
    assert again.stop() == 0


def test_a_retry_takes_the_file_again(folders, start):
    acquisition, out = folders
    port = free_port()
    start(*QUICK, "--status", str(port)).ready()
    somebody = out / "b.tif"
    out.mkdir(exist_ok=True)
    somebody.write_bytes(b"not ours")
    write_tiff(acquisition / "b.tif")
    wait_for(lambda: state(port)["failed"] == 1)
    somebody.unlink()
    time.sleep(0.5)
    assert outputs(out) == []  # quarantined is quarantined
    answer = ask(port, "/api/retry", {"folder": 0, "file": "b.tif"}, X_Defocus=state(port)["csrf"])
    assert (answer[0], json.loads(answer[2])) == (200, {"retried": True})
    wait_for(lambda: outputs(out) == ["b.tif"])
    wait_for(lambda: state(port)["failed"] == 0)


def test_the_page_needs_nothing_from_elsewhere(quiet):
    _, port = quiet
    for path in ASSETS:
        status, headers, body = ask(port, path)
        assert status == 200
        assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in body
        assert b"innerHTML" not in body
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert state(port)["last"] is None
    assert ask(port, "/api/after.png")[0] == 404


@pytest.mark.parametrize("text", ["here", "127.0.0.1:", "127.0.0.1:99999"])
def test_an_address_that_makes_no_sense(tmp_path, text):
    config = Config(folders=(Folder(str(tmp_path)),), status=text)
    with pytest.raises(InputError, match="no port in it"):
        Page.of(config, config.settings(), Health())


def test_a_port_that_is_taken_is_one_line(quiet, tmp_path):
    _, port = quiet
    config = Config(folders=(Folder(str(tmp_path)),), status=str(port))
    with pytest.raises(InputError, match="cannot be listened at") as caught:
        Page.of(config, config.settings(), Health())
    assert "\n" not in str(caught.value)


def test_a_restart_remembers_the_focus_and_what_was_set_aside(tmp_path):
    settings = Config(folders=(Folder(str(tmp_path / "acq"), str(tmp_path / "out")),)).settings()
    with Journal(tmp_path / "out") as journal:
        for index in range(3):
            report = json.dumps([PlaneReport(focus_in=0.1, blur_px=float(index)).as_dict()])
            journal.record(JournalEntry(f"{index}.tif", (1, 1), "d", "m", FileState.DONE, report=report))
        journal.record(JournalEntry("bad.tif", (1, 1), "d", "m", FileState.QUARANTINED, reason="truncated"))
    seen = State(settings, Health())
    assert sorted(point["blur_px"] for point in seen.picture()["focus"]) == [0.0, 1.0, 2.0]
    assert seen.picture()["failures"] == [{"folder": 0, "file": "bad.tif", "reason": "truncated"}]
    seen.see(WatchEvent("quarantined", "b.tif", "empty/b.tif: x", folder=tmp_path / "acq", code=ErrorCode.NOT_TIFF))
    seen.see(WatchEvent("paused", text="the disk is full", queued=7))
    picture = seen.picture()
    assert (picture["queue"], picture["message"], seen.failed["not_tiff"]) == (7, "the disk is full", 1)
    text = metrics(seen)
    assert 'defocus_failed_files_total{reason="not_tiff"} 1' in text
    assert "defocus_queue_files 7" in text
    assert seen.retry(0, "bad.tif")
    assert not seen.retry(0, "bad.tif")


def test_counters_are_whole_numbers_in_full(tmp_path):
    seen = State(Config(folders=(Folder(str(tmp_path / "acq"), str(tmp_path / "out")),)).settings(), Health())
    seen.counts["done"], seen.bytes, seen.queued = 1_234_567, 98_765_432_109_876, 10_000_001
    seen.latency.count, seen.latency.total = 1_234_567, 2_345_678.9
    text = metrics(seen)
    assert 'defocus_files_total{outcome="done"} 1234567\n' in text
    assert "defocus_read_bytes_total 98765432109876\n" in text
    assert "defocus_queue_files 10000001\n" in text
    assert "defocus_latency_seconds_sum 2345678.9\n" in text
    assert "e+" not in text


def test_of_many_files_that_are_set_aside_the_page_shows_some_and_counts_all(tmp_path):
    settings = Config(folders=(Folder(str(tmp_path / "acq"), str(tmp_path / "out")),)).settings()
    with Journal(tmp_path / "out") as journal:
        for index in range(SHOWN_FAILURES + 5):
            journal.record(
                JournalEntry(f"{index:03d}.tif", (1, 1), "d", "m", FileState.QUARANTINED, reason="truncated")
            )
    seen = State(settings, Health())
    assert seen.picture()["failed"] == SHOWN_FAILURES + 5
    assert [one["file"] for one in seen.picture()["failures"]] == [f"{i:03d}.tif" for i in range(SHOWN_FAILURES)]
    assert seen.retry(0, f"{SHOWN_FAILURES + 4:03d}.tif")
    assert seen.picture()["failed"] == SHOWN_FAILURES + 4


def test_the_page_leaves_a_damaged_journal_to_the_daemon(tmp_path):
    """Which keeps it aside and says so; the page would have done it in silence, before the daemon was there."""
    settings = Config(folders=(Folder(str(tmp_path / "acq"), str(tmp_path / "out")),)).settings()
    path = tmp_path / "out" / ".defocus" / "journal.sqlite"
    path.parent.mkdir(parents=True)
    path.write_text("this is no database" * 100)
    seen = State(settings, Health())
    assert seen.picture()["focus"] == seen.picture()["failures"] == []
    assert not seen.retry(0, "a.tif")
    assert path.read_text().startswith("this is no database")
    assert list(path.parent.iterdir()) == [path]


def test_a_histogram_counts_all_that_is_below():
    histogram = Histogram()
    for seconds in (0.01, 0.3, 1000.0):
        histogram.add(seconds)
    assert histogram.counts[0] == 1
    assert histogram.counts[-1] == 2
    assert (histogram.count, histogram.total) == (3, 1000.31)


def listens(port: int) -> bool:
    """Whether a page answers there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def test_the_assets_are_in_the_package():
    from importlib.resources import files

    for name, _ in ASSETS.values():
        assert (Path(str(files("defocus.watcher.status"))) / "assets" / name).is_file()
