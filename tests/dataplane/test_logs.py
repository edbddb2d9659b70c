"""A flood of warnings of one kind becomes a few lines, and what was left out is told."""

from __future__ import annotations

import logging

import pytest

from bootplane.dataplane import logs
from bootplane.dataplane.logs import KINDS, MOST, PERIOD_S, Bounded


class Log:
    """A logger whose lines go through Bounded, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.lines: list[str] = []
        self.bounded = Bounded(lambda: self.now)

    def say(self, sentence: str, *values: object, level: int = logging.ERROR, name: str = "bootplane.x") -> bool:
        record = logging.LogRecord(name, level, __file__, 1, sentence, values, None)
        passes = self.bounded.filter(record)
        if passes:
            self.lines.append(record.getMessage())
        return passes


def test_of_one_kind_a_few_pass_and_the_last_of_them_says_so() -> None:
    log = Log()
    for chunk in range(4096):
        log.say("damaged: chunk %d, 100 %% of it", chunk)
    assert log.lines == [
        *(f"damaged: chunk {chunk}, 100 % of it" for chunk in range(MOST - 1)),
        f"damaged: chunk {MOST - 1}, 100 % of it (more of these are not logged for 60 s)",
    ]


def test_after_the_period_the_next_one_says_how_many_were_left_out() -> None:
    log = Log()
    for chunk in range(400):
        log.say("damaged: chunk %d", chunk)
    log.now += PERIOD_S
    log.lines.clear()
    log.say("damaged: chunk %d", 400)
    log.say("damaged: chunk %d", 401)
    assert log.lines == [f"damaged: chunk 400 ({400 - MOST} more of these were not logged)", "damaged: chunk 401"]


def test_a_slow_trickle_always_passes_as_it_is() -> None:
    log = Log()
    for minute in range(100):
        log.now += PERIOD_S
        log.say("gave up chunk %d", minute)
    assert log.lines == [f"gave up chunk {minute}" for minute in range(100)]


def test_other_kinds_and_what_is_no_warning_are_not_held_up() -> None:
    log = Log()
    for chunk in range(100):
        log.say("damaged: chunk %d", chunk)
    assert log.say("the disk refuses chunks")
    assert log.say("damaged: chunk %d", 1, name="bootplane.y")
    assert all(log.say("catalogue %d", version, level=logging.INFO) for version in range(100))


def test_a_library_whose_every_line_is_another_costs_no_memory() -> None:
    log = Log()
    for number in range(3 * KINDS):
        assert log.say(f"line {number}")
    assert len(log.bounded._kinds) <= KINDS


def test_what_is_installed_bounds_a_process(capsys: pytest.CaptureFixture[str]) -> None:
    root, ours = logging.getLogger(), logging.getLogger("bootplane")
    before = root.handlers[:], root.level, ours.level
    try:
        logs.install(Bounded())
        for chunk in range(100):
            logging.getLogger("bootplane.fill").error("gave up chunk %d", chunk)
        lines = capsys.readouterr().err.splitlines()
    finally:
        root.handlers[:], root.level, ours.level = before
    assert len(lines) == MOST
    assert lines[0].endswith("Z ERROR   bootplane.fill: gave up chunk 0")
