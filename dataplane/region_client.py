"""What a rack asks of its region, over plain blocking HTTP on its own threads.

    catalogue   signed names, by long poll          chunks   a blob's chunk list
    boot        one machine's boot text             beat     "I live"; the answer: bulk addresses, limits
    transfers   what machines have fetched

Several regions are several URLs: the one that answered last is asked first, the others in turn when it cannot be
reached or answers 5xx. Connections are kept alive and reused by any thread.

Invariants: nothing here is believed: signatures and roots are the caller's to check. An answer is never longer than its
limit. The secret travels in a header and appears in no message.

Left to others: bytes of blobs (fill), what the answers mean.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from bootplane.dataplane import addresses
from bootplane.dataplane.addresses import HostPort
from bootplane.dataplane.racktoken import RackToken

TIMEOUT_S = 5.0  # for connecting, and for each read that is not a long poll
MAX_ANSWER_BYTES = 64 << 20
MAX_TEXT_BYTES = 1 << 20  # a boot configuration is a few KiB
IDLE_CONNECTIONS = 16  # kept for each region

_STALE = (http.client.RemoteDisconnected, http.client.CannotSendRequest, BrokenPipeError, ConnectionResetError)


class RegionError(Exception):
    """A region answered, but not with what was asked; the message is one sentence."""


class RegionUnreachable(RegionError):
    """No region answered at all."""


class RegionRefused(RegionError):
    """The region will never take this, however often it is sent."""


class FileRemoved(RegionError):
    """The region had this file and has removed it: whoever names it has an old catalogue."""


class Taken(NamedTuple):
    """What a region made of a batch of transfers."""

    refused: int
    sentences: Sequence[str]  # why, of some of them


class BeatAnswer(NamedTuple):
    bulk: list[HostPort]
    settings: object  # limits that are set for this rack, unchecked; None: an older region, which sets none


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]  # lower-case names
    body: bytes
    url: str  # of the region that answered


@dataclass(frozen=True, slots=True)
class SignedBody:
    body: bytes
    signature: str | None


@dataclass(frozen=True, slots=True)
class _Base:
    url: str
    tls: bool
    host: str
    port: int
    prefix: str


class RegionClient:
    """Thread-safe. *urls* are "http://H:P" or "https://H:P"."""

    def __init__(self, urls: Sequence[str], token: RackToken, timeout_s: float = TIMEOUT_S) -> None:
        self._bases = [_parse(url) for url in urls]
        self._token = token
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._idle: dict[str, list[http.client.HTTPConnection]] = {base.url: [] for base in self._bases}

    @property
    def urls(self) -> list[str]:
        """The regions, the one to be asked first at the front."""
        with self._lock:
            return [base.url for base in self._bases]

    def catalogue(self, version: int, wait_s: float) -> tuple[SignedBody, list[HostPort]] | None:
        """The catalogue and the bulk addresses, or None when *version* is still current after *wait_s*."""
        headers = {"Prefer": f"wait={wait_s:.0f}"} if wait_s else {}
        if version:
            headers["If-None-Match"] = f'"{version}"'
        answer = self._ask("GET", "/rack/v1/catalogue", headers=headers, wait_s=wait_s)
        if answer.status == 304:
            return None
        if answer.status != 200:
            raise _unexpected(answer, "catalogue", "200 or 304")
        bulk = _bulk(answer.headers.get("bootplane-bulk", "").split(","), answer.url)
        return SignedBody(answer.body, answer.headers.get("bootplane-signature")), bulk

    def chunks(self, sha256: str) -> bytes | None:
        """The chunk list of a blob, unverified; None when no region has that blob. Raises FileRemoved when none has it
        and the last that was asked has had it."""
        answer = self._ask("GET", f"/rack/v1/chunks/{sha256}", final=(200,))
        if answer.status == 404:
            return None
        if answer.status == 410:
            raise FileRemoved(f"chunk list of {sha256}: {answer.url} has removed the file")
        if answer.status != 200:
            raise _unexpected(answer, f"chunk list of {sha256}", "200")
        return answer.body

    def boot(self, name: str, proto: str, peer: str, http: str, tftp: str) -> SignedBody | None:
        """The boot text for the machine at *peer*, unverified; None when the name is nobody's."""
        query = urlencode({"name": name, "proto": proto, "peer": peer, "http": http, "tftp": tftp}, quote_via=quote)
        answer = self._ask("GET", f"/rack/v1/boot?{query}", limit=MAX_TEXT_BYTES)
        if answer.status in (400, 404):  # a machine may ask for the oddest names
            return None
        if answer.status != 200:
            raise _unexpected(answer, f"boot text {name!r}", "200 or 404")
        return SignedBody(answer.body, answer.headers.get("bootplane-signature"))

    def beat(self, report: Mapping[str, Any]) -> BeatAnswer:
        """Tells the region that this rack lives; returns the bulk addresses, and what is set for this rack."""
        body = json.dumps(report).encode()
        answer = self._ask("POST", "/rack/v1/beat", body=body, headers={"Content-Type": "application/json"})
        if answer.status != 200:
            raise _unexpected(answer, "beat", "200")
        try:
            told = json.loads(answer.body)
            return BeatAnswer(_bulk([str(item) for item in told["bulk"]], answer.url), told.get("settings"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegionError(f"beat to {answer.url}: expected JSON with bulk addresses, got {error!r}") from error

    def transfers(self, body: bytes) -> Taken:
        """Hands over a batch (dataplane.transfers). Raises RegionRefused when it must not be sent again."""
        answer = self._ask("POST", "/rack/v1/transfers", body=body, headers={"Content-Type": "application/zstd"})
        if answer.status in (400, 413, 422):
            raise RegionRefused(str(_unexpected(answer, "transfers", "200")))
        if answer.status != 200:
            raise _unexpected(answer, "transfers", "200")
        try:
            told = json.loads(answer.body)
            return Taken(int(told["refused"]), [str(sentence) for sentence in told["sentences"]])
        except (ValueError, KeyError, TypeError) as error:
            raise RegionError(f"transfers to {answer.url}: expected JSON with refusals, got {error!r}") from error

    def close(self) -> None:
        with self._lock:
            idle = [connection for connections in self._idle.values() for connection in connections]
            for connections in self._idle.values():
                connections.clear()
        for connection in idle:
            connection.close()

    def _ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
        limit: int = MAX_ANSWER_BYTES,
        final: Sequence[int] = (),
    ) -> Answer:
        """Asks each region once; the first answer below 500 (or in *final*, when that is given) wins."""
        every = {"Authorization": f"Bearer {self._token.secret}", **(headers or {})}
        refused: Answer | None = None
        reasons: list[str] = []
        for base in list(self._bases):
            try:
                answer = self._once(base, method, path, body, every, self._timeout_s + wait_s, limit)
            except (OSError, http.client.HTTPException) as error:
                reasons.append(f"{base.url}: {str(error) or type(error).__name__}")
                continue
            if answer.status in final or (not final and answer.status < 500):
                self._prefer(base)
                return answer
            refused = answer
        if refused is not None:
            return refused
        raise RegionUnreachable(f"no region reachable: {'; '.join(reasons)}")

    def _once(
        self,
        base: _Base,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        timeout_s: float,
        limit: int,
    ) -> Answer:
        connection = self._reuse(base)
        while True:
            fresh = connection is None
            if connection is None:
                connection = self._connect(base)
            try:
                if connection.sock is None:
                    connection.connect()
                connection.sock.settimeout(timeout_s)
                connection.request(method, base.prefix + path, body=body, headers=headers)
                response = connection.getresponse()
                data = response.read(limit + 1)
            except _STALE:
                connection.close()
                if fresh:
                    raise
                connection = None  # a kept connection the region had closed: once more on a new one
                continue
            except BaseException:  # goes on to the caller: a connection in the middle of an answer is not kept
                connection.close()
                raise
            if len(data) > limit:
                connection.close()
                raise http.client.HTTPException(f"expected at most {limit} bytes for {path.split('?')[0]}, got more")
            names = {name.lower(): value for name, value in response.getheaders()}
            self._keep(base, connection)
            return Answer(response.status, names, data, base.url)

    def _connect(self, base: _Base) -> http.client.HTTPConnection:
        if base.tls:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(base.host, base.port, timeout=self._timeout_s, context=context)
        return http.client.HTTPConnection(base.host, base.port, timeout=self._timeout_s)

    def _reuse(self, base: _Base) -> http.client.HTTPConnection | None:
        with self._lock:
            idle = self._idle[base.url]
            return idle.pop() if idle else None

    def _keep(self, base: _Base, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            idle = self._idle[base.url]
            if connection.sock is not None and len(idle) < IDLE_CONNECTIONS:
                idle.append(connection)
                return
        connection.close()

    def _prefer(self, base: _Base) -> None:
        with self._lock:
            if self._bases[0] is not base:
                self._bases.remove(base)
                self._bases.insert(0, base)


def _parse(url: str) -> _Base:
    parts = urlsplit(url.strip())
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.query or parts.fragment:
        raise ValueError(f"region: expected http://HOST:PORT or https://HOST:PORT, got {url!r}")
    tls = parts.scheme == "https"
    return _Base(url.strip().rstrip("/"), tls, parts.hostname, port or (443 if tls else 80), parts.path.rstrip("/"))


def _bulk(items: Sequence[str], url: str) -> list[HostPort]:
    """Bulk addresses; a wildcard host means the host that answered."""
    found: list[HostPort] = []
    for item in items:
        if item.strip():
            try:
                address = addresses.parse(item, "bulk address")
            except ValueError as error:
                raise RegionError(f"{url}: {error}") from error
            if addresses.is_unspecified(address.host):
                address = HostPort(urlsplit(url).hostname or "", address.port)
            found.append(address)
    return found


def _unexpected(answer: Answer, what: str, expected: str) -> RegionError:
    text = answer.body[:200].decode("utf-8", "replace").strip()
    if answer.status == 401:
        text = (
            "for this rack's token, which it does not know (any more); `bootplane rack-token new` there makes another"
        )
    return RegionError(f"{what} of {answer.url}: expected {expected}, got {answer.status} {text}".rstrip())
