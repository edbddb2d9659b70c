"""Whole syncs against a mirror that misbehaves: one bad file stops nothing else, a refusal leaves all as it was."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bootplane.control.app import Region
from bootplane.control.simplestreams.signer import Signer
from bootplane.control.sync import coordinator, download
from bootplane.control.sync.engine import WorkFunction
from bootplane.dataplane.store import InsufficientSpace
from tests.fakes.engine import ThreadEngine
from tests.fakes.mirror import (
    Fault,
    MirrorServer,
    bootloader,
    make_file,
    publish,
    publish_small,
    small_loaders,
    small_products,
)
from tests.fakes.regions import ENDS_S, running, synced

GA, HWE = "ubuntu/noble/amd64/ga-24.04", "ubuntu/noble/amd64/hwe-24.04"
HWE_KERNEL = "noble/amd64/20250709/hwe-24.04/generic/boot-kernel"
PARALLEL = 4  # of the ThreadEngine
GA_KERNEL = "noble/amd64/20250709/ga-24.04/generic/boot-kernel"


def later() -> datetime:
    """A time for an index that is surely newer than the first one's, which has whole seconds."""
    return datetime.now(UTC) + timedelta(hours=1)


def complete(client: TestClient) -> dict[str, str]:
    """Name -> version of the images that are complete."""
    items = client.get("/api/v1/images").json()["items"]
    return {image["name"]: image["version"] for image in items if image["complete"]}


def names(region: Region) -> set[str]:
    published = region.publisher.current
    assert published is not None
    return set(published.contents.names)


def test_one_bad_file_stops_nothing_else_and_is_named(region: Region, client: TestClient, mirror: MirrorServer) -> None:
    mirror.faults[GA_KERNEL] = Fault(body=b"x" * 30_000)
    sync = synced(region, client)
    assert sync["state"] == "failed"
    assert all(word in sync["error"] for word in (GA_KERNEL, "sha256 differs: expected", ", got "))
    [failed] = [file for file in sync["files"] if file["state"] == "failed"]
    assert failed["path"] == GA_KERNEL and failed["error"] == sync["error"]
    assert HWE in complete(client) and GA not in complete(client)
    assert region.store.partials() == []
    assert [banner["id"] for banner in client.get("/api/v1/status").json()["banners"]] == ["sync"]

    mirror.faults.clear()
    fetched = dict(mirror.sent)
    assert synced(region, client)["state"] == "complete"
    assert GA in complete(client)
    again = {path for path, count in mirror.sent.items() if count != fetched.get(path, 0)}
    assert again == {GA_KERNEL}  # and nothing else, the index included
    assert client.get("/api/v1/status").json()["banners"] == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=404), ["expected", "404"]),
        (Fault(status=403), ["expected", "403"]),
        (Fault(body=b"<html>no</html>"), ["size: expected 30000 bytes, got 15"]),
        (Fault(body=b"x" * 30_001), ["size: expected 30000 bytes, got 30001"]),
    ],
)
def test_every_way_a_file_is_wrong_names_url_expected_and_got(
    region: Region, client: TestClient, mirror: MirrorServer, fault: Fault, words: list[str]
) -> None:
    mirror.faults[GA_KERNEL] = fault
    error = synced(region, client)["error"]
    assert all(word in error for word in (mirror.url.rstrip("/"), "boot-kernel", *words)), error
    assert "\n" not in error and HWE in complete(client)


def test_a_cut_body_is_resumed_where_it_was_cut(region: Region, client: TestClient, mirror: MirrorServer) -> None:
    mirror.faults[GA_KERNEL] = Fault(cut_after=12_345, times=1)
    assert synced(region, client)["state"] == "complete"
    ranges = [head.get("Range") for head, path in zip(mirror.heads, mirror.requests, strict=True) if path == GA_KERNEL]
    assert ranges == [None, "bytes=12345-"]


