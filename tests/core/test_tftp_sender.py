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
