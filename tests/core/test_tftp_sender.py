"""The TFTP sender on links that loopback is not: network namespaces of the tests' own."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest


def in_namespace(link: str, script: str) -> subprocess.CompletedProcess[str]:
    """Runs *script* where *link* has made the loopback interface what the test needs."""
    if not all(shutil.which(tool) for tool in ("unshare", "ip", "tc")):
        pytest.skip("unshare, ip and tc are needed (util-linux, iproute2)")
    if subprocess.run(["unshare", "-rn", "sh", "-c", link], capture_output=True).returncode != 0:
        pytest.skip(f"this kernel refuses `{link}` in a network namespace")
    return subprocess.run(
        ["unshare", "-rn", "sh", "-c", f'{link} && exec "{sys.executable}" -c "$SCRIPT"'],
        env={**os.environ, "SCRIPT": script, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=100,
    )


SLOW_LINK = """
import os, threading
from tests.fakes.tftp_client import serving
data = os.urandom(400_000)
whole = []
def fetch(rack, **options):
    with rack.client() as client:
        whole.append(client.fetch("kernel", **options).data == data)
with serving({"kernel": data}, timeout_s=2, max_windowsize=2000) as rack:
    plans = [{"blksize": (1400, 8000)[i % 2], "windowsize": (64, 1000)[i // 2 % 2]} for i in range(40)]
    threads = [threading.Thread(target=fetch, args=[rack], kwargs=plan) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counters = rack.counters()
    assert counters["tftp_completed"] == 40, counters
print("whole" if whole == [True] * 40 else whole)
"""


SHARED_LINK = """
import os, threading
from bootplane.core.shares import Group, Shares
from tests.fakes.tftp_client import serving
data = os.urandom(400_000)
shares = Shares()
shares.set([Group("all", ("127.0.0.0/8",))])
with serving({"kernel": data}, timeout_s=2, max_windowsize=2000, shares=shares) as rack:
    def fetch():
        with rack.client() as client:
            assert client.fetch("kernel", blksize=1400, windowsize=1000).data == data
    threads = [threading.Thread(target=fetch) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counters = rack.counters()
    assert counters["tftp_completed"] == 40, counters
    print(shares.counts()["all"][0] - counters["tftp_data_bytes"])
"""


@pytest.mark.integration
def test_what_the_kernel_refuses_is_not_counted_against_a_share() -> None:
    link = "ip link set lo mtu 1500 up && tc qdisc add dev lo root tbf rate 100mbit burst 20k limit 60mb"
    done = in_namespace(link, SHARED_LINK)
    assert done.stdout == "0\n", done.stdout + done.stderr


@pytest.mark.integration
def test_a_link_slower_than_the_windows_asked_for_makes_the_service_wait_and_go_on() -> None:
    """16 MB of windows into 100 Mbit/s: the socket's buffer fills, sendmmsg says EAGAIN, EPOLLOUT brings it on."""
    link = "ip link set lo mtu 1500 up && tc qdisc add dev lo root tbf rate 100mbit burst 20k limit 60mb"
    done = in_namespace(link, SLOW_LINK)
    assert done.stdout == "whole\n", done.stderr


LAST_ACK = """
import os, signal, socket, struct
from tests.fakes.tftp_client import serving

def unreachable(near, far):
    udp = struct.pack("!HHHH", near[1], far[1], 8, 0)
    addresses = socket.inet_aton(near[0]) + socket.inet_aton(far[0])
    sent = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0) + addresses + udp
    icmp = struct.pack("!BBHI", 3, 3, 0, 0) + sent
    total = sum(struct.unpack(f"!{len(icmp) // 2}H", icmp))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return icmp[:2] + struct.pack("!H", ~total & 0xFFFF) + icmp[4:]

with serving({"one": b"1"}, timeout_s=60, single_port=SINGLE_PORT) as rack, rack.client() as client:
    server = os.getpid()
    client.rrq("one")
    client.receive()
    pid = os.fork()
    if pid == 0:
        os.kill(server, signal.SIGSTOP)
        client.ack(1)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.sendto(unreachable(client.tid, client.address), ("127.0.0.1", 0))
        os.kill(server, signal.SIGCONT)
        os._exit(0)
    os.waitpid(pid, 0)
    rack.settle()
    counters = rack.counters()
    print(counters["tftp_completed"], counters["tftp_aborted"])
"""


@pytest.mark.integration
@pytest.mark.parametrize("single_port", [0, 1])
def test_a_last_ack_counts_although_its_clients_port_is_closed_by_now(single_port: int) -> None:
    """Both are there when the reactor looks: the ACK, and an ICMP error about a DATA that was sent again before it."""
    done = in_namespace("ip link set lo up", LAST_ACK.replace("SINGLE_PORT", str(single_port)))
    assert done.stdout == "1 0\n", done.stdout + done.stderr
