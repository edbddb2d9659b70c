from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from bootplane.core.blob import Blob
from bootplane.core.status import RingFull
from bootplane.dataplane.addresses import HostPort
from bootplane.dataplane.catalogue import PinnedKey
from bootplane.dataplane.dynamic import ST_UNKNOWN, ST_UPSTREAM, Dynamic
from bootplane.dataplane.region_client import RegionClient
from tests.fakes.region import FakeRegion

NAME = "grub/grub.cfg-52:54:00:77:00:01"


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion({"x": b"x"}) as fake:
        fake.texts[NAME] = b"linux /vmlinuz\n"
        yield fake


class Replies:
    def __init__(self) -> None:
        self.got: list[tuple[int, int, Blob | None, int]] = []
        self.news = threading.Condition()

    def __call__(self, reactor: int, request: int, blob: Blob | None, status: int) -> None:
        with self.news:
            self.got.append((reactor, request, blob, status))
            self.news.notify_all()

    def wait(self, count: int) -> None:
        with self.news:
            assert self.news.wait_for(lambda: len(self.got) >= count, 60)


def dynamic(region: FakeRegion, replies: Replies, http: str = "", tftp: str | None = "10.0.0.1") -> Dynamic:
    client = RegionClient([region.url], region.token)
    places = (HostPort(http, 5248), HostPort(tftp, 69) if tftp is not None else None)
    return Dynamic(client, PinnedKey(region.token.region_key), "rack-1", *places, replies)


def test_a_question_gets_the_regions_signed_text(region: FakeRegion) -> None:
    replies = Replies()
    asking = dynamic(region, replies)
    asking.ask(3, 77, "tftp", NAME, ("10.0.0.9", 25300), ("10.0.0.1", 69))
    replies.wait(1)
    reactor, request, blob, status = replies.got[0]
    assert (reactor, request, status) == (3, 77, 0)
    assert blob is not None
    assert (blob.read(0, blob.size), blob.dynamic) == (b"linux /vmlinuz\n", True)
    assert region.boots == [
        {"name": NAME, "proto": "tftp", "peer": "10.0.0.9", "http": "10.0.0.1:5248", "tftp": "10.0.0.1:69"}
    ]
    assert asking.outcomes == {"text": 1}
    asking.close()


def test_an_answer_that_no_reactor_takes_is_in_the_log(region: FakeRegion, caplog: pytest.LogCaptureFixture) -> None:
    tried = threading.Event()

    class Stuck(Replies):
        def __call__(self, reactor: int, request: int, blob: Blob | None, status: int) -> None:
            tried.set()
            raise RingFull(f"reactor {reactor} has not read its inbox of 4096 mails for 2 s", 3)

    asking = dynamic(region, Stuck())
    asking.ask(3, 77, "tftp", NAME, ("10.0.0.9", 25300), ("10.0.0.1", 69))
    assert tried.wait(60)
    asking._pool.shutdown()
    assert [record.message for record in caplog.records] == [
        f"boot text {NAME!r} for 10.0.0.9: reactor 3 has not read its inbox of 4096 mails for 2 s"
    ]


def test_a_machine_is_told_the_address_at_which_it_asked(region: FakeRegion) -> None:
    asking = dynamic(region, Replies(), http="", tftp="")
    asking.resolve("http", NAME, "fd00::9", "fd00::1")
    asking.resolve("http", NAME, "10.0.0.9", "")
    assert [(boot["http"], boot["tftp"]) for boot in region.boots] == [
        ("[fd00::1]:5248", "[fd00::1]:69"),
        (":5248", ":69"),
    ]


def test_a_name_nobody_has_is_unknown(region: FakeRegion) -> None:
    asking = dynamic(region, Replies())
    assert asking.resolve("http", "pxelinux.cfg/default", "10.0.0.9", "10.0.0.1") == (None, ST_UNKNOWN)
    assert asking.outcomes == {"unknown": 1}


def text_of(answer: tuple[Blob | None, int]) -> bytes:
    blob, status = answer
    assert status == 0
    assert blob is not None
    return blob.read(0, blob.size)


def test_a_text_the_region_did_not_sign_is_shown_to_nobody(region: FakeRegion) -> None:
    region.unsigned_boot = True
    asking = dynamic(region, Replies())
    text = text_of(asking.resolve("http", NAME, "10.0.0.9", "10.0.0.1"))
    assert b"linux" not in text
    assert b"is not signed by its key" in text
    assert asking.outcomes == {"refused": 1}


def test_a_text_signed_for_another_name_is_shown_to_nobody(region: FakeRegion) -> None:
    genuine = region.key.sign_boot
    region.key.sign_boot = lambda name, body: genuine(NAME + "x", body)  # type: ignore[method-assign]
    text = text_of(dynamic(region, Replies()).resolve("http", NAME, "10.0.0.9", "10.0.0.1"))
    assert b"linux" not in text


def test_without_a_region_waits_grow_for_each_machine(region: FakeRegion) -> None:
    region.stop()
    asking = dynamic(region, Replies())
    name = "pxelinux.cfg/01-52-54-00-77-00-01"
    first = text_of(asking.resolve("http", name, "10.0.0.9", "10.0.0.1"))
    again = text_of(asking.resolve("tftp", name, "10.0.0.10", "10.0.0.1"))  # the same machine by its MAC
    other = text_of(asking.resolve("http", "pxelinux.cfg/default", "10.0.0.11", "10.0.0.1"))
    assert b"try 1, the next one in 5 s" in first
    assert b"try 2, the next one in 10 s" in again
    assert b"try 1, the next one in 5 s" in other
    assert b"rack rack-1 at 10.0.0.1:5248 cannot get it from its region " + region.url.encode() in first
    assert asking.outcomes == {"retry": 3}


def test_a_name_that_is_no_configuration_fails_plainly_without_a_region(region: FakeRegion) -> None:
    region.stop()
    assert dynamic(region, Replies()).resolve("http", "ipxe.cfg.bak", "10.0.0.9", "") == (None, ST_UPSTREAM)


def test_that_the_region_is_gone_is_said_once(region: FakeRegion, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    asking = dynamic(region, Replies())
    port = region.api_port
    region.stop()
    for _ in range(3):
        asking.resolve("http", NAME, "10.0.0.9", "10.0.0.1")
    region.start()
    for _ in range(3):
        asking.resolve("http", NAME, "10.0.0.9", "10.0.0.1")
    said = [record.message for record in caplog.records if record.name == "bootplane.dynamic"]
    assert len(said) == 2
    assert said[0].startswith(f"machines get retry scripts: no region reachable: http://127.0.0.1:{port}: ")
    assert said[1] == "the region answers again"


def test_a_fault_of_ours_still_answers(region: FakeRegion, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = Replies()
    asking = dynamic(region, replies)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(asking, "resolve", broken)
    asking.ask(0, 1, "http", NAME, ("10.0.0.9", 1), ("10.0.0.1", 2))
    replies.wait(1)
    assert replies.got == [(0, 1, None, ST_UPSTREAM)]
    asking.close()
