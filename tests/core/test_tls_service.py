"""HTTPS on one reactor: the same files as by HTTP, and clients that vanish, stall or talk nonsense in every state."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import hmac
import os
import pathlib
import random
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bootplane.core import blob as blobs
from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.core.tls_service import session_bytes
from tests.fakes.http_client import CHUNK, PATIENCE_S, Client, cold, curl, fill, nothing_left
from tests.fakes.tls import TlsClient, TlsRack, pair, tls_rack, trusting, write_pair

SMALL = b"0123456789"
BIG = random.Random(1).randbytes(50_000_000)
IS_SANITIZED = "BOOTPLANE_SANITIZED_PYTHON" in os.environ  # it keeps what was freed
HOST = b" HTTP/1.1\r\nHost: rack\r\n\r\n"


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture
def cache(tmp_path: pathlib.Path, leaves_nothing: None) -> Iterator[Cache]:
    cache = Cache(str(tmp_path / "cache"), 256 << 20)
    yield cache
    cache.close()


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Blob:
    return stored(tmp_path_factory.mktemp("big") / "big", BIG)


def small() -> Blob:
    return Blob.memory(SMALL, dynamic=False)


def stored(path: pathlib.Path, data: bytes) -> Blob:
    path.write_bytes(data)
    return Blob.open_file(str(path), hashlib.sha256(data).hexdigest(), len(data))


def hello() -> bytes:
    """A ClientHello as Python's ssl sends it."""
    out = ssl.MemoryBIO()
    half = trusting(pair()[0]).wrap_bio(ssl.MemoryBIO(), out, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    return out.read()


def under(client: Client) -> socket.socket:
    """The TCP socket under its TLS, once more."""
    return socket.socket(fileno=os.dup(client.socket.fileno()))


# -- the same as by HTTP ----------------------------------------------------------------------------------------------


def test_files_of_every_size_arrive_whole_on_one_connection(tmp_path: pathlib.Path) -> None:
    sizes = (0, 1, 16383, 16384, 16385, 65536, 65537, CHUNK, 3 * CHUNK + 7)
    contents = {f"f{n}": os.urandom(n) for n in sizes}
    names = {name: stored(tmp_path / name, data) for name, data in contents.items()}
    with tls_rack(names) as it, it.client() as client:
        for name, data in contents.items():
            assert client.get(f"/{name}").body == data
            assert client.get(f"/{name}", method="HEAD").headers["Content-Length"] == str(len(data))
        it.wait_for("http_requests", 2 * len(sizes))
        assert it.count("tls_handshakes") == 1


def test_ranges_and_conditions_are_those_of_http(big: Blob) -> None:
    with tls_rack({"big": big}) as it, it.client() as client:
        etag = client.get("/big", method="HEAD").headers["ETag"]
        for first, last in ((0, 0), (12_345, 999_999), (49_999_990, 49_999_999), (CHUNK - 5, 3 * CHUNK)):
            got = client.get("/big", f"Range: bytes={first}-{last}")
            assert (got.status, got.body) == (206, BIG[first : last + 1])
        assert client.get("/big", "Range: bytes=-10").body == BIG[-10:]
        assert client.get("/big", "Range: bytes=50000000-").status == 416
        assert client.get("/big", f"If-None-Match: {etag}").status == 304
        assert client.get("/nothing").status == 404


def test_pipelined_requests_are_answered_in_order(big: Blob) -> None:
    with tls_rack({"small": small(), "big": big}) as it, it.client() as client:
        client.send((b"GET /small" + HOST) * 40 + b"GET /big" + HOST + (b"GET /small" + HOST) * 3)
        for _ in range(40):
            assert client.response().body == SMALL
        assert client.response().body == BIG
        for _ in range(3):
            assert client.response().body == SMALL


def test_a_head_byte_by_byte_is_read(big: Blob) -> None:
    with tls_rack({"small": small()}) as it, it.client() as client:
        for i in range(len(b"GET /small" + HOST)):
            client.send((b"GET /small" + HOST)[i : i + 1])
        assert client.response().body == SMALL


@pytest.mark.parametrize("version", ["--tls-max=1.2", "--tlsv1.3"])
def test_curl_verifies_and_fetches_and_goes_on_in_the_middle(big: Blob, tmp_path: pathlib.Path, version: str) -> None:
    out = tmp_path / "out"
    option = version.split("=")
    with tls_rack({"big": big}) as it:
        url = f"https://127.0.0.1:{it.port}/big"
        curl("--cacert", pair()[0], *option, "-o", str(out), url)
        assert out.read_bytes() == BIG
        with out.open("r+b") as partial:
            partial.truncate(12_345_678)
        curl("--cacert", pair()[0], *option, "-C", "-", "-o", str(out), url)
        assert out.read_bytes() == BIG
        assert it.count("http_partial") == 1


def test_64_clients_at_once_all_get_the_right_bytes(big: Blob) -> None:
    part = BIG[: 4 * CHUNK]
    with tls_rack({"big": big}) as it:
        clients = [it.client() for _ in range(64)]
        for client in clients:
            client.send(b"GET /big HTTP/1.1\r\nHost: r\r\nRange: bytes=0-%d\r\n\r\n" % (len(part) - 1))
        for client in clients:
            assert client.response().body == part
            client.socket.close()
        it.wait_for("tls_closed", 64)


def test_plain_http_goes_on_beside_it(big: Blob) -> None:
    with tls_rack({"big": big}) as it, Client(it.plain_port) as plain, it.client() as client:
        assert plain.get("/big").body == BIG
        assert client.get("/big").body == BIG


def test_a_slow_reader_holds_up_nobody_and_little_memory(big: Blob) -> None:
    with tls_rack({"small": small(), "big": big}) as it, it.client(4096) as slow, it.client() as quick:
        slow.send(b"GET /big" + HOST)
        assert slow.head().status == 200
        taken = it.count("http_body_bytes")
        assert quick.get("/small").body == SMALL
        assert it.count("http_body_bytes") - taken <= 8 << 20  # what sockets hold, and no more
        assert it.count("http_body_bytes") < len(BIG)
        while len(slow.buffer) < len(BIG):
            assert slow.more()
        assert bytes(slow.buffer) == BIG


def test_a_reader_that_takes_nothing_is_cut_and_knows_it(big: Blob) -> None:
    options = {"send_timeout_s": 0.4}
    with tls_rack({"big": big}, tls=options, send_timeout_s=0.4) as it, it.client(4096) as client:
        client.send(b"GET /big" + HOST)
        assert client.head().status == 200
        it.wait_for("tls_closed", 1)
        n, end = client.rest()
        assert n < len(BIG) and end in ("reset", "cut")


def test_a_reader_of_a_little_now_and_then_is_never_cut(big: Blob) -> None:
    data = BIG[: 2 * CHUNK]
    options = {"send_timeout_s": 2.0}
    with tls_rack({"big": big}, tls=options, send_timeout_s=2.0) as it, it.client(4096) as client:
        client.send(b"GET /big HTTP/1.1\r\nHost: r\r\nRange: bytes=0-%d\r\n\r\n" % (len(data) - 1))
        client.head()
        deadline = time.monotonic() + 6  # three times the limit
        while time.monotonic() < deadline:
            client.buffer += client.socket.recv(4096)
            select.select([], [], [], 0.05)
        while len(client.buffer) < len(data):
            assert client.more()
        assert bytes(client.buffer) == data


# -- misses, damage ---------------------------------------------------------------------------------------------------


def test_a_cold_miss_streams_chunk_by_chunk(cache: Cache) -> None:
    data = os.urandom(3 * CHUNK + 10)
    blob = cold(cache, data)
    with tls_rack({"file": blob}) as it, it.client() as client:
        client.send(b"GET /file" + HOST)
        for chunk in range(4):
            assert it.mail("miss")[1:] == (blob.id, chunk)
            fill(cache, blob, data, chunk)
            it.reactor.chunk(blob, chunk)
            if chunk == 0:
                assert client.head().status == 200
            while len(client.buffer) < min(len(data), (chunk + 1) * CHUNK):
                assert client.more()
        assert bytes(client.buffer) == data
        it.wait_for("misses", 1)


def test_a_body_that_fails_in_its_middle_has_no_clean_end(tmp_path: pathlib.Path) -> None:
    data = random.Random(2).randbytes(8 * CHUNK)
    blob = stored(tmp_path / "file", data)
    (tmp_path / "file").write_bytes(data[: 3 * CHUNK + 100])
    with tls_rack({"file": blob}) as it:
        with it.client() as client:
            client.send(b"GET /file" + HOST)
            assert client.head().headers["Content-Length"] == str(len(data))
            n, end = client.rest()
            assert n < len(data) and end in ("cut", "reset")
        got = curl("--cacert", pair()[0], "-o", "/dev/null", f"https://127.0.0.1:{it.port}/file", check=False)
        assert got.returncode in (18, 56), got
        it.wait_for("http_cut", 2)


# -- what Python answers ----------------------------------------------------------------------------------------------


def test_a_question_carries_the_clients_address_and_the_plain_port() -> None:
    with tls_rack({}, park_limit_s=20.0) as it, it.client() as client:
        ours = client.socket.getsockname()
        client.send(b"GET /grub/grub.cfg-01-52-54-00-00-00-01" + HOST)
        _, request, proto, _, peer, local = it.mail("ask")
        assert (proto, peer, local) == ("http", ours, ("127.0.0.1", it.plain_port))
        it.reactor.answer(request, Blob.memory(b"a text", dynamic=True))
        assert client.response().body == b"a text"
        record = next(r for r in iter(lambda: (it.reactor.records() or [None])[0], None))
        assert record.peer == ours


def test_an_upload_is_handed_over_and_the_connection_comes_back() -> None:
    body = random.Random(3).randbytes(1_000_000)
    with tls_rack({"small": small()}) as it, it.client() as client:
        for _ in range(2):
            client.send(b"POST /MAAS/metadata/ HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n" % len(body))
            _, fd, data, peer, local = it.mail("handover")
            assert peer == client.socket.getsockname() and local == ("127.0.0.1", it.plain_port)
            ours = socket.socket(fileno=fd)
            ours.settimeout(PATIENCE_S)
            got = bytearray(data.partition(b"\r\n\r\n")[2])
            sent = 0
            client.socket.setblocking(False)
            while len(got) < len(body):
                if sent < len(body):
                    with_room = body[sent : sent + 50_000]
                    with contextlib.suppress(ssl.SSLWantWriteError):
                        sent += client.socket.send(with_room)
                if select.select([ours], [], [], 0.01)[0]:
                    got += ours.recv(1 << 16)
            client.socket.settimeout(PATIENCE_S)
            assert bytes(got) == body
            ours.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthere")
            assert client.response().body == b"there"
            it.reactor.adopt(ours.detach(), b"")
            it.wait_for("http_adopted", it.count("http_handed_over"))
            assert client.get("/small").body == SMALL
        assert it.reactor.records()[-1].peer == client.socket.getsockname()


def test_what_python_cuts_has_no_clean_end_either() -> None:
    with tls_rack({}) as it, it.client() as client:
        client.send(b"GET /metrics" + HOST)
        fd = it.mail("handover")[1]
        with socket.socket(fileno=fd) as ours:
            ours.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf of")
        assert client.head().status == 200
        assert client.rest() == (7, "cut")


def test_a_connection_in_pythons_hands_does_not_hold_up_a_drain() -> None:
    with tls_rack({}) as it, it.client() as client:
        client.send(b"GET /metrics" + HOST)
        fd = it.mail("handover")[1]
        it.reactor.drain()
        assert it.mail("drained") == ("drained",)
        with socket.socket(fileno=fd) as ours:
            ours.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthere")
        assert client.response().body == b"there"


# -- who is no client -------------------------------------------------------------------------------------------------


def test_plain_http_on_this_port_is_told_400(big: Blob) -> None:
    with tls_rack({"big": big}) as it:
        with it.raw() as client:
            answer = client.get("/big")
            assert (answer.status, answer.headers["Connection"]) == (400, "close")
            assert answer.body == b"expected TLS on this port, got plain HTTP: ask for https://\n"
            assert client.end() == "closed"
        assert it.count("tls_failed_plain") == 1
        got = curl("-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{it.port}/big", check=False)
        assert got.stdout == b"400"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 100,
        b"\x16\x02\x01\x00\x05hello",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff" + b"x" * 100,
        b"\x80\x2e\x01\x00\x02",
        b"\x15\x03\x01\x00\x02\x02\x28",
    ],
)
def test_what_is_no_tls_is_closed_at_once(garbage: bytes) -> None:
    with tls_rack({}) as it, it.raw() as client:
        client.send(garbage)
        assert client.rest()[1] in ("closed", "reset")
        it.wait_for("tls_failed_protocol", 1)


