"""A recorded boot, played to a real reactor: the client's bytes in their order, and the server held to the shape of
what it answered then.

The player sends what the client sent, byte for byte and from the same ports, of an address of its own on loopback.
Where the recording has the server's packet, it waits for one and compares: OACK options, block numbers, sizes and bytes
of DATA, codes of ERROR; status, Content-Length, Connection and names of header fields; whose FIN came first. So packets
keep the recorded order as far as one caused the other, and time does not matter.

What Python is asked for is given only when the next line is the server's answer: a request that was repeated 39 times
before its answer finds the question still open. With *cold_in*, all files' bytes are missed first and given the same
way. There is one pause: an ACK that moves a transfer and came by the client's own timer must be seen to come late.

One liberty is taken. A reactor sends again what is not acknowledged within 200 ms, and this process may not get the CPU
for that long: DATA that came before is let pass when at least that time has gone by since it may have been sent. Sooner
it is an error, because nothing but a deadline may bring it.
"""

from __future__ import annotations

import os
import pathlib
import random
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.core.reactor import Reactor, Record
from bootplane.core.table import Table
from tests.fakes import tftp_client
from tests.fakes.capture import (
    Capture,
    Connect,
    End,
    HttpRequest,
    HttpRequests,
    Packet,
    Reply,
    Run,
    Sent,
    canonical,
    expand,
    is_config,
    is_handed_over,
    kind_of,
    number_of,
    request_of,
)
from tests.fakes.http_client import cold, fill
from tests.fakes.tftp_client import PATIENCE_S, Address, parse

SHORTEST_DEADLINE_S = 0.2  # RTO_MIN_NS of tftp_transfer.pxd
TID_REST_S = 30.0  # TID_REST_NS of tftp_tids.pxd
ST_UNKNOWN = 10  # of status.pxd


def content_of(name: str, size: int) -> bytes:
    """The bytes of the file *name*: others for every name, the same in every run."""
    return random.Random(name).randbytes(size)


class Stage:
    """A reactor with the files of captures, by TFTP and HTTP; a wait for it is where its mails are answered."""

    def __init__(
        self, files: Mapping[str, int], configs: Mapping[str, int], *, cold_in: pathlib.Path | None, timeout_s: float
    ) -> None:
        self.contents = {name: content_of(name, size) for name, size in [*files.items(), *configs.items()]}
        self.configs = {name: Blob.memory(self.contents[name]) for name in configs}
        self.cache = Cache(str(cold_in), 256 << 20) if cold_in else None
        blobs = {name: self._blob(self.contents[name]) for name in files}
        self.cold = {blob.id: (blob, self.contents[name]) for name, blob in blobs.items()} if self.cache else {}
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.setblocking(False)
        self.udp.bind(("127.0.0.1", 0))
        self.tcp = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.tcp.setblocking(False)
        self.tftp: Address = self.udp.getsockname()
        self.http: Address = self.tcp.getsockname()
        self.reactor = Reactor(
            http=[self.tcp.fileno()], tftp=[self.udp.fileno()], tftp_options={"timeout_s": timeout_s}, park_limit_s=60.0
        )
        self.reactor.publish(Table(blobs, 1))
        self.reactor.start()
        self.settler = tftp_client.TftpClient(self.tftp)
        self.asked: list[tuple[str, str, Address]] = []  # name, protocol, peer of each question, in order
        self.missed: list[tuple[int, int]] = []  # blob id and chunk of each miss, in order
        self.handed: list[tuple[int, bytes, Address]] = []  # descriptor, bytes, peer
        self.tids: dict[int, tuple[Address, float]] = {}  # client's port -> TID of its last transfer, and until when
        self.settle()

    def _blob(self, content: bytes) -> Blob:
        if self.cache is None or not content:
            return Blob.memory(content, dynamic=False)
        return cold(self.cache, content)

    def close(self) -> None:
        self.settler.socket.close()
        self.reactor.stop()
        self.udp.close()
        self.tcp.close()
        for fd, _, _ in self.handed:
            os.close(fd)

    def settle(self) -> None:
        """Returns when the reactor has worked off everything sent to it before this call (see tftp_client.Rack)."""
        for _ in range(2):
            self.settler.send(b"\0\2settle\0octet\0")
            packet, _ = self.settler.receive_from()
            assert (packet.kind, packet.number) == ("ERROR", 2)

    def wait(self, sock: socket.socket) -> None:
        """Until *sock* is readable; what the reactor needs meanwhile it is given."""
        end = time.monotonic() + PATIENCE_S
        both = [sock.fileno(), self.reactor.fileno()]
        while both[0] not in select.select(both, [], [], max(0.0, end - time.monotonic()))[0]:
            assert time.monotonic() < end, f"nothing came within {PATIENCE_S} s"
            self.serve()

    def serve(self) -> None:
        for mail in self.reactor.take():
            if mail[0] == "ask":
                _, request, protocol, name, peer, _ = mail
                self.asked.append((name, protocol, peer))
                blob = self.configs.get(name)
                self.reactor.answer(request, blob, 0 if blob else ST_UNKNOWN)
            elif mail[0] == "miss":
                self.missed.append((mail[1], mail[2]))
                blob, content = self.cold[mail[1]]
                assert self.cache is not None
                fill(self.cache, blob, content, mail[2])
                self.reactor.chunk(blob, mail[2])
            elif mail[0] == "handover":
                self.handed.append((mail[1], mail[2], mail[3]))

    def counters(self) -> dict[str, int]:
        self.settle()
        return self.reactor.counters()


