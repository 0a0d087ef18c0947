"""The tutorial, line by line: its commands are run as they stand, with real processes, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import tifffile

from .helpers.waiting import wait_for

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tutorials" / "first_folder.md"
INSTALL = ("python3 -m venv", ". .venv/", "pip install")  # done already where the tests run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the blocks are those for a POSIX shell")


def steps(text: str) -> list[tuple[str, str]]:
    """(language, text) of each line of a `sh` block and each whole `python` block, in the order of the page."""
    found = []
    for language, block in re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        found += [(language, line) for line in (block.splitlines() if language == "sh" else [block])]
    return [(language, line) for language, line in found if not line.startswith(INSTALL)]


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def written(path: Path, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, f"the watcher ended with {process.returncode}"
    return path.exists()


def test_the_tutorial_works_as_it_stands(tmp_path, port):
    pytest.importorskip("PIL")
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DEFOCUS_CACHE": str(tmp_path / "cache"),
    }
    said: dict[str, str] = {}
    watcher = None
    try:
        for language, text in steps(PAGE.read_text(encoding="utf-8").replace("8765", str(port))):
            if language == "python":
                said["python"] = run([sys.executable, "-c", text], tmp_path, environment)
            elif text.startswith("defocus-watch live"):
                watcher = subprocess.Popen(text.split(), cwd=tmp_path, env=environment)
            else:
                said[text] = run(["sh", "-c", text], tmp_path, environment)
        drawn = sorted(path.name for path in (tmp_path / "drift").iterdir())
        assert len(drawn) == 12
        assert "10 corrected, 2 kept, " in said["defocus-watch drift --once"].splitlines()[-1]
        for index, name in enumerate(drawn):
            before = (tifffile.imread(tmp_path / "drift" / name)).tobytes()
            after = (tifffile.imread(tmp_path / "drift_corrected" / name)).tobytes()
            assert (before == after) == (index < 2), name
        sharp, restored = said["python"].splitlines()
        assert " sharp " in sharp
        assert 15 < float(restored.split()[-2]) < 25
        assert watcher is not None
        live = sorted(path.name for path in (tmp_path / "live").iterdir())
        assert len(live) == 2
        for name in live:
            wait_for(lambda name=name: written(tmp_path / "live_corrected" / name, watcher), 600)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=300) as page:
            assert page.status == 200
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(300) == 0
    finally:
        if watcher is not None and watcher.poll() is None:
            watcher.kill()
            watcher.wait()


def test_the_notebook_runs(tmp_path):
    """Its code, cell after cell in one process; what it draws goes nowhere."""
    pytest.importorskip("matplotlib", reason='needs matplotlib: pip install ".[train]"')
    cells = json.loads(PAGE.with_name("python.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells if cell["cell_type"] == "code")  # readers see what comes of it
    said = run([sys.executable, "-c", "\n".join(code)], tmp_path, {**os.environ, "MPLBACKEND": "agg"})
    verdicts = [line for line in said.splitlines() if "um: " in line]
    assert [line.split("um: ")[1].split(",")[0] for line in verdicts] == ["sharp", "consistent", "consistent"]
