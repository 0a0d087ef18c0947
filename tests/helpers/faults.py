"""Faults of the operating system that begin and end while a real process runs: faults.c, loaded into it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")


@dataclass(frozen=True)
class Faults:
    """The shim of one process: `environment` loads it, `during` lets calls fail.

    Attributes
    ----------
    folder : Path
        Where the rules and the list of faults that were met are kept.
    library : Path
        The compiled shim.
    """

    folder: Path
    library: Path

    @property
    def environment(self) -> dict[str, str]:
        """What the process must have in its environment."""
        return {
            "LD_PRELOAD": str(self.library),
            "DEFOCUS_FAULTS": str(self.folder / "rules"),
            "DEFOCUS_FAULTS_HITS": str(self.folder / "hits"),
        }

    @contextmanager
    def during(self, *rules: tuple[str, int, str], seconds: float = 0.0) -> Iterator[None]:
        """Within it, calls fail: rules of (call, errno, pattern of paths), each after `seconds`; errno 0: only slow.

        Fails if no fault was met at all: then nothing has been tested.
        """
        before = len(self.met())
        self.begin(*rules, seconds=seconds)
        yield
        self.end()
        assert len(self.met()) > before, f"{rules} were never met"

    def begin(self, *rules: tuple[str, int, str], seconds: float = 0.0) -> None:
        text = "".join(f"{call} {number} {1000 * seconds:.0f} {pattern}\n" for call, number, pattern in rules)
        aside = self.folder / "rules.new"
        aside.write_text(text)
        aside.replace(self.folder / "rules")

    def end(self) -> None:
        (self.folder / "rules").unlink(missing_ok=True)

    def met(self) -> list[str]:
        """The faults that were met until now: "CALL PATH" each."""
        path = self.folder / "hits"
        return path.read_text().splitlines() if path.exists() else []


def compiled(folder: Path) -> Path | None:
    """The shim, compiled into a folder; None where that cannot be: no Linux, no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if os.name != "posix" or compiler is None or not Path("/proc/self/fd").exists():
        return None
    library = folder / "faults.so"
    line = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(line, check=True)
    return library


def name_of(number: int) -> str:
    """EIO for 5, and so on: for the names of tests."""
    return errno.errorcode[number]
