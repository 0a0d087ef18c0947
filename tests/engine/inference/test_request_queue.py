"""Requests: a lone one has the engine to itself, those that wait share it, and large ones never do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import pytest

from defocus.engine.errors import BackendError, DefocusError, InputError
from defocus.engine.image.memmap import on_disk
from defocus.engine.inference.options import Settings
from defocus.engine.inference.request_queue import RequestQueue
from defocus.engine.inference.tasks import ImageRequest


class ManualExecutor(Executor):
    """Takes calls, and makes them when it is told to."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.calls.append(lambda: fn(*args, **kwargs))
        return Future()

    def finish(self, number: int = 0) -> None:
        self.calls.pop(number)()


class Engine:
    """Gives images back; `seen` has the names that ran together, in capitals where they shared the engine."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.errors: dict[object, list[DefocusError]] = {}

    def restore(
        self, requests: Sequence[ImageRequest], cancelled: Callable[[], bool], shared: bool
    ) -> list[np.ndarray | DefocusError]:
        names = "".join(str(request.name) for request in requests)
        self.seen.append(names.upper() if shared else names)
        return [errors.pop(0) if (errors := self.errors.get(one.name)) else one.data for one in requests]


@pytest.fixture
def executor() -> ManualExecutor:
    return ManualExecutor()


@pytest.fixture
def engine() -> Engine:
    return Engine()


def image(name: str, shape: tuple[int, ...] = (8, 8)) -> list[ImageRequest]:
    return [ImageRequest(np.zeros(shape, np.uint16), name=name)]


def queue(engine: Engine, executor: ManualExecutor, batch: int = 1, streams: int = 2) -> RequestQueue:
    return RequestQueue(engine.restore, lambda: Settings(1024, 224, batch=batch, streams=streams), executor)


def submit(requests: RequestQueue, names: str, stop: Callable[[], bool] = lambda: False) -> list[Future]:
    return [requests.submit(image(name), stop, lambda: False) for name in names]


def test_a_lone_one_has_the_engine_to_itself_and_those_that_wait_share_it(engine, executor):
    futures = submit(queue(engine, executor), "abcd")
    assert len(executor.calls) == 1  # a, alone
    executor.finish()
    assert len(executor.calls) == 2
    for _ in range(3):
        executor.finish()
    assert engine.seen == ["a", "B", "C", "D"]
    assert all(future.result(0)[0].shape == (8, 8) for future in futures)


def test_with_one_stream_images_of_one_shape_share_batches(engine, executor):
    requests = queue(engine, executor, batch=2, streams=1)
    submit(requests, "abc")
    requests.submit(image("d", (9, 9)), lambda: False, lambda: False)
    submit(requests, "ef")
    while executor.calls:
        assert len(executor.calls) == 1
        executor.finish()
    assert engine.seen == ["a", "bc", "d", "ef"]


def test_a_large_image_shares_the_engine_with_nobody(engine, executor, tmp_path):
    requests = queue(engine, executor)
    submit(requests, "abc")
    requests.submit(
        [ImageRequest(on_disk(tmp_path, (8, 8), np.dtype(np.uint16)), name="l")], lambda: False, lambda: False
    )
    submit(requests, "de")
    executor.finish()  # a
    executor.finish()  # b; a stream is free, but c runs
    assert len(executor.calls) == 1
    executor.finish()
    assert len(executor.calls) == 1
    executor.finish()
    assert len(executor.calls) == 2
    executor.finish()
    executor.finish()
    assert engine.seen == ["a", "B", "C", "l", "D", "E"]


def test_what_a_stream_refuses_is_tried_with_the_engine_to_itself(engine, executor):
    engine.errors = {name: [BackendError("cpu", "no memory for two", "add some")] for name in "bc"}
    futures = submit(queue(engine, executor), "abcd")
    while executor.calls:
        executor.finish()
    assert engine.seen == ["a", "B", "C", "b", "c", "d"]
    assert all(future.exception(0) is None for future in futures)


def test_an_error_is_the_futures(engine, executor):
    engine.errors = {"a": [InputError("a", "holds NaN", "mend it")]}
    futures = submit(queue(engine, executor), "ab")
    while executor.calls:
        executor.finish()
    assert isinstance(futures[0].exception(0), InputError)
    assert futures[1].exception(0) is None


def test_nothing_is_begun_after_a_request_to_stop(engine, executor):
    stop = [False]
    futures = submit(queue(engine, executor), "abc", lambda: stop[0])
    executor.finish()
    stop[0] = True
    while executor.calls:
        executor.finish()
    assert engine.seen[0] == "a"
    assert [future.cancelled() for future in futures] == [False, True, True]
    assert "B" not in "".join(engine.seen)
