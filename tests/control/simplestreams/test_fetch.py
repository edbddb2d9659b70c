"""Fetching: bounds, redirects, resume, and which failures are final."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.control.simplestreams import fetch
from bootplane.control.simplestreams.errors import (
    AccessRefused,
    NotFound,
    SizeRefused,
    SourceError,
    Truncated,
    Unreachable,
)
from bootplane.control.simplestreams.fetch import Body, Fetcher
from tests.fakes.mirror import Fault, MirrorServer, content, make_file, serve
from tests.fakes.ports import quiet_port

SIZE = 300_000
DATA = content("file", SIZE)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[MirrorServer]:
    make_file(tmp_path / "m", "file", SIZE)
    with serve(tmp_path / "m") as server:
        yield server


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    with Fetcher(timeout_s=10, proxies={}, retry_waits_s=()) as made:
        yield made


def drain(body: Body, piece: int = 65536) -> bytes:
    out, buffer = bytearray(), memoryview(bytearray(piece))
    with body:
        while count := body.readinto(buffer):
            out += buffer[:count]
    return bytes(out)


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_a_document_comes_whole_and_unchanged_the_second_time(
    mirror: MirrorServer, fetcher: Fetcher, scheme: str
) -> None:
    url = mirror.url + "file" if scheme == "http" else (mirror.root / "file").as_uri()
    first = fetcher.get(url, SIZE)
    assert first.body == DATA and first.changed and first.etag
    second = fetcher.get(url, SIZE, etag=first.etag)
    assert (second.body, second.changed, second.etag) == (b"", False, first.etag)
    (mirror.root / "file").write_bytes(b"new")
    assert fetcher.get(url, SIZE, etag=first.etag).body == b"new"


def test_one_connection_carries_many_requests(mirror: MirrorServer, fetcher: Fetcher) -> None:
    for _ in range(5):
        assert fetcher.get(mirror.url + "file", SIZE).body == DATA
        assert drain(fetcher.stream(mirror.url + "file")) == DATA
    assert (mirror.connections, fetcher.requests) == (1, 10)


def test_a_connection_the_server_closed_meanwhile_is_replaced(tmp_path: Path, fetcher: Fetcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"

        def answer() -> None:
            for _ in range(2):  # promises to keep each connection, and closes it
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert fetcher.get(url, 10).body == b"ok"
        assert fetcher.get(url, 10).body == b"ok"
        thread.join(timeout=10)


def test_names_are_quoted_in_the_request(mirror: MirrorServer, fetcher: Fetcher) -> None:
    make_file(mirror.root, "streams/v1/a:b c.json", 10)
    assert len(fetcher.get(mirror.url + "streams/v1/a:b%20c.json", 10).body) == 10
    assert mirror.targets == ["/streams/v1/a:b%20c.json"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_document_longer_than_its_bound_is_refused(mirror: MirrorServer, fetcher: Fetcher, chunked: bool) -> None:
    if chunked:
        body = b"400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n"
        mirror.faults["file"] = Fault(body=body, headers={"Transfer-Encoding": "chunked", "Content-Length": ""})
    limit = 1000 if chunked else SIZE - 1
    with pytest.raises(SizeRefused, match=f"/file: expected at most {limit} bytes, got "):
        fetcher.get(mirror.url + "file", limit)


@pytest.mark.parametrize(
    ("status", "error", "retryable"),
    [
        (404, NotFound, False),
        (410, NotFound, False),
        (400, AccessRefused, False),
        (401, AccessRefused, False),
        (403, AccessRefused, False),
        (451, AccessRefused, False),
        (408, Unreachable, True),
        (429, Unreachable, True),
        (500, Unreachable, True),
        (502, Unreachable, True),
        (503, Unreachable, True),
    ],
)
def test_a_4xx_is_final_and_a_5xx_is_not(
    mirror: MirrorServer, fetcher: Fetcher, status: int, error: type[SourceError], retryable: bool
) -> None:
    mirror.faults["file"] = Fault(status=status, headers={"Retry-After": "7"})
    for ask in (lambda: fetcher.get(mirror.url + "file", SIZE), lambda: fetcher.stream(mirror.url + "file", start=5)):
        with pytest.raises(SourceError) as caught:
            ask()
        assert type(caught.value) is error and caught.value.retryable is retryable
        assert str(caught.value).startswith(f"{mirror.url}file: expected the file, got {status}")
        if isinstance(caught.value, Unreachable):
            assert caught.value.retry_after_s == 7


def test_a_document_is_tried_again_while_that_can_help(mirror: MirrorServer) -> None:
    with Fetcher(proxies={}, retry_waits_s=(0, 0)) as fetcher:
        mirror.faults["file"] = Fault(status=503, times=2)
        assert fetcher.get(mirror.url + "file", SIZE).body == DATA
        mirror.faults["file"] = Fault(cut_after=1000, times=2)
        assert fetcher.get(mirror.url + "file", SIZE).body == DATA
        mirror.requests.clear()
        with pytest.raises(NotFound):
            fetcher.get(mirror.url + "nothing", SIZE)
        assert mirror.requests == ["nothing"]


def test_a_body_that_ends_early_is_an_error_that_says_how_much_came(mirror: MirrorServer, fetcher: Fetcher) -> None:
    mirror.faults["file"] = Fault(cut_after=1000)
    with pytest.raises(Truncated, match=rf"/file: expected {SIZE} bytes, got an end after 1000 bytes"):
        drain(fetcher.stream(mirror.url + "file"))
    body = b"400\r\n" + b"x" * 1024 + b"\r\n"
    mirror.faults["file"] = Fault(
        body=body, headers={"Transfer-Encoding": "chunked", "Content-Length": "", "Connection": "close"}, cut_after=9999
    )
    with pytest.raises(Truncated, match="expected a last chunk, got an end after 1024 bytes"):
        drain(fetcher.stream(mirror.url + "file"))


@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize("start", [0, 1, 1000, SIZE - 1])
def test_a_transfer_goes_on_where_it_stopped(mirror: MirrorServer, fetcher: Fetcher, scheme: str, start: int) -> None:
    url = mirror.url + "file" if scheme == "http" else (mirror.root / "file").as_uri()
    etag = fetcher.stream(url).etag
    body = fetcher.stream(url, start=start, etag=etag)
    assert (body.start, body.total) == (start, SIZE)
    assert drain(body) == DATA[start:] and body.received == SIZE - start


def test_resume_after_a_cut_costs_no_byte_twice(mirror: MirrorServer, fetcher: Fetcher) -> None:
    mirror.faults["file"] = Fault(cut_after=100_000, times=1)
    body = fetcher.stream(mirror.url + "file")
    got = bytearray()
    buffer = memoryview(bytearray(4096))
    with pytest.raises(Truncated), body:
        while count := body.readinto(buffer):
            got += buffer[:count]
    rest = fetcher.stream(mirror.url + "file", start=len(got), etag=body.etag)
    assert rest.start == len(got) == 100_000
    assert bytes(got) + drain(rest) == DATA
    assert mirror.sent["file"] == SIZE


@pytest.mark.parametrize(
    "fault",
    [
        Fault(ignore_range=True),
        Fault(status=416, times=1),
        Fault(status=206, body=b"xyz", headers={"Content-Range": "bytes 1000-1002/300000"}, times=1),
        Fault(status=206, body=DATA[3:], headers={"Content-Range": f"bytes 3-{SIZE - 1}/{SIZE}"}, times=1),
        Fault(status=206, body=b"xyz", headers={"Content-Type": "multipart/byteranges; boundary=x"}, times=1),
    ],
)
def test_a_server_that_will_not_resume_starts_over(mirror: MirrorServer, fetcher: Fetcher, fault: Fault) -> None:
    mirror.faults["file"] = fault
    body = fetcher.stream(mirror.url + "file", start=1000)
    assert (body.start, body.total) == (0, SIZE)
    assert drain(body) == DATA


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_a_file_that_changed_meanwhile_or_shrank_starts_over(
    mirror: MirrorServer, fetcher: Fetcher, scheme: str
) -> None:
    url = mirror.url + "file" if scheme == "http" else (mirror.root / "file").as_uri()
    etag = fetcher.stream(url).etag
    (mirror.root / "file").write_bytes(b"a new file")
    for body in (fetcher.stream(url, start=5, etag=etag), fetcher.stream(url, start=1000)):
        assert body.start == 0 and drain(body) == b"a new file"


def test_redirects_are_followed_within_limits(mirror: MirrorServer, fetcher: Fetcher) -> None:
    mirror.faults["old"] = Fault(status=302, headers={"Location": "/file"})
    mirror.faults["older"] = Fault(status=308, headers={"Location": f"{mirror.url}old"})
    mirror.faults["loop"] = Fault(status=301, headers={"Location": "loop"})
    mirror.faults["out"] = Fault(status=301, headers={"Location": "file:///etc/passwd"})
    mirror.faults["mute"] = Fault(status=301)
    assert fetcher.get(mirror.url + "older", SIZE).body == DATA
    assert drain(fetcher.stream(mirror.url + "older", start=10)) == DATA[10:]
    for path, words in [("loop", "at most 5 redirects"), ("out", "a redirect to file:"), ("mute", "no Location")]:
        with pytest.raises(AccessRefused, match=words):
            fetcher.get(mirror.url + path, SIZE)


def test_a_password_goes_to_its_own_server_only_and_into_no_message(mirror: MirrorServer, fetcher: Fetcher) -> None:
    url = mirror.url.replace("//", "//me:s%40cret@")
    mirror.faults["away"] = Fault(status=302, headers={"Location": f"{mirror.url}file"})
    fetcher.get(url + "away", SIZE)
    assert [head.get("Authorization") for head in mirror.heads] == ["Basic bWU6c0BjcmV0", None]
    with pytest.raises(NotFound) as caught:
        fetcher.get(url + "nothing", SIZE)
    assert "cret" not in str(caught.value)


def test_an_encoded_body_is_refused(mirror: MirrorServer, fetcher: Fetcher) -> None:
    mirror.faults["file"] = Fault(headers={"Content-Encoding": "gzip"})
    with pytest.raises(AccessRefused, match="got it in encoding 'gzip'"):
        fetcher.stream(mirror.url + "file")
    assert mirror.heads[0]["Accept-Encoding"] == "identity"


def test_nobody_there_and_no_such_host_are_said_plainly(fetcher: Fetcher) -> None:
    port = quiet_port()
    with pytest.raises(Unreachable, match=rf"^http://127.0.0.1:{port}/x: expected an answer, got: Connection refused$"):
        fetcher.get(f"http://127.0.0.1:{port}/x", 10)
    with pytest.raises(Unreachable, match="host's name to resolve"):
        fetcher.get("http://nobody.invalid/x", 10)


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"", b"HTTP/1.1 two OK\r\n\r\n"])
def test_what_does_not_speak_http_is_unreachable(fetcher: Fetcher, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        with pytest.raises(Unreachable):
            fetcher.get(f"http://127.0.0.1:{listener.getsockname()[1]}/x", 10)
        thread.join(timeout=10)


def test_silence_ends_in_a_retryable_error() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Fetcher(timeout_s=0.05, retry_waits_s=()) as fetcher,
        pytest.raises(Unreachable, match="got none in time"),
    ):
        fetcher.get(f"http://127.0.0.1:{listener.getsockname()[1]}/x", 10)


def test_a_certificate_nobody_vouches_for_is_final(mirror: MirrorServer, fetcher: Fetcher, tmp_path: Path) -> None:
    context = self_signed(tmp_path)
    mirror.socket = context.wrap_socket(mirror.socket, server_side=True)
    with pytest.raises(AccessRefused, match="expected a certificate that verifies"):
        fetcher.get(mirror.url.replace("http:", "https:") + "file", SIZE)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with Fetcher(tls=trusting, proxies={}, retry_waits_s=()) as other:
        assert other.get(mirror.url.replace("http:", "https:") + "file", SIZE).body == DATA
        mirror.faults["down"] = Fault(status=302, headers={"Location": mirror.url + "file"})
        with pytest.raises(AccessRefused, match="expected to stay on https"):
            other.get(mirror.url.replace("http:", "https:") + "down", SIZE)


def self_signed(folder: Path) -> ssl.SSLContext:
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mirror")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("images.invalid")]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_a_proxy_is_asked_by_absolute_url_and_loopback_never_through_one(
    mirror: MirrorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = mirror.url.replace("//", "//user:pass@").rstrip("/")
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "inside.invalid")
    with Fetcher(retry_waits_s=()) as fetcher:
        assert fetcher.get("http://images.invalid:81/file", SIZE).body == DATA
        assert mirror.targets == ["http://images.invalid:81/file"]
        assert mirror.heads[0]["Proxy-Authorization"] == "Basic dXNlcjpwYXNz"
        assert mirror.heads[0]["Host"] == "images.invalid:81"
        assert fetcher.get(mirror.url + "file", SIZE).body == DATA
        assert mirror.targets[-1] == "/file"
        with pytest.raises(Unreachable, match="resolve"):
            fetcher.get("http://inside.invalid/file", SIZE)


def test_https_goes_through_a_proxy_by_connect(mirror: MirrorServer, tmp_path: Path) -> None:
    mirror.socket = self_signed(tmp_path).wrap_socket(mirror.socket, server_side=True)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    heads: list[bytes] = []

    def tunnel() -> None:
        client, _ = listener.accept()
        with client, socket.create_connection(mirror.server_address[:2]) as server:
            heads.append(client.recv(4096))
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=pump, args=(server, client), daemon=True)
            back.start()
            pump(client, server)
            back.join(timeout=10)

    def pump(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=tunnel, daemon=True)
        thread.start()
        proxy = f"user:pass@127.0.0.1:{listener.getsockname()[1]}"  # without a scheme, as people write it
        with Fetcher(tls=trusting, proxies={"https": proxy}, retry_waits_s=()) as fetcher:
            assert fetcher.get("https://images.invalid/file", SIZE).body == DATA
        thread.join(timeout=10)
    assert heads[0].startswith(b"CONNECT images.invalid:443 HTTP/1.")
    assert b"\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n" in heads[0]
    assert "Proxy-Authorization" not in mirror.heads[0]


def test_a_document_that_drips_is_given_up(
    mirror: MirrorServer, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "DOCUMENT_DEADLINE_S", -1.0)
    with pytest.raises(Unreachable, match=r"expected the document within -1 s, got \d+ bytes of it"):
        fetcher.get(mirror.url + "file", SIZE)


def test_a_head_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes long before the read's own timeout; all of them never do."""
    monkeypatch.setattr(fetch, "HEAD_DEADLINE_S", 0.2)
    closing = threading.Event()

    def drip(listener: socket.socket) -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as client:
            client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not closing.wait(0.01):
                client.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener, Fetcher(retry_waits_s=()) as fetcher:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        with pytest.raises(Unreachable, match="expected an answer, got none in time"):
            fetcher.get(f"http://127.0.0.1:{listener.getsockname()[1]}/x", 10)
        closing.set()
        thread.join()


def test_a_file_source_gives_regular_readable_files_only(tmp_path: Path, fetcher: Fetcher) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, error in [("nothing", NotFound), ("file/below", NotFound), ("fifo", AccessRefused), ("", AccessRefused)]:
        make_file(tmp_path, "file", 1)
        with pytest.raises(error):
            fetcher.get((tmp_path / name).as_uri(), 10)


def test_a_file_that_shrinks_while_it_is_read_is_truncated(tmp_path: Path, fetcher: Fetcher) -> None:
    file = make_file(tmp_path, "file", 1000)
    body = fetcher.stream(file.as_uri())
    os.truncate(file, 400)
    with pytest.raises(Truncated, match="expected 1000 bytes, got an end after 400 bytes"):
        drain(body)
