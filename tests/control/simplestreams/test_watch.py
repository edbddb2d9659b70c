"""Calls that are due at a time: made once, in their order, unless they were taken back; by one thread."""

from __future__ import annotations

import queue
import threading
import time

from bootplane.control.simplestreams.watch import Watch

LONG_S = 3600.0
PATIENCE_S = 60.0


def test_what_is_due_is_called_in_order_of_time_and_what_was_taken_back_is_not() -> None:
    watch, called = Watch(), queue.SimpleQueue[str]()
    watch.call_in(LONG_S, lambda: called.put("in an hour"))
    began = time.monotonic()
    taken_back = watch.call_in(0.01, lambda: called.put("taken back"))
    watch.take_back(taken_back)
    watch.call_in(0.3, lambda: called.put("later"))
    watch.call_in(0.1, lambda: called.put("sooner"))
    assert [called.get(timeout=PATIENCE_S) for _ in range(2)] == ["sooner", "later"]
    assert time.monotonic() - began >= 0.3 and called.empty()


def test_one_thread_makes_all_calls_and_outlives_one_that_fails() -> None:
    watch, threads = Watch(), queue.SimpleQueue[str]()
    before = threading.active_count()

    def fails() -> None:
        threads.put(threading.current_thread().name)
        raise ZeroDivisionError("a fault of ours")

    for _ in range(50):
        watch.call_in(0.0, fails)
    assert {threads.get(timeout=PATIENCE_S) for _ in range(50)} == {"watch"}
    assert threading.active_count() <= before + 1


def test_calls_that_were_taken_back_are_not_kept_until_their_time() -> None:
    watch = Watch()
    for _ in range(1000):
        watch.take_back(watch.call_in(LONG_S, lambda: None))
    assert len(watch._due) <= 1 and watch._calls == {}
