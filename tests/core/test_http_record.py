"""How each way an HTTP request can end is recorded: the exchange on its own, then the service with its sockets."""

from __future__ import annotations

import hashlib
import os
import pathlib
import socket
import time
from collections.abc import Iterator

import pytest

from bootplane.core.blob import Blob
from bootplane.core.http_exchange_alone import Exchange
from bootplane.core.http_record import blocks
from bootplane.core.lru import Cache
from bootplane.core.reactor import Reactor, Record
from bootplane.core.table import Table
from tests.fakes.http_client import CHUNK, PATIENCE_S, Client, Rack, cold, fill, nothing_left, rack

ST_TIMEOUT, ST_UNKNOWN, ST_UPSTREAM = 9, 10, 13
KERNEL = Blob.memory(b"0123456789", dynamic=False)
EMPTY = Blob.memory(b"", dynamic=False)
TABLE = Table({"kernel": KERNEL, "empty": EMPTY}, 1)
HOST = b" HTTP/1.1\r\nHost: rack\r\n\r\n"


# -- the exchange alone -----------------------------------------------------------------------------------------------


def run(request: bytes, table: Table | None = TABLE, *, control: bool = False) -> Record:
    """The record of one request that is answered in full."""
    x = Exchange(table, control=control)
    action = x.feed(request)
    if action == "send":
        x.head()
        owed = x.owed
        assert owed
        x.sent(owed[1] - owed[0])
    else:
        assert action == "text"
        assert x.records() == [], "a response under way has not ended"
        x.text_sent()
    (record,) = x.records()
    return record


ETAG = b'"84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"'

#: request -> name, outcome, status, size, offset, sent, source, head
ANSWERED = {
    b"GET /kernel" + HOST: ("kernel", "complete", 200, 10, 0, 10, "hit", False),
    b"GET //./kernel?x=1" + HOST: ("kernel", "complete", 200, 10, 0, 10, "hit", False),
    b"GET /k%65rnel" + HOST: ("kernel", "complete", 200, 10, 0, 10, "hit", False),
    b"HEAD /kernel" + HOST: ("kernel", "complete", 200, 10, 0, 0, "", True),
    b"GET /empty" + HOST: ("empty", "complete", 200, 0, 0, 0, "", False),
    b"GET /kernel HTTP/1.1\r\nHost: r\r\nRange: bytes=3-6\r\n\r\n": ("kernel", "complete", 206, 10, 3, 4, "hit", False),
    b"GET /kernel HTTP/1.1\r\nHost: r\r\nRange: bytes=-2\r\n\r\n": ("kernel", "complete", 206, 10, 8, 2, "hit", False),
    b"HEAD /kernel HTTP/1.1\r\nHost: r\r\nRange: bytes=3-\r\n\r\n": ("kernel", "complete", 200, 10, 0, 0, "", True),
    b"GET /kernel HTTP/1.1\r\nHost: r\r\nRange: bytes=10-\r\n\r\n": ("kernel", "refused", 416, 10, 0, 0, "", False),
    b"GET /kernel HTTP/1.1\r\nHost: r\r\nIf-None-Match: *\r\n\r\n": ("kernel", "complete", 304, 10, 0, 0, "", False),
    b"GET /kernel HTTP/1.1\r\nHost: r\r\nIf-Match: x\r\n\r\n": ("kernel", "refused", 412, 10, 0, 0, "", False),
    b"GET /nobody" + HOST: ("nobody", "refused", 404, -1, 0, 0, "", False),
    b"HEAD /nobody" + HOST: ("nobody", "refused", 404, -1, 0, 0, "", True),
    b"GET /MAAS/metadata" + HOST: ("MAAS/metadata", "refused", 404, -1, 0, 0, "", False),
    b"POST /api/v1" + HOST: ("api/v1", "refused", 405, -1, 0, 0, "", False),
    b"GET /../etc/passwd" + HOST: ("/../etc/passwd", "refused", 400, -1, 0, 0, "", False),
    b"GET /a%zz" + HOST: ("/a%zz", "refused", 400, -1, 0, 0, "", False),
    b"GET /" + HOST: ("/", "refused", 404, -1, 0, 0, "", False),
    b"GET //kernel HTTP/1.1\r\n\r\n": ("kernel", "refused", 400, -1, 0, 0, "", False),
    b"GET /" + b"n" * 600 + HOST: ("/" + "n" * 254, "refused", 404, -1, 0, 0, "", False),
    b"GET /" + b"n" * 400 + HOST: ("n" * 255, "refused", 404, -1, 0, 0, "", False),
    b"GET /" + b"n" * 9000 + HOST: ("", "refused", 414, -1, 0, 0, "", False),
    b"nonsense\r\n\r\n": ("", "refused", 400, -1, 0, 0, "", False),
}


