"""One connection as a state machine: bytes and events in, one action out. No socket, no clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootplane.core.blob import Blob
from bootplane.core.http_exchange_alone import Exchange
from bootplane.core.table import Table

ST_TIMEOUT, ST_UNKNOWN, ST_GONE, ST_UPSTREAM = 9, 10, 12, 13
DATE = b"Sat, 21 Nov 2026 20:57:00 GMT"
KERNEL = Blob.memory(b"0123456789", dynamic=False)
EMPTY = Blob.memory(b"", dynamic=False)
TABLE = Table({"kernel": KERNEL, "empty": EMPTY}, 1)
HOST = b" HTTP/1.1\r\nHost: rack\r\n\r\n"


def status(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1])


def text(reply: bytes) -> bytes:
    return reply.partition(b"\r\n\r\n")[2]


def test_a_get_is_a_head_and_a_body_and_the_connection_stays_open() -> None:
    x = Exchange(TABLE)
    assert x.feed(b"GET /kernel" + HOST) == "send"
    assert x.owed == (0, 10)
    assert x.head() == (
        b"HTTP/1.1 200 OK\r\nDate: " + DATE + b"\r\n"
        b'ETag: "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"\r\n'
        b"Content-Type: application/octet-stream\r\nContent-Length: 10\r\nAccept-Ranges: bytes\r\n"
        b"Repr-Digest: sha-256=:hNiYd/DUBB77a/kaFvAkjy/Vc+avBcGflr7bn4gveII=:\r\n\r\n"
    )
    assert x.sent(4) == "send"
    assert x.owed == (4, 10)
    assert x.sent(6) == "read"
    assert x.owed is None
    assert x.counts() == {
        "http_requests": 1, "http_ok": 1, "http_body_bytes": 10, "lookups": 1, "names_found": 1, "hits": 1,
    }  # fmt: skip


def test_every_event_lets_go_of_the_blob() -> None:
    before = KERNEL.references
    for last in ("sent", "cut", "expire", "drop"):
        x = Exchange(TABLE)
        x.feed(b"GET /kernel" + HOST)
        assert KERNEL.references == before + 1
        if last == "sent":
            x.sent(10)
        elif last == "cut":
            assert x.cut() == "reset"
        elif last == "expire":
            assert x.expire("send") == "reset"
        else:
            del x
        assert KERNEL.references == before, last


@given(st.lists(st.integers(1, 40), max_size=20))
def test_a_request_cut_anywhere_is_answered_when_its_last_byte_is_here(cuts: list[int]) -> None:
    request = b"GET /kernel HTTP/1.1\r\nHost: rack\r\nRange: bytes=2-3\r\n\r\n"
    x = Exchange(TABLE)
    at = 0
    for cut in cuts:
        if at + cut >= len(request):
            break
        assert x.feed(request[at : at + cut]) == "read"
        at += cut
    assert x.feed(request[at:]) == "send"
    assert x.owed == (2, 4)
    assert x.counts()["http_requests"] == 1


def test_pipelined_requests_are_answered_in_their_order_from_bytes_already_here() -> None:
    x = Exchange(TABLE)
    assert x.feed(b"GET /kernel" + HOST + b"HEAD /kernel" + HOST + b"GET /nobody" + HOST + b"GET /ker") == "send"
    assert x.sent(10) == "read"
    assert x.feed() == "text"
    assert status(x.reply) == 200
    assert text(x.reply) == b""
    assert x.text_sent() == "read"
    assert x.feed() == "text"
    assert text(x.reply) == b"404 Not Found: nobody: no file has this name\n"
    assert x.text_sent() == "read"
    assert x.feed() == "read"
    assert x.left == b"GET /ker"


@pytest.mark.parametrize(
    ("head", "after", "says"),
    [
        (b" HTTP/1.1\r\nHost: r\r\n\r\n", "read", None),
        (b" HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n", "close", b"close"),
        (b" HTTP/1.0\r\n\r\n", "close", b"close"),
        (b" HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "read", b"keep-alive"),
        (b" HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", "close", b"close"),
    ],
)
def test_the_connection_ends_when_the_client_wants_it(head: bytes, after: str, says: bytes | None) -> None:
    for name, body in ((b"GET /kernel", 10), (b"HEAD /kernel", 0), (b"GET /empty", 0), (b"GET /nobody", 0)):
        x = Exchange(TABLE)
        reply = x.head() if x.feed(name + head) == "send" else x.reply
        assert (b"Connection: " in reply) == (says is not None)
        assert says is None or b"\r\nConnection: " + says + b"\r\n" in reply
        assert (x.sent(body) if body else x.text_sent()) == after


def test_head_gets_the_head_of_get_and_waits_for_no_byte() -> None:
    x, y = Exchange(TABLE), Exchange(TABLE)
    assert x.feed(b"HEAD /kernel" + HOST) == "text"
    y.feed(b"GET /kernel" + HOST)
    assert x.reply == y.head()


def test_an_empty_file_is_a_head_alone() -> None:
    x = Exchange(TABLE)
    assert x.feed(b"GET /empty" + HOST) == "text"
    assert b"\r\nContent-Length: 0\r\n" in x.reply
    assert status(x.reply) == 200


@pytest.mark.parametrize(
    "name", [b"//kernel", b"/./kernel", b"/a/../kernel", b"/%6bernel", b"http://x/kernel?y", b"/\\kernel"]
)
def test_one_file_has_many_spellings_but_none_climbs(name: bytes) -> None:
    x = Exchange(TABLE)
    if b".." in name:
        assert x.feed(b"GET " + name + HOST) == "text"
        assert status(x.reply) == 400
    else:
        assert x.feed(b"GET " + name + HOST) == "send"


@pytest.mark.parametrize("name", [b"/" + b"n" * 513, b"/" + b"n/" * 2000, b"/" + b"%6e" * 600])
def test_a_name_longer_than_any_is_nobodys(name: bytes) -> None:
    x = Exchange(TABLE)
    assert x.feed(b"GET " + name + HOST) == "text"
    assert status(x.reply) == 404


@pytest.mark.parametrize("target", [b"*", b"kernel", b"rack:80", b"/%00", b"/%zz", b"/a%0ab", b"http:///kernel"])
def test_a_target_that_names_no_file_is_400(target: bytes) -> None:
    x = Exchange(TABLE)
    assert x.feed(b"GET " + target + HOST) == "text"
    assert status(x.reply) == 400
    assert x.text_sent() == "read"


def test_a_refused_head_ends_the_connection() -> None:
    x = Exchange(TABLE)
    assert x.feed(b"GET /kernel HTTP/1.1\r\n\r\nGET /kernel" + HOST) == "text"
    assert text(x.reply) == b"400 Bad Request: HTTP/1.1 needs a Host\n"
    assert b"\r\nConnection: close\r\n" in x.reply
    assert x.text_sent() == "close"


def test_a_head_that_outgrows_its_room_in_the_middle_of_a_line_is_refused_at_once() -> None:
    x = Exchange(TABLE)
    assert x.feed(b"GET /kernel HTTP/1.1\r\nHost: rack\r\nX: ") == "read"
    assert x.feed(b"a" * 10000) == "read"
    assert x.feed(b"a" * 10000) == "text"
    assert status(x.reply) == 431


def test_a_refused_head_request_gets_no_body() -> None:
    x = Exchange(TABLE)
    assert x.feed(b"HEAD /kernel HTTP/1.1\r\n\r\n") == "text"
    assert status(x.reply) == 400
    assert text(x.reply) == b""


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /kernel" + HOST,
        b"OPTIONS *" + HOST,
        b"GET /MAAS/metadata/2012-03-01/" + HOST,
        b"GET /api/v1/status" + HOST,
        b"HEAD /metrics" + HOST,
        b"GET /kernel HTTP/1.1\r\nHost: r\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /kernel HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_not_ours_to_answer_is_handed_over_whole(request_: bytes) -> None:
    x = Exchange(TABLE, control=True)
    assert x.feed(request_ + b"GET /next") == "hand over"
    assert x.left == request_ + b"GET /next"


@pytest.mark.parametrize(
    ("request_", "code", "after"),
    [
        (b"POST /kernel HTTP/1.1\r\nHost: r\r\nContent-Length: 3\r\n\r\n", 405, "close"),
        (b"DELETE /kernel" + HOST, 405, "read"),
        (b"GET /api/v1/status" + HOST, 404, "read"),
        (b"GET /metrics" + HOST, 404, "read"),
        (b"GET /kernel HTTP/1.1\r\nHost: r\r\nContent-Length: 3\r\n\r\n", 400, "close"),
        (b"GET /kernel HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "close"),
    ],
)
def test_the_bulk_port_answers_all_by_itself(request_: bytes, code: int, after: str) -> None:
    x = Exchange(TABLE)
    assert x.feed(request_) == "text"
    assert status(x.reply) == code
    assert (b"\r\nAllow: GET, HEAD\r\n" in x.reply) == (code == 405)
    assert x.text_sent() == after


def test_a_get_that_announces_no_bytes_has_no_body() -> None:
    x = Exchange(TABLE)
    assert x.feed(b"GET /kernel HTTP/1.1\r\nHost: r\r\nContent-Length: 0\r\n\r\n") == "send"


def test_without_a_catalogue_nothing_is_said_to_be_missing() -> None:
    x = Exchange(None)
    assert x.feed(b"GET /kernel" + HOST) == "text"
    assert status(x.reply) == 503
    assert b"\r\nRetry-After: 5\r\n" in x.reply
    assert b"kernel: no catalogue has arrived yet" in x.reply


# -- dynamic names ----------------------------------------------------------------------------------------------------

GRUB = b"GET /grub/grub.cfg-52:54:00:12:34:56 HTTP/1.1\r\nHost: r\r\n"


def test_a_dynamic_name_is_asked_and_answered() -> None:
    x = Exchange(TABLE)
    assert x.feed(GRUB + b"\r\nGET /kernel" + HOST) == "ask"
    assert x.name == b"grub/grub.cfg-52:54:00:12:34:56"
    answer = Blob.memory(b"set timeout=5\n")
    assert x.answer(answer) == "send"
    assert b"\r\nContent-Type: text/plain\r\n" in x.head()
    assert x.sent(14) == "read"
    assert answer.references == 1
    assert x.feed() == "send"
    assert x.counts()["names_dynamic"] == 1


def test_conditions_and_ranges_hold_for_answers_too() -> None:
    answer = Blob.memory(b"set timeout=5\n")
    x = Exchange(TABLE)
    assert x.feed(GRUB + b'If-None-Match: "%b"\r\n\r\n' % answer.sha256.encode()) == "ask"
    assert x.answer(answer) == "text"
    assert status(x.reply) == 304
    assert x.text_sent() == "read"
    assert x.feed(GRUB + b"Range: bytes=4-\r\n\r\n") == "ask"
    assert x.answer(answer) == "send"
    assert x.owed == (4, 14)


@pytest.mark.parametrize(
    ("why", "code", "phrase"),
    [
        (ST_UNKNOWN, 404, b"nobody has this name"),
        (ST_TIMEOUT, 503, b"no answer came in time"),
        (ST_UPSTREAM, 503, b"it cannot be made now"),
    ],
)
def test_a_question_without_an_answer_names_the_file(why: int, code: int, phrase: bytes) -> None:
    x = Exchange(TABLE)
    x.feed(GRUB + b"\r\n")
    assert x.answer(None, why) == "text"
    assert status(x.reply) == code
    assert (b"\r\nRetry-After: 5\r\n" in x.reply) == (code == 503)
    assert text(x.reply).endswith(b": grub/grub.cfg-52:54:00:12:34:56: " + phrase + b"\n")
    assert x.text_sent() == "read"


# -- cold misses ------------------------------------------------------------------------------------------------------


def test_no_head_is_written_before_the_first_byte_is_here() -> None:
    x = Exchange(TABLE)
    assert x.feed(b"GET /kernel" + HOST) == "send"
    assert x.absent() == "park"
    assert "http_ok" not in x.counts()
    assert x.wake() == "send"
    assert x.head().startswith(b"HTTP/1.1 200 OK\r\n")
    assert x.sent(10) == "read"
    assert x.counts()["misses"] == 1
    assert "hits" not in x.counts()


@pytest.mark.parametrize(
    ("why", "phrase"),
    [
        (ST_TIMEOUT, b"its bytes did not arrive in time"),
        (ST_UPSTREAM, b"no source has its right bytes"),
        (ST_GONE, b"it was removed where it came from"),
        (-5, b"its bytes cannot be had now"),
    ],
)
def test_a_miss_that_fails_before_the_head_is_503_and_says_when_to_come_back(why: int, phrase: bytes) -> None:
    before = KERNEL.references
    x = Exchange(TABLE)
    x.feed(b"GET /kernel" + HOST)
    x.absent()
    assert x.wake(why) == "text"
    assert status(x.reply) == 503
    assert b"\r\nRetry-After: 5\r\n" in x.reply
    assert text(x.reply) == b'503 Service Unavailable: "%b": %b\n' % (KERNEL.sha256.encode(), phrase)
    assert KERNEL.references == before
    assert x.text_sent() == "read"


NEWER = Blob.memory(b"newer", dynamic=False)
LATER = Table({"kernel": NEWER}, 2, ["empty"])


def test_a_miss_of_a_file_that_was_removed_is_answered_with_what_its_name_means_by_now() -> None:
    before = KERNEL.references, NEWER.references
    x = Exchange(TABLE)
    x.feed(b"GET /kernel HTTP/1.1\r\nHost: rack\r\nRange: bytes=0-3\r\n\r\n")
    x.absent()
    request = b"GET /kernel HTTP/1.1\r\nHost: rack\r\nRange: bytes=0-3\r\n\r\n"
    assert x.wake(ST_GONE, kept=request, table=LATER) == "send"
    assert KERNEL.references == before[0]
    assert x.owed == (0, 4)  # of the newer file, and nothing of the older one was sent
    head = x.head()
    assert head.startswith(b"HTTP/1.1 206 Partial Content\r\n")
    assert b"\r\nContent-Range: bytes 0-3/5\r\n" in head
    assert NEWER.sha256.encode() in head
    assert x.sent(4) == "read"
    assert x.counts() == {
        "http_requests": 1, "http_partial": 1, "http_body_bytes": 4, "lookups": 1, "names_found": 1, "misses": 1,
    }  # fmt: skip
    (record,) = x.records()
    assert (record.size, record.sent, record.source) == (5, 4, "miss")
    del x
    assert NEWER.references == before[1]


@pytest.mark.parametrize(
    ("table", "code", "phrase"),
    [
        (Table({}, 2), 410, b"the file was removed"),
        (Table({}, 2, ["kernel"]), 410, b"the file was removed"),
        (TABLE, 503, b"it was removed where it came from"),
    ],
)
def test_a_miss_of_a_file_that_was_removed_is_refused_when_its_name_means_nothing_else(
    table: Table, code: int, phrase: bytes
) -> None:
    before = KERNEL.references
    x = Exchange(TABLE)
    x.feed(b"GET /kernel" + HOST)
    x.absent()
    assert x.wake(ST_GONE, kept=b"GET /kernel" + HOST, table=table) == "text"
    assert status(x.reply) == code
    assert (b"\r\nRetry-After: 5\r\n" in x.reply) == (code == 503)
    assert text(x.reply).endswith(b": kernel: " + phrase + b"\n")
    assert KERNEL.references == before
    assert x.text_sent() == "read"


def test_a_later_part_of_a_removed_file_is_410_or_with_if_range_the_whole_of_the_newer_one() -> None:
    request = b"GET /kernel HTTP/1.1\r\nHost: rack\r\nRange: bytes=4-\r\n"
    x = Exchange(TABLE)
    x.feed(request + b"\r\n")
    x.absent()
    assert x.wake(ST_GONE, kept=request + b"\r\n", table=LATER) == "text"
    assert status(x.reply) == 410
    request += b'If-Range: "%b"\r\n\r\n' % KERNEL.sha256.encode()
    y = Exchange(TABLE)
    y.feed(request)
    y.absent()
    assert y.wake(ST_GONE, kept=request, table=LATER) == "send"
    assert y.owed == (0, 5) and y.head().startswith(b"HTTP/1.1 200 OK\r\n")


def test_what_was_begun_is_cut_and_never_goes_on_with_another_file() -> None:
    x = Exchange(TABLE)
    x.feed(b"GET /kernel" + HOST)
    x.head()
    x.sent(4)
    x.absent()
    assert x.wake(ST_GONE, table=LATER) == "reset"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_removed_file_is_410_and_the_connection_stays_open(method: str) -> None:
    x = Exchange(Table({"other": KERNEL}, 1, ["kernel"]))
    assert x.feed(f"{method} //kernel".encode() + HOST) == "text"
    assert x.reply.startswith(b"HTTP/1.1 410 Gone\r\n")
    body = b"410 Gone: kernel: the file was removed\n"
    assert b"\r\nContent-Length: %d\r\n" % len(body) in x.reply
    assert text(x.reply) == (body if method == "GET" else b"")
    assert x.text_sent() == "read"
    assert x.counts() == {"http_requests": 1, "http_client_error": 1, "lookups": 1, "names_unknown": 1}
    assert x.feed(b"GET /nothing" + HOST) == "text"
    assert status(x.reply) == 404


def test_a_failure_after_the_head_is_a_reset_and_never_an_end() -> None:
    x = Exchange(TABLE)
    x.feed(b"GET /kernel" + HOST)
    x.head()
    assert x.sent(4) == "send"
    assert x.absent() == "park"
    assert x.wake(ST_TIMEOUT) == "reset"
    assert x.counts()["http_cut"] == 1
    assert x.counts()["misses"] == 1


# -- deadlines and draining -------------------------------------------------------------------------------------------


def test_deadlines_end_a_connection_each_in_its_way() -> None:
    x = Exchange(TABLE)
    assert x.expire("idle") == "close"
    y = Exchange(TABLE)
    y.feed(b"HEAD /kernel" + HOST)  # the 408 of a later request must not be taken for the answer to a HEAD
    y.text_sent()
    y.feed(b"GET /ker")
    assert y.expire("head") == "text"
    assert text(y.reply) == b"408 Request Timeout: the request head was not finished in time\n"
    assert b"\r\nConnection: close\r\n" in y.reply
    assert y.text_sent() == "close"
    z = Exchange(TABLE)
    z.feed(b"GET /kernel" + HOST)
    z.head()
    assert z.expire("send") == "reset"


def test_draining_finishes_the_response_and_then_closes() -> None:
    x = Exchange(TABLE)
    x.feed(b"GET /kernel" + HOST)
    x.drain()
    assert b"\r\nConnection: close\r\n" in x.head()
    assert x.sent(10) == "close"
    y = Exchange(TABLE)
    y.feed(b"GET /kernel" + HOST)
    y.head()
    y.drain()  # the head is gone already, and promised that a next request is read: one may be on its way
    assert y.sent(10) == "read"
    assert y.feed(b"GET /kernel" + HOST) == "send"
    assert b"\r\nConnection: close\r\n" in y.head()
    assert y.sent(10) == "close"


# -- anything ---------------------------------------------------------------------------------------------------------

WHOLE = [b"GET /kernel" + HOST, b"HEAD /empty" + HOST, b"POST /" + HOST, GRUB + b"\r\n"]
PARTS = [b"GET /x", b" HTTP/1.0\r\n\r\n", b"\r\n", GRUB, b"\r\n\r\n"]
PIECES = st.one_of(st.binary(max_size=40), st.sampled_from(WHOLE + PARTS))


@given(st.lists(PIECES, max_size=12), st.booleans(), st.data())
def test_any_bytes_and_events_end_in_a_state_that_owes_nothing(
    pieces: list[bytes], control: bool, data: st.DataObject
) -> None:
    before = KERNEL.references, NEWER.references
    x = Exchange(TABLE, control=control)
    action = "read"
    pieces = list(pieces)
    for _ in range(200):
        if action == "read":
            if not pieces:
                break
            action = x.feed(pieces.pop(0))
            if action == "read" and not pieces:
                action = x.expire(data.draw(st.sampled_from(["head", "idle"])))
        elif action == "text":
            assert x.reply.startswith(b"HTTP/1.1 ")
            action = x.text_sent()
        elif action == "send":
            assert x.owed is not None
            move = data.draw(st.integers(0, 11))
            if move == 11:
                action = x.absent()
            elif move == 10:
                action = x.cut()
            else:
                action = x.sent(min(move + 1, x.owed[1] - x.owed[0]))
        elif action == "park":
            kept = data.draw(st.sampled_from([b"", b"GET /kernel" + HOST, b"HEAD /empty" + HOST]))
            newer = data.draw(st.sampled_from([None, TABLE, LATER]))
            action = x.wake(data.draw(st.sampled_from([0, ST_TIMEOUT, ST_GONE])), kept=kept, table=newer)
        elif action == "ask":
            action = x.answer(data.draw(st.sampled_from([KERNEL, None])), ST_UNKNOWN)
        else:
            break
    counts = x.counts()
    looked_up = ("names_found", "names_dynamic", "names_unknown")
    assert counts.get("lookups", 0) == sum(counts.get(name, 0) for name in looked_up)
    del x
    assert (KERNEL.references, NEWER.references) == before
