"""What systemd does for a socket unit: sockets open before the program runs, at descriptors 3 and up, and after it.

with Opened(http=[...], tftp=[...]) as opened: subprocess.Popen(opened.command(command), pass_fds=opened.fds)
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

PASS = """
import os, sys
count, names = int(sys.argv[1]), sys.argv[2]
for fd in [os.dup(int(fd)) for fd in sys.argv[3 : 3 + count]]:   # new ones are above all that are there
    os.set_inheritable(fd, True)
    last = fd
for place, fd in enumerate(range(last - count + 1, last + 1), 3):
    os.dup2(fd, place)
os.closerange(3 + count, last + 1)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), LISTEN_FDNAMES=names)
os.execv(sys.executable, [sys.executable, *sys.argv[4 + count :]])
"""


def passing(names: Sequence[str], fds: Sequence[int], command: Sequence[str]) -> list[str]:
    """*command*, a Python's, with the sockets *fds*, which have to be passed on, under their *names*."""
    assert command[0] == sys.executable and len(names) == len(fds)
    return [sys.executable, "-c", PASS, str(len(fds)), ":".join(names), *map(str, fds), *command]


class Opened:
    """Sockets on any free port of *hosts*, *copies* of each UDP one (a unit with ReusePort=)."""

    def __init__(self, hosts: Sequence[str] = ("127.0.0.1",), copies: int = 1, https: bool = False) -> None:
        self.http = [_opened(host, 0, socket.SOCK_STREAM) for host in hosts]
        self.https = [_opened(host, 0, socket.SOCK_STREAM) for host in hosts if https]
        self.tftp: list[socket.socket] = []
        for host in hosts:
            port = 0
            for _ in range(copies):
                self.tftp.append(_opened(host, port, socket.SOCK_DGRAM))
                port = self.tftp[-1].getsockname()[1]

    @property
    def fds(self) -> list[int]:
        return [sock.fileno() for sock in self.http + self.https + self.tftp]

    def command(self, command: Sequence[str]) -> list[str]:
        """*command*, a Python's, as this process's child has to begin."""
        names = ["http"] * len(self.http) + ["https"] * len(self.https) + ["tftp"] * len(self.tftp)
        return passing(names, self.fds, command)

    def close(self) -> None:
        for sock in self.http + self.https + self.tftp:
            sock.close()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    if kind == socket.SOCK_DGRAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    if kind == socket.SOCK_STREAM:
        sock.listen(4096)
    return sock
