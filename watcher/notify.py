"""Tell somebody: a command or a URL, when focus drifts or files fail. Never in the way of the images."""

from __future__ import annotations

import json
import os
import queue
import shlex
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from statistics import median
from types import TracebackType
from typing import Any

from ..engine.errors import InputError, MissingExtraError
from .config import Config
from .events import WatchEvent

PAUSE = 600.0  # s between two messages about the same thing
_WINDOWS = os.name == "nt"
LIMIT = 30.0  # s that a command or a server may take
RECENT = 5  # files over whose median blur the drift is judged: one odd image is no drift
_WAITING = 100


class Notifier:
    """Judges events and tells of trouble from a thread of its own; a context manager.

    A message is JSON: {"kind": "drift" or "failed", "text", "folder", "file", "time"}.
    """

    def __init__(
        self,
        tellers: list[Callable[[dict[str, Any]], None]],
        drift_px: float = 0.0,
        say: Callable[[str], None] = lambda text: None,
        pause: float = PAUSE,
    ) -> None:
        self._tellers, self._drift_px, self._say, self._pause = tellers, drift_px, say, pause
        self._blurs: list[float] = []
        self._told: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name="defocus-notifier", daemon=True)

    @classmethod
    def of(cls, config: Config, say: Callable[[str], None]) -> Notifier:
        """The notifier that the settings ask for; one that tells nobody if they ask for none.

        Raises
        ------
        MissingExtraError
            The URL is one of apprise's, which is not installed.
        InputError
            The command or the URL makes no sense.
        """
        tellers: list[Callable[[dict[str, Any]], None]] = []
        if config.notify_command:
            tellers.append(by_command(config.notify_command))
        if config.notify_url:
            tellers.append(by_url(config.notify_url))
        return cls(tellers, config.drift_px, say)

    def see(self, event: WatchEvent) -> None:
        """Judge an event; never waits."""
        if not self._tellers:
            return
        if event.kind == "quarantined":
            self._message("failed", event, event.text)
        elif event.kind == "done" and event.outcome is not None and self._drift_px:
            blurs = [report.blur_px for report in event.outcome.reports if report.blur_px is not None]
            if blurs:
                self._blurs = [*self._blurs, median(blurs)][-RECENT:]
            if len(self._blurs) == RECENT and median(self._blurs) > self._drift_px:
                text = f"focus has drifted: the last {RECENT} files are blurred by {median(self._blurs):.1f} px"
                self._message("drift", event, f"{text}, more than {self._drift_px:g}")

    def __enter__(self) -> Notifier:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._queue.put(None, timeout=1)
        except queue.Full:
            return  # it is a daemon thread: the end of the process does not wait for a dead server
        self._thread.join(LIMIT)

    def _message(self, kind: str, event: WatchEvent, text: str) -> None:
        now = time.monotonic()
        if kind in self._told and now - self._told[kind] < self._pause:
            self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
            return
        self._told[kind] = now
        more = self._unsaid.pop(kind, 0)
        message = {
            "kind": kind,
            "text": f"{text} (and {more} more since the last message)" if more else text,
            "folder": str(event.folder or ""),
            "file": event.relative,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self._unsaid[kind] = more + 1

    def _run(self) -> None:
        while (message := self._queue.get()) is not None:
            for tell in self._tellers:
                try:
                    tell(message)
                except Exception as error:  # whatever a command or a server does, the images go on
                    self._say(f"nobody could be told ({type(error).__name__}: {error})".replace("\n", " "))


def by_command(command: str) -> Callable[[dict[str, Any]], None]:
    """Run a command with the message as JSON on its stdin. Raises InputError for a command that cannot be split."""
    try:
        # On Windows a backslash is a path's, and the quotes stay on what they enclose.
        arguments = [part.strip('"') if _WINDOWS else part for part in shlex.split(command, posix=not _WINDOWS)]
    except ValueError as error:
        raise InputError(f"notify_command {command!r}", f"cannot be read ({error})", "quote it like a shell") from error

    def tell(message: dict[str, Any]) -> None:
        done = subprocess.run(arguments, input=json.dumps(message), text=True, timeout=LIMIT, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"{arguments[0]} ended with {done.returncode}")

    return tell


def by_url(url: str) -> Callable[[dict[str, Any]], None]:
    """POST the message as JSON to an http(s) URL, or send its text to a URL of apprise.

    Raises MissingExtraError or InputError.
    """
    if url.startswith(("http://", "https://")):

        def post(message: dict[str, Any]) -> None:
            data = json.dumps(message).encode()
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=LIMIT):
                pass

        return post
    try:
        import apprise  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("apprise", "notify", "a notification other than http") from error
    service = apprise.Apprise()
    if not service.add(url):
        raise InputError(f"notify_url {url!r}", "is none that apprise knows", "see github.com/caronc/apprise")

    def send(message: dict[str, Any]) -> None:
        if not service.notify(title=f"defocus: {message['kind']}", body=message["text"]):
            raise RuntimeError("apprise could not deliver it")

    return send
