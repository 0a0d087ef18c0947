"""`defocus COMMAND`: every command under one name, the same as by its own."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import typer.main

from defocus import __version__
from defocus.__main__ import COMMANDS

from .helpers import commands_page
from .helpers.calling import Called, call

SCRIPTS = Path(sys.executable).parent
DOCS = Path(__file__).parents[1] / "docs"


def start(*arguments: object, module: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "defocus"] if module else [SCRIPTS / "defocus"]
    surroundings = os.environ | {"COLUMNS": "200", "TERM": "dumb"} | environment
    return subprocess.run(
        [*line, *map(str, arguments)], env=surroundings, capture_output=True, text=True, encoding="utf-8", timeout=600
    )


def test_the_sub_commands_are_the_commands_and_the_report():
    only_here = {"report", "install-shortcut"}
    same = {f"defocus-{name}": f"defocus.{module}" for name, (module, _) in COMMANDS.items() if name not in only_here}
    assert same == commands_page.modules()


@pytest.mark.parametrize("module", [False, True])
def test_help_lists_every_sub_command_without_loading_one(module):
    for option in ("-h", "--help"):
        done = start(option, module=module)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: defocus " in done.stdout
        for name, (_, text) in COMMANDS.items():
            assert re.search(rf"\b{name} +{re.escape(text)}", done.stdout), name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_sub_command_is_the_command_with_two_words_as_its_name(name):
    def answer(option: str) -> Called:
        return call("defocus.__main__", "defocus", name, option, COLUMNS="200", TERM="dumb")

    done = answer("-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: defocus {name} " in done.stdout
    done = answer("--version")
    assert (done.returncode, done.stdout) == (0, f"defocus {name} {__version__}\n")
    done = answer("--nonsense")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"defocus {name}: ")
    assert "--nonsense" in done.stderr


def test_version():
    for module in (False, True):
        assert start("--version", module=module).stdout == f"defocus {__version__}\n"


def test_without_a_sub_command_it_is_the_help():
    for module in (False, True):
        bare, asked = start(module=module), start("--help", module=module)
        assert (bare.returncode, bare.stdout, bare.stderr) == (0, asked.stdout, "")


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("wach", "did you mean watch?"),
        ("evalute", "did you mean evaluate?"),
        ("xyz", f"choose from {', '.join(COMMANDS)}"),
    ],
)
def test_an_unknown_sub_command_suggests_the_nearest(typed, hint):
    done = start(typed, "--once")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"defocus: no such command: {typed}; {hint} (--help shows the options)\n"


@pytest.mark.parametrize("line", [("nonsense",), ("nonsense", "--help"), ("--nonsense",)])
def test_an_unknown_sub_command_is_one_line(line):
    done = start(*line)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("defocus: ")
    assert "nonsense" in done.stderr


def test_an_error_names_the_sub_command(tmp_path):
    done = start("report", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("defocus report: ")


@pytest.mark.parametrize("arguments", [["--help"], ["watch", "--help"], ["train", "--help"], ["export", "--help"]])
def test_nothing_heavy_is_loaded_for_help(arguments):
    code = f"""
import sys
sys.argv = ["defocus", *{arguments!r}]
from defocus.__main__ import main
try:
    main()
finally:
    loaded = [name for name in ("numpy", "scipy", "torch", "onnx", "onnxruntime", "tifffile") if name in sys.modules]
    print(loaded, [name for name in sys.modules if name.endswith(".cli.train")], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    own = ["defocus.training.cli.train"] if arguments[0] == "train" else []
    assert (done.returncode, done.stderr) == (0, f"[] {own}\n")


def test_python_m_defocus_run_and_report_do_what_the_commands_do(tmp_path, tiny_model):
    raw = tmp_path / "raw"
    raw.mkdir()
    image = np.random.default_rng(0).integers(90, 4000, (2, 64, 80), dtype=np.uint16)
    tifffile.imwrite(raw / "a.tif", image, compression="lzw", metadata={"axes": "ZYX"})
    options = ["--model", tiny_model, "--backend", "cpu", "--all-planes", "--json"]
    made = []
    for name, line in {
        "script": [SCRIPTS / "defocus-run"],
        "command": [SCRIPTS / "defocus", "run"],
        "module": [sys.executable, "-m", "defocus", "run"],
    }.items():
        out = tmp_path / name / "corrected"
        done = subprocess.run([*line, raw, "-o", out, *options], capture_output=True, text=True, timeout=600)
        assert (done.returncode, done.stderr.count("\n")) == (0, 1)
        called = "defocus-run" if name == "script" else "defocus run"
        assert done.stderr.startswith(f"{called}: 1 done, 0 skipped, 0 failed in ")
        assert json.loads(done.stdout.splitlines()[0])["target"] == str(out / "a.tif")
        made.append((out / "a.tif").read_bytes())
    assert made[0] == made[1] == made[2]
    assert not np.array_equal(tifffile.imread(tmp_path / "module" / "corrected" / "a.tif"), image)

    done = start("report", tmp_path / "module" / "corrected", "--inputs", raw, "--to", tmp_path / "report")
    assert (done.returncode, done.stderr) == (0, "")
    assert len((tmp_path / "report" / "report.csv").read_text(encoding="utf-8").splitlines()) == 3
    assert "a.tif" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("defocus ", set(COMMANDS)), ("defocus ev", {"evaluate"}), ("defocus watch --re", {"--retries", "--rescan"})],
)
def test_the_shell_completes_sub_commands_and_options(typed, offered):
    words = shlex.split(typed)
    at = len(words) - (not typed.endswith(" "))
    found = start(_DEFOCUS_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(at))
    assert set(found.stdout.split()) == offered
    found = start(_DEFOCUS_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=typed)
    assert set(re.findall(r'"([\w-]+)":', found.stdout) or found.stdout.split()) == offered
    fish = {"_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    found = start(_DEFOCUS_COMPLETE="complete_fish", **fish)
    assert {line.split("\t")[0] for line in found.stdout.splitlines()} == offered


@pytest.mark.skipif(os.name == "nt", reason="PowerShell keeps its completions elsewhere")
def test_completion_is_installed_for_the_shell_that_asks(tmp_path):
    bash = ["bash", "-c", f"{shlex.quote(str(SCRIPTS / 'defocus'))} --install-completion; exit $?"]
    done = subprocess.run(bash, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    script = tmp_path / ".bash_completions" / "defocus.sh"
    assert str(script) in (tmp_path / ".bashrc").read_text()
    assert "_DEFOCUS_COMPLETE=complete_bash" in script.read_text()


def test_the_lines_of_the_guides_are_understood():
    lines = [
        shlex.split(line)
        for page in DOCS.rglob("*.md")
        for line in re.findall(r"^    (defocus [a-z].*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert lines
    for _, name, *arguments in lines:
        typer.main.get_command(importlib.import_module(f"defocus.{COMMANDS[name][0]}").app).make_context(
            name, arguments
        )
