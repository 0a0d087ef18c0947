"""Turns: a lone file has the engine to itself, files that wait share it, and large ones never do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from defocus.engine.inference.options import Settings
from defocus.engine.pipeline.jobs import ImageShape, Job, Outcome
from defocus.engine.pipeline.steps import PipelineItem
from defocus.engine.pipeline.turns import Turn, Turns

TWO = Settings(1024, 224, streams=2)


@pytest.fixture
def turns() -> Turns:
    return Turns(2)


def piece(name: str, size: int = 100, shape: tuple[int, int] = (8, 8)) -> PipelineItem:
    """A file that has been read; only whether it has a stack is asked."""
    image: Any = object()
    shapes = (ImageShape(shape, "uint16", "YX"),)
    return PipelineItem(Outcome(Job(Path(name), Path("out", name)), images=shapes), images=(image,), nbytes=size)


def names(turn: Turn | None) -> tuple[str, bool]:
    assert turn is not None
    return "".join(one.outcome.job.source.name for one in turn.pieces), turn.alone


class Later:
    """Something that may have to wait, begun in a thread of its own."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._found: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._found.append(work()), daemon=True)
        self._thread.start()

    def waits(self) -> bool:
        self._thread.join(0.1)
        return self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self._found[0]


def test_a_lone_file_has_the_engine_to_itself(turns):
    turns.put(piece("a"))
    assert names(turns.take(TWO)) == ("a", True)
    turns.put(piece("b"))
    turns.put(piece("c"))
    other = Later(lambda: turns.take(TWO))
    assert other.waits()
    turns.done()
    assert names(other.result()) == ("b", False)


def test_files_that_wait_share_it_two_at_a_time(turns):
    for name in "abcd":
        turns.put(piece(name))
    assert [names(turns.take(TWO)) for _ in range(2)] == [("a", False), ("b", False)]
    third = Later(lambda: turns.take(TWO))
    assert third.waits()
    turns.done()
    assert names(third.result()) == ("c", False)
    turns.done()
    assert names(turns.take(TWO)) == ("d", False)  # c is still running


def test_with_one_stream_files_share_batches(turns):
    for name in "abc":
        turns.put(piece(name))
    turns.put(piece("d", shape=(9, 9)))
    one = Settings(1024, 224, batch=2)
    assert names(turns.take(one)) == ("ab", True)
    assert Later(lambda: turns.take(one)).waits()
    turns.done()


def test_a_file_of_another_shape_shares_no_batch(turns):
    for name, shape in (("a", (8, 8)), ("b", (9, 9)), ("c", (8, 8))):
        turns.put(piece(name, shape=shape))
    assert names(turns.take(Settings(1024, 224, batch=4))) == ("a", True)


def test_a_large_file_shares_the_engine_with_nobody(turns):
    turns.put(piece("a"))
    turns.put(piece("L", size=0))
    turns.put(piece("b"))
    assert names(turns.take(TWO)) == ("a", False)
    large = Later(lambda: turns.take(TWO))
    assert large.waits()  # also though a stream is free
    turns.done()
    assert names(large.result()) == ("L", True)
    after = Later(lambda: turns.take(TWO))
    assert after.waits()
    turns.done()
    assert names(after.result()) == ("b", True)


def test_two_that_want_it_alone_get_it_one_after_the_other(turns):
    for name in "abc":
        turns.put(piece(name))
    turns.take(TWO)
    turns.take(TWO)
    first = Later(turns.alone)
    assert first.waits()
    second = Later(turns.alone)
    for one in (first, second):
        one.waits()
    assert first.waits() != second.waits()  # exactly one has it
    third = Later(lambda: turns.take(TWO))
    assert third.waits()
    turns.done()
    first.result()
    second.result()
    assert third.waits()
    turns.done()
    assert names(third.result()) == ("c", True)


def test_the_end(turns):
    turns.put(piece("a"))
    turns.complete()
    assert names(turns.take(TWO)) == ("a", True)
    turns.done()
    assert turns.take(TWO) is None


def test_leaving_ends_it_for_who_waits(turns):
    waiting = Later(lambda: turns.take(TWO))
    assert waiting.waits()
    turns.end()
    assert waiting.result() is None
    turns.put(piece("a"))
    assert turns.take(TWO) is None
