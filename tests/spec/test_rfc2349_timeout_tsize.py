"""RFC 2349, timeout and transfer size: the size is known before a byte is, the timeout is the client's."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Iterator

import pytest

from bootplane.core.blob import Blob
from tests.fakes.tftp_client import Packet, Rack, TftpClient, serving

KERNEL = os.urandom(10_000)


@pytest.fixture(scope="module")
def rack() -> Iterator[Rack]:
    with serving({"kernel": KERNEL, "empty": b""}, timeout_s=30) as rack:
        yield rack


@pytest.fixture
def client(rack: Rack) -> Iterator[TftpClient]:
    with rack.client() as client:
        yield client


@pytest.mark.parametrize(("name", "size"), [("kernel", "10000"), ("empty", "0")])
def test_tsize_is_answered_with_the_size_of_the_file(client: TftpClient, name: str, size: str) -> None:
    client.rrq(name, tsize=0)
    assert client.receive() == Packet("OACK", 0, b"", {"tsize": size})


@pytest.mark.parametrize("tsize", ["1", "10000", "99999999999999999999"])
def test_tsize_is_answered_whatever_stands_in_the_request(client: TftpClient, tsize: str) -> None:
    """RFC 2349 asks a client to send "0"; some send what they have room for."""
    client.rrq("kernel", tsize=tsize)
    assert client.receive().options == {"tsize": "10000"}


def test_tsize_is_exact_beyond_four_gigabytes(tmp_path: pathlib.Path) -> None:
    size = 5 * 2**30 + 7
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(size)  # a hole: nobody reads it here
    blob = Blob.open_file(str(path), hashlib.sha256(b"never read").hexdigest(), size)
    with serving({"image": blob}) as rack, rack.client() as client:
        client.rrq("image", tsize=0, blksize=1468)
        assert client.receive().options == {"blksize": "1468", "tsize": str(size)}


@pytest.mark.parametrize("timeout", [1, 7, 255])
def test_a_timeout_is_accepted_as_it_is(client: TftpClient, timeout: int) -> None:
    client.rrq("kernel", timeout=timeout)
    assert client.receive().options == {"timeout": str(timeout)}


@pytest.mark.parametrize("timeout", ["0", "256", "-1", "0.5", "x"])
def test_a_timeout_out_of_range_is_ignored(client: TftpClient, timeout: str) -> None:
    client.rrq("kernel", timeout=timeout, tsize=0)
    assert client.receive().options == {"tsize": "10000"}


def test_the_clients_timeout_replaces_the_servers(client: TftpClient) -> None:
    """The server's own is 30 s: what comes again within the test's patience came by the client's one second."""
    client.rrq("kernel", timeout=1)
    oack = client.receive()
    assert client.receive() == oack
    client.ack(0)
    first = client.receive()
    assert client.receive() == first
