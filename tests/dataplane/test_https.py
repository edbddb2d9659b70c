"""A real rack that serves HTTPS beside HTTP: its options, its certificate, its numbers, its end."""

from __future__ import annotations

import hashlib
import random
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.dataplane.rackprocess import RackProcess
from tests.fakes.activation import Opened
from tests.fakes.http_client import curl
from tests.fakes.region import FakeRegion
from tests.fakes.tls import TlsClient, pair, trusting, write_pair

pytestmark = pytest.mark.integration

MIB = 1 << 20
BIG = random.Random(7).randbytes(24 * MIB + 5)
SMALL = b"small"
FILES = {"images/x/squashfs": BIG, "small": SMALL}
GET = b"GET /%s HTTP/1.1\r\nHost: rack\r\n\r\n"


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion(FILES) as fake:
        yield fake


class HttpsRack(RackProcess):
    """A rack with HTTPS on any free port."""

    def __init__(self, directory: Path, region: FakeRegion, *options: str, pair: tuple[str, str] = pair()) -> None:
        https = ("--https", "127.0.0.1:0", "--tls-cert", pair[0], "--tls-key", pair[1])
        super().__init__(directory, region, *https, *options)

    def client(self, context: ssl.SSLContext | None = None, receive_buffer: int = 0) -> TlsClient:
        return TlsClient(self.https.port, context, receive_buffer)


def eventually(is_true: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not is_true():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.02)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("reactors", ["1", "2"])
def test_cold_and_warm_files_arrive_whole_and_are_counted(tmp_path: Path, region: FakeRegion, reactors: str) -> None:
    out = tmp_path / "out"
    with HttpsRack(tmp_path / "rack", region, "--reactors", reactors) as rack:
        for _ in range(2):
            url = f"https://{rack.https}/images/x/squashfs"
            curl("--cacert", pair()[0], "-o", str(out), url)
            assert digest(out.read_bytes()) == digest(BIG)
        with rack.client() as client:
            got = client.get("/images/x/squashfs", f"Range: bytes={MIB}-{2 * MIB - 1}")
            assert (got.status, got.body) == (206, BIG[MIB : 2 * MIB])
        plain = curl("-o", "/dev/null", "-w", "%{http_code}", f"http://{rack.https}/small", check=False)
        assert plain.stdout == b"400"
        numbers = rack.metrics()
        assert numbers["bootplane_tls_connections_total"] == 4
        assert numbers["bootplane_tls_handshakes_total"] == 3
        assert numbers["bootplane_tls_failed_plain_total"] == 1
        assert numbers["bootplane_hits_total"] >= 2


def test_what_python_answers_comes_by_https_too(tmp_path: Path, region: FakeRegion) -> None:
    with HttpsRack(tmp_path / "rack", region) as rack, rack.client() as client:
        first = client.get("/metrics")
        assert first.status == 200 and b"bootplane_tls_handshakes_total 1.0" in first.body
        assert client.get("/small").body == SMALL  # the connection came back
        client.send(b"POST /MAAS/api HTTP/1.1\r\nHost: r\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
        assert client.response().status in range(200, 600)


def test_a_boot_text_names_plain_http_at_the_address_that_was_asked(tmp_path: Path, region: FakeRegion) -> None:
    name = "grub/grub.cfg-52:54:00:77:00:01"
    region.texts[name] = b"echo hello\n"
    with HttpsRack(tmp_path / "rack", region) as rack, rack.client() as client:
        assert client.get(f"/{name}").body == b"echo hello\n"
        expected = {"name": name, "peer": "127.0.0.1", "http": str(rack.http), "tftp": str(rack.tftp), "proto": "http"}
        assert region.boots == [expected]


def test_sighup_reads_the_certificate_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, region: FakeRegion
) -> None:
    mine = write_pair(tmp_path)
    old = trusting(mine[0])
    with HttpsRack(tmp_path / "rack", region, pair=mine) as rack:
        assert rack.process is not None
        with rack.client(old) as client:
            assert client.get("/small").body == SMALL
            Path(mine[1]).write_text("rotten")
            rack.process.send_signal(signal.SIGHUP)
            eventually(lambda: "the certificate stays as it was" in rack.log())
            with rack.client(old) as second:
                assert second.get("/small").body == SMALL
            write_pair(tmp_path)
            rack.process.send_signal(signal.SIGHUP)
            eventually(lambda: "again; connections that come from now on get them" in rack.log())
            with pytest.raises(ssl.SSLCertVerificationError):
                rack.client(old)
            with rack.client(trusting(mine[0])) as third:
                assert third.get("/small").body == SMALL
            assert client.get("/small").body == SMALL  # it keeps what it began with


