"""The bulk port of a region: what it serves, and that it lets go of what it no longer serves."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
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


async def test_a_removed_blob_is_410_one_nobody_had_404_and_one_that_is_wanted_again_is_served(tmp_path: Path) -> None:
    bulk = BulkServer(Store(tmp_path), "127.0.0.1:0")
    bulk.start(asyncio.get_running_loop())
    host, _, port = bulk.address.rpartition(":")

    async def answer(sha256: str, method: str = "GET") -> tuple[int, bytes]:
        def ask() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            try:
                connection.request(method, f"/blob/{sha256}", headers={"Range": "bytes=0-9"})
                response = connection.getresponse()
                return response.status, response.read()
            finally:
                connection.close()

        return await asyncio.to_thread(ask)

    try:
        assert bulk.publish([], [SHA256]) == []
        assert await answer(SHA256) == (410, f"410 Gone: blob/{SHA256}: the file was removed\n".encode())
        assert await answer(SHA256, "HEAD") == (410, b"")
        assert (await answer("ab" * 32))[0] == 404
        (tmp_path / "image-storage" / SHA256).write_bytes(DATA)
        assert bulk.publish([(SHA256, len(DATA))], [SHA256]) == []  # a row that was read while it came again
        assert await answer(SHA256) == (206, DATA[:10])
        assert bulk.publish([], [SHA256]) == []
        assert (await answer(SHA256))[0] == 410
        assert bulk.publish([(SHA256, len(DATA) + 1)], [SHA256]) == [SHA256]
        assert (await answer(SHA256))[0] == 404  # wanted, and not here: nobody is told to forget it
    finally:
        bulk.stop()
