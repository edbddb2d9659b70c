"""Readers of a soak: they compare every byte that reaches them with what it should be, also of bodies that never end.

    ok          the whole of what was asked for came, and was right
    refusal     503, reset, refused connection, TFTP ERROR, silence: allowed when something explains it (world judges)
    Wrong       raised: wrong bytes, a wrong head, a clean end of a short body. Nothing explains that.

A reader that stalls leaves its socket alone until the buffers of both sides are full, and reads on later: what the
kernel sends then are pages of files that may have been evicted, and their space used again, meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import random
import socket
import struct
import termios
import threading
import time
from typing import NamedTuple, Protocol

from bootplane.core import http_fetch
from bootplane.core.status import CoreError
from bootplane.dataplane.addresses import HostPort
from tests.soak.content import PIECE, File, Stream, origin
from tests.soak.plan import Read

CONNECT_S = 5.0
FULL_BYTES = 1 << 20  # unread in our own buffer: a stalled reader by the book


class Wrong(AssertionError):
    """What must never happen; one sentence."""


class Refusal(NamedTuple):
    """How a read ended that did not end well. *since*: when it last got what it had asked for."""

    how: str  # "503", "404", "reset", "fin", "refused", "silent", "error" (TFTP, other than "no such file")
    text: str
    file: File
    since: float


class Reached(Protocol):
    """The rack that is read from."""

    ending: str  # how it is being ended, or ""
    http: HostPort
    tftp: HostPort


class Told(Protocol):
    """What a reader needs to know of the world."""

    hurry: threading.Event  # a quiet point comes: nobody stalls any more
    silence_s: float  # without a byte, that nothing excuses

    def files(self) -> list[File]: ...
    def valid(self, file: File) -> list[File]: ...  # under its name: that one, and what the rack may still have
    def everything(self) -> list[File]: ...
    def count(self, key: str, n: int = 1) -> None: ...


class Span(NamedTuple):
    """One answer that is expected."""

    file: File
    head: bool
    ranged: bool
    first: int
    stop: int  # exclusive


def span(file: File, wanted: str) -> Span:
    first, stop = 0, file.size
    if wanted in ("whole", "head"):
        return Span(file, wanted == "head", False, 0, file.size)
    low, _, high = wanted.partition("-")
    if not low:
        first = max(0, file.size - int(high))
    else:
        first = int(low)
        stop = min(file.size, int(high) + 1) if high else file.size
    return Span(file, False, True, first, stop)


def request(wanted: str, file: File, host: str) -> bytes:
    lines = [f"{'HEAD' if wanted == 'head' else 'GET'} /{file.name} HTTP/1.1", f"Host: {host}"]
    if wanted not in ("whole", "head"):
        lines.append(f"Range: bytes={wanted}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class _Ended(Exception):
    def __init__(self, how: str, text: str = "") -> None:
        super().__init__(how)
        self.how, self.text = how, text


class HttpReader:
    """One connection: the requests of a Read, one after the other or all at once."""

    def __init__(self, told: Told, read: Read, life: Reached, source: str) -> None:
        self.told, self.read, self.life = told, read, life
        self.spans = [span(told.files()[n], wanted) for n, wanted in zip(read.files, read.ranges, strict=True)]
        self.source = source
        self.buffer = bytearray()
        self.since = time.monotonic()

    def run(self) -> Refusal | None:
        file = self.spans[0].file
        sock = socket.socket()
        try:
            try:
                sock.settimeout(CONNECT_S)
                if self.read.receive_buffer:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.read.receive_buffer)
                sock.bind((self.source, 0))
                self.sock = sock
                self._connect()
                heads = [request(w, s.file, "rack") for w, s in zip(self.read.ranges, self.spans, strict=True)]
                if self.read.pipelined:
                    self._send(b"".join(heads))
                for head, one in zip(heads, self.spans, strict=True):
                    file = one.file
                    if not self.read.pipelined:
                        self._send(head)
                    self._answer(one)
            except _Ended as ended:
                if ended.how == "hangup":
                    self.told.count("hang-ups")
                    return None
                return Refusal(ended.how, ended.text, file, self.since)
            return None
        finally:
            sock.close()

    def _connect(self) -> None:
        try:
            self.sock.connect(self.life.http)
        except OSError as error:
            raise _Ended("refused", str(error)) from None
        self.sock.settimeout(1.0)

    def _send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise _Ended("reset", str(error)) from None

    def _more(self, most: int) -> bytes:
        """At least a byte. Raises _Ended."""
        began = time.monotonic()
        while True:
            try:
                data = self.sock.recv(most)
            except TimeoutError:
                if time.monotonic() - began > self.told.silence_s:
                    raise _Ended("silent", f"{self.told.silence_s:.0f} s without a byte") from None
                continue
            except OSError as error:
                raise _Ended("reset", str(error)) from None
            self.since = time.monotonic()
            if not data:
                raise _Ended("fin")
            return data

    def _answer(self, one: Span) -> None:
        while b"\r\n\r\n" not in self.buffer:
            try:
                self.buffer += self._more(65536)
            except _Ended as ended:
                if ended.how == "fin" and self.buffer:
                    raise Wrong(f"{one.file.name}: a head ended in the middle: {bytes(self.buffer[:200])!r}") from None
                raise
        raw, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        line, *fields = bytes(raw).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        status, length = int(line.split(" ")[1]), int(headers.get("content-length", -1))
        if status == 503:
            raise _Ended("503", bytes(self.buffer[:300]).decode("latin-1").strip())
        if status == 404:
            raise _Ended("404")
        one = self._check_head(one, status, length, headers, bytes(raw))
        if one.head:
            self.told.count("heads")
            return
        self._body(one)
        self.told.count("bodies")
        self.told.count("bytes", one.stop - one.first)

    def _check_head(self, one: Span, status: int, length: int, headers: dict[str, str], raw: bytes) -> Span:
        """The span of the file that the rack says it sends."""
        expected = 206 if one.ranged else 200
        told = f"bytes {one.first}-{one.stop - 1}/{one.file.size}" if one.ranged else None
        right = status == expected and length == one.stop - one.first and headers.get("content-range") == told
        by_tag = {f'"{file.sha256}"': file for file in self.told.valid(one.file)}
        if not right or headers.get("etag") not in by_tag:
            raise Wrong(
                f"{one.file.name} ({one.first}-{one.stop}): expected {expected}, {one.stop - one.first} bytes, {told},"
                f" ETag {one.file.sha256[:16]}, got {raw.decode('latin-1')!r}"
            )
        return one._replace(file=by_tag[headers["etag"]])

    def _body(self, one: Span) -> None:
        stream, at, read = one.file.stream(one.first), one.first, self.read
        size = one.stop - one.first
        stall_at = one.first + int(size * read.stall_at) if read.stall_at >= 0 else -1
        hangup_at = one.first + int(size * read.hangup_at) if read.hangup_at >= 0 else -1
        began, paced = time.monotonic(), 0
        while at < one.stop:
            if 0 <= hangup_at <= at:
                raise _Ended("hangup")
            if 0 <= stall_at <= at:
                stall_at = -1
                self._stall()
            if self.buffer:
                data: bytes = bytes(self.buffer[: one.stop - at])
                del self.buffer[: len(data)]
            else:
                try:
                    data = self._more(min(PIECE, one.stop - at))
                except _Ended as ended:
                    if ended.how == "fin" and self.life.ending != "SIGKILL":
                        raise Wrong(
                            f"{one.file.name}: a clean end of a short body: expected {one.stop - one.first} bytes, got"
                            f" {at - one.first}{' while it drained' if self.life.ending else ''}"
                        ) from None
                    raise
            compare(self.told, stream, one.file, at, data)
            at += len(data)
            paced += len(data)
            if read.rate and (ahead := paced / read.rate - (time.monotonic() - began)) > 0.01:
                self.told.hurry.wait(ahead)

    def _stall(self) -> None:
        self.told.count("stalls")
        began = time.monotonic()
        self.told.hurry.wait(self.read.stall_s)
        unread = struct.unpack("i", fcntl.ioctl(self.sock, termios.FIONREAD, b"\0\0\0\0"))[0]
        self.told.count("stalled seconds", round(time.monotonic() - began))
        self.told.count("stalls with >= 1 MiB unread", unread >= FULL_BYTES)
        self.told.count("stalls that outlived their rack", bool(self.life.ending))


def compare(told: Told, stream: Stream, file: File, at: int, data: bytes) -> None:
    wrong = stream.wrong_at(data)
    if wrong is not None:
        whose = origin(data[wrong:], told.everything())
        place = at + wrong
        raise Wrong(f"{file.name}: wrong bytes at {place} (chunk {place >> 20}, segment {place >> 22}): {whose}")


def hashed(told: Told, file: File, life: Reached, source: str) -> Refusal | None:
    """The whole file by the fast client, hashed as it arrives."""
    since = time.monotonic()
    try:
        got = http_fetch.fetch(*life.http, f"/{file.name}", timeout_s=300.0, source=source)
    except (CoreError, OSError) as error:
        return Refusal("refused" if "refused" in str(error) else "reset", str(error), file, since)
    if got.status == 503:
        return Refusal("503", got.headers, file, since)
    if got.status == 404:
        return Refusal("404", got.headers, file, since)
    if got.status != 200 or got.size != file.size or got.sha256 not in {one.sha256 for one in told.valid(file)}:
        raise Wrong(
            f"{file.name}: expected 200, {file.size} bytes, {file.sha256}, got {got.status}, {got.size}, {got.sha256}"
        )
    told.count("bodies")
    told.count("bytes", got.size)
    return None


BLKSIZE = 1428
TFTP_PATIENCE_S = 1.0


def tftp(told: Told, read: Read, life: Reached, source: str, rng: random.Random) -> Refusal | None:
    """RFC 1350 with blksize, tsize and windowsize, losing what *rng* says."""
    file, address = told.files()[read.files[0]], life.tftp
    since = time.monotonic()
    options = {"blksize": BLKSIZE, "tsize": 0} | ({"windowsize": read.window} if read.window > 1 else {})
    words = [file.name, "octet", *(str(word) for item in options.items() for word in item)]
    rrq = b"\0\1" + b"".join(word.encode() + b"\0" for word in words)
    streams = {one: one.stream() for one in told.valid(file)}  # TFTP does not say which one it sends
    block, size = 0, 0  # block: the last one taken in order
    hangup_at = int(file.size * read.hangup_at) if read.hangup_at >= 0 else -1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind((source, 0))
        sock.settimeout(TFTP_PATIENCE_S)
        sock.sendto(rrq, address)
        tid: tuple[str, int] | None = None
        gap = False
        while True:
            try:
                raw, peer = sock.recvfrom(65536)
            except TimeoutError:
                if life.ending:
                    return Refusal("silent", "the rack is gone", file, since)
                if time.monotonic() - since > told.silence_s:
                    return Refusal("silent", f"{told.silence_s:.0f} s without a packet", file, since)
                _send(sock, rrq if tid is None else ack(block), tid or address)
                continue
            except OSError as error:
                return Refusal("refused", str(error), file, since)
            if tid is None:
                tid = peer
            if peer != tid or rng.random() < read.loss:
                continue
            kind = int.from_bytes(raw[:2], "big")
            if kind == 5:
                how = "404" if raw[2:4] == b"\0\1" else "error"
                return Refusal(how, raw[4:-1].decode("latin-1"), file, since)
            if kind == 6:
                _check_oack(raw, file, read)
                _send(sock, ack(0), tid)
                continue
            number, data = int.from_bytes(raw[2:4], "big"), raw[4:]
            if number != (block + 1) & 0xFFFF:
                if not gap and (number - block) & 0xFFFF < 0x8000:
                    gap = True
                    _send(sock, ack(block), tid)
                continue
            gap = False
            streams = candidates(told, streams, size, data)
            block, size, since = (block + 1), size + len(data), time.monotonic()
            if len(data) < BLKSIZE:
                _send(sock, ack(block), tid)
                break
            if block % read.window == 0:
                _send(sock, ack(block), tid)
            if 0 <= hangup_at <= size:
                told.count("hang-ups")
                return None
    if size != file.size:
        raise Wrong(f"{file.name}: a clean end of a short TFTP transfer: expected {file.size} bytes, got {size}")
    told.count("bodies")
    told.count("bytes", size)
    return None


def candidates(told: Told, streams: dict[File, Stream], at: int, data: bytes) -> dict[File, Stream]:
    """Those files of which *data* is the next part. Raises Wrong when it is of none."""
    right = {file: stream for file, stream in streams.items() if stream.wrong_at(data) is None}
    if not right:
        file = next(iter(streams))
        compare(told, file.stream(at), file, at, data)
    return right


def ack(block: int) -> bytes:
    return b"\0\4" + (block & 0xFFFF).to_bytes(2, "big")


def _send(sock: socket.socket, data: bytes, to: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):  # of the one before: the port is closed; the next receive says so
        sock.sendto(data, to)


def _check_oack(raw: bytes, file: File, read: Read) -> None:
    words = [word.decode("latin-1") for word in raw[2:].split(b"\0")[:-1]]
    said = dict(zip(words[::2], words[1::2], strict=True))
    expected = {"blksize": str(BLKSIZE), "tsize": str(file.size)}
    if read.window > 1:
        expected["windowsize"] = str(read.window)
    if said != expected:
        raise Wrong(f"{file.name}: expected an OACK of {expected}, got {said}")


def carry_out(told: Told, read: Read, life: Reached, source: str, rng: random.Random) -> Refusal | None:
    """One Read, from the local address *source*. Raises Wrong."""
    if read.way == "tftp":
        return tftp(told, read, life, source, rng)
    if read.way == "hash":
        return hashed(told, told.files()[read.files[0]], life, source)
    return HttpReader(told, read, life, source).run()
