"""The line between finding and restoring: order, bounds, and what leaves it."""

from __future__ import annotations

import threading

import pytest

from defocus.watcher.queue import ArrivalQueue, Order

from ..helpers.waiting import wait_for


@pytest.mark.parametrize(("order", "expected"), [(Order.OLDEST, "abcd"), (Order.NEWEST, "dcba")])
def test_order_is_that_of_the_times(order, expected):
    line: ArrivalQueue[str] = ArrivalQueue(order)
    stop = threading.Event()
    for name, written in (("c", 3.0), ("a", 1.0), ("d", 4.0), ("b", 2.0)):
        line.put(name, written, stop)
    assert "".join(line.get(0) or "" for _ in range(4)) == expected
    assert line.get(0.01) is None


def test_oldest_waits_while_full_and_gives_up_with_the_stop():
    line: ArrivalQueue[int] = ArrivalQueue(Order.OLDEST, length=2)
    stop = threading.Event()
    done, waits = [], []

    def fill():
        for number in range(4):
            line.put(number, number, stop, lambda: waits.append(len(done)))
            done.append(number)

    thread = threading.Thread(target=fill)
    thread.start()
    wait_for(lambda: waits)
    assert done == [0, 1]
    assert line.get(1) == 0
    wait_for(lambda: waits[-1] == 3)
    assert done == [0, 1, 2]
    assert len(line) == 2
    stop.set()
    thread.join(300)
    assert not thread.is_alive()


def test_newest_lets_the_oldest_go_and_tells():
    gone: list[int] = []
    line: ArrivalQueue[int] = ArrivalQueue(Order.NEWEST, length=3, drop=gone.append)
    for number in range(10):
        line.put(number, number, threading.Event())
    assert gone == [0, 1, 2, 3, 4, 5, 6]
    assert [line.get(0) for _ in range(3)] == [9, 8, 7]
