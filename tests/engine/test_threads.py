"""Threads: cores as they may be used, and work spread over them."""

from __future__ import annotations

import threading

import pytest

from defocus.engine import threads


def test_cores_respect_affinity_and_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert threads.available_cores(tmp_path) == 8
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert threads.available_cores(tmp_path) == 8
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert threads.available_cores(tmp_path) == 3
    (tmp_path / "cpu.max").write_text("1000 100000\n")
    assert threads.available_cores(tmp_path) == 1
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("200000")
    assert threads.available_cores(tmp_path) == 2
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1")
    assert threads.available_cores(tmp_path) == 8


def test_spread_gives_what_map_gives_in_order_and_runs_side_by_side(monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    both = threading.Barrier(2)

    def square(number):
        both.wait(30)  # neither ends before both have begun
        return number**2

    assert list(threads.spread(square, range(6))) == [0, 1, 4, 9, 16, 25]


@pytest.mark.parametrize(("cores", "items"), [(1, 5), (4, 1), (4, 0)])
def test_spread_starts_no_thread_for_one_core_or_one_item(monkeypatch, cores, items):
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    assert (
        list(threads.spread(lambda item: threading.current_thread(), range(items)))
        == [threading.current_thread()] * items
    )


def test_spread_holds_few_results_and_raises_what_was_raised(monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    begun = []

    def refuse(number):
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    results = threads.spread(refuse, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert max(begun) <= 5
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert max(begun) <= 6
