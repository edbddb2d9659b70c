"""A TFTP client that does exactly what a test tells it, and a rack to talk to.

``TftpClient`` sends and receives one packet at a time; ``fetch`` is a client by RFC 7440 with a loss that the test
chooses. ``Rack`` is one reactor on a loopback port. Nothing here waits for "nothing happens": ``Rack.settle()`` makes
the reactor work off what was sent before, and then whatever it had to say is in the client's socket.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from bootplane.core.blob import Blob
from bootplane.core.reactor import Reactor
from bootplane.core.table import Table

PATIENCE_S = 60.0
Address = tuple[str, int]


class Packet(NamedTuple):
    """One packet; *number* is the block of DATA and ACK, the code of ERROR; *data* the rest."""

    kind: str
    number: int
    data: bytes
    options: dict[str, str]


KINDS = {1: "RRQ", 2: "WRQ", 3: "DATA", 4: "ACK", 5: "ERROR", 6: "OACK"}


def parse(raw: bytes) -> Packet:
    kind = KINDS[int.from_bytes(raw[:2], "big")]
    if kind == "OACK":
        words = raw[2:].split(b"\0")
        assert words.pop() == b"", "an OACK ends with NUL"
        texts = [word.decode() for word in words]
        return Packet(kind, 0, b"", dict(zip(texts[::2], texts[1::2], strict=True)))
    number = int.from_bytes(raw[2:4], "big")
    if kind == "ERROR":
        assert raw.endswith(b"\0"), "an ERROR's text ends with NUL"
        return Packet(kind, number, raw[4:-1], {})
    return Packet(kind, number, raw[4:], {})


class Fetched(NamedTuple):
    data: bytes
    oack: dict[str, str] | None
    received: int  # DATA packets that reached the client, those it dropped included
    acks: int


class TftpClient:
    """A socket of its own; ``tid`` is the server's address once it has answered."""

    def __init__(self, server: Address, *, bind: str | None = None, port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        self.server = server
        self.tid: Address | None = None
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind((bind or ("::1" if family == socket.AF_INET6 else "127.0.0.1"), port))
        self.address: Address = self.socket.getsockname()[:2]

    def __enter__(self) -> TftpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, raw: bytes, to: Address | None = None) -> None:
        self.socket.sendto(raw, to or self.server)

    def rrq(self, name: str, mode: str = "octet", **options: object) -> None:
        """A new request; whoever answers first is the TID."""
        self.tid = None
        self.repeat(name, mode, **options)

    def repeat(self, name: str, mode: str = "octet", **options: object) -> None:
        words = [name, mode, *(str(word) for item in options.items() for word in item)]
        self.send(b"\0\1" + b"".join(word.encode("latin-1") + b"\0" for word in words))

    def ack(self, block: int, to: Address | None = None) -> None:
        self.send(b"\0\4" + (block % 65536).to_bytes(2, "big"), to or self.tid)

    def error(self, code: int, text: str = "") -> None:
        self.send(b"\0\5" + code.to_bytes(2, "big") + text.encode() + b"\0", self.tid)

    def receive(self, patience_s: float = PATIENCE_S) -> Packet:
        """The next packet; raises TimeoutError. Checks that it comes from the TID that answered first."""
        packet, source = self.receive_from(patience_s)
        if self.tid is None:
            self.tid = source
        assert source == self.tid, f"{packet} from {source}, the transfer's TID is {self.tid}"
        return packet

    def receive_from(self, patience_s: float = PATIENCE_S) -> tuple[Packet, Address]:
        self.socket.settimeout(patience_s)
        raw, source = self.socket.recvfrom(70000)
        return parse(raw), source[:2]

    def waiting(self) -> list[Packet]:
        """What is in the socket now."""
        packets = []
        while select.select([self.socket], [], [], 0)[0]:
            packets.append(self.receive())
        return packets

    def fetch(self, name: str, *, lose: Callable[[Packet], bool] = lambda packet: False, **options: object) -> Fetched:
        """Fetches a whole file as RFC 7440 says: one ACK for each window, and one of the last good block for a gap.

        *lose* is asked about each packet that arrives. Stale blocks are answered too, as UEFI firmware does.
        """
        self.rrq(name, **options)
        blksize, windowsize, oack = 512, 1, None
        parts: list[bytes] = []
        received = acks = in_window = 0
        while True:
            packet = self.receive()
            received += packet.kind == "DATA"
            if lose(packet):
                continue
            if packet.kind == "OACK":
                oack = packet.options
                blksize, windowsize = int(oack.get("blksize", 512)), int(oack.get("windowsize", 1))
                self.ack(0)
                continue
            assert packet.kind == "DATA", packet
            if packet.number == (len(parts) + 1) % 65536:
                parts.append(packet.data)
                in_window += 1
                if in_window < windowsize and len(packet.data) == blksize:
                    continue
            in_window = 0
            self.ack(len(parts))
            acks += 1
            if parts and len(parts[-1]) < blksize:
                return Fetched(b"".join(parts), oack, received, acks)


