"""A TCP relay between a client and a region: counts what the client sends, and can hold it back in the middle.

Invariant: bytes pass in their order and unchanged; what is held back has not reached the region.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PIECE = 64 << 10
WAIT_S = 60.0


class Relay:
    """Listens on *address*, passes on to *target*. ``hold_at``: bytes of one connection after which it is held, until
    ``release``; ``held`` tells when that is."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.hold_at: int | None = None
        self.hold_request: bytes | None = None  # connections that send a piece with this in it are held before it
        self.held = threading.Event()
        self.release = threading.Event()
        self.sent: list[int] = []  # bytes from the client, by connection
        self._is_cut = False
        self._ending = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def total(self) -> int:
        return sum(self.sent)

    def forget(self) -> None:
        """Count anew, and hold nobody."""
        self.sent.clear()
        self.hold_at = None

    def cut(self) -> None:
        """What is held back never arrives: the connection ends there, and later ones are not held."""
        self._is_cut = True
        self.release.set()
        self.forget()

    def close(self) -> None:
        self._ending = True
        self.release.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _accept(self) -> None:
        while not self._ending:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.sent.append(0)
            try:
                region = socket.create_connection(self._target, timeout=WAIT_S)
            except OSError:
                client.close()
                continue
            region.settimeout(None)
            down = threading.Thread(target=self._down, args=(client, region), daemon=True)
            up = threading.Thread(target=self._up, args=(client, region, len(self.sent) - 1, down), daemon=True)
            for thread in (down, up):
                thread.start()
                self._threads.append(thread)

    def _up(self, client: socket.socket, region: socket.socket, number: int, down: threading.Thread) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := client.recv(PIECE):
                is_chosen = self.hold_request is not None and self.hold_request in data
                if is_chosen or (self.hold_at is not None and passed + len(data) > self.hold_at):
                    self.held.set()
                    self.release.wait(WAIT_S)
                    if self._is_cut:
                        break
                region.sendall(data)
                passed += len(data)
                if number < len(self.sent):
                    self.sent[number] += len(data)
        _hang_up(region)
        down.join(WAIT_S)
        client.close()  # with bytes unread: a reset, as from a region that refuses them
        region.close()

    def _down(self, client: socket.socket, region: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := region.recv(PIECE):
                client.sendall(data)
        _hang_up(client)


def _hang_up(side: socket.socket) -> None:
    with contextlib.suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay(target: str) -> Iterator[Relay]:
    made = Relay(target)
    try:
        yield made
    finally:
        made.close()
