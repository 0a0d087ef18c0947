"""What reaches a terminal: nobody's name, card or message can steer it, or look like another line."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

import defocus
from defocus.engine.errors import InputError, one_line

ROOT = Path(defocus.engine.__file__).parents[1]  # of a checkout or of a wheel
HOSTILE = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.\u2066\u2028b\u2029\x85\r\nwatching /fake -> /fake"


def harmless(text: str) -> bool:
    """Whether text, without its line ends, holds nothing that a terminal obeys."""
    return all(unicodedata.category(one) not in ("Cc", "Cf", "Zl", "Zp") for one in text.replace("\n", ""))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ~ text", "plain ~ text"),
        ("größe 試料 µm é.tif", "größe 試料 µm é.tif"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("a\nb\r\tc\x7f", r"a\nb\r\tc\x7f"),
        ("\x9b2J\x85", r"\x9b2J\x85"),
        ("\u202etxt.exe\u2069", r"\u202etxt.exe\u2069"),
        ("\u2028\u2029\ufeff\u200e", r"\u2028\u2029\ufeff\u200e"),
        ("\U000e0041", r"\U000e0041"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("byte \udcff", r"byte \udcff"),
    ],
)
def test_one_line(text, shown):
    assert one_line(text) == shown
    assert one_line(shown) == shown


def test_errors_are_one_line_whatever_they_are_about():
    said = str(InputError(HOSTILE, f"bad\n{HOSTILE}", "mend\x1bit"))
    assert harmless(said)
    assert "\n" not in said


def run(module: str, *arguments: object) -> str:
    """All that a command says, on both streams."""
    done = subprocess.run(
        [sys.executable, "-m", f"defocus.{module}", *map(str, arguments)],
        capture_output=True,
        timeout=300,
        env=os.environ | {"COLUMNS": "100000", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
    )
    return (done.stdout + done.stderr).decode()


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A folder with one file whose name is hostile and that is no TIFF."""
    folder = tmp_path / "acq"
    folder.mkdir()
    (folder / f"{HOSTILE.replace('/', '|')}.tif").write_bytes(b"no TIFF")
    return folder


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("engine.cli.run", ["ACQ", "-o", "OUT"]),
        ("engine.cli.run", [HOSTILE, "-o", "OUT"]),
        ("engine.cli.run", [f"--{HOSTILE}"]),
        ("engine.cli.doctor", ["--model", HOSTILE]),
        ("watcher.cli", ["ACQ", "-o", "OUT", "--once", "--settle", "0.1", "--patience", "0.1", "--backend", "cpu"]),
        ("watcher.cli", ["ACQ", "-o", "OUT", "--dry-run"]),
        ("watcher.cli", [HOSTILE]),
        ("export.cli", [HOSTILE, "-o", "OUT.onnx"]),
        ("training.cli.train", [HOSTILE, "-o", "OUT"]),
        ("training.cli.evaluate", ["--model", HOSTILE, "-o", "OUT"]),
        ("training.cli.data", ["bbbc006", "OUT", "--planes", HOSTILE]),
    ],
)
def test_no_command_lets_a_name_steer_the_terminal(module, arguments, hostile, tmp_path, tiny_model):
    there = {"ACQ": hostile, "OUT": tmp_path / "out", "OUT.onnx": tmp_path / "out.onnx"}
    given = [there.get(argument, argument) for argument in arguments]
    if hostile in given:
        given += ["--model", tiny_model]
    said = run(module, *given)
    assert said
    assert harmless(said), ascii(said)
    assert not any(line.startswith("watching /fake") for line in said.split("\n"))


def test_a_card_cannot_steer_the_terminal(tmp_path, make_model):
    model = make_model(tmp_path / "m.onnx", name=HOSTILE, training_data=HOSTILE, licence=HOSTILE)
    (tmp_path / "acq").mkdir()
    for said in (
        run("engine.cli.doctor", "--model", model),
        run("watcher.cli", tmp_path / "acq", "-o", tmp_path / "out", "--once", "--model", model, "--backend", "cpu"),
    ):
        assert r"\x1b]0;owned\x07" in said
        assert harmless(said)


def test_every_command_prints_through_the_one_function():
    """Beside it only what is JSON, a whole file, or the version."""
    allowed = re.compile(r"__version__|to_json\(|\bdumps\(|to_toml\(|instructions\(|one_line\(|trainer\.current_epoch")
    wrong = []
    for room in ("engine", "watcher", "export", "training"):
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "typer.echo", "click.echo"):
                    call = ast.unparse(node)
                    if not allowed.search(call):
                        wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {call}")
    assert wrong == []
