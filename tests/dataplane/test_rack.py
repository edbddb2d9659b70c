"""The rack process against the fake region: cold herds, warm restarts, boot texts, the control port."""

from __future__ import annotations

import concurrent.futures
import errno
import hashlib
import http.client
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootplane.core import http_fetch, tftp_fetch
from bootplane.core.client import Fetch
from bootplane.core.status import RemoteError
from bootplane.dataplane.rack import RackError, lock_directory
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.region import CHUNK, FakeRegion
from tests.fakes.tftp_client import TftpClient

pytestmark = pytest.mark.integration

MIB = 1 << 20
BIG = random.Random(3).randbytes(24 * MIB)
BIG_SHA = hashlib.sha256(BIG).hexdigest()
SMALL = b"a boot loader" * 100


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion({"images/x/squashfs": BIG, "bootx64.efi": SMALL}) as fake:
        yield fake


def eventually(is_true: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not is_true():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.02)


def get(rack: RackProcess, path: str) -> Fetch:
    return http_fetch.fetch(rack.http.host, rack.http.port, path, keep=True)


def test_a_cold_herd_costs_one_upstream_copy(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region) as rack, concurrent.futures.ThreadPoolExecutor(20) as pool:
        over_http = [
            pool.submit(http_fetch.fetch, rack.http.host, rack.http.port, "/images/x/squashfs") for _ in range(16)
        ]
        over_tftp = [
            pool.submit(tftp_fetch.fetch, rack.tftp.host, rack.tftp.port, "images/x/squashfs", windowsize=window)
            for window in (1, 4, 16, 64)
        ]
        assert {f.result().sha256 for f in over_http + over_tftp} == {BIG_SHA}
        assert region.sent == {(BIG_SHA, chunk): 1 for chunk in range(24)}
        assert region.bulk_bytes == len(BIG)
        numbers = rack.settled(20)
    assert numbers["bootplane_fill_upstream_bytes_total"] == len(BIG)
    assert numbers["bootplane_fill_chunks_total"] == 24
    ended = {name: numbers[f"bootplane_{name}_total"] for name in ("hits", "misses", "coalesced")}
    assert sum(ended.values()) == numbers["bootplane_lookups_total"] == 20 and ended["misses"] >= 1, ended
    assert numbers["bootplane_http_body_bytes_total"] >= 16 * len(BIG)


def test_several_reactors_share_one_port_and_one_fill(tmp_path: Path, region: FakeRegion) -> None:
    with (
        RackProcess(tmp_path / "rack", region, "--reactors", "3") as rack,
        concurrent.futures.ThreadPoolExecutor(12) as pool,
    ):
        fetches = [
            pool.submit(http_fetch.fetch, rack.http.host, rack.http.port, "/images/x/squashfs") for _ in range(12)
        ]
        assert {f.result().sha256 for f in fetches} == {BIG_SHA}
        assert region.sent == {(BIG_SHA, chunk): 1 for chunk in range(24)}
        assert tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, "bootx64.efi").size == len(SMALL)


def test_tftp_keeps_to_one_port_and_to_a_block_size_when_told(tmp_path: Path, region: FakeRegion) -> None:
    options = ("--tftp-single-port", "--tftp-max-blksize", "1024", "--reactors", "2")
    with (
        RackProcess(tmp_path / "rack", region, *options) as rack,
        TftpClient((rack.tftp.host, rack.tftp.port)) as client,
    ):
        got = client.fetch("bootx64.efi", blksize=1468, windowsize=4)
        assert len(got.data) == len(SMALL)
        assert got.oack == {"blksize": "1024", "windowsize": "4"}
        assert client.tid == (rack.tftp.host, rack.tftp.port)


def test_a_range_of_a_cold_file_fetches_its_chunks_only(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region) as rack:
        found = http_fetch.fetch(
            rack.http.host, rack.http.port, "/images/x/squashfs", start=10 * CHUNK + 5, end=10 * CHUNK + 99, keep=True
        )
        assert (found.status, found.body) == (206, BIG[10 * CHUNK + 5 : 10 * CHUNK + 100])
        assert region.sent == {(BIG_SHA, 10): 1}


def test_a_new_catalogue_is_served_and_an_old_name_is_gone(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region) as rack:
        assert get(rack, "/bootx64.efi").body == SMALL
        region.publish({"images/x/squashfs": BIG, "grubx64.efi": SMALL + b"!"})
        eventually(lambda: rack.metrics()["bootplane_catalogue_version"] == 2)
        assert get(rack, "/grubx64.efi").body == SMALL + b"!"
        assert get(rack, "/bootx64.efi").status == 404


