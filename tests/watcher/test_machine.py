"""A Hypothesis state machine: whatever is done to the acquisition folder, and however often the daemon is killed, in
the end every file is corrected once, as it last was, or quarantined.

In `make test` a few short runs; by `make soak` long ones. Where a tmpfs can be mounted the output lies on one of 3 MB,
which is filled to the brim and emptied again.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from defocus.engine.files.atomic import PREFIX, SUFFIX
from defocus.engine.tiff.read import read_tiff

from .conftest import Watching, outputs

BALLAST = ".ballast"
QUICK = ("--settle", "0.05", "--rescan", "0.1", "--patience", "0.3", "--min-free-mb", "0")
NAMES = [f"{stem}{ending}" for stem in ("a", "b b", "sub/c", "ü µ") for ending in (".tif", ".TIFF")]


class Microscope(RuleBasedStateMachine):
    """`files` is the model: what is in the acquisition folder, None for a file that is broken."""

    model: Path

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="defocus-machine-"))
        self.acquisition, self.out = self.root / "acq", self.root / "out"
        self.acquisition.mkdir()
        self.out.mkdir()
        line = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(self.out)]
        self.small_disk = (
            shutil.which("mount") is not None and subprocess.run(line, capture_output=True).returncode == 0
        )
        self.files: dict[str, int | None] = {}
        self.ever: set[str] = set()
        self.growing: dict[str, tuple[bytes, int]] = {}
        self.seed = 0
        self.daemon: Watching | None = None

    @initialize()
    def begin(self) -> None:
        self.start()

    @rule(name=st.sampled_from(NAMES))
    def write(self, name: str) -> None:
        """A new file, or the same name written again."""
        self.growing.pop(name, None)
        self._path(name).write_bytes(self._image(name))

    @rule(name=st.sampled_from(NAMES))
    def write_aside_and_rename(self, name: str) -> None:
        self.growing.pop(name, None)
        aside = self._path(name).with_name(".writing")
        aside.write_bytes(self._image(name))
        aside.replace(self._path(name))

    @rule(name=st.sampled_from(NAMES), share=st.floats(0.1, 0.9))
    def begin_slowly(self, name: str, share: float) -> None:
        content = self._image(name)
        at = int(share * len(content))
        self._path(name).write_bytes(content[:at])
        self.growing[name] = content, at

    @rule()
    def finish_slow_ones(self) -> None:
        for name, (content, at) in self.growing.items():
            with open(self._path(name), "r+b") as file:
                file.seek(at)
                file.write(content[at:])
        self.growing.clear()

    @rule(name=st.sampled_from(NAMES))
    def spoil(self, name: str) -> None:
        self.growing.pop(name, None)
        self._path(name).write_bytes(b"II*\0 no image")
        self.files[name] = None

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        self.growing.pop(name, None)
        self._path(name).unlink(missing_ok=True)
        self.files.pop(name, None)

    @rule(source=st.sampled_from(NAMES), to=st.sampled_from(NAMES))
    def rename(self, source: str, to: str) -> None:
        if source not in self.files or source == to or {source, to} & self.growing.keys():
            return
        self._path(source).replace(self._path(to))
        self.files[to] = self.files.pop(source)
        self.ever.add(to)

    @precondition(lambda self: self.small_disk)
    @rule()
    def fill_the_disk(self) -> None:
        with suppress(OSError), open(self.out / BALLAST, "ab", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    @rule()
    def make_room(self) -> None:
        (self.out / BALLAST).unlink(missing_ok=True)

    @rule()
    def kill(self) -> None:
        if self.daemon:
            self.daemon.kill()
        self.start()

    def start(self) -> None:
        """On a full disk it may end at once, with a line: it cannot keep its journal."""
        self.daemon = Watching(self.acquisition, self.out, self.model, self.root / "log", *QUICK)

    def teardown(self) -> None:
        try:
            self.finish_slow_ones()
            self.make_room()
            if self.daemon:
                self.daemon.kill()
            last = Watching(self.acquisition, self.out, self.model, self.root / "log", *QUICK, "--once")
            code = last.process.wait(300)
            broken = any(seed is None for seed in self.files.values())
            assert code == int(broken), last.said()
            whole = {name: seed for name, seed in self.files.items() if seed is not None}
            assert set(whole) <= set(outputs(self.out))
            assert set(outputs(self.out)) <= self.ever  # nothing that never was
            assert list(self.out.rglob(f"{PREFIX}*{SUFFIX}")) == []
            for name, seed in whole.items():  # made from the file as it last was: the shape is its number
                assert read_tiff(self.out / name).data.shape == _shape(seed), name
        finally:
            if self.daemon:
                self.daemon.kill()
            if self.small_disk:
                subprocess.run(["umount", "-l", str(self.out)], check=True)
            shutil.rmtree(self.root, ignore_errors=True)

    def _path(self, name: str) -> Path:
        path = self.acquisition / name
        path.parent.mkdir(exist_ok=True)
        return path

    def _image(self, name: str) -> bytes:
        self.seed += 1
        self.files[name] = self.seed
        self.ever.add(name)
        path = self.root / "image.tif"
        image = np.random.default_rng(self.seed).integers(100, 3000, _shape(self.seed), dtype=np.uint16)
        tifffile.imwrite(path, image)
        return path.read_bytes()


def _shape(seed: int) -> tuple[int, int]:
    return 32 + seed % 60, 32 + seed // 60


def check(model: Path, runs: int, steps: int) -> None:
    machine = type("Machine", (Microscope,), {"model": model})
    chosen = settings(
        max_examples=runs,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
    )
    run_state_machine_as_test(machine, settings=chosen)


def test_random_actions_and_kills(tiny_model):
    check(tiny_model, runs=2, steps=12)


@pytest.mark.slow
def test_many_random_actions_and_kills(tiny_model):
    check(tiny_model, runs=40, steps=40)
