"""The REST API against a region with a real database, store, bulk port and signed mirror."""

from __future__ import annotations

import hashlib
import http.client
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bootplane.control.api import schemas
from bootplane.control.app import Region
from bootplane.control.simplestreams.signer import Signer
from tests.fakes.mirror import Fault, MirrorServer
from tests.fakes.regions import running, synced

GA = "ubuntu/noble/amd64/ga-24.04"
EVERY_GET = [
    "/status",
    "/sources",
    "/selections",
    "/sync",
    "/images",
    f"/images/{GA}",
    "/racks",
    "/racks/rack1",
    "/racks/rack1/cache",
    "/racks/rack1/forecast?image=x",
    "/machines",
    "/events",
]
EVERY_GET += ["/machines/52:54:00:77:00:01/timeline"]
EVERY_POST = ["/sources", "/sources/1/check", "/selections", "/sync", "/sync/stop", "/rack-tokens", "/login-links"]
EVERY_PATCH = ["/racks/rack1", "/sources/1"]
EVERY_DELETE = ["/sources/1", "/selections/1"]


def problem(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = schemas.Problem.model_validate(answer.json())
    assert document.status == status
    return document.detail


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", p) for p in EVERY_GET]
    + [("POST", p) for p in EVERY_POST]
    + [("PATCH", p) for p in EVERY_PATCH]
    + [("DELETE", p) for p in EVERY_DELETE],
)
def test_every_route_needs_the_admin_token(region: Region, client: TestClient, method: str, path: str) -> None:
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic " + "x" * 64}):
        answer = client.request(method, f"/api/v1{path}", headers=headers)
        assert "admin token" in problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert region.admin_token not in answer.text


def test_a_region_without_anything_says_so_in_the_documented_shapes(client: TestClient) -> None:
    status = schemas.Status.model_validate(client.get("/api/v1/status").json())
    assert (status.sources, status.images, status.sync.state, status.catalogue.version) == (0, 0, "idle", 1)
    for path in ("sources", "selections", "images", "racks", "machines"):
        assert client.get(f"/api/v1/{path}").json() == {"items": [], "next": None}


def test_a_source_is_read_before_it_is_stored(client: TestClient, mirror: MirrorServer, source: dict[str, Any]) -> None:
    answer = client.post("/api/v1/sources", json=source)
    assert answer.status_code == 201
    added = schemas.Source.model_validate(answer.json())
    assert added.error is None and added.last_updated and len(added.fingerprints) == 1
    assert mirror.requests[0] == "streams/v1/index.sjson"
    assert "there is one already" in problem(client.post("/api/v1/sources", json=source), 409)


@pytest.mark.parametrize(
    ("body", "fault", "words"),
    [
        (b"<html><title>Welcome to the hotel</title>", 0, ["expected", "index.sjson", "HTML", "Welcome to the hotel"]),
        (b"", 404, ["expected a boot source's index, got 404"]),
        (b"{}", 0, ["index.sjson", "expected", "got"]),
    ],
)
def test_a_refused_source_is_422_in_one_sentence_and_nothing_is_stored(
    client: TestClient, mirror: MirrorServer, source: dict[str, Any], body: bytes, fault: int, words: list[str]
) -> None:
    mirror.faults["streams/v1/index.sjson"] = Fault(status=fault, body=body)
    mirror.faults["streams/v1/index.json"] = Fault(status=404)
    detail = problem(client.post("/api/v1/sources", json=source), 422)
    assert all(word in detail for word in words), detail
    assert "\n" not in detail
    assert client.get("/api/v1/sources").json()["items"] == []


def test_a_source_signed_by_another_key_is_refused(
    client: TestClient, source: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Signer.generate(tmp_path_factory.mktemp("other"), algorithm="ed25519") as other:
        body = source | {"keyring": other.public(armored=True).decode()}
    assert "expected" in problem(client.post("/api/v1/sources", json=body), 422)
    assert client.get("/api/v1/sources").json()["items"] == []


def test_an_armored_keyring_is_taken(client: TestClient, signer: Signer, source: dict[str, Any]) -> None:
    body = source | {"keyring": signer.public(armored=True).decode()}
    assert client.post("/api/v1/sources", json=body).status_code == 201


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"keyring": None}, 400, "expected a keyring, or `unsigned`"),
        ({"unsigned": True}, 400, "got both"),
        ({"url": "ftp://x/"}, 422, "expected an http, https or file URL"),
        ({"keyring": "garbage"}, 422, "expected an OpenPGP public keyring"),
        ({"name": "a/b"}, 400, "name of a boot source"),
        ({"surprise": 1}, 422, "surprise"),
        ({"url": 7}, 422, "url"),
    ],
)
def test_a_malformed_source_is_refused_in_one_sentence(
    client: TestClient, source: dict[str, Any], change: dict[str, Any], status: int, words: str
) -> None:
    assert words in problem(client.post("/api/v1/sources", json=source | change), status)


