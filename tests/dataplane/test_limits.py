from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.core.shares import Shares
from bootplane.dataplane import limits
from bootplane.dataplane.limits import SEGMENT_BYTES, Keeper, LimitError, Limits
from tests.fakes.region import chunks_of

MIB = 1 << 20
OWN = Limits(64 * MIB, 0)
DATA = b"".join(bytes([n]) * MIB for n in range(24))  # six segments


class Paced:
    def __init__(self) -> None:
        self.upstream_limit_bytes_s = -1


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = Cache(str(tmp_path / "cache"), OWN.cache_bytes or 0)
    yield cache
    cache.close()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "bootplane.rack")
    return caplog


def full(cache: Cache) -> Blob:
    blob = cache.blob(hashlib.sha256(DATA).hexdigest(), len(DATA), chunks_of(DATA))
    for chunk in [n for n, state in enumerate(blob.states(0, len(DATA) // MIB)) if not state]:
        assert cache.begin(blob, chunk)
        cache.store(blob, chunk, DATA[chunk * MIB : (chunk + 1) * MIB])
    return blob


def on_disk(cache: Cache) -> int:
    """By the disk's own accounting."""
    return sum(path.stat().st_blocks * 512 for path in Path(cache.directory).glob("*.d/*"))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "limits: expected an object, got list"),
        ({"cache_bytes": "8MiB"}, "limits: expected a number or null as cache_bytes, got '8MiB'"),
        ({"cache_bytes": True}, "limits: expected a number or null as cache_bytes, got 'True'"),
        ({"upstream_bytes_s": 1.5}, "limits: expected a number or null as upstream_bytes_s, got '1.5'"),
        (
            {"cache_bytes": SEGMENT_BYTES - 1},
            "cache limit: expected 4194304 bytes (one segment) or more, got 4194303",
        ),
        ({"cache_bytes": 1 << 63}, f"cache limit: expected at most {(1 << 63) - 1} bytes, got {1 << 63}"),
        ({"upstream_bytes_s": 1 << 63}, f"upstream limit: expected at most {(1 << 63) - 1} bytes, got {1 << 63}"),
        (
            {"upstream_bytes_s": 124_999},
            "upstream limit: expected 0 for none, or 125000 bytes a second (1 Mbit/s) or more, got 124999",
        ),
        ({"upstream_bytes_s": -1}, "got -1"),
        ({"shares": 7}, "limits: expected text or null as shares, got '7'"),
        ({"shares": "team 10.1.0.0/16 wait 3"}, "shares: team: expected weight, cap or pace, got 'wait'"),
    ],
)
def test_limits_no_rack_can_keep_are_refused_in_one_sentence(document: object, words: str) -> None:
    with pytest.raises(LimitError) as error:
        limits.parse(document)
    assert words in str(error.value)


def test_what_a_later_region_says_besides_is_no_fault() -> None:
    assert limits.parse({"cache_bytes": SEGMENT_BYTES, "for_later": [1]}) == Limits(SEGMENT_BYTES, None)
    assert limits.parse({"upstream_bytes_s": 0}) == Limits(None, 0)
    assert limits.parse({}) == Limits()


