"""The page as the daemon uses it: made from the settings, started before the model, told of events."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

from ...engine.tiff.optics import RecordedOptics
from ..alerts.health import Health
from ..configuration.config import Config
from ..configuration.settings import FolderSettings
from .folder_statistics import MicroscopeSettings
from .server import Server, serve
from .statistics import State

_REMEDY = "write --status 8765, or --status 0.0.0.0:8765 with --status-token"


class StatusPage:
    """A server in a thread of its own; a context manager.

    Attributes
    ----------
    address : str
        Where a browser finds it; addresses that open, with the token's place where one is needed.
    state : State
        What it shows: to be told of the engine, and of events.
    """

    def __init__(self, host: str, port: int, token: str, state: State) -> None:
        self.state = state
        self._server: Server = serve(host, port, token, state)
        place = "?token=TOKEN" if token else ""
        self.address = " or ".join(
            f"http://{f'[{name}]' if ':' in name else name}:{self._server.server_port}/{place}"
            for name in _names(host, self._server.server_port)
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="defocus-status", daemon=True
        )

    @classmethod
    def of(cls, config: Config, folders: Sequence[FolderSettings], health: Health) -> StatusPage | None:
        """The page that the settings ask for; None if they ask for none.

        Raises
        ------
        InputError
            No such address, a port that is taken, or an address beyond this machine without a token.
        """
        if not config.status:
            return None
        host, _, port = config.status.rpartition(":")
        host = host.strip("[]") or "127.0.0.1"
        if not port.isdecimal() or int(port) > 65535:
            raise config.refused("status", f"is {config.status!r}, without a port", _REMEDY)
        if not is_loopback(host) and not config.status_token:
            cause = f"is {config.status!r}: can be reached from other machines"
            raise config.refused("status", cause, "add --status-token")
        return cls(host, int(port), config.status_token, State(folders, health, _microscopes(config), config.drift_px))

    def __enter__(self) -> StatusPage:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _microscopes(config: Config) -> list[MicroscopeSettings]:
    """What the settings say of each folder's microscope."""
    return [
        MicroscopeSettings(folder.name, RecordedOptics(folder.pixel_size_um or None, folder.na or None))
        for folder in config.folders
    ]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _names(host: str, port: int) -> list[str]:
    """Names by which the page, which listens at `host` already, can be opened; "0.0.0.0" and "::" are none."""
    if host not in ("0.0.0.0", "::"):
        return [host]
    family, nowhere, loopback = (
        (socket.AF_INET6, "2001:db8::1", "::1") if host == "::" else (socket.AF_INET, "192.0.2.1", "127.0.0.1")
    )
    names = [socket.gethostname()]
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((nowhere, 9))  # of documentation; nothing is sent, but the address of the way there is known
        names.append(probe.getsockname()[0])
    return [name for name in dict.fromkeys(names) if _opens(name, port)] or [loopback]


def _opens(name: str, port: int) -> bool:
    try:
        if all(is_loopback(str(entry[4][0])) for entry in socket.getaddrinfo(name, port)):
            return False  # as Debian resolves its own name; it tells nobody else anything
        with socket.create_connection((name, port), timeout=0.5):
            return True
    except OSError:
        return False
