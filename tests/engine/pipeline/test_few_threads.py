"""Where the system gives no thread, that is told; nothing waits for a result that never comes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from defocus.engine.inference.engine import Engine
from defocus.engine.pipeline import concurrent
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.run import pipeline
from defocus.engine.threads import thread_pool


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    for number in range(3):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.full((40, 50), 100 + number, np.uint16))
    return [Job(tmp_path / f"{number}.tif", tmp_path / "out" / f"{number}.tif") for number in range(3)]


@pytest.fixture
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine.load(tiny_model, backend="cpu") as loaded:
        yield loaded


def _refuse(*_: Any, **__: Any) -> None:
    raise RuntimeError("can't start new thread")


def test_no_thread_for_the_engine(jobs, engine, monkeypatch):
    monkeypatch.setattr(engine, "submit", _refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(pipeline(jobs, engine, ahead=1))


def test_no_thread_for_writing(jobs, engine, monkeypatch):
    class Refusing(ThreadPoolExecutor):
        submit = _refuse  # type: ignore[assignment]

    monkeypatch.setattr(concurrent, "thread_pool", Refusing)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(pipeline(jobs, engine, ahead=1))


def test_a_pool_has_its_threads_from_the_beginning():
    with thread_pool(3, "from the beginning"):
        assert sum(thread.name.startswith("from the beginning") for thread in threading.enumerate()) == 3


def test_whichever_thread_cannot_be_had_it_ends_with_that(tmp_path, tiny_model):
    sources = [tmp_path / f"{number}.tif" for number in range(4)]
    for source in sources:  # so large that one is restored while the next waits for the engine
        tifffile.imwrite(source, np.random.default_rng(7).integers(0, 4000, (700, 700), np.uint16))
    code = """
import sys, threading
from itertools import count
from pathlib import Path
from defocus.engine.errors import shortage
from defocus.engine.inference.engine import Engine
from defocus.engine.pipeline.jobs import Job
from defocus.engine.pipeline.run import pipeline

start, granted = threading.Thread.start, iter(())
def limited(thread):
    if next(granted, None) is None:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = limited
jobs = [Job(Path(path), Path(path + ".out.tif")) for path in sys.argv[2:]]
for most in count():
    granted = iter(range(most))
    try:
        with Engine.load(sys.argv[1], backend="cpu", threads=2) as engine:
            errors = [outcome.error for outcome in pipeline(jobs, engine, ahead=1)]
    except RuntimeError as error:
        assert shortage(error), error
        continue
    assert len(errors) == 4
    if not any(errors):
        break
    assert all(error is None or error.code == "shortage" for error in errors), errors
assert most > 3  # the engine's, the reader and the writers
"""
    command = [sys.executable, "-c", code, str(tiny_model), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads in /proc")
@pytest.mark.parametrize("command", ["engine.cli.run", "engine.cli.report", "engine.cli.doctor", "watcher.cli"])
def test_the_commands_need_no_threads_for_numpy(command):
    code = f"""
import atexit, os, sys
from defocus.{command} import main
def count():
    import numpy, scipy.linalg
    print("threads", len(os.listdir("/proc/self/task")))
atexit.register(count)
sys.argv = ["command", "--version"]
main()
"""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1] == "threads 1", done.stdout + done.stderr
