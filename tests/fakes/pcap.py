"""From the packets of a pcap to the events of one client's boot: its TFTP, whatever the server's ports, and its HTTP.

    python -m tests.fakes.pcap FILE.pcap [CLIENT] > tests/spec/captures/NAME.txt

TFTP begins with a request that names its mode; from then on all between that client port and that server is the
transfer's. HTTP is a connection whose first bytes are a request line. What else is in the file (DHCP, DNS, ARP) is left
out. Packets may be cut short by a snap length: of the server's only the first bytes are looked at.

Left to others: the text (capture), playing it (replay). Fragments of IP packets are not put together.
"""

from __future__ import annotations

import pathlib
import re
import socket
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import dpkt

from tests.fakes.capture import (
    Capture,
    Connect,
    End,
    Event,
    HttpRequest,
    HttpRequests,
    Packet,
    Reply,
    Sent,
    canonical,
    compress,
    is_config,
    is_handed_over,
    kind_of,
    number_of,
    render,
    request_of,
    rounded,
    words_of,
)

REQUEST = re.compile(rb"\0[\1\2][^\0]*\0(?:octet|netascii|mail)\0", re.IGNORECASE | re.DOTALL)
BLKSIZE = 512  # RFC 1350
LINKS = {
    dpkt.pcap.DLT_EN10MB: dpkt.ethernet.Ethernet,
    dpkt.pcap.DLT_LINUX_SLL: dpkt.sll.SLL,
    dpkt.pcap.DLT_LINUX_SLL2: dpkt.sll2.SLL2,
}
LINKTYPE_RAW = 101  # tcpdump.org/linktypes.html; dpkt has the number of the interface, not of the file
HTTP = re.compile(rb"[A-Z]{3,8} [/h]")


class Unreadable(ValueError):
    """The file holds no boot, or not enough of one."""


class Segment(NamedTuple):
    """A UDP datagram or a TCP segment. *size* is the payload's on the wire, *data* what was kept of it."""

    at: float
    proto: str
    source: tuple[str, int]
    target: tuple[str, int]
    data: bytes
    size: int
    flags: int = 0
    seq: int = 0


