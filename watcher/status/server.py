"""The HTTP server of the status page: a few fixed addresses, no path of a visitor ever becomes a path of the disk.

It is read-only but for one thing, "try again", which needs POST, a token that only a page of the same origin can read,
and an Origin that is our own. Who may look is decided in `access`, how a request is read in `http`.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from urllib.parse import urlsplit

from ...engine._version import __version__
from ...engine.errors import DefocusError, InputError
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
        super().__init__(host, port, Handler)
        self.access = Access(host, self.server_port, token)

    def pictures(self) -> tuple[bytes, bytes] | None:
        """The last file before and after, made once."""
        state = self.state
        if state.last is None:
            return None
        index, relative = state.last
        folder = state.folders[index]
        return self._previews.pair(folder.acquisition / relative, folder.out / relative)


def serve(host: str, port: int, token: str, state: State) -> Server:
    """Listen at an address. Raises InputError if it cannot be had."""
    try:
        return Server(host, port, token, state)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"status {host}:{port}", f"cannot be listened at ({reason})", "choose another port") from error


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
            "/api/state": self._state,
            "/api/before.png": lambda: self._picture(0),
            "/api/after.png": lambda: self._picture(1),
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
        if not ours or not _same(request.fields.get("x-defocus", ""), self.server.csrf):
            raise BadRequest(HTTPStatus.FORBIDDEN, "not from this page")
        try:
            asked = json.loads(self.body(request))
            folder, relative = asked["folder"], asked["file"]
            if type(folder) is not int or not isinstance(relative, str):
                raise ValueError("types")
            if not 0 <= folder < len(self.server.state.folders):
                raise ValueError("folder")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadRequest(HTTPStatus.BAD_REQUEST, 'send {"folder": 0, "file": "name.tif"}') from error
        try:
            found = self.server.state.retry(folder, relative)
        except DefocusError as error:
            raise BadRequest(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
        self._json(HTTPStatus.OK if found else HTTPStatus.NOT_FOUND, {"retried": found})

    def _refuse(self, request: Request, status: HTTPStatus, text: str) -> None:
        """A browser without a token gets a field for it."""
        if status is HTTPStatus.UNAUTHORIZED and "text/html" in request.fields.get("accept", ""):
            data = (files("defocus.watcher.status") / "assets" / "token.html").read_bytes()
            self.answer(status, data, "text/html; charset=utf-8")
            return
        bearer = {"WWW-Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else {}
        self.answer(status, f"{text}\n".encode(), "text/plain; charset=utf-8", bearer)

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
            raise BadRequest(HTTPStatus.NOT_FOUND, str(error)) from error
        if pictures is None:
            raise BadRequest(HTTPStatus.NOT_FOUND, "nothing has been corrected yet")
        self.answer(HTTPStatus.OK, pictures[which], "image/png")

    def _json(self, status: HTTPStatus, content: object) -> None:
        self.answer(status, json.dumps(content).encode(), "application/json")


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
