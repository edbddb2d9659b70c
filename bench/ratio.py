"""Interleaved rounds of two contestants -> the ratio of ours to the baseline, with its spread; and figures that need no
baseline, because they are counted.

A figure alone says as much about the machine and its other users as about the code; a ratio of the same work, done in
turns within one run, says what changed. So every sample has its partner beside it, a pair's order alternates, the
warm-up is outside, and the median of the pairs' ratios is given with the least and the largest of them.

Pure but for the clocks: what is run, and on which CPU, is the caller's part.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results"
ROUNDS = 5  # fewer pairs give a median that one disturbed round can move


class Goal(NamedTuple):
    """What a figure is to reach, and what it would be good to reach. docs/design.md, section 9 has them."""

    goal: float | None = None
    stretch: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One figure of ours over the baseline's, from pairs measured side by side; or, with ``baseline`` "", a figure of
    ours alone, whose samples are the "ratios"."""

    what: str
    baseline: str  # who the baseline is
    ours: float  # medians, in the unit of the samples
    theirs: float
    ratio: float  # median of the pairs' ratios; not ours / theirs
    least: float
    largest: float
    pairs: int
    goal: float | None = None  # of the ratio
    more_is_better: bool = False
    stretch: float | None = None  # of the ratio, where the goal is not the end of it
    unit: str = ""  # of a figure without baseline
    samples: tuple[float, ...] = ()  # the pairs' ratios, in the order in which they were measured

    @property
    def key(self) -> str:
        """What the line is found by in another run's result."""
        return f"{self.what} / {self.baseline}" if self.baseline else self.what

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None when there is none."""
        return None if self.goal is None else self.within(1.0)

    @property
    def verdict(self) -> str:
        """``reached``, ``stretch`` when that is reached, too, ``MISSED``, or nothing without a goal."""
        if self.goal is None:
            return ""
        if self.stretch is not None and replace(self, goal=self.stretch).within(1.0):
            return "stretch"
        return "reached" if self.reached else "MISSED"

    def within(self, factor: float) -> bool:
        """Whether the ratio misses its goal by no more than *factor*: 2 is what may fail a build."""
        if self.goal is None:
            return True
        return self.ratio * factor >= self.goal if self.more_is_better else self.ratio <= self.goal * factor

    def __str__(self) -> str:
        goal = "" if self.goal is None else f", goal {'>=' if self.more_is_better else '<='} {self.goal:g}"
        spread = f"{_number(self.ratio)} [{_number(self.least)}-{_number(self.largest)}]"
        if not self.baseline:
            return f"{self.what}: {spread} {self.unit}, {self.pairs} samples{goal}"
        return f"{self.what}: {spread} x {self.baseline}, {self.pairs} pairs{goal}"


def compare(
    what: str,
    baseline: str,
    pairs: Sequence[tuple[float, float]],
    *,
    goal: float | Goal | None = None,
    more_is_better: bool = False,
) -> Comparison:
    """*pairs* of (ours, the baseline's), all above 0. Raises ValueError when there are none."""
    if not pairs or any(ours <= 0 or theirs <= 0 for ours, theirs in pairs):
        raise ValueError(f"{what}: expected pairs of figures above 0, got {pairs!r}")
    ratios = [ours / theirs for ours, theirs in pairs]
    return Comparison(
        what=what,
        baseline=baseline,
        ours=statistics.median(ours for ours, _ in pairs),
        theirs=statistics.median(theirs for _, theirs in pairs),
        ratio=statistics.median(ratios),
        least=min(ratios),
        largest=max(ratios),
        pairs=len(pairs),
        more_is_better=more_is_better,
        samples=tuple(ratios),
        **_aims(goal),
    )


def figure(
    what: str, values: Sequence[float], unit: str, *, goal: float | Goal | None = None, more_is_better: bool = False
) -> Comparison:
    """*values* of ours that are compared with nobody's: counts, and times that a person would notice."""
    if not values:
        raise ValueError(f"{what}: expected figures, got none")
    median = statistics.median(values)
    return Comparison(
        what=what,
        baseline="",
        ours=median,
        theirs=0.0,
        ratio=median,
        least=min(values),
        largest=max(values),
        pairs=len(values),
        more_is_better=more_is_better,
        unit=unit,
        samples=tuple(values),
        **_aims(goal),
    )


def _aims(goal: float | Goal | None) -> dict[str, float | None]:
    return (goal if isinstance(goal, Goal) else Goal(goal))._asdict()


def interleave(
    ours: Callable[[], float], theirs: Callable[[], float], *, rounds: int = ROUNDS, warmup: int = 1
) -> list[tuple[float, float]]:
    """Samples in turns: ours, theirs; theirs, ours; ... Each callable does the work once and returns its figure."""
    pairs = []
    for turn in range(-warmup, rounds):
        if turn % 2 == 0:
            first = ours()
            second = theirs()
        else:
            second = theirs()
            first = ours()
        if turn >= 0:
            pairs.append((first, second))
    return pairs


def thread_cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds that the calling thread spends in *work*. Other threads' and other processes' time is not in it."""
    before = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)
    work()
    return time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) - before


def process_cpu_s(work: Callable[[], object], who: int = resource.RUSAGE_SELF) -> float:
    """CPU seconds, user and system, of the process's threads in *work*; RUSAGE_CHILDREN: of children it waited for."""
    before = resource.getrusage(who)
    work()
    after = resource.getrusage(who)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def table(comparisons: Iterable[Comparison]) -> str:
    """The comparisons as aligned text, one line each."""
    rows = [("what", "baseline", "ours", "theirs", "ratio", "spread", "pairs", "goal", "stretch", "")]
    for c in comparisons:
        sign = ">=" if c.more_is_better else "<="
        rows.append(
            (
                c.what,
                c.baseline,
                f"{_number(c.ours)} {c.unit}".rstrip(),
                _number(c.theirs) if c.baseline else "",
                f"{c.ratio:.2f}" if c.baseline else "",
                f"{_number(c.least)}-{_number(c.largest)}",
                str(c.pairs),
                "" if c.goal is None else f"{sign} {c.goal:g}",
                "" if c.stretch is None else f"{c.stretch:g}",
                c.verdict,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = {0, 1, 9}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _congestion() -> str:
    """How TCP shares a path: with bbr a GB over loopback costs twice what it costs with cubic, whoever sends it."""
    try:
        return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    except FileNotFoundError:
        return "unknown"


def machine() -> dict[str, object]:
    """What a figure must be read with: processor, CPUs given to us, kernel, its TCP, Python, load at this moment."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except FileNotFoundError:
        pass  # no /proc: the platform's own word stays
    return {
        "processor": model,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "congestion": _congestion(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def write(name: str, comparisons: Iterable[Comparison], *, notes: Sequence[str] = (), folder: Path = RESULTS) -> Path:
    """Write *folder*/*name*.json whole or not at all, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    document = {
        "name": name,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "notes": list(notes),
        "comparisons": [{**asdict(c), "reached": c.reached} for c in comparisons],
    }
    aside = path.with_suffix(f".{os.getpid()}.part")
    aside.write_text(json.dumps(document, indent=1) + "\n")
    aside.replace(path)
    return path