@pytest.mark.parametrize("request_", ANSWERED, ids=lambda request: repr(request[:40]))
def test_an_answered_request_is_complete_or_refused(request_: bytes) -> None:
    record = run(request_)
    assert (record.name, record.outcome, record.status, record.size, record.offset, record.sent, record.source,
            record.head) == ANSWERED[request_]  # fmt: skip
    assert (record.proto, record.reused) == ("http", 1)
    assert record[11:16] == (0, 0, 0, 0, 0)


def test_before_the_first_catalogue_the_refusal_is_recorded_too() -> None:
    record = run(b"GET /kernel" + HOST, None)
    assert (record.name, record.outcome, record.status) == ("kernel", "refused", 503)


@pytest.mark.parametrize("field", ["User-Agent", "user-agent", "USER-AGENT", "uSER-aGENT"])
def test_the_agent_is_found_whatever_the_case_of_its_field(field: str) -> None:
    head = f"GET /kernel HTTP/1.1\r\nHost: r\r\n{field}:  UefiHttpBoot/1.0 \r\nAccept: */*\r\n\r\n"
    assert run(head.encode()).agent == "UefiHttpBoot/1.0"


@pytest.mark.parametrize("field", ["User_Agent", "User-Agen", "User-Agents", "X-User-Agent", "Cookie"])
def test_no_other_field_is_kept(field: str) -> None:
    assert run(f"GET /kernel HTTP/1.1\r\nHost: r\r\n{field}: secret\r\n\r\n".encode()).agent == ""


def test_of_two_agents_the_first_is_kept() -> None:
    assert run(b"GET /kernel HTTP/1.0\r\nUser-Agent: one\r\nUser-Agent: two\r\n\r\n").agent == "one"


@pytest.mark.parametrize("name_n", [1, 40, 41, 60, 87, 88, 89, 254, 255, 256, 500])
@pytest.mark.parametrize("agent_n", [0, 1, 27, 28, 46, 47, 48, 300])
def test_name_and_agent_of_any_length_are_kept_up_to_their_limits(name_n: int, agent_n: int) -> None:
    head = f"GET /{'n' * name_n} HTTP/1.1\r\nHost: r\r\nUser-Agent: {'a' * agent_n}\r\n\r\n"
    record = run(head.encode())
    assert (record.name, record.agent) == ("n" * min(name_n, 255), "a" * min(agent_n, 47))


def test_requests_of_one_connection_are_numbered_from_one() -> None:
    x = Exchange(TABLE)
    for _ in range(3):
        x.feed(b"GET /kernel" + HOST)
        x.head()
        x.sent(10)
        x.feed(b"GET /nobody" + HOST)
        x.text_sent()
    assert [(record.reused, record.name) for record in x.records()] == list(
        zip(range(1, 7), ["kernel", "nobody"] * 3, strict=True)
    )


def test_pipelined_requests_are_recorded_in_their_order_each_with_its_own_agent() -> None:
    x = Exchange(TABLE)
    lines = [b"GET /%d HTTP/1.1\r\nHost: r\r\nUser-Agent: agent-%d\r\n\r\n" % (n, n) for n in range(5)]
    x.feed(b"".join(lines))
    for _ in range(4):
        assert x.text_sent() == "read"
        x.feed()
    x.text_sent()
    assert [(r.name, r.agent) for r in x.records()] == [(str(n), f"agent-{n}") for n in range(5)]


def begun(sent: int = 0) -> Exchange:
    x = Exchange(TABLE)
    assert x.feed(b"GET /kernel HTTP/1.1\r\nHost: r\r\nRange: bytes=2-\r\n\r\n") == "send"
    x.head()
    if sent:
        assert x.sent(sent) == "send"
    return x