def test_a_whole_record_of_nonsense_gets_an_alert() -> None:
    with tls_rack({}) as it, it.raw() as client:
        client.send(b"\x16\x03\x01\x00\x30" + b"\x01\x00\x00\x2c\x03\x03" + b"\xff" * 42)
        while client.more():
            pass
        assert client.buffer[0] == 21
        it.wait_for("tls_failed_protocol", 1)


def test_mutated_hellos_end_nothing_but_themselves() -> None:
    chance = random.Random(4)
    first = hello()
    with tls_rack({"small": small()}) as it:
        for _ in range(150):
            bad = bytearray(first)
            for _ in range(chance.choice((1, 1, 3, 20))):
                bad[chance.randrange(5, len(bad))] = chance.randrange(256)
            with it.raw() as client:
                client.send(bytes(bad))
                select.select([client.socket], [], [], 0.002)
        with it.client() as client:
            assert client.get("/small").body == SMALL
        it.wait_for("tls_closed", 151)


def test_broken_records_after_the_handshake_end_the_connection_alone(big: Blob) -> None:
    with tls_rack({"small": small(), "big": big}) as it, it.client() as other:
        for record in (
            b"\x17\x03\x03\x00\x20" + b"x" * 32,
            b"\x16\x03\x03\x00\x04" + b"y" * 4,
            b"\x17\x03\x03\xff\xff",
        ):
            with it.client() as client:
                client.send(b"GET /big" + HOST)
                client.head()
                with under(client) as raw:
                    raw.sendall(record)
                with pytest.raises((ssl.SSLError, ConnectionResetError, AssertionError)):
                    while len(client.buffer) < len(BIG):
                        assert client.more()
        assert other.get("/small").body == SMALL