def test_a_mirror_without_ranges_is_fetched_again_from_the_start(
    region: Region, client: TestClient, mirror: MirrorServer
) -> None:
    mirror.faults[GA_KERNEL] = Fault(cut_after=12_345, ignore_range=True, times=1)
    assert synced(region, client)["state"] == "complete"


def test_a_refused_index_leaves_everything_as_it_was(region: Region, client: TestClient, mirror: MirrorServer) -> None:
    synced(region, client)
    before, version = complete(client), client.get("/api/v1/status").json()["catalogue"]
    mirror.faults["streams/v1/index.sjson"] = Fault(body=b"<html><title>portal</title></html>")
    sync = synced(region, client)
    assert sync["state"] == "failed" and "portal" in sync["error"]
    assert (complete(client), client.get("/api/v1/status").json()["catalogue"]) == (before, version)


def test_a_new_version_replaces_the_old_and_the_old_goes_after_the_grace_time(
    tmp_path: Path, source: dict[str, Any], mirror: MirrorServer, signer: Signer
) -> None:
    with running(tmp_path / "d", removal_grace=0) as (region, client):
        client.post("/api/v1/sources", json=source)
        client.post("/api/v1/selections", json={"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        synced(region, client)
        old = {file["sha256"] for file in client.get(f"/api/v1/images/{GA}").json()["files"]}
        publish_small(tmp_path / "mirror", signer, serial="20250812", updated=later())
        assert synced(region, client)["state"] == "complete"
        assert complete(client)[GA] == "20250812"
        new = {file["sha256"] for file in client.get(f"/api/v1/images/{GA}").json()["files"]}
        synced(region, client)
        gone = old - new
        assert gone and not any(region.store.has(sha256) for sha256 in gone)
        assert all(region.blobs.is_removed(sha256) for sha256 in gone)


def test_an_old_version_is_served_by_content_while_its_grace_time_lasts(
    region: Region, client: TestClient, tmp_path: Path, signer: Signer
) -> None:
    synced(region, client)
    old = {name for name in names(region) if name.startswith("images/")}
    publish_small(tmp_path / "mirror", signer, serial="20250812", updated=later())
    synced(region, client)
    assert old < names(region)


def test_what_is_no_longer_selected_is_marked_and_still_served(region: Region, client: TestClient) -> None:
    synced(region, client)
    client.delete("/api/v1/selections/1")
    assert synced(region, client)["state"] == "complete"
    assert all(stored.marked for stored in region.images.sets())
    assert GA in complete(client)


def test_a_selected_image_that_upstream_dropped_is_kept(
    region: Region, client: TestClient, mirror: MirrorServer, signer: Signer, tmp_path: Path
) -> None:
    synced(region, client)
    publish(mirror.root, small_loaders(tmp_path / "loaders"), signer, updated=later())
    sync = synced(region, client)
    assert "expected a boot source that offers it, got none" in sync["error"]
    assert GA in complete(client) and not any(stored.marked for stored in region.images.sets())


def test_an_older_index_is_not_believed(
    region: Region, client: TestClient, mirror: MirrorServer, signer: Signer, tmp_path: Path
) -> None:
    synced(region, client)
    publish_small(tmp_path / "mirror", signer, serial="20260101", updated=datetime(2020, 1, 1, tzinfo=UTC))
    assert synced(region, client)["state"] == "complete"  # a mirror may step back for minutes: no alarm yet
    assert complete(client)[GA] == "20250709"
    checked = client.post("/api/v1/sources/mirror/check").json()
    assert "as accepted before, got 2020-01-01" in checked["error"]


def test_a_boot_loader_archive_that_is_none_is_named_and_stops_nothing_else(
    region: Region, client: TestClient, mirror: MirrorServer, signer: Signer, tmp_path: Path
) -> None:
    bad = make_file(tmp_path / "in", "no-archive", 4000)
    product = bootloader(
        os="grub-efi-signed", kind="uefi", arch="amd64", serial="20990101.0", archives={"shim-signed": bad}
    )
    images = small_products(tmp_path / "in")[:2]
    publish(mirror.root, [product, *images], signer, updated=later())
    sync = synced(region, client)
    assert sync["state"] == "failed" and "grub-efi-signed/uefi/amd64 20990101.0" in sync["error"]
    assert "expected a .tar.xz archive" in sync["error"]
    assert set(complete(client)) == {GA, HWE}


def test_a_stopped_sync_keeps_what_has_arrived_and_the_next_one_goes_on(
    region: Region, client: TestClient, mirror: MirrorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, go_on = threading.Event(), threading.Event()
    write = download.Ingest.write

    def slow(ingest: download.Ingest, data: bytes) -> None:
        write(ingest, data)
        arrived.set()
        go_on.wait(ENDS_S)

    monkeypatch.setattr(download.Ingest, "write", slow)
    client.post("/api/v1/sync")
    assert arrived.wait(ENDS_S)
    client.post("/api/v1/sync/stop")
    go_on.set()
    assert region.coordinator.wait_ended(ENDS_S)
    sync = client.get("/api/v1/sync").json()
    assert (sync["state"], sync["error"]) == ("stopped", None)
    assert GA not in complete(client)
    paths = {file["sha256"]: (file["path"], file["size"]) for file in sync["files"]}
    kept = {sha256: region.store.partial_path(sha256).stat().st_size for sha256 in region.store.partials()}
    assert sum(kept.values()) > 0
    lacking = {paths[sha256][0]: 0 for sha256 in paths.keys() - region.blobs.present().keys()}
    lacking |= {paths[sha256][0]: nbytes for sha256, nbytes in kept.items()}
    begun = len(mirror.requests)
    assert synced(region, client)["state"] == "complete"
    asked = {
        path: int(head.get("Range", "bytes=0-")[6:-1])
        for path, head in list(zip(mirror.requests, mirror.heads, strict=True))[begun:]
        if not path.startswith("streams/")
    }
    whole = {path for sha256, (path, size) in paths.items() if kept.get(sha256) == size}
    assert asked == {path: start for path, start in lacking.items() if path not in whole}  # each from where it stopped


def test_too_little_room_stops_the_sync_before_the_first_byte_and_says_how_much(
    region: Region, client: TestClient, mirror: MirrorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 1000
    monkeypatch.setattr(region.store, "free_bytes", lambda: free)
    sync = synced(region, client)
    assert sync["state"] == "stopped"
    assert (
        f"{region.store.directory}: expected {sync['bytes_total']} bytes free for this sync, got 1000" in sync["error"]
    )
    assert not any(path for path in mirror.requests if not path.startswith("streams/"))
    [banner] = client.get("/api/v1/status").json()["banners"]
    assert banner["id"] == "disk-full" and "1000" in banner["text"] and banner["remedy"]

    free = 1 << 40
    assert synced(region, client)["state"] == "complete"
    assert client.get("/api/v1/status").json()["banners"] == []


def test_a_disk_that_fills_up_in_the_middle_stops_the_sync_and_leaves_no_half_file(
    region: Region, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(ingest: download.Ingest, data: bytes) -> None:
        raise InsufficientSpace(region.store.directory, 200_000, 0)

    with monkeypatch.context() as patched:
        patched.setattr(download.Ingest, "write", full)
        sync = synced(region, client)
    assert sync["state"] == "stopped" and "expected 200000 bytes free, got 0" in sync["error"]
    assert list(region.store.complete()) == []
    assert synced(region, client)["state"] == "complete"


def test_a_sync_asked_for_twice_while_one_runs_is_one_more_sync(
    region: Region, client: TestClient, mirror: MirrorServer
) -> None:
    asked = threading.Event()
    mirror.faults[GA_KERNEL] = Fault(first=lambda: asked.wait(ENDS_S), times=1)
    client.post("/api/v1/sync")
    tick = threading.Event()
    while GA_KERNEL not in mirror.requests:
        tick.wait(0.01)
    for _ in range(2):
        client.post("/api/v1/sync")
    asked.set()
    assert region.coordinator.wait_ended(ENDS_S)
    run = region.runs.last()
    assert run is not None and run.id == 2 and run.state == "complete"


def test_the_engine_hurries_while_files_are_fetched_and_no_longer(tmp_path: Path, source: dict[str, Any]) -> None:
    engine = ThreadEngine()
    with running(tmp_path / "data", engine=engine) as (region, client):
        client.post("/api/v1/sources", json=source)
        client.post("/api/v1/selections", json={"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        assert engine.hurried == []
        assert synced(region, client)["state"] == "complete"
    assert engine.hurried == [True, False]


def test_a_sync_that_is_asked_for_before_the_engine_is_ready_is_one_sync(
    tmp_path: Path, source: dict[str, Any]
) -> None:
    class SlowEngine(ThreadEngine):
        may_start = threading.Event()

        def start(self, work: WorkFunction) -> None:
            assert self.may_start.wait(ENDS_S)
            super().start(work)

    with running(tmp_path / "data", engine=SlowEngine()) as (region, client):
        client.post("/api/v1/sources", json=source)
        client.post("/api/v1/selections", json={"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        client.post("/api/v1/sync")
        SlowEngine.may_start.set()
        assert region.coordinator.wait_ended(ENDS_S)
        run = region.runs.last()
        assert run is not None and (run.id, run.state) == (1, "complete")


def test_what_is_whole_when_a_sync_is_stopped_is_published_though_none_was_due(
    region: Region, client: TestClient, mirror: MirrorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "COMMIT_REST", 1e9)  # one look at all sets, and none for years
    is_published, go_on = threading.Event(), threading.Event()
    mirror.faults[HWE_KERNEL] = Fault(first=lambda: is_published.wait(ENDS_S))
    mirror.faults[GA_KERNEL] = Fault(first=lambda: go_on.wait(ENDS_S))
    client.post("/api/v1/sync")
    tick = threading.Event()
    while "bootx64.efi" not in names(region):
        tick.wait(0.01)
    is_published.set()
    while [file["path"] for file in client.get("/api/v1/sync").json()["files"] if file["state"] != "done"] != [
        GA_KERNEL
    ]:
        tick.wait(0.01)
    client.post("/api/v1/sync/stop")
    go_on.set()
    assert region.coordinator.wait_ended(ENDS_S)
    assert client.get("/api/v1/sync").json()["state"] == "stopped"
    assert HWE in complete(client) and GA not in complete(client)
    assert "ubuntu/amd64/hwe-24.04/noble/stable/squashfs" in names(region)


def test_the_files_of_a_sync_share_a_few_connections_and_none_is_left(
    region: Region, client: TestClient, mirror: MirrorServer
) -> None:
    before = mirror.connections
    assert synced(region, client)["state"] == "complete"
    assert len({path for path in mirror.requests if not path.startswith("streams/")}) > 2 * PARALLEL
    assert mirror.connections - before <= 1 + PARALLEL  # one for the metadata
    assert region.coordinator._downloader._idle == []


def test_selections_without_a_source_are_an_error_that_says_so(tmp_path: Path) -> None:
    with running(tmp_path / "bare") as (region, client):
        client.post("/api/v1/selections", json={"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        assert "expected an enabled boot source" in synced(region, client)["error"]


def test_a_new_region_waits_to_be_asked_and_one_whose_last_sync_is_old_does_not(
    tmp_path: Path, source: dict[str, Any], mirror: MirrorServer
) -> None:
    with running(tmp_path / "d", sync_interval=3600) as (region, client):
        client.post("/api/v1/sources", json=source)
        client.post("/api/v1/selections", json={"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        assert region.coordinator.rest_s() > 3500 and client.get("/api/v1/sync").json()["state"] == "idle"
        assert synced(region, client)["state"] == "complete"
        first = region.runs.last()
    with running(tmp_path / "d", sync_interval=0.001) as (region, _client):
        tick = threading.Event()
        while region.runs.last() == first:
            tick.wait(0.05)