@pytest.mark.parametrize(("end", "outcome"), [("cut", "cut"), ("expire", "timeout"), ("drop", "aborted")])
def test_an_unfinished_body_says_whose_doing_it_was_and_how_much_of_it_went_out(end: str, outcome: str) -> None:
    x = begun(sent=5)
    x.expire("send") if end == "expire" else getattr(x, end)()
    x.drop()  # as the service does afterwards
    (record,) = x.records()
    assert (record.outcome, record.status, record.offset, record.sent, record.source) == (outcome, 206, 2, 5, "hit")


def test_a_connection_that_dies_between_requests_leaves_no_record() -> None:
    x = Exchange(TABLE)
    x.drop()
    assert x.records() == []
    x = Exchange(TABLE)
    x.feed(b"GET /ker")
    x.drop()
    assert x.records() == []
    x = begun()
    x.sent(8)
    assert len(x.records()) == 1
    x.expire("idle")
    x.drop()
    assert x.records() == []


def test_a_head_that_is_not_finished_in_time_is_refused_without_a_name() -> None:
    x = begun()
    x.sent(8)
    x.feed(b"GET /ker")
    x.expire("head")
    x.text_sent()
    assert [record[4:7] + record[17:] for record in x.records()] == [
        ("kernel", "complete", 206, "", 1), ("", "refused", 408, "", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("waits", "source"),
    [([], "hit"), ([False], "miss"), ([True], "coalesced"), ([True, True], "coalesced"), ([True, False], "miss"),
     ([False, True], "miss")],
)  # fmt: skip
def test_a_transfer_is_a_miss_when_it_was_the_first_to_ask_for_anything(waits: list[bool], source: str) -> None:
    x = Exchange(TABLE)
    x.feed(b"GET /kernel" + HOST)
    for followed in waits:
        x.absent(followed)
        x.wake()
    x.head()
    x.sent(10)
    assert [(record.outcome, record.source) for record in x.records()] == [("complete", source)]
    counted = {name: n for name, n in x.counts().items() if name in ("hits", "misses", "coalesced")}
    assert counted == {{"hit": "hits", "miss": "misses"}.get(source, source): 1}


def test_a_miss_that_fails_before_the_first_byte_is_refused_and_after_it_cut() -> None:
    x = Exchange(TABLE)
    x.feed(b"GET /kernel" + HOST)
    x.absent()
    assert x.wake(ST_UPSTREAM) == "text"
    x.text_sent()
    x.feed(b"GET /kernel" + HOST)
    x.head()
    x.sent(3)
    x.absent()
    assert x.wake(ST_TIMEOUT) == "reset"
    assert [(r.name, r.outcome, r.status, r.sent, r.source) for r in x.records()] == [
        ("kernel", "refused", 503, 0, "miss"), ("kernel", "cut", 200, 3, "miss"),
    ]  # fmt: skip


def test_a_client_that_leaves_while_it_waits_was_given_no_status() -> None:
    x = Exchange(TABLE)
    x.feed(b"GET /kernel" + HOST)
    x.absent(followed=True)
    x.drop()
    assert [(r.name, r.outcome, r.status, r.size, r.sent, r.source) for r in x.records()] == [
        ("kernel", "aborted", 0, 10, 0, "coalesced")
    ]


def test_dynamic_names_are_dynamic_whether_answered_denied_or_left_alone() -> None:
    x = Exchange(TABLE)
    for blob, status, end in ((Blob.memory(b"#!ipxe\n"), 0, "sent"), (None, ST_UNKNOWN, "text"), (None, 0, "drop")):
        assert x.feed(b"GET /ipxe.cfg" + HOST) == "ask"
        if end == "drop":
            x.drop()
        elif x.answer(blob, status) == "send":
            x.head()
            x.sent(7)
        else:
            x.text_sent()
    assert [(r.name, r.outcome, r.status, r.size, r.sent, r.source) for r in x.records()] == [
        ("ipxe.cfg", "complete", 200, 7, 7, "dynamic"), ("ipxe.cfg", "refused", 404, -1, 0, "dynamic"),
        ("ipxe.cfg", "aborted", 0, -1, 0, "dynamic"),
    ]  # fmt: skip


# -- the service ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    before = blocks()
    with nothing_left():
        yield
    assert blocks() == before


@pytest.fixture
def cache(tmp_path: pathlib.Path, leaves_nothing: None) -> Iterator[Cache]:
    cache = Cache(str(tmp_path / "cache"), 64 << 20)
    yield cache
    cache.close()


def ended(reactor: Reactor, n: int) -> list[Record]:
    """The next *n* records; no more may be there."""
    records: list[Record] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(records) < n:
        assert time.monotonic() < deadline, records
        records += reactor.records()
    assert len(records) == n, records
    return records


def only(it: Rack) -> Record:
    (record,) = ended(it.reactor, 1)
    return record


def test_a_client_that_goes_away_in_mid_body_has_aborted() -> None:
    large = Blob.memory(os.urandom(16 << 20), dynamic=False)
    with rack({"large": large}) as it:
        client = it.client(receive_buffer=4096).send(b"GET /large" + HOST)
        client.head()
        peer = client.socket.getsockname()
        client.abort()
        record = only(it)
        assert (record.outcome, record.status, record.peer, record.size) == ("aborted", 200, peer, 16 << 20)
        assert record.sent == it.count("http_body_bytes") < 16 << 20
        assert record.began_ns <= record.ended_ns


def test_a_client_that_takes_nothing_has_timed_out() -> None:
    large = Blob.memory(os.urandom(16 << 20), dynamic=False)
    with rack({"large": large}, send_timeout_s=0.2) as it, it.client(receive_buffer=4096) as client:
        client.send(b"GET /large" + HOST)
        record = only(it)
        assert (record.outcome, record.status) == ("timeout", 200)
        assert 0 < record.sent == it.count("http_body_bytes")


def test_a_file_that_turns_out_short_is_cut(tmp_path: pathlib.Path) -> None:
    data = os.urandom(9_000_000)
    (tmp_path / "blob").write_bytes(data)
    blob = Blob.open_file(str(tmp_path / "blob"), hashlib.sha256(data).hexdigest(), len(data))
    os.truncate(tmp_path / "blob", 4_096_000)
    with rack({"file": blob}) as it, it.client() as client:
        client.send(b"GET /file" + HOST)
        n, how = client.rest()
        record = only(it)
        assert (how, record.outcome, record.sent) == ("reset", "cut", 4_096_000)
        assert n <= 4_096_000 + 1000


def test_followers_of_a_fill_are_told_from_its_leader(cache: Cache) -> None:
    data = os.urandom(2 * CHUNK)
    blob = cold(cache, data)
    with rack({"file": blob}) as it:
        clients = [it.client() for _ in range(4)]
        for n, client in enumerate(clients):
            client.send(b"GET /file" + HOST)
            it.wait_for("parked", n + 1)
        for chunk in range(2):
            it.mail("miss")
            fill(cache, blob, data, chunk)
            it.reactor.chunk(blob, chunk)
            for client in clients:
                while len(client.buffer) < (chunk + 1) * CHUNK:
                    client.more()
        for client in clients:
            assert client.response().body == data
            client.socket.close()
        leader, *followers = sorted(ended(it.reactor, 4), key=lambda record: record.began_ns)
        assert leader.source == "miss"
        # the second chunk is asked for by whoever is woken first
        followed = [record.source for record in followers].count("coalesced")
        assert followed in (2, 3) and {record.source for record in followers} <= {"coalesced", "miss"}
        assert it.get("/file", "Range: bytes=0-0").status == 206
        assert only(it).source == "hit"
        expected = {"hits": 1, "misses": 4 - followed, "coalesced": followed}
        for name, n in expected.items():  # counted after the record is written
            it.wait_for(name, n)
        assert {name: it.count(name) for name in expected} == expected
        assert it.count("lookups") == it.count("names_found") == 5


def test_a_follower_that_asks_for_a_later_chunk_first_is_a_miss(cache: Cache) -> None:
    data = os.urandom(2 * CHUNK)
    blob = cold(cache, data)
    with rack({"file": blob}) as it, it.client() as follower:
        leader = it.client().send(b"GET /file" + HOST)
        it.wait_for("parked", 1)
        follower.send(b"GET /file" + HOST)
        it.wait_for("parked", 2)
        leader.abort()
        record = only(it)
        assert (record.outcome, record.source) == ("aborted", "miss")
        for chunk in range(2):
            assert it.mail("miss")[2] == chunk
            fill(cache, blob, data, chunk)
            it.reactor.chunk(blob, chunk)
            while len(follower.buffer) < (chunk + 1) * CHUNK:
                follower.more()
        assert follower.response().body == data
        record = only(it)
        assert (record.outcome, record.source) == ("complete", "miss")


@pytest.mark.parametrize("ending", ["aborts", "times out", "half a head"])
def test_a_record_is_about_the_connection_that_ended_and_not_the_one_that_ran_last(cache: Cache, ending: str) -> None:
    blob = cold(cache, os.urandom(CHUNK))
    large = Blob.memory(os.urandom(16 << 20), dynamic=False)
    limits = {"send_timeout_s": 0.2, "head_timeout_s": 0.2}
    with rack({"cold": blob, "large": large}, **limits) as it, it.client() as other:
        client = it.client(receive_buffer=4096)
        peer = client.socket.getsockname()
        if ending == "aborts":
            client.send(b"GET /cold" + HOST)
            it.wait_for("parked", 1)
        elif ending == "times out":
            client.send(b"GET /large" + HOST).head()
        else:
            client.send(b"GET /lar")
        records: list[Record] = []
        deadline = time.monotonic() + PATIENCE_S
        while not records:
            assert time.monotonic() < deadline
            other.get("/nobody")
            if ending == "aborts" and client.socket.fileno() >= 0:
                client.abort()
            records = [record for record in it.reactor.records() if record.name != "nobody"]
        outcome = {"aborts": "aborted", "times out": "timeout"}.get(ending, "refused")
        assert [(record.peer, record.outcome) for record in records] == [(peer, outcome)]
        client.socket.close()


def test_a_miss_that_nobody_can_fill_is_refused_with_its_name(cache: Cache) -> None:
    blob = cold(cache, os.urandom(CHUNK))
    with rack({"file": blob}, park_limit_s=0.05) as it, it.client() as client:
        assert client.get("/file", "User-Agent: iPXE/1.21.1").status == 503
        record = only(it)
        assert (record.name, record.agent, record.outcome, record.status, record.source, record.size) == (
            "file", "iPXE/1.21.1", "refused", 503, "miss", CHUNK,
        )  # fmt: skip
        assert record.ended_ns - record.began_ns >= 50_000_000, "it waited as long as it may"


def test_a_request_that_is_handed_over_leaves_no_record_and_the_connection_goes_on() -> None:
    with rack({"kernel": KERNEL}) as it, it.client() as client:
        client.get("/kernel")
        client.send(b"POST /MAAS/x HTTP/1.1\r\nHost: r\r\nContent-Length: 0\r\n\r\n")
        fd = it.mail("handover")[1]
        it.reactor.adopt(fd)
        client.get("/kernel")
        first, second = ended(it.reactor, 2)
        assert (first.reused, second.reused) == (1, 1)
        assert first.peer == second.peer == client.socket.getsockname()


def test_requests_that_are_handed_over_give_their_pending_record_back() -> None:
    before = blocks()
    with rack({}, max_per_address=0) as it:
        for _ in range(130):
            with it.client() as client:
                client.send(b"GET /metrics" + HOST)
                os.close(it.mail("handover")[1])
        it.wait_for("http_handed_over", 130)
        assert blocks() - before == 1


def test_connections_beyond_a_limit_are_refused_on_the_record() -> None:
    with rack({"kernel": KERNEL}, max_per_address=1) as it, it.client() as client:
        client.get("/kernel")
        with it.client() as second:
            assert second.get("/kernel").status == 503
            peer = second.socket.getsockname()
        _, record = ended(it.reactor, 2)
        assert (record.peer, record.name, record.outcome, record.status, record.reused) == (peer, "", "refused", 503, 0)


def test_what_stopping_cuts_is_on_the_record(cache: Cache) -> None:
    blob = cold(cache, os.urandom(CHUNK))
    large = Blob.memory(os.urandom(16 << 20), dynamic=False)
    with rack({"cold": blob, "large": large}) as it:
        reactor = it.reactor
        clients = [it.client(receive_buffer=4096) for _ in range(4)]
        for client, target in zip(clients, (b"cold", b"large", b"ipxe.cfg"), strict=False):
            client.send(b"GET /" + target + HOST)
        clients[3].send(b"GET /unfin")
        clients[1].head()
        it.wait_for("parked", 1)
        it.mail("ask")
        it.stop()
        peers = {client.socket.getsockname(): n for n, client in enumerate(clients)}
        assert sorted((peers[r.peer], r.name, r.outcome, r.status) for r in reactor.records()) == [
            (0, "cold", "cut", 0), (1, "large", "cut", 200), (2, "ipxe.cfg", "cut", 0),
        ]  # fmt: skip
    del reactor
    for client in clients:
        client.socket.close()


def test_slow_readers_hold_one_small_record_each_and_idle_connections_none() -> None:
    large = Blob.memory(os.urandom(16 << 20), dynamic=False)
    before = blocks()
    with rack({"large": large}) as it:
        idle = [it.client() for _ in range(70)]
        for client in idle:
            client.get("/nobody")
        assert blocks() - before == 1, "one at a time: 64 places are enough for any number of connections"
        slow = [it.client(receive_buffer=4096).send(b"GET /large" + HOST) for _ in range(65)]
        for client in slow:
            client.head()
        assert blocks() - before == 2
        for client in (*idle, *slow):
            client.abort()
        it.wait_for("http_closed", 135)


def test_clients_that_vanish_at_any_moment_leave_no_pending_record_behind() -> None:
    large = Blob.memory(os.urandom(4 << 20), dynamic=False)
    before = blocks()
    with rack({"large": large, "kernel": KERNEL}) as it:
        for n in range(600):
            last = (b"GET /large", b"POST /api")[n // 300]
            script = b"GET /kernel" + HOST + b"GET /%b" % (b"n" * 200) + HOST + last + HOST
            client = it.client(receive_buffer=4096)
            client.send(script[: n % (len(script) + 1)])
            client.abort() if n % 3 else client.socket.close()
            if n % 50 == 49:
                while it.count("http_closed") + it.count("http_handed_over") <= n:
                    time.sleep(0.001)
                for mail in it.reactor.take():
                    os.close(mail[1])
                records = it.reactor.records(4096)
                assert all(record.outcome for record in records)
        it.wait_for("records", it.count("http_requests") - it.count("http_handed_over"))
        counters = it.reactor.counters()
        assert counters["records"] == counters["http_requests"] - counters["http_handed_over"]
        assert counters["records_lost"] == 0
        assert blocks() - before <= 4, "at most 50 at once: a block of small and one of large ones, two to spare"


def test_every_request_is_one_record_whatever_becomes_of_it() -> None:
    with rack({"kernel": KERNEL}, head_timeout_s=0.1) as it, it.client() as client:
        client.send(b"GET /kernel" + HOST + b"GET /nobody" + HOST + b"HEAD /kernel" + HOST)
        client.response(), client.response(), client.response("HEAD")
        with it.client() as bad:
            bad.send(b"nonsense\r\n\r\n").response()
        with it.client() as slow:
            assert slow.send(b"GET /ker").response().status == 408
        with it.client() as other:
            other.send(b"GET /api" + HOST)
            os.close(it.mail("handover")[1])
            it.wait_for("http_handed_over", 1)
        records = ended(it.reactor, 5)
        counters = it.reactor.counters()
        unread = sum(record.reused == 0 for record in records)
        assert unread == 1
        assert counters["records"] - unread == counters["http_requests"] - counters["http_handed_over"] == 4
        by_status = [sum(r.status // 100 == n for r in records) for n in (2, 4)]
        assert by_status == [counters["http_ok"], counters["http_client_error"]] == [2, 3]


def test_a_peer_on_a_socket_of_both_families_is_shown_as_what_it_is() -> None:
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    listener.setblocking(False)
    reactor = Reactor(http=[listener.fileno()])
    reactor.publish(Table({}, 1))
    reactor.start()
    with Client(listener.getsockname()[1]) as client:
        client.get("/nobody")
        assert ended(reactor, 1)[0].peer == client.socket.getsockname()
    reactor.stop()
    listener.close()
