"""Progress of a command's own work: one line on a terminal, a line at each tenth elsewhere."""

from __future__ import annotations

import io

from bootplane.control.cli.meter import Meter

MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_at_each_tenth_with_rate_and_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    with Meter("copying", 100 * MIB, stream=stream, clock=clock) as meter:
        for _ in range(100):
            clock.now += 0.5
            meter(MIB)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "copying: 10.0 MiB of 100.0 MiB (10%), 2.0 MiB/s, 45 s left"
    assert lines[-1] == "copying: 100.0 MiB of 100.0 MiB (100%), 2.0 MiB/s"


def test_work_that_is_soon_over_leaves_a_log_alone() -> None:
    stream, clock = io.StringIO(), Clock()
    with Meter("copying", 100, stream=stream, clock=clock) as meter:
        for _ in range(100):
            clock.now += 0.005
            meter(1)
    assert stream.getvalue() == ""


def test_the_rate_is_that_of_the_last_while() -> None:
    stream, clock = io.StringIO(), Clock()
    meter = Meter("copying", 100 * MIB, stream=stream, clock=clock)
    for step_s in (10.0, 10.0, 10.0, *(0.5,) * 60):  # slow, then fast
        clock.now += step_s
        meter(MIB)
    assert meter.line(clock.now).endswith(" 2.0 MiB/s, 18 s left")


def test_a_terminal_gets_one_line_at_most_four_times_a_second() -> None:
    stream, clock = Terminal(), Clock()
    with Meter("copying", 1000, stream=stream, clock=clock) as meter:
        for _ in range(1000):
            clock.now += 0.001
            meter(1)
    shown = stream.getvalue().split("\r\x1b[K")
    assert 3 <= len([line for line in shown if line]) <= 4
    assert stream.getvalue().endswith("\r\x1b[K") and "\n" not in stream.getvalue()


def test_rows_are_counted_as_rows() -> None:
    clock = Clock()
    meter = Meter("copying the database", 200, "rows", stream=io.StringIO(), clock=clock)
    clock.now += 1
    meter(50)
    assert meter.line(clock.now) == "copying the database: 50 of 200 rows (25%), 50/s, 3 s left"


def test_nothing_to_do_or_quiet_shows_nothing() -> None:
    stream = Terminal()
    for meter in (Meter("copying", 0, stream=stream), Meter("copying", 10, quiet=True, stream=stream)):
        with meter:
            meter(10)
    assert stream.getvalue() == ""
