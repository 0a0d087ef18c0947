"""The HTTP server of the status page: a few fixed addresses, no path of a visitor ever becomes a path of the disk.

It is read-only but for one thing, "try again", which needs POST, a token that only a page of the same origin can read,
and an Origin that is our own. A state that has not changed costs a 304. Who may look is decided in `access`, how a
request is read in `http`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

from ...engine._version import __version__
from ...engine.errors import DefocusError, InputError
from ...engine.formats.preview import SIDE, THUMBNAIL
from .access import Access
from .http import BadRequest, BoundedHandler, BoundedServer, Request
from .metrics import CONTENT_TYPE, metrics
from .previews import Previews
from .statistics import State

ASSETS = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Server(BoundedServer):
    """The listening socket with what its handlers need."""

    def __init__(self, host: str, port: int, token: str, state: State) -> None:
        self.state = state
        self.csrf = secrets.token_urlsafe(24)
        self._previews = Previews()
        self._lock, self._json = threading.Lock(), ("", b"")
        super().__init__(host, port, Handler)
        self.access = Access(host, self.server_port, token)

    def pictures(self, folder: int | None, relative: str, side: int) -> tuple[bytes, bytes]:
        """A file before and after; without a folder the last one. Raises InputError for what was not corrected here."""
        state = self.state
        if folder is None:
            newest = [
                (microscope.points[-1].time, index)
                for index, microscope in enumerate(state.microscopes)
                if microscope.points
            ]
            folder = max(newest)[1] if newest else 0
            relative = state.microscopes[folder].points[-1].file if newest else ""
        pair = state.pair(folder, relative) if relative else None
        if pair is None:
            raise InputError(relative or "pictures", "no such file has been corrected here", "choose another file")
        return self._previews.pair(*pair, side)

    def state_json(self) -> tuple[str, bytes]:
        """The tag of the state, and the state: made anew only when the tag is another one."""
        tag = f'"{hashlib.sha256(f"{self.csrf} {self.state.tag()}".encode()).hexdigest()[:32]}"'
        with self._lock:
            if self._json[0] != tag:
                content = self.state.picture() | {"csrf": self.csrf, "version": __version__}
                self._json = tag, json.dumps(content).encode()
            return self._json


def serve(host: str, port: int, token: str, state: State) -> Server:
    """Listen at an address. Raises InputError if it cannot be had."""
    try:
        return Server(host, port, token, state)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"status {host}:{port}", f"cannot be used ({reason})", "choose another port") from error


class Handler(BoundedHandler):
    """One request."""

    server: Server  # type: ignore[assignment]
    headers_always = HEADERS

    def respond(self, request: Request) -> None:
        if refusal := self.server.access.refusal(request):
            self._refuse(request, *refusal)
        elif request.method == "POST":
            self._post(request)
        elif request.path in ASSETS:
            name, kind = ASSETS[request.path]
            data = (files("defocus.watcher.status") / "assets" / name).read_bytes()
            self.answer(HTTPStatus.OK, data, f"{kind}; charset=utf-8", self.server.access.cookie())
        else:
            self._get(request)

    def _get(self, request: Request) -> None:
        routes: dict[str, Callable[[], None]] = {
            "/api/state": lambda: self._state(request),
            "/api/points": lambda: self._points(request),
            "/api/before.png": lambda: self._picture(request, 0),
            "/api/after.png": lambda: self._picture(request, 1),
            "/healthz": self._health,
            "/metrics": lambda: self.answer(HTTPStatus.OK, metrics(self.server.state).encode(), CONTENT_TYPE),
        }
        if request.path not in routes:
            raise BadRequest(HTTPStatus.NOT_FOUND, "no such page")
        routes[request.path]()

    def _post(self, request: Request) -> None:
        if request.path != "/api/retry":
            raise BadRequest(HTTPStatus.NOT_FOUND, "no such page")
        origin = request.fields.get("origin")
        ours = origin is None or urlsplit(origin).netloc == request.authority
        given = request.fields.get("x-defocus", "")
        if not ours or not hmac.compare_digest(given.encode(), self.server.csrf.encode()):
            raise BadRequest(HTTPStatus.FORBIDDEN, "not from this page")
        try:
            asked = json.loads(self.body(request))
            folder, file, code = asked["folder"], asked.get("file"), asked.get("code")
            if type(folder) is not int or not 0 <= folder < len(self.server.state.folders):
                raise ValueError("folder")
            if not isinstance(code if file is None else file, str):
                raise ValueError("neither a file nor a reason")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            wanted = 'send {"folder": 0, "file": "name.tif"}, or "code" for all of a reason'
            raise BadRequest(HTTPStatus.BAD_REQUEST, wanted) from error
        try:
            count = self.server.state.retry(folder, file, code)
        except DefocusError as error:
            raise BadRequest(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
        self._json(HTTPStatus.OK if count else HTTPStatus.NOT_FOUND, {"retried": count})

    def _refuse(self, request: Request, status: HTTPStatus, text: str) -> None:
        """A browser without a token gets a field for it."""
        if status is HTTPStatus.UNAUTHORIZED and "text/html" in request.fields.get("accept", ""):
            data = (files("defocus.watcher.status") / "assets" / "token.html").read_bytes()
            self.answer(status, data, "text/html; charset=utf-8")
            return
        bearer = {"WWW-Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else {}
        self.answer(status, f"{text}\n".encode(), "text/plain; charset=utf-8", bearer)

    def _state(self, request: Request) -> None:
        tag, data = self.server.state_json()
        if request.fields.get("if-none-match") == tag:
            self.answer(HTTPStatus.NOT_MODIFIED, b"", "application/json", {"ETag": tag})
        else:
            self.answer(HTTPStatus.OK, data, "application/json", {"ETag": tag})

    def _points(self, request: Request) -> None:
        folder, query = self._folder(request)
        try:
            after = float(query.get("after", "0"))
        except ValueError:
            raise BadRequest(HTTPStatus.BAD_REQUEST, "after must be a time") from None
        self._json(HTTPStatus.OK, self.server.state.points(folder or 0, after))

    def _folder(self, request: Request) -> tuple[int | None, dict[str, str]]:
        """The folder that is asked for, None for none, and all that is asked for."""
        query = {name: values[-1] for name, values in parse_qs(request.query, keep_blank_values=True).items()}
        text = query.get("folder")
        if text is None:
            return None, query
        if not text.isdecimal() or not text.isascii() or len(text) > 6 or int(text) >= len(self.server.state.folders):
            raise BadRequest(HTTPStatus.NOT_FOUND, "no such folder")
        return int(text), query

    def _health(self) -> None:
        problems = self.server.state.health.problems()
        status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        self._json(status, {"healthy": not problems, "problems": problems})

    def _picture(self, request: Request, which: int) -> None:
        folder, query = self._folder(request)
        side = THUMBNAIL if query.get("size") == "small" else SIDE
        try:
            pictures = self.server.pictures(folder, query.get("file", ""), side)
        except DefocusError as error:
            raise BadRequest(HTTPStatus.NOT_FOUND, str(error)) from error
        self.answer(HTTPStatus.OK, pictures[which], "image/png")

    def _json(self, status: HTTPStatus, content: object) -> None:
        self.answer(status, json.dumps(content).encode(), "application/json")
