"""A recorded boot as text: what the client sent, byte for byte, and the shape of what it was answered.

    python -m tests.fakes.pcap FILE.pcap > tests/spec/captures/NAME.txt

    client 10.79.0.101                                           addresses of the recording, for the reader
    server 10.79.0.1
    file grubx64.efi 3843216                                     names that exist, by canonical name, and their sizes
    config grub/grub.cfg 45                                      the same for names that are made for one machine
       0.000 > udp 1964 RRQ grubx64.efi octet blksize=512 windowsize=4 | 000167727562...
       0.001 < udp 1964 OACK blksize=512 windowsize=4            seconds, direction, the client's port, what it means
       0.002 > udp 1964 ACK 0 | 00040000                         and the exact bytes of what the client sends
       0.002 = udp 1964 DATA 1..7507 of 512 by 4, the last 144 | ACK 4..7507 until 1.350
       4.100 > tcp 1025 connect
       4.101 > tcp 1025 HEAD /grubx64.efi HTTP/1.1
               "HEAD /grubx64.efi HTTP/1.1\\r\\n"                  one JSON string per line of the request
       4.102 < tcp 1025 200 Content-Length=3843216 body=0
       4.103 > tcp 1025 FIN

A line with ``=`` is a run: the server sends windows of so many blocks, the client answers each with the four bytes of
an ACK of its last block. What the client says stands twice, decoded and in bytes, and reading a file compares the two.

Invariant: ``parse(render(capture)) == capture``. Reading packets from a pcap is pcap's, playing a capture replay's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

DIGITS = 3  # of a second


class Sent(NamedTuple):
    """A datagram, or what one TCP segment carried. *late*: to the TID of an earlier transfer of this port."""

    at: float
    proto: str
    port: int
    data: bytes
    late: bool = False


class Packet(NamedTuple):
    """The server's datagram: *number* is DATA's block or ERROR's code, *size* DATA's payload in bytes."""

    at: float
    port: int
    kind: str
    number: int = 0
    size: int = 0
    options: tuple[tuple[str, str], ...] = ()


class Run(NamedTuple):
    """DATA *first* to *last* of *blksize* bytes, the last of *tail*; an ACK after every *window* and after the last."""

    at: float
    port: int
    first: int
    last: int
    blksize: int
    window: int
    tail: int
    until: float


class Connect(NamedTuple):
    at: float
    port: int


class Reply(NamedTuple):
    """An HTTP response: *length* and *connection* as in its head, *body* the bytes that followed."""

    at: float
    port: int
    status: int
    length: int | None
    connection: str | None
    body: int


class End(NamedTuple):
    """*by* ``client`` or ``server``; *how* ``FIN`` or ``RST``."""

    at: float
    port: int
    by: str
    how: str


Event = Sent | Packet | Run | Connect | Reply | End


@dataclass
class Capture:
    """*files* and *configs*: canonical name -> size. *notes*: the comment at its head, without the ``#``."""

    client: str
    server: str
    events: list[Event]
    files: dict[str, int] = field(default_factory=dict)
    configs: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


# -- names -----------------------------------------------------------------------------------------------------------

_CONFIG = re.compile(
    r"(?:(?:.*/)?grub/grub\.cfg(?:-[^/]*)?|grub\.cfg-[^/]*|(?:.*/)?pxelinux\.cfg/[^/]*|ipxe\.cfg(?:-[^/]*)?)\Z"
)


def canonical(name: str) -> str:
    """The name without what firmware puts before and between its segments; written again here, not the server's."""
    return "/".join(word for word in re.split(r"[/\\]", name) if word not in ("", "."))


def is_config(name: str) -> bool:
    """Whether a canonical name is made for one machine, so that the server asks before it answers."""
    return _CONFIG.match(name) is not None


def is_handed_over(path: str) -> bool:
    """Whether a canonical path is not a file's: a rack hands such requests on."""
    return path.split("/")[0] in ("MAAS", "api", "metrics")


# -- TFTP packets ----------------------------------------------------------------------------------------------------