def _address(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def segments(path: str | pathlib.Path) -> Iterator[Segment]:
    """Every UDP datagram and TCP segment of a pcap or pcapng file."""
    with open(path, "rb") as file:
        try:
            packets = dpkt.pcap.UniversalReader(file)
        except (ValueError, dpkt.UnpackError) as error:
            raise Unreadable(f"neither a pcap nor a pcapng file: {error}") from error
        link = LINKS.get(packets.datalink())
        if link is None and packets.datalink() != LINKTYPE_RAW:
            raise Unreadable(f"its link type is {packets.datalink()}; expected Ethernet, Linux cooked or raw IP")
        for at, raw in packets:
            try:
                ip = link(raw).data if link else (dpkt.ip6.IP6 if raw[0] >> 4 == 6 else dpkt.ip.IP)(raw)
            except dpkt.UnpackError:
                continue
            if isinstance(ip, dpkt.ip.IP | dpkt.ip6.IP6) and isinstance(ip.data, dpkt.udp.UDP | dpkt.tcp.TCP):
                yield _segment(at, ip, ip.data)


def _segment(at: float, ip: Any, l4: Any) -> Segment:
    source, target = (_address(ip.src), l4.sport), (_address(ip.dst), l4.dport)
    if isinstance(l4, dpkt.udp.UDP):
        return Segment(at, "udp", source, target, bytes(l4.data), l4.ulen - 8)
    total = ip.plen if isinstance(ip, dpkt.ip6.IP6) else ip.len - ip.hl * 4
    size = total - l4.off * 4
    return Segment(at, "tcp", source, target, bytes(l4.data)[:size], size, l4.flags, l4.seq)


# -- TFTP ------------------------------------------------------------------------------------------------------------


@dataclass
class Transfer:
    """What is known of the transfer that a client port is in."""

    request_port: int
    name: str = ""
    tid: int = 0  # the server's port, 0 until it has answered
    blksize: int = BLKSIZE
    top: int = 0  # highest block seen
    sizes: dict[str, int] = field(default_factory=dict)  # of whole files


class Tftp:
    """The datagrams of one client, as events; and the sizes of the files it was given."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.flows: dict[int, Transfer] = {}
        self.sizes: dict[str, int] = {}
        self.at_least: dict[str, int] = {}

    def feed(self, packet: Segment) -> Iterator[Event]:
        if packet.source[0] == self.client:
            yield from self._from_client(packet)
        elif packet.target[0] == self.client and packet.target[1] in self.flows:
            yield from self._from_server(packet, self.flows[packet.target[1]])

    def _from_client(self, packet: Segment) -> Iterator[Event]:
        port, to = packet.source[1], packet.target[1]
        flow = self.flows.get(port)
        if REQUEST.match(packet.data):
            if len(packet.data) < packet.size:
                raise Unreadable("a request is cut short: record with a larger snap length (tcpdump -s 0)")
            name = canonical(request_of(packet.data).name)
            tid = flow.tid if flow else 0
            if flow is None or flow.name != name or flow.top:
                self.flows[port] = Transfer(to, name, tid)
            yield Sent(packet.at, "udp", port, packet.data)
        elif flow is not None:
            yield Sent(packet.at, "udp", port, packet.data[: packet.size], late=to != flow.tid)

    def _from_server(self, packet: Segment, flow: Transfer) -> Iterator[Event]:
        port, data, kind = packet.target[1], packet.data, kind_of(packet.data)
        flow.tid = packet.source[1]
        if kind == "OACK":
            words = words_of(data[2:])
            options = tuple(zip(words[0::2], words[1::2], strict=False))
            flow.blksize = int(dict(options).get("blksize", BLKSIZE))
            if "tsize" in dict(options):
                self._size(flow.name, int(dict(options)["tsize"]))
            yield Packet(packet.at, port, "OACK", options=options)
        elif kind == "DATA":
            # A window may have been caught before the kernel cut it into datagrams (UDP_SEGMENT).
            left, number = packet.size, number_of(data)
            while left >= 4:
                size = min(left - 4, flow.blksize)
                yield Packet(packet.at, port, "DATA", number % 65536, size)
                self._block(flow, number, size)
                left -= size + 4
                number += 1
        elif kind == "ERROR":
            yield Packet(packet.at, port, "ERROR", number_of(data))

    def _block(self, flow: Transfer, number: int, size: int) -> None:
        block = flow.top + ((number - flow.top) & 0xFFFF)
        if block - flow.top < 0x8000:
            flow.top = block
            bytes_until = (block - 1) * flow.blksize + size
            if size < flow.blksize:
                self._size(flow.name, bytes_until)
            else:
                self.at_least[flow.name] = max(self.at_least.get(flow.name, 0), bytes_until + 1)

    def _size(self, name: str, size: int) -> None:
        if self.sizes.setdefault(name, size) != size:
            raise Unreadable(
                f"{name} has {self.sizes[name]} bytes first and {size} later: cut the file between the two"
            )


# -- HTTP ------------------------------------------------------------------------------------------------------------


@dataclass
class Connection:
    is_http: bool
    next_client: int = 0
    next_server: int = 0
    sent: HttpRequests = field(default_factory=HttpRequests)
    requests: list[HttpRequest] = field(default_factory=list)  # unanswered, oldest first
    head: bytearray = field(default_factory=bytearray)
    reply: int = -1  # index of the Reply whose body is coming
    body_left: int = 0
    ended: set[str] = field(default_factory=set)


class Http:
    """The connections of one client, as events in *out*."""

    def __init__(self, client: str, http_ports: set[tuple[int, int]], out: list[Event]) -> None:
        self.client = client
        self.http_ports = http_ports  # (client's port, sequence number of the SYN) of connections that carry HTTP
        self.out = out
        self.connections: dict[int, Connection] = {}
        self.sizes: dict[str, int] = {}

    def feed(self, packet: Segment) -> None:
        from_client = packet.source[0] == self.client
        port = (packet.source if from_client else packet.target)[1]
        if packet.flags & dpkt.tcp.TH_SYN:
            if not from_client:
                if port in self.connections:
                    self.connections[port].next_server = packet.seq + 1
                return
            known = self.connections.get(port)
            if known is not None and known.next_client == packet.seq + 1:
                return  # the same SYN again
            self.connections[port] = Connection((port, packet.seq) in self.http_ports, packet.seq + 1)
            if self.connections[port].is_http:
                self.out.append(Connect(packet.at, port))
            return
        connection = self.connections.get(port)
        if connection is None or not connection.is_http:
            return
        if from_client:
            self._from_client(packet, port, connection)
        else:
            self._from_server(packet, port, connection)
        for flag, how in ((dpkt.tcp.TH_RST, "RST"), (dpkt.tcp.TH_FIN, "FIN")):
            by = "client" if from_client else "server"
            if packet.flags & flag and by not in connection.ended:
                connection.ended.add(by)
                self.out.append(End(packet.at, port, by, how))

    def _from_client(self, packet: Segment, port: int, connection: Connection) -> None:
        if packet.size == 0:
            return
        again = (connection.next_client - packet.seq) & 0xFFFFFFFF
        if again > 0x7FFFFFFF:
            raise Unreadable(f"bytes of port {port} are missing: the capture has lost packets")
        data = packet.data[again:]
        if packet.size <= again:
            return
        if len(packet.data) < packet.size:
            raise Unreadable("a request is cut short: record with a larger snap length (tcpdump -s 0)")
        connection.next_client = (packet.seq + packet.size) & 0xFFFFFFFF
        self.out.append(Sent(packet.at, "tcp", port, data))
        connection.requests += connection.sent.feed(data)

    def _from_server(self, packet: Segment, port: int, connection: Connection) -> None:
        if packet.size == 0:
            return
        again = (connection.next_server - packet.seq) & 0xFFFFFFFF
        if again > 0x7FFFFFFF:
            raise Unreadable(f"bytes to port {port} are missing: the capture has lost packets")
        if packet.size <= again:
            return
        connection.next_server = (packet.seq + packet.size) & 0xFFFFFFFF
        data, size = packet.data[again:], packet.size - again
        while size:
            if connection.body_left:
                n = min(size, connection.body_left)
                reply = self.out[connection.reply]
                assert isinstance(reply, Reply)
                self.out[connection.reply] = reply._replace(body=reply.body + n)
                connection.body_left -= n
                data, size = data[n:], size - n
                continue
            connection.head += data
            head, end, rest = bytes(connection.head).partition(b"\r\n\r\n")
            if not end:
                if len(data) < size:
                    raise Unreadable("a response head is cut short: record with a larger snap length (tcpdump -s 0)")
                return
            size -= len(data) - len(rest)
            data = rest
            connection.head.clear()
            self._reply(packet.at, port, connection, head.decode("latin-1"))

    def _reply(self, at: float, port: int, connection: Connection, head: str) -> None:
        line, *lines = head.split("\r\n")
        status = int(line.split(" ")[1])
        fields = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in lines)}
        if "transfer-encoding" in fields:
            raise Unreadable(f"the response {line!r} is chunked: boot firmware does not read that, and neither do we")
        length = int(fields["content-length"]) if "content-length" in fields else None
        request = connection.requests.pop(0) if connection.requests else HttpRequest("GET", "", b"")
        has_body = request.method != "HEAD" and status not in (204, 304)
        connection.body_left = (length if length is not None else 1 << 62) if has_body else 0
        connection.reply = len(self.out)
        self.out.append(Reply(at, port, status, length, fields.get("connection"), 0))
        whole = fields.get("content-range", "").rpartition("/")[2] if status == 206 else None
        if status == 200 and length is not None:
            self._size(request.path, length)
        elif whole:
            self._size(request.path, int(whole))

    def _size(self, path: str, size: int) -> None:
        if is_handed_over(path):
            return
        if self.sizes.setdefault(path, size) != size:
            raise Unreadable(
                f"{path} has {self.sizes[path]} bytes first and {size} later: cut the file between the two"
            )


# -- the whole ---------------------------------------------------------------------------------------------------------


def _survey(packets: list[Segment]) -> tuple[dict[str, str], dict[str, set[tuple[int, int]]]]:
    """Client address -> server's; and the HTTP connections of each client."""
    servers: dict[str, str] = {}
    syns: dict[tuple[str, int], int] = {}
    http: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
    for packet in packets:
        if packet.proto == "udp":
            if REQUEST.match(packet.data):
                servers.setdefault(packet.source[0], packet.target[0])
        elif packet.flags & dpkt.tcp.TH_SYN and not packet.flags & dpkt.tcp.TH_ACK:
            syns[packet.source] = packet.seq
        elif packet.source in syns and HTTP.match(packet.data):
            http[packet.source[0]].add((packet.source[1], syns[packet.source]))
            servers.setdefault(packet.source[0], packet.target[0])
    return servers, http


def capture_of(path: str | pathlib.Path, client: str | None = None) -> Capture:
    """The boot of *client* in a pcap; of the only one when none is named. Raises Unreadable, OSError."""
    packets = list(segments(path))
    servers, http_ports = _survey(packets)
    if not servers:
        raise Unreadable("no TFTP request and no HTTP request is in it")
    if client is None:
        if len(servers) > 1:
            raise Unreadable(f"several clients are in it, name one of {', '.join(sorted(servers))}")
        client = next(iter(servers))
    elif client not in servers:
        raise Unreadable(f"{client} asks for nothing in it; {', '.join(sorted(servers))} do")
    events: list[Event] = []
    tftp, http = Tftp(client), Http(client, http_ports[client], events)
    for packet in packets:
        if client not in (packet.source[0], packet.target[0]):
            continue
        if packet.proto == "udp":
            events += tftp.feed(packet)
        else:
            http.feed(packet)
    sizes = {**tftp.at_least, **tftp.sizes, **http.sizes}
    begin = events[0].at
    capture = Capture(
        client, servers[client], compress(rounded(event._replace(at=event.at - begin) for event in events))
    )
    for name, size in sizes.items():
        if is_config(name):
            capture.configs[name] = size
        elif size or not name.endswith(".lst"):  # a missing one of those is an empty success
            capture.files[name] = size
    return capture


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 2:
        print("usage: python -m tests.fakes.pcap FILE.pcap [CLIENT] > NAME.txt", file=sys.stderr)
        return 2
    try:
        sys.stdout.write(render(capture_of(*arguments)))
    except (OSError, Unreadable) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
