"""HTTP for visitors that nobody knows: http.server with bounds, and one request a connection.

`http.server` reads a line of any visitor for as long as it likes, a thread each, and takes what follows a request for
the next one. Here a request has `REQUEST` seconds from its first byte to the last of its answer, there are at most
`CONNECTIONS` (the one that has waited longest for its visitor makes room for a new one), the head is read strictly
(RFC 9112) and every connection ends with its answer, so that no body is ever taken for a request.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

CONNECTIONS = 32
REQUEST = 10.0  # s
LINE = 8 * 1024  # bytes of a request line
HEAD = 80 * 1024  # bytes of a head: browsers send cookies of 64 KB
LINES = 100  # of a head
BODY = 64 * 1024  # bytes
_LINGER = 1.0  # s in which a visitor may still be sending what was not asked for: a reset would eat the answer
_PACE = 0.005  # s before a connection that puts another one out: a flood must not take the processor from the images

_METHODS = ("GET", "HEAD", "POST")
_OTHERS = ("OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT")
_log = logging.getLogger("defocus")

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(%s) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])" % _TOKEN)
_FIELD = re.compile(rb"(%s):[ \t]*([\t\x20-\x7e\x80-\xff]*)" % _TOKEN)
_END = re.compile(rb"\r?\n\r?\n")
_ONCE = ("host", "content-length", "transfer-encoding", "authorization", "origin", "x-defocus")


class BadRequest(Exception):
    """What is wrong with a request."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


@dataclass(frozen=True)
class Request:
    """The head of a request: `host` without a port, in small letters; names of `fields` in small letters."""

    method: str
    path: str
    query: str
    host: str
    authority: str
    fields: dict[str, str]
    length: int
    version: tuple[int, int]