KINDS = {1: "RRQ", 2: "WRQ", 3: "DATA", 4: "ACK", 5: "ERROR", 6: "OACK"}


class Request(NamedTuple):
    name: str
    mode: str
    options: dict[str, str]


def words_of(data: bytes) -> list[str]:
    return [word.decode("latin-1") for word in data.split(b"\0")]


def request_of(data: bytes) -> Request:
    """A RRQ's meaning; what follows its last whole option is left out."""
    name, mode, *rest = words_of(data[2:])
    return Request(name, mode, dict(zip(rest[0::2], rest[1:-1:2], strict=False)))


def kind_of(data: bytes) -> str:
    return KINDS.get(int.from_bytes(data[:2], "big"), "?")


def number_of(data: bytes) -> int:
    return int.from_bytes(data[2:4], "big")


def ack(block: int) -> bytes:
    return b"\0\4" + (block % 65536).to_bytes(2, "big")


def describe(data: bytes) -> str:
    """One line for a client's datagram."""
    kind = kind_of(data)
    if kind in ("RRQ", "WRQ"):
        name, mode, options = request_of(data)
        quoted = name if re.fullmatch(r"[\x21-\x7e]+", name) else json.dumps(name)
        return " ".join([kind, quoted, mode, *(f"{key}={value}" for key, value in options.items())])
    if kind == "ERROR":
        return f"ERROR {number_of(data)} {json.dumps(data[4:].rstrip(bytes(1)).decode('latin-1'))}"
    if kind in ("ACK", "DATA"):
        return f"{kind} {number_of(data)}"
    return kind


def describe_http(data: bytes) -> str:
    """One line for what one segment carried: the request line, or how much more of a request it is."""
    line = re.match(rb"[A-Z]+ [\x21-\xff]+ HTTP/1\.[01](?=\r\n)", data)
    return line[0].decode("latin-1") if line else f"{len(data)} bytes more"


class HttpRequest(NamedTuple):
    """*raw*: head and body."""

    method: str
    target: str
    raw: bytes

    @property
    def path(self) -> str:
        """Canonical name of what is asked for."""
        return canonical(unquote_to_bytes(self.target.partition("?")[0]).decode("latin-1"))


def http_request_of(data: bytes) -> HttpRequest | None:
    """The request that *data* begins with, or None."""
    line = re.match(rb"([A-Z]+) ([\x21-\xff]+) HTTP/1\.[01]\r\n", data)
    return HttpRequest(line[1].decode(), line[2].decode("latin-1"), data) if line else None


class HttpRequests:
    """The requests of one connection, from its bytes in any portions."""

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> Iterator[HttpRequest]:
        """Those that are whole now."""
        self._bytes += data
        while (end := self._bytes.find(b"\r\n\r\n") + 4) >= 4:
            length = re.search(rb"\r\ncontent-length: *(\d+)\r\n", self._bytes[:end], re.IGNORECASE)
            end += int(length[1]) if length else 0
            if len(self._bytes) < end:
                return
            request = http_request_of(self._bytes[:end])
            if request is None:
                raise ValueError(f"not a request: {self._bytes[:80]!r}")
            self._bytes = self._bytes[end:]
            yield request


# -- runs ------------------------------------------------------------------------------------------------------------

RUN_WINDOWS = 3  # fewer are written out


def acks_of(run: Run) -> Iterator[int]:
    """The blocks that a run's ACKs name."""
    yield from range(run.first + run.window - 1, run.last, run.window)
    yield run.last


def expand(run: Run) -> Iterator[Event]:
    """The packets of a run, its time divided evenly among them."""
    block = run.first
    pace = (run.until - run.at) / (run.last - run.first + 1)
    for acked in acks_of(run):
        at = round(run.at + (block - run.first) * pace, DIGITS)
        for number in range(block, acked + 1):
            yield Packet(at, run.port, "DATA", number, run.tail if number == run.last else run.blksize)
        block = acked + 1
        yield Sent(round(run.at + (block - run.first) * pace, DIGITS), "udp", run.port, ack(acked))


