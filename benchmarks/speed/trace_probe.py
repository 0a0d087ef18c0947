"""Run a command in this process and write down what it calls, opens and asks; `trace` starts it, with any checkout.

    python -P trace_probe.py FOUND.json INPUT.tif CODE [ARGUMENT ...]

CODE starts the command, which then sees the arguments. It counts from the moment the model is loaded.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
from types import FrameType
from typing import Any

PACKAGE = "defocus."

calls: list[tuple[str, str, str, int]] = []  # module, function, module that called it ("": none of ours), thread
opens: list[str] = []  # the modules that opened the input
queries: list[str] = []
by_tifffile: list[None] = []
begun = threading.Event()
opening = threading.local()


def module_of(frame: FrameType | None, but: str = "") -> str:
    """The nearest module of ours on the stack, other than `but`."""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(PACKAGE) and name != but:
            return name.removeprefix(PACKAGE)
        frame = frame.f_back
    return ""


def profile(frame: FrameType, event: str, _: object) -> None:
    code = frame.f_code
    if event == "return" and code.co_qualname == "Engine.load":
        begun.set()
    if event != "call" or not begun.is_set():
        return
    name = frame.f_globals.get("__name__", "")
    if name == "tifffile.tifffile" and code.co_qualname == "TiffFile.__init__":
        by_tifffile.append(None)
    # Not what dataclasses generate, nor the inside of a comprehension.
    if (
        name.startswith(PACKAGE)
        and code.co_filename[0] != "<"
        and (code.co_name == "<lambda>" or code.co_name[0] != "<")
    ):
        caller = module_of(frame.f_back)
        calls.append((name.removeprefix(PACKAGE), code.co_qualname, caller, threading.get_ident()))


def audit(event: str, arguments: tuple) -> None:
    if event == "open" and begun.is_set() and not isinstance(arguments[0], int):
        frame = sys._getframe(1)
        if arguments[1] is None and frame.f_back is getattr(opening, "frame", None):
            return  # an opener: the same open
        opening.frame = frame if arguments[1] is not None else None
        if os.fsdecode(arguments[0]) == INPUT:
            opens.append(module_of(frame, but=f"{PACKAGE}engine.files.version"))  # which opens for the others


def connect(*arguments: Any, **keywords: Any) -> sqlite3.Connection:
    connection = sqlite_connect(*arguments, **keywords)
    connection.set_trace_callback(lambda query: queries.append(query) if begun.is_set() else None)
    return connection


def count(module: str, *functions: str) -> int:
    return sum(name.rpartition(".")[2] == module and function in functions for name, function, *_ in calls)


FOUND, INPUT, CODE, *ARGUMENTS = sys.argv[1:]
sqlite_connect, sqlite3.connect = sqlite3.connect, connect
sys.addaudithook(audit)
threading.setprofile(profile)
sys.setprofile(profile)
sys.argv = ["defocus", *ARGUMENTS]
exit_code: object = 0
try:
    exec(CODE)
except SystemExit as end:
    exit_code = end.code or 0
finally:
    sys.setprofile(None)
crossings = [(caller, *called) for *called, caller, _ in calls if caller not in ("", called[0])]
modules: dict[str, int] = {}
for name, *_ in calls:
    modules[name] = modules.get(name, 0) + 1
with open(FOUND, "w", encoding="utf-8") as file:
    counts = {
        "calls of our functions": len(calls),
        "of these, in the reading and writing of TIFF": sum(name.startswith("engine.tiff") for name, *_ in calls),
        "of these, in the watcher": sum(name.startswith("watcher.") for name, *_ in calls),
        "functions": len({call[:2] for call in calls}),
        "modules": len(modules),
        "crossings (calls from one module to another)": len(crossings),
        "different crossings": len(set(crossings)),
        "threads": len({thread for *_, thread in calls}),
        "the input is opened": len(opens),
        "tifffile opens a file": len(by_tifffile),
        "its directories are walked by our own code": count("pages", "structure")
        + count("tiff_structure", "_count_pages"),
        "a plane is scanned for its extremes": count("bands", "extremes"),
        "a plane is searched for hot pixels": count("hot_pixels", "hot_pixels"),
        "its row in the journal is read": sum(
            query.startswith("SELECT") and " FROM files WHERE relative = " in query for query in queries
        ),
    }
    json.dump({"exit": exit_code, "counts": counts, "modules": modules, "opens": opens}, file)