class Port:
    """A UDP port of the client, its transfers one after the other."""

    def __init__(self, stage: Stage, address: str, port: int) -> None:
        self.stage = stage
        self.port = port
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind((address, port))
        self.socket.setblocking(False)
        self.tid: Address | None = None
        self.over = True
        self.request = b""
        self.blocks = 0  # of all transfers so far, each block once
        self.at = 0.0  # of its last event in the recording
        self.left: Address | None = None  # TID of a transfer that it ended by ERROR: DATA may be on its way from there

    def send(self, event: Sent) -> None:
        kind = kind_of(event.data)
        last_tid = self.stage.tids[self.port][0] if self.port in self.stage.tids else None
        to = last_tid if event.late else self.tid or last_tid or self.stage.tftp
        if kind in ("RRQ", "WRQ"):
            to = self.stage.tftp
            if self.over or event.data != self.request:
                self._begin(event.data)
        elif kind == "ACK" and not event.late:
            self._ack(number_of(event.data), event.at - self.at)
        elif kind == "ERROR":
            self.over, self.left = True, self.tid
        assert to is not None
        self.at = event.at
        self.socket.sendto(event.data, to)

    def _begin(self, data: bytes) -> None:
        self.tid = None
        self.over = False
        self.request = data
        self.name = canonical(request_of(data).name)
        self.content = self.stage.contents.get(self.name, b"")
        self.blksize = 512
        self.acked = self.top = 0  # absolute block numbers
        self.seen: set[int] = set()  # blocks that came since the last ACK that moved; 0: the OACK
        self.since = self.since_before = time.monotonic()

    def _ack(self, number: int, pause_s: float) -> None:
        moved = (number - self.acked) & 0xFFFF
        if number == 0 and self.top == 0:
            self.seen.clear()
        elif moved > 0 and self.acked + moved <= self.top:
            if pause_s > SHORTEST_DEADLINE_S:
                time.sleep(SHORTEST_DEADLINE_S + 0.05)
            self.acked += moved
            self.over = self.acked > len(self.content) // self.blksize
            self.seen.clear()
        else:
            return
        self.since_before, self.since = self.since, time.monotonic()

    def receive(self, expected: Packet) -> None:
        """The next packet, which must be *expected*."""
        while True:
            packet = self._next()
            if packet is None:
                continue
            block = 0
            if packet.kind == "DATA":
                block = self.top + ((packet.number - self.top + 0x8000) & 0xFFFF) - 0x8000
                start = (block - 1) * self.blksize
                right = self.content[start : start + self.blksize]
                assert packet.data == right, (
                    f"{self}: block {block} has {len(packet.data)} bytes that are not the file's"
                )
            if self._is_again(packet, block):
                self._let_pass(packet, block)
                if not self._is(packet, expected):
                    continue
            assert self._is(packet, expected), f"{self}: expected {expected}, got {self._show(packet)}"
            self.seen.add(block)
            self.at = expected.at
            if block > self.top:
                self.blocks += block - self.top
                self.top = block
            if packet.kind == "OACK":
                self.blksize = int(packet.options.get("blksize", self.blksize))
            elif packet.kind == "ERROR":
                self.over = True
            return

    def _next(self) -> tftp_client.Packet | None:
        """The next packet of this transfer; None for one of a transfer that was ended."""
        while True:
            try:
                raw, source = self.socket.recvfrom(70000)
                break
            except BlockingIOError:
                self.stage.wait(self.socket)
        packet = parse(raw)
        if source == self.left:
            self.blocks += packet.kind == "DATA"
            return None
        if self.tid is None:
            before, until = self.stage.tids.get(self.port, (None, 0.0))
            assert source != before or time.monotonic() > until, f"{self}: its TID is that of the transfer before"
            assert packet.kind == "ERROR" or source != self.stage.tftp, (
                f"{self}: {packet.kind} comes from the request port"
            )
            self.tid = source
        assert source == self.tid, f"{self}: {self._show(packet)} comes from {source}, its TID is {self.tid}"
        if source != self.stage.tftp:
            self.stage.tids[self.port] = source, time.monotonic() + TID_REST_S
        return packet

    def _is(self, packet: tftp_client.Packet, expected: Packet) -> bool:
        if packet.kind != expected.kind:
            return False
        if packet.kind == "OACK":
            return packet.options == dict(expected.options)
        if packet.kind == "DATA":
            return (packet.number, len(packet.data)) == (expected.number, expected.size)
        return packet.number == expected.number

    def _is_again(self, packet: tftp_client.Packet, block: int) -> bool:
        if packet.kind == "OACK":
            return 0 in self.seen or self.top > 0
        return packet.kind == "DATA" and (block <= self.acked or block in self.seen)

    def _let_pass(self, packet: tftp_client.Packet, block: int) -> None:
        since = self.since_before if block <= self.acked and block else self.since
        waited = time.monotonic() - since
        assert waited >= SHORTEST_DEADLINE_S, (
            f"{self}: {self._show(packet)} came again after {waited:.3f} s, no deadline's"
        )

    def rest(self) -> None:
        """After the last event: nothing more came."""
        while select.select([self.socket], [], [], 0)[0]:
            packet = self._next()
            if packet is None:
                continue
            block = 0
            if packet.kind == "DATA":
                block = self.top + ((packet.number - self.top + 0x8000) & 0xFFFF) - 0x8000
            assert self._is_again(packet, block), f"{self}: {self._show(packet)} came after the end"
            self._let_pass(packet, block)

    def _show(self, packet: tftp_client.Packet) -> str:
        return f"{packet.kind} {packet.number} {packet.options or ''}({len(packet.data)} bytes)"

    def __str__(self) -> str:
        return f"port {self.port}, {self.name!r}"