def _window(events: list[Event], at: int, port: int, number: int, blksize: int) -> tuple[int, int] | None:
    """The window that begins at *at* with block *number*: how many blocks, the size of its last. None: no window."""
    tail = blksize
    for n in range(min(len(events) - at, 65536)):
        event = events[at + n]
        if n and event == Sent(event.at, "udp", port, ack(number + n - 1)):
            return n, tail
        if tail != blksize or not isinstance(event, Packet):
            return None
        if (event.port, event.kind, event.number) != (port, "DATA", number + n) or event.size > blksize:
            return None
        tail = event.size
    return None


def _run_at(events: list[Event], at: int) -> tuple[Run, int] | None:
    """The run that begins at *at*, and how many events it stands for."""
    first = events[at]
    if not isinstance(first, Packet) or first.kind != "DATA":
        return None
    end, number, window, windows, tail = at, first.number, 0, 0, first.size
    while found := _window(events, end, first.port, number, first.size):
        if windows and found[0] > window:
            break
        n, tail = found
        window = window or n
        windows += 1
        end += n + 1
        number += n
        if n < window or tail != first.size:
            break
    if windows < RUN_WINDOWS:
        return None
    return Run(first.at, first.port, first.number, number - 1, first.size, window, tail, events[end - 1].at), end - at


def compress(events: Iterable[Event]) -> list[Event]:
    """The same with runs in place of three and more windows in sequence."""
    events, out, at = list(events), [], 0
    while at < len(events):
        found = _run_at(events, at)
        out.append(found[0] if found else events[at])
        at += found[1] if found else 1
    return out


# -- text ------------------------------------------------------------------------------------------------------------


def _time(at: float) -> str:
    return f"{at:9.{DIGITS}f}"


def _lines(event: Event) -> Iterator[str]:
    match event:
        case Sent(at, "udp", port, data, late):
            yield f"{_time(at)} {'late' if late else '>'} udp {port} {describe(data)} | {data.hex()}"
        case Sent(at, "tcp", port, data):
            yield f"{_time(at)} > tcp {port} {describe_http(data)}"
            for line in data.splitlines(keepends=True):
                yield " " * 10 + "  " + json.dumps(line.decode("latin-1"))
        case Packet(at, port, "DATA", number, size):
            yield f"{_time(at)} < udp {port} DATA {number} of {size}"
        case Packet(at, port, kind, number, _, options):
            words = [kind, *([str(number)] if kind == "ERROR" else []), *(f"{key}={value}" for key, value in options)]
            yield f"{_time(at)} < udp {port} {' '.join(words)}"
        case Run(at, port, first, last, blksize, window, tail, until):
            acks = f"ACK {first + window - 1}..{last}"
            blocks = f"DATA {first}..{last} of {blksize} by {window}, the last {tail}"
            yield f"{_time(at)} = udp {port} {blocks} | {acks} until {until:.{DIGITS}f}"
        case Connect(at, port):
            yield f"{_time(at)} > tcp {port} connect"
        case Reply(at, port, status, length, connection, body):
            words = [str(status)]
            words += [f"Content-Length={length}"] if length is not None else []
            words += [f"Connection={connection}"] if connection is not None else []
            yield f"{_time(at)} < tcp {port} {' '.join(words)} body={body}"
        case End(at, port, by, how):
            yield f"{_time(at)} {'>' if by == 'client' else '<'} tcp {port} {how}"


def render(capture: Capture) -> str:
    out = [*(f"# {note}".rstrip() for note in capture.notes)]
    out += [f"client {capture.client}", f"server {capture.server}"]
    out += [f"file {name} {size}" for name, size in sorted(capture.files.items())]
    out += [f"config {name} {size}" for name, size in sorted(capture.configs.items())]
    for event in capture.events:
        out += _lines(event)
    return "\n".join(out) + "\n"


def _words(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, _, value in (word.partition("=") for word in text.split()))


def _sent_udp(at: float, port: int, rest: str, late: bool) -> Sent:
    meaning, _, digits = rest.rpartition(" | ")
    data = bytes.fromhex(digits)
    if describe(data) != meaning:
        raise ValueError(f"the bytes say {describe(data)!r} and the line {meaning!r}")
    return Sent(at, "udp", port, data, late)