def test_a_blob_that_stays_keeps_its_cached_bytes_over_a_new_catalogue(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region) as rack:
        get(rack, "/images/x/squashfs")
        region.publish({"renamed": BIG})
        eventually(lambda: rack.metrics()["bootplane_catalogue_version"] == 2)
        assert get(rack, "/renamed").sha256 == BIG_SHA
        assert set(region.sent.values()) == {1}


def test_a_boot_text_is_the_regions_for_this_machine(tmp_path: Path, region: FakeRegion) -> None:
    name = "grub/grub.cfg-52:54:00:77:00:01"
    region.texts[name] = b"echo hello\n"
    with RackProcess(tmp_path / "rack", region) as rack:
        assert get(rack, f"/{name}").body == b"echo hello\n"
        assert tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, name, keep=True).body == b"echo hello\n"
        expected = {"name": name, "peer": "127.0.0.1", "http": str(rack.http), "tftp": str(rack.tftp)}
        assert region.boots == [{**expected, "proto": "http"}, {**expected, "proto": "tftp"}]
        assert get(rack, "/grub/grub.cfg-52:54:00:77:00:02").status == 404
        with pytest.raises(RemoteError, match="TFTP error 1"):
            tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, "pxelinux.cfg/default")


def test_a_connection_that_was_handed_over_comes_back(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region) as rack:
        client = http.client.HTTPConnection(rack.http.host, rack.http.port, timeout=60)
        for _ in range(3):
            client.request("POST", "/MAAS/metadata/status", body=b"report")
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (200, b"region says hello")
            client.request("GET", "/bootx64.efi")
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (200, SMALL)
            client.request("DELETE", "/bootx64.efi")
            answer = client.getresponse()
            assert (answer.status, answer.getheader("Allow")) == (405, "GET, HEAD")
            answer.read()
        client.close()
        eventually(lambda: rack.metrics()["bootplane_http_adopted_total"] == 6)  # it comes back behind its answer
        before, after = rack.metrics(), rack.metrics()
    assert [(method, path, body) for method, path, _, body in region.proxied] == [
        ("POST", "/MAAS/metadata/status", b"report")
    ] * 3
    assert {sent["X-Forwarded-For"] for _, _, sent, _ in region.proxied} == {"127.0.0.1"}
    assert after["bootplane_http_connections_total"] == before["bootplane_http_connections_total"] + 1  # a scrape's
    assert after["bootplane_http_adopted_total"] == 6


def test_pipelined_requests_survive_the_way_to_python_and_back(tmp_path: Path, region: FakeRegion) -> None:
    with (
        RackProcess(tmp_path / "rack", region) as rack,
        socket.create_connection((rack.http.host, rack.http.port), timeout=60) as sock,
    ):
        get_loader = b"GET /bootx64.efi HTTP/1.1\r\nHost: r\r\n\r\n"
        put = b"PUT /bootx64.efi HTTP/1.1\r\nHost: r\r\nContent-Length: 2\r\n\r\nhi"
        last = b"GET /bootx64.efi HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n"
        sock.sendall(get_loader + put + get_loader + last)
        got = b""
        while data := sock.recv(65536):
            got += data
        assert re.findall(rb"HTTP/1\.1 (\d+)", got) == [b"200", b"405", b"200", b"200"]
        assert got.count(SMALL) == 3


def test_a_restart_with_the_region_gone_serves_what_the_disk_says(tmp_path: Path, region: FakeRegion) -> None:
    rack = RackProcess(tmp_path / "rack", region, "--park-limit", "0.5")
    with rack:
        get(rack, "/images/x/squashfs")
    region.stop()
    with rack:
        assert get(rack, "/images/x/squashfs").body == BIG
        refused = get(rack, "/bootx64.efi")  # its name is known, its bytes cannot be had
        assert (refused.status, "Retry-After: 5" in refused.headers) == (503, True)
        assert get(rack, "/nobody").status == 404
        region.start()
        eventually(lambda: rack.metrics()["bootplane_sources"] == 1)
        assert get(rack, "/bootx64.efi").body == SMALL


def test_a_shared_store_is_served_in_place_and_never_filled(tmp_path: Path, region: FakeRegion) -> None:
    from bootplane.dataplane.store import Store

    store = Store(tmp_path / "region")
    with store.begin(BIG_SHA, len(BIG)) as ingest:
        ingest.write(BIG)
        ingest.commit()
    with RackProcess(tmp_path / "rack", region, "--shared-store", str(tmp_path / "region")) as rack:
        assert get(rack, "/images/x/squashfs").sha256 == BIG_SHA
        assert get(rack, "/bootx64.efi").body == SMALL  # not there: filled
    assert {sha256 for sha256, _ in region.sent} == {hashlib.sha256(SMALL).hexdigest()}


