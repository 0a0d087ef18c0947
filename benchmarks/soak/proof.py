"""What must hold after the soak: nothing lost, nothing doubled, nothing touched. A list of what does not."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.soak.load import Written
from defocus import Engine
from defocus.engine.errors import DefocusError
from defocus.engine.files.atomic import PREFIX
from defocus.engine.tiff.read import read_tiff
from defocus.watcher.journal import FOLDER, NAME


def journal_of(out: Path) -> dict[str, tuple[str, str]]:
    """State and reason of each file that the journal knows; {} while there is none."""
    try:
        with closing(sqlite3.connect(f"file:{out / FOLDER / NAME}?mode=ro", uri=True, timeout=20)) as journal:
            rows = journal.execute("SELECT relative, state, reason FROM files").fetchall()
    except sqlite3.OperationalError:
        return {}
    return {relative: (state, reason) for relative, state, reason in rows}


def settled(out: Path, files: dict[str, Written]) -> bool:
    """Whether the journal knows every file as it is now."""
    try:
        with closing(sqlite3.connect(f"file:{out / FOLDER / NAME}?mode=ro", uri=True, timeout=20)) as journal:
            rows = journal.execute("SELECT relative, mtime_ns FROM files WHERE state != 'failed'").fetchall()
    except sqlite3.OperationalError:
        return False
    known = dict(rows)
    return all(known.get(name) == one.mtime_ns for name, one in files.items())


def wrong(
    acquisition: Path, out: Path, files: dict[str, Written], done: Counter[str], model: str, backend: str
) -> list[str]:
    """Everything that is not as it must be, a line each; empty if all is well."""
    found = _input(acquisition, files)
    good = {name for name, one in files.items() if one.good}
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file() and FOLDER not in path.parts}
    found += [f"lost: {name}" for name in sorted(good - there)]
    found += [f"not asked for: {name}" for name in sorted(there - good)]
    found += [f"left over: {path}" for path in out.rglob(f"{PREFIX}*")]
    found += [
        f"doubled: {name}, {times} times, {files[name].versions} versions"
        for name, times in sorted(done.items())
        if name in files and times > files[name].versions
    ]
    journal = journal_of(out)
    for name, one in files.items():
        state, reason = journal.get(name, ("unknown", ""))
        if state != ("done" if one.good else "quarantined"):
            found.append(f"journal: {name} is {state}")
        elif not one.good and not reason:
            found.append(f"journal: {name} has no reason")
    with closing(sqlite3.connect(out / FOLDER / NAME)) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            found.append(f"journal: {verdict}")
    return found + _pixels(acquisition, out, sorted(good & there), model, backend)


def _input(acquisition: Path, files: dict[str, Written]) -> list[str]:
    now = {path.relative_to(acquisition).as_posix(): path for path in acquisition.rglob("*") if path.is_file()}
    found = [f"input: {name} came or went" for name in sorted(now.keys() ^ files.keys())]
    for name, one in files.items():
        path = now.get(name)
        if path is None:
            continue
        if path.stat().st_mtime_ns != one.mtime_ns or hashlib.sha256(path.read_bytes()).hexdigest() != one.digest:
            found.append(f"input: {name} was changed")
    return found


def _pixels(acquisition: Path, out: Path, names: list[str], model: str, backend: str) -> list[str]:
    """Each output against what the engine makes of its input as it is now."""
    found = []
    with Engine.load(model, backend=backend) as engine:
        for name in names:
            try:
                stack = read_tiff(acquisition / name)
                if not np.array_equal(read_tiff(out / name).data, engine(stack.data, stack.axes)):
                    found.append(f"other pixels: {name}")
            except DefocusError as error:
                found.append(f"cannot be compared: {error}")
    return found
