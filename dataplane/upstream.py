"""Ranges of a blob from a region's bulk port: core's RangeClient with every promise of the answer checked.

One Upstream belongs to one fill thread and keeps one connection for each source. Invariant: a body that is read is
exactly the range that was asked for, of a blob of exactly the size the catalogue says; anything else is an
UpstreamError with a reason, and its connection is closed.

Left to others: receiving (core.range_client), whether the bytes are right (core.lru hashes them), whom to ask
(sources), retries (fill).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

from bootplane.core.range_client import RangeClient, Reply
from bootplane.core.status import RemoteError, Timeout
from bootplane.dataplane.sources import Source

ST_BAD = 5  # status.pxd
CONNECT_S = 3.0
STALL_S = 5.0  # without one byte, at most: another try still fits into the time a machine is parked


class UpstreamError(Exception):
    """A source did not deliver. *reason* is a bounded label: unreachable, stalled, cut, answer."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class BlobMissing(UpstreamError):
    """The source answered 404: it does not have this blob (now)."""


class BlobRemoved(BlobMissing):
    """The source answered 410: it had this blob, and nothing names it any more."""


class Body:
    """An answer being read. Used within ``with``: a body that was not read to its end closes its connection."""

    def __init__(
        self, upstream: Upstream, source: Source, client: RangeClient, silence_s: float, *, keeps: bool
    ) -> None:
        self._upstream = upstream
        self._source = source
        self._client = client
        self._silence_s = silence_s
        self._keeps = keeps

    def readinto(self, view: memoryview, patience_s: float = 0.0) -> None:
        """Fills *view*. Raises UpstreamError when the source stalls or cuts, or when *patience_s* is not 0 and it takes
        longer than that, looked at when some of it has come."""
        before, began = self.left, time.monotonic()
        try:
            self._client.receive(view, patience_s)
        except Timeout as error:
            took = time.monotonic() - began
            text = f"sent nothing for {self._silence_s:g} s"
            if 0 < patience_s < took:
                text = f"expected {len(view)} bytes within {patience_s:.0f} s, got {before - self.left} in {took:.0f} s"
            raise UpstreamError(f"{self._source.key}: {text}", "stalled") from error
        except RemoteError as error:
            text = f"expected {self._client.left} more bytes, got the end of the answer"
            raise UpstreamError(f"{self._source.key}: {text}", "cut") from error
        except OSError as error:
            raise UpstreamError(f"{self._source.key}: {_text(error)}", "cut") from error

    @property
    def left(self) -> int:
        """Bytes that have not been received."""
        return self._client.left

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client.left or not self._keeps:
            self._upstream.drop(self._source)


class Upstream:
    """Not thread-safe."""

    def __init__(self) -> None:
        self._connections: dict[tuple[str, float], RangeClient] = {}  # (key of the source, longest silence in s)

    def open(self, source: Source, sha256: str, size: int, offset: int, length: int, silence_s: float = 0.0) -> Body:
        """Asks *source* for *length* bytes of a blob of *size* bytes from *offset*. It may send nothing for
        *silence_s*; for STALL_S when that is 0 or longer. Raises UpstreamError."""
        silence_s = min(silence_s or STALL_S, STALL_S)
        path, last = f"/blob/{sha256}", offset + length - 1
        head = f"GET {path} HTTP/1.1\r\nHost: {source.key}\r\nAccept-Encoding: identity\r\n"
        try:
            client, reply = self._ask(source, f"{head}Range: bytes={offset}-{last}\r\n\r\n".encode(), silence_s)
            _check(source, reply, path, size, offset, length)
        except (Timeout, TimeoutError) as error:
            self.drop(source)
            raise UpstreamError(f"{source.key}: no answer for {silence_s:g} s", "stalled") from error
        except (OSError, RemoteError) as error:
            self.drop(source)
            reason = "answer" if getattr(error, "status", 0) == ST_BAD else "unreachable"
            raise UpstreamError(f"{source.key}: {_text(error)}", reason) from error
        except UpstreamError:
            self.drop(source)
            raise
        return Body(self, source, client, silence_s, keeps=reply.keeps)

    def drop(self, source: Source) -> None:
        """Closes what there is to *source*: what is still on its way must not be taken for another answer."""
        self._drop(key for key in self._connections if key[0] == source.key)

    def _drop(self, keys: Iterable[tuple[str, float]]) -> None:
        for key in list(keys):
            self._connections.pop(key).close()

    def close(self) -> None:
        for client in self._connections.values():
            client.close()
        self._connections.clear()

    def _ask(self, source: Source, request: bytes, silence_s: float) -> tuple[RangeClient, Reply]:
        client = self._connections.get((source.key, silence_s))
        if client is not None and client.is_fresh():
            try:
                return client, client.ask(request)
            except (OSError, RemoteError):
                if client.begun:
                    raise
        self.drop(source)  # there is none, or it was kept too long, or for another silence: once more on a new one
        self._drop(key for key, each in self._connections.items() if not each.is_fresh())  # of sources that have gone
        sock = socket.create_connection((source.host, source.port), timeout=min(CONNECT_S, silence_s))
        self._connections[source.key, silence_s] = client = RangeClient(sock, silence_s)
        return client, client.ask(request)


def _check(source: Source, reply: Reply, path: str, size: int, offset: int, length: int) -> None:
    if reply.status in (404, 410):
        kind = BlobRemoved if reply.status == 410 else BlobMissing
        raise kind(f"{source.key}: {path}: expected 206, got {reply.status}", "answer")
    asked = offset, offset + length - 1, size
    whole = reply.status == 200 and offset == 0 and length == size
    if not whole and (reply.status != 206 or (reply.first, reply.last, reply.total) != asked):
        expected, got = _range(*asked), _range(reply.first, reply.last, reply.total)
        text = f"expected 206 with range {expected}, got {reply.status} with range {got}"
        raise UpstreamError(f"{source.key}: {path}: {text}", "answer")
    if reply.length != length:
        got = "no length" if reply.length < 0 else f"{reply.length} bytes"
        raise UpstreamError(f"{source.key}: {path}: expected {length} bytes, got {got}", "answer")


def _range(first: int, last: int, total: int) -> str:
    """As Content-Range has it; "none" without one."""
    return "none" if first < 0 else f"bytes {first}-{last}/{'*' if total < 0 else total}"


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
