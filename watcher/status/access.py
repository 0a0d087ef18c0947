"""Who may look: the token in any of three ways, our own name, and no other site."""

from __future__ import annotations

import hashlib
import hmac
import os
from hmac import compare_digest
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote_to_bytes

from .http import Request

COOKIE_LONGEST = 8 * 1024  # bytes of a Cookie header; a longer one is not looked into
_NAVIGATION = ("/", "/index.html")


class Access:
    """The rules of one page, that listens at `host` and `port`; `token` "" asks for none.

    Without a token the page is of this machine only, and the Host must be a name of it: another site's name may be
    bent to this machine (DNS rebinding). With one, its cookie and its address do not travel to other sites.
    """

    def __init__(self, host: str, port: int, token: str) -> None:
        self._names = ("localhost", "127.0.0.1", "::1", host.lower())
        self._token = os.fsencode(token)
        self._cookie_name = f"defocus-{port}"  # cookies of a name are shared by all ports of it
        key = hashlib.sha256(b"defocus status cookie\0" + self._token).digest()
        self._cookie = hmac.new(key, str(port).encode(), hashlib.sha256).hexdigest()

    def refusal(self, request: Request) -> tuple[HTTPStatus, str] | None:
        """Why a visitor may not come in; None if he may."""
        site = request.fields.get("sec-fetch-site", "none").lower()
        visit = request.fields.get("sec-fetch-mode", "").lower() == "navigate" and request.path in _NAVIGATION
        if site not in ("none", "same-origin") and not (visit and request.method == "GET"):
            return HTTPStatus.FORBIDDEN, "not from another site"
        if self._token:
            if self._knows(request):
                return None
            return HTTPStatus.UNAUTHORIZED, "add ?token=... to the address, or Authorization: Bearer ..."
        if request.host in self._names:
            return None
        return HTTPStatus.FORBIDDEN, "not the name of this machine"

    def cookie(self) -> dict[str, str]:
        """The header that spares a browser the token from now on."""
        if not self._token:
            return {}
        return {"Set-Cookie": f"{self._cookie_name}={self._cookie}; HttpOnly; SameSite=Strict; Path=/"}

    def _knows(self, request: Request) -> bool:
        scheme, _, given = request.fields.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and any(self._is_token(candidate) for candidate in _bytes(given.strip())):
            return True
        for name, value in parse_qsl(request.query, keep_blank_values=True, encoding="latin-1", max_num_fields=None):
            # Decoded as forms write it, where "+" is a blank; and as it stands, for who typed it.
            if name == "token" and any(self._is_token(candidate) for candidate in _bytes(value)):
                return True
        for part in request.query.split("&"):
            name, _, value = part.partition("=")
            if name == "token" and self._is_token(unquote_to_bytes(value.encode("latin-1"))):
                return True
        cookies = request.fields.get("cookie", "")
        if len(cookies) > COOKIE_LONGEST:
            return False
        for part in cookies.split(";"):
            name, _, value = part.partition("=")
            if name.strip() == self._cookie_name and compare_digest(
                value.strip().encode("latin-1"), self._cookie.encode()
            ):
                return True
        return False

    def _is_token(self, given: bytes) -> bool:
        stripped = self._token.strip()  # which is all that a header can carry
        return compare_digest(given, self._token) or (bool(stripped) and compare_digest(given, stripped))


def _bytes(text: str) -> tuple[bytes, bytes]:
    """What a client may have meant by a header: the bytes as they came, or Latin-1 in place of UTF-8."""
    raw = text.encode("latin-1")
    return raw, text.encode()