def expanded(secret: bytes, label: bytes, n: int) -> bytes:
    """HKDF-Expand-Label without context, of at most one block (RFC 8446, 7.1)."""
    name = b"tls13 " + label
    info = struct.pack(">HB", n, len(name)) + name + b"\0"
    return hmac.digest(secret, info + b"\x01", "sha384")[:n]


class Records:
    """What the client of a TLS 1.3 connection with TLS_AES_256_GCM_SHA384 would send, from its first record after the
    handshake on: *secret* is its first traffic secret."""

    def __init__(self, secret: bytes) -> None:
        self.renew(secret)

    def renew(self, secret: bytes) -> None:
        self.secret = secret
        self.cipher = AESGCM(expanded(secret, b"key", 32))
        self.mask = int.from_bytes(expanded(secret, b"iv", 12), "big")
        self.number = 0

    def record(self, kind: int, data: bytes) -> bytes:
        head = struct.pack(">BHH", 23, 0x303, len(data) + 1 + 16)
        nonce = (self.mask ^ self.number).to_bytes(12, "big")
        self.number += 1
        return head + self.cipher.encrypt(nonce, data + bytes([kind]), head)

    def key_update(self) -> bytes:
        """RFC 8446, 4.6.3; no answer wanted."""
        sent = self.record(22, b"\x18\0\0\x01\0")
        self.renew(expanded(self.secret, b"traffic upd", 48))
        return sent


