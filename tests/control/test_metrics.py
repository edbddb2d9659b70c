"""/metrics of a region: Prometheus can read it, every series can move, and only this host sees it."""

from __future__ import annotations

import http.client
import re
import threading
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from bootplane.control.app import Region
from bootplane.control.timeline import KINDS, BootEvent
from bootplane.dataplane.transfers import Batch
from tests.fakes.regions import running


def values(client: TestClient) -> dict[str, float]:
    text = client.get("/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {"".join([s.name, *(f"/{value}" for value in s.labels.values())]): s.value for s in samples}


def test_it_is_what_prometheus_reads_and_every_series_has_help(tmp_path: Path) -> None:
    with running(tmp_path / "d") as (_region, client):
        answer = client.get("/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = list(text_string_to_metric_families(answer.text))
        assert all(family.name.startswith("bootplane_") and family.documentation for family in families)
        assert len({family.name for family in families}) == len(families)
        assert values(client)["bootplane_sync_state/idle"] == 1


def test_the_manual_lists_exactly_the_series_there_are(tmp_path: Path) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "reference" / "region-metrics.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", manual, re.MULTILINE))
    with running(tmp_path / "d") as (_region, client):
        families = list(text_string_to_metric_families(client.get("/metrics").text))
    named = {
        family.name.removeprefix("bootplane_") + "_total" * (family.type == "counter"): family for family in families
    }
    assert rows.keys() == named.keys()
    assert [name for name, family in named.items() if not rows[name].startswith(family.documentation)] == []


def test_what_the_bulk_port_sends_is_counted(tmp_path: Path) -> None:
    with running(tmp_path / "d") as (region, client):
        put(region, b"x" * 100_000)
        before = values(client)
        host, _, port = region.bulk.address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("GET", f"/blob/{next(iter(region.blobs.present()))}")
        assert len(connection.getresponse().read()) == 100_000
        connection.close()
        after = values(client)
        moved = {name for name, value in after.items() if value != before[name]}
        assert after["bootplane_http_body_bytes_total"] - before["bootplane_http_body_bytes_total"] == 100_000
        assert {"bootplane_http_requests_total", "bootplane_names_found_total"} <= moved


def test_the_store_and_the_catalogue_move_their_series(tmp_path: Path) -> None:
    with running(tmp_path / "d") as (region, client):
        put(region, b"y" * 10)
        client.post("/api/v1/rack-tokens", json={})
        region.banners.raise_("x", "text", "remedy")
        seen = values(client)
        assert seen["bootplane_store_blobs"] == 1 and seen["bootplane_store_bytes"] == 10
        assert seen["bootplane_racks"] == 1 and seen["bootplane_banners"] == 1
        assert seen["bootplane_catalogue_version"] == 1 and seen["bootplane_store_free_bytes"] > 0


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("::1", 200), ("10.0.0.9", 403)])
def test_only_this_host_may_read_it(tmp_path: Path, host: str, status: int) -> None:
    with running(tmp_path / "d") as (region, _client):
        assert TestClient(region.app, client=(host, 1)).get("/metrics").status_code == status


def put(region: Region, data: bytes) -> None:
    from bootplane.control.storage.blobs import BlobRecord
    from bootplane.core.digest import sha256_hex

    sha256 = sha256_hex(data)
    with region.store.begin(sha256, len(data)) as ingest:
        ingest.write(data)
        root = ingest.commit().root
    region.blobs.record([BlobRecord(sha256, len(data), root)])
    region.publish()


def test_boot_events_move_their_series(tmp_path: Path) -> None:
    with running(tmp_path / "d") as (region, client):
        before = values(client)
        region.timeline.add([BootEvent(1.0, kind, None, "10.0.0.9", "r1", "n", "o") for kind in KINDS])
        region.timeline.take(Batch("ab" * 8, time.time(), 7, 3, (), ("refused",)), "r1")
        after = values(client)
        moved = {name: value - before[name] for name, value in after.items() if value != before[name]}
    series = {name: value for name, value in moved.items() if "boot_events" in name}
    assert series == {
        **{f"bootplane_boot_events_total/{kind}": 1 for kind in KINDS},
        "bootplane_boot_events_refused_total": 1,
        "bootplane_boot_events_lost_total": 4,
    }


def test_an_upload_moves_its_series(tmp_path: Path) -> None:
    data = b"\x1f\x8b" + bytes(998)
    with running(tmp_path / "d") as (region, client):
        files = [{"ftype": "root-tgz", "sha256": "ab" * 32, "size": len(data)}]
        upload = client.post("/api/v1/uploads", json={"name": "web", "arch": "amd64", "files": files}).json()
        receiving = region.uploads.open(upload["id"], "root-tgz", 0, len(data))
        receiving.write(data[:600])
        seen = values(client)
        receiving.abandon()
        assert {name: value for name, value in seen.items() if "upload" in name} == {
            "bootplane_uploads": 1,
            "bootplane_upload_receiving": 1,
            "bootplane_upload_bytes_total": 600,
        }
        assert values(client)["bootplane_upload_receiving"] == 0


def test_the_audit_of_the_store_moves_its_series(tmp_path: Path) -> None:
    """What is found is hashed and set aside, what nothing names is marked, what has rotted is found."""
    with running(tmp_path / "d") as (region, _client):
        put(region, b"r" * 3000)
        rotten = region.store.path_of(next(iter(region.blobs.present())))
    rotten.write_bytes(b"s" * 3000)
    (rotten.parent / "stranger").write_bytes(b"t" * 500)
    (rotten.parent / ("ab" * 32)).write_bytes(b"f" * 70)
    with running(tmp_path / "d", audit_interval=1e-9) as (region, client):
        put(region, b"right")
        tick = threading.Event()
        expected = {"rotten_total": 1, "aside_bytes": 3000 + 500 + 70, "found_blobs": 0}
        for _ in range(600):
            region.removal.step()
            now = {name: values(client)[f"bootplane_store_{name}"] for name in expected}
            if now == expected and values(client)["bootplane_store_checked_total"]:
                break
            tick.wait(0.05)
        assert now == expected
        seen = values(client)
        assert seen["bootplane_store_checked_bytes_total"] >= 2 * 3000 and seen["bootplane_store_marked_bytes"] == 5
        assert seen["bootplane_store_due_blobs"] == 1  # with an interval of nothing, at once again
