"""The ratio of interleaved pairs: what is reported, in which order it is measured, and when a goal is missed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bench.ratio import Goal, compare, figure, interleave, process_cpu_s, table, thread_cpu_s, write


def test_the_ratio_is_the_median_of_the_pairs_with_least_and_largest() -> None:
    got = compare("rate", "nginx", [(10, 10), (30, 10), (20, 10), (8, 16), (50, 20)])
    assert (got.ratio, got.least, got.largest, got.pairs) == (2.0, 0.5, 3.0, 5)
    assert (got.ours, got.theirs) == (20, 10)


@pytest.mark.parametrize("pairs", [[], [(1.0, 0.0)], [(0.0, 1.0)], [(-1.0, 1.0)]])
def test_a_figure_of_nothing_is_no_ratio(pairs: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="rate: expected pairs of figures above 0, got"):
        compare("rate", "nginx", pairs)


def test_rounds_are_interleaved_their_order_alternates_and_the_warm_up_is_left_out() -> None:
    calls: list[str] = []

    def contestant(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    pairs = interleave(lambda: contestant("a"), lambda: contestant("b"), rounds=3, warmup=1)
    assert calls == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert pairs == [(3, 4), (6, 5), (7, 8)]


@pytest.mark.parametrize(
    ("more_is_better", "goal", "ratio", "reached", "within_two"),
    [
        (False, 0.95, 0.95, True, True),
        (False, 0.95, 0.96, False, True),
        (False, 0.95, 1.91, False, False),
        (True, 1.4, 1.4, True, True),
        (True, 1.4, 1.39, False, True),
        (True, 1.4, 0.69, False, False),
    ],
)
def test_a_goal_is_reached_missed_or_missed_by_a_factor_of_two(
    more_is_better: bool, goal: float, ratio: float, reached: bool, within_two: bool
) -> None:
    got = compare("x", "y", [(ratio, 1.0)], goal=goal, more_is_better=more_is_better)
    assert (got.reached, got.within(2)) == (reached, within_two)


def test_without_a_goal_nothing_is_missed() -> None:
    got = compare("x", "y", [(100.0, 1.0)])
    assert (got.reached, got.within(2)) == (None, True)


def test_the_table_is_aligned_and_says_what_is_missed() -> None:
    lines = table(
        [
            compare("HTTP: CPU/GB", "nginx", [(0.1, 0.2)], goal=Goal(0.95, 0.6)),
            compare("rate", "tftpd-hpa", [(123456, 100000)], goal=5, more_is_better=True),
            figure("calls", [2.1], "each", goal=2.1),
        ]
    ).splitlines()
    assert lines == [
        "what          baseline       ours   theirs  ratio     spread  pairs     goal  stretch",
        "HTTP: CPU/GB  nginx           0.1      0.2   0.50    0.5-0.5      1  <= 0.95      0.6  stretch",
        "rate          tftpd-hpa   123,456  100,000   1.23  1.23-1.23      1     >= 5           MISSED",
        "calls                    2.1 each                    2.1-2.1      1   <= 2.1           reached",
    ]


def test_results_are_written_with_the_machine_and_read_back(tmp_path: Path) -> None:
    comparison = compare("x", "y", [(1.0, 2.0)], goal=0.4)
    path = write("smoke", [comparison], notes=["no nginx"], folder=tmp_path / "results")
    document = json.loads(path.read_text())
    assert document["notes"] == ["no nginx"]
    assert {"processor", "cpus", "kernel", "python", "load"} <= document["machine"].keys()
    (read,) = document["comparisons"]
    assert (read["ratio"], read["goal"], read["reached"]) == (0.5, 0.4, False)
    assert [entry.name for entry in path.parent.iterdir()] == ["smoke.json"]


def test_cpu_time_counts_work_and_not_waiting() -> None:
    def work() -> None:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass

    assert thread_cpu_s(work) >= 0.02
    assert process_cpu_s(work) >= 0.015  # getrusage counts in ticks on some kernels
    assert thread_cpu_s(lambda: None) < 0.01
