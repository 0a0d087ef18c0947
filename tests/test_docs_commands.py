"""Every command line of README and docs: given to the parser that reads it, and run where it is cheap."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import typer.main

from .helpers.calling import call
from .test_docs import MODULES, PAGES, ROOT

SCRIPTS = Path(sys.executable).parent
# Reads the command lines of scripts that use argparse, and stops there.
PARSE_ONLY = """
import argparse, json, runpy, sys
real = argparse.ArgumentParser.parse_args
class Parsed(BaseException): pass
def parse_args(self, args=None, namespace=None):
    real(self, args, namespace)
    raise Parsed
argparse.ArgumentParser.parse_args = parse_args
for line in json.load(sys.stdin):
    module = line[0] == "-m"
    sys.argv = line[1:] if module else line
    try:
        (runpy.run_module if module else runpy.run_path)(sys.argv[0], run_name="__main__")
    except Parsed:
        continue
    except SystemExit as error:
        print(f"{line}: exit code {error.code}")
    else:
        print(f"{line}: has no parser")
"""


@dataclass(frozen=True)
class CommandLine:
    """One command line of a page; `whole` if it stands in a block, not as a mention in the text."""

    page: str
    words: tuple[str, ...]
    whole: bool


def lines_of(page: Path) -> list[CommandLine]:
    name = page.relative_to(ROOT).as_posix()
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    found, language = [], None
    for line in text.splitlines():
        if fence := re.match(r"```(\w*)", line):
            language = None if language is not None else fence.group(1)
        elif language == "sh" or (language is None and line.startswith("    ")):
            found.append((line.strip(), True))
        elif language is None:
            found += [(code, False) for code in re.findall(r"`([^`]+)`", line)]
    starts = re.compile(rf"({'|'.join(MODULES)}|python (-m )?(benchmarks|demo)[./]|pytest |make )")
    return [
        CommandLine(name, tuple(shlex.split(code.split(" > ")[0], comments=True)), whole)
        for code, whole in found
        if starts.match(code)
    ]


LINES = list(dict.fromkeys(line for page in PAGES for line in lines_of(page)))
OURS = [line for line in LINES if line.words[0] in MODULES]


def ids(line: CommandLine) -> str:
    return f"{line.page}: {' '.join(line.words)}"


def complaint(command: Any, name: str, arguments: list[str]) -> Exception | None:
    """What the parser, and that of a sub-command, has against the arguments; nothing is run."""
    try:
        context = command.make_context(name, arguments)
        if hasattr(command, "commands") and arguments:
            rest = [*getattr(context, "_protected_args", ()), *context.args]
            name, command, rest = command.resolve_command(context, rest)
            command.make_context(name, rest, parent=context)
    except Exception as error:  # a class of click, which newer versions of typer bring along under another name
        return error
    return None


@pytest.mark.parametrize("line", OURS, ids=ids)
def test_our_parsers_take_every_command(line):
    command = typer.main.get_command(importlib.import_module(MODULES[line.words[0]]).app)
    arguments = [word.removesuffix("...") for word in line.words[1:]]
    if arguments == ["--version"]:  # it prints and exits
        return
    found = complaint(command, line.words[0], arguments)
    if line.whole:
        assert found is None, str(found)
    elif found is not None:  # a mention may leave out what the text around it says
        kind = type(found).__name__
        assert kind in ("MissingParameter", "NoArgsIsHelpError") or "requires" in str(found), str(found)


def test_the_benchmarks_parsers_take_every_command():
    lines = [line.words[1:] for line in LINES if line.words[0] == "python" and line.whole]
    assert len(lines) > 10
    done = subprocess.run(
        [sys.executable, "-c", PARSE_ONLY],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", done.stderr


@pytest.mark.parametrize("line", [line for line in LINES if line.words[0] in ("pytest", "make")], ids=ids)
def test_tests_and_targets_exist(line):
    if line.words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{line.words[1]}:", makefile, re.MULTILINE)
        return
    for word in line.words[1:]:
        if word.startswith("tests/"):
            path, _, test = word.partition("::")
            assert f"def {test}" in (ROOT / path).read_text(encoding="utf-8")


def is_cheap(line: CommandLine) -> bool:
    """Whether it takes seconds: no training, no proofs of an export, no cluster."""
    name, *rest = line.words
    if name == "defocus-export":
        return rest in (["--list-engines"], ["--clear-engines"])
    return (
        name in ("defocus-watch", "defocus-run", "defocus-doctor")
        and "--dask" not in rest
        and "D:acqfolder" not in rest
    )


RUN = [
    line for line in dict.fromkeys(CommandLine("", line.words, True) for line in OURS if line.whole) if is_cheap(line)
]


@pytest.fixture
def stage(tmp_path, tiny_model, tiny_model_2c):
    """What the pages take for granted: an acquisition folder, models, a settings file; and how a page names them."""
    acquisition = tmp_path / "acq"
    acquisition.mkdir()
    rng = np.random.default_rng(0)
    for channel in (1, 2):
        plane = rng.integers(90, 4000, (64, 80), dtype=np.uint16)
        tifffile.imwrite(acquisition / f"plate_a01_s2_w{channel}.tif", plane)
    (tmp_path / "defocus.toml").write_text(
        f"model = '{tiny_model}'\nsettle = 0.1\n[[folders]]\nacquisition = '{acquisition}'\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = dict.fromkeys(("/acq/folder", "/acq", "ACQ", "INPUT", "raw", "drift", "live"), str(acquisition))
    models = {"mine.onnx": str(tiny_model)} | {"two_channels.onnx": str(tiny_model_2c)}
    files = {"defocus.toml": str(tmp_path / "defocus.toml"), "/home/me/defocus.toml": str(tmp_path / "defocus.toml")}
    return places | models | files | {"8765": str(port), "0.0.0.0:8765": f"0.0.0.0:{port}"}


@pytest.mark.parametrize("line", RUN, ids=lambda line: " ".join(line.words))
def test_what_is_cheap_works(line, stage, tmp_path, tiny_model, monkeypatch):
    words = [stage.get(word.removesuffix("..."), word) for word in line.words]
    # The short form: one pass, and a tiny network where the page means the embedded one.
    if words[0] == "defocus-watch" and not {"--print-config", "--install-service", "--dry-run", "--once"} & {*words}:
        words += ["--once", "--settle", "0.1"]
    if not {"--model", "--config", "--version"} & {*words} and words[0] != "defocus-export":
        words += ["--model", str(tiny_model)]
    monkeypatch.chdir(tmp_path)
    done = call(MODULES[words[0]], *words, DEFOCUS_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr


PYTHON_BLOCKS = [
    (page.relative_to(ROOT).as_posix(), block)
    for page in PAGES
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
]
# What the pages take for granted: small images, and an acquisition of which nothing is asked.
GIVEN = """
import numpy as np
image = np.random.default_rng(0).integers(100, 4000, (64, 64), dtype=np.uint16)
stack, planes = np.stack([image] * 2).reshape(1, 1, 2, 64, 64), [image]
class Signal:
    def connect(self, slot): self.slot = slot
    def disconnect(self, slot): pass
