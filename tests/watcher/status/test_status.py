"""The status page over real HTTP, with a real daemon behind it: what it tells, and what it refuses."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from defocus.engine.errors import InputError
from defocus.watcher.alerts.health import Health
from defocus.watcher.configuration.config import Config, Folder
from defocus.watcher.events import WatchEvent
from defocus.watcher.status.page import StatusPage
from defocus.watcher.status.server import ASSETS

from ...helpers.waiting import wait_for
from ..conftest import free_port, outputs, write_tiff

QUICK = ("--settle", "0.1", "--rescan", "0.2", "--patience", "0.3")
EVIL = "<img src=x onerror=alert(1)>.tif"


def ask(port: int, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
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
    watching = start(*QUICK, "--status", str(port))
    wait_for(lambda: listens(port))
    assert state(port)["phase"] in ("starting", "watching")
    watching.ready()
    assert f"status page at http://127.0.0.1:{port}/" in watching.said()
    (acquisition / EVIL).write_bytes(b"not a TIFF")
    wait_for(lambda: state(port)["failed"])  # so the folder has been looked into, and what comes now has a latency
    write_tiff(acquisition / "a.tif")
    wait_for(lambda: outputs(out) == ["a.tif"])
    wait_for(lambda: state(port)["failed"] == state(port)["done"] == 1)
    seen = state(port)
    scope = seen["folders"][0]
    assert (seen["done"], seen["total"], scope["last"][-1], seen["problems"]) == (1, 1, "a.tif", [])
    assert scope["latency_p50_s"] > 0
    assert seen["model"] == "tiny"
    (group,) = scope["failures"]
    assert (group["code"], group["count"], group["files"][0][1]) == ("not_tiff", 1, EVIL)
    assert [point[-1] for point in json.loads(ask(port, "/api/points?folder=0")[2])] == ["a.tif"]
    for which in ("before", "after"):
        status, headers, png = ask(port, f"/api/{which}.png")
        assert (status, headers["Content-Type"], png[:8]) == (200, "image/png", b"\x89PNG\r\n\x1a\n")
    status, _, body = ask(port, "/healthz")
    assert (status, json.loads(body)) == (200, {"healthy": True, "problems": []})
    # Repaired, but with its old time and size: nothing would tell, so it is asked for.
    retry = {"folder": 0, "file": EVIL}
    assert ask(port, "/api/retry", retry, X_Defocus=seen["csrf"])[0] == 200
    text = ask(port, "/metrics")[2].decode()
    folder = f'folder="{acquisition}"'
    assert f'defocus_files_total{{{folder},outcome="done"}} 1' in text
    assert f"defocus_latency_seconds_count{{{folder}}} 1" in text
    assert f'defocus_stage_seconds_bucket{{{folder},stage="infer",le="+Inf"}} 1' in text
    assert f"defocus_read_bytes_total{{{folder}}} " in text
    assert f'defocus_failed_files_total{{{folder},reason="not_tiff"}} 1' in text
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
    write_tiff(acquisition / "a.tif")
    wait_for(lambda: outputs(out) == ["a.tif"])  # quarantined is quarantined
    answer = ask(port, "/api/retry", {"folder": 0, "file": "b.tif"}, X_Defocus=state(port)["csrf"])
    assert (answer[0], json.loads(answer[2])) == (200, {"retried": 1})
    wait_for(lambda: outputs(out) == ["a.tif", "b.tif"])
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
    assert state(port)["folders"][0]["last"] is None
    assert ask(port, "/api/after.png")[0] == 404


@pytest.mark.parametrize("text", ["here", "127.0.0.1:", "127.0.0.1:99999"])
def test_an_address_that_makes_no_sense(tmp_path, text):
    config = Config(folders=(Folder(str(tmp_path)),), status=text)
    with pytest.raises(InputError, match="without a port"):
        StatusPage.of(config, config.settings(), Health())


def test_a_port_that_is_taken_is_one_line(quiet, tmp_path):
    _, port = quiet
    config = Config(folders=(Folder(str(tmp_path)),), status=str(port))
    with pytest.raises(InputError, match="cannot be used") as caught:
        StatusPage.of(config, config.settings(), Health())
    assert "\n" not in str(caught.value)


def test_what_has_not_changed_costs_nothing(quiet):
    page, port = quiet
    status, headers, body = ask(port, "/api/state")
    assert (status, bool(body)) == (200, True)
    tag = headers["ETag"]
    calls = []
    page.state.picture, picture = lambda: calls.append(1) or picture(), page.state.picture
    for _ in range(20):
        status, _, body = ask(port, "/api/state", If_None_Match=tag)
        assert (status, body) == (304, b"")
    assert calls == []
    page.state.see(WatchEvent("warning", text="something"))
    status, headers, _ = ask(port, "/api/state", If_None_Match=tag)
    assert (status, headers["ETag"] != tag, calls) == (200, True, [1])


def test_only_what_was_corrected_has_a_picture(folders, start):
    acquisition, out = folders
    (acquisition.parent / "secret.tif").write_bytes(b"")
    write_tiff(acquisition.parent / "secret.tif")
    port = free_port()
    start(*QUICK, "--status", str(port)).ready()
    write_tiff(acquisition / "a b.tif")
    wait_for(lambda: state(port)["done"] == 1)
    write_tiff(out / "other.tif")
    assert ask(port, "/api/after.png?folder=0&file=a%20b.tif")[0] == 200
    small = ask(port, "/api/before.png?folder=0&file=a%20b.tif&size=small")[2]
    assert small[:4] == b"\x89PNG"
    for query in (
        "folder=0&file=other.tif",
        "folder=0&file=../secret.tif",
        f"folder=0&file={acquisition / 'a b.tif'}".replace(" ", "%20"),
        "folder=0&file=.defocus/journal.sqlite",
        "folder=0&file=",
        "folder=1&file=a%20b.tif",
        "folder=-1&file=a%20b.tif",
        "folder=x",
        "folder=0&file=a%00b",
    ):
        assert ask(port, f"/api/after.png?{query}")[0] == 404, query


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
