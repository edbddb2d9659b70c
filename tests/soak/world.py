"""Carries out a plan: sources, region, rack and readers, and those who look at them while they run.

    main thread   the plan's clock: faults begin and end, the rack is killed and started, quiet points
    seats         a thread each: the reads of its seat, one after the other; what is refused goes before the judge
    sampler       stands the rack still about once a second, for the inspector
    log           each line of the rack's log, for the judge

The first wrong thing ends it, in one sentence. At a quiet point every fault ends, the readers finish, and then what the
rack has must be what it had when it began.

Left to others: what goes wrong (troubles), what is asked for (shelf, plan), reading (readers), what explains a refusal
or a line (judge), what the kernel says of the rack (inspector), what is counted (tally).
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.soak import content, plan, readers
from tests.soak.content import File
from tests.soak.inspector import Inspector
from tests.soak.judge import Judge
from tests.soak.plan import Action, Profile, Read
from tests.soak.rack import Life, Rack, RackFailed
from tests.soak.readers import Wrong
from tests.soak.region import Control, Source
from tests.soak.shelf import Shelf
from tests.soak.tally import Tally
from tests.soak.troubles import Troubles
from tests.soak.weather import Fault, Weather

SAMPLE_S = 0.5
PAUSE_S = 150.0  # for the readers to finish at a quiet point
SCRUB_S = 5.0  # a day's work, for the sake of what it may meet
AGAIN_S = 0.1  # a reader that was refused asks for something else after this


class World:
    """Use ``run()``. *hurry* and *silence_s* are read by the readers."""

    def __init__(self, seed: int, seconds: float, profile: Profile, directory: Path) -> None:
        self.seed, self.seconds, self.profile, self.directory = seed, seconds, profile, directory
        self.hurry = threading.Event()
        self.silence_s = profile.park_limit_s + 25.0
        number = os.getpid()
        self.net = f"127.{1 + number % 250}.{1 + number // 250 % 250}"
        self.host = f"{self.net}.1"
        self.tally = Tally()
        self.count = self.tally.count
        self.shelf = Shelf([content.make(seed, number, 0, size) for number, size in enumerate(profile.sizes)])
        self.files, self.valid, self.everything = self.shelf.files, self.shelf.valid, self.shelf.everything
        self.weather = Weather(profile.sources, profile.park_limit_s)
        self.stopping = threading.Event()
        self._turn = threading.Condition()
        self._paused = True
        self._idle = 0
        self._life: Life | None = None
        self._doing: dict[int, str] = {}
        self.began = time.monotonic()

    # -- the run

    def run(self) -> str:
        """Until the end of the plan or the first wrong thing; the sentence, or "" when all was right."""
        need = 6 * self.profile.cache_bytes
        free = shutil.disk_usage(self.directory).free
        if free < need:
            raise SystemExit(f"{self.directory}: expected {need} free bytes, got {free}")
        with self._world():
            try:
                self._start(self.profile.cache_bytes)
                self._carry_out()
                if not self.tally.failed.is_set():
                    self._quiet(last=True)
                    self._serves_everything()
                if not self.tally.failed.is_set() and self._life is not None:
                    self._end("SIGTERM")
            except (Wrong, RackFailed) as error:
                self.tally.fail(str(error))
            except Exception as error:  # such as a rack that does not answer
                traceback.print_exc()
                self.tally.fail(f"{type(error).__name__}: {error}")
            if self.tally.failed.is_set() and self._life is not None and (crash := self._life.crash()):
                self.tally.failure = f"{crash}; seen first: {self.tally.failure}"
        return self.tally.failure

    @contextmanager
    def _world(self) -> Iterator[None]:
        by_sha = {file.sha256: file for file in self.files()}
        with ExitStack() as undo:
            self.sources = [Source(self.host, f"{self.seed}/source/{n}") for n in range(self.profile.sources)]
            for source in self.sources:
                undo.callback(source.close)
                source.files = by_sha
            self.control = Control(self.host, self.files(), self.sources)
            undo.callback(self.control.close)
            self.control.start()
            self.troubles = Troubles(self.weather, self.sources, self.control, self.count)
            self.judge = Judge(self.tally, self.weather, self.sources, self.stopping)
            options = ["--park-limit", str(self.profile.park_limit_s), "--scrub-pass", str(SCRUB_S)]
            token = self.control.token.line()
            self.rack = Rack(self.directory / "rack", self.host, self.control.url, token, options, self.judge.hear)
            self.inspector = Inspector(self.tally, self.rack, self.control, self.sources, f"{self.net}.")
            threads = [threading.Thread(target=self._watch, daemon=True)]
            for seat, kind in enumerate(plan.seats(self.profile)):
                threads.append(threading.Thread(target=self._sit, args=(seat, kind), daemon=True))
            for thread in threads:
                thread.start()
                undo.callback(thread.join, 15.0)
            undo.callback(self.rack.close)
            undo.callback(self._stop)
            yield

    def _stop(self) -> None:
        """Nobody begins anything any more."""
        self.stopping.set()
        self.hurry.set()
        with self._turn:
            self._turn.notify_all()

    # -- the plan's clock

    def _carry_out(self) -> None:
        order = itertools.count()
        events: list[tuple[float, int, Callable[[], None], str]] = []
        for action in plan.actions(self.seed, self.seconds, self.profile):
            events += [(at, next(order), do, text) for at, do, text in self._events(action)]
        events.sort(key=lambda event: event[:2])
        began = time.monotonic()
        self._pause(False)
        for at, _, do, text in [*events, (self.seconds, 0, lambda: None, "")]:
            while not self.tally.failed.is_set() and time.monotonic() - began < at:
                self.tally.failed.wait(min(1.0, max(0.0, at - (time.monotonic() - began))))
            if self.tally.failed.is_set():
                return
            if text:
                self.tally.done.append(f"{time.monotonic() - self.began:7.2f} s: {text}")
            started = time.monotonic()
            do()
            if text.endswith(" quiet "):
                began += time.monotonic() - started

    def _events(self, action: Action) -> list[tuple[float, Callable[[], None], str]]:
        values, text = action.values, str(action)
        if action.kind in ("fault", "control"):
            who = f"source-{values['source']}" if action.kind == "fault" else "control"
            held: list[Fault] = []
            return [
                (action.at, lambda: held.append(self.troubles.begin(who, values["fault"])), text),
                (action.at + values["s"], lambda: self.troubles.end(held[0]), ""),
            ]
        if action.kind == "freeze":
            return [(action.at, lambda: self._freeze(values["s"]), text)]
        if action.kind == "limit":
            return [(action.at, lambda: self._limit(values["bytes"]), text)]
        if action.kind == "publish":
            return [(action.at, lambda: self._publish(values["files"]), text)]
        if action.kind == "quiet":
            return [(action.at, self._quiet, text)]
        how = {"kill": "SIGKILL", "term": "SIGTERM"}[action.kind]
        return [(action.at, lambda: self._again(how, values), text)]

    def _freeze(self, seconds: float) -> None:
        life = self._life
        assert life is not None
        fault = self.weather.begin("rack", "freeze")
        with life.still():
            self.tally.failed.wait(seconds)
        self.weather.end(fault)
        self.count("freezes")

    def _limit(self, limit: int) -> None:
        life = self._life
        assert life is not None
        life.limits.append((time.monotonic(), max(limit, life.limits[-1][1])))  # it is not known when it is taken
        self.inspector.wanted_limit = limit
        self.control.settings = {"cache_bytes": limit}
        self.count("limit changes")

    def _publish(self, numbers: list[int]) -> None:
        self.count("catalogues")
        version = self.tally.counts["catalogues"]
        new = {n: content.make(self.seed, n, version, self.files()[n].size) for n in numbers}
        for source in self.sources:
            source.files = {**source.files, **{file.sha256: file for file in new.values()}}
        self.shelf.replace(new)
        self.control.offer(self.files())

    def _again(self, how: str, values: dict[str, Any]) -> None:
        self._end(how)
        self.control.settings = {}
        rng = random.Random(f"{self.seed}/rot/{self.rack.lives}")
        spoilt = self.rack.rot(values["rot"], rng)
        self.judge.damaged(spoilt)
        self.count("segments damaged", len(spoilt))
        self.tally.failed.wait(values["down_s"])
        self._start(values["cache_bytes"], values["files"], values["reactors"], killed=how == "SIGKILL")

    def _start(self, cache_bytes: int, files: int = 0, reactors: int = 1, killed: bool = False) -> None:
        self.judge.life_after(self.rack.lives + 1, killed=killed)
        life = self.rack.start(cache_bytes, files, reactors)
        self.inspector.began(life, cache_bytes)
        with self._turn:
            self._life = life
            self._turn.notify_all()

    def _end(self, how: str) -> None:
        life = self._life
        assert life is not None
        self.inspector.scrape(life)
        with self._turn:
            self._life = None
        self.rack.end(life, how)
        if how == "SIGTERM" and not (self.rack.cache / "state").exists():
            self.tally.fail(f"life {life.number} ended without a record of its segments")
        self.count({"SIGKILL": "kills", "SIGTERM": "clean ends"}[how])
        self.judge.forget()

    # -- seats

    def _pause(self, paused: bool) -> None:
        with self._turn:
            self._paused = paused
            self._turn.notify_all()

    def _turn_of(self) -> Life | None:
        """Waits until a read may begin; the rack to read from, or None at the end."""
        with self._turn:
            self._idle += 1
            self._turn.notify_all()
            self._turn.wait_for(lambda: self.stopping.is_set() or (not self._paused and self._life is not None))
            self._idle -= 1
            return None if self.stopping.is_set() else self._life

    def _sit(self, seat: int, kind: str) -> None:
        source = f"{self.net}.{10 + seat}"
        for number, read in enumerate(plan.reads(self.seed, seat, kind, self.profile)):
            life = self._turn_of()
            if life is None or self.tally.failed.is_set():
                return
            what = f"seat {seat} ({kind}) read {number}: {_told(read, self.files())}"
            self._doing[seat] = what
            rng = random.Random(f"{self.seed}/loss/{seat}/{number}")
            try:
                refusal = readers.carry_out(self, read, life, source, rng)
                self.count("reads")
                if refusal is not None:
                    self.judge.judge(life, refusal)
                    self.stopping.wait(AGAIN_S)
            except Wrong as error:
                self.tally.fail(f"{error}; {what}, life {life.number}")
            except Exception as error:
                traceback.print_exc()
                self.tally.fail(f"{type(error).__name__}: {error}; {what}")
            self._doing.pop(seat, None)

    def _watch(self) -> None:
        """The sampler."""
        while not self.stopping.wait(SAMPLE_S):
            life = self._life
            try:
                if life is not None:
                    self.inspector.sample(life, is_busy=not self._paused)
            except (ProcessLookupError, FileNotFoundError):
                pass  # it has ended meanwhile
            except RackFailed as error:
                self.tally.fail(str(error))
                return
            except Exception as error:  # else nobody would look any more
                traceback.print_exc()
                self.tally.fail(f"the sampler ended: {type(error).__name__}: {error}")
                return

    # -- quiet points

    def _quiet(self, last: bool = False) -> None:
        self.tally.done.append(f"{time.monotonic() - self.began:7.2f} s: quiet")
        self.troubles.clear()
        self.hurry.set()
        self._pause(True)
        until = time.monotonic() + PAUSE_S
        seats = len(plan.seats(self.profile))
        with self._turn:
            while self._idle < seats and not self.tally.failed.is_set():
                if not self._turn.wait(min(1.0, until - time.monotonic())) and time.monotonic() > until:
                    raise Wrong(f"readers did not come to an end within {PAUSE_S:.0f} s: {list(self._doing.values())}")
        if not self.tally.failed.is_set():
            assert self._life is not None
            self.inspector.settles(self._life)
            self.count("quiet points")
        self.hurry.clear()
        if not last:
            self._pause(False)

    def _serves_everything(self) -> None:
        """After the last fault: every file, whole and right; the rack refuses what takes it longer than its park
        limit."""
        life = self._life
        assert life is not None
        self.hurry.clear()
        for number, file in enumerate(self.files()):
            began = time.monotonic()
            reader = readers.HttpReader(self, Read("http", (number,), ("whole",)), life, f"{self.net}.9")
            refusal = reader.run()
            if refusal is not None:
                waited = time.monotonic() - began
                raise Wrong(
                    f"after the last fault, {file.name} was refused after {waited:.1f} s: {refusal.how} {refusal.text}"
                )


def _told(read: Read, files: list[File]) -> str:
    wanted = ", ".join(f"{files[n].name} {r}" for n, r in zip(read.files, read.ranges, strict=True))
    defaults = Read._field_defaults | {"files": read.files, "ranges": read.ranges}
    given = {key: value for key, value in read._asdict().items() if value != defaults.get(key)}
    return f"{wanted} {given}"


def digest_of(actions: list[Action]) -> str:
    return hashlib.sha256("\n".join(map(str, actions)).encode()).hexdigest()[:12]
