"""/MAAS/metadata/ as a machine, a rack and a liar call it; the timeline is a list."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.testclient import TestClient

from bootplane.control import metadata
from bootplane.control.metadata import MetadataApi
from bootplane.control.racks import RackBook
from bootplane.control.storage.racks import RackRecord
from bootplane.control.tickets import LIFETIME_S, REPORTS, Tickets
from bootplane.control.timeline import BootEvent
from bootplane.dataplane import proxy

MAC, RACK, LOADER, MACHINE, DIRECT = "52:54:00:77:00:01", "r0a1b2c3d", "10.77.0.50", "10.77.0.99", "192.0.2.7"
SECRET = "5e" * 32
REPORT = {
    "name": "modules-final",
    "description": "running modules for final",
    "event_type": "finish",
    "origin": "cloudinit",
    "timestamp": 1700000000.25,
    "result": "SUCCESS",
}


class Racks:
    """A repository of one rack."""

    def list(self) -> list[RackRecord]:
        return [RackRecord(RACK, "a07", hashlib.sha256(SECRET.encode()).hexdigest(), "2026-11-21T10:00:00Z")]


class Timeline:
    """Keeps what it is given, in memory."""

    def __init__(self) -> None:
        self.events: list[BootEvent] = []
        self.broken = False
        self.hold = threading.Event()
        self.hold.set()
        self.inside = 0
        self.most = 0
        self.lock = threading.Lock()

    def note(self, event: BootEvent) -> None:
        self.events.append(event)

    def add(self, events: Sequence[BootEvent]) -> None:
        if self.broken:
            raise OperationalError("INSERT", {}, Exception("disk I/O error"))
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self.hold.wait(20)
        with self.lock:
            self.inside -= 1
            self.events.extend(events)


class Site:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.timeline = Timeline()
        self.tickets = Tickets(bytes(range(32)), lambda: self.now)
        api = MetadataApi(
            region_id="region-1",
            tickets=self.tickets,
            racks=RackBook(Racks()),  # type: ignore[arg-type]
            timeline=self.timeline,  # type: ignore[arg-type]
            clock=lambda: self.now,
        )
        self.app = Starlette(routes=api.routes())
        self.direct = TestClient(self.app, client=(DIRECT, 1234))
        self.by_rack = TestClient(
            self.app, client=("10.77.0.1", 1), headers={"Bootplane-Rack": SECRET, "X-Forwarded-For": MACHINE}
        )

    def url(self) -> str:
        return f"/MAAS/metadata/boot/{self.tickets.issue(MAC, RACK, LOADER)}"

    @property
    def event(self) -> BootEvent:
        assert len(self.timeline.events) == 1
        return self.timeline.events[0]


@pytest.fixture
def site() -> Site:
    return Site()


# -- GET


def test_the_first_get_says_what_the_ticket_is_for_and_the_second_that_it_is_used(site: Site) -> None:
    url = site.url()
    answer = site.by_rack.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert answer.text == f"region: region-1\nrack: {RACK}\nmac: {MAC}\naddress: {MACHINE}\n"
    assert answer.headers["cache-control"] == "no-store"
    again = site.by_rack.get(url)
    assert (again.status_code, again.headers["content-type"]) == (410, "text/plain; charset=utf-8")
    assert again.text == f"boot ticket: expected one that is not used yet, got one that {MACHINE} has used\n"
    assert (site.event.kind, site.event.mac, site.event.address, site.event.rack) == ("ticket", MAC, MACHINE, RACK)
    assert (site.event.at, site.event.name, site.event.outcome) == (site.now, "boot", "claimed")
    assert site.event.detail == {"boot": site.event.detail["boot"], "boot_loader": LOADER}


def test_a_head_uses_nothing_and_is_no_event(site: Site) -> None:
    url = site.url()
    assert (site.by_rack.head(url).status_code, site.by_rack.head(url).text) == (200, "")
    assert site.timeline.events == []
    length = site.by_rack.head(url).headers["content-length"]
    answer = site.by_rack.get(url)
    assert (answer.status_code, answer.headers["content-length"]) == (200, length)
    assert site.by_rack.head(url).status_code == 410


def test_a_ticket_that_is_too_old_is_410_with_a_sentence(site: Site) -> None:
    url = site.url()
    site.now += LIFETIME_S
    for answer in (site.by_rack.get(url), site.by_rack.head(url), site.by_rack.post(url, json=REPORT)):
        assert answer.status_code == 410
    assert site.by_rack.get(url).text.startswith("boot ticket: expected one of the last 60 minutes, got one that ended")
    assert site.timeline.events == []


@pytest.mark.parametrize("word", ["x", "A" * 59, "%00", "A" * 4000, "%2e%2e", "é", "a%0ab"])
def test_a_word_that_is_no_ticket_is_404(site: Site, word: str) -> None:
    url = f"/MAAS/metadata/boot/{word}"
    for answer in (site.by_rack.get(url), site.by_rack.post(url, json=REPORT)):
        assert (answer.status_code, len(answer.text.splitlines())) == (404, 1)
    assert site.timeline.events == []


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["", "boot", "boot/", "latest/meta-data", "2012-03-01/user-data", "boot/x/y"])
def test_everything_else_is_404_in_one_sentence(site: Site, method: str, path: str) -> None:
    answer = site.by_rack.request(method, f"/MAAS/metadata/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/plain; charset=utf-8")
    assert answer.text == f"'/MAAS/metadata/{path}': there is nothing of this name\n"


def test_a_machine_whose_mac_nobody_knew_is_told_so(site: Site) -> None:
    url = f"/MAAS/metadata/boot/{site.tickets.issue(None, RACK, LOADER)}"
    assert "\nmac: unknown\n" in site.by_rack.get(url).text
    assert site.event.mac is None


def test_the_manual_gives_the_limits_there_are() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "metadata.md").read_text(encoding="utf-8")
    kept = metadata.FIELDS
    for words in (
        f"more than {metadata.REPORT_BYTES >> 10} KiB of report ({metadata.READ_BYTES >> 20} MiB: already at the rack)",
        f"more than {REPORTS} reports",
        f"longer than {metadata.READ_S:.0f} s",
        f"has {proxy.MAX_PER_ADDRESS} requests under way",
        f"{kept['name']} characters of `name`, {kept['description']} of\n`description`, {kept['origin']} of `origin`",
        f"{kept['event_type']} of `event_type` and `result`",
        f"up to {metadata.FILES} files",
    ):
        assert words in text, words
    assert (LIFETIME_S, metadata.READ_BYTES, kept["result"]) == (3600, proxy.BODY_BYTES, kept["event_type"])


# -- whose address


def test_a_forwarded_address_is_believed_with_a_racks_secret_alone(site: Site) -> None:
    for secret in (None, "", "wrong", SECRET[:-1], f"Bearer {SECRET}"):
        headers = {"X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6", "X-Real-IP": "6.6.6.6"}
        headers |= {} if secret is None else {"Bootplane-Rack": secret}
        answer = site.direct.get(site.url(), headers=headers)
        assert f"\naddress: {DIRECT}\n" in answer.text
    assert {event.address for event in site.timeline.events} == {DIRECT}
    assert {event.rack for event in site.timeline.events} == {RACK}  # that the script was made for


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::50%eth0", "fe80::50"),
        ("fd77::0050", "fd77::50"),
        ("6.6.6.6, 10.0.0.1", "10.77.0.1"),  # a rack never says this: whose word the first one is, nobody knows
        ("somewhere", "10.77.0.1"),
        ("", "10.77.0.1"),
    ],
)
def test_an_address_is_one_address_in_its_usual_form_or_that_of_the_socket(site: Site, told: str, address: str) -> None:
    site.by_rack.get(site.url(), headers={"X-Forwarded-For": told})
    assert site.event.address == address


def test_two_forwarded_addresses_are_none(site: Site) -> None:
    headers = [("Bootplane-Rack", SECRET), ("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", MACHINE)]
    TestClient(site.app, client=(DIRECT, 1)).get(site.url(), headers=headers)  # type: ignore[arg-type]
    assert site.event.address == DIRECT


def test_a_socket_that_maps_ipv4_into_ipv6_says_the_ipv4_address(site: Site) -> None:
    TestClient(site.app, client=("::ffff:10.0.0.1", 1)).get(site.url())
    assert site.event.address == "10.0.0.1"


def test_the_rack_that_forwards_stands_in_the_event(site: Site) -> None:
    made = site.tickets.issue(MAC, "r-another", LOADER)
    assert f"rack: {RACK}\n" in site.by_rack.get(f"/MAAS/metadata/boot/{made}").text
    assert site.event.rack == RACK


# -- POST


def test_a_report_becomes_an_event(site: Site) -> None:
    answer = site.by_rack.post(site.url(), json=REPORT)
    assert (answer.status_code, answer.content) == (204, b"")
    event = site.event
    assert (event.kind, event.mac, event.address, event.rack) == ("report", MAC, MACHINE, RACK)
    assert (event.at, event.name, event.outcome) == (site.now, "modules-final", "SUCCESS")
    assert event.detail == {
        "boot": event.detail["boot"],
        "boot_loader": LOADER,
        "description": "running modules for final",
        "event_type": "finish",
        "origin": "cloudinit",
        "timestamp": 1700000000.25,
    }


def test_reports_of_one_boot_carry_its_mark_and_those_of_another_boot_another(site: Site) -> None:
    url = site.url()
    site.by_rack.get(url)
    site.by_rack.post(url, json=REPORT)
    site.by_rack.post(site.url(), json=REPORT)
    first, second, third = (event.detail["boot"] for event in site.timeline.events)
    assert first == second != third


def test_a_start_has_no_result_and_its_outcome_is_that_it_started(site: Site) -> None:
    site.by_rack.post(site.url(), json={"name": "init-local", "event_type": "start", "result": None})
    assert site.event.outcome == "start"


def test_a_name_alone_is_a_report(site: Site) -> None:
    assert site.by_rack.post(site.url(), json={"name": "up"}).status_code == 204
    assert (site.event.name, site.event.outcome) == ("up", "")


def test_reports_are_taken_before_and_after_the_ticket_is_used_up_to_a_limit(site: Site) -> None:
    url = site.url()
    assert site.by_rack.post(url, json=REPORT).status_code == 204
    assert site.by_rack.get(url).status_code == 200
    for _ in range(REPORTS - 1):
        assert site.by_rack.post(url, json=REPORT).status_code == 204
    answer = site.by_rack.post(url, json=REPORT)
    assert (answer.status_code, answer.text) == (429, "boot ticket: expected at most 256 reports, got one more\n")
    assert len(site.timeline.events) == REPORTS + 1


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain; charset=utf-8", "", None]
)
def test_a_json_body_is_taken_whatever_it_is_called(site: Site, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert site.by_rack.post(site.url(), content=json.dumps(REPORT), headers=headers).status_code == 204
    assert site.event.name == "modules-final"


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/x-www-form-urlencoded", b"instance_id=i-1&hostname=h", 415),
        ("multipart/form-data; boundary=x", b"--x", 415),
        ("text/plain", b"up", 415),
        ("application/json", b"up", 400),
        ("Application/JSON; charset=utf-8", b"", 400),
        ("", b"{", 400),
        ("application/json", b"[]", 400),
        ("application/json", b'"up"', 400),
        ("application/json", b"[" * 60_000, 400),
        ("application/json", b'{"name":' * 8000, 400),
        ("application/json", b"\xff\xfe{", 400),
        ("application/json", b'{"name": "x", "timestamp": NaN}', 400),
        ("application/json", b'{"name": "x", "timestamp": 1' + b"0" * 5000 + b"}", 400),
        ("application/json", b'{"name": "x", "timestamp": 1e999}', 400),
        ("application/json", b'{"name": "x", "timestamp": "now"}', 400),
        ("application/json", b'{"name": "x", "timestamp": true}', 400),
        ("application/json", b'{"name": "x", "timestamp": -1}', 400),
        ("application/json", b"{}", 400),
        ("application/json", b'{"name": ""}', 400),
        ("application/json", b'{"name": 7}', 400),
        ("application/json", b'{"name": "x", "description": {"a": {"b": 1}}}', 400),
        ("application/json", b'{"name": "x", "files": "all"}', 400),
        ("application/json", b'{"name": "x", "files": [1]}', 400),
        ("application/json", b'{"name": "x", "files": [{"path": 1}]}', 400),
        ("application/json", b'{"name": "x", "files": [' + b"{}," * 16 + b"{}]}", 400),
    ],
)
def test_a_body_that_is_no_report_is_refused_in_one_sentence(
    site: Site, content_type: str, body: bytes, status: int
) -> None:
    answer = site.by_rack.post(site.url(), content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, len(answer.text.splitlines())) == (status, 1)
    assert answer.text.startswith("boot report: expected ")
    assert site.timeline.events == []


def test_a_refused_body_does_not_count_against_the_ticket(site: Site) -> None:
    url = site.url()
    for _ in range(REPORTS + 1):
        assert site.by_rack.post(url, content=b"{").status_code == 400
    assert site.by_rack.post(url, json=REPORT).status_code == 204


@pytest.mark.parametrize(("spare", "status"), [(0, 204), (1, 413), (900_000, 413), (2 << 20, 413)])
def test_a_body_ends_at_64_kib(site: Site, spare: int, status: int) -> None:
    body = json.dumps({"name": "x", "description": ""})
    body = json.dumps({"name": "x", "description": "d" * (metadata.REPORT_BYTES - len(body) + spare)})
    assert len(body) == metadata.REPORT_BYTES + spare
    answer = site.by_rack.post(site.url(), content=body)
    assert answer.status_code == status
    if status == 204:
        assert site.event.detail["description"] == "d" * 1000
    else:
        assert answer.text == "boot report: expected at most 65536 bytes, got more\n"
        assert site.timeline.events == []


def call(site: Site, messages: Iterator[dict[str, Any]]) -> tuple[int, bytes]:
    """A POST whose body is what *messages* gives; silence after the last one. The answer's status and body."""
    answers: list[Any] = []

    async def receive() -> dict[str, Any]:
        for message in messages:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        answers.append(message)

    scope = {"type": "http", "method": "POST", "path": site.url(), "headers": [], "query_string": b"", "client": None}
    asyncio.run(site.app(scope, receive, send))
    return answers[0]["status"], answers[1]["body"]


