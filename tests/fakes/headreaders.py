"""Request heads as two other people's parsers read them: h11, and httptools (llhttp, the parser of Node.js).

Both skip or refuse empty lines before a request in ways of their own, so a head is given to them without.
"""

from __future__ import annotations

from typing import NamedTuple

import h11
import httptools


class Reading(NamedTuple):
    """What one of them made of a head. Field names in lower case, values without surrounding white space."""

    method: bytes
    target: bytes
    minor: int
    fields: list[tuple[bytes, bytes]]
    keep_alive: bool | None  # None: it does not say


def h11_reads(data: bytes) -> Reading | str | None:
    """A reading; why it is refused; or None for more bytes."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        return str(error)
    if not isinstance(event, h11.Request):
        return None
    minor = int(event.http_version.split(b".")[1])
    return Reading(event.method, event.target, minor, [(key, value) for key, value in event.headers], None)


class _Collected:
    """The callbacks that httptools calls."""

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.keep_alive: bool | None = None
        self.read: Reading | None = None
        self.parser: httptools.HttpRequestParser | None = None

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.read is None and self.parser is not None:
            minor = int(self.parser.get_http_version().partition(".")[2])
            self.read = Reading(
                self.parser.get_method(), self.target, minor, self.fields, self.parser.should_keep_alive()
            )
            self.fields = []  # of the next one


def httptools_reads(data: bytes) -> Reading | str | None:
    """As h11_reads. A fault behind the end of the first head is not looked at."""
    collected = _Collected()
    collected.parser = httptools.HttpRequestParser(collected)
    try:
        collected.parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        if collected.read is None:
            return str(error) or type(error).__name__
    return collected.read