def answered_meanwhile(secrets: pathlib.Path) -> int:
    """How many of another client's requests are answered while one renews its keys 20,000 times, before the answer to
    what it asks behind that."""
    context = trusting(pair()[0])
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.keylog_filename = str(secrets)
    with tls_rack({"small": small()}) as it, Client(it.plain_port) as other, TlsClient(it.port, context) as client:
        assert client.socket.cipher()[0] == "TLS_AES_256_GCM_SHA384"
        lines = (line.split() for line in secrets.read_text().splitlines() if not line.startswith("#"))
        secret = next(bytes.fromhex(line[2]) for line in lines if line[0] == "CLIENT_TRAFFIC_SECRET_0")
        ours = Records(secret)
        sent = b"".join(ours.key_update() for _ in range(20_000)) + ours.record(23, b"GET /small" + HOST)
        with under(client) as raw:
            raw.settimeout(PATIENCE_S)
            raw.sendall(sent)
            answered = 0
            while not select.select([raw], [], [], 0)[0]:
                assert other.get("/small").body == SMALL
                answered += 1
        assert client.response().body == SMALL
    return answered


def test_a_client_that_only_renews_its_keys_holds_up_nobody(tmp_path: pathlib.Path) -> None:
    answered = max(answered_meanwhile(tmp_path / f"secrets{n}") for n in range(3))
    assert answered > 8, "while 34 buffers of new keys were read"


