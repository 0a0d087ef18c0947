"""Where the system gives no thread, the pipeline ends with that; nothing waits for a result that never comes."""

from __future__ import annotations

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

    monkeypatch.setattr(concurrent, "ThreadPoolExecutor", Refusing)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(pipeline(jobs, engine, ahead=1))
