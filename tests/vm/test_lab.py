"""The lab itself: where it cannot be had it says why in one sentence, and it leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.vm import guests, lab, net
from tests.vm.net import LabUnavailable, Network

pytestmark = pytest.mark.vm

ROOT = Path(__file__).resolve().parents[2]
#: a lab's wire with a process and a tap on it, in a process that can be killed
HOLDER = """
import sys, time
from pathlib import Path
from tests.vm.net import Lease, Network
network = Network(Path(sys.argv[1]), "", [Lease("52:54:00:77:00:01", "10.77.0.101")])
network.tap("tap0")
slept = network.start(network.rack, ["sleep", "600"])
print(network.switch.path, slept.pid, *(process.pid for process in network._processes), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_leaves_no_process_and_no_namespace(tmp_path: Path, sign: signal.Signals) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert holder.stdout is not None
    namespace, *pids = holder.stdout.readline().split()
    network = Path(namespace).stat().st_ino
    assert network in _networks()
    holder.send_signal(sign)
    holder.wait()
    holder.stdout.close()
    deadline = time.monotonic() + 60
    while left := [pid for pid in pids if _is_alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)
    assert network not in _networks()


def test_a_missing_tool_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabUnavailable, match=r"apt-get install .* dnsmasq-base .*nftables"):
        Network(tmp_path, "", [])


def test_missing_firmware_is_named_with_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "IPXE_ROM", "/nowhere/efi-virtio.rom")
    with pytest.raises(LabUnavailable, match=r"^/nowhere/efi-virtio.rom not here: apt-get install .* ipxe-qemu"):
        guests.check()


def test_without_the_right_to_a_namespace_the_lab_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def unshare(self, flags: int) -> int:
            os.setuid(65534)
            return int(libc.unshare(flags))

    libc = net._LIBC
    monkeypatch.setattr(net, "_LIBC", Refusing())
    with pytest.raises(LabUnavailable, match=r"^no network namespace to be had: Operation not permitted"):
        Network(tmp_path, "", [])


def test_what_a_killed_run_has_left_on_disk_goes_with_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, lock = lab._work_folder()
    os.close(lock)  # as its process's end would
    mine, lock = lab._work_folder()
    assert not left.exists()
    os.close(lab._work_folder()[1])
    assert mine.exists()
    os.close(lock)


def _is_alive(pid: str) -> bool:
    """Whether it runs: one that nobody has waited for is dead all the same."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _networks() -> set[int]:
    """Inodes of the network namespaces that processes are in."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(link.stat().st_ino)
        except OSError:  # ended meanwhile, or a zombie
            continue
    return found
