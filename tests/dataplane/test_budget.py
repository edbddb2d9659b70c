from __future__ import annotations

import pytest

from bootplane.dataplane.budget import RUN_S, SAVED_S, Budget

RATE = 10_000_000


def spend_all(budget: Budget, length: int, start: float, seconds: float) -> list[tuple[float, int]]:
    """As threads do that always want something: (time, bytes) of each run."""
    now, spent = start, []
    while now < start + seconds:
        wait = budget.wait_s(now)
        if not wait:
            budget.spend(length, now)
            spent.append((now, length))
        now += wait or 1e-6
    return spent


def test_without_a_limit_nothing_waits() -> None:
    budget = Budget()
    budget.spend(1 << 40, 0)
    assert (budget.wait_s(0), budget.longest_run()) == (0.0, None)


@pytest.mark.parametrize("length", [20_000, 1 << 20, 16 << 20])
def test_in_any_time_no_more_is_spent_than_the_rate_a_little_saved_and_one_run(length: int) -> None:
    spent = spend_all(Budget(RATE), length, start=100.0, seconds=20.0)
    for first in range(0, len(spent), max(1, len(spent) // 50)):
        for last in range(first, len(spent), max(1, len(spent) // 50)):
            took = spent[last][0] - spent[first][0]
            assert sum(n for _, n in spent[first : last + 1]) <= RATE * (took + SAVED_S) + length + 1
    assert sum(n for _, n in spent) >= RATE * 20.0 - length


def test_an_idle_hour_saves_a_tenth_of_a_second() -> None:
    budget = Budget(RATE)
    budget.spend(RATE, 0.0)
    assert budget.wait_s(0.0) == pytest.approx(1.0 - SAVED_S, abs=SAVED_S)
    budget.spend(RATE, 3600.0)
    assert budget.wait_s(3600.0) == pytest.approx(1.0 - SAVED_S)


def test_a_run_is_a_quarter_of_a_second_of_the_rate() -> None:
    assert Budget(RATE).longest_run() == RATE * RUN_S


def test_what_did_not_come_is_not_paid_for() -> None:
    budget = Budget(RATE)
    budget.spend(2 * RATE, 10.0)
    budget.give_back(RATE)
    assert budget.wait_s(10.0) == pytest.approx(1.0 - SAVED_S)


def test_a_debt_is_paid_off_at_a_new_rate() -> None:
    budget = Budget(RATE)
    budget.spend(2 * RATE, 10.0)
    assert budget.wait_s(10.0) == pytest.approx(2.0 - SAVED_S)
    budget.change(10 * RATE, 10.0)
    assert budget.wait_s(10.0) == pytest.approx((2.0 - SAVED_S) / 10)
    budget.change(0, 10.0)
    assert budget.wait_s(10.0) == 0.0
    budget.change(RATE, 10.0)
    assert budget.wait_s(10.0) == 0.0


def test_a_rate_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="upstream limit: expected 0 bytes/s or more, got -1"):
        Budget().change(-1, 0)