def test_half_a_hello_is_waited_for_until_its_deadline_and_no_longer() -> None:
    with tls_rack({}, tls={"hello_timeout_s": 0.3}) as it:
        silent, half = it.raw(), it.raw()
        half.send(hello()[:100])
        for client in (silent, half):
            assert client.rest()[1] in ("closed", "reset")
            client.socket.close()
        assert it.count("tls_failed_timeout") == 2


def test_a_hello_byte_by_byte_is_one_all_the_same() -> None:
    with tls_rack({"small": small()}) as it:
        raw = socket.create_connection(("127.0.0.1", it.port), timeout=PATIENCE_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        half = trusting(pair()[0]).wrap_bio(into, out, server_hostname="127.0.0.1")
        while True:
            try:
                half.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in out.read():
                    raw.send(bytes([byte]))
                into.write(raw.recv(1 << 16))
        half.write(b"GET /small" + HOST)
        for byte in out.read():
            raw.send(bytes([byte]))
        got = b""
        while not got.endswith(SMALL):
            into.write(raw.recv(1 << 16))
            while True:
                try:
                    got += half.read(1 << 16)
                except ssl.SSLWantReadError:
                    break
        raw.close()


def test_a_handshake_that_stops_half_way_ends_at_its_deadline() -> None:
    with tls_rack({}, tls={"hello_timeout_s": 0.3}) as it, it.raw() as client:
        client.send(hello())
        while client.more():  # the server's part arrives; ours never goes out
            pass
        assert client.buffer[0] == 22
        assert it.count("tls_failed_timeout") == 1


def test_of_more_handshakes_than_places_each_comes_to_its_turn() -> None:
    with tls_rack({"small": small()}, tls={"max_handshakes": 2}) as it:
        stuck = [it.raw().send(hello()) for _ in range(2)]
        for client in stuck:
            assert client.more()
        clients = [it.raw().send(hello()) for _ in range(4)]  # they wait until the stuck ones have had a second
        with it.client() as late:
            assert late.get("/small").body == SMALL
        for client in stuck + clients:
            client.socket.close()
        it.wait_for("tls_closed", 7)


def test_who_takes_the_place_of_a_stuck_handshake_and_has_gone_ends_once() -> None:
    with tls_rack({"small": small()}, tls={"max_handshakes": 1}) as it:
        stuck = it.raw().send(hello())
        assert stuck.more()
        gone = it.raw().send(hello())
        with it.raw() as plain:  # answered after the hello before it was looked at: that one waits for a place now
            assert plain.get("/small").status == 400
        gone.abort()
        it.wait_for("tls_failed_timeout", 1)
        it.wait_for("tls_failed_gone", 1)
        for _ in range(3):
            with it.client() as client:
                assert client.get("/small").body == SMALL
        assert it.count("tls_connections") == 6
        stuck.socket.close()
        it.wait_for("tls_closed", 6)


def served_at_once(places: int) -> bool:
    """Of as many waiting as places that come free together: does each get one before its patience ends, which is
    shorter than the second after which others' places would be looked at?"""
    with tls_rack({"small": small()}, tls={"max_handshakes": places, "hello_timeout_s": 0.9}) as it:
        stuck = [it.raw().send(hello()) for _ in range(places)]
        if not all(client.more() for client in stuck):
            return False
        waiting = [it.raw().send(hello()) for _ in range(places)]
        with it.raw() as plain:  # answered after the hellos before it were looked at
            assert plain.get("/small").status == 400
        for client in stuck:
            client.abort()
        got = [client.more() for client in waiting]
        for client in waiting:
            client.socket.close()
        it.wait_for("tls_closed", 2 * places + 1)
        return all(got)


def test_places_that_come_free_at_once_are_all_taken_by_those_who_wait() -> None:
    assert any(served_at_once(16) for _ in range(5)), "free places and clients that waited for them"


def test_clients_that_say_nothing_leave_for_those_who_come() -> None:
    with tls_rack({"small": small()}, tls={"max_sessions": 8}) as it:
        silent = [it.raw() for _ in range(8)]
        it.wait_for("tls_connections", 8)
        deadline = time.monotonic() + PATIENCE_S
        while True:  # for their first second they are spared
            assert time.monotonic() < deadline
            try:
                with it.client() as client:
                    assert client.get("/small").body == SMALL
                break
            except (ssl.SSLError, OSError):
                select.select([], [], [], 0.05)
        assert it.count("tls_failed_timeout") >= 1
        for client in silent:
            client.socket.close()


def test_one_address_gets_so_many_and_no_more() -> None:
    with tls_rack({"small": small()}, tls={"max_per_address": 3}) as it:
        held = [it.client() for _ in range(3)]
        with it.raw() as client:
            assert client.rest()[1] in ("closed", "reset")
        assert it.count("tls_refused") == 1
        held.pop().socket.close()
        it.wait_for("tls_closed", 2)
        with it.client() as client:
            assert client.get("/small").body == SMALL
        for client in held:
            client.socket.close()


def test_http_limits_hold_for_https_and_are_told() -> None:
    with tls_rack({"small": small()}, max_per_address=1) as it, it.client() as first:
        assert first.get("/small").body == SMALL
        with it.client() as second:
            assert second.get("/small").status == 503


def test_many_that_say_nothing_cost_next_to_nothing() -> None:
    assert session_bytes() <= 192
    with tls_rack({"small": small()}, tls={"max_per_address": 0}) as it:
        silent = [it.raw().send(b"\x16\x03\x01") for _ in range(300)]
        it.wait_for("tls_connections", 300)
        gc.collect()
        before = anonymous()
        silent += [it.raw().send(b"\x16\x03\x01") for _ in range(100)]
        it.wait_for("tls_connections", 400)
        assert IS_SANITIZED or anonymous() - before < 1 << 20
        with it.client() as client:
            assert client.get("/small").body == SMALL
        for client in silent:
            client.socket.close()
        it.wait_for("tls_closed", 401)


def anonymous() -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


# -- who vanishes -----------------------------------------------------------------------------------------------------


def vanish(raw: socket.socket, how: str) -> None:
    if how == "reset":
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "when", ["at once", "half a hello", "after hello", "open", "half a head", "in a body", "parked"]
)
def test_a_client_that_vanishes_leaves_nothing(when: str, how: str, big: Blob, cache: Cache) -> None:
    missing = cold(cache, os.urandom(CHUNK))
    with tls_rack({"big": big, "cold": missing}, park_limit_s=1.0) as it:
        if when in ("at once", "half a hello", "after hello"):
            client = it.raw()
            if when == "half a hello":
                client.send(hello()[:50])
            if when == "after hello":
                client.send(hello()).more()
        else:
            client = it.client()
            if when == "half a head":
                client.send(b"GET /bi")
            if when == "in a body":
                client.send(b"GET /big" + HOST).head()
            if when == "parked":
                client.send(b"GET /cold" + HOST)
                it.mail("miss")
        it.wait_for("tls_connections", 1)
        vanish(client.socket, how)
        it.wait_for("tls_closed", 1)
        it.wait_for("http_closed", it.count("http_connections"))


