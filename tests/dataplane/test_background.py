"""A job's thread lives through whatever its turns do, and the end of the process waits for none of them for ever."""

from __future__ import annotations

import logging
import threading

import pytest

from bootplane.dataplane.background import Job

LONG_S = 20.0


def test_a_turn_that_raises_is_logged_with_its_traceback_and_the_next_one_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    turns: list[int] = []
    is_done = threading.Event()

    def turn() -> float:
        turns.append(len(turns))
        if len(turns) == 1:
            raise ZeroDivisionError("of the test")
        is_done.set()
        return LONG_S

    job = Job("example", turn, failed_s=0.0)
    job.start()
    assert is_done.wait(LONG_S)
    assert job.stop()
    assert turns == [0, 1]
    assert [(r.levelno, r.message) for r in caplog.records] == [
        (logging.ERROR, "example failed in a way that was not foreseen; it goes on in 0 s")
    ]
    assert "ZeroDivisionError: of the test" in caplog.text
    assert "example" not in {thread.name for thread in threading.enumerate()}


def test_it_is_prepared_once_on_its_own_thread_and_waits_as_long_as_a_turn_says() -> None:
    threads: list[str] = []
    is_done = threading.Event()

    def turn() -> float:
        threads.append(threading.current_thread().name)
        if len(threads) == 4:
            is_done.set()
            return LONG_S
        return 0.0

    job = Job("example", turn, failed_s=LONG_S, prepare=lambda: threads.append(threading.current_thread().name))
    job.start()
    assert is_done.wait(LONG_S)
    assert job.stop()
    assert threads == ["example"] * 4, "one preparation, three turns, and then it waits"


def test_a_preparation_that_raises_is_logged_and_the_work_is_done_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    is_done = threading.Event()

    def turn() -> float:
        is_done.set()
        return LONG_S

    def refuse() -> None:
        raise PermissionError("of the test")

    job = Job("example", turn, failed_s=0.0, prepare=refuse)
    job.start()
    assert is_done.wait(LONG_S)
    assert job.stop()
    assert "PermissionError: of the test" in caplog.text


def test_a_turn_that_hangs_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    has_begun, may_end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def turn() -> float:
        has_begun.set()
        ended.append(may_end.wait(LONG_S))
        return 0.0

    job = Job("example", turn, failed_s=0.0)
    job.start()
    assert has_begun.wait(LONG_S)
    assert not job.stop(timeout_s=0.05)
    assert [r.message for r in caplog.records] == ["example: expected to end within 0.05 s, left behind"]
    may_end.set()
    assert job.stop(LONG_S)
    assert ended == [True], "no further turn begins"


def test_one_that_was_never_started_ends_at_once() -> None:
    assert Job("example", lambda: LONG_S, failed_s=0.0).stop()
