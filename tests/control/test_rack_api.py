"""What racks ask of a region, against a region that has synced; answers checked as a rack checks them."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from bootplane.control import bootscript, racks
from bootplane.control.api import schemas
from bootplane.control.app import Region
from bootplane.control.racks import RackBook
from bootplane.control.simplestreams.signer import Signer
from bootplane.control.storage.blobs import BlobRecord
from bootplane.control.storage.racks import RackRepository
from bootplane.control.timeline import BootEvent
from bootplane.dataplane import cachereport, racktoken, transfers
from bootplane.dataplane.catalogue import PinnedKey, check_chunks, open_signed
from bootplane.dataplane.limits import Limits
from tests.fakes.mirror import publish_small
from tests.fakes.regions import running, synced

BOOT = {"proto": "tftp", "peer": "10.0.0.9", "http": "10.0.0.2:5248", "tftp": "10.0.0.2:69"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Region, TestClient]]:
    """A region that has mirrored the small boot source from a file: URL."""
    folder = tmp_path_factory.mktemp("region")
    with (
        Signer.generate(folder / "gnupg", algorithm="ed25519") as signer,
        running(folder / "data") as (region, client),
    ):
        publish_small(folder / "mirror", signer)
        keyring = base64.b64encode(signer.public()).decode()
        added = client.post("/api/v1/sources", json={"url": (folder / "mirror").as_uri(), "keyring": keyring})
        assert added.status_code == 201, added.text
        client.post("/api/v1/selections", json={"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        assert synced(region, client)["state"] == "complete"
        yield region, client


@pytest.fixture
def region(pair: tuple[Region, TestClient]) -> Region:
    return pair[0]


@pytest.fixture
def token(pair: tuple[Region, TestClient]) -> racktoken.RackToken:
    return racktoken.parse(pair[1].post("/api/v1/rack-tokens", json={"name": "a07"}).json()["token"])


@pytest.fixture
def rack(pair: tuple[Region, TestClient], token: racktoken.RackToken) -> TestClient:
    return TestClient(pair[0].app, headers={"Authorization": f"Bearer {token.secret}"})


@pytest.mark.parametrize("path", ["catalogue", f"chunks/{'0' * 64}", "boot?name=grub/grub.cfg&proto=tftp"])
def test_nothing_is_answered_without_a_racks_secret(region: Region, path: str) -> None:
    for secret in ("", "wrong", region.admin_token):
        answer = TestClient(region.app, headers={"Authorization": f"Bearer {secret}"}).get(f"/rack/v1/{path}")
        assert answer.status_code == 401 and answer.json()["type"] == "urn:bootplane:unauthorised"
    for path in ("beat", "transfers"):
        assert TestClient(region.app).post(f"/rack/v1/{path}", json={}).status_code == 401


def test_the_catalogue_and_every_chunk_list_are_what_the_pinned_key_signed(
    region: Region, rack: TestClient, token: racktoken.RackToken
) -> None:
    answer = rack.get("/rack/v1/catalogue")
    assert answer.status_code == 200
    key = PinnedKey(token.region_key)
    opened = open_signed(answer.content, answer.headers["bootplane-signature"], key)
    assert answer.headers["etag"] == f'"{opened.version}"'
    assert answer.headers["bootplane-bulk"] == region.bulk.address
    assert opened.blobs and "bootx64.efi" in opened.names
    for sha256, entry in opened.blobs.items():
        chunks = rack.get(f"/rack/v1/chunks/{sha256}").content
        check_chunks(sha256, entry, chunks)
        assert hashlib.sha256(region.store.path_of(sha256).read_bytes()).hexdigest() == sha256


def test_a_rack_that_has_the_newest_catalogue_hears_304(rack: TestClient) -> None:
    etag = rack.get("/rack/v1/catalogue").headers["etag"]
    answer = rack.get("/rack/v1/catalogue", headers={"If-None-Match": etag, "Prefer": "wait=0"})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)


def test_a_waiting_rack_is_answered_when_something_new_is_published(
    pair: tuple[Region, TestClient], token: racktoken.RackToken
) -> None:
    region, client = pair  # the client whose event loop is the region's own
    headers = {"Authorization": f"Bearer {token.secret}"}
    etag = client.get("/rack/v1/catalogue", headers=headers).headers["etag"]
    answers: list[int] = []

    def ask() -> None:
        waiting = headers | {"If-None-Match": etag, "Prefer": "wait=25"}
        answers.append(client.get("/rack/v1/catalogue", headers=waiting).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    tick = threading.Event()
    while not any(each.id == token.rack_id and each.catalogue_version for each in region.racks.list()):
        tick.wait(0.01)  # until the region has heard what the rack has: it waits now
    region.images.remove([region.images.sets()[0].id])
    region.publish()
    thread.join(60)
    assert answers == [200]


def test_a_chunk_list_of_nothing_is_404_and_of_what_was_removed_410(region: Region, rack: TestClient) -> None:
    assert rack.get(f"/rack/v1/chunks/{'0' * 64}").status_code == 404
    assert rack.get("/rack/v1/chunks/nonsense").status_code == 400
    spare = "ab" * 32
    region.blobs.record([BlobRecord(spare, 100, "cd" * 32)])
    assert region.blobs.take_away([spare]) == [spare]
    answer = rack.get(f"/rack/v1/chunks/{spare}")
    assert answer.status_code == 410 and spare in answer.json()["detail"]


def test_a_boot_configuration_is_signed_together_with_its_name(
    rack: TestClient, token: racktoken.RackToken, region: Region
) -> None:
    name = "grub/grub.cfg-default-x86_64"
    answer = rack.get("/rack/v1/boot", params={"name": name, **BOOT})
    assert answer.status_code == 200
    PinnedKey(token.region_key).check_boot(name, answer.content, answer.headers["bootplane-signature"])
    with pytest.raises(ValueError, match="does not match"):
        PinnedKey(token.region_key).check_boot("grub/grub.cfg", answer.content, answer.headers["bootplane-signature"])
    published = region.publisher.current
    assert published is not None
    kernel = next(word for word in answer.text.split() if word.endswith("/boot-kernel"))
    assert kernel.lstrip("/") in published.contents.names
    assert "root=squash:http://10.0.0.2:5248/images/" in answer.text


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"name": "nobody"}, 404),
        ({"name": ""}, 400),
        ({"name": "x" * 600}, 400),
        ({"name": "grub/grub.cfg\n"}, 400),
        ({"proto": "ftp"}, 400),
        ({"http": "evil host; reboot:80"}, 400),
        ({"tftp": ""}, 400),
    ],
)
def test_a_malformed_question_is_refused(rack: TestClient, change: dict[str, str], status: int) -> None:
    answer = rack.get("/rack/v1/boot", params={"name": "grub/grub.cfg", **BOOT} | change)
    assert answer.status_code == status and answer.headers["content-type"] == "application/problem+json"


def test_a_beat_is_seen_by_operators(
    pair: tuple[Region, TestClient], rack: TestClient, token: racktoken.RackToken
) -> None:
    report = {"rack": token.rack_id, "http": "10.0.0.2:5248", "tftp": "10.0.0.2:69", "catalogue": 3, "cache": {"a": 1}}
    answer = rack.post("/rack/v1/beat", json=report).json()
    assert answer == {
        "bulk": [pair[0].bulk.address],
        "settings": {"cache_bytes": None, "upstream_bytes_s": None, "shares": None},
    }
    racks = {each["id"]: each for each in pair[1].get("/api/v1/racks").json()["items"]}
    seen = racks[token.rack_id]
    assert (seen["http"], seen["tftp"], seen["catalogue"], seen["cache"]) == (
        "10.0.0.2:5248",
        "10.0.0.2:69",
        3,
        {"a": 1},
    )
    assert seen["last_seen"]


def test_the_limits_an_operator_sets_go_to_the_rack_with_its_next_beat(
    pair: tuple[Region, TestClient], rack: TestClient, token: racktoken.RackToken
) -> None:
    def told() -> Any:
        return rack.post("/rack/v1/beat", json=explaining(token)).json()["settings"]

    assert told() == {"cache_bytes": None, "upstream_bytes_s": None, "shares": None}
    path = f"/api/v1/racks/{token.rack_id}"
    assert pair[1].patch(path, json={"cache_bytes": 2 << 30, "upstream_bytes_s": 31_250_000}).status_code == 200
    assert told() == {"cache_bytes": 2 << 30, "upstream_bytes_s": 31_250_000, "shares": None}
    document = schemas.Rack.model_validate(pair[1].get(path).json())
    assert document.in_force is not None
    assert document.in_force.model_dump() == {"cache_bytes": 1000, "upstream_bytes_s": 35}
    assert document.warning == ("cache limit 2.0 GiB: the file system under the cache has 36 B; it will be full before")
    pair[1].patch(path, json={"cache_bytes": None})
    assert told() == {"cache_bytes": None, "upstream_bytes_s": 31_250_000, "shares": None}


def test_limits_set_at_another_region_of_the_same_database_arrive_and_survive_its_being_away(
    region: Region, token: racktoken.RackToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = RackBook(RackRepository(region.database))
    assert other.limits(token.rack_id) == Limits()
    region.racks.set_limits(region.racks.find(token.rack_id), {"cache_bytes": 8 << 20})
    monkeypatch.setattr(racks, "LIMITS_S", 0.0)
    other._limits_due = 0.0
    assert other.limits(token.rack_id) == Limits(8 << 20, None)

    def away() -> None:
        raise OperationalError("SELECT", {}, Exception("it is away"))

    monkeypatch.setattr(other._repository, "limits", away)
    assert other.limits(token.rack_id) == Limits(8 << 20, None)


FILE = {"name": "ubuntu/noble/amd64/ga-24.04/squashfs", "sha256": "a" * 64, "size": 2000, "present_bytes": 1999}
EVICTED = {
    "sha256": "e" * 64, "name": "centos/8/amd64/generic/root-tgz", "segments": 3, "bytes": 12 << 20, "reason": "room",
    "idle_s": 17.5, "wanted_by": "a" * 64, "wanted_name": "ubuntu/noble/amd64/ga-24.04/squashfs",
}  # fmt: skip
REFUSED = {"blob": "b" * 64, "source": "10.0.0.1:5241", "expected": "c" * 64, "got": "d" * 64, "text": "..."}


def explaining(token: racktoken.RackToken) -> dict[str, Any]:
    """A beat that tells of its cache, every number a different one."""
    cache = {key: 1000 + i for i, key in enumerate(cachereport.CACHE_NUMBERS)} | {"not_known_yet": 1}
    report = {
        "up_s": 61.5, "hits": 97, "misses": 2, "coalesced": 1, "served_bytes": 30,
        "present_bytes": 1999, "in_place_files": 31,
        "files": [FILE, FILE | {"name": "", "size": 0, "present_bytes": 0}], "files_total": 33, "files_age_s": 29.0,
        "upstream_limit_bytes_s": 35, "disk_bytes": 36, "disk_free_bytes": 37, "throttled_s": 1.5,
        "scrub_passes": 38, "scrub_chunks": 39, "scrub_damaged": 40, "scrub_last_pass_s": 2.5,
        "evictions": [
            EVICTED | {"at": 1763719200.9},
            EVICTED | {"at": 1763719201.0, "wanted_by": "", "reason": "disk"},
        ],
    }  # fmt: skip
    events = [REFUSED | {"at": 1763719200.9, "chunk": 1}, REFUSED | {"at": 1763719201.0, "chunk": 2}]
    return {"rack": token.rack_id, "cache": cache, "cache_report": report, "upstream_bytes": 34, "events": events}


def test_what_a_rack_refused_is_told_once(token: racktoken.RackToken, pair: tuple[Region, TestClient]) -> None:
    book, told = RackBook(RackRepository(pair[0].database)), list[set[str]]()
    rack = book.authenticate(f"Bearer {token.secret}")
    assert rack is not None
    book.refused = told.append
    beat = explaining(token)
    book.beat(rack, beat | {"events": []})
    book.beat(rack, beat)
    book.beat(rack, beat)
    assert told == [{"b" * 64}]
    more = {**REFUSED, "blob": "e" * 64, "at": 1763719202.0, "chunk": 0}
    book.beat(rack, beat | {"events": [*beat["events"], more]})
    assert told == [{"b" * 64}, {"e" * 64}]


def test_what_a_rack_says_of_its_cache_is_shown_by_id_and_by_name(
    pair: tuple[Region, TestClient], rack: TestClient, token: racktoken.RackToken
) -> None:
    assert rack.post("/rack/v1/beat", json=explaining(token)).status_code == 200
    document = pair[1].get(f"/api/v1/racks/{token.rack_id}/cache").json()
    schemas.RackCache.model_validate(document)
    assert 0 <= document.pop("age_s") < 3600 and document.pop("heard").endswith("Z")
    refused = {key: value for key, value in REFUSED.items() if key != "text"}
    numbers = {key: 1000 + i for i, key in enumerate(cachereport.CACHE_NUMBERS)}
    assert document == numbers | {
        "rack": token.rack_id, "name": "a07", "up_s": 61.5, "present_bytes": 1999, "upstream_bytes": 34,
        "served_bytes": 30, "transfers": 100, "hits": 97, "misses": 2, "coalesced": 1, "in_place_files": 31,
        "files_total": 33, "files_age_s": 29.0, "upstream_limit_bytes_s": 35, "disk_bytes": 36, "disk_free_bytes": 37,
        "throttled_s": 1.5, "scrub_passes": 38, "scrub_chunks": 39, "scrub_damaged": 40, "scrub_last_pass_s": 2.5,
        "evictions": [
            EVICTED | {"at": "2025-11-21T10:00:01Z", "wanted_by": "", "reason": "disk"},
            EVICTED | {"at": "2025-11-21T10:00:00Z"},
        ],
        "files": [FILE | {"percent": 99}, FILE | {"name": "", "size": 0, "present_bytes": 0, "percent": 100}],
        "refusals": [
            refused | {"at": "2025-11-21T10:00:01Z", "chunk": 2},
            refused | {"at": "2025-11-21T10:00:00Z", "chunk": 1},
        ],
    }  # fmt: skip


def test_a_beat_whose_cache_report_makes_no_sense_is_refused_and_changes_nothing(
    pair: tuple[Region, TestClient], rack: TestClient, token: racktoken.RackToken
) -> None:
    rack.post("/rack/v1/beat", json=explaining(token))
    answer = rack.post("/rack/v1/beat", json=explaining(token) | {"upstream_bytes": -1, "http": "10.0.0.3:1"})
    assert answer.status_code == 400
    assert answer.json()["detail"] == (
        f"beat of rack {token.rack_id}: cache report: expected a number from 0 to {(1 << 63) - 1} as upstream_bytes, "
        "got '-1'"
    )
    assert pair[1].get(f"/api/v1/racks/{token.rack_id}/cache").json()["upstream_bytes"] == 34
    racks = pair[1].get("/api/v1/racks").json()["items"]
    assert [each["http"] for each in racks if each["id"] == token.rack_id] == [None]


def test_a_cache_nothing_is_known_of_is_refused_with_the_reason(tmp_path: Path) -> None:
    def cache_of(client: TestClient, key: str) -> tuple[int, str]:
        answer = client.get(f"/api/v1/racks/{key}/cache")
        return answer.status_code, answer.json()["detail"]

    with running(tmp_path / "data") as (region, client):
        token = racktoken.parse(client.post("/api/v1/rack-tokens", json={"name": "b08"}).json()["token"])
        assert cache_of(client, "nobody") == (404, "rack 'nobody': there is none of this id or name")
        assert cache_of(client, "b08")[1].startswith("rack b08: never heard of; ")
        beats = TestClient(region.app, headers={"Authorization": f"Bearer {token.secret}"})
        assert beats.post("/rack/v1/beat", json={"rack": token.rack_id}).status_code == 200
        assert cache_of(client, "b08") == (
            404,
            "rack b08: it says nothing of its cache: it runs an older bootplane",
        )
        assert beats.post("/rack/v1/beat", json=explaining(token)).status_code == 200
        assert client.get("/api/v1/racks/b08/cache").json()["hits"] == 97
        seen = client.get("/api/v1/racks").json()["items"][0]["last_seen"]
        client.post("/api/v1/rack-tokens", json={"name": "b08"})
        assert cache_of(client, "b08")[0] == 409 and token.rack_id in cache_of(client, "b08")[1]
    with running(tmp_path / "data") as (_, client):
        status, sentence = cache_of(client, token.rack_id)
        assert status == 404 and sentence.startswith(f"rack b08: not heard of since {seen}, and this region")


def test_a_forecast_is_made_of_the_last_beat_and_the_images_own_files(
    pair: tuple[Region, TestClient], rack: TestClient, token: racktoken.RackToken
) -> None:
    name = "ubuntu/noble/amd64/ga-24.04"
    image = pair[1].get(f"/api/v1/images/{name}").json()
    root = next(file for file in image["files"] if file["ftype"] == "squashfs")
    old = {"name": "old", "sha256": "0" * 64, "size": 10_000_000, "present_bytes": 10_000_000}
    half = {"name": "half", "sha256": root["sha256"], "size": root["size"], "present_bytes": 50_000}
    beat = explaining(token)
    beat["cache"] |= {"limit_bytes": 1 << 20, "charged_bytes": 1 << 20, "condemned_bytes": 0}
    beat["cache_report"] |= {"files": [old, half], "leaving": [[1, 50_000], [0, 10_000_000]]}
    assert rack.post("/rack/v1/beat", json=beat).status_code == 200
    answer = pair[1].get(f"/api/v1/racks/{token.rack_id}/forecast", params={"image": name})
    found = schemas.RackForecast.model_validate(answer.json())
    size = sum(file["size"] for file in image["files"] if not file["packages"])
    assert (found.size, found.present_bytes, found.needed_bytes) == (size, 50_000, size - 50_000)
    assert [share.name for share in found.evicted] == ["old"] and found.short_bytes == found.free_bytes == 0
    assert size - 50_000 <= found.evicted_bytes <= size - 50_000 + 4096 * len(found.files)
    unknown = pair[1].get(f"/api/v1/racks/{token.rack_id}/forecast", params={"image": "nobody"})
    assert unknown.status_code == 404 and "image 'nobody'" in unknown.json()["detail"]


@pytest.mark.parametrize(
    "body", [
        b"", b"[]", b"{" * 10, b'{"catalogue": "x"}', b'{"catalogue": 36893488147419103232}', b'{"rack": "another"}',
        b'{"cache": {"limit_bytes": "many"}}', b'{"cache": {"limit_bytes": NaN}}', b'{"cache": {"limit_bytes": -1}}',
        b'{"cache": {"limit_bytes": {"a": [1]}}}', b" " * 70_000,
    ],
)  # fmt: skip
def test_a_beat_that_makes_no_sense_is_400_and_changes_nothing(
    pair: tuple[Region, TestClient], rack: TestClient, body: bytes
) -> None:
    before = pair[1].get("/api/v1/racks").json()
    assert rack.post("/rack/v1/beat", content=body).status_code == 400
    assert pair[1].get("/api/v1/racks").json() == before


def test_a_wildcard_bulk_address_becomes_the_name_the_rack_called(tmp_path: Path) -> None:
    with running(tmp_path / "wild", bulk="0.0.0.0:0") as (region, client):
        token = racktoken.parse(client.post("/api/v1/rack-tokens", json={}).json()["token"])
        headers = {"Authorization": f"Bearer {token.secret}", "Host": "region.lab:5240"}
        bulk = TestClient(region.app).get("/rack/v1/catalogue", headers=headers).headers["bootplane-bulk"]
        assert bulk == f"region.lab:{region.bulk.address.rpartition(':')[2]}"


# -- transfers and the timeline

MAC = "52:54:00:77:00:01"


def told(*listed: transfers.Transfer | bytes, **change: int) -> bytes:
    facts = {"lost": 0, "told": 0} | change
    entries = [each if isinstance(each, bytes) else transfers.encode(each) for each in listed]
    return transfers.encode_batch("ab" * 8, time.time(), facts["lost"], facts["told"], entries)


def test_what_a_rack_tells_is_in_the_timeline_once(
    region: Region, rack: TestClient, token: racktoken.RackToken
) -> None:
    one = transfers.Transfer(1, time.time(), "tftp", "10.66.0.9", "probe", name="bootx64.efi", status=8)
    two = transfers.Transfer(2, time.time(), "tftp", "10.66.0.9", "complete", name="x", mac="52:54:00:66:00:01")
    for _ in range(2):
        answer = rack.post("/rack/v1/transfers", content=told(one, b'{"seq": 0}', two))
        assert answer.status_code == 200
        assert answer.json() == {
            "taken": 2,
            "refused": 1,
            "sentences": ["transfer 1: expected its fields and no other, got it wrong with 'address'"],
        }
    events = region.timeline.of("52:54:00:66:00:01")
    assert [(event.name, event.outcome, event.rack) for event in events] == [
        ("bootx64.efi", "probe", token.rack_id),
        ("x", "complete", token.rack_id),
    ]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "expected zstd-compressed JSON"),
        (b"x" * (300 << 10), "expected at most 262144 bytes, got more"),
        (told()[:-3], "expected zstd-compressed JSON"),
    ],
)
def test_a_batch_that_makes_no_sense_is_400_in_one_sentence(rack: TestClient, body: bytes, words: str) -> None:
    answer = rack.post("/rack/v1/transfers", content=body)
    assert answer.status_code == 400 and words in answer.json()["detail"]


def test_a_database_that_is_away_makes_the_rack_come_again(
    region: Region, rack: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_events: object) -> int:
        raise OperationalError("INSERT", {}, Exception("database is locked"))

    monkeypatch.setattr(region.timeline._repository, "add", broken)
    answer = rack.post("/rack/v1/transfers", content=told(transfers.Transfer(1, 1.0, "tftp", "::1", "cut")))
    assert answer.status_code == 503 and "the database does not take them: database is locked" in answer.text


def boot_events(region: Region) -> list[BootEvent]:
    region.timeline._write_notes()
    return region.timeline.of(MAC)


def test_a_configuration_is_an_event_that_says_what_the_machine_will_do(
    region: Region, rack: TestClient, token: racktoken.RackToken
) -> None:
    for name in (f"grub/grub.cfg-{MAC}", f"ipxe.cfg-{MAC}", "grub/grub.cfg"):
        assert rack.get("/rack/v1/boot", params={"name": name, **BOOT, "peer": "10.0.0.9"}).status_code == 200
    rack.get("/rack/v1/boot", params={"name": "nobody", **BOOT})
    first, second, third = boot_events(region)[-3:]
    assert (first.kind, first.name, first.outcome) == ("config", f"grub/grub.cfg-{MAC}", "boots")
    assert (first.mac, first.address, first.rack) == (MAC, "10.0.0.9", token.rack_id)
    assert first.detail == {"protocol": "tftp", "boots": "Ubuntu 24.04 LTS (amd64)"}
    assert second.outcome == "boots"
    assert (third.outcome, third.detail, third.mac) == ("next", {"protocol": "tftp"}, MAC)


def test_pxelinux_is_sent_to_http_first_where_it_is_lpxelinux(
    region: Region, rack: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernel() -> str:
        text = rack.get("/rack/v1/boot", params={"name": "pxelinux.cfg/01-52-54-00-77-00-01", **BOOT}).text
        return next(line.split()[1] for line in text.splitlines() if line.strip().startswith("LINUX"))

    published = region.publisher.current
    assert published is not None
    names = dict(published.contents.names) | {"pxelinux.0": "a", "lpxelinux.0": "a"}
    for change, begins in ((set(), "http://10.0.0.2:5248/images/"), ({"lpxelinux.0"}, "::images/")):
        contents = dataclasses.replace(published.contents, names={k: v for k, v in names.items() if k not in change})
        monkeypatch.setattr(region.publisher, "_current", dataclasses.replace(published, contents=contents))
        assert kernel().startswith(begins)


def test_each_script_that_boots_carries_a_ticket_of_its_own(
    region: Region, rack: TestClient, token: racktoken.RackToken
) -> None:
    tickets = []
    for _ in range(2):
        text = rack.get("/rack/v1/boot", params={"name": f"grub/grub.cfg-{MAC}", **BOOT}).text
        tickets += set(re.findall(r"bootplane=http://10.0.0.2:5248/MAAS/metadata/boot/([A-Za-z0-9_-]+)", text))
    assert len(set(tickets)) == 2
    found = region.tickets.look(tickets[0])
    assert (found.mac, found.rack, found.address) == (MAC, token.rack_id, "10.0.0.9")
    assert "metadata/boot" not in rack.get("/rack/v1/boot", params={"name": "grub/grub.cfg", **BOOT}).text
    odd = rack.get("/rack/v1/boot", params={"name": f"grub/grub.cfg-{MAC}", **BOOT, "peer": "who knows"})
    assert odd.status_code == 200


def test_a_machine_boots_without_a_ticket_rather_than_not_at_all(
    region: Region, rack: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel's command line has an end, and a ticket is 60 characters of it."""
    real = bootscript.compose

    def compose(name: str, proto: str, place: bootscript.Place, images: Any) -> bootscript.Rendered | None:
        return (
            bootscript.Rendered("exit", reason="the line is too long")
            if place.ticket
            else real(name, proto, place, images)
        )

    monkeypatch.setattr(bootscript, "compose", compose)
    text = rack.get("/rack/v1/boot", params={"name": f"grub/grub.cfg-{MAC}", **BOOT}).text
    assert "/boot-kernel" in text and "metadata/boot" not in text
    assert boot_events(region)[-1].outcome == "boots"


