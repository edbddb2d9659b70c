"""This run's figures beside those of the last stored one: which have changed by more than the noise of both.

The noise of a line is what its own pairs say: half of what lies between the least and the largest of them, as a share
of their median. Two runs differ when their medians differ by more than both noises added, and by more than 5 %. With
five pairs and no change, 1 % of lines that scatter by a tenth are called worse, fewer of calmer ones; a line that has
become 1.5 times as costly is found 98 times in 100 (tests/bench/test_history.py plays it). Lines are many, so whoever
would fail for one measures it again first, and fails when it looks worse twice.

Pure but for load().
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from bench.ratio import RESULTS, Comparison, machine

LEAST_CHANGE = 0.05  # nobody looks for less, and lines that are counted exactly have no noise at all
BASELINE = RESULTS / "baseline.json"  # stored with the sources
SAME_MACHINE = ("processor", "cpus", "congestion")  # as far as a result says


@dataclass(frozen=True)
class Change:
    """One line that has changed. *factor*: now / before; *noise*: of both runs, as a share."""

    key: str
    before: float
    now: float
    noise: float
    is_worse: bool

    @property
    def factor(self) -> float:
        return self.now / self.before if self.before else math.inf

    def __str__(self) -> str:
        word = "WORSE" if self.is_worse else "better"
        return f"{word}: {self.key}: {self.before:.3g} before, {self.now:.3g} now; noise {self.noise:.0%}"


@dataclass(frozen=True)
class Stored:
    """What another run has left. *is_ours*: this machine is of the class that it was measured on."""

    path: Path
    when: str
    lines: Mapping[str, Comparison]
    is_ours: bool


def noise(line: Comparison) -> float:
    return (line.largest - line.least) / 2 / abs(line.ratio) if line.ratio else 0.0


def changes(before: Mapping[str, Comparison], now: Iterable[Comparison]) -> list[Change]:
    """The lines of *now* that differ from those of the same key by more than the noise, the worst first. Lines that are
    new, or gone, are no changes."""
    found = []
    for line in now:
        if (old := before.get(line.key)) is None:
            continue
        both = noise(old) + noise(line)
        if abs(line.ratio - old.ratio) > max(both, LEAST_CHANGE) * abs(old.ratio):
            is_worse = (line.ratio < old.ratio) == line.more_is_better
            found.append(Change(line.key, old.ratio, line.ratio, both, is_worse))
    return sorted(found, key=lambda change: (not change.is_worse, -abs(math.log(max(change.factor, 1e-9)))))


def merged(first: Comparison, second: Comparison) -> Comparison:
    """One line measured twice, with the samples of both."""
    samples = (*first.samples, *second.samples)
    return replace(
        first,
        ours=statistics.median((first.ours, second.ours)),
        theirs=statistics.median((first.theirs, second.theirs)),
        ratio=statistics.median(samples),
        least=min(samples),
        largest=max(samples),
        pairs=len(samples),
        samples=samples,
    )


def load(path: Path) -> Stored | None:
    """What write() has left there; None when there is nothing. Raises ValueError for anything else."""
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    known = {field.name for field in fields(Comparison)}
    try:
        lines = [
            Comparison(**{**{k: v for k, v in line.items() if k in known}, "samples": tuple(line.get("samples", ()))})
            for line in document["comparisons"]
        ]
        here = machine()
        is_ours = all(document["machine"].get(what, here[what]) == here[what] for what in SAME_MACHINE)
        return Stored(path, document["when"], {line.key: line for line in lines}, is_ours)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected a result of the benchmarks, got {error!r}") from error


def last(*names: str, folder: Path = RESULTS, baseline: Path = BASELINE) -> Stored | None:
    """The first there is of *names*, else the baseline."""
    for path in (*(folder / f"{name}.json" for name in names), baseline):
        if (stored := load(path)) is not None:
            return stored
    return None


def reference(name: str, folder: Path = RESULTS, baseline: Path = BASELINE) -> Stored | None:
    """What a run must not be worse than: the lines of the baseline, and those of the last result that it has not. The
    last result alone would let a line become worse by less than the noise with each run, for ever. A baseline of
    another machine says nothing: then it is the last result."""
    newest, first = last(name, folder=folder, baseline=baseline), load(baseline)
    if newest is None or first is None or not first.is_ours or not newest.is_ours:
        return newest
    return replace(first, lines={**newest.lines, **first.lines})


def told(stored: Stored | None, now: Iterable[Comparison]) -> tuple[list[Change], list[str]]:
    """(the changes since *stored*, the same as text)."""
    if stored is None:
        return [], ["no stored result to compare with"]
    now = list(now)
    found = changes(stored.lines, now)
    compared = sum(line.key in stored.lines for line in now)
    where = "" if stored.is_ours else ", on ANOTHER machine"
    text = [f"{compared} lines compared with {stored.path.name} of {stored.when}{where}: {len(found)} changed"]
    return found, text + [f"  {change}" for change in found]