class Connection:
    """A TCP connection of the client."""

    def __init__(self, stage: Stage, address: str, port: int) -> None:
        self.stage = stage
        self.port = port
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.bind((address, port))
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(stage.http)
        self.address: Address = self.socket.getsockname()
        self.buffer = bytearray()
        self.sent = HttpRequests()
        self.requests: list[HttpRequest] = []  # unanswered, oldest first
        self.ended: set[str] = set()
        self.is_reset = False  # by the server

    def send(self, data: bytes) -> None:
        self.requests += self.sent.feed(data)
        self.socket.sendall(data)

    def _more(self) -> None:
        self.stage.wait(self.socket)
        data = self.socket.recv(1 << 20)
        assert data, f"{self}: the connection ended after {bytes(self.buffer[:80])!r}"
        self.buffer += data

    def receive(self, expected: Reply) -> None:
        assert self.requests, f"{self}: a response without a request is expected"
        method, path, raw_request = self.requests[0].method, self.requests[0].path, self.requests.pop(0).raw
        if is_handed_over(path):
            self._handed_over(raw_request, expected)
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        raw, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        line, *lines = raw.decode("latin-1").split("\r\n")
        assert line.startswith("HTTP/1.1 ") and all(": " in field for field in lines), (
            f"{self}: {raw[:200]!r} is no head"
        )
        fields = dict(field.split(": ", 1) for field in lines)
        assert len(fields) == len(lines), f"{self}: a field is there twice in {lines}"
        assert int(line.split(" ")[1]) == expected.status, f"{self}: {path}: {line}"
        for name, value in fields.items():
            assert all(word[0].isupper() for word in name.split("-")), f"{self}: firmware compares {name!r} with case"
            assert value.strip() == value != "", f"{self}: {name} is empty"
        assert fields.get("Connection") == expected.connection, f"{self}: {path}: {fields}"
        assert "Transfer-Encoding" not in fields
        length = int(fields["Content-Length"])
        if expected.status in (200, 206):
            assert length == expected.length, f"{self}: {path}: {length} bytes, recorded were {expected.length}"
        is_text = expected.status >= 300 and expected.body > 0  # words may be others now
        wanted = 0 if method == "HEAD" else length if is_text else min(expected.body, length)
        while len(self.buffer) < wanted:
            self._more()
        body = bytes(self.buffer[:wanted])
        del self.buffer[:wanted]
        if expected.status in (200, 206) and path in self.stage.contents:
            start = int(fields["Content-Range"].split(" ")[1].split("-")[0]) if expected.status == 206 else 0
            assert body == self.stage.contents[path][start : start + wanted], f"{self}: {path}: not the file's bytes"

    def _handed_over(self, request: bytes, expected: Reply) -> None:
        """A request that is not a file's comes to Python whole; here it gets what was recorded."""
        end = time.monotonic() + PATIENCE_S
        while not (mine := [handed for handed in self.stage.handed if handed[2] == self.address]):
            assert time.monotonic() < end, f"{self}: {request[:80]!r} was not handed over"
            select.select([self.stage.reactor], [], [], 0.1)
            self.stage.serve()
        self.stage.handed.remove(mine[0])
        fd, data, _ = mine[0]
        with socket.socket(fileno=fd) as ours:
            ours.settimeout(PATIENCE_S)
            while len(data) < len(request):
                data += ours.recv(65536)
            assert data == request
            connection = f"Connection: {expected.connection}\r\n" if expected.connection else ""
            length = expected.length or 0
            ours.sendall(f"HTTP/1.1 {expected.status} -\r\n{connection}Content-Length: {length}\r\n\r\n".encode())
            ours.sendall(bytes(expected.body))
            if expected.connection != "close":
                ours.setblocking(False)
                self.stage.reactor.adopt(ours.detach())

    def end(self, event: End) -> None:
        self.ended.add(event.by)
        if event.by == "server":
            assert not self.buffer, f"{self}: {bytes(self.buffer[:80])!r} came before the end"
            self.stage.wait(self.socket)
            try:
                data = self.socket.recv(1)
            except ConnectionResetError:
                assert event.how == "RST", f"{self}: it was reset"
                self.is_reset = True
                return
            assert not data and event.how == "FIN", f"{self}: {data!r} came instead of its end"
            return
        if "server" not in self.ended:
            self.is_open()
        if event.how == "RST":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()
        elif not self.is_reset:  # GRUB ends even those; a socket of this system has nothing left to end
            self.socket.shutdown(socket.SHUT_WR)

    def is_open(self) -> None:
        """Asserts that the server has neither closed the connection nor sent more than it was asked for."""
        self.stage.settle()
        assert not self.buffer
        assert not select.select([self.socket], [], [], 0)[0], f"{self}: the server has not kept it open, or says more"

    def rest(self) -> None:
        if not self.ended:
            self.is_open()
        self.socket.close()

    def __str__(self) -> str:
        return f"connection from port {self.port}"