class BoundedServer(ThreadingHTTPServer):
    """Listens; holds at most `CONNECTIONS`."""

    daemon_threads = True
    request_queue_size = 128
    # Elsewhere the port of a daemon that was killed stays taken for a minute; on Windows two programs could share it.
    allow_reuse_address = os.name == "posix"

    def __init__(self, host: str, port: int, handler: type[BoundedHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._waits: dict[Any, bool] = {}  # of each open connection, oldest first: whether it waits for its visitor
        self._guard = threading.Lock()
        super().__init__((host, port), handler)

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.1)  # no descriptor is left, and the listening socket would wake us again at once
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            full = len(self._waits) >= CONNECTIONS
            oldest = next((link for link, waits in self._waits.items() if waits), None) if full else None
            if oldest is not None:
                del self._waits[oldest]
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread wakes, and closes it
            if not full or oldest is not None:
                self._waits[request] = True
        if full:
            time.sleep(_PACE)
            if oldest is None:  # all are being answered
                self.shutdown_request(request)
                return
        super().process_request(request, client_address)

    def waits(self, link: Any, waits: bool) -> None:
        """Whether a connection waits for its visitor."""
        with self._guard:
            if link in self._waits:
                self._waits[link] = waits

    def close_request(self, request: Any) -> None:
        with self._guard:
            self._waits.pop(request, None)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor who leaves in the middle is no news, and the log is about images."""


class BoundedHandler(BaseHTTPRequestHandler):
    """One connection with one request; a subclass answers it in `respond`."""

    server: BoundedServer  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    headers_always: dict[str, str] = {}  # noqa: RUF012

    def respond(self, request: Request) -> None:
        """Answer, by `answer` or by raising BadRequest."""
        raise NotImplementedError

    def handle(self) -> None:
        self.close_connection = True
        self.command, self.requestline, self.request_version = "", "", self.protocol_version
        self._end, self._ahead = time.monotonic() + REQUEST, b""
        try:
            try:
                head = self._read_head()
                if head is None:
                    return
                request = parse_head(head)
                self.command = request.method
                self.server.waits(self.connection, False)
                self.respond(request)
            except BadRequest as error:
                allow = {"Allow": ", ".join(_METHODS)} if error.status is HTTPStatus.METHOD_NOT_ALLOWED else {}
                self.answer(error.status, f"{error.text}\n".encode(), "text/plain; charset=utf-8", allow)
            except OSError:
                raise
            except Exception:
                _log.exception("the status page could not answer")
                self.answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"an error of defocus\n", "text/plain; charset=utf-8")
            self._linger()
        except OSError:  # the visitor has left, or had no more time
            pass

    def body(self, request: Request) -> bytes:
        """The body of a POST. Raises BadRequest for one without a length, of too much, or too slow."""
        if "transfer-encoding" in request.fields:
            raise BadRequest(HTTPStatus.LENGTH_REQUIRED, "send Content-Length")
        if request.length > BODY:
            raise BadRequest(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {BODY} bytes")
        if request.fields.get("expect", "").lower() == "100-continue" and request.version >= (1, 1):
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(self._ahead) < request.length:
            try:
                more = self._receive(request.length - len(self._ahead))
            except TimeoutError:
                raise BadRequest(HTTPStatus.REQUEST_TIMEOUT, "too slow") from None
            if not more:
                raise BadRequest(HTTPStatus.BAD_REQUEST, "the body is shorter than its Content-Length")
            self._ahead += more
        return self._ahead[: request.length]

    def answer(self, status: HTTPStatus, data: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        """Send a whole answer."""
        self.send_response(status)
        fields = {**self.headers_always, "Connection": "close", **(more or {})}
        if status is not HTTPStatus.NOT_MODIFIED:
            fields |= {"Content-Type": kind, "Content-Length": str(len(data))}
        for name, value in fields.items():
            self.send_header(name, value)
        self._headers_buffer.append(b"\r\n")
        if self.command != "HEAD":
            self._headers_buffer.append(data)
        whole, self._headers_buffer = b"".join(self._headers_buffer), []
        self.server.waits(self.connection, True)
        self._send(whole)

    def version_string(self) -> str:
        """What the Server header says: no versions, to whoever asks."""
        return "defocus"

    def log_message(self, format: str, *args: object) -> None:
        """Visits are not logged: the log is about images."""

    def _read_head(self) -> bytes | None:
        """The head, without its empty line; None if the visitor left without a word."""
        data = b""
        while not (end := _END.search(data)) or end.start() > HEAD:
            if len(data) > HEAD:
                raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers too large")
            _check_start(data)
            try:
                more = self._receive(65536)
            except TimeoutError:
                if not data:
                    return None
                raise BadRequest(HTTPStatus.REQUEST_TIMEOUT, "too slow") from None
            if not more:
                return None
            data = (data + more).lstrip(b"\r\n") if not data else data + more
        self._ahead = data[end.end() :]
        return data[: end.start()]

    def _receive(self, most: int) -> bytes:
        self.server.waits(self.connection, True)
        self.connection.settimeout(max(0.001, self._end - time.monotonic()))
        more = self.connection.recv(most)
        self.server.waits(self.connection, False)
        return more

    def _send(self, data: bytes) -> None:
        self.connection.settimeout(max(1.0, self._end - time.monotonic()))  # of all of it
        self.connection.sendall(data)

    def _linger(self) -> None:
        """Take in what the visitor is still sending, so that the answer arrives."""
        self.connection.shutdown(socket.SHUT_WR)
        end = time.monotonic() + _LINGER
        while (left := end - time.monotonic()) > 0:
            self.connection.settimeout(left)
            if not self.connection.recv(65536):
                return


def _check_start(data: bytes) -> None:
    """Raise BadRequest as soon as what has come cannot become a request: it is not waited for."""
    line, newline, _ = data.partition(b"\n")
    if len(line) > LINE:
        raise BadRequest(HTTPStatus.REQUEST_URI_TOO_LONG, "address too long")
    if newline:
        _request_line(line.removesuffix(b"\r"))
    elif line and not re.match(_TOKEN, line):
        raise BadRequest(HTTPStatus.BAD_REQUEST, "not HTTP")


def _request_line(line: bytes) -> tuple[str, str, tuple[int, int]]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "not a request of HTTP/1.1")
    method, target = match[1].decode(), match[2].decode("latin-1")
    version = int(match[3]), int(match[4])
    if version[0] != 1:
        raise BadRequest(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "speak HTTP/1.1")
    if method not in _METHODS:
        known = method in _OTHERS
        raise BadRequest(HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_IMPLEMENTED, "GET, HEAD or POST")
    return method, target, version


def parse_head(head: bytes) -> Request:
    """The head of a request, of one meaning only. Raises BadRequest."""
    first, *lines = re.split(rb"\r?\n", head)
    if b"\n" in head.replace(b"\r\n", b"") or b"\r" in head.replace(b"\r\n", b""):
        raise BadRequest(HTTPStatus.BAD_REQUEST, "lines end in CR LF")
    if len(first) > LINE:
        raise BadRequest(HTTPStatus.REQUEST_URI_TOO_LONG, "address too long")
    method, target, version = _request_line(first)
    if len(lines) > LINES:
        raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header lines")
    fields: dict[str, str] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "malformed header line")
        name, value = match[1].decode().lower(), match[2].decode("latin-1").strip()
        if name in fields and name in _ONCE:
            raise BadRequest(HTTPStatus.BAD_REQUEST, f"{name} twice")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    if version >= (1, 1) and "host" not in fields:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "no Host")
    length = fields.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,18}", length) or ("content-length" in fields and "transfer-encoding" in fields):
        raise BadRequest(HTTPStatus.BAD_REQUEST, "ambiguous length of the body")
    authority = fields.get("host", "")
    if not target.startswith("/"):
        scheme, mark, rest = target.partition("://")
        if scheme.lower() not in ("http", "https") or not mark:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "malformed address")
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0]  # which is said again in Host, and goes before
        target = rest[len(authority) :]
        target = target if target.startswith("/") else f"/{target}"
    path, _, query = target.partition("#")[0].partition("?")
    return Request(method, path, query, _host(authority), authority, fields, int(length), version)


def _host(authority: str) -> str:
    """The name in `name:port`; "" if it is none."""
    try:
        parts = urlsplit(f"//{authority}")
        bare = parts.username is None and not (parts.path or parts.query or parts.fragment) and (parts.port or 1) > 0
        return (parts.hostname or "") if bare else ""
    except ValueError:
        return ""
