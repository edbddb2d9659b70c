from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from bootplane.dataplane import neighbours
from bootplane.dataplane.neighbours import Neighbour

ROOT = Path(__file__).resolve().parents[2]
MAC = bytes.fromhex("525400770001")
V4 = bytes([10, 77, 0, 9])


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def neighbour(state: int, *attributes: bytes) -> bytes:
    return struct.pack("=BBHiHBB", 2, 0, 0, 3, state, 0, 1) + b"".join(attributes)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body + b"\0" * (-len(body) % 4)


def test_a_resolved_neighbour_is_its_address_and_mac_whatever_else_the_kernel_says() -> None:
    cache_info = attribute(3, b"\0" * 16)
    body = neighbour(neighbours.NUD_REACHABLE, attribute(1, V4), cache_info, attribute(2, MAC))
    assert list(neighbours.neighbours(body)) == [Neighbour("10.77.0.9", "52:54:00:77:00:01", neighbours.NUD_REACHABLE)]
    v6 = neighbour(neighbours.NUD_STALE, attribute(1, bytes.fromhex("fd77" + "0" * 26 + "09")), attribute(2, MAC))
    assert [each.address for each in neighbours.neighbours(v6)] == ["fd77::9"]


@pytest.mark.parametrize(
    "body",
    [
        neighbour(0x20, attribute(1, V4), attribute(2, MAC)),  # FAILED
        neighbour(0x01, attribute(1, V4)),  # INCOMPLETE
        neighbour(0x40, attribute(1, bytes([127, 0, 0, 1])), attribute(2, b"\0" * 6)),  # NOARP: loopback
        neighbour(0x02, attribute(1, V4), attribute(2, b"\0" * 6)),
        neighbour(0x02, attribute(1, V4), attribute(2, b"\0" * 20)),  # InfiniBand: no MAC
        neighbour(0x02, attribute(2, MAC)),
        neighbour(0x02, struct.pack("=HH", 200, 1) + V4),  # longer than the message
        neighbour(0x02, struct.pack("=HH", 0, 1) + V4),
        b"short",
    ],
)
def test_what_is_not_resolved_or_not_whole_is_no_neighbour(body: bytes) -> None:
    assert list(neighbours.neighbours(body)) == []


def test_a_datagram_of_several_messages_is_read_to_its_end_and_no_further() -> None:
    first, second = message(28, b"12345"), message(3, b"\0\0\0\0")
    assert list(neighbours.messages(first + second)) == [(28, b"12345"), (3, b"\0\0\0\0")]
    assert list(neighbours.messages(first + second[:10])) == [(28, b"12345")]
    assert list(neighbours.messages(struct.pack("=IHHII", 0, 28, 0, 0, 0))) == []


def test_the_surer_entry_of_an_address_wins_and_a_tie_is_nobodys() -> None:
    stale, sure = (Neighbour("10.0.0.1", f"02:00:00:00:00:0{n}", state) for n, state in ((1, 0x04), (2, 0x02)))
    assert neighbours.table([stale, sure]) == neighbours.table([sure, stale]) == {"10.0.0.1": sure.mac}
    assert neighbours.table([sure, sure._replace(mac="02:00:00:00:00:03")]) == {}
    assert neighbours.table([sure, sure]) == {"10.0.0.1": sure.mac}


@pytest.mark.integration
def test_the_kernels_own_table_is_read_with_both_families(tmp_path: Path) -> None:
    """In a network namespace of its own, where the table is known."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        assert "CI" not in os.environ, "unshare and ip are missing, and CI must have them"
        pytest.skip("unshare or ip is not on this machine")
    script = f"""
        set -e
        ip link add d0 type bridge
        ip link set d0 up
        ip neigh add 10.9.0.1 lladdr 02:00:00:00:00:01 dev d0 nud permanent
        ip -6 neigh add fd00::9 lladdr 02:00:00:00:00:02 dev d0 nud stale
        {sys.executable} -c 'import json; from bootplane.dataplane import neighbours as n; print(json.dumps(n.read()))'
    """
    how = "-n" if os.geteuid() == 0 else "-rn"  # root needs no user namespace, which a chroot refuses
    done = subprocess.run(["unshare", how, "sh", "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"10.9.0.1": "02:00:00:00:00:01", "fd00::9": "02:00:00:00:00:02"}
