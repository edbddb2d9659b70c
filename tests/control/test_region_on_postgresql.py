"""A region on PostgreSQL does what one on SQLite does: in this process, and as a process with the durable engine."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bootplane.control.simplestreams.signer import Signer
from tests.fakes.filled import SELECTIONS, filled
from tests.fakes.mirror import publish_small, serve
from tests.fakes.regions import running, synced
from tests.fakes.up import ANY, END_S, ROOT

IMAGES = {
    "ubuntu/noble/amd64/ga-24.04", "ubuntu/noble/amd64/hwe-24.04", "ubuntu/noble/arm64/ga-24.04",
    "ubuntu/noble/arm64/hwe-24.04", "centos/8/amd64/generic", "grub-efi-signed/uefi/amd64", "grub-efi/uefi/arm64",
    "pxelinux/pxe/amd64", "pxelinux/pxe/i386",
}  # fmt: skip


def test_it_syncs_and_goes_on_after_a_restart(tmp_path: Path, signer: Signer, postgres_url: str) -> None:
    with filled(tmp_path, signer, database=postgres_url) as (region, client):
        images = client.get("/api/v1/images").json()["items"]
        assert {image["name"] for image in images if image["complete"]} == IMAGES
        before, region_id = region.publisher.current, region.region_id
    assert not (tmp_path / "data" / "region.sqlite").exists()
    with running(tmp_path / "data", database=postgres_url) as (region, client):
        after = region.publisher.current
        assert (region.region_id, after.version, after.contents.names) == (
            region_id, before.version, before.contents.names,
        )  # fmt: skip
        assert client.get("/api/v1/status").json()["banners"] == []


def test_a_new_serial_takes_the_old_ones_place(tmp_path: Path, signer: Signer, postgres_url: str) -> None:
    with filled(tmp_path, signer, database=postgres_url, removal_grace=0) as (region, client):
        publish_small(tmp_path / "source", signer, serial="20250801")
        with serve(tmp_path / "source") as server:  # the stream has moved on, and to another port
            client.delete("/api/v1/sources/mirror")
            keyring = base64.b64encode(signer.public()).decode()
            added = client.post("/api/v1/sources", json={"url": server.url, "keyring": keyring, "name": "mirror"})
            assert added.status_code == 201
            assert synced(region, client)["state"] == "complete"
        shown = client.get("/api/v1/images/ubuntu/noble/amd64/ga-24.04").json()
        assert (shown["version"], shown["complete"]) == ("20250801", True)
        names = region.publisher.current.contents.names
        squashfs = next(file["sha256"] for file in shown["files"] if file["name"] == "squashfs")
        assert names["ubuntu/amd64/ga-24.04/noble/stable/squashfs"] == squashfs


@contextmanager
def process(data: Path, url: str) -> Iterator[None]:
    """`bootplane region` on *url*; it ends with status 0, or the test has failed."""
    argv = [sys.executable, "-m", "bootplane", "region", "--data", str(data), "--listen", ANY, "--bulk", ANY]
    log = data.with_suffix(".log")
    with log.open("a") as told:
        started = subprocess.Popen([*argv, "--database", url], stdout=subprocess.PIPE, stderr=told, text=True, cwd=ROOT)
    with started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline().startswith("ready"), log.read_text()
            yield
        finally:
            started.terminate()
            try:
                assert started.wait(END_S) == 0, log.read_text()
            finally:
                started.kill()  # nothing, if it has ended


def bootplane(data: Path, *words: str) -> Any:
    argv = [sys.executable, "-m", "bootplane", *words, "--data", str(data)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=90, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if "--json" in words else None


@pytest.mark.integration
@pytest.mark.timeout(180)
def test_the_durable_engine_works_there_from_sqlite_over_a_move_to_a_backup(
    tmp_path: Path, signer: Signer, postgres_url: str
) -> None:
    """The life of a region by its commands: on SQLite first, moved, synced on PostgreSQL, backed up from it."""
    publish_small(tmp_path / "source", signer)
    (tmp_path / "keyring.gpg").write_bytes(signer.public())
    with filled(tmp_path / "first", signer):
        pass
    data = tmp_path / "first" / "data"
    bootplane(data, "migrate-database", "--to", postgres_url, "--json")
    with serve(tmp_path / "source") as server, process(data, postgres_url):
        bootplane(data, "source", "remove", "mirror")
        bootplane(data, "source", "add", server.url, "--keyring", str(tmp_path / "keyring.gpg"))
        bootplane(data, "sync", "--wait")
        images = bootplane(data, "image", "list", "--json")["items"]
        assert {image["name"] for image in images if image["complete"]} == IMAGES
        bootplane(data, "backup", str(tmp_path / "backup"), "--database", postgres_url)
        bootplane(data, "source", "publish", str(tmp_path / "out"), "--database", postgres_url)
    bootplane(tmp_path / "again", "restore", str(tmp_path / "backup"))
    with running(tmp_path / "again") as (_, client):
        assert len(client.get("/api/v1/selections").json()["items"]) == len(SELECTIONS)