class Rack:
    """A reactor that serves *names* by TFTP on loopback; bytes become blobs in memory."""

    def __init__(self, names: Mapping[str, bytes | Blob], *, bind: str = "127.0.0.1", v6only: bool = True,
                 park_limit_s: float = 20.0, publish: bool = True, **options: Any) -> None:  # fmt: skip
        self.socket = socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET, socket.SOCK_DGRAM)
        if ":" in bind:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
        self.socket.setblocking(False)
        self.socket.bind((bind, 0))
        self.port: int = self.socket.getsockname()[1]
        wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1" if v6only else "127.0.0.1"}
        self.address: Address = (wildcards.get(bind, bind), self.port)
        self.reactor = Reactor(tftp=[self.socket.fileno()], tftp_options=options, park_limit_s=park_limit_s)
        if publish:
            self.publish(names)
        self._settler: TftpClient | None = None
        self._settled = 0
        self.reactor.start()
        self.settle()  # the snapshot has arrived: requests before it are met with silence

    def publish(self, names: Mapping[str, bytes | Blob]) -> None:
        blobs = {name: Blob.memory(data) if isinstance(data, bytes) else data for name, data in names.items()}
        self.table = Table(blobs, 1)
        self.reactor.publish(self.table)

    def close(self) -> None:
        if self._settler:
            self._settler.socket.close()
        self.reactor.stop()
        self.socket.close()

    def client(self, **where: Any) -> TftpClient:
        return TftpClient(self.address, **where)

    def settle(self) -> None:
        """Returns when the reactor has worked off everything sent to it before this call.

        Two write requests: each is answered with an ERROR, in the order of arrival on a single thread.
        """
        if self._settler is None:
            self._settler = self.client()
        for _ in range(2):
            self._settler.send(b"\0\2settle\0octet\0")
            packet, _ = self._settler.receive_from()
            assert (packet.kind, packet.number) == ("ERROR", 2)
            self._settled += 1

    def counters(self) -> dict[str, int]:
        """The reactor's counters after settling, without the ERRORs of settling itself."""
        self.settle()
        counters = self.reactor.counters()
        counters["tftp_errors"] -= self._settled
        return counters

    def until(self, counter: str, value: int) -> dict[str, int]:
        """The counters, once *counter* has reached *value*: for what the reactor's own deadlines bring about."""
        end = time.monotonic() + PATIENCE_S
        while (counters := self.counters())[counter] < value:
            assert time.monotonic() < end, f"{counter} is {counters[counter]} and not {value} after {PATIENCE_S} s"
            select.select([self.socket], [], [], 0.005)
        return counters

    def mail(self) -> list[tuple[Any, ...]]:
        """The reactor's next mails to Python; waits for the first."""
        assert select.select([self.reactor.fileno()], [], [], PATIENCE_S)[0], "no mail from the reactor"
        return list(self.reactor.take())


@contextmanager
def serving(names: Mapping[str, bytes | Blob], **options: Any) -> Iterator[Rack]:
    rack = Rack(names, **options)
    try:
        yield rack
    finally:
        rack.close()