def test_a_client_that_ends_its_side_still_gets_its_answer(big: Blob) -> None:
    with tls_rack({"big": big}) as it:
        with it.client() as client:
            client.send(b"GET /big" + HOST)
            client.head()
            with under(client) as raw:
                raw.shutdown(socket.SHUT_WR)  # a FIN and no close_notify
            while len(client.buffer) < len(BIG):
                assert client.more()
            assert bytes(client.buffer) == BIG
        it.wait_for("tls_closed", 1)


def test_200_connections_leave_no_descriptor_and_no_memory(big: Blob) -> None:
    chance = random.Random(5)
    with tls_rack({"small": small(), "big": big}) as it:

        def some(count: int) -> None:
            for _ in range(count):
                how = chance.randrange(6)
                if how == 0:
                    it.raw().send(hello()[: chance.randrange(5, 200)]).abort()
                elif how == 1:
                    it.raw().send(hello()).abort()
                else:
                    with it.client() as client:
                        client.send(b"GET /small" + HOST)
                        assert client.response().body == SMALL
                        if how == 2:
                            client.send(b"GET /big" + HOST).head()
                            client.abort()
                        if how == 3:
                            client.send(b"GET /big" + HOST)
            it.wait_for("tls_closed", it.count("tls_connections"))
            gc.collect()

        some(100)
        fds, memory = len(list(pathlib.Path("/proc/self/fd").iterdir())), anonymous()
        some(200)
        assert len(list(pathlib.Path("/proc/self/fd").iterdir())) <= fds
        assert IS_SANITIZED or anonymous() - memory < 4 << 20


