"""The timer wheel: lazily moved timers against a plain list of times."""

from __future__ import annotations

import random

from bootplane.core.tftp_deadlines import WheelProbe

TICK = 2**23 / 1e9


def test_a_timer_comes_out_once_and_at_most_one_tick_late() -> None:
    wheel = WheelProbe(1)
    wheel.arm(0, 1.0)
    assert wheel.pop(1.0 - TICK) == []
    assert wheel.due is not None
    assert 1.0 <= wheel.due <= 1.0 + TICK
    assert wheel.pop(wheel.due) == [0]
    assert (wheel.pop(2.0), wheel.due, wheel.count) == ([], None, 0)


def test_a_timer_moved_later_stays_where_it_stands_and_one_moved_earlier_moves() -> None:
    wheel = WheelProbe(2)
    wheel.arm(0, 1.0)
    wheel.arm(0, 2.0)
    assert wheel.pop(1.1) == [0]
    wheel.arm(1, 3.0, 1.1)
    wheel.arm(1, 1.5, 1.1)
    assert wheel.pop(1.6) == [1]


def test_a_disarmed_timer_never_comes_out() -> None:
    wheel = WheelProbe(3)
    for i in range(3):
        wheel.arm(i, 0.5)
    wheel.disarm(1)
    wheel.disarm(1)
    assert sorted(wheel.pop(1.0)) == [0, 2]


def test_a_time_beyond_the_wheel_is_looked_at_on_the_way() -> None:
    wheel = WheelProbe(1)
    wheel.arm(0, 255.0)
    now, looks = 0.0, 0
    while now < 255.0:
        assert wheel.due is not None
        now = wheel.due
        assert wheel.pop(now) == [0]
        looks += 1
        if now < 255.0:
            wheel.arm(0, 255.0, now)
    assert looks < 70
    assert now <= 255.0 + TICK


def test_a_wheel_that_stood_empty_for_a_week_does_not_count_the_ticks() -> None:
    wheel = WheelProbe(1)
    week = 7 * 86400.0
    wheel.arm(0, week + 1, week)
    assert wheel.pop(week + 0.9) == []
    assert wheel.pop(week + 1.1) == [0]


def test_against_a_plain_list_of_times() -> None:
    rng = random.Random(7)
    wheel, now = WheelProbe(200), 0.0
    armed: dict[int, float] = {}
    for _ in range(20000):
        now += rng.random() * 0.01
        number = rng.randrange(200)
        if rng.random() < 0.1:
            wheel.disarm(number)
            armed.pop(number, None)
        else:
            at = now + rng.choice([0.0, 0.05, 1.0, 4.0, 4.3, 20.0]) * rng.random()
            wheel.arm(number, at, now)
            armed[number] = at
        for out in wheel.pop(now):
            at = armed.pop(out)
            if at > now:  # early is allowed: its owner arms it again
                wheel.arm(out, at, now)
                armed[out] = at
            else:
                assert now - at < TICK + 0.011
        assert all(at > now - TICK - 0.011 for at in armed.values())
        assert wheel.count == len(armed)
