"""Request heads: what is read, what is refused, and h11 and httptools as second opinions.

A third one, for all bytes, is the grammar in tests/fuzz/reference.py."""

from __future__ import annotations

import base64 as standard_base64
import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootplane.core.http_head import Head, Refused, decode_target, parse_head
from bootplane.core.http_response import base64, refusal
from tests.fakes.headreaders import Reading, h11_reads, httptools_reads

Reader = Callable[[bytes], Reading | str | None]

GET = b"GET /a HTTP/1.1\r\nHost: rack\r\n\r\n"

#: (head, the status it is refused with, a word of the reason)
REFUSED = [
    (b"GET /a HTTP/1.1\r\n\r\n", 400, "Host"),
    (b"GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "twice"),
    (b"GET /a HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "Host"),
    (b"GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "Host"),
    (b"GET /a HTTP/1.1\r\nHost : a\r\n\r\n", 400, "colon"),
    (b"GET /a HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 400, "folded"),
    (b"GET /a HTTP/1.1\r\n: a\r\n\r\n", 400, "no name"),
    (b"GET /a HTTP/1.1\r\nHost a\r\n\r\n", 400, "colon"),
    (b"GET /a HTTP/1.1\r\nX: a\0b\r\n\r\n", 400, "control"),
    (b"GET /a HTTP/1.1\r\nX: a\rb\r\n\r\n", 400, "CR"),
    (b"GET /a HTTP/1.1\nHost: a\n\n", 400, "CRLF"),
    (b"GET /a HTTP/1.1\r\nHost: a\n\r\n", 400, "LF"),
    (b"GET /a HTTP/1.1\r\nHost: a\r\n\rX", 400, "CR"),
    (b"GET /a\r\n\r\n", 400, "version"),
    (b"GET  /a HTTP/1.1\r\n", 400, "empty"),
    (b"GET /a  HTTP/1.1\r\n", 400, "HTTP/x.y"),
    (b"GET /a\tHTTP/1.1\r\n", 400, "percent"),
    (b"GET /a#b HTTP/1.1\r\n", 400, "percent"),
    (b"GET /\xc3\xa4 HTTP/1.1\r\n", 400, "percent"),
    (b"GET /a http/1.1\r\n", 400, "HTTP/x.y"),
    (b"GET /a HTTP/1.1 \r\n", 400, "HTTP/x.y"),
    (b"G(T /a HTTP/1.1\r\n", 400, "method"),
    (b" GET /a HTTP/1.1\r\n", 400, "method"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "method"),
    (b"\r\n" * 5, 400, "empty lines"),
    (b"A" * 65, 400, "method"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/1.1"),
    (b"GET /a HTTP/0.9\r\n", 505, "HTTP/1.1"),
    (b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n", 414, "target"),
    (b"GET /a HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 16384, 431, "16384"),
    (b"GET /a HTTP/1.1\r\n" + b"A: b\r\n" * 2732, 431, "16384"),
    (b"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400, "twice"),
    (b"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400, "number"),
    (b"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400, "number"),
    (b"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400, "number"),
    (b"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n", 400, "number"),
    (b"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "Transfer"),
    (b"GET /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "Transfer"),
]


@pytest.mark.parametrize(("data", "status", "word"), REFUSED)
def test_a_head_that_can_be_read_two_ways_is_refused_with_a_reason(data: bytes, status: int, word: str) -> None:
    got = parse_head(data)
    assert isinstance(got, Refused), got
    assert got.status == status
    assert word in got.why


@pytest.mark.parametrize("data", [GET, *(row[0] for row in REFUSED if len(row[0]) < 100)])
def test_a_head_fed_byte_by_byte_gets_the_answer_of_the_whole(data: bytes) -> None:
    whole = parse_head(data)
    assert whole is not None
    answers = [parse_head(data[:n]) for n in range(len(data) + 1)]
    first = next(answer for answer in answers if answer is not None)
    assert first == whole


def test_fields_are_sliced_without_surrounding_white_space() -> None:
    head = parse_head(
        b'HEAD /x?y HTTP/1.1\r\nhOST:\t rack:5248 \t\r\nRange:bytes=0-1\r\nIF-RANGE: "a"\r\nIf-None-Match: "a"\r\n'
        b'If-None-Match: "b"\r\nIf-Match: *\r\nX-Empty:\r\nConnection: TE, Close\r\n\r\nrest'
    )
    assert isinstance(head, Head)
    assert (head.method, head.target, head.minor, head.close) == (b"HEAD", b"/x?y", 1, True)
    assert head.fields == {
        "Host": [b"rack:5248"],
        "Range": [b"bytes=0-1"],
        "If-Range": [b'"a"'],
        "If-None-Match": [b'"a"', b'"b"'],
        "If-Match": [b"*"],
        "Connection": [b"TE, Close"],
    }


def test_a_head_ends_where_the_next_one_begins() -> None:
    head = parse_head(GET + b"GET /b")
    assert isinstance(head, Head)
    assert head.size == len(GET)


def test_empty_lines_before_a_request_belong_to_its_head() -> None:
    head = parse_head(b"\r\n\r\n" + GET)
    assert isinstance(head, Head)
    assert head.size == 4 + len(GET)


@pytest.mark.parametrize(
    ("lines", "minor", "close", "keep_alive"),
    [
        (b"", 1, False, False),
        (b"Connection: close\r\n", 1, True, False),
        (b"Connection: keep-alive\r\n", 0, False, True),
        (b"Connection: Keep-Alive , CLOSE\r\n", 1, True, True),
        (b"Connection: foo\r\nConnection: close\r\n", 1, True, False),
        (b"Connection: closely, not-close\r\n", 1, False, False),
        (b"Connection: close:, close x, keep-alive;x\r\n", 1, False, False),
    ],
)
def test_connection_is_a_list_of_tokens_in_any_case(lines: bytes, minor: int, close: bool, keep_alive: bool) -> None:
    head = parse_head(b"GET / HTTP/1.%d\r\nHost: a\r\n%b\r\n" % (minor, lines))
    assert isinstance(head, Head)
    assert (head.minor, head.close, head.keep_alive) == (minor, close, keep_alive)


def test_a_higher_minor_version_counts_as_one() -> None:
    head = parse_head(b"GET / HTTP/1.7\r\nHost: a\r\n\r\n")
    assert isinstance(head, Head)
    assert head.minor == 1


def test_a_head_of_16384_bytes_is_read_and_one_byte_more_is_refused() -> None:
    start = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: "
    fits = start + b"c" * (16384 - len(start) - 4) + b"\r\n\r\n"
    head = parse_head(fits)
    assert isinstance(head, Head)
    assert head.size == 16384
    more = parse_head(fits[:-4] + b"c\r\n\r\n")
    assert isinstance(more, Refused)
    assert more.status == 431


def test_lpxelinux_cookie_is_passed_over() -> None:
    cookie = b"_Syslinux_ip=10.77.0.9:10.77.0.1:10.77.0.1:255.255.255.0; _Syslinux_BOOTIF=01-52-54-00-12-34-56; " * 5
    head = parse_head(
        b"GET /boot/vmlinuz HTTP/1.0\r\nHost: 10.77.0.1\r\nUser-Agent: Syslinux/6.04\r\nConnection: close\r\n"
        b"Cookie: " + cookie + b"\r\n\r\n"
    )
    assert isinstance(head, Head)
    assert (head.minor, head.close, head.target) == (0, True, b"/boot/vmlinuz")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a/b", b"/a/b"),
        (b"//grubx64.efi", b"//grubx64.efi"),
        (b"/a?op=get_preseed", b"/a"),
        (b"/%41%2f%2E", b"/A/."),
        (b"/a%3Fb", b"/a?b"),
        (b"http://rack:5248/a/b?c", b"/a/b"),
        (b"HTTPS://rack", b""),
        (b"http://rack?x", b""),
        (b"http:///a", None),
        (b"*", None),
        (b"rack:80", None),
        (b"a", None),
        (b"/%", None),
        (b"/%4", None),
        (b"/%4g", None),
        (b"/%%41", None),
    ],
)
def test_a_target_names_a_path(target: bytes, path: bytes | None) -> None:
    assert decode_target(target) == path


def test_a_path_longer_than_its_room_is_told_apart() -> None:
    assert decode_target(b"/abc", room=4) == b"/abc"
    with pytest.raises(ValueError, match="at most 3 bytes"):
        decode_target(b"/abc", room=3)


@given(st.binary(max_size=60))
def test_percent_decoding_is_that_of_the_standard_library(path: bytes) -> None:
    quoted = b"".join(b"%%%02x" % c if i % 3 or not 65 <= c <= 90 else bytes([c]) for i, c in enumerate(path))
    assert decode_target(b"/" + quoted) == unquote_to_bytes(b"/" + quoted)


@given(st.binary(max_size=100))
def test_base64_is_that_of_the_standard_library(data: bytes) -> None:
    assert base64(data) == standard_base64.b64encode(data)


def test_a_refusal_is_one_line_that_names_the_file() -> None:
    assert refusal(503, b"images/x", "its bytes cannot be had now", b"DATE", retry_after=5) == (
        b"HTTP/1.1 503 Service Unavailable\r\nDate: DATE\r\nRetry-After: 5\r\nContent-Type: text/plain\r\n"
        b"Content-Length: 63\r\n\r\n503 Service Unavailable: images/x: its bytes cannot be had now\n"
    )
    assert refusal(416, b"x", "y", b"D", size=9, head=True, close=True) == (
        b"HTTP/1.1 416 Range Not Satisfiable\r\nDate: D\r\nConnection: close\r\nContent-Range: bytes */9\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 32\r\n\r\n"
    )


def test_the_longest_refusal_fits_its_buffer() -> None:
    reply = refusal(431, b"n" * 4096, "w" * 128, b"d" * 32, close=True, retry_after=2**31 - 1, size=2**62, allow=True)
    assert len(reply) < 1024
    assert reply.count(b"n" * 512) == 1


# -- second opinions --------------------------------------------------------------------------------------------------

TOKEN = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8).map(str.encode)
VALUE = st.text('abc XYZ\t,;="/()<>@[]{}\\:?\x80\xff', max_size=12).map(lambda t: t.encode("latin-1").strip(b" \t"))
HOST = st.sampled_from([b"rack", b"rack:5248", b"[::1]:80", b"", b"10.0.0.1"])
FIELD = st.one_of(
    st.tuples(TOKEN.filter(lambda name: name[0] not in b"0"), VALUE),
    st.tuples(st.sampled_from([b"Host", b"hOST"]), HOST),
    st.tuples(st.just(b"Content-Length"), st.sampled_from([b"0", b"5", b"007", b"x", b"-1", b"1e3", b"1 2"])),
    st.tuples(st.just(b"Connection"), st.sampled_from([b"close", b"keep-alive", b"Close, x", b"x"])),
    st.tuples(st.sampled_from([b"Range", b"If-Range", b"If-None-Match", b"If-Match"]), VALUE),
)
LINE = st.tuples(
    st.sampled_from([b"GET", b"HEAD", b"POST", b"get", b"X-Y"]),
    st.text("/abc?%=&.:@~{}|", min_size=1, max_size=20).map(str.encode),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0"]),
)


UNKNOWN_TO_IT = {b"get", b"X-Y"}
LIKE_A_URL = re.compile(rb"/[/abc?%=&.:@~]*\Z")
STRICTER: dict[Reader, tuple[str, ...]] = {
    h11_reads: ("Content-Length is there twice", "Host is not"),
    httptools_reads: ("Content-Length", "Host", "Transfer-Encoding", "HTTP/1.1 needs a Host"),
}
READERS = [h11_reads, httptools_reads]


def agree(reads: Reader, data: bytes) -> None:
    """What is read here is read there, and as the same; what is not whole here is not whole there."""
    ours, theirs = parse_head(data), reads(data)
    if isinstance(ours, Head):
        assert isinstance(theirs, Reading), f"read here, but there {theirs}: {data!r}"
        assert (ours.method, ours.target) == (theirs.method, theirs.target)
        assert ours.minor == min(1, theirs.minor)  # HTTP/1.2 is answered as 1.1
        for name, lines in ours.fields.items():
            assert lines == [value for key, value in theirs.fields if key == name.lower().encode()]
        both = ours.close and ours.keep_alive  # here close wins, as RFC 9112 section 9.3 wants it; in llhttp not always
        if theirs.keep_alive is not None and not both:
            assert theirs.keep_alive == (not ours.close and (ours.minor == 1 or ours.keep_alive)), data
    elif ours is None:
        assert theirs is None or isinstance(theirs, str), f"more bytes wanted, but there {theirs}: {data!r}"


@pytest.mark.parametrize("reads", READERS)
@settings(max_examples=400)
@given(line=LINE, fields=st.lists(FIELD, max_size=6))
def test_two_other_parsers_read_the_same_heads_and_the_same_in_them(
    reads: Reader, line: tuple[bytes, bytes, bytes], fields: list[tuple[bytes, bytes]]
) -> None:
    data = b" ".join(line) + b"\r\n" + b"".join(name + b": " + value + b"\r\n" for name, value in fields) + b"\r\n"
    if reads is httptools_reads and isinstance(why := httptools_reads(data), str):
        # it knows a list of methods, and parses URLs and lengths of its own; what it refuses it does not read otherwise
        assert isinstance(parse_head(data), Refused) or line[0] in UNKNOWN_TO_IT or not LIKE_A_URL.match(line[1]), why
        return
    agree(reads, data)
    # what they read, we read too, but for what this server is strict about on purpose
    theirs, ours = reads(data), parse_head(data)
    if isinstance(theirs, Reading) and not isinstance(ours, Head):
        assert isinstance(ours, Refused)
        assert any(reason in ours.why for reason in STRICTER[reads]), ours


@pytest.mark.parametrize("reads", READERS)
@settings(max_examples=400)
@given(at=st.integers(0, 200), bytes_in=st.binary(min_size=0, max_size=3), out=st.integers(0, 3))
def test_a_damaged_head_is_never_read_differently(reads: Reader, at: int, bytes_in: bytes, out: int) -> None:
    data = b"GET /images/a HTTP/1.1\r\nHost: rack\r\nRange: bytes=0-\r\nConnection: close\r\nAccept: */*\r\n\r\n"
    at %= len(data)
    damaged = data[:at] + bytes_in + data[at + out :]
    if not isinstance(parse_head(damaged), Head) or damaged.startswith(b"\r\n"):
        return  # refusing is always safe; empty lines first are skipped here and refused there
    if reads is httptools_reads and isinstance(httptools_reads(damaged), str):
        return
    agree(reads, damaged)


@given(st.binary(max_size=400))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    got = parse_head(data)
    assert got is None or isinstance(got, Head) or 400 <= got.status <= 505
