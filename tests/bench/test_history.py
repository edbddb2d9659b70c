"""What counts as a change between two runs: made-up samples, with and without one."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from bench import history
from bench.ratio import Comparison, compare, figure, write

PAIRS = 5


def line(ratios: list[float], *, more_is_better: bool = False, what: str = "CPU/GB") -> Comparison:
    return compare(what, "nginx", [(ratio, 1.0) for ratio in ratios], more_is_better=more_is_better)


def changed(before: Comparison, now: Comparison) -> list[history.Change]:
    return history.changes({before.key: before}, [now])


def scattered(rng: random.Random, middle: float, sigma: float, pairs: int = PAIRS) -> list[float]:
    return [middle * rng.lognormvariate(0, sigma) for _ in range(pairs)]


def share_called_worse(factor: float, sigma: float, *, again: bool = False, runs: int = 1000) -> float:
    """Of *runs* whose true figure has grown by *factor*; *again*: only those a second look confirms."""
    rng = random.Random(f"{factor} {sigma}")
    found = 0
    for _ in range(runs):
        before = line(scattered(rng, 0.8, sigma))
        now = line(scattered(rng, 0.8 * factor, sigma))
        worse = any(change.is_worse for change in changed(before, now))
        if worse and again:
            second = line(scattered(rng, 0.8 * factor, sigma))
            worse = any(change.is_worse for change in changed(before, second))
        found += worse
    return found / runs


@pytest.mark.parametrize(("factor", "sigma", "least"), [(1.2, 0.03, 0.99), (1.5, 0.1, 0.95), (2.0, 0.2, 0.9)])
def test_a_real_regression_is_found(factor: float, sigma: float, least: float) -> None:
    assert share_called_worse(factor, sigma) >= least


@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.1, 0.2, 0.4])
def test_noise_is_rarely_called_a_regression_and_hardly_ever_twice(sigma: float) -> None:
    assert share_called_worse(1.0, sigma) <= 0.03
    assert share_called_worse(1.0, sigma, again=True) <= 0.005


@pytest.mark.parametrize(("factor", "sigma", "least"), [(1.2, 0.03, 0.99), (1.5, 0.1, 0.9), (2.0, 0.2, 0.75)])
def test_a_second_look_confirms_a_real_regression(factor: float, sigma: float, least: float) -> None:
    assert share_called_worse(factor, sigma, again=True) >= least


def test_a_change_says_both_figures_and_the_noise() -> None:
    (change,) = changed(line([0.5, 0.51, 0.49]), line([1.0, 1.02, 0.98]))
    assert str(change) == "WORSE: CPU/GB / nginx: 0.5 before, 1 now; noise 4%"
    assert (change.factor, change.is_worse) == (2.0, True)


def test_which_way_is_worse_depends_on_the_line() -> None:
    (less,) = changed(line([1.0, 1.0], more_is_better=True), line([0.5, 0.5], more_is_better=True))
    (more,) = changed(line([0.5, 0.5], more_is_better=True), line([1.0, 1.0], more_is_better=True))
    assert (less.is_worse, more.is_worse) == (True, False)


def test_what_is_counted_exactly_changes_at_five_percent() -> None:
    def calls(each: float) -> Comparison:
        return figure("system calls", [each] * 3, "calls")

    assert changed(calls(2.0), calls(2.09)) == []
    assert [change.is_worse for change in changed(calls(2.0), calls(2.11))] == [True]
    assert [change.is_worse for change in changed(calls(2.0), calls(1.0))] == [False]


def test_an_error_where_there_was_none_is_a_regression() -> None:
    (change,) = changed(figure("errors", [0, 0, 0], "errors"), figure("errors", [1, 1, 0], "errors"))
    assert change.is_worse
    assert changed(figure("errors", [0], "errors"), figure("errors", [0], "errors")) == []


def test_a_line_of_one_run_alone_is_no_change() -> None:
    assert history.changes({}, [line([1.0])]) == []
    assert changed(line([1.0], what="another"), line([5.0])) == []


def test_the_worst_comes_first_and_what_is_better_last() -> None:
    before = {each.key: each for each in (line([1.0], what=name) for name in "abc")}
    found = history.changes(before, [line([0.2], what="a"), line([2.0], what="b"), line([3.0], what="c")])
    assert [change.key for change in found] == ["c / nginx", "b / nginx", "a / nginx"]


def test_two_looks_at_one_line_are_one_line_with_the_samples_of_both() -> None:
    both = history.merged(line([1.0, 2.0, 3.0]), line([5.0, 4.0]))
    assert (both.samples, both.ratio, both.least, both.largest, both.pairs) == ((1, 2, 3, 5, 4), 3, 1, 5, 5)


def test_a_stored_result_is_read_back_as_it_was(tmp_path: Path) -> None:
    lines = [line([0.5, 0.6, 0.7]), figure("calls", [2.05], "calls", goal=2.1)]
    path = write("bench", lines, folder=tmp_path)
    stored = history.load(path)
    assert stored is not None
    assert list(stored.lines.values()) == lines
    assert stored.is_ours
    changes, text = history.told(stored, lines)
    assert changes == []
    assert text == [f"2 lines compared with bench.json of {stored.when}: 0 changed"]


def test_another_machines_result_is_known_for_one(tmp_path: Path) -> None:
    path = write("bench", [line([0.5])], folder=tmp_path)
    path.write_text(path.read_text().replace('"processor": "', '"processor": "another '))
    stored = history.load(path)
    assert stored is not None
    assert not stored.is_ours
    assert "on ANOTHER machine" in history.told(stored, [line([0.5])])[1][0]


def test_the_last_result_comes_before_the_baseline(tmp_path: Path) -> None:
    baseline = write("baseline", [line([0.5])], folder=tmp_path)
    assert history.last("bench", folder=tmp_path, baseline=tmp_path / "none.json") is None
    assert history.last("bench", folder=tmp_path, baseline=baseline).path == baseline  # type: ignore[union-attr]
    mine = write("bench", [line([0.5])], folder=tmp_path)
    assert history.last("smoke", "bench", folder=tmp_path, baseline=baseline).path == mine  # type: ignore[union-attr]


def test_small_steps_for_the_worse_are_held_against_the_baseline(tmp_path: Path) -> None:
    baseline = write("baseline", [line([1.0, 1.01, 0.99])], folder=tmp_path)
    newest = line([1.04, 1.05, 1.03])
    write("bench", [newest, line([0.5], what="another")], folder=tmp_path)
    now = line([1.08, 1.09, 1.07])
    assert changed(newest, now) == []
    found = history.reference("bench", folder=tmp_path, baseline=baseline)
    assert found is not None
    assert set(found.lines) == {newest.key, "another / nginx"}
    assert [change.is_worse for change in history.changes(found.lines, [now])] == [True]


def test_a_baseline_of_another_machine_holds_nobody_back(tmp_path: Path) -> None:
    baseline = write("baseline", [line([1.0])], folder=tmp_path)
    baseline.write_text(baseline.read_text().replace('"processor": "', '"processor": "another '))
    newest = line([2.0])
    path = write("bench", [newest], folder=tmp_path)
    found = history.reference("bench", folder=tmp_path, baseline=baseline)
    assert found is not None
    assert (found.path, dict(found.lines)) == (path, {newest.key: newest})


def test_another_congestion_control_is_another_machine_where_a_result_says_so(tmp_path: Path) -> None:
    path = write("bench", [line([0.5])], folder=tmp_path)
    document = json.loads(path.read_text())
    for known, is_ours in (({"congestion": "another"}, False), ({}, True)):
        facts = {what: fact for what, fact in document["machine"].items() if what != "congestion"} | known
        path.write_text(json.dumps({**document, "machine": facts}))
        stored = history.load(path)
        assert stored is not None
        assert stored.is_ours is is_ours


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a result of the benchmarks"):
        history.load(tmp_path / "bench.json")