class Played(NamedTuple):
    """What one boot has added to the reactor's counters, what was asked of Python, and what is recorded of it."""

    counters: dict[str, int]
    blocks: int  # of all TFTP transfers, each once
    asked: list[tuple[str, str, Address]]
    missed: list[tuple[int, int]]
    records: list[Record]


def address_of_this_process() -> str:
    """An address of loopback that no other process has, so that every recorded port is free."""
    return f"127.{64 + (os.getpid() >> 16) % 64}.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"


def play(capture: Capture, stage: Stage) -> Played:
    """Plays one boot to *stage*; AssertionError where the server differs from the recording."""
    address = address_of_this_process()
    before = stage.counters()
    stage.reactor.records()
    asked, missed = len(stage.asked), len(stage.missed)
    ports: dict[int, Port] = {}
    connections: dict[int, Connection] = {}
    closed: list[Connection] = []
    try:
        for event in capture.events:
            match event:
                case Sent(_, "udp", port, _, _):
                    if port not in ports:
                        ports[port] = Port(stage, address, port)
                    ports[port].send(event)
                case Packet(_, port):
                    if not ports[port].seen and is_config(ports[port].name):
                        stage.settle()  # every repetition of the request has arrived before it is answered
                    ports[port].receive(event)
                case Run():
                    _run(ports[event.port], event)
                case Connect(_, port):
                    if port in connections:
                        closed.append(connections.pop(port))
                        closed[-1].socket.close()
                    connections[port] = Connection(stage, address, port)
                case Sent(_, "tcp", port, data):
                    connections[port].send(data)
                case Reply(_, port):
                    connections[port].receive(event)
                case End(_, port):
                    connections[port].end(event)
        stage.settle()
        ends: list[Port | Connection] = [*ports.values(), *connections.values()]
        for end in ends:
            end.rest()
        stage.serve()
        after = stage.counters()
    finally:
        sockets: list[Port | Connection] = [*ports.values(), *connections.values(), *closed]
        for each in sockets:
            each.socket.close()
    assert not stage.handed, "a connection was handed over that was not to be"
    return Played(
        {name: after[name] - before[name] for name in after},
        sum(port.blocks for port in ports.values()),
        stage.asked[asked:],
        stage.missed[missed:],
        [record for record in stage.reactor.records() if record.peer[0] == address],
    )


def _run(port: Port, run: Run) -> None:
    for event in expand(run):
        if isinstance(event, Packet):
            port.receive(event)
        else:
            assert isinstance(event, Sent)
            port.send(event)


@contextmanager
def staged(capture: Capture, *, cold_in: pathlib.Path | None = None, timeout_s: float = 60.0) -> Iterator[Stage]:
    """A reactor with a capture's files; *cold_in*: the directory of a cache that has none of their bytes yet."""
    stage = Stage(capture.files, capture.configs, cold_in=cold_in, timeout_s=timeout_s)
    try:
        yield stage
    finally:
        stage.close()
