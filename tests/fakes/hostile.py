"""Datagrams and requests that nobody honest sends, by the thousand: random ones, and real ones with something changed.

    Mutator(seed, real, words).one()           one of them
    storm_tftp(address, names, count, seed)    to the request port and the TIDs, from many ports, wrong TIDs among them
    storm_http(address, names, count, seed)    pipelined, cut, aborted, half closed

Nothing is sent faster than it is worked off: after each batch one packet is sent that must be answered, so that what
was sent was read, and not dropped by the kernel. What must still be right meanwhile, and afterwards, is the tests'.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

Address = tuple[str, int]
PATIENCE_S = 60.0
BATCH = 64  # datagrams; a socket's buffer holds several hundred
SENDERS, STRANGERS = 96, 16  # ports
PIPELINE = 32  # requests
MAX_DATAGRAM = 700  # bytes; longer ones are rare
ACK, DATA, OACK = b"\0\4", b"\0\3", b"\0\6"
WRONG_TID = b"\0\5\0\5"
#: theirs alone: who had a transfer in the last 30 s gets silence for late packets, not ERROR 5, and any port of
#: 127.0.0.1 may have had one, of the storm before or of a machine
STRANGERS_ADDRESS = "127.0.0.2"


class Mutator:
    """Endless inputs from a seed: a fifth random bytes, the rest one of *real* with up to four changes."""

    def __init__(self, seed: int, real: Sequence[bytes], words: Sequence[bytes]) -> None:
        self.rng, self.real, self.words = random.Random(seed), real, words

    def one(self) -> bytes:
        rng = self.rng
        if rng.random() < 0.2:
            return rng.randbytes(rng.randrange(MAX_DATAGRAM) if rng.random() < 0.02 else rng.randrange(40))
        return self.changed(rng.choice(self.real), rng.choice((0, 1, 1, 1, 2, 4)))

    def changed(self, real: bytes, times: int) -> bytes:
        rng, data = self.rng, bytearray(real)
        for _ in range(times):
            at = rng.randrange(len(data) + 1)
            what = rng.randrange(6)
            if what == 0 and data:
                data[at % len(data)] = rng.randrange(256)
            elif what == 1:
                data[at:at] = rng.choice(self.words)
            elif what == 2:
                del data[at : at + rng.randrange(1, 6)]
            elif what == 3:
                data[at:at] = data[: rng.randrange(20)]
            elif what == 4:
                other = rng.choice(self.real)
                data[at:] = other[rng.randrange(len(other) + 1) :]
            else:
                data[at : at + 1] = rng.randbytes(2)
        return bytes(data[:MAX_DATAGRAM])


# -- TFTP --------------------------------------------------------------------------------------------------------------


def tftp_requests(names: Sequence[str]) -> list[bytes]:
    """What firmware asks with, for each name."""
    tails = (
        b"octet\0",
        b"octet\0blksize\x001468\0windowsize\x004\0tsize\x000\0",
        b"octet\0tsize\x000\0blksize\x00512\0timeout\x001\0",
        b"netascii\0",
    )
    return [b"\0\1" + name.encode() + b"\0" + tail for name in names for tail in tails]


TFTP_WORDS = [b"\0", b"octet", b"blksize\0", b"65464\0", b"windowsize\0", b"65535\0", b"\0\1", b"\0\2", b"../", b"\xff"]
TO_TIDS = [
    ACK + b"\0\0",
    ACK + b"\0\1",
    ACK + b"\xff\xff",
    DATA + b"\0\1data",
    OACK + b"tsize\x001\0",
    b"\0\5\0\1gone\0",
]


class TftpTally(NamedTuple):
    """Datagrams sent; *wrong* of them to a TID that was not theirs and in need of an answer, each of which has come."""

    sent: int
    wrong: int
    tids: int


def is_answered(packet: bytes) -> bool:
    """Whether a packet to a wrong TID gets ERROR 5: an ERROR, and what is no packet at all, get silence."""
    return len(packet) >= 4 and packet[:2] in (ACK, DATA, OACK)


def find_tids(server: Address, name: str) -> list[Address]:
    """The ports that transfers run on: a client's next transfer always has another one."""
    found: set[Address] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_S)
        client.bind(("127.0.0.1", 0))
        for _ in range(12):
            client.sendto(b"\0\1" + name.encode() + b"\0octet\0tsize\x000\0", server)
            packet, source = client.recvfrom(2048)
            while packet[:2] != OACK or source == server:
                packet, source = client.recvfrom(2048)
            found.add(source)
            client.sendto(b"\0\5\0\x08enough\0", source)
    return sorted(found)