def _event(at: float, arrow: str, proto: str, port: int, rest: str) -> Event | None:
    """One line's event; None for what goes on in the lines below it."""
    if proto == "udp" and arrow in (">", "late"):
        return _sent_udp(at, port, rest, arrow == "late")
    if arrow == "=":
        found = re.fullmatch(
            r"DATA (\d+)\.\.(\d+) of (\d+) by (\d+), the last (\d+) \| ACK (\d+)\.\.(\d+) until ([\d.]+)", rest
        )
        if found is None:
            raise ValueError(f"not a run: {rest!r}")
        first, last, blksize, window, tail, acked, acked_last = (int(found[n]) for n in range(1, 8))
        if (acked, acked_last) != (first + window - 1, last):
            raise ValueError(f"windows of {window} from {first} to {last} are not acknowledged {acked}..{acked_last}")
        return Run(at, port, first, last, blksize, window, tail, float(found[8]))
    if proto == "udp":
        if found := re.fullmatch(r"DATA (\d+) of (\d+)", rest):
            return Packet(at, port, "DATA", int(found[1]), int(found[2]))
        if found := re.fullmatch(r"ERROR (\d+)", rest):
            return Packet(at, port, "ERROR", int(found[1]))
        if found := re.fullmatch(r"OACK((?: \S+=\S+)*)", rest):
            return Packet(at, port, "OACK", options=_words(found[1]))
        raise ValueError(f"not a server's datagram: {rest!r}")
    if rest == "connect":
        return Connect(at, port)
    if rest in ("FIN", "RST"):
        return End(at, port, "client" if arrow == ">" else "server", rest)
    if arrow == ">":
        return None
    status, _, words = rest.partition(" ")
    fields = dict(_words(words))
    length = fields.get("Content-Length")
    return Reply(
        at, port, int(status), None if length is None else int(length), fields.get("Connection"), int(fields["body"])
    )


_LINE = re.compile(r"\s*(\d+\.\d+) (>|<|=|late) (udp|tcp) (\d+) (.+)")


def parse(text: str) -> Capture:
    """Reads a capture. Raises ValueError that names the line."""
    capture = Capture("", "", [])
    request: tuple[int, float, int, str] | None = None  # the TCP segment whose lines are being read, and its own
    body: list[str] = []

    def finish() -> None:
        nonlocal request
        if request is None:
            return
        number, at, port, meaning = request
        data = "".join(json.loads(line) for line in body).encode("latin-1")
        if describe_http(data) != meaning:
            raise ValueError(f"line {number}: the bytes say {describe_http(data)!r} and the line {meaning!r}")
        capture.events.append(Sent(at, "tcp", port, data))
        request = None
        body.clear()

    for number, line in enumerate([*text.splitlines(), ""], 1):
        word, _, rest = line.strip().partition(" ")
        if request is not None and word.startswith('"'):
            body.append(line)
            continue
        finish()
        try:
            if word.startswith("#"):
                capture.notes.append(line[2:])
            elif word in ("client", "server"):
                setattr(capture, word, rest)
            elif word in ("file", "config"):
                name, _, size = rest.rpartition(" ")
                (capture.files if word == "file" else capture.configs)[name] = int(size)
            elif word:
                found = _LINE.fullmatch(line)
                if found is None:
                    raise ValueError(f"expected seconds, direction, protocol, port and meaning, got {line!r}")
                at, arrow, proto, port, rest = found.groups()
                event = _event(float(at), arrow, proto, int(port), rest)
                if event is None:
                    request = (number, float(at), int(port), rest)
                else:
                    capture.events.append(event)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return capture


def rounded(events: Iterable[Event]) -> list[Event]:
    """Times as the text keeps them."""
    out: list[Event] = []
    for event in events:
        event = event._replace(at=round(event.at, DIGITS))
        out.append(event._replace(until=round(event.until, DIGITS)) if isinstance(event, Run) else event)
    return out
