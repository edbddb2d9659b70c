"""Sockets that TIDs send from, and paths narrower than a loopback interface: between two network namespaces."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from tests.fakes.farend import can_be_had

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_be_had(), reason="no network namespaces with virtual interfaces here"),
]

COMMON = """
import os, subprocess, sys
from bootplane.core.blob import Blob
from bootplane.core.reactor import Reactor
from bootplane.core.table import Table
from tests.fakes.farend import FAR, FAR6, NEAR, NEAR6, far_end, ip, set_mtu
from tests.fakes.tftp_client import TftpClient, serving
data = os.urandom(400_000)
"""


def run(script: str, loopback: bool = True) -> str:
    up = "ip link set lo up && " if loopback else ""
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-c", f'{up}exec "{sys.executable}" -c "$SCRIPT"'],
        env={**os.environ, "SCRIPT": COMMON + script, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


AGREED = """
asked = {{"blksize": 65464, "windowsize": 8}}
with far_end(mtu={mtu}) as far, serving({{"kernel": data}}, bind="{bind}", v6only=False, max_blksize=65464) as rack:
    {before}
    with far.there():
        client = TftpClient(("{near}", rack.port), bind="{far}")
    with client:
        got = client.fetch("kernel", **asked)
        assert got.data == data
        print(got.oack["blksize"], got.oack["windowsize"], -(-len(data) // int(got.oack["blksize"])) == got.received)
"""


@pytest.mark.parametrize(
    "mtu, bind, near, far, agreed",
    [
        (1500, "0.0.0.0", "198.18.0.1", "198.18.0.2", 1468),  # what UEFI asks for itself
        (1500, "198.18.0.1", "198.18.0.1", "198.18.0.2", 1468),
        (1500, "::", "198.18.0.1", "198.18.0.2", 1468),  # a socket of both families
        (1500, "::", "fd00:18::1", "fd00:18::2", 1448),
        (1500, "fd00:18::1", "fd00:18::1", "fd00:18::2", 1448),
        (9000, "0.0.0.0", "198.18.0.1", "198.18.0.2", 8968),
        (65535, "0.0.0.0", "198.18.0.1", "198.18.0.2", 65464),
        (500, "0.0.0.0", "198.18.0.1", "198.18.0.2", 512),  # less needs no option: the kernel cuts those in pieces
    ],
)  # fmt: skip
def test_a_block_fits_the_path_to_its_client(mtu: int, bind: str, near: str, far: str, agreed: int) -> None:
    """RFC 2348, "Blocksize Option Specification": the server may answer with less than was asked for."""
    script = AGREED.format(mtu=mtu, bind=bind, near=near, far=far, before="pass")
    assert run(script) == f"{agreed} 8 True\n"


def test_the_mtu_of_a_route_counts_as_that_of_a_link_does() -> None:
    script = AGREED.format(mtu=1500, bind="0.0.0.0", near="198.18.0.1", far="198.18.0.2",
                           before='ip("route", "add", FAR + "/32", "dev", "near", "mtu", "1400")')  # fmt: skip
    assert run(script) == "1368 8 True\n"


NARROWER = """
with far_end(mtu=1500) as far, serving({{"kernel": data}}, bind="{bind}", timeout_s=60) as rack:
    with far.there():
        client = TftpClient(("{near}", rack.port), bind="{far}")
    with client:
        got = client.fetch("kernel", blksize=1448, windowsize={windowsize}, lose=lambda packet: (
            packet.kind == "DATA" and packet.number == 50 and set_mtu(1400)))
        assert got.data == data
        print(got.oack["blksize"])
"""


@pytest.mark.parametrize("windowsize", [1, 16])
@pytest.mark.parametrize(
    "bind, near, far", [("0.0.0.0", "198.18.0.1", "198.18.0.2"), ("::", "fd00:18::1", "fd00:18::2")]
)
def test_a_path_that_becomes_narrower_costs_fragments_and_not_the_transfer(
    bind: str, near: str, far: str, windowsize: int
) -> None:
    assert run(NARROWER.format(bind=bind, near=near, far=far, windowsize=windowsize)) == "1448\n"


WITHOUT_LOOPBACK = """
import select, socket
with far_end(mtu=1500) as far:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", 0))
    sock.setblocking(False)
    reactor = Reactor(tftp=[sock.fileno()])
    reactor.publish(Table({"kernel": Blob.memory(data)}, 1))
    reactor.start()
    with far.there():
        first, client = (TftpClient((NEAR, sock.getsockname()[1]), bind=FAR) for _ in range(2))
    with first, client:
        while not select.select([first.socket], [], [], 0.1)[0]:
            first.rrq("kernel")  # until the link is up, and the reactor has its snapshot
        print(client.fetch("kernel", blksize=1428, windowsize=4).data == data)
    reactor.stop()
"""


def test_without_a_loopback_interface_a_tid_hears_and_sends_on_one_socket() -> None:
    assert run(WITHOUT_LOOPBACK, loopback=False) == "True\n"


TWO_SOCKETS = """
with serving({"kernel": data}, tids=4, bind="0.0.0.0") as rack:
    sockets = [line.split()[1:3] for line in open("/proc/net/udp").readlines()[1:]]
    ports = [near.split(":")[1] for near, _ in sockets]
    twice = {port for port in ports if ports.count(port) == 2}
    print(len(twice), [far for near, far in sockets if near.split(":")[1] in twice and far != "00000000:0000"])
    import socket
    for port in twice:
        third = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        third.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            third.bind(("0.0.0.0", int(port, 16)))
        except OSError:
            continue
        print("a third socket on", port)
"""


def test_a_tid_has_two_sockets_and_its_port_takes_no_third() -> None:
    four = ["0100007F:0009"] * 4  # connected to the discard port
    assert run(TWO_SOCKETS) == f"4 {four}\n"
