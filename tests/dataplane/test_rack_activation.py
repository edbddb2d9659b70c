"""The rack process under a service manager: sockets it inherits, and what it tells."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.core import http_fetch, tftp_fetch
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.activation import Opened
from tests.fakes.ports import quiet_port
from tests.fakes.region import FakeRegion

pytestmark = pytest.mark.integration

LOADER = b"a boot loader" * 500


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion({"bootx64.efi": LOADER}) as fake:
        yield fake


@pytest.mark.parametrize(("reactors", "copies"), [("1", 1), ("2", 1), ("2", 2)])
def test_inherited_sockets_of_both_families_are_served(
    tmp_path: Path, region: FakeRegion, reactors: str, copies: int
) -> None:
    with Opened(("127.0.0.1", "::1"), copies) as opened:
        rack = RackProcess(tmp_path / "rack", region, "--reactors", reactors, "--http", "192.0.2.1:1")
        rack.opened = opened
        with rack:
            for sock in opened.http:
                assert http_fetch.fetch(*sock.getsockname()[:2], "/bootx64.efi", keep=True).body == LOADER
            for sock in opened.tftp:
                for _ in range(8):  # from other ports: with copies, the kernel picks one by it
                    assert tftp_fetch.fetch(*sock.getsockname()[:2], "bootx64.efi", keep=True).body == LOADER
        assert f"HTTP: {rack.http}, [::1]:{opened.http[1].getsockname()[1]}, inherited" in rack.log()


def test_a_socket_of_the_wrong_type_stops_the_start_in_one_sentence(tmp_path: Path, region: FakeRegion) -> None:
    rack = RackProcess(tmp_path / "rack", region)
    with Opened() as opened:
        opened.http, opened.tftp = opened.tftp, opened.http
        done = subprocess.run(
            opened.command(rack.command), pass_fds=opened.fds, capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        "bootplane rack: inherited socket 3 (http): expected SOCK_STREAM, got SOCK_DGRAM\n",
    )


def test_a_manager_hears_that_it_serves_lives_and_ends(tmp_path: Path, region: FakeRegion) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        rack = RackProcess(tmp_path / "rack", region)
        rack.environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with rack:
            assert manager.recv(200) == (f"READY=1\nSTATUS=serves HTTP at {rack.http} and TFTP at {rack.tftp}".encode())
            assert [manager.recv(200) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            assert rack.stop() == 0
            said = [manager.recv(200)]
            while said[-1] == b"WATCHDOG=1":
                said.append(manager.recv(200))
            assert said[-1] == b"STOPPING=1\nSTATUS=finishes what machines fetch"


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="needs systemd-socket-activate")
def test_systemd_gives_it_its_socket(tmp_path: Path, region: FakeRegion) -> None:
    rack = RackProcess(tmp_path / "rack", region, "--tftp", "")
    port = quiet_port()
    passed = [word for name in ("PYTHONPATH", "LD_PRELOAD") if name in os.environ for word in ("-E", name)]
    command = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", *passed, *rack.command]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        deadline = 200
        while deadline:  # it listens before it says anything
            try:
                waiting = socket.create_connection(("127.0.0.1", port), timeout=60)
                break
            except ConnectionRefusedError:
                deadline -= 1
                assert process.poll() is None and deadline
                subprocess.run([sys.executable, "-c", ""], check=True)  # time goes by
        with waiting:  # who comes first starts the rack, and is answered by it
            waiting.sendall(b"GET /bootx64.efi HTTP/1.0\r\n\r\n")
            assert process.stdout is not None
            assert process.stdout.readline() == f"ready http=127.0.0.1:{port}\n"
            got = b""
            while block := waiting.recv(65536):
                got += block
        assert got.startswith(b"HTTP/1.1 200 OK\r\n") and got.endswith(LOADER)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        if process.stdout is not None:
            process.stdout.close()
    assert re.search(rf"HTTP: 127\.0\.0\.1:{port}, inherited", (tmp_path / "log").read_text())
