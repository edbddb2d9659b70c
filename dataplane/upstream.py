"""Ranges of a blob from a region's bulk port: http.client with every promise of the answer checked.

One Upstream belongs to one fill thread and keeps one connection for each source. Invariant: a body that is read is
exactly the range that was asked for, of a blob of exactly the size the catalogue says; anything else is an
UpstreamError with a reason, and its connection is closed.

Left to others: whether the bytes are right (core.lru hashes them), whom to ask (sources), retries (fill).
"""

from __future__ import annotations

import http.client

from bootplane.dataplane.sources import Source

CONNECT_S = 3.0
STALL_S = 5.0  # without one byte: another source, or another try, still fits into the time a machine is parked

_STALE = (http.client.RemoteDisconnected, http.client.CannotSendRequest, BrokenPipeError, ConnectionResetError)


class UpstreamError(Exception):
    """A source did not deliver. *reason* is a bounded label: unreachable, stalled, cut, answer."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class BlobMissing(UpstreamError):
    """The source answered 404 or 410: it does not have this blob, or not any more."""


class Body:
    """An answer being read. Used within ``with``: a body that was not read to its end closes its connection."""

    def __init__(self, upstream: Upstream, source: Source, response: http.client.HTTPResponse, length: int) -> None:
        self._upstream = upstream
        self._source = source
        self._response = response
        self._left = length

    def readinto(self, view: memoryview) -> None:
        """Fills *view*. Raises UpstreamError when the source stalls or cuts."""
        done = 0
        while done < len(view):
            try:
                n = self._response.readinto(view[done:])
            except TimeoutError as error:
                raise UpstreamError(f"{self._source.key}: sent nothing for {STALL_S:.0f} s", "stalled") from error
            except (OSError, http.client.HTTPException) as error:
                raise UpstreamError(f"{self._source.key}: {_text(error)}", "cut") from error
            if n == 0:
                raise UpstreamError(
                    f"{self._source.key}: expected {self._left} more bytes, got the end of the answer", "cut"
                )
            done += n
            self._left -= n

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        if self._left:
            self._upstream.drop(self._source)
        else:
            self._response.read()  # lets http.client see the end, so that the connection can be used again


class Upstream:
    """Not thread-safe."""

    def __init__(self) -> None:
        self._connections: dict[str, http.client.HTTPConnection] = {}

    def open(self, source: Source, sha256: str, size: int, offset: int, length: int) -> Body:
        """Asks *source* for *length* bytes of a blob of *size* bytes from *offset*. Raises UpstreamError."""
        path, last = f"/blob/{sha256}", offset + length - 1
        try:
            response = self._request(source, path, {"Range": f"bytes={offset}-{last}"})
        except TimeoutError as error:
            self.drop(source)
            raise UpstreamError(f"{source.key}: no answer for {STALL_S:.0f} s", "stalled") from error
        except (OSError, http.client.HTTPException) as error:
            self.drop(source)
            raise UpstreamError(f"{source.key}: {_text(error)}", "unreachable") from error
        try:
            self._check(source, response, path, size, offset, length)
        except UpstreamError:
            self.drop(source)
            raise
        return Body(self, source, response, length)

    def drop(self, source: Source) -> None:
        """Closes the connection: what is still on its way must not be taken for another answer."""
        if connection := self._connections.pop(source.key, None):
            connection.close()

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _request(self, source: Source, path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        connection = self._connections.get(source.key)
        if connection is not None:
            try:
                connection.request("GET", path, headers=headers)
                return connection.getresponse()
            except _STALE:
                self.drop(source)  # kept alive too long: once more on a new one
        connection = http.client.HTTPConnection(source.host, source.port, timeout=CONNECT_S)
        self._connections[source.key] = connection
        connection.connect()
        connection.sock.settimeout(STALL_S)
        connection.request("GET", path, headers=headers)
        return connection.getresponse()

    @staticmethod
    def _check(
        source: Source, response: http.client.HTTPResponse, path: str, size: int, offset: int, length: int
    ) -> None:
        status = response.status
        if status in (404, 410):
            raise BlobMissing(f"{source.key}: {path}: expected 206, got {status}", "answer")
        expected_range = f"bytes {offset}-{offset + length - 1}/{size}"
        whole = status == 200 and offset == 0 and length == size
        got_range = response.getheader("Content-Range", "none")
        if not whole and (status != 206 or got_range != expected_range):
            got = f"{status} with range {got_range}"
            raise UpstreamError(f"{source.key}: {path}: expected 206 with range {expected_range}, got {got}", "answer")
        if response.length != length:
            got_length = "no length" if response.length is None else f"{response.length} bytes"
            raise UpstreamError(f"{source.key}: {path}: expected {length} bytes, got {got_length}", "answer")


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
