"""Who may look at the status page, and what a visitor may do there, over real HTTP."""

from __future__ import annotations

import os
import re
import socket
import time
import urllib.request
from contextlib import ExitStack
from urllib.parse import quote_from_bytes, quote_plus

import pytest

from defocus.engine.errors import InputError
from defocus.watcher.alerts.health import Health
from defocus.watcher.configuration.config import Config, Folder
from defocus.watcher.status.page import StatusPage, is_loopback

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
    assert ask(port, "/api/retry", b"x" * 100_000, X_Defocus=csrf)[0] == 413
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
    with socket.create_connection(("127.0.0.1", quiet[1]), timeout=60) as link:
        link.sendall(b"GET /api/state HTTP/1.0\r\n\r\n")
        assert b" 403 " in link.recv(100)


def test_beyond_this_machine_a_token_is_needed(tmp_path):
    (tmp_path / "acq").mkdir()
    folder = (Folder(str(tmp_path / "acq"), str(tmp_path / "out")),)
    port = free_port()
    open_to_all = Config(folders=folder, status=f"0.0.0.0:{port}")
    with pytest.raises(InputError, match="can be reached from other machines; add --status-token"):
        StatusPage.of(open_to_all, open_to_all.settings(), Health())
    config = open_to_all.given(status_token="open sesame")
    page = StatusPage.of(config, config.settings(), Health())
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


TOKENS = [
    "a;b",
    'q"u, o te',
    "100%",
    "a+b&c=d#e",
    "geheim ü 試",
    "plain",
    " blanks ",
    "Bearer x",
    "\\",
    "t=",
    "\udcff\udc80",
]


@pytest.fixture
def guarded(tmp_path):
    """A function that starts a page with a token and returns its port."""
    (tmp_path / "acq").mkdir()
    folder = (Folder(str(tmp_path / "acq"), str(tmp_path / "out")),)
    with ExitStack() as stack:

        def begin(token: str) -> int:
            port = free_port()
            config = Config(folders=folder, status=str(port), status_token=token)
            page = StatusPage.of(config, config.settings(), Health())
            assert page is not None
            stack.enter_context(page)
            return port

        yield begin


@pytest.mark.parametrize("token", TOKENS)
def test_any_token_works_in_every_way(guarded, token):
    port, raw = guarded(token), os.fsencode(token)
    status, headers, _ = ask(port, f"/?token={quote_from_bytes(raw)}")
    assert status == 200
    assert ask(port, f"/?token={quote_plus(raw)}")[0] == 200  # as a form sends it
    cookie = headers["Set-Cookie"].split(";")[0]
    assert token not in headers["Set-Cookie"]
    assert ask(port, "/api/state", Cookie=f"other=1; {cookie}; more=2")[0] == 200
    assert ask(port, "/api/state", Cookie=f"{cookie}x")[0] == 401
    for field in (b"Bearer " + raw, b"bearer " + raw):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
            link.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: " + field + b"\r\n\r\n")
            assert link.recv(100).startswith(b"HTTP/1.1 200 ")
    for wrong in ("", "x", f"{token}x", token[:-1]):
        assert ask(port, f"/?token={quote_from_bytes(os.fsencode(wrong))}")[0] == 401
    assert ask(port, "/?token")[0] == 401


def test_two_daemons_of_one_machine_do_not_take_each_others_cookies(guarded):
    first, second = (ask(guarded(token), f"/?token={token}")[1]["Set-Cookie"] for token in ("one", "two"))
    assert first.split("=")[0] != second.split("=")[0]


def test_a_huge_cookie_costs_nothing(guarded):
    port = guarded("secret")
    begun = time.process_time()
    for cookie in ('a="' + "\\" * 65_000 + '"', "a;" * 32_000, "defocus=" * 8_000, "=" * 65_536):
        assert ask(port, "/", Cookie=cookie)[0] == 401
        assert ask(port, "/metrics", Cookie=cookie, Authorization="Bearer secret")[0] == 200
    assert time.process_time() - begun < 2  # http.cookies needs minutes


def test_a_browser_without_a_token_gets_a_field(guarded):
    port = guarded("secret")
    status, headers, body = ask(port, "/", Accept="text/html,*/*")
    assert (status, headers["Content-Type"]) == (401, "text/html; charset=utf-8")
    assert b'name="token"' in body
    assert b"secret" not in body
    assert b"<" not in ask(port, "/metrics")[2]


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        ("/", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 200),  # a link in a mail
        ("/", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}, 403),  # an image on another page
        ("/app.js", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}, 403),
        ("/api/after.png", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 403),
        ("/metrics", {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"}, 403),  # another port of this machine
        ("/metrics", {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}, 200),
        ("/metrics", {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate"}, 200),
        ("/metrics", {}, 200),
    ],
)
def test_other_sites_get_nothing(quiet, path, fields, expected):
    assert ask(quiet[1], path, **fields)[0] == expected


def test_no_answer_is_for_another_site(quiet):
    for path in ("/", "/app.js", "/api/state", "/healthz", "/metrics", "/nowhere"):
        assert ask(quiet[1], path)[1]["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_the_addresses_that_are_printed_open(folders, start, host):
    port = free_port()
    watching = start("--status", f"{host}:{port}", environment={"DEFOCUS_STATUS_TOKEN": "se cret"}).ready()
    said = watching.said()
    assert "se cret" not in said
    addresses = re.findall(r"http://\S+", said)
    assert addresses
    for address in addresses:
        assert "0.0.0.0" not in address
        assert address.endswith("/?token=TOKEN")
        with urllib.request.urlopen(address.replace("TOKEN", "se%20cret"), timeout=60) as answer:
            assert answer.status == 200
