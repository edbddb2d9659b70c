from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootplane.core.lru import Cache
from bootplane.core.table import Table
from bootplane.dataplane import follower
from bootplane.dataplane.addresses import HostPort
from bootplane.dataplane.catalogue import PinnedKey
from bootplane.dataplane.follower import Follower
from bootplane.dataplane.names import Registry
from bootplane.dataplane.region_client import RegionClient
from tests.fakes.region import FakeRegion

BIG = b"squash" * 400_000
BIG_SHA = hashlib.sha256(BIG).hexdigest()


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion({"loader": b"x", "squashfs": BIG}) as fake:
        yield fake


class Rack:
    """A follower on a directory, and the tables it publishes."""

    def __init__(self, directory: Path, region: FakeRegion) -> None:
        self.cache = Cache(str(directory / "cache"), 64 << 20)
        self.tables: list[Table] = []
        self.bulk: list[HostPort] = []
        self.follower = Follower(
            directory,
            RegionClient([region.url], region.token),
            PinnedKey(region.token.region_key),
            lambda chunks: Registry(self.cache, chunks, None),
            self.tables.append,
            self.bulk.extend,
            lambda blob: True,
        )
        self.thread = threading.Thread(target=self.follower.run, daemon=True)

    def names(self) -> int:
        return len(self.tables[-1]) if self.tables else -1

    def eventually(self, is_true: Callable[[], bool], timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while not is_true():
            assert time.monotonic() < deadline, "it never came true"
            threading.Event().wait(0.005)

    def stop(self) -> None:
        self.follower.stop()
        self.cache.close()


@pytest.fixture
def make(tmp_path: Path, region: FakeRegion, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Rack]]:
    monkeypatch.setattr(follower, "LACKING_WAIT_S", 0.05)
    monkeypatch.setattr(follower, "WAIT_S", 2.0)
    monkeypatch.setattr(follower, "REFUSED_S", 0.05)
    monkeypatch.setattr(follower, "MAX_RETRY_S", 0.05)
    racks: list[Rack] = []

    def build() -> Rack:
        if racks:
            racks[-1].stop()
        racks.append(Rack(tmp_path, region))
        return racks[-1]

    yield build
    racks[-1].stop()


def test_the_first_catalogue_is_served_and_kept(make: Callable[[], Rack], region: FakeRegion, tmp_path: Path) -> None:
    rack = make()
    rack.follower.load()
    assert rack.tables == []
    rack.thread.start()
    assert rack.follower.tried.wait(60)
    assert (rack.names(), rack.follower.version) == (2, 1)
    assert rack.bulk == [HostPort("127.0.0.1", region.bulk_port)]
    assert (tmp_path / "catalogue").exists()
    assert {path.name for path in (tmp_path / "chunks").iterdir()} == {BIG_SHA}


def test_what_is_kept_is_served_without_asking_anybody(make: Callable[[], Rack], region: FakeRegion) -> None:
    first = make()
    first.thread.start()
    first.eventually(lambda: first.names() == 2)
    region.stop()
    asked = len(region.requests)
    second = make()
    second.follower.load()
    assert (second.names(), second.follower.version) == (2, 1)
    assert len(region.requests) == asked


