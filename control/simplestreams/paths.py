"""Paths and URLs of a boot source: what may be asked for, and how it is written in a request.

The idea: a path in signed metadata is still input. It is decoded first and judged afterwards, at every level of
encoding a careless server could undo, so that nothing a URL parser, a proxy or a file system reads differently can
point outside the source. Then it is quoted, once, by us.

Invariant: what ``item_path`` returns joins to a source's URL without leaving it, whatever the scheme.
Left to others: fetching (fetch), where files are kept (the store knows digests only, never these paths).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from bootplane.control.simplestreams.errors import HostilePath, SourceError, shown

PATH_CHARACTERS = 1024
SEGMENT_CHARACTERS = 255  # NAME_MAX: a longer one cannot be a file of a file:// source
URL_CHARACTERS = 2048
INDEX_PATH = "streams/v1/index.sjson"
UNSIGNED_INDEX_PATH = "streams/v1/index.json"

_DECODE_ROUNDS = 4
_SAFE = "/:~!$&'()*+,;=@"  # RFC 3986, 3.3: pchar and "/"; quote() leaves letters, digits and "-._~" alone
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_INDEX_OF_URL = re.compile(r"/?(streams/v1/[^/]+\.s?json)\Z")


def item_path(raw: str, where: str) -> str:
    """The percent-decoded form of the path *raw* that stands in *where*. Raises HostilePath in one sentence."""
    decoded = unquote(raw)
    text = raw
    for _ in range(_DECODE_ROUNDS):
        fault = _fault(text)
        if fault:
            raise HostilePath(f"{where}: path {shown(raw)!r}: expected a plain relative path, got {fault}")
        again = unquote(text)
        if again == text:
            return decoded
        text = again
    raise HostilePath(f"{where}: path {shown(raw)!r}: expected a plain relative path, got nested percent-encoding")


def _fault(text: str) -> str:
    """Why *text* is no plain relative path, as the end of a sentence; empty when it is one."""
    if not text:
        return "an empty one"
    if len(text) > PATH_CHARACTERS:
        return f"one of {len(text)} characters (at most {PATH_CHARACTERS})"
    if "\0" in text:
        return "a NUL character"
    if not text.isprintable():  # controls, line and paragraph separators, surrogates, direction overrides
        return "a control character"
    if "\N{REPLACEMENT CHARACTER}" in text:
        return "bytes that are not UTF-8"
    if "\\" in text:
        return "a backslash"
    if text.startswith("/"):
        return "an absolute one"
    if _SCHEME.match(text):
        return "a URL"
    segments = text.split("/")
    if ".." in segments:
        return "a '..'"
    if "." in segments or "" in segments:
        return "an empty or '.' segment"
    if any(len(segment.encode()) > SEGMENT_CHARACTERS for segment in segments):
        return f"a segment of more than {SEGMENT_CHARACTERS} bytes"
    return ""


def url_of(base: str, path: str) -> str:
    """The URL of the decoded *path* under the source's *base*, which ends in a slash."""
    return base + quote(path, safe=_SAFE)


@dataclass(frozen=True, slots=True)
class SourceURL:
    """A boot source's address: *base* ends in a slash; *index* is the path of its index, when the URL named one."""

    base: str
    index: str = ""


def source_url(text: str) -> SourceURL:
    """What an operator gave as a boot source. Raises SourceError in one sentence.

    A URL may name the source's folder or an index in it (``.../streams/v1/index.json``). That a URL ends in .json
    never means "unsigned": only the source itself says so.
    """
    text = text.strip().replace(" ", "%20")  # as people write folders
    check_url(text)
    parts = urlsplit(text)
    if parts.query or parts.fragment:
        raise SourceError(f"{shown_url(text)}: expected a boot source without '?' or '#', got one with them")
    match = _INDEX_OF_URL.search(parts.path)
    index = unquote(match[1]) if match else ""
    path = (parts.path[: match.start()] if match else parts.path).rstrip("/") + "/"
    authority = "" if parts.scheme == "file" else parts.netloc
    return SourceURL(f"{parts.scheme}://{authority}{quote(unquote(path), safe=_SAFE)}", index)


def tested_spelling(base: str) -> str:
    """*base* with a last folder ``daily`` called ``stable``, which is what it means on images.maas.io."""
    return base.removesuffix("/daily/") + "/stable/" if base.endswith("/daily/") else base


def check_url(text: str) -> None:
    """Raises SourceError unless *text* is an http, https or file URL that can stand in a request line."""
    fault = ""
    try:
        parts = urlsplit(text)
        port = parts.port  # its property is where urllib complains about it
    except ValueError as error:
        raise SourceError(f"{shown(text)}: expected a URL, got something malformed ({error})") from None
    if len(text) > URL_CHARACTERS:
        fault = f"one of {len(text)} characters (at most {URL_CHARACTERS})"
    elif not text.isprintable() or " " in text or "\\" in text:
        fault = "one with a blank, a backslash or a control character"
    elif parts.scheme not in ("http", "https", "file"):
        fault = f"the scheme {parts.scheme!r}" if parts.scheme else "no scheme"
    elif parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        fault = f"the host {parts.netloc!r}, which file: cannot reach"
    elif parts.scheme == "file" and not parts.path.startswith("/"):
        fault = "a relative file"
    elif parts.scheme != "file" and (not parts.hostname or port == 0):
        fault = "no host" if not parts.hostname else "port 0"
    if fault:
        raise SourceError(f"{shown_url(text)}: expected an http, https or file URL, got {fault}")


def shown_url(url: str) -> str:
    """*url* for people and logs: without the user name and password it may carry."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    if separator and "@" in authority:
        rest = authority.rpartition("@")[2] + slash + path
    return shown(f"{scheme}{separator}{rest}", 300)
