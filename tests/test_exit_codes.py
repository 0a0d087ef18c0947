"""The exit codes of docs/reference/commands.md, command by command."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
import tifffile

from .helpers.commands_page import NO_SCRIPT
from .test_docs import MODULES

CASES = {
    "defocus-run": {
        2: ["", "a.tif", "a.tif -o out --nonsense", "a.tif -o out --tile many", "a.tif -o out --memory -1"]
        + [f"a.tif -o out {option}" for option in ("--tile 0", "--halo -1", "--threads 0")],
        1: ["missing.tif -o out", "none*.tif -o out", "empty -o out", "bad.tif -o out", "a.tif bad.tif -o out"]
        + [f"a.tif -o out {option}" for option in ("--model none.onnx", "--model bad.tif", "--backend none")]
        + ["a.tif -o out --tile 3", "a.tif -o out --dask local:x", "a.tif -o out --channels x", ". -o ./inside"],
        0: ["a.tif -o out", "--version", "--help"],
    },
    "defocus-watch": {
        2: ["acq --nonsense", "acq --settle x", "acq --settle -1"],
        1: ["", "missing --once", "acq --once --model none.onnx", "acq --once --backend none", "acq empty -o out"]
        + [
            f"acq --once {option}"
            for option in ("--order none", "--status x", "--config none.toml", "--config bad.tif")
        ],
        0: ["acq --dry-run", "--print-config", "--version", "--help"],
    },
    "defocus-doctor": {2: ["--nonsense", "more"], 1: ["--model none.onnx", "--model bad.tif"], 0: ["--version"]},
    "defocus-train": {
        2: ["", "-o out", "-o out --simulate acq --stacks acq", "-o out --simulate acq --steps 0"],
        1: ["-o out --simulate missing", "-o out --simulate acq --recipe none", "-o out --simulate acq --network none"],
        0: ["--version"],
    },
    "defocus-data": {
        2: ["", "none", "bbbc006"],
        1: ["bbbc006 out --planes x", "bbbc006 out --planes 50"],
        0: ["--version"],
    },
    "defocus-evaluate": {
        2: ["--nonsense", "--minutes 0"],
        1: ["missing", "empty --bbbc006 missing", "--train", "--bbbc006 missing -o out"],
        0: ["--version"],
    },
    "defocus report": {
        2: ["", "empty --nonsense", "empty more"],
        1: ["missing", "empty", "a.tif", "acq --to a.tif"],
        0: ["--version", "--help"],
    },
    "defocus install-shortcut": {2: ["more", "--nonsense"], 1: ["--to a.tif"], 0: ["--to empty", "--version"]},
    "defocus-export": {
        2: ["", "default", "none.ckpt", "default --fp16", "default --fp16-io --bioimageio out.zip"],
        1: ["none.ckpt -o out.onnx", "none.onnx --fp16 -o out.onnx", "bad.tif -o out.onnx"],
        0: ["--list-engines", "--version"],
    },
}


@pytest.mark.parametrize(
    ("command", "line", "code"),
    [(command, line, code) for command, codes in CASES.items() for code, lines in codes.items() for line in lines],
)
def test_a_line_ends_with_its_code(command, line, code, tmp_path, monkeypatch, capsys):
    # In this process: torch would be loaded again and again.
    for folder in ("acq", "empty"):
        (tmp_path / folder).mkdir()
    for name in ("a.tif", "acq/a.tif"):
        tifffile.imwrite(tmp_path / name, np.full((40, 50), 100, np.uint16))
    (tmp_path / "bad.tif").write_text("no image, no model, no settings")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEFOCUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("defocus.watcher.service.priority.lower_priority", lambda: None)  # of the tests themselves
    monkeypatch.delenv("DISPLAY", raising=False)  # there, defocus-watch without arguments asks for a folder
    monkeypatch.setattr(sys, "argv", [command, *line.split()])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module((MODULES | NO_SCRIPT)[command]).main()
    assert ended.value.code == code
    told = capsys.readouterr().err
    assert "unexpected error" not in told
    if code == 2:
        assert told.startswith(f"{command}: ")
        assert len(told.splitlines()) == 1
