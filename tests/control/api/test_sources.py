"""Boot sources that change: nothing counts before it was tried, and what is disabled is asked for nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bootplane.control.api import schemas
from bootplane.control.app import Region
from bootplane.control.simplestreams.signer import Signer
from tests.control.api.test_routes import problem
from tests.fakes.mirror import Fault, MirrorServer, publish_small, serve
from tests.fakes.regions import synced

URL = "/api/v1/sources/mirror"
NOBLE = {"os": "ubuntu", "release": "noble", "arches": ["amd64"]}
LATE, EARLY = datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
DAMAGED = "streams/v1/index.sjson"


@pytest.fixture
def added(client: TestClient, source: dict[str, Any]) -> schemas.Source:
    return schemas.Source.model_validate(client.post("/api/v1/sources", json=source).json())


@pytest.fixture
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    with Signer.generate(tmp_path_factory.mktemp("stranger"), algorithm="ed25519") as made:
        yield made


def changed(client: TestClient, **changes: Any) -> schemas.Source:
    answer = client.patch(URL, json=changes)
    assert answer.status_code == 200, answer.text
    return schemas.Source.model_validate(answer.json())


def stored(client: TestClient) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get("/api/v1/sources").json()["items"]
    return items


def gave_files(mirror: MirrorServer) -> bool:
    return any(path.endswith("/squashfs") for path in mirror.sent)


def test_a_name_and_a_priority_change_without_a_look_at_the_source(
    client: TestClient, mirror: MirrorServer, added: schemas.Source
) -> None:
    asked = len(mirror.requests)
    assert changed(client, priority=7) == added.model_copy(update={"priority": 7})
    assert client.patch(URL, json={"name": "other"}).json()["name"] == "other"
    assert [each["name"] for each in stored(client)] == ["other"] and len(mirror.requests) == asked


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "expected something to change, got nothing"),
        ({"name": None}, 400, "name: expected a value, got null"),
        ({"enabled": None}, 400, "enabled: expected a value, got null"),
        ({"keyring": None}, 400, "keyring: expected a value, got null"),
        ({"name": "a/b"}, 400, "name of a boot source"),
        ({"name": "taken"}, 409, "there is one already, `taken`"),
        ({"url": "ftp://x/"}, 422, "expected an http, https or file URL"),
        ({"keyring": "garbage"}, 422, "expected an OpenPGP public keyring"),
        ({"ca": "garbage"}, 400, "expected certificates in PEM"),
        ({"priority": "7"}, 422, "priority"),
        ({"unsigned": True}, 422, "unsigned"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(
    client: TestClient, tmp_path: Path, signer: Signer, added: schemas.Source, body: Any, status: int, words: str
) -> None:
    publish_small(tmp_path / "taken", signer)
    other = {"url": (tmp_path / "taken").as_uri(), "keyring": signer.public(armored=True).decode(), "name": "taken"}
    assert client.post("/api/v1/sources", json=other).status_code == 201
    before = stored(client)
    assert words in problem(client.patch(URL, json={"priority": 9} | body if body else body), status)
    assert stored(client) == before


def test_nobody_changes_what_is_not_there(client: TestClient) -> None:
    assert "'mirror'" in problem(client.patch(URL, json={"priority": 1}), 404)


def test_a_source_moves_and_what_it_said_before_binds_it(
    region: Region, client: TestClient, tmp_path: Path, mirror: MirrorServer, signer: Signer, source: dict[str, Any]
) -> None:
    publish_small(mirror.root, signer, updated=LATE)
    added = client.post("/api/v1/sources", json=source).json()
    client.post("/api/v1/selections", json=NOBLE)
    publish_small(tmp_path / "new", signer, updated=EARLY)
    with serve(tmp_path / "new") as new:
        said = problem(client.patch(URL, json={"url": new.url}), 422)
        assert "index: expected updated 2026-02-01T00:00:00+00:00 or newer" in said and "got 2026-01-01" in said
        assert stored(client) == [added]
        publish_small(tmp_path / "new", signer, updated=LATE)
        assert changed(client, url=new.url).url == new.url
        asked = len(mirror.requests)
        assert synced(region, client)["state"] == "complete"
        assert len(mirror.requests) == asked and gave_files(new)


def test_a_source_that_moves_into_the_future_still_cannot_go_back(
    client: TestClient, tmp_path: Path, mirror: MirrorServer, signer: Signer, source: dict[str, Any]
) -> None:
    publish_small(mirror.root, signer, updated=LATE)
    client.post("/api/v1/sources", json=source)
    publish_small(tmp_path / "new", signer, updated=datetime(2199, 1, 1, tzinfo=UTC))
    with serve(tmp_path / "new") as new:
        assert changed(client, url=new.url).error is None
        publish_small(tmp_path / "new", signer, updated=LATE)
        assert client.post(f"{URL}/check").json()["error"] is None
        publish_small(tmp_path / "new", signer, updated=EARLY)
        assert "expected updated 2026-02-01" in client.post(f"{URL}/check").json()["error"]


def test_a_keyring_is_changed_for_one_that_has_signed(
    region: Region, client: TestClient, mirror: MirrorServer, signer: Signer, stranger: Signer, added: schemas.Source
) -> None:
    client.post("/api/v1/selections", json=NOBLE)
    keyring = base64.b64encode(stranger.public()).decode()
    assert "which is not in it" in problem(client.patch(URL, json={"keyring": keyring}), 422)
    assert stored(client)[0]["fingerprints"] == added.fingerprints
    publish_small(mirror.root, stranger)
    assert "which is not in it" in client.post(f"{URL}/check").json()["error"]
    after = changed(client, keyring=keyring)
    assert after.error is None and after.fingerprints != added.fingerprints
    assert synced(region, client)["state"] == "complete"


def test_an_unsigned_source_becomes_a_signed_one(client: TestClient, mirror: MirrorServer, signer: Signer) -> None:
    client.post("/api/v1/sources", json={"url": mirror.url, "unsigned": True, "name": "mirror"})
    after = changed(client, keyring=signer.public(armored=True).decode())
    assert not after.unsigned and len(after.fingerprints) == 1


def test_a_disabled_source_is_asked_for_nothing_and_its_images_stay(
    region: Region, client: TestClient, mirror: MirrorServer, added: schemas.Source
) -> None:
    client.post("/api/v1/selections", json=NOBLE)
    mirror.faults["bootloaders/uefi/amd64/20210819.0/grub2-signed.tar.xz"] = Fault(status=404)
    synced(region, client)
    mirror.faults[DAMAGED] = Fault(status=403)
    assert synced(region, client)["state"] == "failed"
    images = client.get("/api/v1/images").json()
    assert any(banner["id"] == "source-away-1" for banner in client.get("/api/v1/status").json()["banners"])

    after = changed(client, enabled=False)
    assert not after.enabled and after.error is None
    assert not any(banner["id"].startswith("source") for banner in client.get("/api/v1/status").json()["banners"])
    asked = len(mirror.requests)
    assert "expected an enabled boot source" in synced(region, client)["error"]
    assert len(mirror.requests) == asked and client.get("/api/v1/images").json() == images

    mirror.faults.clear()
    assert changed(client, enabled=True).enabled
    assert synced(region, client)["state"] == "complete"


def test_while_the_first_source_is_disabled_the_second_one_is_asked(
    region: Region, client: TestClient, tmp_path: Path, mirror: MirrorServer, signer: Signer, added: schemas.Source
) -> None:
    publish_small(tmp_path / "second", signer, serial="20260101")
    with serve(tmp_path / "second") as second:
        other = {"url": second.url, "keyring": signer.public(armored=True).decode(), "name": "second", "priority": 0}
        client.post("/api/v1/sources", json=other)
        client.post("/api/v1/selections", json=NOBLE)
        assert synced(region, client)["state"] == "complete" and not gave_files(second)
        changed(client, enabled=False)
        assert synced(region, client)["state"] == "complete"
        images = client.get("/api/v1/images").json()["items"]
        kernel = next(each for each in images if each["name"].startswith("ubuntu/noble/amd64/"))
        assert kernel["version"] == "20260101" and gave_files(second)


def test_who_selects_centos_alone_gets_a_system_to_install_it_with(
    region: Region, client: TestClient, added: schemas.Source
) -> None:
    client.post("/api/v1/selections", json={"os": "centos", "release": "*", "arches": ["amd64"]})
    assert synced(region, client)["state"] == "complete"
    images = {each["name"]: each["complete"] for each in client.get("/api/v1/images").json()["items"]}
    assert {name for name in images if name.startswith("ubuntu/")} == {"ubuntu/noble/amd64/ga-24.04"}
    assert all(images.values()) and any(name.startswith("centos/") for name in images)