def storm_tftp(server: Address, names: Sequence[str], count: int, seed: int) -> TftpTally:
    """Sends *count* datagrams. Raises AssertionError when one that must be answered is not, or wrongly."""
    rng = random.Random(seed)
    requests = Mutator(seed + 1, tftp_requests(names), TFTP_WORDS)
    packets = Mutator(seed + 2, TO_TIDS, TFTP_WORDS)
    tids = find_tids(server, names[0])
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(SENDERS + STRANGERS + 1)]
    sent = wrong = 0
    try:
        senders, strangers, asking = sockets[:SENDERS], sockets[SENDERS:-1], sockets[-1]
        for each in sockets:
            each.bind((STRANGERS_ADDRESS if each in strangers else "127.0.0.1", 0))
            each.settimeout(PATIENCE_S)
        while sent < count:
            for _ in range(BATCH):
                rng.choice(senders).sendto(requests.one(), server)
            stranger, tid = rng.choice(strangers), rng.choice(tids)
            batch = [packets.one() for _ in range(BATCH)]
            for packet in batch:
                stranger.sendto(packet, tid)
            for _ in range(BATCH // 4):  # from ports that have transfers, to the right TID or another
                rng.choice(senders).sendto(packets.one(), rng.choice(tids))
            sent += 2 * BATCH + BATCH // 4 + 1
            asking.sendto(b"\0\2worked off?\0octet\0", server)
            answer, _ = asking.recvfrom(2048)
            assert answer[:4] == b"\0\5\0\2", f"a write request: expected ERROR 2, got {answer!r}"
            wanted = sum(map(is_answered, batch))
            for got in range(wanted):
                try:
                    answer, source = stranger.recvfrom(2048)
                except TimeoutError:
                    raise AssertionError(f"of {wanted} packets to a wrong TID {got} got ERROR 5, no more") from None
                assert answer[:4] == WRONG_TID and source == tid, f"{answer!r} from {source}"
            wrong += wanted
        for each in strangers:
            each.setblocking(False)
            try:
                raise AssertionError(f"one answer too many: {each.recv(2048)!r}")
            except BlockingIOError:
                pass
    finally:
        for each in sockets:
            each.close()
    return TftpTally(sent, wrong, len(tids))


# -- HTTP --------------------------------------------------------------------------------------------------------------

HTTP_WORDS = [
    b"\r\n", b"\r\n\r\n", b"\n", b"Host: a\r\n", b"Range: bytes=0-", b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"HTTP/1.0", b"%00", b"%2e%2e/", b"//", b"http://x",
    b"\0", b"\xff", b"If-None-Match: *\r\n", b"User-Agent: GRUB 2.06\r\n",
]  # fmt: skip


def http_requests(names: Sequence[str]) -> list[bytes]:
    lines = (
        b"",
        b"Range: bytes=1-2\r\n",
        b'Range: bytes=-5\r\nIf-Range: "x"\r\n',
        b'If-None-Match: W/"a", "b"\r\nUser-Agent: iPXE/1.21.1\r\n',
        b"Range: bytes=99999999-\r\n",
    )
    heads = [b"%b /%b HTTP/1.1\r\nHost: rack\r\n%b\r\n" % (method, name.encode(), line)
             for name in names for line in lines for method in (b"GET", b"GET", b"HEAD")]  # fmt: skip
    return [*heads, *(b"GET /%b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" % name.encode() for name in names)]


class HttpTally(NamedTuple):
    """Requests sent and connections made; *read* heads were read by the server."""

    sent: int
    connections: int
    read: int


def storm_http(
    server: Address, names: Sequence[str], count: int, seed: int, heads_read: Callable[[], int]
) -> HttpTally:
    """Until the server has read *count* heads by its own counter *heads_read*. Each connection comes from another
    address of 127/8."""
    rng, requests = random.Random(seed), Mutator(seed + 1, http_requests(names), HTTP_WORDS)
    before, sent, connections = heads_read(), 0, 0
    while True:
        for _ in range(200):
            stream = b"".join(requests.one() for _ in range(PIPELINE))
            sent += PIPELINE
            connections += 1
            converse(server, (f"127.9.{connections >> 8 & 127}.{1 + connections % 250}", 0), stream, rng)
        read = heads_read() - before
        if read >= count:
            return HttpTally(sent, connections, read)
        assert sent < 1000 * (count + 200 * PIPELINE), f"{sent} requests were sent, and {read} heads read"


def converse(server: Address, source: Address, stream: bytes, rng: random.Random) -> None:
    """One connection: the bytes in up to four pieces, then its end in one of four ways."""
    with socket.create_connection(server, PATIENCE_S, source) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no port is kept waiting
        how = rng.randrange(8)
        try:
            cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.randrange(4)))
            for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
                client.sendall(stream[start:end])
            if how == 0:
                return  # a reset, with answers on their way
            if how > 1:
                client.shutdown(socket.SHUT_WR)
            first = client.recv(1 << 16) if how else b""
            assert first[:9] in (b"HTTP/1.1 ", b""), first[:100]
            while how > 2 and first:
                first = client.recv(1 << 18)
        except TimeoutError:
            raise
        except OSError:
            pass  # it was refused, and what came behind that was not read
