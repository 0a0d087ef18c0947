"""What `defocus-watch` does on a desktop if it is given nothing: the page has a port, and a browser opens it."""

from __future__ import annotations

import socket
import threading
import webbrowser

USUAL_PORT = 8765


def page_port() -> int:
    """The usual port of the page, so that a bookmark stays right; 0, for any, while something else listens there."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", USUAL_PORT))
        except OSError:
            return 0
        return USUAL_PORT


def open_page(address: str) -> None:
    """Open a page in the user's browser, without waiting for it; the first of several addresses."""
    first = address.split(" or ")[0].partition("?")[0]  # a token's place is not a token: the page asks for it
    threading.Thread(target=webbrowser.open, args=(first,), name="defocus-browser", daemon=True).start()