def test_a_lower_limit_evicts_at_once_and_a_higher_one_gives_the_room_back(
    cache: Cache, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    full(cache)
    keeper = Keeper(tmp_path, OWN, Limits(), cache)
    assert on_disk(cache) == 24 * MIB
    keeper.take({"cache_bytes": 9 * MIB, "upstream_bytes_s": None})
    assert (cache.limit_bytes, on_disk(cache), cache.stats()["charged_bytes"]) == (9 * MIB, 8 * MIB, 8 * MIB)
    assert said.messages[-2:] == [
        "cache limit: 9.0 MiB, set by the region; it was 64.0 MiB",
        "cache limit: evicted 4 segments, 16.0 MiB",
    ]
    keeper.take({"cache_bytes": None, "upstream_bytes_s": None})
    assert said.messages[-1] == "cache limit: 64.0 MiB, set by the command line; it was 9.0 MiB"
    full(cache)
    assert on_disk(cache) == 24 * MIB


def test_what_is_told_again_does_nothing(cache: Cache, tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    keeper = Keeper(tmp_path, OWN, Limits(), cache)
    assert keeper.take({"cache_bytes": 8 * MIB})
    (tmp_path / limits.FILE).unlink()
    said.clear()
    assert not keeper.take({"cache_bytes": 8 * MIB})
    assert not said.messages and not (tmp_path / limits.FILE).exists()


def test_what_is_being_filled_goes_when_that_has_ended(
    cache: Cache, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    small = b"s" * 100
    held = cache.blob(hashlib.sha256(small).hexdigest(), 100, chunks_of(small))
    assert cache.begin(held, 0)
    full(cache)
    keeper = Keeper(tmp_path, OWN, Limits(), cache)
    blob = cache.blob(hashlib.sha256(DATA).hexdigest(), len(DATA), chunks_of(DATA))
    pins = [blob.pin(index * SEGMENT_BYTES) for index in range(6)]
    keeper.take({"cache_bytes": SEGMENT_BYTES})
    assert said.messages[-1].endswith(" more go when they are no longer read or filled")
    assert cache.stats()["charged_bytes"] + cache.stats()["condemned_bytes"] > SEGMENT_BYTES
    for pin in pins:
        pin.release()
    keeper.settle()
    cache.store(held, 0, small)
    now = cache.stats()
    assert now["charged_bytes"] + now["condemned_bytes"] <= SEGMENT_BYTES


def test_what_was_set_is_there_after_a_restart_and_nonsense_counts_for_nothing(
    cache: Cache, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    assert limits.kept(tmp_path) == Limits()
    paced = Paced()
    keeper = Keeper(tmp_path, OWN, Limits(), cache, paced)
    assert paced.upstream_limit_bytes_s == 0
    keeper.take({"cache_bytes": 8 * MIB, "upstream_bytes_s": 31_250_000})
    assert said.messages[-1] == "upstream limit: 250 Mbit/s, set by the region; it was no limit"
    assert limits.kept(tmp_path) == Limits(8 * MIB, 31_250_000)
    again = Paced()
    restarted = Keeper(tmp_path, OWN, limits.kept(tmp_path), cache, again)
    assert again.upstream_limit_bytes_s == restarted.in_force()["upstream_limit_bytes_s"] == 31_250_000
    assert said.messages[-1] == "upstream limit: 250 Mbit/s, as the region has set it"
    for wrong in (b"", b"{}}", b'{"cache_bytes": 1}', b"[" * 100_000):
        (tmp_path / limits.FILE).write_bytes(wrong)
        assert limits.kept(tmp_path) == Limits()
        assert str(tmp_path / limits.FILE) in said.messages[-1]


def test_what_makes_no_sense_changes_nothing_and_is_said_once(
    cache: Cache, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    keeper = Keeper(tmp_path, OWN, Limits(), cache)
    said.clear()
    for _ in range(3):
        assert not keeper.take({"cache_bytes": 17})
    assert said.messages == ["refused: cache limit: expected 4194304 bytes (one segment) or more, got 17"]
    assert cache.limit_bytes == OWN.cache_bytes and not (tmp_path / limits.FILE).exists()


def test_a_disk_that_cannot_keep_them_does_not_stop_them(
    cache: Cache, tmp_path: Path, said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(limits, "keep", full_disk)
        keeper = Keeper(tmp_path, OWN, Limits(), cache)
        assert [keeper.take({"cache_bytes": 8 * MIB}) for _ in range(3)] == [True, False, False]
    assert cache.limit_bytes == 8 * MIB
    assert said.messages.count(f"{tmp_path / limits.FILE}: the limits could not be kept: No space left on device") == 1
    keeper.take({"cache_bytes": 8 * MIB})
    assert limits.kept(tmp_path) == Limits(8 * MIB), "it is tried again with each beat"


def test_a_rack_that_ends_while_it_evicts_says_nothing(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    cache = Cache(str(tmp_path / "other"), OWN.cache_bytes or 0)
    keeper = Keeper(tmp_path, OWN, Limits(), cache)
    cache.close()
    keeper.take({"cache_bytes": 8 * MIB})
    keeper.settle()
    assert not [record for record in said.records if record.levelno > logging.WARNING]


def test_a_limit_beyond_the_disk_is_warned_of_with_what_the_disk_has() -> None:
    gib = 1 << 30
    there = "cache limit 8.0 GiB: the file system under the cache has "
    assert limits.disk_warning(8 * gib, 0, 9 * gib, 8 * gib) == ""
    assert limits.disk_warning(8 * gib, 3 * gib, 9 * gib, 5 * gib) == ""
    assert limits.disk_warning(8 * gib, 0, 0, 0) == ""
    assert limits.disk_warning(8 * gib, gib, 9 * gib, gib) == (
        f"{there}9.0 GiB of which 1.0 GiB are free; it will be full before"
    )
    assert limits.disk_warning(8 * gib, 0, gib, gib) == f"{there}1.0 GiB; it will be full before"


def test_the_file_is_what_an_operator_can_read(cache: Cache, tmp_path: Path) -> None:
    Keeper(tmp_path, OWN, Limits(), cache).take({"cache_bytes": 8 * MIB, "upstream_bytes_s": 0})
    kept = json.loads((tmp_path / "limits.json").read_text())
    assert kept == {"cache_bytes": 8 * MIB, "upstream_bytes_s": 0, "shares": None}


def test_shares_are_applied_when_they_are_news_and_the_command_lines_hold_where_none_are_set(
    tmp_path: Path, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    shares = Shares()
    own = OWN._replace(shares="total 1Gbit/s; lab 10.9.0.0/16 weight 2")
    keeper = Keeper(tmp_path, own, Limits(), cache, None, shares)
    assert shares.group_of("10.9.0.1") == "lab" and set(shares.counts()) == {"lab", "others"}
    assert keeper.take({"shares": "team-a 10.1.0.0/16;  others  pace 50Mbit/s"})
    assert (shares.group_of("10.1.0.1"), shares.group_of("10.9.0.1")) == ("team-a", "others")
    assert not keeper.take({"shares": "team-a 10.1.0.0/16; nonsense"})
    assert shares.group_of("10.1.0.1") == "team-a"
    assert limits.kept(tmp_path).shares == "team-a 10.1.0.0/16;  others  pace 50Mbit/s"
    assert keeper.take({"shares": "none"}) and not shares.active
    assert keeper.take({}) and shares.group_of("10.9.0.1") == "lab"
    assert [record.message for record in caplog.records if "shares" in record.message] == [
        "shares: total 1Gbit/s; lab 10.9.0.0/16 weight 2, set by the command line",
        "shares: team-a 10.1.0.0/16; others pace 50Mbit/s, set by the region",
        "shares: without `total RATE`, a little below the link's, a full link is divided by the network, by "
        "connections, and weights count only while this host itself is the limit",
        "refused: shares: nonsense: expected subnets, got none",
        "shares: none, set by the region",
        "shares: total 1Gbit/s; lab 10.9.0.0/16 weight 2, set by the command line",
    ]
