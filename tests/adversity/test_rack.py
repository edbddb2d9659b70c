"""A real rack whose region lies, cuts, stalls, dies and comes back: right bytes or a plain refusal, nothing between."""

from __future__ import annotations

import concurrent.futures
import hashlib
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootplane.core import http_fetch, tftp_fetch
from bootplane.core.client import Fetch
from bootplane.core.status import RemoteError
from bootplane.dataplane import kept
from bootplane.dataplane.catalogue import PinnedKey, SigningKey
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.region import CHUNK, FakeRegion

pytestmark = pytest.mark.integration

MIB = 1 << 20
BIG = random.Random(4).randbytes(12 * MIB)
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


def read_raw(rack: RackProcess, path: str) -> bytes:
    """Whatever the rack sends until it closes or resets, head included: what a careless client would keep."""
    got = bytearray()
    with socket.create_connection((rack.http.host, rack.http.port), timeout=30) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n".encode())
        try:
            while data := sock.recv(1 << 16):
                got += data
        except ConnectionResetError:
            return bytes(got)
    return bytes(got)


def test_no_machine_gets_a_byte_of_a_wrong_chunk(tmp_path: Path, region: FakeRegion) -> None:
    region.corrupt = {(BIG_SHA, 6)}
    with RackProcess(tmp_path / "rack", region) as rack, concurrent.futures.ThreadPoolExecutor(12) as pool:
        raw = [pool.submit(read_raw, rack, "/images/x/squashfs") for _ in range(8)]
        over_tftp = [
            pool.submit(tftp_fetch.fetch, rack.tftp.host, rack.tftp.port, "images/x/squashfs", windowsize=16)
            for _ in range(4)
        ]
        for reader in raw:
            head, _, body = reader.result().partition(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 200"):
                assert len(body) <= 6 * CHUNK
                assert body == BIG[: len(body)]
            else:
                assert head.startswith(b"HTTP/1.1 503")
        for transfer in over_tftp:
            with pytest.raises(RemoteError):
                transfer.result()
        assert get(rack, "/bootx64.efi").body == SMALL
        numbers = rack.metrics()
    good = BIG[6 * CHUNK : 7 * CHUNK]
    bad = bytes([good[0] ^ 1]) + good[1:]
    sentence = (
        f"refused chunk 6 of blob {BIG_SHA} from {region.bulk}: "
        f"expected {hashlib.sha256(good).hexdigest()}, got {hashlib.sha256(bad).hexdigest()}"
    )
    assert rack.log().count(f"ERROR   bootplane.fill: {sentence}\n") == 1
    assert numbers["bootplane_fill_refused_chunks_total"] == 2
    assert numbers["bootplane_cache_refused_chunks_total"] == 2


def test_the_region_hears_of_a_refused_chunk_with_the_next_beat(tmp_path: Path, region: FakeRegion) -> None:
    region.corrupt = {(BIG_SHA, 0)}
    with RackProcess(tmp_path / "rack", region) as rack:
        assert get(rack, "/images/x/squashfs").status == 503
        eventually(lambda: bool(region.beats and region.beats[-1].get("events")))
    event = region.beats[-1]["events"][0]
    assert (event["blob"], event["chunk"], event["source"]) == (BIG_SHA, 0, region.bulk)
    assert event["text"].startswith(f"refused chunk 0 of blob {BIG_SHA} from {region.bulk}: expected ")


def test_a_region_that_is_gone_stops_no_warm_file(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region, "--park-limit", "1") as rack:
        assert get(rack, "/images/x/squashfs").sha256 == BIG_SHA
        region.stop()
        assert get(rack, "/images/x/squashfs").sha256 == BIG_SHA
        refused = get(rack, "/bootx64.efi")
        assert (refused.status, "Retry-After: 5" in refused.headers) == (503, True)
        with pytest.raises(RemoteError, match="TFTP error"):
            tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, "bootx64.efi")
        region.start()
        eventually(lambda: get(rack, "/bootx64.efi").status == 200)


def test_readers_that_wait_finish_when_the_region_comes_back(tmp_path: Path, region: FakeRegion) -> None:
    region.stall.set()
    with RackProcess(tmp_path / "rack", region) as rack, concurrent.futures.ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(get, rack, "/images/x/squashfs") for _ in range(8)]
        eventually(lambda: rack.metrics()["bootplane_parked_total"] >= 8)
        region.stop()
        eventually(lambda: rack.metrics()['bootplane_fill_errors_total{reason="unreachable"}'] >= 1)
        region.stall.clear()
        region.start()
        assert {reader.result().sha256 for reader in readers} == {BIG_SHA}


