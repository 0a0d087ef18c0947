"""Requests as no browser sends them, over raw sockets."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress

import pytest

from defocus.watcher.status import http as bounds
from defocus.watcher.status.http import BODY, CONNECTIONS, HEAD, LINES

from ...helpers.waiting import wait_for
from .test_status import state

HOST = b"Host: 127.0.0.1\r\n"
INNER = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def raw(port: int, data: bytes, timeout: float = 20.0) -> bytes:
    """All that comes back until the connection ends; what is left to send when it does is let go."""
    with socket.create_connection(("127.0.0.1", port), timeout) as link:
        with suppress(OSError):
            link.sendall(data)
        got = b""
        while chunk := link.recv(65536):
            got += chunk
    return got


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head
    assert b"\r\nContent-Security-Policy: " in head
    assert int(re.search(rb"Content-Length: (\d+)", head)[1]) == len(body) or not body  # type: ignore[index]
    return int(answer.split()[1])


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (b"Content-Length: %d\r\n" % len(INNER), INNER),
        (b"Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(INNER), INNER)),
        (b"", INNER),  # pipelined
        (b"Expect: 100-continue\r\nContent-Length: 5\r\n", b"hello"),
        (b"Connection: keep-alive\r\n", INNER * 50),
    ],
)
def test_what_follows_a_request_is_no_request(quiet, method, fields, body):
    answer = raw(quiet[1], method + b" /healthz HTTP/1.1\r\n" + HOST + fields + b"\r\n" + body)
    assert status(answer) == (405 if method == b"OPTIONS" else 200)
    assert b"defocus_up" not in answer


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", 200),
        (b"GET / HTTP/1.0\r\n\r\n", 403),
        (b"\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n", 200),
        (b"GET http://127.0.0.1/healthz HTTP/1.1\r\n" + HOST + b"\r\n", 200),
        (
            b"GET http://localhost:80/healthz?a=b HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            200,
        ),  # Host does not count then
        (b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 403),
        (b"GET http://127.0.0.1@evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 403),
        (b"GET http://127.0.0.1 HTTP/1.1\r\n" + HOST + b"\r\n", 200),
        (b"GET ftp://127.0.0.1/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET healthz HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"DELETE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"BREW /pot HTTP/1.1\r\n" + HOST + b"\r\n", 501),
        (b"GET /\r\n\r\n", 400),
        (b"GET /\r\n", 400),  # HTTP/0.9 has no more
        (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/x\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1 more\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\nHost: 127.0.0.1\n\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b" folded: yes\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Space : yes\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"no colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b": nameless\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: \x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: +5\r\n\r\nhello", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
        (b"GET /" + b"a" * 500_000, 414),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * LINES + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * HEAD + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 500_000, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
        (b"\x00" * 100, 400),
    ],
)
def test_a_request_has_one_meaning_or_none(quiet, monkeypatch, request_, expected):
    monkeypatch.setattr(bounds, "REQUEST", 600.0)  # what cannot be a request is not waited for
    assert status(raw(quiet[1], request_)) == expected


@pytest.mark.parametrize(
    ("fields", "body", "expected"),
    [
        ("Content-Length: 2", b"{}", 400),
        ("Content-Length: 200000", b"x" * 200_000, 413),
        (f"Content-Length: {BODY}", b"[" * BODY, 400),
        ("Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n", 411),
        ("X-Nothing: no length", b"", 400),
    ],
)
def test_bodies_of_a_post(quiet, fields, body, expected):
    head = f"POST /api/retry HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Defocus: {state(quiet[1])['csrf']}\r\n{fields}\r\n\r\n"
    assert status(raw(quiet[1], head.encode() + body)) == expected


def test_a_client_that_waits_for_a_continue_gets_it(quiet):
    csrf = state(quiet[1])["csrf"].encode()
    body = b'{"folder": 0, "file": "a.tif"}'
    with socket.create_connection(("127.0.0.1", quiet[1]), 10) as link:
        link.sendall(
            b"POST /api/retry HTTP/1.1\r\n%sX-Defocus: %s\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
            % (HOST, csrf, len(body))
        )
        assert link.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(body)
        assert link.recv(100).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"",
        b"POST /api/retry HTTP/1.1\r\n" + HOST + b"X-Defocus: CSRF\r\nContent-Length: 100\r\n\r\n{",
    ],
)
def test_a_slow_visitor_has_its_time_in_all(quiet, monkeypatch, start):
    """Byte after byte, each in time: the request is not."""
    monkeypatch.setattr(bounds, "REQUEST", 0.5)
    with socket.create_connection(("127.0.0.1", quiet[1]), 30) as link:  # so long it would drip
        link.sendall(start.replace(b"CSRF", state(quiet[1])["csrf"].encode()))
        ended = threading.Event()

        def drip() -> None:
            while start and not ended.wait(0.1):
                try:
                    link.sendall(b"a")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        answer = link.recv(1000)
        ended.set()
        dripping.join()
    assert answer.startswith(b"HTTP/1.1 408 ") if start else answer == b""


def test_the_oldest_idle_connection_makes_room(quiet):
    _, port = quiet
    links = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(CONNECTIONS + 8)]
    try:
        assert links[0].recv(100) == b""  # put out
        links[-1].sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        assert links[-1].recv(100).startswith(b"HTTP/1.1 200 ")
        assert state(port)["phase"] == "starting"  # and a new one is served, however many are waited for
        names = [thread.name for thread in threading.enumerate()]
        assert sum("process_request_thread" in name for name in names) <= CONNECTIONS + 1
    finally:
        for link in links:
            link.close()
    wait_for(lambda: not any("process_request_thread" in thread.name for thread in threading.enumerate()))


def test_those_who_do_not_read_their_answers_make_room_too(quiet, monkeypatch):
    monkeypatch.setattr(bounds, "REQUEST", 600.0)  # and not only when their time is over
    _, port = quiet
    links = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(CONNECTIONS)]
    try:
        for link in links:
            link.sendall(b"GET /app.js HTTP/1.1\r\n" + HOST + b"\r\n")
        for _ in range(3 * CONNECTIONS):
            assert state(port)["phase"] == "starting"
    finally:
        for link in links:
            link.close()
