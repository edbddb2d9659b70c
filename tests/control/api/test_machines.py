"""GET /machines and /machines/{id}/timeline: pages, notations, and what is said of machines nobody knows."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bootplane.control.api import schemas
from bootplane.control.app import Region
from bootplane.control.timeline import BootEvent

A, B = "52:54:00:77:00:01", "52:54:00:77:00:02"


def event(at: float, name: str, mac: str | None = A, address: str = "10.77.0.9", **change: Any) -> BootEvent:
    facts: dict[str, Any] = {"kind": "transfer", "rack": "r1", "outcome": "complete", "detail": {"protocol": "tftp"}}
    return BootEvent(at=at, mac=mac, address=address, name=name, **(facts | change))


@pytest.fixture
def known(region: Region) -> float:
    """Ten transfers of one machine, one of another, one of nobody; the time of the first."""
    began = time.time() - 3600
    region.timeline.add([event(began + n, f"f{n}") for n in range(10)])
    region.timeline.add([event(began + 20, "b", B, "10.77.0.10"), event(began + 30, "n", None, "10.77.0.11")])
    return began


def timeline(client: TestClient, path: str) -> schemas.BootTimeline:
    answer = client.get(f"/api/v1/machines/{path}")
    assert answer.status_code == 200, answer.text
    return schemas.BootTimeline.model_validate(answer.json())


@pytest.mark.parametrize(
    "key", [A, A.upper(), A.replace(":", "-"), "525400770001", "10.77.0.9", "%3a%3affff:10.77.0.9"]
)
def test_a_timeline_is_found_by_mac_in_any_notation_and_by_address(client: TestClient, known: float, key: str) -> None:
    found = timeline(client, f"{key}/timeline")
    assert [each.name for each in found.events] == [f"f{n}" for n in range(10)]
    first = found.events[0]
    assert (first.kind, first.mac, first.address, first.rack) == ("transfer", A, "10.77.0.9", "r1")
    assert first.detail == {"protocol": "tftp"} and first.at.endswith("Z") and len(first.at) == 24
    assert (found.machine.mac, found.machine.name, found.next) == (A, "f9", None)
    assert found.machine.seen == found.events[-1].at < found.now


def test_the_newest_page_comes_first_and_the_pages_are_whole(client: TestClient, known: float) -> None:
    names: list[str] = []
    path = f"{A}/timeline?limit=4"
    following: str | None = ""
    while following is not None:
        page = timeline(client, path + (f"&after={following}" if following else ""))
        names = [each.name for each in page.events] + names
        following = page.next
    assert names == [f"f{n}" for n in range(10)]


def test_since_takes_times_and_durations(client: TestClient, known: float) -> None:
    from datetime import UTC, datetime

    later = datetime.fromtimestamp(known + 6.5, UTC).isoformat().replace("+00:00", "Z")
    assert [each.name for each in timeline(client, f"{A}/timeline?since={later}").events] == ["f7", "f8", "f9"]
    assert len(timeline(client, f"{A}/timeline?since=2h").events) == 10
    nothing_new = timeline(client, f"{A}/timeline?since=10m")
    assert nothing_new.events == [] and nothing_new.machine.name == "f9"


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        (f"{B[:-1]}9/timeline", 404, "machine 52:54:00:77:00:09: no rack of this region has told anything of it"),
        ("kiruna/timeline", 400, "machine: expected a MAC or an IP address, got 'kiruna'"),
        (f"{A}/timeline?since=soon", 400, "since: expected a time"),
        (f"{A}/timeline?after=x", 400, "after: expected what an answer gave as next, got 'x'"),
        (f"{A}/timeline?after=1.5_{A}", 400, "after: expected"),
        (f"{A}/timeline?after=nan_1", 400, "after: expected"),
        (f"{A}/timeline?limit=0", 422, "limit"),
        (f"{A}/timeline?limit=1001", 422, "limit"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(
    client: TestClient, known: float, path: str, status: int, words: str
) -> None:
    answer = client.get(f"/api/v1/machines/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    detail = schemas.Problem.model_validate(answer.json()).detail
    assert words in detail and "\n" not in detail


def test_machines_are_listed_the_last_seen_first_page_by_page(client: TestClient, known: float) -> None:
    whole = schemas.Machines.model_validate(client.get("/api/v1/machines").json())
    assert [(each.id, each.mac, each.address, each.name) for each in whole.items] == [
        ("10.77.0.11", None, "10.77.0.11", "n"),
        (B, B, "10.77.0.10", "b"),
        (A, A, "10.77.0.9", "f9"),
    ]
    assert whole.next is None
    first = client.get("/api/v1/machines?limit=1").json()
    second = client.get(f"/api/v1/machines?limit=2&after={first['next']}").json()
    assert [each["id"] for each in first["items"] + second["items"]] == [each.id for each in whole.items]
    assert client.get("/api/v1/machines?after=x").status_code == 400


def test_watchers_hear_of_news(region: Region, client: TestClient) -> None:
    """Through the region's own keeper and hub, on its own event loop."""
    heard: list[tuple[str, Any]] = []

    async def listen() -> None:
        subscription = region.hub.subscribe(20.0)
        waiting = asyncio.ensure_future(anext(subscription))
        while not region.hub.subscribers:
            await asyncio.sleep(0)
        await asyncio.to_thread(region.timeline.add, [event(time.time(), "f")])
        heard.append(await waiting)  # type: ignore[arg-type]
        await subscription.aclose()

    assert client.portal is not None
    client.portal.call(listen)
    assert heard == [("machines", {"ids": ["10.77.0.9", A]})]
