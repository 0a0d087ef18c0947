"""Tell somebody, by a command or a URL, of drifts, failures, batches and days. Never in the way of the images."""

from __future__ import annotations

import json
import math
import os
import queue
import shlex
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

from ...engine.errors import InputError, MissingExtraError, one_line
from ..clock import SYSTEM_CLOCK, Clock
from ..configuration.config import Config
from ..events import WatchEvent
from ..tally import Tally
from .drift import RECENT, Drift

PAUSE = 600.0  # s between two messages about the same thing
QUIET = 300.0  # s without a file after which a batch has ended
BATCH = 20  # files that were corrected make a batch
_WINDOWS = os.name == "nt"
LIMIT = 30.0  # s that a command or a server may take
END = 2.0  # s that the end of the daemon waits for messages
_WAITING = 100


class Notifier:
    """Judges events and tells of trouble from a thread of its own; a context manager.

    A message is JSON: {"kind", "text", "folder", "file", "code", "time"}, of the kinds "drift", "drift_end", "failed",
    "batch" (a folder has been quiet for a while after many files, or the daemon ends) and "daily" (at midnight, local).
    """

    def __init__(
        self,
        senders: list[Callable[[dict[str, Any]], None]],
        drift_px: float = 0.0,
        say: Callable[[str], None] = lambda text: None,
        pause: float = PAUSE,
        quiet: float = QUIET,
        until_midnight: Callable[[], float] = lambda: _until_midnight(),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._senders, self._drift_px, self._say, self._pause = senders, drift_px, say, pause
        self._quiet, self._until_midnight, self._clock = quiet, until_midnight, clock
        self._drifts: dict[Path | None, Drift] = {}
        self._drifted: set[Path | None] = set()
        self._batches: dict[Path | None, Tally] = {}
        self._day, self._midnight = Tally(), self._clock.monotonic() + until_midnight()
        self._last_sent: dict[tuple[str, Path | None], float] = {}
        self._held_back: dict[tuple[str, Path | None], int] = {}
        self._lock = threading.Lock()  # of all of these: events and the clock come from different threads
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
        senders: list[Callable[[dict[str, Any]], None]] = []
        for name, make in (("notify_command", by_command), ("notify_url", by_url)):
            if value := getattr(config, name):
                try:
                    senders.append(make(value))
                except InputError as error:
                    raise config.refused(name, f"is {error.thing!r}: {error.cause}", error.remedy) from error
        return cls(senders, config.drift_px, say)

    def see(self, event: WatchEvent) -> None:
        """Judge an event; never waits."""
        if not self._senders or event.kind not in ("done", "quarantined"):
            return
        with self._lock:
            now = self._clock.monotonic()
            self._day.add(event, now)
            self._batches.setdefault(event.folder, Tally()).add(event, now)
            if event.kind == "quarantined":
                self._message("failed", event.text, event)
            elif event.outcome is not None and self._drift_px:
                self._judge(event)

    def __enter__(self) -> Notifier:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._end_batches(math.inf)
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return  # it is a daemon thread: the end of the process does not wait for a dead server
        self._thread.join(END)

    def _judge(self, event: WatchEvent) -> None:
        """Whether the focus of a folder has drifted, or is back."""
        assert event.outcome is not None
        drift = self._drifts.setdefault(event.folder, Drift(self._drift_px))
        drift.add(event.outcome.overview.blur_px)
        blur = drift.blur_px
        if drift.drifted:
            self._drifted.add(event.folder)
            text = f"focus has drifted: the last {RECENT} files are blurred by {blur:.1f} px"
            self._message("drift", f"{text}, more than {self._drift_px:g}", event)
        elif blur is not None and event.folder in self._drifted:
            self._drifted.discard(event.folder)
            self._last_sent.pop(("drift", event.folder), None)  # the next drift is another one
            self._message("drift_end", f"focus is back: the last {RECENT} files are blurred by {blur:.1f} px", event)

    def _tick(self) -> None:
        """Tell of batches and days that have ended."""
        with self._lock:
            now = self._clock.monotonic()
            self._end_batches(now - self._quiet)
            if now >= self._midnight:
                if self._day.begun:
                    self._message("daily", f"today: {self._day}")
                self._day, self._midnight = Tally(), now + self._until_midnight()

    def _end_batches(self, quiet_since: float) -> None:
        for folder, batch in list(self._batches.items()):
            if batch.last <= quiet_since:
                del self._batches[folder]
                if batch.restored + batch.kept >= BATCH:
                    minutes = (batch.last - batch.begun) / 60
                    event = WatchEvent("done", folder=folder)
                    self._message("batch", f"a batch has ended: {batch} in {minutes:.0f} min", event)

    def _message(self, kind: str, text: str, event: WatchEvent | None = None) -> None:
        folder = event.folder if event is not None else None
        key, now = (kind, folder), self._clock.monotonic()
        if kind in ("failed", "drift") and key in self._last_sent and now - self._last_sent[key] < self._pause:
            self._held_back[key] = self._held_back.get(key, 0) + 1
            return
        self._last_sent[key] = now
        more = self._held_back.pop(key, 0)
        message = {
            "kind": kind,
            "text": one_line(f"{text} (and {more} more since the last message)" if more else text),
            "folder": str(folder or ""),
            "file": event.relative if event is not None else "",
            "code": event.code.value if event is not None and event.code is not None else None,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self._held_back[key] = more + 1

    def _run(self) -> None:
        while True:
            try:
                message = self._queue.get(
                    timeout=max(0.01, min(self._quiet, 60.0, self._midnight - self._clock.monotonic()))
                )
            except queue.Empty:
                self._tick()
                continue
            if message is None:
                return
            for send in self._senders:
                try:
                    send(message)
                except Exception as error:  # whatever a command or a server does, the images go on
                    self._say(one_line(f"the notification failed ({type(error).__name__}: {error})".replace("\n", " ")))


def _until_midnight() -> float:
    """Seconds to the next midnight of this place; 1 at least."""
    now = datetime.now().astimezone()
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return max(1.0, (midnight - now).total_seconds())


def by_command(command: str) -> Callable[[dict[str, Any]], None]:
    """Run a command with the message as JSON on its stdin. Raises InputError for a command that cannot be split."""
    try:
        # On Windows a backslash is a path's, and the quotes stay on what they enclose.
        arguments = [part.strip('"') if _WINDOWS else part for part in shlex.split(command, posix=not _WINDOWS)]
    except ValueError as error:
        raise InputError(command, f"cannot be read ({error})", "quote it like a shell") from error

    def tell(message: dict[str, Any]) -> None:
        done = subprocess.run(
            arguments, input=json.dumps(message), text=True, timeout=LIMIT, stdout=DEVNULL, stderr=DEVNULL
        )
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
        raise InputError(url, "is not a URL that apprise supports", "see github.com/caronc/apprise")

    def send(message: dict[str, Any]) -> None:
        if not service.notify(title=f"defocus: {message['kind']}", body=message["text"]):
            raise RuntimeError("apprise could not deliver it")

    return send
