"""``make bench``: the whole table of docs/design.md, section 9, and how it differs from the last stored one.

    make bench                                  everything: half an hour on a quiet machine
    make bench BENCH_ARGS="--only tftp"         one group, or lines with a word in their name; --list prints both
    make bench BENCH_ARGS=--ci                  exit status 1 when a line has become worse by more than the noise

bench/results/bench.json keeps the last figures of every line; where it is not there yet, the stored baseline.json is
compared with. --ci holds lines against the baseline first. One that looks worse then is measured once more; it fails
when it looks worse again, and nothing is stored then. Lines without a goal, and times without a baseline, are shown and
fail nothing. Without --ci the exit status is 1 when a goal is missed by a factor of two.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench import anchors, connections, counted, history
from bench.calls import CannotCount
from bench.cases import HTTP, TFTP
from bench.profile import NoProfile, profile
from bench.racks import cpus
from bench.ratio import RESULTS, ROUNDS, Comparison, table, write
from bench.wire import Case, Site, driven, measure, site

CACHE_BYTES = 4 << 30
SAMPLES = 3  # of what is counted
TIMES = ("s", "ms")
GROUPS = ("http", "tftp", "fill", "ingest", "restart", "herd", "sync")
PYTEST = ("-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--benchmark-disable-gc")


@dataclass
class Bench:
    """What the items share: a site, which is there from its first use until close()."""

    rounds: int
    cache_bytes: int
    anchors: Sequence[str]
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    is_profiled: bool = False
    _stack: ExitStack = field(default_factory=ExitStack)
    _site: Site | None = None

    @property
    def site(self) -> Site:
        if self._site is None:
            self._site = self._stack.enter_context(site(self.anchors, self.cache_bytes))
            self.notes += [f"left out: {reason}" for reason in self._site.missing]
        return self._site

    def close(self) -> None:
        self._stack.close()
        self._site = None


@dataclass(frozen=True)
class Item:
    """One thing to run, which makes some lines. *anchors*: who must run beside ours."""

    group: str
    name: str
    run: Callable[[Bench], Iterable[Comparison]]
    anchors: tuple[str, ...] = ()
    is_alone: bool = False  # nothing else may run: the site is closed first

    def is_meant(self, words: Sequence[str]) -> bool:
        """Whether one of *words* is its group, or no group at all and in its name."""
        return not words or any(
            word == self.group if word in GROUPS else word.lower() in self.name.lower() for word in words
        )


def _case(group: str, case: Case) -> Item:
    def run(bench: Bench) -> Iterator[Comparison]:
        yield from measure(case, bench.site, bench.rounds)
        if bench.is_profiled:
            for name in ("bootplane", *case.anchors):
                _profile(bench.site, case, name)

    return Item(group, case.name, run, tuple(case.anchors))


def _profile(on: Site, case: Case, name: str) -> None:
    if name not in on.targets:
        return
    target, file = on.targets[name], on.files[case.file]
    try:
        lines = profile(target.server, lambda: driven(case.name, case.load, target, file))
    except NoProfile as error:
        lines = [f"left out: {error}"]
    print(f"  where {name} spends its time:", *lines, sep="\n    ", flush=True)


def _counted(group: str, name: str, lines: Callable[[Site, int], Iterable[Comparison]], *anchors: str) -> Item:
    def run(bench: Bench) -> Iterator[Comparison]:
        try:
            yield from lines(bench.site, SAMPLES)
        except CannotCount as error:
            bench.notes.append(f"left out: {name}: {error}")

    return Item(group, name, run, anchors)


def _elsewhere(group: str, name: str, result: str, *argv: str) -> Item:
    """A program of its own, which leaves *result* in the folder of results."""

    def run(bench: Bench) -> Iterator[Comparison]:
        path = RESULTS / f"{result}.json"
        path.unlink(missing_ok=True)
        status = subprocess.run([sys.executable, *argv], check=False).returncode
        stored = history.load(path)
        if stored is None:
            bench.notes.append(f"left out: {name}: it left no result, exit status {status}")
            return
        yield from stored.lines.values()

    return Item(group, name, run, is_alone=True)


ITEMS = (
    *(_case("http", case) for case in HTTP),
    _counted("http", "system calls of 4 KiB", counted.small_calls, "nginx"),
    _counted("http", "system calls of ranges", counted.range_calls, "nginx"),
    *(_case("tftp", case) for case in TFTP),
    _counted("tftp", "system calls of DATA", counted.tftp_calls),
    _counted("tftp", "500 clients at once", counted.many_clients),
    _counted("tftp", "bad networks", counted.loss),
    Item("http", "10,000 idle connections", lambda _: connections.idle(), is_alone=True),
    Item("http", "10,000 and 5,000 slow readers", lambda _: connections.slow_readers(), is_alone=True),
    _elsewhere("fill", "fill, verified", "fill", *PYTEST, "bench/test_fill.py"),
    _elsewhere("ingest", "region ingest: the verifier", "digest", *PYTEST, "bench/test_digest.py"),
    _elsewhere("restart", "restart with a full cache", "restart", "-m", "bench.restart"),
    _elsewhere("sync", "sync of a mirror, and one that finds nothing new", "sync", "-m", "bench.sync"),
    _elsewhere("herd", "cold herd", "herd", "-m", "bench.herd"),
)


def run(items: Sequence[Item], bench: Bench) -> dict[str, list[Comparison]]:
    """Item name -> its lines, each printed as it is there."""
    found: dict[str, list[Comparison]] = {}
    try:
        for item in items:
            if item.is_alone:
                bench.close()
            began = time.monotonic()
            print(f"{item.group}: {item.name}", flush=True)
            found[item.name] = []
            try:
                for line in item.run(bench):
                    found[item.name].append(line)
                    print(f"  {line}", flush=True)
            except SystemExit as error:  # something was answered wrongly: that is told, and the others are measured
                if not isinstance(error.code, str):
                    raise
                bench.failed.append(f"{item.name}: {error.code}")
                print(f"  FAILED: {error.code}", flush=True)
                bench.close()
            print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
    finally:
        bench.close()
    return found


def confirmed(
    items: Sequence[Item], bench: Bench, stored: history.Stored | None, found: dict[str, list[Comparison]]
) -> list[history.Change]:
    """Measures what looks worse and has a goal once more, returns what looks worse again, and puts both looks together
    in *found*."""
    worse = {change.key for change in judged(stored, found)}
    again = [item for item in items if any(line.key in worse for line in found[item.name])]
    if not again:
        return []
    print("once more, because it looks worse than before", flush=True)
    looks = run(again, bench)
    second = {line.key: line for lines in looks.values() for line in lines}
    for name, lines in found.items():
        found[name] = [
            history.merged(line, second[line.key]) if line.key in worse and line.key in second else line
            for line in lines
        ]
    return [change for change in judged(stored, looks) if change.key in worse]


def judged(stored: history.Stored | None, found: dict[str, list[Comparison]]) -> list[history.Change]:
    """Lines with a goal that are worse than the stored ones. A time alone says more about the machine than about us."""
    lines = [line for each in found.values() for line in each if line.goal is not None and line.unit not in TIMES]
    return [change for change in history.told(stored, lines)[0] if change.is_worse]


def versions(names: Iterable[str]) -> list[str]:
    found = []
    for name in sorted({PROGRAMS.get(name, name) for name in names}):
        try:
            found.append(f"{name}: {anchors.find(name).version}")
        except anchors.Missing:  # it stands among what was left out
            continue
    return found


PROGRAMS = {"nginx's own cache": "nginx", "tftpd-hpa": "in.tftpd"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench", description="The whole table, and what has changed.")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="a group, or words of names")
    parser.add_argument("--list", action="store_true", help="print the groups and names")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help="pairs; default: %(default)s")
    parser.add_argument("--cache-mib", type=int, default=CACHE_BYTES >> 20, metavar="N", help="default: %(default)s")
    parser.add_argument("--ci", action="store_true", help="fail when a line is worse than the last stored one")
    parser.add_argument("--baseline", action="store_true", help="store as bench/results/baseline.json, too")
    parser.add_argument("--profile", action="store_true", help="print where each server spends its time, by perf")
    options = parser.parse_args(argv)
    items = [item for item in ITEMS if item.is_meant(options.only)]
    if options.list or not items:
        print("\n".join(f"{item.group}: {item.name}" for item in ITEMS))
        return 0 if options.list else 2
    cpus()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is started ends with its context
    stored = history.last("bench")
    names = list(dict.fromkeys(name for item in items for name in item.anchors))
    bench = Bench(options.rounds, options.cache_mib << 20, names, is_profiled=options.profile)
    found = run(items, bench)
    reference = history.reference("bench") if options.ci else None
    worse = confirmed(items, bench, reference, found) if reference and reference.is_ours else []
    lines = [line for each in found.values() for line in each]
    notes = list(dict.fromkeys([*bench.notes, *versions(names)]))
    print(f"\n{table(lines)}")
    for note in notes:
        print(note)
    print("\n".join(history.told(stored, lines)[1]))
    keep = {} if stored is None or stored.path == history.BASELINE else dict(stored.lines)
    for text in bench.failed:
        print(f"bench: failed: {text}", file=sys.stderr)
    if worse:
        print("not stored: some lines are worse than before", file=sys.stderr)
        for change in worse:
            print(f"bench: {change}", file=sys.stderr)
        return 1
    every = {**keep, **{line.key: line for line in lines}}
    print(f"written to {write('bench', every.values(), notes=notes)}")
    if options.baseline:
        print(f"written to {write('baseline', every.values(), notes=notes)}")
    far_off = [] if options.ci else [line for line in lines if not line.within(2.0)]
    for line in far_off:
        print(f"bench: missed by more than a factor of two: {line}", file=sys.stderr)
    return 1 if far_off or bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