def conversation(it: TlsRack, dice: random.Random, first: bytes) -> None:
    """One client that stops somewhere, in one of the ways in which clients do."""
    kind = dice.randrange(6)
    with contextlib.suppress(OSError, AssertionError):  # turned away, cut, or its own doing
        if kind < 2:
            with it.client() as client:
                client.send(b"GET /%s" % dice.choice([b"small", b"big", b"nobody"]) + HOST)
                client.head()
                if dice.random() < 0.5:
                    client.abort()
            return
        with it.raw() as client:
            client.socket.settimeout(dice.choice([0.001, 0.1]))
            sent = [first, first[: dice.randrange(1, len(first))], b"GET /small" + HOST, os.urandom(50)][kind - 2]
            client.send(sent)
            if dice.random() < 0.3:
                client.abort()
            else:
                client.more()


def test_a_storm_of_clients_that_stop_anywhere_ends_each_of_them_once(big: Blob) -> None:
    limits = {"max_handshakes": 1, "max_sessions": 16, "hello_timeout_s": 1.5}
    with tls_rack({"small": small(), "big": big}, tls=limits) as it, it.raw() as stuck:
        first = hello()
        assert stuck.send(first).more()

        def many(seed: int) -> None:
            dice = random.Random(seed)
            for _ in range(12):
                conversation(it, dice, first)

        threads = [threading.Thread(target=many, args=(seed,)) for seed in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts = it.reactor.counters()
        assert it.reactor.alive
        names = ("handshakes", "failed_plain", "failed_protocol", "failed_timeout", "failed_gone")
        assert all(counts[f"tls_{name}"] for name in names), counts
        with it.client() as client:
            assert client.get("/small").body == SMALL


# -- the end ----------------------------------------------------------------------------------------------------------


def test_a_drain_finishes_the_body_under_way_and_refuses_who_comes(big: Blob) -> None:
    with tls_rack({"small": small(), "big": big}) as it, it.client() as idle, it.client(4096) as client:
        assert idle.get("/small").body == SMALL
        shaking = it.raw().send(hello()[:100])
        client.send(b"GET /big" + HOST + b"GET /small" + HOST)
        assert client.head().status == 200
        it.reactor.drain()
        assert idle.end() in ("closed", "cut")
        assert shaking.rest()[1] in ("closed", "reset")
        shaking.socket.close()
        with pytest.raises((ConnectionRefusedError, ConnectionResetError)):
            it.raw().rest()
        while len(client.buffer) < len(BIG):
            assert client.more()
        assert bytes(client.buffer[: len(BIG)]) == BIG
        del client.buffer[: len(BIG)]
        last = client.response()
        assert (last.body, last.headers["Connection"]) == (SMALL, "close")
        assert client.rest() == (0, "cut")
        client.socket.close()
        assert it.mail("drained") == ("drained",)


def test_a_stop_cuts_and_gives_everything_back(big: Blob) -> None:
    with tls_rack({"big": big}) as it:
        clients = [it.client(4096).send(b"GET /big" + HOST) for _ in range(5)]
        clients += [it.raw(), it.raw().send(hello()[:9])]
        for client in clients[:5]:
            client.head()
        it.reactor.stop()
        for client in clients[:5]:
            n, end = client.rest()
            assert n < len(BIG) and end in ("cut", "reset")
        for client in clients:
            client.socket.close()
    blobs.reap()


def test_nobody_is_let_in_before_there_are_names() -> None:
    with TlsRackHeld() as it:
        raw = socket.create_connection(("127.0.0.1", it.port), timeout=PATIENCE_S)
        raw.sendall(hello())
        assert not select.select([raw], [], [], 0.2)[0]
        assert it.count("tls_connections") == 0
        it.reactor.open()
        it.wait_for("tls_connections", 1)
        raw.close()


class TlsRackHeld(TlsRack):
    def __init__(self) -> None:
        super().__init__(None, tls={"hold": 1}, hold=1)

    def __enter__(self) -> TlsRackHeld:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def test_the_client_class_of_these_tests_trusts_one_certificate_alone(tmp_path: pathlib.Path) -> None:
    certificate, _ = write_pair(tmp_path)
    with tls_rack({}) as it:
        with pytest.raises(ssl.SSLCertVerificationError):
            TlsClient(it.port, trusting(certificate))
        it.wait_for("tls_closed", 1)