def test_a_body_that_does_not_come_is_refused_when_its_time_is_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "READ_S", 0.01)
    begun = iter([{"type": "http.request", "body": b'{"na', "more_body": True}])
    assert call(site, begun) == (408, b"boot report: expected all of it within 0 s, got 4 bytes\n")


def test_a_body_that_breaks_off_is_refused(site: Site) -> None:
    assert call(site, iter([{"type": "http.disconnect"}]))[0] == 400


def test_a_body_that_never_ends_is_refused_at_some_point(site: Site) -> None:
    endless = itertools.repeat({"type": "http.request", "body": bytes(1 << 16), "more_body": True})
    assert call(site, endless) == (413, b"boot report: expected at most 65536 bytes, got more\n")


def test_what_is_kept_of_a_report_is_short_printable_and_nothing_but_its_known_fields(site: Site) -> None:
    report = {
        "name": "a\x1b[31m\x00b\ud800c" + "n" * 500,
        "description": "two\nlines\u202e" + "d" * 5000,
        "result": "R" * 100,
        "origin": "o" * 100,
        "event_type": "e" * 100,
        "files": [{"path": "/var/log/x\x07", "encoding": "base64", "content": "QUJD" * 100}, {"path": "p" * 1000}],
        "extra": {"deep": [[[[1]]]]},
    }
    assert site.by_rack.post(site.url(), content=json.dumps(report)).status_code == 204
    event = site.event
    assert event.name == ("a [31m b c" + "n" * 500)[:255]
    assert event.detail["description"] == ("two lines " + "d" * 5000)[:1000]
    assert (event.outcome, len(event.detail["origin"]), len(event.detail["event_type"])) == ("R" * 32, 64, 32)
    assert event.detail["files"] == [
        {"path": "/var/log/x ", "content_characters": 400},
        {"path": "p" * 255, "content_characters": 0},
    ]
    assert set(event.detail) == {"boot", "boot_loader", "description", "event_type", "origin", "files"}
    json.dumps(event.detail).encode()


def test_a_report_that_cannot_be_kept_is_503_and_a_ticket_is_answered_all_the_same(site: Site) -> None:
    site.timeline.broken = True
    url = site.url()
    answer = site.by_rack.post(url, json=REPORT)
    assert (answer.status_code, answer.text.splitlines()) == (
        503,
        ["boot report: expected to be kept, and the region's database does not take it"],
    )
    assert site.by_rack.get(url).status_code == 200
    site.timeline.broken = False
    assert site.by_rack.post(url, json=REPORT).status_code == 204


def test_a_storm_of_reports_takes_so_many_threads_and_no_more(site: Site) -> None:
    site.timeline.hold.clear()
    with site.by_rack as client:
        threads = [threading.Thread(target=client.post, args=(site.url(),), kwargs={"json": REPORT}) for _ in range(20)]
        for thread in threads:
            thread.start()
        tick = threading.Event()
        while site.timeline.inside < metadata.WRITERS:
            tick.wait(0.005)
        tick.wait(0.05)  # more would have come by now
        site.timeline.hold.set()
        for thread in threads:
            thread.join(20)
    assert (site.timeline.most, len(site.timeline.events)) == (metadata.WRITERS, 20)
