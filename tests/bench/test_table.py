"""``make bench``: what is run, what a line that looks worse costs, and when it fails."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import history
from bench.ratio import Comparison, compare, figure, write


def cost(ratio: float, goal: float | None = 0.95) -> Comparison:
    return compare("CPU/GB", "nginx", [(ratio * scatter, 1.0) for scatter in (0.99, 1.0, 1.01)], goal=goal)


def item(*looks: Comparison) -> bench.Item:
    """One that gives the next of *looks* each time it is run."""
    left = list(looks)

    def run(_: bench.Bench) -> Iterable[Comparison]:
        yield left.pop(0)

    return bench.Item("http", "one", run)


def stored(tmp_path: Path, *lines: Comparison) -> history.Stored | None:
    return history.load(write("bench", lines, folder=tmp_path))


def look(before: history.Stored | None, one: bench.Item) -> tuple[list[history.Change], list[Comparison]]:
    shared = bench.Bench(3, 0, ())
    found = bench.run([one], shared)
    return bench.confirmed([one], shared, before, found), found["one"]


def test_every_line_of_the_issue_is_run_and_names_are_told_apart() -> None:
    assert {item.group for item in bench.ITEMS} == set(bench.GROUPS)
    assert len({item.name for item in bench.ITEMS}) == len(bench.ITEMS)


def test_only_takes_a_group_or_a_word_of_a_name() -> None:
    assert [one.group for one in bench.ITEMS if one.is_meant(["herd"])] == ["herd"]
    assert [one.group for one in bench.ITEMS if one.is_meant(["fill"])] == ["fill"]
    assert {one.group for one in bench.ITEMS if one.is_meant(["tftp"])} == {"tftp"}
    assert [one.name for one in bench.ITEMS if one.is_meant(["4 kib x"])] == ["HTTP 4 KiB x 64, keep-alive"]
    assert all(one.is_meant([]) for one in bench.ITEMS)


def test_a_line_that_is_as_before_is_measured_once(tmp_path: Path) -> None:
    worse, (line,) = look(stored(tmp_path, cost(0.9)), item(cost(0.92)))
    assert worse == []
    assert line.pairs == 3


def test_a_line_that_looks_worse_once_is_measured_again_and_passes(tmp_path: Path) -> None:
    worse, (line,) = look(stored(tmp_path, cost(0.8)), item(cost(1.2), cost(0.8)))
    assert worse == []
    assert line.pairs == 6


def test_a_line_that_is_worse_twice_fails(tmp_path: Path) -> None:
    worse, (line,) = look(stored(tmp_path, cost(0.8)), item(cost(1.2), cost(1.2)))
    assert [(change.key, change.before) for change in worse] == [("CPU/GB / nginx", 0.8)]
    assert line.pairs == 6


def test_a_line_without_a_goal_fails_nothing(tmp_path: Path) -> None:
    worse, (line,) = look(stored(tmp_path, cost(0.8, None)), item(cost(1.2, None)))
    assert worse == []
    assert line.pairs == 3


def test_a_time_without_a_baseline_fails_nothing(tmp_path: Path) -> None:
    def p99(ms: float) -> Comparison:
        return figure("p99", [ms], "ms", goal=5.0)

    assert look(stored(tmp_path, p99(0.1)), item(p99(4.0)))[0] == []


def test_what_is_answered_wrongly_is_told_and_the_others_are_measured() -> None:
    def wrong(_: bench.Bench) -> Iterable[Comparison]:
        yield cost(0.5)
        raise SystemExit("bench: 3 errors, first: status: expected 200, got 404")

    shared = bench.Bench(3, 0, ())
    found = bench.run([bench.Item("http", "wrong", wrong), item(cost(0.7))], shared)
    assert {name: len(lines) for name, lines in found.items()} == {"wrong": 1, "one": 1}
    assert shared.failed == ["wrong: bench: 3 errors, first: status: expected 200, got 404"]


def test_an_end_by_a_signal_is_no_wrong_answer() -> None:
    def ended(_: bench.Bench) -> Iterable[Comparison]:
        raise SystemExit(143)

    with pytest.raises(SystemExit, match="143"):
        bench.run([bench.Item("http", "ended", ended)], bench.Bench(3, 0, ()))


def test_without_a_stored_result_nothing_is_worse() -> None:
    assert look(None, item(figure("calls", [9.0], "calls", goal=2.1)))[0] == []
