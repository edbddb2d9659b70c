"""The plan of a soak comes from its seed alone, and what it lets a fault explain is narrow."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from tests.fakes.checkout import ROOT
from tests.soak import content, mutants, plan
from tests.soak.plan import PROFILES, SPOILS
from tests.soak.weather import Fault, Weather

FULL = PROFILES["full"]


def test_the_same_seed_gives_the_same_plan_and_the_same_reads() -> None:
    assert plan.actions(7, 600, FULL) == plan.actions(7, 600, FULL) != plan.actions(8, 600, FULL)
    for seat, kind in enumerate(plan.seats(FULL)):
        first, again = (list(itertools.islice(plan.reads(7, seat, kind, FULL), 50)) for _ in range(2))
        assert first == again


def test_at_least_a_tenth_of_the_readers_stall() -> None:
    for profile in PROFILES.values():
        assert profile.seats["stall"] >= 0.1 * len(plan.seats(profile))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_whatever_all_sources_are_quarantined_for_ends_with_the_rack(profile: plan.Profile) -> None:
    """Else blobs could not be had for a minute after the fault, and every refusal would be explained."""
    for seed in range(20):
        actions = plan.actions(seed, 600, profile)
        for one in actions:
            if one.kind == "fault" and one.values["source"] == 0 and one.values["fault"] in (*SPOILS, "404"):
                end = one.at + one.values["s"]
                assert any(other.kind == "kill" and end < other.at <= end + 0.05 for other in actions)
                assert not any(other.kind == "quiet" and one.at < other.at < end for other in actions)


def test_every_kind_of_fault_is_in_ten_minutes() -> None:
    actions = plan.actions(1, 600, FULL)
    assert {one.values["fault"] for one in actions if one.kind == "fault"} == set(plan.FAULTS)
    assert {one.values["fault"] for one in actions if one.kind == "control"} == set(plan.CONTROL)
    assert {one.kind for one in actions} == {"fault", "control", "kill", "term", "freeze", "limit", "publish", "quiet"}


def test_any_part_of_a_file_can_be_made_and_checked_by_itself() -> None:
    file = content.make(1, 2, 0, 3 * content.CHUNK + 77)
    whole = b"".join(
        file.stream(at).take(min(content.PIECE, file.size - at)) for at in range(0, file.size, content.PIECE)
    )
    rng = random.Random(1)
    for _ in range(50):
        first = rng.randrange(file.size)
        part = whole[first : first + rng.randrange(1, content.PIECE)]
        assert file.stream(first).take(len(part)) == part
        assert file.stream(first).wrong_at(part) is None
        at = rng.randrange(len(part))
        wrong = bytearray(part)
        wrong[at] ^= 4
        assert file.stream(first).wrong_at(wrong) == at


def test_wrong_bytes_are_known_by_the_file_they_are_of() -> None:
    files = [content.make(1, number, 0, content.CHUNK + number) for number in range(3)]
    assert content.origin(files[2].stream(5000).take(100), files) == f"bytes of {files[2].name} from 5000"
    assert content.origin(bytes(100), files) == "zeros"
    assert content.origin(b"something of nobody, longer than sixteen", files) == "bytes of no file"


def weather_with(
    *faults: tuple[str, str, float, float], sources: int = 2, park_limit_s: float = 20.0
) -> tuple[Weather, float]:
    """Faults as (who, kind, began, ended), in seconds before now; and now."""
    weather, now = Weather(sources, park_limit_s), time.monotonic()
    for who, kind, began, ended in faults:
        fault: Fault = weather.begin(who, kind)
        fault.began, fault.ended = now - began, now - ended
    return weather, now


def test_a_refusal_is_not_explained_while_one_source_is_well() -> None:
    weather, now = weather_with(("source-0", "refuse", 100, 0))
    assert not weather.explains(now - 1, now, now - 100)
    weather, now = weather_with(("source-0", "refuse", 100, 0), ("source-1", "500", 19, 0))
    assert weather.explains(now - 1, now, now - 100) == "no source was well for long"
    weather, now = weather_with(("source-0", "refuse", 100, 0), ("source-1", "500", 9, 0))
    assert not weather.explains(now - 1, now, now - 100)


def test_a_quarantine_explains_for_a_minute_and_not_after_a_restart() -> None:
    weather, now = weather_with(("source-0", "corrupt", 50, 48), ("source-1", "swap", 30, 29))
    assert weather.explains(now - 1, now, now - 100) == "every source was quarantined"
    assert not weather.explains(now - 1, now, now - 25)


def test_a_rack_that_began_without_its_region_knows_no_source() -> None:
    weather, now = weather_with(("control", "gone", 30, 2))
    assert weather.explains(now - 1, now, now - 25) == "no source was well for long"
    assert not weather.explains(now - 1, now, now - 60)


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mistake_has_its_place(mutant: mutants.Mutant) -> None:
    for change in mutant.changes:
        assert (ROOT / change.path).read_text().count(change.before) == 1, change.path
