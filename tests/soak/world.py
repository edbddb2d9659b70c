"""Carries out a plan: sources, region, rack and readers, and everything that is checked while they run.

    main thread   the plan's clock: faults begin and end, the rack is killed and started, quiet points
    seats         a thread each: the reads of its seat, one after the other
    sampler       stands the rack still about once a second: bytes on the disk against the limit
    log           each line of the rack's log is known, or it is a failure

The first wrong thing ends it, in one sentence. At a quiet point every fault ends, the readers finish, and then what the
rack has must be what it had when it began: descriptors, sockets, threads, nothing condemned, and on the disk what is
charged.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import os
import random
import re
import shutil
import statistics
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.soak import content, plan, rack, readers
from tests.soak.content import File
from tests.soak.plan import Action, Profile, Read
from tests.soak.rack import Life, Rack, RackFailed
from tests.soak.readers import Refusal, Wrong
from tests.soak.region import Control, Source
from tests.soak.weather import Fault, Weather

MIB = 1 << 20
SAMPLE_S = 0.5
PAUSE_S = 150.0  # for the readers to finish at a quiet point
BEAT_S = 20.0
SCRUB_S = 5.0  # a day's work, for the sake of what it may meet
SETTLE_S = 20.0  # for the rack to let go of everything then
JUDGE_S = 3.0  # for the log to say what a reader has met
AGAIN_S = 0.1  # a reader that was refused asks for something else after this
REMEMBER_S = 120.0
FOLLOWS_S = 90.0  # a rack whose region was gone may serve an older catalogue for so long
ANONYMOUS = 160 * MIB  # of a rack, above what it had at its start
SOURCE_SOCKETS = 4  # kept alive to each source: one for each thread that asks
REGION_SOCKETS = 17
CLOSE_WAIT = ":08"  # kept alive, and the source has ended it: it is noticed when it is wanted next
TORN = 3  # chunks a kill can leave half-written: one for each fill thread

GAVE_UP = re.compile(r"WARNING bootplane\.fill: gave up chunk (\d+) of blob ([0-9a-f]{64}): (.*)")
REFUSED = re.compile(r"ERROR\s+bootplane\.fill: refused chunk (\d+) of blob ([0-9a-f]{64}) from ([0-9.:]+): ")
ROTTEN = re.compile(r"ERROR\s+bootplane\.\w+: rotten in the cache, removed: blob ([0-9a-f]{64}) chunk (\d+): ")
UNREADABLE = re.compile(r"ERROR\s+bootplane\.fill: chunk (\d+) of blob ([0-9a-f]{64}) cannot be checked: ")
LEVEL = re.compile(r"\d{4}-\d\d-\d\dT\S+ (\w+)\s")


class World:
    """Use ``run()``. *hurry* and *silence_s* are read by the readers."""

    def __init__(
        self, seed: int, seconds: float, profile: Profile, directory: Path, say: Callable[[str], None]
    ) -> None:
        self.seed, self.seconds, self.profile, self.say = seed, seconds, profile, say
        self.directory = directory
        self.hurry = False
        self.silence_s = profile.park_limit_s + 25.0
        number = os.getpid()
        self.net = f"127.{1 + number % 250}.{1 + number // 250 % 250}"
        self.host = f"{self.net}.1"
        self.counts: Counter[str] = Counter()
        self.most: dict[str, float] = {}
        self.ratios: list[float] = []
        self.done: deque[str] = deque(maxlen=40)  # what has been done, for a failure
        self.failure = ""
        self.failed = threading.Event()
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._turn = threading.Condition(self._lock)
        self._paused = True
        self._idle = 0
        self._life: Life | None = None
        self._gave_up: deque[tuple[float, str]] = deque()
        self._rotten: set[tuple[str, int]] = set()  # segments that were damaged
        self._wanted_limit = profile.cache_bytes
        self._torn: dict[int, int] = {}  # life -> chunks found half-written
        self._kills_before: dict[int, bool] = {}
        self._totals: dict[int, dict[str, float]] = {}
        self._base: dict[int, rack.Numbers] = {}
        self._doing: dict[int, str] = {}
        self._files: list[File] = []
        self._replaced: list[tuple[float, File]] = []  # (when, the file that had the name before)
        self.weather = Weather(profile.sources, profile.park_limit_s)
        self.began = time.monotonic()

    # -- what readers ask

    def files(self) -> list[File]:
        return self._files

    def valid(self, file: File) -> list[File]:
        """*file* and those that had its name until a short while ago: the rack may not have heard of it yet."""
        since = time.monotonic() - FOLLOWS_S
        with self._lock:
            others = [old for until, old in self._replaced if old.name == file.name and until > since]
            now = [new for new in self._files if new.name == file.name]  # it may have been replaced meanwhile
        return list(dict.fromkeys([file, *now, *others]))

    def everything(self) -> list[File]:
        with self._lock:
            return self._files + [old for _, old in self._replaced]

    def count(self, key: str, n: int = 1) -> None:
        with self._lock:
            self.counts[key] += n

    def fail(self, sentence: str) -> None:
        with self._lock:
            if not self.failure:
                self.failure = sentence
        self.failed.set()
        with self._turn:
            self._turn.notify_all()

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
                if not self.failed.is_set():
                    self._quiet(last=True)
                    self._serves_everything()
                if not self.failed.is_set() and self._life is not None:
                    self._end("SIGTERM")
            except (Wrong, RackFailed) as error:
                self.fail(str(error))
        return self.failure

    @contextmanager
    def _world(self) -> Any:
        sizes = self.profile.sizes
        self._files = [content.make(self.seed, number, 0, size) for number, size in enumerate(sizes)]
        by_sha = {file.sha256: file for file in self._files}
        self.sources = [Source(self.host, f"{self.seed}/source/{n}") for n in range(self.profile.sources)]
        self.control = Control(self.host, self._files, self.sources)
        threads: list[threading.Thread] = []
        try:
            for source in self.sources:
                source.files = by_sha
            self.control.start()
            options = ["--park-limit", str(self.profile.park_limit_s), "--scrub-pass", str(SCRUB_S)]
            self.rack = Rack(
                self.directory / "rack", self.host, self.control.url, self.control.token.line(), options, self._hear
            )
            for seat, kind in enumerate(plan.seats(self.profile)):
                threads.append(threading.Thread(target=self._sit, args=(seat, kind), daemon=True))
            threads.append(threading.Thread(target=self._watch, daemon=True))
            for thread in threads:
                thread.start()
            yield
        finally:
            self.stopping.set()
            self.hurry = True
            with self._turn:
                self._turn.notify_all()
            life = self._life
            if life is not None and life.process.poll() is None:
                with life.lock:
                    life.ending = life.ending or "SIGKILL"
                    life.process.kill()
                life.process.wait()
            for thread in threads:
                thread.join(15.0)
            for source in self.sources:
                source.close()
            self.control.silent.clear()
            self.control.stop()

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
            while not self.failed.is_set() and time.monotonic() - began < at:
                self.failed.wait(min(1.0, max(0.0, at - (time.monotonic() - began))))
            if self.failed.is_set():
                return
            if text:
                self.done.append(f"{time.monotonic() - self.began:7.2f} s: {text}")
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
                (action.at, lambda: self._fault(who, values["fault"], held), text),
                (action.at + values["s"], lambda: self._well(who, held), ""),
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

    _active: dict[str, list[Fault]]

    def _fault(self, who: str, kind: str, held: list[Fault]) -> None:
        held.append(self.weather.begin(who, kind))
        self.count(f"faults: {kind}")
        self._stack(who).append(held[0])
        self._apply(who)

    def _well(self, who: str, held: list[Fault]) -> None:
        for fault in held:
            self.weather.end(fault)
            if fault in self._stack(who):
                self._stack(who).remove(fault)
        self._apply(who)

    def _stack(self, who: str) -> list[Fault]:
        if not hasattr(self, "_active"):
            self._active = {}
        return self._active.setdefault(who, [])

    def _apply(self, who: str) -> None:
        stack = self._stack(who)
        kind = stack[-1].kind if stack else None
        if who == "control":
            self.control.fail(kind)
        else:
            self.sources[int(who.rpartition("-")[2])].fail(kind)

    def _freeze(self, seconds: float) -> None:
        life = self._life
        assert life is not None
        fault = self.weather.begin("rack", "freeze")
        with life.still():
            self.failed.wait(seconds)
        self.weather.end(fault)
        self.count("freezes")

    def _limit(self, limit: int) -> None:
        life = self._life
        assert life is not None
        life.limits.append((time.monotonic(), max(limit, life.limits[-1][1])))  # it is not known when it is taken
        self._wanted_limit = limit
        self.control.settings = {"cache_bytes": limit}
        self.count("limit changes")

    def _publish(self, numbers: list[int]) -> None:
        self.count("catalogues")
        version = self.counts["catalogues"]
        new = {n: content.make(self.seed, n, version, self._files[n].size) for n in numbers}
        for source in self.sources:
            source.files = {**source.files, **{file.sha256: file for file in new.values()}}
        with self._lock:
            self._replaced += [(time.monotonic(), self._files[n]) for n in numbers]
            self._files = [new.get(n, file) for n, file in enumerate(self._files)]
        self.control.offer(self._files)

    def _again(self, how: str, values: dict[str, Any]) -> None:
        self._end(how)
        self.control.settings = {}
        rng = random.Random(f"{self.seed}/rot/{self.rack.lives}")
        spoilt = self.rack.rot(values["rot"], rng)
        self._rotten |= set(spoilt)
        self.count("segments damaged", len(spoilt))
        self.failed.wait(values["down_s"])
        self._start(values["cache_bytes"], values["files"], values["reactors"], killed=how == "SIGKILL")

    def _start(self, cache_bytes: int, files: int = 0, reactors: int = 1, killed: bool = False) -> None:
        self._kills_before[self.rack.lives + 1] = killed
        life = self.rack.start(cache_bytes, files, reactors)
        numbers = life.metrics()  # what it imports and opens for the first one is there from now on
        self._wanted_limit = cache_bytes
        life.limits = [
            (0.0, max(cache_bytes, int(numbers["bootplane_cache_limit_bytes"])))
        ]  # it keeps one that was set
        with life.still():
            self._base[life.number] = rack.look(life, self.rack.cache)
        with self._turn:
            self._life = life
            self._turn.notify_all()

    def _end(self, how: str) -> None:
        life = self._life
        assert life is not None
        self._scrape(life)
        with self._turn:
            self._life = None
        self.rack.end(life, how)
        if how == "SIGTERM" and not (self.rack.cache / "state").exists():
            self.fail(f"life {life.number} ended without a record of its segments")
        self.count({"SIGKILL": "kills", "SIGTERM": "clean ends"}[how])
        with self._lock:
            while self._gave_up and self._gave_up[0][0] < time.monotonic() - REMEMBER_S:
                self._gave_up.popleft()

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
            if life is None or self.failed.is_set():
                return
            what = f"seat {seat} ({kind}) read {number}: {_told(read, self._files)}"
            self._doing[seat] = what
            rng = random.Random(f"{self.seed}/loss/{seat}/{number}")
            try:
                refusal = readers.carry_out(self, read, life, source, rng)
                self.count("reads")
                if refusal is not None:
                    self._judge(life, refusal)
                    self.stopping.wait(AGAIN_S)
            except Wrong as error:
                self.fail(f"{error}; {what}, life {life.number}")
            except Exception as error:
                traceback.print_exc()
                self.fail(f"{type(error).__name__}: {error}; {what}")
            self._doing.pop(seat, None)

    def _judge(self, life: Life, refusal: Refusal) -> None:
        """Raises Wrong unless something explains that the rack has refused."""
        now = time.monotonic()
        while not self.stopping.is_set():
            if life.ending:
                self.count(f"refused: the rack ended ({life.ending})")
                return
            if refusal.how not in ("404", "silent", "fin"):
                with self._lock:
                    lately = [
                        at for at, sha in self._gave_up if sha == refusal.file.sha256 and at >= refusal.since - 2.0
                    ]
                why = "it gave up a chunk" if lately else self.weather.explains(refusal.since, now, life.began)
                if why:
                    self.count(f"refused: {why}")
                    return
            if time.monotonic() > now + JUDGE_S:
                raise Wrong(f"{refusal.file.name}: refused, and nothing explains it: {refusal.how} {refusal.text}")
            time.sleep(0.1)

    # -- the log

    def _hear(self, life: Life, line: str) -> None:
        try:
            self._said(life, line)
        except Exception as error:  # else nobody would listen any more
            traceback.print_exc()
            self.fail(f"the log of life {life.number} was not understood: {type(error).__name__}: {error}: {line}")

    def _said(self, life: Life, line: str) -> None:
        now = time.monotonic()
        if "Traceback" in line or "not foreseen" in line:
            self.fail(f"life {life.number} of the rack has said: {line} (its log: {life.log})")
        elif found := GAVE_UP.search(line):
            with self._lock:
                self._gave_up.append((now, found[2]))
            self.count("chunks given up")
            if not life.ending and not self.weather.explains(now - 1.0, now, life.began):
                self.fail(f"life {life.number} gave up a chunk, and nothing explains it: {line}")
        elif found := REFUSED.search(line):
            self.count("wrong chunks refused")
            source = next(n for n, s in enumerate(self.sources) if found[3].endswith(f":{s.port}"))
            lies = ("corrupt", "swap", "wrong-range", "whole", "short-length", "long-length")
            if not self.weather.spoilt(f"source-{source}", now, 0.0, lies):
                self.fail(f"life {life.number} refused a right chunk: {line}")
        elif found := ROTTEN.search(line):
            self.count("rotten chunks found")
            self._rotten_found(life, found[1], int(found[2]), line)
        elif found := UNREADABLE.search(line):
            self._rotten_found(life, found[2], int(found[1]), line)
        elif (level := LEVEL.match(line)) and level[1] in ("ERROR", "CRITICAL") and not life.ending:
            self.fail(f"life {life.number} of the rack has said: {line}")

    def _rotten_found(self, life: Life, sha256: str, chunk: int, line: str) -> None:
        if (sha256, chunk // 4) in self._rotten:
            return
        self._torn[life.number] = self._torn.get(life.number, 0) + 1
        self.count("chunks half-written by a kill")
        if not self._kills_before[life.number] or self._torn[life.number] > TORN:
            self.fail(f"life {life.number} found rot that nobody has planted: {line}")

    # -- the sampler

    def _watch(self) -> None:
        try:
            self._sample()
        except Exception as error:  # else nobody would look any more
            traceback.print_exc()
            self.fail(f"the sampler ended: {type(error).__name__}: {error}")

    def _sample(self) -> None:
        while not self.stopping.wait(SAMPLE_S):
            life = self._life
            if life is None:
                continue
            try:
                with life.still():
                    now, numbers = time.monotonic(), rack.look(life, self.rack.cache)
            except (ProcessLookupError, FileNotFoundError):
                continue  # it has ended meanwhile
            except RackFailed as error:
                self.fail(str(error))
                return
            limit = life.limit(now)
            self.count("samples")
            if self.control.refused_beat:
                self.fail(f"life {life.number} told its region what no region takes: {self.control.refused_beat}")
            self._note("bytes on the disk", numbers.disk)
            self._note("anonymous bytes", numbers.anonymous)
            self._note("descriptors", numbers.files + numbers.deleted + len(numbers.other) + len(numbers.sockets))
            if numbers.disk > limit + rack.BLOCK * numbers.disk_files:
                self.fail(
                    f"life {life.number}: expected at most {limit} bytes on the disk, got {numbers.disk}"
                    f" in {numbers.disk_files} files, {numbers.deleted} of them without a name"
                )
            if numbers.anonymous > self._base[life.number].anonymous + ANONYMOUS:
                self.fail(
                    f"life {life.number}: expected at most {ANONYMOUS} more anonymous bytes, got {numbers.anonymous}"
                )
            total, full = rack.queues(self.host, f"{self.net}.")
            if total >= 8 and not self._paused:
                self.ratios.append(full / total)
            told = int(self._scrape(life).get("bootplane_cache_limit_bytes", self._wanted_limit))
            if told == self._wanted_limit != life.limits[-1][1]:
                life.limits.append((time.monotonic(), told))

    def _note(self, key: str, value: float) -> None:
        self.most[key] = max(self.most.get(key, 0.0), value)

    def _scrape(self, life: Life) -> dict[str, float]:
        try:
            self._totals[life.number] = life.metrics()
        except (OSError, http.client.HTTPException):  # it is being killed
            return {}
        return self._totals[life.number]

    def total(self, name: str) -> float:
        return sum(numbers.get(f"bootplane_{name}", 0.0) for numbers in self._totals.values())

    # -- quiet points

    def _quiet(self, last: bool = False) -> None:
        self.done.append(f"{time.monotonic() - self.began:7.2f} s: quiet")
        for who in (*self.weather.names, "control"):
            self._stack(who).clear()
            self._apply(who)
        self.weather.clear()
        self.hurry = True
        self._pause(True)
        until = time.monotonic() + PAUSE_S
        seats = len(plan.seats(self.profile))
        with self._turn:
            while self._idle < seats and not self.failed.is_set():
                if not self._turn.wait(min(1.0, until - time.monotonic())) and time.monotonic() > until:
                    raise Wrong(f"readers did not come to an end within {PAUSE_S:.0f} s: {list(self._doing.values())}")
        if not self.failed.is_set():
            self._settles()
            self.count("quiet points")
        self.hurry = False
        if not last:
            self._pause(False)

    def _settles(self) -> None:
        life = self._life
        assert life is not None
        until = time.monotonic() + SETTLE_S
        while True:
            wrong = self._unsettled(life)
            if not wrong:
                break
            if self.failed.is_set():
                return
            if time.monotonic() > until:
                raise Wrong(f"life {life.number}, {SETTLE_S:.0f} s after the last read: {wrong}")
            self.failed.wait(0.2)
        self._is_told(life, time.time())

    def _is_told(self, life: Life, since: float) -> None:
        """A beat tells the region what is on the disk: not always the next one, since what was begun to be read ahead
        goes on for a while."""
        until = time.monotonic() + BEAT_S
        wrong = f"expected a beat within {BEAT_S:.0f} s, got none"
        while not self.failed.wait(0.1):
            with life.still():
                now = rack.look(life, self.rack.cache)
            beat = self.control.last_beat
            if beat.get("time", 0.0) >= since and beat["http"] == str(life.http):
                charged, condemned = beat["cache"]["charged_bytes"], beat["cache"]["condemned_bytes"]
                present = beat["cache_report"]["present_bytes"]
                if charged == now.charge and not condemned and present <= now.disk:
                    return
                wrong = (
                    f"the region is told of {charged} bytes charged, {condemned} condemned and {present} present,"
                    f" and there are {now.charge}, of which {now.disk} are on the disk"
                )
            if time.monotonic() > until:
                raise Wrong(f"life {life.number}: {wrong}")

    def _unsettled(self, life: Life) -> str:
        """What is not as it should be when nobody reads; "" when all is."""
        stats = life.metrics()
        with life.still():
            now = rack.look(life, self.rack.cache)
        base = self._base[life.number]
        known = {f"to:{self.control.api_port}": REGION_SOCKETS} | {f"to:{s.port}": SOURCE_SOCKETS for s in self.sources}
        upstream = Counter(word.removesuffix(CLOSE_WAIT) for word in now.sockets if word.startswith("to:"))
        strays = [word for word in now.sockets if word not in ("listen", "udp", "unix") and not word.startswith("to:")]
        strays += [f"{n} x {word}" for word, n in upstream.items() if n > known.get(word, 0)]
        charged, segments = stats["bootplane_cache_charged_bytes"], stats["bootplane_cache_segments"]
        condemned = stats["bootplane_cache_condemned_bytes"]
        opened = stats.get("bootplane_cache_open_segments", segments)
        if condemned or now.deleted:
            return f"expected nothing condemned, got {condemned:.0f} bytes, {now.deleted} files without a name"
        if now.files != opened:
            return f"expected a descriptor for each of {opened:.0f} open segments, got {now.files}"
        if more := Counter(now.other) - Counter(base.other):  # not !=: a catalogue may just have been kept at the start
            return f"expected the descriptors that it had at its start, got {dict(more)} more"
        if strays:
            return f"expected only sockets of its own and to its regions, got {strays}"
        if now.threads > base.threads:
            return f"expected {base.threads} threads, got {now.threads}"
        if stats["bootplane_catalogue_version"] != self.control.version:
            return f"expected catalogue {self.control.version}, got {stats['bootplane_catalogue_version']:.0f}"
        if now.charge != charged:
            return f"expected {charged:.0f} bytes charged on the disk, got {now.charge} by the lengths of the files"
        if stats["bootplane_cache_limit_bytes"] != self._wanted_limit:
            return f"expected a limit of {self._wanted_limit}, got {stats['bootplane_cache_limit_bytes']:.0f}"
        if charged > self._wanted_limit:
            return f"expected at most {self._wanted_limit} bytes charged, got {charged:.0f}"
        if now.disk > charged + rack.BLOCK * now.disk_files:
            return f"expected {charged:.0f} bytes on the disk, got {now.disk}"
        return ""

    def _serves_everything(self) -> None:
        """After the last fault: every file, whole and right, its first byte within the park limit."""
        life = self._life
        assert life is not None
        self.hurry = False
        for number, file in enumerate(self._files):
            began = time.monotonic()
            reader = readers.HttpReader(self, Read("http", (number,), ("whole",)), life, f"{self.net}.9")
            refusal = reader.run()
            if refusal is not None:
                waited = time.monotonic() - began
                raise Wrong(
                    f"after the last fault, {file.name} was refused after {waited:.1f} s: {refusal.how} {refusal.text}"
                )

    # -- what it says

    def summary(self) -> str:
        c = self.counts
        lines = [
            f"{c['bodies']} bodies, {c['bytes'] / 1e9:.2f} GB right, {c['heads']} heads; {c['hang-ups']} hung up",
            f"{c['stalls']} stalls, {c['stalled seconds']} s in all; {c['stalls with >= 1 MiB unread']} with >= 1 MiB"
            f" unread, {c['stalls that outlived their rack']} outlived their rack; of the connections"
            f" {100 * statistics.mean(self.ratios or [0]):.0f} % had full socket buffers ({len(self.ratios)} samples)",
            f"{c['kills']} kills, {c['clean ends']} clean ends, {c['freezes']} freezes, {c['limit changes']} limit"
            f" changes, {c['quiet points']} quiet points, {c['catalogues']} new catalogues",
            f"{self.total('cache_evicted_segments_total'):.0f} segments evicted,"
            f" {self.total('fill_upstream_bytes_total') / 1e9:.2f} GB from the sources,"
            f" {c['segments damaged']} segments damaged, {c['rotten chunks found']} rotten chunks found"
            f" ({c['chunks half-written by a kill']} of a kill), {c['wrong chunks refused']} wrong chunks refused",
            f"at most {self.most.get('bytes on the disk', 0) / MIB:.1f} MiB on the disk,"
            f" {self.most.get('anonymous bytes', 0) / MIB:.0f} MiB anonymous,"
            f" {self.most.get('descriptors', 0):.0f} descriptors, in {c['samples']} samples",
        ]
        lines.append(f"{self.total('cache_reopened_segments_total'):.0f} times a segment's file was opened again")
        lines += [f"{n} x {key}" for key, n in sorted(c.items()) if key.startswith(("refused", "chunks given up"))]
        lines.append(
            "faults: "
            + ", ".join(f"{n} {k.partition(': ')[2]}" for k, n in sorted(c.items()) if k.startswith("faults"))
        )
        return "\n".join(lines)


def _told(read: Read, files: list[File]) -> str:
    wanted = ", ".join(f"{files[n].name} {r}" for n, r in zip(read.files, read.ranges, strict=True))
    defaults = Read._field_defaults | {"files": read.files, "ranges": read.ranges}
    given = {key: value for key, value in read._asdict().items() if value != defaults.get(key)}
    return f"{wanted} {given}"


def digest_of(actions: list[Action]) -> str:
    return hashlib.sha256("\n".join(map(str, actions)).encode()).hexdigest()[:12]
