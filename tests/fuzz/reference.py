"""What the parsers must make of any bytes, said a second time: the RFCs' grammar as regular expressions.

Slow, without state, and written from the standards and the contracts in the pxd files, not from the code. Each answers
for all bytes, so accepting too much and refusing too much are both seen.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_HEAD, MAX_METHOD, MAX_TARGET, MAX_NAME = 16384, 64, 8192, 512

# -- HTTP heads (RFC 9112 sections 2 to 6, RFC 9110 section 5) ---------------------------------------------------------

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
VALUE = rb"[\t\x20-\x7e\x80-\xff]"  # field-vchar, obs-text and the white space between
TARGET = rb"[\x21\x22\x24-\x7e]"  # visible, and no fragment
HOST = rb"[0-9A-Za-z!$%&'*+\-._~(),:;=\[\]]"  # reg-name, IP-literal and port of RFC 3986, not looked at closer
HEAD = re.compile(
    rb"(?:\r\n){0,4}(%b{1,%d}) (%b{1,%d}) HTTP/1\.([0-9])\r\n((?:%b+:%b*\r\n)*)\r\n"
    % (TOKEN, MAX_METHOD, TARGET, MAX_TARGET, TOKEN, VALUE)
)
#: the same, with what is read to its end before it is refused: any version, a fifth empty line
ANY_HEAD = re.compile(HEAD.pattern.replace(rb"HTTP/1\.([0-9])", rb"HTTP/[0-9]\.[0-9]").replace(b"{0,4}", b"{0,5}"))
#: whatever a beginning lacks is the end of one of these
WHOLE = (b"\r\nA / HTTP/1.1\r\n\r\n", b"A / HTTP/1.1\r\nA:\r\n\r\n")
ENDS = sorted({whole[at:] for whole in WHOLE for at in range(len(whole))}, key=len)
FIELDS = (b"host", b"range", b"if-range", b"if-match", b"if-none-match", b"connection", b"content-length",
          b"transfer-encoding", b"user-agent")  # fmt: skip


class Head(NamedTuple):
    """As bootplane.core.http_head.Head; *fields* holds the fields this server looks at, under lower-case names."""

    size: int
    method: bytes
    target: bytes
    minor: int
    close: bool
    keep_alive: bool
    transfer: bool
    content_length: int
    fields: dict[bytes, list[bytes]]


def elements(lines: list[bytes]) -> list[bytes]:
    return [element.strip(b" \t") for line in lines for element in line.split(b",")]


def has_token(lines: list[bytes], word: bytes) -> bool:
    return any(element.lower() == word for element in elements(lines))


def head(data: bytes) -> Head | None:
    """The head at the front of *data*; None for one that is refused or not whole."""
    match = HEAD.match(data[:MAX_HEAD])
    if match is None:
        return None
    method, target, minor, block = match.groups()
    fields: dict[bytes, list[bytes]] = {}
    for line in block.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        if name.lower() in FIELDS:
            fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    is_old = minor == b"0"
    hosts, lengths = fields.get(b"host", []), fields.get(b"content-length", [])
    if len(hosts) > 1 or (not hosts and not is_old):
        return None
    if hosts and not re.fullmatch(rb"%b*" % HOST, hosts[0]):
        return None
    if len(lengths) > 1 or (lengths and not re.fullmatch(rb"[0-9]{1,18}", lengths[0])):
        return None
    transfer = b"transfer-encoding" in fields
    if transfer and (lengths or is_old):
        return None
    connection = fields.get(b"connection", [])
    return Head(
        match.end(), method, target, 0 if is_old else 1, has_token(connection, b"close"),
        has_token(connection, b"keep-alive"), transfer, int(lengths[0]) if lengths else -1, fields,
    )  # fmt: skip


def may_become_a_head(data: bytes) -> bool:
    """Whether something can follow *data* that makes a head of it, by its grammar alone. For less than 8192 bytes."""
    return any(ANY_HEAD.match(data + end) for end in ENDS)


def target_path(target: bytes) -> bytes | None:
    """The decoded path of a target; None for one that names none. RFC 9112 section 3.2, RFC 3986 section 2.1."""
    if not target.startswith(b"/") and target:
        absolute = re.match(rb"(?i:https?)://[^/?]+", target)
        if absolute is None:
            return None
        target = target[absolute.end() :]
    path = target.partition(b"?")[0]
    if re.search(rb"%(?![0-9A-Fa-f]{2})", path):
        return None
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), path)


# -- ranges and conditions (RFC 9110 sections 13 and 14) ---------------------------------------------------------------

OUTSIDE = "outside"
HUGE = 0x3FFFFFFFFFFFFFFF  # what a number saturates at: larger than any file


def saturated(digits: bytes) -> int:
    return int(digits) if int(digits) < HUGE // 10 * 10 else HUGE


def byte_range(value: bytes, size: int) -> tuple[int, int] | str | None:
    """(first, end); OUTSIDE of the file; None: not a range this server takes, so the whole file."""
    if value[:6].lower() != b"bytes=":
        return None
    specs = [spec.strip(b" \t") for spec in value[6:].split(b",")]
    specs = [spec for spec in specs if spec]
    spec = re.fullmatch(rb"([0-9]*)-([0-9]*)", specs[0]) if len(specs) == 1 else None
    if spec is None or spec.group() == b"-":
        return None
    if not spec[1]:
        suffix = saturated(spec[2])
        if suffix == 0:
            return OUTSIDE
        return (max(0, size - suffix), size) if size else None
    first, last = saturated(spec[1]), saturated(spec[2]) if spec[2] else HUGE
    if last < first:
        return None
    return OUTSIDE if first >= size else (first, min(last + 1, size))


def is_listed(lines: list[bytes], etag: bytes, weak: bool) -> bool:
    """Whether an If-Match or If-None-Match of these lines holds *etag*. A line counts up to its first mistake."""
    for line in lines:
        if line == b"*":
            return True
        at = 0
        while True:
            at = re.compile(rb"[ \t,]*").match(line, at).end()  # type: ignore[union-attr]
            tag = re.compile(rb'(W/)?("[^"]*")').match(line, at)
            if tag is None:
                break
            if tag[2] == etag and (weak or not tag[1]):
                return True
            rest = re.compile(rb"[ \t]*(,|\Z)").match(line, tag.end())
            if rest is None:
                break
            at = rest.end()
    return False


def evaluate(head: Head, etag: bytes, size: int) -> tuple[int, int, int]:
    """(status, first, end), in the order of RFC 9110 section 13.2.2."""
    fields = head.fields
    if b"if-match" in fields and not is_listed(fields[b"if-match"], etag, False):
        return 412, 0, size
    if b"if-none-match" in fields and is_listed(fields[b"if-none-match"], etag, True):
        return 304, 0, size
    ranges = fields.get(b"range", [])
    if head.method != b"GET" or len(ranges) != 1 or fields.get(b"if-range", [etag])[0] != etag:
        return 200, 0, size
    part = byte_range(ranges[0], size)
    if part == OUTSIDE:
        return 416, 0, size
    return (206, part[0], part[1]) if isinstance(part, tuple) else (200, 0, size)


# -- TFTP requests (RFC 1350, 2347, 2348, 2349, 7440) ------------------------------------------------------------------

LIMITS = {b"blksize": (8, 65464), b"timeout": (1, 255), b"windowsize": (1, 65535)}


class Request(NamedTuple):
    opcode: int
    name: bytes
    mode: str
    options: dict[str, int | bool]


def request(packet: bytes) -> Request | None:
    """An RRQ or WRQ; None for anything else. Options out of their range, unknown or repeated are passed over."""
    if packet[:2] not in (b"\0\1", b"\0\2"):
        return None
    *strings, tail = packet[2:].split(b"\0")
    if len(strings) < 2:
        return None
    name, mode, *rest = strings
    options: dict[str, int | bool] = {}
    for at in range(0, len(rest), 2):
        key = rest[at].lower()
        if not key:
            break  # some firmware pads its request with zeros
        if at + 1 == len(rest):
            return None
        value = rest[at + 1]
        if key == b"tsize" and re.fullmatch(rb"[0-9]+", value):
            options["tsize"] = True
        if key in LIMITS and key.decode() not in options and re.fullmatch(rb"[0-9]{1,10}", value):
            low, high = LIMITS[key]
            if low <= int(value) <= high:
                options[key.decode()] = int(value)
    else:
        if tail:
            return None
    known = {b"octet": "octet", b"netascii": "netascii", b"mail": "mail"}
    return Request(packet[1], name, known.get(mode.lower(), "other"), options)


# -- names -------------------------------------------------------------------------------------------------------------

FILE, DYNAMIC, EMPTY, CONTROL = range(4)
KINDS = (
    (CONTROL, rb"(MAAS|api|metrics)(/.*)?"),
    (DYNAMIC, rb"(.*/)?grub/grub\.cfg|grub\.cfg|(grub/.*|.*/grub/|)(?<![^/])grub\.cfg-[^/]*"),
    (DYNAMIC, rb"(.*/)?pxelinux\.cfg/[^/]*"),
    (DYNAMIC, rb"ipxe\.cfg(-[^/]*)?"),
    (EMPTY, rb"(.*/)?[^/]*\.lst"),
)


def name(raw: bytes) -> bytes | None:
    """The canonical form of a name on the wire; None for one that is nobody's."""
    segments = [segment for segment in re.split(rb"[/\\]", raw) if segment not in (b"", b".")]
    joined = b"/".join(segments)
    if b".." in segments or re.search(rb"[\x00-\x1f\x7f]", raw) or len(joined) > MAX_NAME:
        return None
    return joined


def kind(canonical: bytes) -> int:
    return next((kind for kind, pattern in KINDS if re.fullmatch(pattern, canonical, re.DOTALL)), FILE)
