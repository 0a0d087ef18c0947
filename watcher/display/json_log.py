"""Log lines for machines: one JSON object a line (`--log-json`)."""

from __future__ import annotations

import json
import sys
import threading
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import TextIO

from ...engine.quality.report import summary
from ..events import WatchEvent


class JsonLog:
    """Writes events as JSON lines; takes the place of `console.Live`. Its methods may be called from any thread."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream, self._lock = stream or sys.stdout, threading.Lock()

    def running(self) -> nullcontext[None]:
        """Nothing: each line is written as it comes."""
        return nullcontext()

    def show(self, event: WatchEvent) -> None:
        """Write an event: time, event, queued, and each other field that it has."""
        if event.kind == "waiting":  # as often as files come; a partner that stays away is told of as "quarantined"
            return
        line: dict[str, object] = {"event": event.kind}
        if event.folder is not None:
            line["folder"] = str(event.folder)
        if event.relative:
            line["file"] = event.relative
        if event.text:
            line["text"] = event.text
        if event.code is not None:
            line["code"] = event.code.value
        if event.latency is not None:
            line["latency"] = round(event.latency, 4)
        line["queued"] = event.queued
        if event.left is not None:
            line["left"] = event.left
        if event.forecast is not None:
            line["forecast"] = round(event.forecast, 1)
        if event.outcome is not None:
            line["seconds"] = {stage: round(value, 4) for stage, value in event.outcome.seconds.items()}
            line["planes"] = summary(event.outcome.reports)
        self._write(line)

    def end(self) -> None:
        """Nothing: each file's line has its planes."""

    def say(self, text: str) -> None:
        """Write a line that is about no file."""
        self._write({"event": "info", "text": text})

    def _write(self, line: dict[str, object]) -> None:
        stamped = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **line}
        with self._lock, suppress(OSError):  # the images go on, also if the disk of the log is full
            print(json.dumps(stamped), file=self._stream, flush=True)
