"""A rack that is told to end: what runs is finished, who comes is refused or waits, and nothing is cut in silence."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootplane.core import http_fetch
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.activation import Opened
from tests.fakes.http_client import Client
from tests.fakes.region import FakeRegion
from tests.fakes.tftp_client import TftpClient

pytestmark = pytest.mark.integration

MIB = 1 << 20
BIG = random.Random(7).randbytes(24 * MIB)
LOADER = random.Random(8).randbytes(20 * 1428 + 9)
SMALL = b"small"
FILES = {"images/x/squashfs": BIG, "bootx64.efi": LOADER, "small": SMALL}
GET = b"GET /%s HTTP/1.1\r\nHost: rack\r\n\r\n"


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion(FILES) as fake:
        yield fake


def eventually(is_true: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not is_true():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.02)


def warm(rack: RackProcess) -> None:
    for name in FILES:
        assert http_fetch.fetch(rack.http.host, rack.http.port, f"/{name}").sha256 == digest(FILES[name])


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tell(rack: RackProcess) -> None:
    """SIGTERM, and waits until it is heard."""
    said = rack.log().count("draining")
    assert rack.process is not None
    rack.process.send_signal(signal.SIGTERM)
    eventually(lambda: rack.log().count("draining") > said)


def lets_in(rack: RackProcess, listener: socket.socket) -> bool:
    """Whether an epoll of the rack watches the socket that *listener* is a descriptor of, too (proc_pid_fdinfo(5))."""
    assert rack.process is not None
    watched = re.compile(rf"^tfd:.* ino:{os.fstat(listener.fileno()).st_ino:x} ", re.MULTILINE)
    found = False
    for path in Path(f"/proc/{rack.process.pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            found = found or watched.search(path.read_text()) is not None
    return found


def ended(rack: RackProcess) -> int:
    assert rack.process is not None
    return rack.process.wait(timeout=60)


def started(rack: RackProcess) -> Client:
    """A large body under way that needs its reader to go on."""
    client = Client(rack.http.port, receive_buffer=4096).send(GET % b"images/x/squashfs")
    assert client.head().status == 200
    return client


def begun(rack: RackProcess) -> TftpClient:
    """A TFTP transfer after its first block, in lockstep."""
    client = TftpClient(tuple(rack.tftp))
    client.rrq("bootx64.efi", blksize=1428)
    assert client.receive().kind == "OACK"
    client.ack(0)
    assert client.receive().number == 1
    return client


def finished(client: TftpClient) -> str:
    got = LOADER[:1428]
    block = 1
    while True:
        client.ack(block)
        if len(got) == len(LOADER):
            return digest(got)
        packet = client.receive()
        if packet.number == block + 1:
            block += 1
            got += packet.data


def test_what_runs_is_finished_and_who_comes_is_refused(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region, "--drain-limit", "60") as rack:
        warm(rack)
        with Client(rack.http.port) as idle:
            assert idle.get("/small").body == SMALL
            body, transfer = started(rack), begun(rack)
            body.send(GET % b"small" * 2)  # behind the large one
            tell(rack)
            assert idle.end() == "closed"
            eventually(lambda: not accepts(rack.http.port))
            first = len(body.buffer)
            while len(body.buffer) < len(BIG):
                assert body.more(), f"cut after {len(body.buffer)} bytes, {first} of them before the signal"
            assert digest(bytes(body.buffer[: len(BIG)])) == digest(BIG)
            del body.buffer[: len(BIG)]
            assert finished(transfer) == digest(LOADER)
            last = body.response()
            assert (last.status, last.body, last.headers["Connection"]) == (200, SMALL, "close")
            assert body.end() in ("closed", "reset")  # the third request was never read
            assert ended(rack) == 0
            body.socket.close()
            transfer.socket.close()
        assert re.search(r"drained in \d+\.\d s: 3 transfers of files came to their end, 0 were cut", rack.log())


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


def test_after_its_deadline_the_rest_is_reset(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region, "--drain-limit", "0.3") as rack:
        warm(rack)
        with started(rack) as body:
            tell(rack)
            assert ended(rack) == 0
            got, end = body.rest()
            assert got < len(BIG) and end == "reset"
        assert "0 transfers of files came to their end, 1 were cut" in rack.log()


def test_a_second_signal_ends_it_now(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region, "--drain-limit", "3600") as rack:
        warm(rack)
        with started(rack) as body, begun(rack):
            tell(rack)
            with pytest.raises(subprocess.TimeoutExpired):
                assert rack.process is not None
                rack.process.wait(timeout=0.2)
            rack.process.send_signal(signal.SIGTERM)
            assert ended(rack) == 0
            assert body.rest()[1] == "reset"
        assert "0 transfers of files came to their end, 2 were cut" in rack.log()


# -- sockets that were there before, and stay -------------------------------------------------------------------------


@pytest.mark.parametrize("reactors", ["1", "2"])
def test_a_restart_with_inherited_sockets_refuses_nobody(tmp_path: Path, region: FakeRegion, reactors: str) -> None:
    with Opened() as opened:
        rack = RackProcess(tmp_path / "rack", region, "--reactors", reactors, "--drain-limit", "60")
        rack.opened = opened
        with rack:
            assert (rack.http.port, rack.tftp.port) == tuple(s.getsockname()[1] for s in opened.http + opened.tftp)
            warm(rack)
            with Client(rack.http.port) as idle:
                assert idle.get("/small").body == SMALL
                body = started(rack)
                assert lets_in(rack, opened.http[0])
                tell(rack)
                assert idle.end() == "closed"
                eventually(lambda: not lets_in(rack, opened.http[0]))  # each reactor hears of the end by itself
                waiting = [Client(rack.http.port).send(GET % b"small") for _ in range(8)]  # nobody is refused
                while len(body.buffer) < len(BIG):
                    assert body.more()
                assert digest(bytes(body.buffer)) == digest(BIG)
                body.socket.close()
            assert ended(rack) == 0
            waiting += [Client(rack.http.port).send(GET % b"small") for _ in range(8)]
        with rack, TftpClient(tuple(rack.tftp)) as transfer:
            for client in waiting:
                assert client.response().body == SMALL
                client.socket.close()
            transfer.rrq("small")
            assert transfer.receive().data == SMALL
            transfer.ack(1)
            assert rack.metrics()["bootplane_http_connections_total"] == len(waiting) + 1