def test_a_rack_that_is_told_to_end_finishes_what_it_sends(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region, "--drain-limit", "60") as rack:
        get(rack, "/images/x/squashfs")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            slow = pool.submit(
                http_fetch.fetch, rack.http.host, rack.http.port, "/images/x/squashfs", rate_bytes_s=24 * MIB
            )
            eventually(
                lambda: rack.metrics()["bootplane_lookups_total"] == 2
            )  # metrics are no name: this is the slow one
            assert rack.stop() == 0
            assert slow.result().sha256 == BIG_SHA


def start_that_fails(rack: RackProcess) -> str:
    done = subprocess.run(rack.command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def test_what_stops_the_start_is_one_sentence(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region) as running:
        second = RackProcess(tmp_path / "rack", region)
        assert start_that_fails(second) == (
            f"bootplane rack: {tmp_path}/rack/data: expected no other rack on it, "
            f"got one running as process {running.process.pid if running.process else 0}\n"
        )
        other = RackProcess(tmp_path / "other", region, "--http", str(running.http))
        assert start_that_fails(other) == (
            f"bootplane rack: HTTP address {running.http}: expected a free one, got one already in use\n"
        )
        for reactors in ("1", "2"):
            other = RackProcess(tmp_path / "other", region, "--tftp", str(running.tftp), "--reactors", reactors)
            assert start_that_fails(other) == (
                f"bootplane rack: TFTP address {running.tftp}: expected a free one, got one already in use\n"
            )


def test_a_cache_that_cannot_be_used_is_one_sentence(tmp_path: Path, region: FakeRegion) -> None:
    rack = RackProcess(tmp_path / "rack", region)
    rack.data.mkdir()
    (rack.data / "cache").write_text("in the way")
    assert start_that_fails(rack).startswith(f"bootplane rack: cache directory {rack.data}/cache: cannot be used: ")


def test_few_descriptors_are_said_at_the_start(tmp_path: Path, region: FakeRegion) -> None:
    rack = RackProcess(tmp_path / "rack", region)
    few = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))"
    rack.command = [sys.executable, "-c", f"{few}; os.execv(sys.executable, sys.argv[1:])", *rack.command]
    with rack:
        assert "256 descriptors allowed: expected 1024 or more" in rack.log()


def test_a_rack_starts_on_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes, at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", full)
        fd = lock_directory(tmp_path)
    with pytest.raises(RackError, match="expected no other rack on it, got one running as process unknown"):
        lock_directory(tmp_path)
    os.close(fd)
    os.close(lock_directory(tmp_path))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--http", "nonsense"], "--http: expected HOST:PORT, got 'nonsense'"),
        (
            ["--cache-size", "4 apples"],
            "--cache-size: expected a number with KiB, MiB, GiB, TiB, kB, MB or GB, got '4 apples'",
        ),
        (["--region", " ,"], "--region: expected URL[,URL], got none"),
        (["--region", "ftp://x"], "region: expected http://HOST:PORT or https://HOST:PORT, got 'ftp://x'"),
        (
            ["--token-file", "/nowhere/token"],
            "rack token file /nowhere/token: expected a readable file, got No such file or directory",
        ),
        (["--data", "/proc/nowhere"], "/proc/nowhere: expected a writable directory, got No such file or directory"),
        (
            ["--upstream-limit", "250Mbit"],
            "--upstream-limit: expected none, or a number with kbit/s, Mbit/s, Gbit/s, MB/s or MiB/s, got '250Mbit'",
        ),
        (
            ["--upstream-limit", "9kbit/s"],
            "upstream limit: expected 0 for none, or 125000 bytes a second (1 Mbit/s) or more, got 1125",
        ),
        (["--cache-size", "4"], "cache limit: expected 4194304 bytes (one segment) or more, got 4"),
        (["--tftp-max-blksize", "511"], "--tftp-max-blksize: expected 512 to 65464, got 511"),
        (["--reactors", "0"], "--reactors: expected 1 to 64, got 0"),
        (
            ["--http", "192.0.2.1:0"],
            "HTTP address 192.0.2.1:0: expected a free one, got Cannot assign requested address",
        ),
    ],
)
def test_a_bad_option_is_one_sentence(tmp_path: Path, region: FakeRegion, options: list[str], sentence: str) -> None:
    assert start_that_fails(RackProcess(tmp_path / "rack", region, *options)) == f"bootplane rack: {sentence}\n"
