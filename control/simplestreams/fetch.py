"""Bytes from a boot source: http, https and file URLs, whole documents with a bound, item bodies that resume.

Synchronous, on http.client: a sync runs in worker threads, and a body goes from the socket into the caller's buffer
(``readinto``) with nothing in between. A Fetcher belongs to one thread at a time and keeps its connections open between
requests; each worker has its own.

What a server answers is final (NotFound, AccessRefused, SizeRefused) or worth another try (Unreachable, Truncated). A
body that ends early is an error, never a short file.

Resume: ``stream(url, start=N, etag=E)`` asks for the rest and checks what it gets; when the server has no ranges, has
another file by now, or says 416, the body starts at 0 again. The caller looks at ``body.start`` and nothing else.

Invariant: no answer is read beyond its bound, no redirect leads from https to http or into the file system, and user
names and passwords in URLs reach neither another origin nor a message.
Left to others: retries of items, verification, where bytes are kept (sync).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import os
import re
import socket
import ssl
import stat
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from bootplane import __version__
from bootplane.control.simplestreams.answers import network_error, refusal
from bootplane.control.simplestreams.errors import (
    AccessRefused,
    NotFound,
    SizeRefused,
    SourceError,
    Truncated,
    Unreachable,
    shown,
)
from bootplane.control.simplestreams.paths import check_url, shown_url
from bootplane.control.simplestreams.watch import Watch

TIMEOUT_S = 30.0  # of one connect or one read, not of a transfer
HEAD_DEADLINE_S = 90.0  # of one answer's head, from the connect on
DOCUMENT_DEADLINE_S = 300.0  # of one document, however slowly it drips
REDIRECTS = 5
RETRY_WAITS_S = (0.3, 1.0)  # between the tries of a document
BUFFER_BYTES = 1 << 16

_REDIRECTS = {301, 302, 303, 307, 308}
_WATCH = Watch()
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)\Z")

_Origin = tuple[str, str, int, str]  # scheme, host, port, proxy


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole document. *changed* is False when the server says that the caller's copy is still good; then no body."""

    url: str  # where it came from in the end
    body: bytes
    etag: str
    content_type: str
    changed: bool = True


