"""Who may look at the status page, and what a visitor may do there, over real HTTP."""

from __future__ import annotations

import socket
from urllib.parse import quote

import pytest

from defocus.engine.errors import InputError
from defocus.watcher.config import Config, Folder
from defocus.watcher.health import Health
from defocus.watcher.status.page import Page, is_loopback

from ..conftest import free_port
from .test_status import ask, state


def test_a_retry_needs_the_page(quiet):
    _, port = quiet
    csrf = state(port)["csrf"]
    body = {"folder": 0, "file": "a.tif"}
    assert ask(port, "/api/retry", body)[0] == 403
    assert ask(port, "/api/retry", body, X_Defocus="guess")[0] == 403
    assert ask(port, "/api/retry", body, X_Defocus=csrf, Origin="http://evil.example")[0] == 403
    assert ask(port, "/api/retry", {"folder": 7, "file": "a"}, X_Defocus=csrf)[0] == 400
    assert ask(port, "/api/retry", {"folder": True, "file": "a"}, X_Defocus=csrf)[0] == 400
    assert ask(port, "/api/retry", b"[]", X_Defocus=csrf)[0] == 400
    assert ask(port, "/api/retry", b"x" * 100_000, X_Defocus=csrf)[0] == 400
    assert ask(port, "/api/retry")[0] == 404  # a GET changes nothing
    assert ask(port, "/api/retry", body, X_Defocus=csrf, Origin=f"http://127.0.0.1:{port}")[0] in (404, 503)


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/assets/index.html", "/%2e%2e/etc/passwd", "//etc/passwd", "/api/before.png/../x", "/x"],
)
def test_no_other_path_leads_anywhere(quiet, path):
    assert ask(quiet[1], path)[0] == 404


def test_another_sites_name_is_refused(quiet):
    _, port = quiet
    assert ask(port, "/api/state", Host="evil.example")[0] == 403
    assert ask(port, "/api/state", Host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("LOCALHOST", 200),
        ("[::1]:8765", 200),
        ("127.0.0.1.evil.example", 403),
        ("localhost@evil.example", 403),
        ("evil.example:localhost", 403),
        ("[::1", 403),
        ("[", 403),
        ("", 403),
    ],
)
def test_a_host_is_read_whole(quiet, host, status):
    for path in ("/", "/api/state", "/metrics"):
        assert ask(quiet[1], path, Host=host)[0] == status


def test_a_request_without_a_host_is_refused(quiet):
    with socket.create_connection(("127.0.0.1", quiet[1]), timeout=10) as link:
        link.sendall(b"GET /api/state HTTP/1.0\r\n\r\n")
        assert b" 403 " in link.recv(100)


def test_beyond_this_machine_a_token_is_needed(tmp_path):
    (tmp_path / "acq").mkdir()
    folder = (Folder(str(tmp_path / "acq"), str(tmp_path / "out")),)
    port = free_port()
    open_to_all = Config(folders=folder, status=f"0.0.0.0:{port}")
    with pytest.raises(InputError, match="can be reached from other machines; add --status-token"):
        Page.of(open_to_all, open_to_all.settings(), Health())
    config = open_to_all.given(status_token="open sesame")
    page = Page.of(config, config.settings(), Health())
    assert page is not None
    with page:
        assert ask(port, "/api/state")[0] == 401
        assert ask(port, "/metrics", Authorization="Bearer wrong")[0] == 401
        assert ask(port, "/metrics", Authorization="Bearer open sesame")[0] == 200
        status, headers, _ = ask(port, "/?token=open%20sesame")
        assert status == 200
        assert "HttpOnly" in headers["Set-Cookie"]
        assert "SameSite=Strict" in headers["Set-Cookie"]


def test_loopback():
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "lab")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("token", ["a;b", 'q"u, o te', "100%", "geheim ü", "plain"])
def test_a_cookie_remembers_any_token(tmp_path, token):
    (tmp_path / "acq").mkdir()
    folder = (Folder(str(tmp_path / "acq"), str(tmp_path / "out")),)
    config = Config(folders=folder, status=str(free_port()), status_token=token)
    page = Page.of(config, config.settings(), Health())
    assert page is not None
    with page:
        port = int(config.status)
        status, headers, _ = ask(port, f"/?token={quote(token)}")
        assert status == 200
        cookie = headers["Set-Cookie"].split(";")[0]
        assert ask(port, "/api/state", Cookie=f"other=1; {cookie}; more=2")[0] == 200
        assert ask(port, "/api/state", Cookie=f"{cookie}x")[0] == 401
