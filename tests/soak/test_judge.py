"""What a rack says and whom it refuses is explained by what goes wrong, or it is a failure."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak import content, judge
from tests.soak.judge import Judge
from tests.soak.rack import Life
from tests.soak.readers import Refusal, Wrong
from tests.soak.region import Source
from tests.soak.tally import Tally
from tests.soak.weather import Weather

FILE = content.make(1, 0, 0, 5 * content.CHUNK)
TIME = "2025-07-09T10:00:00.000Z"


class Court:
    """A judge of two sources and life 2, which began after a clean end."""

    def __init__(self, sources: list[Source]) -> None:
        self.tally, self.weather = Tally(), Weather(len(sources), 20.0)
        self.judge = Judge(self.tally, self.weather, sources, threading.Event())
        self.life = Life(2, subprocess.Popen([sys.executable, "-c", ""], text=True), Path("log"))
        self.life.process.wait()
        self.life.began -= 300.0
        self.judge.life_after(2, killed=False)

    def says(self, line: str) -> str:
        """What is wrong with it."""
        self.judge.hear(self.life, f"{TIME} {line}")
        return self.tally.failure

    def trouble_everywhere(self, kind: str) -> None:
        for who in (*self.weather.names, "control"):
            self.weather.begin(who, kind).began -= 200.0


@pytest.fixture
def court(monkeypatch: pytest.MonkeyPatch) -> Iterator[Court]:
    monkeypatch.setattr(judge, "JUDGE_S", 0.0)
    sources = [Source("127.0.0.1", f"{n}") for n in range(2)]
    yield Court(sources)
    for source in sources:
        source.close()


def refused(how: str) -> Refusal:
    return Refusal(how, "", FILE, time.monotonic())


@pytest.mark.parametrize("how", ["404", "silent", "fin"])
def test_nothing_explains_a_name_that_is_gone_nor_silence_nor_a_clean_end(court: Court, how: str) -> None:
    court.trouble_everywhere("refuse")
    with pytest.raises(Wrong, match=f"nothing explains it: {how}"):
        court.judge.judge(court.life, refused(how))


@pytest.mark.parametrize("how", ["503", "reset", "refused", "error"])
def test_a_refusal_is_explained_by_trouble_everywhere_and_by_nothing_else(court: Court, how: str) -> None:
    with pytest.raises(Wrong):
        court.judge.judge(court.life, refused(how))
    court.trouble_everywhere("refuse")
    court.judge.judge(court.life, refused(how))
    assert court.tally.counts["refused: no source was well for long"] == 1


@pytest.mark.parametrize("how", ["503", "404", "silent", "fin"])
def test_a_rack_that_is_being_ended_refuses_as_it_likes(court: Court, how: str) -> None:
    court.life.ending = "SIGKILL"
    court.judge.judge(court.life, refused(how))
    assert court.tally.counts["refused: the rack ended (SIGKILL)"] == 1


def test_a_chunk_that_was_given_up_explains_the_refusal_of_its_file(court: Court) -> None:
    court.trouble_everywhere("refuse")
    assert court.says(f"WARNING bootplane.fill: gave up chunk 3 of blob {FILE.sha256}: no source") == ""
    court.weather.clear()
    court.judge.judge(court.life, refused("503"))
    assert court.tally.counts["refused: it gave up a chunk"] == 1


def test_a_chunk_is_not_given_up_while_its_sources_are_well(court: Court) -> None:
    line = f"WARNING bootplane.fill: gave up chunk 3 of blob {FILE.sha256}: no source"
    assert court.says(line).startswith("life 2 gave up a chunk, and nothing explains it")


def test_a_chunk_is_refused_from_a_source_that_lies_and_from_no_other(court: Court) -> None:
    court.weather.begin("source-1", "corrupt")
    one, other = (source.port for source in court.judge.sources)
    line = f"ERROR bootplane.fill: refused chunk 3 of blob {FILE.sha256} from 127.0.0.1:%d: expected, got"
    assert court.says(line % other) == ""
    assert "refused a right chunk" in court.says(line % one)


@pytest.mark.parametrize(
    "line",
    [
        "ERROR bootplane.look: rotten in the cache, removed: blob %s chunk 5: expected, got",
        "ERROR bootplane.look: chunk 5 of blob %s cannot be checked: Input/output error",
    ],
)
def test_rot_is_found_where_it_was_planted_and_nowhere_else(court: Court, line: str) -> None:
    court.judge.damaged([(FILE.sha256, 1)])
    assert court.says(line % FILE.sha256) == ""
    assert "rot that nobody has planted" in court.says(line % ("0" * 64))


def test_a_kill_leaves_a_few_chunks_half_written(court: Court) -> None:
    court.judge.life_after(2, killed=True)
    line = "ERROR bootplane.look: rotten in the cache, removed: blob %064d chunk 5: expected, got"
    assert [court.says(line % n) for n in range(judge.TORN)] == [""] * judge.TORN
    assert court.says(line % 9) != ""


@pytest.mark.parametrize(
    "line",
    [
        "ERROR bootplane.any: something",
        "CRITICAL bootplane.any: something",
        "INFO x: Traceback (most recent call last)",
    ],
)
def test_any_other_error_is_a_failure(court: Court, line: str) -> None:
    assert court.says("INFO bootplane.any: something") == ""
    assert "has said" in court.says(line)
