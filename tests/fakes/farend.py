"""A second host: a network namespace of its own at the other end of a pair of virtual interfaces.

Root (or ``unshare -rn``) is needed, and a network namespace of the caller's own to put the near end in: only the
process that holds the far namespace is ended here, the rest goes with the near one.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

NEAR, FAR = "198.18.0.1", "198.18.0.2"  # RFC 2544: for tests
NEAR6, FAR6 = "fd00:18::1", "fd00:18::2"
_CLONE_NEWNET = 0x40000000  # <linux/sched.h>


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=30)


def set_mtu(mtu: int) -> None:
    """Of the near end: what is sent from here has to fit."""
    ip("link", "set", "near", "mtu", str(mtu))


class FarEnd:
    def __init__(self, pid: int) -> None:
        self.pid = pid

    @contextmanager
    def there(self) -> Iterator[None]:
        """Sockets that this thread opens meanwhile are the far end's."""
        libc = ctypes.CDLL(None, use_errno=True)
        here = os.open("/proc/self/ns/net", os.O_RDONLY)
        far = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            _enter(libc, far)
            try:
                yield
            finally:
                _enter(libc, here)
        finally:
            os.close(far)
            os.close(here)


def _enter(libc: ctypes.CDLL, namespace: int) -> None:
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def far_end(mtu: int) -> Iterator[FarEnd]:
    """Both ends up, with an address of each family; no loopback interface is touched."""
    with subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as holder:  # fmt: skip
        assert holder.stdout is not None
        holder.stdout.readline()  # it is in its namespace
        there = ("nsenter", "-t", str(holder.pid), "-n", "ip")
        ip("link", "add", "near", "mtu", str(mtu), "type", "veth", "peer", "name", "far", "netns", str(holder.pid))
        for (*command, name), address, address6 in (("ip", "near"), NEAR, NEAR6), ((*there, "far"), FAR, FAR6):
            for words in (
                ["address", "add", f"{address}/30", "dev", name],
                ["link", "set", name, "mtu", str(mtu), "up"],
                ["address", "add", f"{address6}/64", "dev", name, "nodad"] if mtu >= 1280 else ["link"],  # RFC 8200, 5
            ):
                subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL, timeout=30)
        try:
            yield FarEnd(holder.pid)
        finally:
            holder.kill()


def can_be_had() -> bool:
    script = "ip link add near type veth peer name far && unshare -n true"
    try:
        return subprocess.run(["unshare", "-rn", "sh", "-c", script], capture_output=True, timeout=30).returncode == 0
    except FileNotFoundError:
        return False
