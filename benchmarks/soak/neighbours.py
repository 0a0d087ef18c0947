"""Neighbours of the daemon: a defocus-run into the same folder, slow visitors, a link in the place of a file."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import tifffile

NAMES = [f"beside-{number}.tif" for number in range(6)]
VISITORS = 40  # at once; the page keeps 32 connections
_PRECIOUS = "precious"


class Neighbours(threading.Thread):
    """Comes again and again until `stop`; then `wrong` says what the daemon did to it."""

    def __init__(self, work: Path, out: Path, model: str, backend: str, port: int, stop: threading.Event) -> None:
        super().__init__(name="neighbours")
        self.met: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._inputs, self._out, self._victim = work / "beside", out, work / "victim"
        self._command = [sys.executable, "-m", "defocus.engine.cli.run", str(self._inputs), "-o", str(out)]
        self._command += ["--model", model, "--backend", backend, "--overwrite"]
        self._port, self._stop_event = port, stop

    def run(self) -> None:
        self._inputs.mkdir()
        self._victim.write_text(_PRECIOUS)
        for seed, name in enumerate(NAMES):
            pixels = np.random.default_rng(seed).integers(100, 3000, (700, 700), dtype=np.uint16)
            tifffile.imwrite(self._inputs / name, pixels)
        while not self._stop_event.is_set():
            with ExitStack() as visitors:
                for _ in range(VISITORS):
                    with suppress(OSError):  # the daemon is being killed or started
                        visitor = visitors.enter_context(socket.create_connection(("127.0.0.1", self._port), 1))
                        visitor.sendall(b"GET / HTTP/1.1\r\n")
                        self.met["slow visitors"] += 1
                self._plant()
                done = subprocess.run(self._command, capture_output=True, text=True)
            self.met["defocus-run"] += 1
            if done.returncode != 0:
                self.wrong.append(f"defocus-run beside it failed: {done.stdout[-300:]} {done.stderr[-300:]}")
            for name in NAMES:
                (self._out / name).unlink(missing_ok=True)
            self._stop_event.wait(3)
        if self._victim.read_text() != _PRECIOUS:
            self.wrong.append("a file behind a link in .defocus was written")

    def _plant(self) -> None:
        """A link in the place of daemon.json."""
        aside = self._out / ".defocus" / "planted"
        with suppress(OSError):
            aside.unlink(missing_ok=True)
            aside.symlink_to(self._victim)
            os.replace(aside, aside.with_name("daemon.json"))
            self.met["links in .defocus"] += 1
