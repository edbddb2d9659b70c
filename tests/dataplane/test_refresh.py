"""A region that has removed what the rack's catalogue names: one question, and machines get what the names mean now."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import logging
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootplane.core import http_fetch, tftp_fetch
from bootplane.core.status import RemoteError
from bootplane.dataplane import refresh
from bootplane.dataplane.catalogue import BlobEntry, Catalogue
from bootplane.dataplane.refresh import Refresher
from bootplane.dataplane.region_client import RegionUnreachable
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.region import FakeRegion

MIB = 1 << 20
NAME = "ubuntu/amd64/ga-24.04/noble/stable/squashfs"
OLD, NEW = (random.Random(seed).randbytes(5 * MIB + 7) for seed in (5, 6))
OLD_SHA, NEW_SHA = (hashlib.sha256(data).hexdigest() for data in (OLD, NEW))
SOURCE = "192.0.2.1:5241"
WAIT_S = 30.0


def of(version: int, *digests: str) -> Catalogue:
    return Catalogue("r", version, "", dict.fromkeys(digests, BlobEntry(1, "")), {})


class Asked:
    """A refresher whose questions stay open until they are answered. *served* is what the rack serves."""

    def __init__(self) -> None:
        self.served = of(1, "old", "other")
        self.questions = 0
        self.done = 0
        self.news = threading.Condition()
        self.answers: list[Callable[[], None]] = []
        self.refresher = Refresher(self._ask, lambda: self.served, self._done)
        self.refresher.start()

    def _ask(self) -> None:
        with self.news:
            self.questions += 1
            self.news.notify_all()
            assert self.news.wait_for(lambda: bool(self.answers), WAIT_S)
            answer = self.answers.pop()
        answer()

    def _done(self) -> None:
        with self.news:
            self.done += 1
            self.news.notify_all()

    def answer(self, answer: Callable[[], None]) -> None:
        """To the question that is open, or the next one; returns when it has been taken."""
        with self.news:
            wanted = self.done + 1
            self.answers.append(answer)
            self.news.notify_all()
            assert self.news.wait_for(lambda: self.done == wanted, WAIT_S)

    def serve(self, catalogue: Catalogue) -> None:
        self.served = catalogue


@pytest.fixture
def asked() -> Iterator[Asked]:
    made = Asked()
    yield made
    made.refresher.stop()


def unreachable() -> None:
    raise RegionUnreachable("no region reachable")


def test_however_many_fetches_were_told_there_is_one_question(asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    for digest in ("old", "other", "old"):
        asked.refresher.told(digest, SOURCE)
    assert asked.refresher.is_running
    asked.answer(lambda: asked.serve(of(2, "new")))
    assert (asked.questions, asked.refresher.is_running) == (1, False)
    asked.refresher.told("old", SOURCE)  # a fetch that was under way: the catalogue does not name it any more
    assert not asked.refresher.is_running
    lines = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert lines == [f"{SOURCE} says that it has removed old: asking for a catalogue newer than 1"]


def test_a_catalogue_that_is_the_newest_is_not_asked_for_again(asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    asked.refresher.told("old", SOURCE)
    asked.answer(lambda: None)
    for _ in range(3):
        asked.refresher.told("other", SOURCE)
        assert not asked.refresher.is_running
    assert caplog.records[-1].message.startswith("the region has no catalogue newer than 1")
    asked.served = of(2, "old")  # by the long poll
    asked.refresher.told("old", SOURCE)
    assert asked.refresher.is_running
    asked.answer(lambda: None)
    assert asked.questions == 2


def test_a_question_that_nobody_answered_is_asked_again_after_a_pause(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "PAUSE_S", 1e6)
    asked.refresher.told("old", SOURCE)
    asked.answer(unreachable)
    asked.refresher.told("old", SOURCE)
    assert not asked.refresher.is_running
    asked.refresher._not_before = 0.0  # as much later
    asked.refresher.told("old", SOURCE)
    asked.answer(lambda: asked.serve(of(2, "new")))
    assert asked.questions == 2


def test_a_fault_of_ours_ends_the_question_and_not_the_thread(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(refresh, "PAUSE_S", 0.0)
    asked.refresher.told("old", SOURCE)
    asked.answer(fault)
    asked.refresher.told("old", SOURCE)
    asked.answer(lambda: asked.serve(of(2)))
    assert asked.questions == 2


# -- the rack process ------------------------------------------------------------------------------------------------


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion({NAME: OLD, "by-content": OLD}) as fake:
        yield fake


def make_stale(rack: RackProcess, region: FakeRegion) -> None:
    """The region has a newer catalogue, the rack's long poll does not bring it, and the old file is gone."""
    region.hold_polls.set()
    region.publish({NAME: NEW})
    region.removed.add(OLD_SHA)
    assert rack.metrics()["bootplane_catalogue_version"] == 1


def ask(rack: RackProcess, method: str, name: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(rack.http.host, rack.http.port, timeout=60)
    try:
        connection.request(method, f"/{name}")
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


@pytest.mark.integration
def test_a_rack_with_an_old_catalogue_asks_once_and_gives_every_machine_the_new_file(
    tmp_path: Path, region: FakeRegion
) -> None:
    with RackProcess(tmp_path / "rack", region) as rack, concurrent.futures.ThreadPoolExecutor(24) as pool:
        make_stale(rack, region)
        before = region.hasty
        assert ask(rack, "HEAD", NAME)[1]["ETag"] == f'"{OLD_SHA}"'  # a promise of the catalogue, and of no byte
        fetches = [
            pool.submit(http_fetch.fetch, rack.http.host, rack.http.port, f"/{NAME}", keep=True) for _ in range(24)
        ]
        assert {(fetch.result().status, fetch.result().sha256) for fetch in fetches} == {(200, NEW_SHA)}
        assert region.hasty == before + 1
        status, headers, _ = ask(rack, "HEAD", NAME)
        assert (status, headers["ETag"]) == (200, f'"{NEW_SHA}"')
        assert ask(rack, "GET", "by-content")[0] == 404
        assert {sha256 for sha256, _ in region.sent} == {NEW_SHA}
        log = rack.log()
    assert log.count("has removed") == 1 and "asking for a catalogue newer than 1" in log


@pytest.mark.integration
def test_a_name_that_means_nothing_any_more_is_410_and_then_404(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region) as rack:
        make_stale(rack, region)
        status, _, body = ask(rack, "GET", "by-content")
        assert (status, body) == (410, b"410 Gone: by-content: the file was removed\n")
        assert ask(rack, "GET", "by-content")[0] == 404


@pytest.mark.integration
def test_over_tftp_the_machine_is_told_to_try_again_and_then_gets_the_new_file(
    tmp_path: Path, region: FakeRegion
) -> None:
    with RackProcess(tmp_path / "rack", region) as rack:
        make_stale(rack, region)
        with pytest.raises(RemoteError, match="removed meanwhile; try again"):
            tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, NAME, windowsize=16)
        assert tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, NAME, windowsize=16).sha256 == NEW_SHA


@pytest.mark.integration
def test_a_newest_catalogue_that_names_a_removed_file_is_503_and_no_loop(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region) as rack:
        region.hold_polls.set()
        region.removed.add(OLD_SHA)
        before = region.hasty
        for _ in range(3):
            status, headers, body = ask(rack, "GET", NAME)
            assert (status, headers["Retry-After"]) == (503, "5")
            assert body.endswith(b": it was removed where it came from\n")
        assert region.hasty == before + 1
        assert rack.log().count("the region has no catalogue newer than 1") == 1