def test_a_check_tells_what_is_wrong_and_keeps_what_was_accepted(
    client: TestClient, mirror: MirrorServer, source: dict[str, Any]
) -> None:
    client.post("/api/v1/sources", json=source)
    before = client.get("/api/v1/sources").json()["items"][0]
    mirror.faults["streams/v1/index.sjson"] = Fault(status=403)
    checked = client.post("/api/v1/sources/mirror/check").json()
    assert "403" in checked["error"] and checked["last_updated"] == before["last_updated"]
    mirror.faults.clear()
    assert client.post(f"/api/v1/sources/{checked['id']}/check").json()["error"] is None


def test_sources_and_selections_go_by_id_or_name(client: TestClient, source: dict[str, Any]) -> None:
    client.post("/api/v1/sources", json=source)
    assert client.delete("/api/v1/sources/mirror").json()["name"] == "mirror"
    assert "'mirror'" in problem(client.delete("/api/v1/sources/mirror"), 404)
    body = {"os": "ubuntu", "release": "noble", "arches": ["amd64"]}
    made = schemas.Selection.model_validate(client.post("/api/v1/selections", json=body).json())
    assert made.subarches == ["*"] and made.labels == ["*"]
    assert "exists already" in problem(client.post("/api/v1/selections", json=body), 409)
    assert client.delete(f"/api/v1/selections/{made.id}").status_code == 200
    assert problem(client.delete(f"/api/v1/selections/{made.id}"), 404)
    assert "at least one arch" in problem(client.post("/api/v1/selections", json=body | {"arches": []}), 400)
    assert "pattern" in problem(client.post("/api/v1/selections", json=body | {"os": "../x"}), 400)


