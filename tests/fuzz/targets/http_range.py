"""Range, If-Range, If-Match and If-None-Match. Input: one byte for the method and the file's size, then field lines
with LF between them; or, after a first byte of 0x80 and more, the value of one Range."""

from __future__ import annotations

from bootplane.core.http_head import Head, parse_head
from bootplane.core.http_range import evaluate, parse_range
from tests.fuzz import reference

MAX_LEN = 300
ETAG = b'"84d898"'
SIZES = (0, 1, 2, 10, 100, 4096, 65535, 65536, 2**31, 2**32, 2**40, 2**61, 10**18, 512, 3, 99)
WORDS = [
    b"Range: ", b"bytes=", b"bytes=0-", b"bytes=-1", b"0-9", b"99-", b"If-Range: ", b"If-Match: ", b"If-None-Match: ",
    ETAG, b"W/", b'W/"84d898"', b"*", b", ", b'"', b"4611686018427387903", b"99999999999999999999",
    b"9223372036854775807", b"\n", b"\t",
]  # fmt: skip


def check(data: bytes) -> None:
    if not data:
        return
    size = SIZES[data[0] & 15]
    if data[0] & 0x80:
        expected = reference.byte_range(data[1:], size)
        try:
            part = parse_range(data[1:], size)
        except ValueError:
            part = reference.OUTSIDE
        assert part == expected, f"{data[1:]!r} of {size} bytes: expected {expected}, got {part}"
        return
    method = b"HEAD" if data[0] & 0x40 else b"GET"
    text = method + b" /a HTTP/1.1\r\nHost: a\r\n" + data[1:].replace(b"\n", b"\r\n") + b"\r\n\r\n"
    if not isinstance(parse_head(text), Head):
        return
    head = reference.head(text)
    assert head is not None
    expected_all, got = reference.evaluate(head, ETAG, size), evaluate(text, ETAG, size)
    assert got == expected_all, f"{data[1:]!r} of {size} bytes: expected {expected_all}, got {got}"
