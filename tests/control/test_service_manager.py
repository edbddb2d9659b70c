"""``region`` and ``up`` under a service manager: sockets they inherit, and what they tell."""

from __future__ import annotations

import http.client
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.activation import passing

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

WAIT_S = 90.0
ANY = "127.0.0.1:0"
REGION = ["region", "--listen", ANY, "--bulk", ANY]
UP = ["up", *REGION[1:], "--http", ANY, "--tftp", ANY]


def bootplane(data: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "bootplane", *words, "--data", str(data)]


@contextmanager
def running(command: Sequence[str], log: Path, **options: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its ready line; it ends with status 0, or the test has failed."""
    with (
        log.open("a") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, **options) as process,  # type: ignore[call-overload]
    ):
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready.startswith("ready "), log.read_text()
            yield process, ready
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0, log.read_text()


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=64)


def address(sock: socket.socket) -> str:
    return f"127.0.0.1:{sock.getsockname()[1]}"


def test_a_region_serves_inherited_sockets_and_a_restart_refuses_nobody(tmp_path: Path) -> None:
    with listener() as api, listener() as bulk:
        command = passing(["bulk", "region"], [bulk.fileno(), api.fileno()], bootplane(tmp_path / "data", "region"))
        fds = (bulk.fileno(), api.fileno())
        for _ in range(2):
            waits = http.client.HTTPConnection(address(api), timeout=WAIT_S)
            waits.request("GET", "/healthz")  # nobody has accepted it: it came before the region
            with running(command, tmp_path / "log", pass_fds=fds) as (_, ready):
                assert ready == f"ready region={address(api)} bulk={address(bulk)}\n"
                assert waits.getresponse().status == 200
                waits.close()
                files = http.client.HTTPConnection(address(bulk), timeout=WAIT_S)
                files.request("GET", "/blob/nobody")
                assert files.getresponse().status == 404
                files.close()


def refused(command: Sequence[str], fds: Sequence[int]) -> str:
    done = subprocess.run(command, pass_fds=fds, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    return done.stderr


def test_a_region_does_not_guess_which_of_two_is_for_files(tmp_path: Path) -> None:
    with listener() as one, listener() as other:  # one unit with two ListenStream=: both have its name
        fds = [one.fileno(), other.fileno()]
        said = refused(passing(["bootplane.socket"] * 2, fds, bootplane(tmp_path / "data", "region")), fds)
    assert said == (
        "bootplane region: inherited sockets: expected at most one for region, got 2 "
        "(systemd: FileDescriptorName=region and =bulk, each in a unit of its own)\n"
    )


def test_up_takes_none_and_says_so(tmp_path: Path) -> None:
    with listener() as sock:
        said = refused(passing(["http"], [sock.fileno()], bootplane(tmp_path / "data", *UP)), [sock.fileno()])
    assert said == (
        "bootplane up: inherited sockets: expected none, got 1: `bootplane up` opens its own; "
        "leave its socket unit out (docs/howto/systemd.md)\n"
    )


@contextmanager
def heard(path: Path) -> Iterator[queue.Queue[bytes]]:
    """What is sent to the manager at *path*, read at once: a socket holds few datagrams."""
    said: queue.Queue[bytes] = queue.Queue()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))

        def listen() -> None:
            while word := manager.recv(200):
                said.put(word)

        listening = threading.Thread(target=listen)
        listening.start()
        try:
            yield said
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", str(path))
            listening.join()


@pytest.mark.parametrize("words", [REGION, UP], ids=["region", "up"])
def test_a_manager_hears_that_it_serves_lives_and_ends(tmp_path: Path, words: list[str]) -> None:
    with heard(tmp_path / "notify") as said:
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with running(bootplane(tmp_path / "data", *words), tmp_path / "log", env=environment):
            word = said.get(timeout=WAIT_S)
            while not word.startswith(b"READY=1\nSTATUS=serves "):
                assert word == b"WATCHDOG=1"  # `up` lives while it waits for its children
                word = said.get(timeout=WAIT_S)
            assert [said.get(timeout=WAIT_S) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        while not word.startswith(b"STOPPING=1\nSTATUS=finishes "):
            word = said.get(timeout=WAIT_S)