def test_from_a_source_to_files_that_are_byte_identical_on_the_bulk_port(
    region: Region, client: TestClient, mirror: MirrorServer, source: dict[str, Any]
) -> None:
    client.post("/api/v1/sources", json=source)
    client.post("/api/v1/selections", json={"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
    document = synced(region, client)
    sync = schemas.Sync.model_validate(document)
    assert (sync.state, sync.error, sync.bytes_done) == ("complete", None, sync.bytes_total)

    images = {image["name"]: image for image in client.get("/api/v1/images").json()["items"]}
    assert set(images) == {
        GA,
        "ubuntu/noble/amd64/hwe-24.04",
        "grub-efi-signed/uefi/amd64",
        "pxelinux/pxe/amd64",
        "pxelinux/pxe/i386",
    }
    assert all(image["complete"] for image in images.values())
    items = {path: count for path, count in mirror.sent.items() if not path.startswith("streams/")}
    assert sum(items.values()) == sync.bytes_total  # each file once
    host, _, port = region.bulk.address.rpartition(":")
    for file in images[GA]["files"]:
        bulk = http.client.HTTPConnection(host, int(port), timeout=10)
        bulk.request("GET", f"/blob/{file['sha256']}")
        answer = bulk.getresponse()
        assert hashlib.sha256(answer.read()).hexdigest() == file["sha256"] and answer.status == 200
        bulk.close()
        assert any(name.startswith(f"images/{file['sha256'][:16]}/") for name in file["names"])

    shown = schemas.Image.model_validate(client.get(f"/api/v1/images/{GA}?packages=true").json())
    assert shown.packages and shown.packages[0].name == "adduser"
    loader = client.get("/api/v1/images/grub-efi-signed/uefi/amd64").json()
    assert "bootx64.efi" in {name for file in loader["files"] for name in file["names"]}
    assert "nothere" in problem(client.get("/api/v1/images/nothere"), 404)


def test_a_second_sync_that_finds_nothing_new_costs_one_request(
    region: Region, client: TestClient, mirror: MirrorServer, source: dict[str, Any]
) -> None:
    client.post("/api/v1/sources", json=source)
    client.post("/api/v1/selections", json={"os": "*", "release": "*", "arches": ["*"]})
    assert synced(region, client)["state"] == "complete"
    mirror.requests.clear()
    version = client.get("/api/v1/status").json()["catalogue"]["version"]
    assert synced(region, client)["state"] == "complete"
    assert len(mirror.requests) <= 1
    assert client.get("/api/v1/status").json()["catalogue"]["version"] == version


def test_a_rack_token_is_shown_once_and_kept_as_a_hash(region: Region, client: TestClient) -> None:
    answer = client.post("/api/v1/rack-tokens", json={"name": "a07"}).json()
    form, rack_id, secret, key = answer["token"].split(".")
    assert (form, rack_id, key) == ("bpr1", answer["id"], region.key.public_hex)
    listed = client.get("/api/v1/racks").json()["items"]
    assert [rack["name"] for rack in listed] == ["a07"] and secret not in str(listed)
    assert secret.encode() not in region.settings.data.joinpath("region.sqlite").read_bytes()


def test_a_racks_limits_are_set_and_outlive_the_region(tmp_path: Path) -> None:
    def limits(client: TestClient) -> Any:
        return schemas.Rack.model_validate(client.get("/api/v1/racks/a07").json()).limits.model_dump()

    with running(tmp_path / "data") as (_, client):
        client.post("/api/v1/rack-tokens", json={"name": "a07"})
        assert limits(client) == {"cache_bytes": None, "upstream_bytes_s": None, "shares": None}
        answer = client.patch("/api/v1/racks/a07", json={"cache_bytes": 2 << 30})
        assert answer.status_code == 200 and answer.json() == client.get("/api/v1/racks/a07").json()
        client.patch("/api/v1/racks/a07", json={"upstream_bytes_s": 0})
        assert limits(client) == {"cache_bytes": 2 << 30, "upstream_bytes_s": 0, "shares": None}
    with running(tmp_path / "data") as (_, client):
        assert limits(client) == {"cache_bytes": 2 << 30, "upstream_bytes_s": 0, "shares": None}
        assert client.get("/api/v1/racks").json()["items"][0]["limits"]["cache_bytes"] == 2 << 30
        client.patch("/api/v1/racks/a07", json={"cache_bytes": None})
        assert limits(client) == {"cache_bytes": None, "upstream_bytes_s": 0, "shares": None}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "rack a07: expected cache_bytes, upstream_bytes_s or shares to be set, got none"),
        (
            {"cache_bytes": 1 << 20},
            400,
            "rack a07: cache limit: expected 4194304 bytes (one segment) or more, got 1048576",
        ),
        ({"upstream_bytes_s": 9, "cache_bytes": 2 << 30}, 400, "rack a07: upstream limit: expected 0 for none, or "),
        ({"cache_bytes": 1 << 63}, 400, f"cache limit: expected at most {(1 << 63) - 1} bytes, got {1 << 63}"),
        ({"cache_bytes": "2GiB"}, 422, "cache_bytes"),
        ({"cache_bytes": 2.0}, 422, "cache_bytes"),
        ({"cache_size": 1}, 422, "cache_size"),
    ],
)
def test_limits_that_make_no_sense_are_refused_and_change_nothing(
    client: TestClient, body: dict[str, Any], status: int, words: str
) -> None:
    client.post("/api/v1/rack-tokens", json={"name": "a07"})
    assert words in problem(client.patch("/api/v1/racks/a07", json=body), status)
    assert "'nobody'" in problem(client.patch("/api/v1/racks/nobody", json={"cache_bytes": None}), 404)
    nothing = {"cache_bytes": None, "upstream_bytes_s": None, "shares": None}
    assert client.get("/api/v1/racks/a07").json()["limits"] == nothing


def test_health_metrics_and_the_description_of_the_api_need_no_token(client: TestClient) -> None:
    for path in ("/healthz", "/metrics", "/openapi.json"):
        assert client.get(path, headers={"Authorization": ""}).status_code == 200
    description = client.get("/openapi.json").json()
    assert "/api/v1/sources/{key}/check" in description["paths"]


def test_an_unknown_path_and_a_wrong_method_are_problems_too(client: TestClient) -> None:
    assert "/nowhere" in problem(client.get("/nowhere"), 404)
    assert problem(client.put("/api/v1/sync"), 405)
    assert "body" in problem(client.post("/api/v1/sources", content=b"{"), 422)


def test_a_body_that_is_too_large_is_413_announced_or_not(client: TestClient) -> None:
    big = b"x" * ((16 << 20) + 1)
    assert "16777216 bytes" in problem(client.post("/api/v1/sources", content=big), 413)
    assert problem(client.post("/api/v1/sources", content=iter([big])), 413)