class _Readable(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None: ...


class Body:
    """The bytes of one file from *start* on; a context manager. ``readinto`` returns 0 only at the true end."""

    def __init__(
        self, url: str, source: _Readable, start: int, length: int | None, etag: str, done: Callable[[bool], None]
    ) -> None:
        self.url = url
        self.start = start  # offset of the first byte that comes: 0 when the server would not resume
        self.total = None if length is None else start + length  # size of the whole file; None when it does not say
        self.etag = etag  # strong, for the next resume; empty when there is none
        self.received = 0
        self._left = length
        self._source = source
        self._done = done
        self._ended = False
        self._cut = False
        self._error: SourceError | None = None

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """What has come by now, up to *buffer*'s size: one read of the socket, so that one that drips hides nothing.
        Raises Truncated when the bytes end early, Unreachable when they stop."""
        view = memoryview(buffer)
        if not len(view) or self._ended:
            return 0
        if self._left is not None:
            view = view[: self._left]
        try:
            count = self._source.readinto(view) or 0
        except http.client.IncompleteRead as error:  # a chunked body without its last chunk
            count = 0 if self._cut else len(error.partial)
            self._cut = True
        except (OSError, http.client.HTTPException) as error:
            raise network_error(self.url, error) from None
        self.received += count
        if self._left is not None:
            self._left -= count
        if count == 0 and (self._cut or self._left):
            got = self.start + self.received
            expected = "a last chunk" if self.total is None else f"{self.total} bytes"
            raise Truncated(f"{shown_url(self.url)}: expected {expected}, got an end after {got} bytes")
        self._ended = count == 0 or self._left == 0
        return count

    def fill(self, buffer: bytearray | memoryview, within_s: float) -> int:
        """As ``readinto``, again and again until *buffer* is full or *within_s* have passed. What came before an error
        is given first; the next call raises it."""
        view = memoryview(buffer)
        filled = 0
        until = time.monotonic() + within_s
        while filled < len(view) and self._error is None:
            try:
                count = self.readinto(view[filled:])
            except SourceError as error:
                self._error = error
                break
            filled += count
            if not count or time.monotonic() >= until:
                break
        if self._error is not None and not filled:
            raise self._error
        return filled

    def close(self) -> None:
        done, self._done = self._done, _nothing
        done(self._ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _nothing(ended: bool) -> None:
    pass


class _Pieces:
    """An answer's body by single reads of its socket. Its own ``readinto`` waits until the buffer is full."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer = answer

    def readinto(self, buffer: memoryview, /) -> int:
        """*buffer* is no longer than what is left of the body, where that is known."""
        if not self._answer.chunked and self._answer.fp is not None:
            return self._answer.fp.readinto1(buffer)
        piece = self._answer.read1(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


class Fetcher:
    """Asks boot sources for files. *proxies* maps a scheme to a proxy URL ("no": hosts without); None: environment.

    *tls* is whom to trust, or a function that says it for a host and port; None: what this system trusts.
    """

    def __init__(
        self,
        *,
        timeout_s: float = TIMEOUT_S,
        proxies: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | Callable[[str, int], ssl.SSLContext] | None = None,
        retry_waits_s: tuple[float, ...] = RETRY_WAITS_S,
    ) -> None:
        self._timeout_s = timeout_s
        self._proxies = dict(urllib.request.getproxies_environment() if proxies is None else proxies)
        self._tls = tls
        self._retry_waits_s = retry_waits_s
        self._idle: dict[_Origin, http.client.HTTPConnection] = {}
        self.requests = 0  # sent to servers, redirects and retries included

    def close(self) -> None:
        while self._idle:
            self._idle.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def get(self, url: str, limit_bytes: int, *, etag: str = "") -> Fetched:
        """The whole document at *url*, at most *limit_bytes*; retried while the error is retryable.

        *etag* is a validator of an earlier answer (an entity tag, or a date as the server gave it).
        """
        for wait_s in self._retry_waits_s:
            try:
                return self._get(url, limit_bytes, etag)
            except Unreachable as error:
                time.sleep(max(wait_s, min(error.retry_after_s, 5.0)))
        return self._get(url, limit_bytes, etag)

    def _get(self, url: str, limit_bytes: int, etag: str) -> Fetched:
        deadline = time.monotonic() + DOCUMENT_DEADLINE_S
        headers = {} if not etag else {"If-None-Match" if _is_entity_tag(etag) else "If-Modified-Since": etag}
        if urlsplit(url).scheme == "file":
            body, content_type = self._open_file(url, 0, ""), ""
            if etag and body.etag == etag:
                body.close()
                return Fetched(url, b"", etag, "", changed=False)
        else:
            answer, url, release = self._request(url, headers)
            if answer.status == 304 and etag:
                release(True)
                return Fetched(url, b"", etag, "", changed=False)
            body = self._body(answer, url, 0, release)
            content_type = answer.headers.get_content_type() if "Content-Type" in answer.headers else ""
            body.etag = answer.getheader("ETag") or answer.getheader("Last-Modified") or ""
        with body:
            if body.total is not None and body.total > limit_bytes:
                raise SizeRefused(f"{shown_url(url)}: expected at most {limit_bytes} bytes, got {body.total}")
            out = bytearray()
            buffer = memoryview(bytearray(BUFFER_BYTES))
            while count := body.readinto(buffer):
                out += buffer[:count]
                if len(out) > limit_bytes:
                    raise SizeRefused(f"{shown_url(url)}: expected at most {limit_bytes} bytes, got more")
                if time.monotonic() > deadline:
                    raise Unreachable(
                        f"{shown_url(url)}: expected the document within {DOCUMENT_DEADLINE_S:.0f} s, "
                        f"got {len(out)} bytes of it"
                    )
            return Fetched(url, bytes(out), body.etag, content_type)

    def stream(self, url: str, *, start: int = 0, etag: str = "") -> Body:
        """The file at *url* from byte *start* on, as far as the server plays along (see the module's text).

        *etag* is ``body.etag`` of the transfer that is resumed. One try; the caller decides about others.
        """
        check_url(url)
        if urlsplit(url).scheme == "file":
            return self._open_file(url, start, etag)
        if start:
            headers = {"Range": f"bytes={start}-"} | ({"If-Range": etag} if etag else {})
            answer, final, release = self._request(url, headers)
            if answer.status == 200:
                return self._body(answer, final, 0, release)
            if answer.status == 206:
                match = _CONTENT_RANGE.match(answer.getheader("Content-Range", "").strip())
                if match and int(match[1]) == start and match[3] in ("*", str(int(match[2]) + 1)):
                    return self._body(answer, final, start, release)
            release(False)  # 416, another range than asked, or a multipart one: from the start then
        answer, final, release = self._request(url, {})
        if answer.status != 200:
            release(False)
            raise AccessRefused(f"{shown_url(final)}: expected 200, got {answer.status} to a plain GET")
        return self._body(answer, final, 0, release)

    def _body(self, answer: http.client.HTTPResponse, url: str, start: int, release: Callable[[bool], None]) -> Body:
        coding = answer.getheader("Content-Encoding", "identity").strip().lower()
        if coding not in ("identity", ""):
            release(False)
            raise AccessRefused(f"{shown_url(url)}: expected the file as it is, got it in encoding {shown(coding)!r}")
        etag = answer.getheader("ETag") or ""
        return Body(url, _Pieces(answer), start, answer.length, etag if etag.startswith('"') else "", release)

    def _open_file(self, url: str, start: int, etag: str) -> Body:
        check_url(url)
        path = Path(unquote(urlsplit(url).path))
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hang us
            file = os.fdopen(descriptor, "rb", buffering=0)
            status = os.fstat(descriptor)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{shown_url(url)}: expected a file, got none there") from None
        except OSError as error:
            raise AccessRefused(f"{shown_url(url)}: expected a readable file, got: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode):
            file.close()
            raise AccessRefused(f"{shown_url(url)}: expected a regular file, got something else")
        tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        if start > status.st_size or (etag and etag != tag):
            start = 0
        file.seek(start)
        return Body(url, file, start, status.st_size - start, tag, lambda ended: file.close())

    def _request(
        self, url: str, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPResponse, str, Callable[[bool], None]]:
        """A GET, redirects followed. Returns the answer (2xx, 304, 416 only), its URL, and its release function.

        Raises NotFound, AccessRefused or Unreachable for every other answer.
        """
        first = url
        for _ in range(REDIRECTS + 1):
            try:
                answer, release, location = self._hop(url, first, headers)
            except SourceError as error:
                if url != first:  # whoever reads it knows the first one
                    error.args = (f"{shown_url(first)}: redirected: {error}",)
                raise
            if not location:
                return answer, url, release
            url = location
        raise AccessRefused(f"{shown_url(first)}: expected at most {REDIRECTS} redirects, got more")

    def _hop(
        self, url: str, first: str, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPResponse, Callable[[bool], None], str]:
        """One answer, its release function, and where it leads, if it is a redirect."""
        check_url(url)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise AccessRefused(f"{shown_url(url)}: expected http or https, got a redirect to {parts.scheme}:")
        if urlsplit(first).scheme == "https" and parts.scheme == "http":
            raise AccessRefused(f"{shown_url(url)}: expected to stay on https, got a redirect to http")
        answer, release = self._exchange(parts, headers)
        if answer.status in (200, 206, 304, 416):
            return answer, release, ""
        release(False)
        if answer.status not in _REDIRECTS:
            raise refusal(answer, url)
        location = answer.getheader("Location") or ""
        if not location:
            raise AccessRefused(f"{shown_url(url)}: expected a redirect to say where, got no Location")
        return answer, release, urljoin(urlunsplit(parts._replace(fragment="")), location)

    def _exchange(
        self, parts: SplitResult, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPResponse, Callable[[bool], None]]:
        """One request and its answer's head; a connection that died while idle is replaced once."""
        proxy = self._proxy_for(parts)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        origin = (parts.scheme, parts.hostname or "", port, proxy)
        target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        send = {"User-Agent": f"bootplane/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity", **headers}
        if parts.username is not None:
            send["Authorization"] = _basic(parts.username, parts.password)
        if proxy and parts.scheme == "http":  # RFC 9112, 3.2.2: the absolute form, the authority without userinfo
            target = f"http://{parts.netloc.rpartition('@')[2]}{target}"
            via = urlsplit(proxy)
            if via.username is not None:
                send["Proxy-Authorization"] = _basic(via.username, via.password)
        send["Host"] = parts.netloc.rpartition("@")[2]
        idle = self._idle.pop(origin, None)
        for connection in (idle, None) if idle else (None,):
            try:
                connection = connection or self._connect(origin)
                self.requests += 1
                with _within(connection, HEAD_DEADLINE_S):
                    connection.request("GET", target, headers=send)
                    answer = connection.getresponse()
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                if connection:
                    connection.close()
                if connection is idle and idle is not None and isinstance(error, ConnectionError):
                    continue  # closed by the server between two requests
                raise network_error(parts.geturl(), error) from None
            return answer, self._releaser(origin, connection, answer)
        raise AssertionError("unreachable")

    def _releaser(
        self, origin: _Origin, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse
    ) -> Callable[[bool], None]:
        def release(ended: bool) -> None:
            """*ended*: the body was read to its end, so that the connection can carry another request."""
            reusable = ended and not answer.will_close
            answer.close()
            if reusable and origin not in self._idle:
                self._idle[origin] = connection
            else:
                connection.close()

        return release

    def _connect(self, origin: _Origin) -> http.client.HTTPConnection:
        scheme, host, port, proxy = origin
        via = urlsplit(proxy) if proxy else None
        at = (host, port) if via is None else (via.hostname or "", via.port or 80)
        if scheme == "http":
            return http.client.HTTPConnection(*at, timeout=self._timeout_s)
        self._tls = self._tls or ssl.create_default_context()
        context = self._tls if isinstance(self._tls, ssl.SSLContext) else self._tls(host, port)
        connection = http.client.HTTPSConnection(*at, timeout=self._timeout_s, context=context)
        if via is not None:
            who = {} if via.username is None else {"Proxy-Authorization": _basic(via.username, via.password)}
            connection.set_tunnel(host, port, headers=who)
        return connection

    def _proxy_for(self, parts: SplitResult) -> str:
        """The proxy's URL, or empty. Loopback is never asked through a proxy: it would mean the proxy's own."""
        host = parts.hostname or ""
        proxy = self._proxies.get(parts.scheme) or self._proxies.get("all") or ""
        if not proxy or _is_loopback(host) or _bypass(host, self._proxies):
            return ""
        if "://" not in proxy:
            proxy = f"http://{proxy}"
        check_url(proxy)
        if urlsplit(proxy).scheme != "http":
            raise AccessRefused(f"{shown_url(parts.geturl())}: expected an http proxy, got {shown_url(proxy)}")
        return proxy


@contextlib.contextmanager
def _within(connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
    """Ends whatever the block waits for after *seconds*: a head that drips resets each read's own timeout. Raises
    TimeoutError then."""
    is_late = threading.Event()

    def cut() -> None:
        is_late.set()
        sock = connection.sock
        if sock is not None:
            with contextlib.suppress(OSError, ValueError):
                sock.shutdown(socket.SHUT_RDWR)

    due = _WATCH.call_in(seconds, cut)
    try:
        yield
    except (OSError, http.client.HTTPException):
        if is_late.is_set():
            raise TimeoutError from None
        raise
    finally:
        _WATCH.take_back(due)
    if is_late.is_set():  # http.client takes the end of a connection for the end of a head
        raise TimeoutError


def _bypass(host: str, proxies: dict[str, str]) -> bool:
    """Whether no_proxy names *host*. The standard library's own rule, which typeshed does not know."""
    return bool(urllib.request.proxy_bypass_environment(host, proxies))  # type: ignore[attr-defined]


def _is_entity_tag(validator: str) -> bool:
    return validator.startswith(('"', 'W/"'))


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _basic(user: str, password: str | None) -> str:
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")