class core:
    class mda:
        class events: frameReady = Signal()
    @staticmethod
    def run_mda(sequence, block): core.mda.events.frameReady.slot(image, "event")
sequence = []
"""


@pytest.mark.parametrize(("page", "block"), PYTHON_BLOCKS, ids=[page for page, _ in PYTHON_BLOCKS])
def test_python_of_the_pages_runs(page, block, tmp_path):
    if page.startswith("docs/tutorials/"):
        return  # test_tutorial.py runs it, on the files of the tutorial
    given = GIVEN
    if 'axes="TCYX"' in block:
        given += "stack = stack[0]\n"
    done = subprocess.run(
        [sys.executable, "-c", given + block], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


def keys_of(title: str) -> set[str]:
    """The keys in the table below a title of the page of outputs."""
    page = (ROOT / "docs" / "reference" / "output.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return {key for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", cell)}


def test_the_page_of_outputs_has_every_key_and_code(stage, tmp_path, tiny_model):
    from defocus import read_provenance
    from defocus.engine.errors import ErrorCode

    (Path(stage["ACQ"]) / "none.tif").write_bytes(b"")
    line = ["-o", str(tmp_path / "out"), "--model", str(tiny_model), "--json", "--backend", "cpu"]
    done = subprocess.run([SCRIPTS / "defocus-run", stage["ACQ"], *line], capture_output=True, text=True, timeout=600)
    records = [json.loads(record) for record in done.stdout.splitlines()]
    assert len(records) == 3, done.stderr
    assert all(set(record) == keys_of("`defocus-run --json`") for record in records)
    assert keys_of("Error codes") == {code.value for code in ErrorCode}
    found = read_provenance(tmp_path / "out" / "plate_a01_s2_w1.tif")
    assert found is not None
    assert set(found) == keys_of("Provenance") - {"channels", "fallbacks", "half_sha256"}  # only where there are any
    line = ["-o", str(tmp_path / "out2"), "--model", str(tiny_model), "--log-json", "--once", "--backend", "cpu"]
    done = subprocess.run([SCRIPTS / "defocus-watch", stage["ACQ"], *line], capture_output=True, text=True, timeout=600)
    seen = {key for record in done.stdout.splitlines() for key in json.loads(record)}
    rare = {"latency", "forecast"}  # of files that come while it watches, and of a long backlog
    assert seen == keys_of("`defocus-watch --log-json`") - rare, done.stdout
