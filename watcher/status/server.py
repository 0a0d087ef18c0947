"""The HTTP server of the status page: a few fixed addresses, no path of a visitor ever becomes a path of the disk.

It is read-only but for one thing, "try again", which needs POST, a token that only a page of the same origin can read,
and an Origin that is our own. The Host of a request is checked, so that no other site's name can be bent to this
machine (DNS rebinding). Beyond this machine every request needs the token of --status-token.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from ...engine._version import __version__
from ...engine.errors import DefocusError, InputError
from .metrics import CONTENT_TYPE, metrics
from .previews import previews
from .statistics import State

ASSETS = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
COOKIE = "defocus"
LARGEST_POST = 64 * 1024
TIMEOUT = 20.0  # s that a visitor may take over a request


class Server(ThreadingHTTPServer):
    """The listening socket with what its handlers need."""

    daemon_threads = True
    # Elsewhere the port of a daemon that was killed stays taken for a minute; on Windows two programs could share it.
    allow_reuse_address = os.name == "posix"

    def __init__(self, host: str, port: int, token: str, state: State) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.host, self.token, self.state = host, token, state
        self.csrf = secrets.token_urlsafe(24)
        self._pictures: tuple[tuple[int, str, int], tuple[bytes, bytes]] | None = None
        self._lock = threading.Lock()
        super().__init__((host, port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor who leaves in the middle is no news, and the log is about images."""

    def pictures(self) -> tuple[bytes, bytes] | None:
        """The last file before and after, made once for each file."""
        state = self.state
        if state.last is None:
            return None
        index, relative = state.last
        key = (index, relative, state.counts["done"])
        with self._lock:
            if self._pictures is None or self._pictures[0] != key:
                folder = state.folders[index]
                self._pictures = key, previews(folder.acquisition / relative, folder.out / relative)
            return self._pictures[1]


def serve(host: str, port: int, token: str, state: State) -> Server:
    """Listen at an address. Raises InputError if it cannot be had."""
    try:
        return Server(host, port, token, state)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"status {host}:{port}", f"cannot be listened at ({reason})", "choose another port") from error


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server  # type: ignore[assignment]
    server_version, sys_version = f"defocus/{__version__}", ""
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT

    def do_GET(self) -> None:
        if not self._welcome():
            return
        path = urlsplit(self.path).path
        if path in ASSETS:
            name, kind = ASSETS[path]
            data = (files("defocus.watcher.status") / "assets" / name).read_bytes()
            self._answer(HTTPStatus.OK, data, f"{kind}; charset=utf-8", self._cookie())
            return
        routes: dict[str, Callable[[], None]] = {
            "/api/state": self._state,
            "/api/before.png": lambda: self._picture(0),
            "/api/after.png": lambda: self._picture(1),
            "/healthz": self._health,
            "/metrics": lambda: self._answer(HTTPStatus.OK, metrics(self.server.state).encode(), CONTENT_TYPE),
        }
        if path in routes:
            routes[path]()
        else:
            self._say(HTTPStatus.NOT_FOUND, "no such page")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.close_connection = True  # a body that is not read must not be taken for the next request
        if not self._welcome():
            return
        if urlsplit(self.path).path != "/api/retry":
            self._say(HTTPStatus.NOT_FOUND, "no such page")
            return
        origin = self.headers.get("Origin")
        ours = origin is None or urlsplit(origin).netloc == self.headers.get("Host", "")
        if not ours or not _same(self.headers.get("X-Defocus", ""), self.server.csrf):
            self._say(HTTPStatus.FORBIDDEN, "not from this page")
            return
        try:
            length = int(self.headers.get("Content-Length", "0"))
            if not 0 < length <= LARGEST_POST:
                raise ValueError("length")
            asked = json.loads(self.rfile.read(length))
            folder, relative = asked["folder"], asked["file"]
            if type(folder) is not int or not isinstance(relative, str):
                raise ValueError("types")
            if not 0 <= folder < len(self.server.state.folders):
                raise ValueError("folder")
        except (ValueError, KeyError, TypeError, UnicodeDecodeError):
            self._say(HTTPStatus.BAD_REQUEST, 'send {"folder": 0, "file": "name.tif"}')
            return
        try:
            found = self.server.state.retry(folder, relative)
        except DefocusError as error:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
            return
        self._json(HTTPStatus.OK if found else HTTPStatus.NOT_FOUND, {"retried": found})

    def log_message(self, format: str, *args: object) -> None:
        """Visits are not logged: the log is about images."""

    def _welcome(self) -> bool:
        """Whether the visitor may come in; else it has been told."""
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        except ValueError:
            host = ""
        if self.server.token:
            if self._knows_token():
                return True
            self._say(HTTPStatus.UNAUTHORIZED, "add ?token=... to the address, or Authorization: Bearer ...")
            return False
        if host in ("localhost", "127.0.0.1", "::1", self.server.host):
            return True
        self._say(HTTPStatus.FORBIDDEN, "not the name of this machine")
        return False

    def _knows_token(self) -> bool:
        given = [self.headers.get("Authorization", "").removeprefix("Bearer ").strip()]
        given += parse_qs(urlsplit(self.path).query).get("token", [])
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
            given += [unquote(cookie.value)] if cookie else []
        except CookieError:
            pass
        return any(_same(one, self.server.token) for one in given)

    def _cookie(self) -> dict[str, str]:
        if not self.server.token:
            return {}
        # Quoted: a token may hold what ends a cookie, such as ";".
        return {"Set-Cookie": f"{COOKIE}={quote(self.server.token, safe='')}; HttpOnly; SameSite=Strict; Path=/"}

    def _state(self) -> None:
        self._json(HTTPStatus.OK, self.server.state.picture() | {"csrf": self.server.csrf, "version": __version__})

    def _health(self) -> None:
        problems = self.server.state.health.problems()
        status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        self._json(status, {"healthy": not problems, "problems": problems})

    def _picture(self, which: int) -> None:
        try:
            pictures = self.server.pictures()
        except DefocusError as error:
            self._say(HTTPStatus.NOT_FOUND, str(error))
            return
        if pictures is None:
            self._say(HTTPStatus.NOT_FOUND, "nothing has been corrected yet")
        else:
            self._answer(HTTPStatus.OK, pictures[which], "image/png")

    def _json(self, status: HTTPStatus, content: object) -> None:
        self._answer(status, json.dumps(content).encode(), "application/json")

    def _say(self, status: HTTPStatus, text: str) -> None:
        self._answer(status, f"{text}\n".encode(), "text/plain; charset=utf-8")

    def _answer(self, status: HTTPStatus, data: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **(more or {}), "Content-Type": kind, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
