"""What the rack says and whom it refuses, held against what goes wrong: each is explained, or it is a failure.

log        each line is known: chunks given up, chunks refused, rot, and no error that is not foreseen
refusals   a reader that did not get what it asked for: a chunk was given up, or the weather explains it
"""

from __future__ import annotations

import re
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable

from tests.soak.rack import Life
from tests.soak.readers import Refusal, Wrong
from tests.soak.region import Source
from tests.soak.tally import Tally
from tests.soak.weather import Weather

JUDGE_S = 3.0  # for the log to say what a reader has met
REMEMBER_S = 120.0
TORN = 3  # chunks a kill can leave half-written: one for each fill thread

GAVE_UP = re.compile(r"WARNING bootplane\.\w+: gave up chunk (\d+) of blob ([0-9a-f]{64}): (.*)")
REFUSED = re.compile(r"ERROR\s+bootplane\.\w+: refused chunk (\d+) of blob ([0-9a-f]{64}) from ([0-9.:]+): ")
ROTTEN = re.compile(r"ERROR\s+bootplane\.\w+: rotten in the cache, removed: blob ([0-9a-f]{64}) chunk (\d+): ")
UNREADABLE = re.compile(r"ERROR\s+bootplane\.\w+: chunk (\d+) of blob ([0-9a-f]{64}) cannot be checked: ")
LEVEL = re.compile(r"\d{4}-\d\d-\d\dT\S+ (\w+)\s")


class Judge:
    def __init__(self, tally: Tally, weather: Weather, sources: list[Source], stopping: threading.Event) -> None:
        self.tally, self.weather, self.sources, self.stopping = tally, weather, sources, stopping
        self._lock = threading.Lock()
        self._gave_up: deque[tuple[float, str]] = deque()
        self._rotten: set[tuple[str, int]] = set()  # segments that were damaged
        self._torn: dict[int, int] = {}  # life -> chunks found half-written
        self._kills_before: dict[int, bool] = {}

    # -- what is known beforehand

    def damaged(self, segments: Iterable[tuple[str, int]]) -> None:
        self._rotten |= set(segments)

    def life_after(self, number: int, *, killed: bool) -> None:
        """The one before life *number* was *killed*, or has ended cleanly."""
        self._kills_before[number] = killed

    def forget(self) -> None:
        """What nobody asks for any more."""
        with self._lock:
            while self._gave_up and self._gave_up[0][0] < time.monotonic() - REMEMBER_S:
                self._gave_up.popleft()

    # -- refusals

    def judge(self, life: Life, refusal: Refusal) -> None:
        """Raises Wrong unless something explains that the rack has refused."""
        now = time.monotonic()
        while not self.stopping.is_set():
            if life.ending:
                self.tally.count(f"refused: the rack ended ({life.ending})")
                return
            if refusal.how not in ("404", "silent", "fin"):
                with self._lock:
                    lately = [
                        at for at, sha in self._gave_up if sha == refusal.file.sha256 and at >= refusal.since - 2.0
                    ]
                why = "it gave up a chunk" if lately else self.weather.explains(refusal.since, now, life.began)
                if why:
                    self.tally.count(f"refused: {why}")
                    return
            if time.monotonic() > now + JUDGE_S:
                raise Wrong(f"{refusal.file.name}: refused, and nothing explains it: {refusal.how} {refusal.text}")
            self.stopping.wait(0.1)  # the log may say it later, and so may who ends the rack

    # -- the log

    def hear(self, life: Life, line: str) -> None:
        try:
            self._said(life, line)
        except Exception as error:  # else nobody would listen any more
            traceback.print_exc()
            self.tally.fail(
                f"the log of life {life.number} was not understood: {type(error).__name__}: {error}: {line}"
            )

    def _said(self, life: Life, line: str) -> None:
        now = time.monotonic()
        if "Traceback" in line or "not foreseen" in line:
            self.tally.fail(f"life {life.number} of the rack has said: {line} (its log: {life.log})")
        elif found := GAVE_UP.search(line):
            with self._lock:
                self._gave_up.append((now, found[2]))
            self.tally.count("chunks given up")
            if not life.ending and not self.weather.explains(now - 1.0, now, life.began):
                self.tally.fail(f"life {life.number} gave up a chunk, and nothing explains it: {line}")
        elif found := REFUSED.search(line):
            self.tally.count("wrong chunks refused")
            source = next(n for n, s in enumerate(self.sources) if found[3].endswith(f":{s.port}"))
            lies = ("corrupt", "swap", "wrong-range", "whole", "short-length", "long-length")
            if not self.weather.spoilt(f"source-{source}", now, 0.0, lies):
                self.tally.fail(f"life {life.number} refused a right chunk: {line}")
        elif found := ROTTEN.search(line):
            self.tally.count("rotten chunks found")
            self._rotten_found(life, found[1], int(found[2]), line)
        elif found := UNREADABLE.search(line):
            self._rotten_found(life, found[2], int(found[1]), line)
        elif (level := LEVEL.match(line)) and level[1] in ("ERROR", "CRITICAL") and not life.ending:
            self.tally.fail(f"life {life.number} of the rack has said: {line}")

    def _rotten_found(self, life: Life, sha256: str, chunk: int, line: str) -> None:
        if (sha256, chunk // 4) in self._rotten:
            return
        self._torn[life.number] = self._torn.get(life.number, 0) + 1
        self.tally.count("chunks half-written by a kill")
        if not self._kills_before[life.number] or self._torn[life.number] > TORN:
            self.tally.fail(f"life {life.number} found rot that nobody has planted: {line}")