def test_what_the_disk_cannot_read_is_had_from_the_region_again(
    make: Callable[[], Rack], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = make()
    first.thread.start()
    first.eventually(lambda: first.names() == 2)
    for path in (tmp_path / "catalogue", tmp_path / "chunks" / BIG_SHA):
        path.unlink()
        path.mkdir()
    second = make()
    second.follower.load()
    assert second.tables == [] and (tmp_path / "catalogue.refused").exists()
    second.thread.start()
    second.eventually(lambda: second.names() == 2)
    assert "not foreseen" not in caplog.text


def test_a_list_nobody_has_leaves_out_its_file_only_and_is_tried_again(
    make: Callable[[], Rack], region: FakeRegion, caplog: pytest.LogCaptureFixture
) -> None:
    region.without_list.add(BIG_SHA)
    rack = make()
    rack.thread.start()
    rack.eventually(lambda: rack.names() == 1)
    assert any("1 blobs wait for their chunk lists" in record.message for record in caplog.records)
    region.without_list.clear()
    rack.eventually(lambda: rack.names() == 2)


def test_a_list_of_a_file_that_was_removed_is_said_and_the_newer_catalogue_comes_next(
    make: Callable[[], Rack], region: FakeRegion, caplog: pytest.LogCaptureFixture
) -> None:
    region.removed.add(BIG_SHA)
    rack = make()
    rack.thread.start()
    rack.eventually(lambda: rack.names() == 1)
    said = [record.message for record in caplog.records if "has removed" in record.message]
    assert said == [f"chunk list of {BIG_SHA}: {region.url} has removed the file"]
    region.publish({"loader": b"x", "squashfs": b"the newer one"})
    rack.eventually(lambda: rack.follower.version == 2 and rack.names() == 2)


def test_what_a_question_and_the_long_poll_both_bring_is_served_once(
    make: Callable[[], Rack], region: FakeRegion
) -> None:
    rack = make()
    rack.thread.start()
    rack.eventually(lambda: sum(path == "/rack/v1/catalogue" for _, path in region.requests) == 2)  # it polls
    region.hold_polls.set()
    region.publish({"loader": b"y"})
    rack.follower.refresh()
    assert rack.follower.version == 2 and [len(table) for table in rack.tables] == [2, 1]
    asked = len(region.requests)
    region.hold_polls.clear()  # the poll of version 1 is answered with version 2 now
    rack.eventually(lambda: len(region.requests) > asked)
    rack.follower.refresh()  # which is not newer
    assert rack.follower.version == 2 and [len(table) for table in rack.tables] == [2, 1]


def test_a_list_that_is_not_the_signed_one_is_refused_in_one_sentence(
    make: Callable[[], Rack], region: FakeRegion, caplog: pytest.LogCaptureFixture
) -> None:
    region.wrong_list.add(BIG_SHA)
    rack = make()
    rack.thread.start()
    rack.eventually(lambda: len(rack.tables) >= 3)  # it has been tried several times
    assert rack.names() == 1
    refused = [record.message for record in caplog.records if record.message.startswith("refused: ")]
    assert len(refused) == 1
    assert refused[0].startswith(f"refused: chunk list of {BIG_SHA}: expected root ")


def test_a_region_that_is_not_there_is_said_once_and_tried_again(
    make: Callable[[], Rack], region: FakeRegion, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    region.stop()
    rack = make()
    rack.thread.start()
    assert rack.follower.tried.wait(60)
    assert rack.tables == []
    region.start()
    rack.eventually(lambda: rack.names() == 2)
    said = [record.message for record in caplog.records if record.name == "bootplane.catalogue"]
    assert len([text for text in said if text.startswith("no region reachable: ")]) == 1
    assert said[0].endswith("; nothing can be served yet")
    rack.eventually(lambda: any("the region answers; catalogue version 1" in r.message for r in caplog.records))


def test_a_catalogue_that_cannot_be_kept_is_served_all_the_same(
    make: Callable[[], Rack], region: FakeRegion, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(follower.kept, "save", full)
    rack = make()
    rack.thread.start()
    rack.eventually(lambda: rack.names() == 2)
    assert "the catalogue could not be kept: No space left on device" in caplog.text


def test_a_new_catalogue_takes_no_name_away_while_its_lists_cannot_be_had(
    make: Callable[[], Rack], region: FakeRegion, caplog: pytest.LogCaptureFixture
) -> None:
    """A region that dies between its catalogue and the chunk list of a replaced file: what is here is served on."""
    rack = make()
    rack.thread.start()
    rack.eventually(lambda: rack.names() == 2)
    region.list_status = 503
    replaced = BIG + b"2"
    region.publish({"loader": b"y", "squashfs": replaced})
    waits = f"catalogue 2 waits for the chunk list of {hashlib.sha256(replaced).hexdigest()}; serving what is here"
    rack.eventually(lambda: any(record.message == waits for record in caplog.records))
    region.stop()
    assert (rack.names(), rack.follower.version, len(rack.tables)) == (2, 1, 1)
    again = make()
    again.follower.load()
    assert (again.names(), again.follower.version) == (2, 1)
    region.list_status = None
    region.start()
    again.thread.start()
    again.eventually(lambda: again.follower.version == 2)
    assert again.names() == 2
    assert [len(table) for table in again.tables] == [2, 2]


def test_lists_of_blobs_that_left_are_removed(make: Callable[[], Rack], region: FakeRegion, tmp_path: Path) -> None:
    rack = make()
    rack.thread.start()
    rack.eventually(lambda: rack.names() == 2)
    region.publish({"loader": b"x"})
    rack.eventually(lambda: rack.names() == 1)
    rack.eventually(lambda: not list((tmp_path / "chunks").iterdir()))