def test_why_an_image_cannot_be_booted_is_in_the_timeline(
    region: Region, rack: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootscript, "COMMAND_LINE_BYTES", 100)
    rack.get("/rack/v1/boot", params={"name": f"grub/grub.cfg-{MAC}", **BOOT})
    last = boot_events(region)[-1]
    assert last.outcome == "nothing" and "expected a kernel command line of 99 bytes" in str(last.detail["why"])


def test_a_configuration_that_boots_nothing_says_why(tmp_path: Path) -> None:
    with running(tmp_path / "empty") as (region, client):
        token = racktoken.parse(client.post("/api/v1/rack-tokens", json={}).json()["token"])
        headers = {"Authorization": f"Bearer {token.secret}"}
        for name in (f"grub/grub.cfg-{MAC}", f"ipxe.cfg-{MAC}", "pxelinux.cfg/01-52-54-00-77-00-01"):
            client.get("/rack/v1/boot", params={"name": name, **BOOT}, headers=headers)
        events = boot_events(region)
    assert [event.outcome for event in events] == ["nothing"] * 3
    for event in events:
        assert re.fullmatch(
            r"no bootable image (for amd64 )?is selected and complete on region .*\(this is rack 10\.0\.0\.2:5248\)",
            str(event.detail["why"]),
        )
