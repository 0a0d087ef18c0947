from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from defocus.engine.cli._app import one_line_errors
from defocus.engine.errors import ModelError

PROGRAM = """
import sys, typer
from defocus.engine.cli import _app
from defocus.engine.errors import InputError
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
@app.command()
def program(what: str, number: int = 1):
    if what == "input": raise InputError("a\\nb.tif", "not a\\n TIFF", "give one")
    if what == "bug": raise ZeroDivisionError("division\\nby zero")
    if what == "os": open("/nowhere/at/all")
    if what == "exit": raise typer.Exit(7)
    if what == "abort": raise typer.Abort
    if what == "usage": raise typer.BadParameter("no such thing")
    if what == "sleep":
        print("ready", flush=True)
        import signal; signal.pause()
    if what == "pour":
        for i in range(10**6): print("line", i)
    if what == "library":
        import logging, threading, warnings
        logging.getLogger("some.library").error("logged\\n")
        warnings.warn("warned", RuntimeWarning)
        ended = threading.Thread(target=lambda: 1 / 0)
        ended.start()
        ended.join()
    return {"three": 3, "text": "text"}.get(what)
_app.run(app)
"""


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize(
    ("what", "code", "line"),
    [
        ("fine", 0, ""),
        ("text", 0, ""),
        ("three", 3, ""),
        ("exit", 7, ""),
        ("input", 1, "a b.tif: not a TIFF; give one"),
        (
            "bug",
            1,
            "unexpected error (ZeroDivisionError: division by zero); please report it, "
            "run with DEFOCUS_TRACEBACK=1 to see the traceback",
        ),
        ("usage", 2, "Invalid value: no such thing (--help shows the options)"),
    ],
)
def test_one_line_and_a_code(what, code, line):
    done = run(what)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr == (f"-c: {line}\n" if line else "")


def test_wrong_typing_is_2_and_one_line():
    for arguments in ([], ["fine", "--nonsense"], ["fine", "--number", "many"], ["fine", "more"]):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "--help" in done.stderr


def test_the_traceback_is_there_for_those_who_ask():
    done = run("bug", DEFOCUS_TRACEBACK="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" not in run("input", DEFOCUS_TRACEBACK="1").stderr  # not for an error that explains itself
    assert "Traceback" not in run("os").stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_is_130_without_a_traceback():
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "sleep"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 130
        assert "Traceback" not in process.stderr.read()
    assert run("abort").returncode == 130


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_leaves_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "pour"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(300) == 1
        assert process.stderr.read() == ""


def test_as_a_decorator_and_a_context(capsys):
    @one_line_errors()
    def command(path: Path) -> int:
        if path.name == "good":
            return 5
        raise ModelError(path, "is no model", "give one")

    assert command(Path("good")) == 5
    with pytest.raises(SystemExit) as caught:
        command(Path("bad"))
    assert caught.value.code == 1
    assert capsys.readouterr().err.endswith("bad: is no model; give one\n")
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise KeyboardInterrupt
    assert caught.value.code == 130
    with pytest.raises(SystemExit) as caught, one_line_errors():
        sys.exit(4)
    assert caught.value.code == 4


def test_what_a_library_logs_or_warns_of_is_not_shown_and_its_threads_end_with_a_line():
    done = run("library")
    assert done.stderr.splitlines() == ["-c: a thread ended (ZeroDivisionError: division by zero)"]
    shown = run("library", DEFOCUS_TRACEBACK="1").stderr
    assert all(text in shown for text in ("logged", "RuntimeWarning: warned", "Traceback"))
