"""The reactor threads of one process: their sockets, their life, and what they say to Python.

Mails of each reactor are read on the event loop (add_reader on its eventfd) and given to one function per kind.

Sockets of ours are one for each reactor, and the kernel deals out who comes. Inherited ones (activation) are as many as
there are: every reactor accepts from every TCP socket, and each UDP socket is one reactor's, because a request that is
repeated must meet the transfer it began; a unit with ReusePort= gives a UDP socket to each.

Invariants: a port that somebody else has is an error at start and never shared by accident (SO_REUSEPORT is only set
after a bind without it has succeeded); every reactor has every snapshot. Sockets outlive the threads that borrow them.

Left to others: what the mails mean (rack), what goes on inside a thread (core.reactor).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bootplane.core.blob import Blob
from bootplane.core.counters import add_up
from bootplane.core.http_addresses import Addresses
from bootplane.core.reactor import Reactor
from bootplane.core.shares import Shares
from bootplane.core.status import RingFull
from bootplane.core.table import Table
from bootplane.dataplane.addresses import HostPort

if TYPE_CHECKING:
    from bootplane.core.reactor import Mail, Record  # types only: the extension has no such names

BACKLOG = 4096
TFTP_PORT = 69
TFTP_PORT_UNPRIVILEGED = 6969

log = logging.getLogger("bootplane.reactors")


class ListenError(Exception):
    """An address cannot be listened on; one sentence."""


def open_http(address: HostPort, count: int) -> list[socket.socket]:
    """*count* listening sockets on one address and port. Raises ListenError."""
    return _open(address, count, socket.SOCK_STREAM, "HTTP")


def open_https(address: HostPort, count: int) -> list[socket.socket]:
    """As open_http."""
    return _open(address, count, socket.SOCK_STREAM, "HTTPS")


def open_tftp(address: HostPort, count: int) -> list[socket.socket]:
    """*count* UDP sockets on one address and port; port 69 without the right to it becomes 6969, and the log says so.

    With several, the kernel picks one by the client's address and port: repeated requests meet the same reactor.
    """
    try:
        return _open(address, count, socket.SOCK_DGRAM, "TFTP")
    except ListenError as error:
        if address.port != TFTP_PORT or not isinstance(error.__cause__, PermissionError):
            raise
        log.warning("TFTP: no right to listen on port %d; listening on %d instead", TFTP_PORT, TFTP_PORT_UNPRIVILEGED)
        return _open(HostPort(address.host, TFTP_PORT_UNPRIVILEGED), count, socket.SOCK_DGRAM, "TFTP")


def address_of(sock: socket.socket) -> HostPort:
    name = sock.getsockname()
    return HostPort(name[0], name[1])


def _open(address: HostPort, count: int, kind: socket.SocketKind, what: str) -> list[socket.socket]:
    # "" means every address: the IPv6 wildcard hears IPv4 too, where there is IPv6
    hosts = [address.host] if address.host else ["::", "0.0.0.0"]
    flags = socket.AI_PASSIVE | socket.AI_NUMERICSERV
    while True:
        host = hosts.pop(0)
        try:
            family, _, _, _, place = socket.getaddrinfo(host, address.port, type=kind, flags=flags)[0]
            first = _bind(family, kind, place, shared=False)
            if count == 1:
                return [first]
            place = first.getsockname()  # with the port the kernel chose
            first.close()
            return [_bind(family, kind, place, shared=True) for _ in range(count)]
        except socket.gaierror as error:
            raise ListenError(f"{what} address {address}: expected a local address, got {error.strerror}") from error
        except OSError as error:
            if hosts and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                continue
            reason = "one already in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise ListenError(f"{what} address {address}: expected a free one, got {reason}") from error


def _bind(family: int, kind: socket.SocketKind, place: Any, *, shared: bool) -> socket.socket:
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_STREAM:  # for UDP it would let two processes have one port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(place)
        if kind == socket.SOCK_STREAM:  # a bind alone proves nothing: with SO_REUSEADDR two may bind, one may listen
            sock.listen(BACKLOG)
    except BaseException:  # whatever it was, it goes on to the caller: only the descriptor is not left behind
        sock.close()
        raise
    return sock


Handler = Callable[[int, tuple[Any, ...]], None]  # (reactor's index, mail)


class Reactors:
    """One Reactor for each HTTP (and TFTP) socket, or *count*, which inherited sockets leave open. Owned by one thread;
    publish(), chunk(), counters() and are_turning() by any."""

    def __init__(
        self,
        http: Sequence[socket.socket],
        tftp: Sequence[socket.socket] = (),
        https: Sequence[socket.socket] = (),
        *,
        count: int | None = None,
        http_inherited: bool = False,
        https_inherited: bool = False,
        http_options: Mapping[str, Any] | None = None,
        tftp_options: Mapping[str, Any] | None = None,
        https_options: Mapping[str, Any] | None = None,
        park_limit_s: float = 20.0,
    ) -> None:
        self._sockets = [*http, *tftp, *https]
        self.shares = Shares()  # of all of them; nobody has any before it is set
        count = count or max(len(http), len(tftp))
        shared = {"shares": self.shares, "addresses": Addresses(), **(http_options or {})}
        shared["inherited"] = int(http_inherited)
        tls = {**(https_options or {}), "inherited": int(https_inherited), "addresses": Addresses()}
        self._reactors = [
            Reactor(
                index,
                http=[sock.fileno() for sock in (http if http_inherited else http[index::count])],
                tftp=[sock.fileno() for sock in tftp[index::count]],
                https=[sock.fileno() for sock in (https if https_inherited else https[index::count])],
                http_options=shared,  # with the counts of connections: limits are for all reactors together
                tftp_options={"shares": self.shares, **(tftp_options or {})},
                https_options=tls,
                park_limit_s=park_limit_s,
            )
            for index in range(count)
        ]
        self._marks: list[int | None] = [None] * count
        self._drained: set[int] = set()
        self._all_drained: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._reactors)

    def start(self) -> None:
        for reactor in self._reactors:
            reactor.start()

    def attach(self, loop: asyncio.AbstractEventLoop, handlers: Mapping[str, Handler]) -> None:
        """Reads mails on *loop*; each goes to the handler of its kind ("miss", "damaged", "ask", "handover")."""
        self._all_drained = asyncio.Event()
        for reactor in self._reactors:
            loop.add_reader(reactor.fileno(), self._read, reactor, dict(handlers))

    def detach(self, loop: asyncio.AbstractEventLoop) -> None:
        for reactor in self._reactors:
            loop.remove_reader(reactor.fileno())

    def _read(self, reactor: Reactor, handlers: Mapping[str, Handler]) -> None:
        mail: Mail
        for mail in reactor.take():
            if mail[0] == "drained":
                self._drained.add(reactor.index)
                if self._all_drained is not None and len(self._drained) == len(self._reactors):
                    self._all_drained.set()
                continue
            try:
                handlers[mail[0]](reactor.index, mail)
            except Exception:  # everything: one mail must not cost the others theirs; a waiter left alone times out
                log.exception("mail %s of reactor %d could not be handled", mail[0], reactor.index)

    def publish(self, table: Table) -> None:
        for reactor in self._reactors:
            reactor.publish(table)

    def chunk(self, blob: Blob, index: int, status: int = 0) -> None:
        """Wakes whoever waits for this chunk, in every reactor."""
        for reactor in self._reactors:
            try:
                reactor.chunk(blob, index, status)
            except RingFull as error:
                log.error("chunk %d of blob %s: %s", index, blob.sha256, error)

    def answer(self, reactor: int, request: int, blob: Blob | None, status: int = 0) -> None:
        self._reactors[reactor].answer(request, blob, status)

    def adopt(self, reactor: int, fd: int, data: bytes) -> None:
        self._reactors[reactor].adopt(fd, data)

    def counters(self) -> dict[str, int]:
        """Counts since start, all reactors added up."""
        return add_up(self.counters_of_each())

    def counters_of_each(self) -> list[dict[str, int]]:
        return [reactor.counters() for reactor in self._reactors]

    def records(self, limit: int) -> list[Record]:
        """Transfers that have ended, at most *limit* (or one of each reactor): a share from each, and what one does not
        need to those that have more. One thread may call this."""
        found: list[Record] = []
        left = self._reactors
        while left and len(found) < limit:
            share = max((limit - len(found)) // len(left), 1)
            counts = [(reactor, reactor.records(share)) for reactor in left]
            found += [record for _, records in counts for record in records]
            left = [reactor for reactor, records in counts if len(records) == share]
        return found

    def open(self) -> None:
        """Lets clients in, names or not: a service with the option ``hold`` had them wait in the backlog."""
        for reactor in self._reactors:
            reactor.open()

    def are_turning(self) -> bool:
        """Whether every thread has read the mail that the last call of this posted. One thread may call it."""
        is_turning = all(
            reactor.alive and (mark is None or reactor.has_read(mark))
            for reactor, mark in zip(self._reactors, self._marks, strict=True)
        )
        if is_turning:
            self._marks = [reactor.ping() for reactor in self._reactors]
        return is_turning

    async def drain(self, timeout_s: float, hurry: asyncio.Event | None = None) -> bool:
        """Stops accepting and waits until what runs is finished. False when the time was up, or *hurry* set, first."""
        if self._all_drained is None:
            raise ValueError("drain: reactors are attached to no loop")
        for reactor in self._reactors:
            reactor.drain()
        ends = [asyncio.ensure_future(event.wait()) for event in (self._all_drained, hurry) if event is not None]
        try:
            await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        return self._all_drained.is_set()

    def stop(self) -> None:
        """Ends the threads, then closes the sockets they borrowed."""
        for reactor in self._reactors:
            reactor.stop()
        for sock in self._sockets:
            sock.close()
