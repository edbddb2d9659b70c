"""Sockets that were opened before this process ran: what is taken, and what is said of the others."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bootplane.dataplane.activation import ActivationError, inherited
from bootplane.dataplane.notify import Manager

SERVICES = {"http": socket.SOCK_STREAM, "tftp": socket.SOCK_DGRAM}


class Opener:
    """What a service manager does, with descriptors from *first* on."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.taken: list[socket.socket] = []

    def passes(self, *sockets: socket.socket, names: str | None = None, pid: int | None = None) -> dict[str, str]:
        for fd, sock in enumerate(sockets, self.first):
            os.dup2(sock.fileno(), fd)
            sock.close()
        told = {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(len(sockets)), "PATH": "/bin"}
        return told if names is None else {**told, "LISTEN_FDNAMES": names}

    def take(self, environment: dict[str, str]) -> dict[str, list[socket.socket]]:
        found = inherited(SERVICES, environment, self.first)
        assert environment == {"PATH": "/bin"}, "no child may take them for its own"
        self.taken += [sock for sockets in found.values() for sock in sockets]
        return found


@pytest.fixture
def opener() -> Iterator[Opener]:
    with ExitStack() as stack:  # a run of free descriptors
        held = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(40)]
        first = max(file.fileno() for file in held) + 1
    it = Opener(first)
    yield it
    for fd in range(first, first + 8):
        for sock in it.taken:
            if sock.fileno() == fd:
                sock.detach()
        try:
            os.close(fd)
        except OSError:
            continue


def listener(family: int = socket.AF_INET) -> socket.socket:
    return socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family)


def datagrams() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def test_names_say_what_a_socket_is_for_and_its_type_does_where_they_do_not(opener: Opener) -> None:
    first, second, udp = listener(), listener(socket.AF_INET6), datagrams()
    places = [sock.getsockname() for sock in (first, second, udp)]
    found = opener.take(opener.passes(first, second, udp, names="http:bootplane.socket:tftp"))
    assert [sock.getsockname() for sock in found["http"] + found["tftp"]] == places
    assert len(found["http"]) == 2
    for sock in found["http"] + found["tftp"]:
        assert not sock.getblocking() and not os.get_inheritable(sock.fileno())


def test_without_names_types_say_it(opener: Opener) -> None:
    found = opener.take(opener.passes(datagrams(), listener()))
    assert [len(found["http"]), len(found["tftp"])] == [1, 1]


@pytest.mark.parametrize("pid", [1, None])
def test_what_is_meant_for_another_process_is_not_taken(opener: Opener, pid: int | None) -> None:
    environment = opener.passes(listener(), pid=pid or os.getppid())
    assert opener.take(environment) == {"http": [], "tftp": []}
    assert opener.take({"PATH": "/bin"}) == {"http": [], "tftp": []}


def refusal(opener: Opener, *sockets: socket.socket, names: str | None = None) -> str:
    with pytest.raises(ActivationError) as refused:
        opener.take(opener.passes(*sockets, names=names))
    return str(refused.value).replace(f"socket {opener.first}", "socket N")


def test_what_cannot_be_served_is_one_sentence(opener: Opener) -> None:
    assert refusal(opener, datagrams(), names="http") == (
        "inherited socket N (http): expected SOCK_STREAM, got SOCK_DGRAM"
    )
    assert refusal(opener, listener(), names="tftp") == (
        "inherited socket N (tftp): expected SOCK_DGRAM, got SOCK_STREAM"
    )
    plain = socket.socket()
    plain.bind(("127.0.0.1", 0))
    assert refusal(opener, plain) == (
        "inherited socket N: expected a listening socket, got one that is not (systemd: Accept=no)"
    )
    assert refusal(opener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) == (
        "inherited socket N: expected a socket that is bound to a port, got none"
    )
    connected = datagrams()
    connected.connect(("127.0.0.1", 9))
    assert refusal(opener, connected, names="tftp") == (
        "inherited socket N (tftp): expected a socket that hears everybody, got one that is connected"
    )


def test_what_is_no_internet_socket_is_one_sentence(opener: Opener, tmp_path: Path) -> None:
    local = socket.socket(socket.AF_UNIX)
    local.bind(str(tmp_path / "socket"))
    assert refusal(opener, local, names="http") == (
        "inherited socket N (http): expected an IPv4 or IPv6 socket, got AF_UNIX"
    )
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    with (tmp_path / "file").open("w") as plain:
        os.dup2(plain.fileno(), opener.first)
    with pytest.raises(ActivationError, match=r"expected a socket, got Socket operation on non-socket"):
        inherited(SERVICES, environment, opener.first)
    os.close(opener.first)
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    with pytest.raises(ActivationError, match=r"expected a socket, got Bad file descriptor"):
        inherited(SERVICES, environment, opener.first)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"LISTEN_FDS": "many"}, "LISTEN_FDS: expected a number of sockets, got 'many'"),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "http"}, "LISTEN_FDNAMES: expected 2 names, got 'http'"),
    ],
)
def test_variables_that_make_no_sense_are_one_sentence(told: dict[str, str], sentence: str) -> None:
    with pytest.raises(ActivationError) as refused:
        inherited(SERVICES, {"LISTEN_PID": str(os.getpid()), **told})
    assert str(refused.value) == sentence


# -- the manager ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["@bootplane-test-{pid}", "{directory}/notify"])
def test_a_manager_hears_what_happens(tmp_path: Path, address: str) -> None:
    address = address.format(pid=os.getpid(), directory=tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address.replace("@", "\0"))
        heard.settimeout(10)
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}
        manager = Manager(environment)
        assert (environment, manager.watchdog_s) == ({}, 2.0)
        manager.ready("serves")
        manager.alive()
        manager.stopping("ends")
        assert [heard.recv(100) for _ in range(3)] == [
            b"READY=1\nSTATUS=serves",
            b"WATCHDOG=1",
            b"STOPPING=1\nSTATUS=ends",
        ]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nowhere/socket"}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_manager_nothing_is_said_and_nothing_fails(environment: dict[str, str]) -> None:
    Manager(environment).ready("serves")


def test_a_watchdog_of_another_process_is_not_ours() -> None:
    assert Manager({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}).watchdog_s is None
    assert Manager({"WATCHDOG_USEC": "0"}).watchdog_s is None
