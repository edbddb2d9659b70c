"""Request heads. Input: the bytes of a connection."""

from __future__ import annotations

from bootplane.core.http_head import Head, Refused, decode_target, parse_head
from tests.fakes.headreaders import Reading, h11_reads, httptools_reads
from tests.fuzz import reference

MAX_LEN = 1024
WORDS = [
    b"GET ", b"HEAD ", b"POST ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"HTTP/2.0", b"\r\n", b"\r\n\r\n", b"Host: ",
    b"Range: bytes=", b"If-Range: ", b"If-Match: ", b"If-None-Match: ", b"Connection: ", b"close", b"keep-alive",
    b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"User-Agent: ", b"http://", b"https://", b"%2e", b"%2F",
    b": ", b"\t", b"\r", b"\n", b", ",
]  # fmt: skip


def same(ours: Head, theirs: Reading) -> bool:
    if (ours.method, ours.target, ours.minor) != (theirs.method, theirs.target, min(1, theirs.minor)):
        return False
    return all(
        lines == [value for key, value in theirs.fields if key == name.lower().encode()]
        for name, lines in ours.fields.items()
    )


def check(data: bytes) -> None:
    whole, expected = parse_head(data), reference.head(data)
    if isinstance(whole, Head):
        assert expected is not None, f"read, but the grammar refuses it: {whole}"
        fields = {name.lower().encode(): lines for name, lines in whole.fields.items()}
        assert (*whole[:-1], fields) == tuple(expected), (whole, expected)
        assert decode_target(whole.target, 16384) == reference.target_path(whole.target), whole.target
        bare = data.lstrip(b"\r\n")
        for theirs in (h11_reads(bare), httptools_reads(bare)):
            assert not isinstance(theirs, Reading) or same(whole, theirs), f"{whole} here, {theirs} there"
    else:
        assert expected is None, f"{whole}, but by the grammar {expected}"
    if whole is None:
        assert reference.may_become_a_head(data), "more bytes are wanted, and none can mend it"
    if isinstance(whole, Refused):
        assert whole.status in (400, 414, 431, 505) and whole.why
    for cut in {len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1} - {-2, -1}:
        early = parse_head(data[:cut])
        assert early is None or early == whole, f"{early} of the first {cut} bytes, {whole} of all"