def test_a_certificate_that_machines_refuse_soon_is_said_at_the_start_and_told_to_who_scrapes(
    tmp_path: Path, region: FakeRegion
) -> None:
    mine = write_pair(tmp_path, days=(-9, 3))
    with HttpsRack(tmp_path / "rack", region, pair=mine) as rack:
        eventually(lambda: f"HTTPS: {mine[0]}: it expires at " in rack.log())
        expiry = "bootplane_tls_certificate_expiry_timestamp_seconds"
        assert rack.metrics()[expiry] == pytest.approx(time.time() + 3 * 86400, abs=3600)
        write_pair(tmp_path, days=(-9, 90))
        assert rack.process is not None
        rack.process.send_signal(signal.SIGHUP)
        eventually(lambda: rack.metrics()[expiry] > time.time() + 89 * 86400)


def test_sighup_costs_a_rack_without_https_nothing(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region) as rack:
        assert rack.process is not None
        rack.process.send_signal(signal.SIGHUP)
        eventually(lambda: "there is no certificate to be read again" in rack.log())
        assert rack.metrics()["bootplane_tls_certificate_expiry_timestamp_seconds"] == 0
        assert rack.stop() == 0


def test_a_drain_finishes_what_runs_and_says_so(tmp_path: Path, region: FakeRegion) -> None:
    with HttpsRack(tmp_path / "rack", region, "--drain-limit", "60") as rack:
        with rack.client() as warm:
            assert digest(warm.get("/images/x/squashfs").body) == digest(BIG)
        with rack.client() as idle, rack.client(receive_buffer=4096) as body:
            assert idle.get("/small").body == SMALL
            body.send(GET % b"images/x/squashfs")
            assert body.head().status == 200
            assert rack.process is not None
            rack.process.send_signal(signal.SIGTERM)
            assert idle.end() in ("closed", "cut")
            while len(body.buffer) < len(BIG):
                assert body.more(), f"cut after {len(body.buffer)} bytes"
            assert digest(bytes(body.buffer)) == digest(BIG)
        assert rack.process.wait(timeout=60) == 0
        assert "0 were cut" in rack.log()


def test_after_its_deadline_the_rest_is_cut(tmp_path: Path, region: FakeRegion) -> None:
    with HttpsRack(tmp_path / "rack", region, "--drain-limit", "0.3") as rack:
        with rack.client() as warm:
            warm.get("/images/x/squashfs")
        with rack.client(receive_buffer=4096) as body:
            body.send(GET % b"images/x/squashfs")
            assert body.head().status == 200
            assert rack.process is not None
            rack.process.send_signal(signal.SIGTERM)
            assert rack.process.wait(timeout=60) == 0
            n, end = body.rest()
            assert n < len(BIG) and end in ("cut", "reset")


def test_an_inherited_socket_serves_https(tmp_path: Path, region: FakeRegion) -> None:
    with Opened(https=True) as opened:
        rack = RackProcess(tmp_path / "rack", region, "--tls-cert", pair()[0], "--tls-key", pair()[1])
        rack.opened = opened
        with rack, TlsClient(opened.https[0].getsockname()[1]) as client:
            assert client.get("/small").body == SMALL


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--https", ":0"], "--https: expected --tls-cert FILE and --tls-key FILE with it, got not both"),
        (["--tls-cert", "a", "--tls-key", "b"], "--tls-cert and --tls-key: expected --https H:P with them, got none"),
        (
            ["--https", ":0", "--tls-cert", "/nowhere", "--tls-key", "/nowhere"],
            "/nowhere: expected a readable file, got No such file or directory",
        ),
    ],
)
def test_what_cannot_be_served_is_one_sentence(tmp_path: Path, options: list[str], sentence: str) -> None:
    command = [sys.executable, "-m", "bootplane.dataplane.rack", "--data", str(tmp_path / "data")]
    command += ["--region", "http://127.0.0.1:1", "--token-file", str(tmp_path / "token"), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (1, f"bootplane rack: {sentence}\n")
