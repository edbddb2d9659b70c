"""The bulk port of a region: what it serves, and that it lets go of what it no longer serves."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from bootplane.control.bulk import BulkServer
from bootplane.core import http_load
from bootplane.dataplane.store import Store

DATA = os.urandom(100_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


def held(path: Path) -> bool:
    """Whether this process has *path* open."""
    return any(os.path.realpath(entry) == str(path) for entry in Path("/proc/self/fd").iterdir())


async def test_a_blob_is_served_and_its_descriptor_closed_when_it_is_no_longer_wanted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = tmp_path / "image-storage" / SHA256
    path.write_bytes(DATA)
    bulk = BulkServer(store, "127.0.0.1:0")
    bulk.start(asyncio.get_running_loop())
    try:
        assert bulk.publish([(SHA256, len(DATA))]) == []
        host, _, port = bulk.address.rpartition(":")
        got = await asyncio.to_thread(http_load.fetch, host, int(port), f"/blob/{SHA256}")
        assert (got.status, got.sha256) == (200, SHA256)
        assert held(path)
        bulk.publish([])
        async with asyncio.timeout(30):
            while held(path):
                await asyncio.sleep(0.05)
    finally:
        bulk.stop()


async def test_a_file_of_another_length_is_not_served_and_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "image-storage" / SHA256).write_bytes(DATA[:-1])
    bulk = BulkServer(store, "127.0.0.1:0")
    try:
        assert bulk.publish([(SHA256, len(DATA))]) == [SHA256]
    finally:
        bulk.stop()