def test_answers_that_are_cut_again_and_again_still_add_up_to_the_file(tmp_path: Path, region: FakeRegion) -> None:
    region.cut_after, region.cut_times = 700_000, 5
    with RackProcess(tmp_path / "rack", region) as rack:
        assert get(rack, "/images/x/squashfs").sha256 == BIG_SHA
        assert rack.metrics()['bootplane_fill_errors_total{reason="cut"}'] == 5


def test_a_killed_rack_starts_again_on_its_directory(tmp_path: Path, region: FakeRegion) -> None:
    rack = RackProcess(tmp_path / "rack", region)
    rack.start()
    assert get(rack, "/images/x/squashfs").sha256 == BIG_SHA
    assert rack.stop(signal.SIGKILL) == -signal.SIGKILL
    with rack:
        assert get(rack, "/images/x/squashfs").sha256 == BIG_SHA


def test_a_cache_smaller_than_the_file_serves_it_to_fast_and_slow_readers(tmp_path: Path, region: FakeRegion) -> None:
    with (
        RackProcess(tmp_path / "rack", region, "--cache-size", "8MiB") as rack,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        rates = (0, 0, 24 * MIB, 12 * MIB)
        readers = [
            pool.submit(http_fetch.fetch, rack.http.host, rack.http.port, "/images/x/squashfs", rate_bytes_s=rate)
            for rate in rates
        ]
        assert {reader.result().sha256 for reader in readers} == {BIG_SHA}
        assert rack.metrics()["bootplane_cache_charged_bytes"] <= 8 * MIB


@pytest.mark.parametrize("fault", ["unsigned", "foreign", "older"])
def test_a_catalogue_that_must_not_be_believed_changes_nothing(tmp_path: Path, region: FakeRegion, fault: str) -> None:
    region.publish({"bootx64.efi": SMALL}, version=5)
    with RackProcess(tmp_path / "rack", region) as rack:
        assert get(rack, "/bootx64.efi").body == SMALL
        if fault == "foreign":
            region.key = SigningKey.generate()
        region.publish({"evil": b"evil"}, version=4 if fault == "older" else 6)
        if fault == "unsigned":
            region.signature = None
        sentence = {
            "unsigned": "refused: catalogue: expected a signature by region key",
            "foreign": "got one that does not match",
            "older": "refused: catalogue of region fake: expected version 5 or newer, got 4",
        }[fault]
        eventually(lambda: sentence in rack.log())
        assert get(rack, "/evil").status == 404
        assert get(rack, "/bootx64.efi").body == SMALL
    key = PinnedKey(region.token.region_key)
    found = kept.load(rack.directory / "data" / "catalogue", key)
    assert found is not None
    assert found.version == 5


def test_rotten_files_on_the_racks_disk_are_noticed_and_fetched_again(tmp_path: Path, region: FakeRegion) -> None:
    rack = RackProcess(tmp_path / "rack", region)
    with rack:
        get(rack, "/bootx64.efi")
    data = rack.directory / "data"
    (data / "chunks" / BIG_SHA).write_bytes(b"x" * 32 * 12)
    with (data / "catalogue").open("r+b") as file:
        file.seek(200)
        file.write(b"rot")
    with rack:
        assert get(rack, "/images/x/squashfs").sha256 == BIG_SHA
    assert "catalogue.refused" in {path.name for path in data.iterdir()}
    assert "it is fetched again" in rack.log()


@pytest.mark.parametrize("fault", ["gone", "unsigned", "error"])
def test_a_machine_whose_region_cannot_answer_is_told_to_wait_and_installs_nothing(
    tmp_path: Path, region: FakeRegion, fault: str
) -> None:
    name = "grub/grub.cfg-52:54:00:77:00:01"
    region.texts[name] = b"linux /evil\n"
    with RackProcess(tmp_path / "rack", region) as rack:
        if fault == "gone":
            region.stop()
        elif fault == "unsigned":
            region.unsigned_boot = True
        else:
            region.api_status = 500
        for body in (
            get(rack, f"/{name}").body,
            tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, name, keep=True).body,
        ):
            text = body.decode()
            assert "linux" not in text
            assert f"echo 'bootplane: the boot configuration of this machine is missing: {name}'" in text
            assert f"rack rack-1 at {rack.http} cannot get it from its region {region.url}" in text
            assert f"source /{name}" in text
