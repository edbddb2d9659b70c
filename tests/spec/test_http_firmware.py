"""What real boot firmware sends by HTTP, byte for byte as it was seen, and what it must get to boot.

OVMF, shim, GRUB, iPXE, lpxelinux and busybox wget read responses by simple means: they compare header names with case,
know no chunks and follow no redirect. One table of conversations; each is sent as that firmware sends it.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from tests.fakes.http_client import Rack, cold, rack

KERNEL = os.urandom(300_000)
GRUB = os.urandom(50_000)
NAMES = {
    "shimx64.efi": Blob.memory(os.urandom(1000), dynamic=False),
    "grubx64.efi": Blob.memory(GRUB, dynamic=False),
    "images/0123456789abcdef/kernel": Blob.memory(KERNEL, dynamic=False),
}

OVMF = "Host: 10.77.0.1:5248\r\nAccept: */*\r\nUser-Agent: UefiHttpBoot/1.0\r\n\r\n"
SYSLINUX_COOKIE = (
    "_Syslinux_ip=10.77.0.101:10.77.0.1:10.77.0.1:255.255.255.0; _Syslinux_BOOTIF=01-52-54-00-12-34-56; "
    "_Syslinux_SYSUUID=7f5c5a3e-0000-4000-8000-525400123456; _Syslinux_CPU=6; _Syslinux_SYSVENDOR=QEMU; "
    "_Syslinux_SYSPRODUCT=Standard%20PC%20(i440FX%20%2B%20PIIX%2C%201996); _Syslinux_SYSVERSION=pc-i440fx-7.2"
)


@pytest.fixture
def served() -> Iterator[Rack]:
    with rack(NAMES) as it:
        yield it


def test_ovmf_asks_for_the_size_first_and_reads_on_the_same_connection(served: Rack) -> None:
    with served.client() as client:
        head = client.send(f"HEAD /shimx64.efi HTTP/1.1\r\n{OVMF}".encode()).response("HEAD")
        assert (head.status, head.headers["Content-Length"]) == (200, "1000")
        body = client.send(f"GET /shimx64.efi HTTP/1.1\r\n{OVMF}".encode()).response()
        assert len(body.body) == 1000
        assert body.headers == head.headers
        assert "Connection" not in body.headers, "UEFI goes on with the connection"


def test_shim_asks_with_two_slashes_and_lives_with_what_is_missing(served: Rack) -> None:
    for name in ("revocations_sku.efi", "revocations_sbat.efi", "shim_certificate_0.efi"):
        with served.client() as client:
            assert client.send(f"GET /{name} HTTP/1.1\r\n{OVMF}".encode()).response().status == 404
    with served.client() as client:
        assert client.send(f"GET //grubx64.efi HTTP/1.1\r\n{OVMF}".encode()).response().body == GRUB


@pytest.mark.parametrize("target", ["//grubx64.efi", "/./grubx64.efi", "/.//./grubx64.efi", "///grubx64.efi?x=y"])
def test_slashes_and_dots_too_many_are_no_other_file_and_no_redirect(served: Rack, target: str) -> None:
    assert served.get(target).body == GRUB


def test_grub_finds_the_names_it_compares_with_case(served: Rack) -> None:
    request = "GET /images/0123456789abcdef/kernel HTTP/1.1\r\nHost: 10.77.0.1\r\nUser-Agent: GRUB 2.06-13\r\n\r\n"
    with served.client() as client:
        response = client.send(request.encode()).response()
        assert response.body == KERNEL
        assert f"\r\nContent-Length: {len(KERNEL)}\r\n".encode() in response.head
        assert b"Transfer-Encoding" not in response.head


def test_grub_resumes_at_an_offset(served: Rack) -> None:
    request = (
        "GET /images/0123456789abcdef/kernel HTTP/1.1\r\nHost: 10.77.0.1\r\nUser-Agent: GRUB 2.06-13\r\n"
        "Range: bytes=123456-\r\n\r\n"
    )
    with served.client() as client:
        response = client.send(request.encode()).response()
        assert (response.status, response.body) == (206, KERNEL[123456:])


@pytest.mark.parametrize(("version", "status"), [("1.1", 404), ("1.1", 400), ("1.1", 503), ("1.0", 404)])
def test_grub_never_takes_a_refusal_for_a_file(tmp_path: pathlib.Path, version: str, status: int) -> None:
    """GRUB 2.06 forgets the status: the text of a 404 was its configuration, that of a 503 the initrd it booted with.

    A head that promises a byte, and a reset in its place, was an error to `linux`, `initrd` and `source`, at once. An
    end of the connection in its place was one after 34 s; an empty body, or none, was an empty initrd.
    """
    target = {404: "/nobody", 400: "/%zz", 503: "/cold"}[status]
    cache = Cache(str(tmp_path / "cache"), 8 << 20)
    cold_file = cold(cache, os.urandom(1000))
    with rack({**NAMES, "cold": cold_file}, park_limit_s=0.05) as served, served.client() as client:
        request = f"GET {target} HTTP/{version}\r\nHost: 10.77.0.1\r\nUser-Agent: GRUB 2.06-13+deb12u2\r\n\r\n"
        head = client.send(request.encode()).head()
        assert (head.status, head.headers["Content-Length"]) == (status, "1")
        assert client.end() == "reset"
    cache.close()


def test_others_are_told_in_words_and_keep_their_connection(served: Rack) -> None:
    with served.client() as client:
        for agent in ("iPXE/1.21.1", "UefiHttpBoot/1.0", "NotGRUB/2"):
            refused = client.get("/nobody", f"User-Agent: {agent}")
            assert (refused.status, refused.body) == (404, b"404 Not Found: nobody: no file has this name\n")


def test_ipxe_reads_all_its_files_over_one_connection(served: Rack) -> None:
    with served.client() as client:
        for name, data in (("grubx64.efi", GRUB), ("images/0123456789abcdef/kernel", KERNEL), ("grubx64.efi", GRUB)):
            lines = "Connection: keep-alive\r\nUser-Agent: iPXE/1.21.1\r\nHost: 10.77.0.1:5248\r\n\r\n"
            response = client.send(f"GET /{name} HTTP/1.1\r\n{lines}".encode()).response()
            assert response.body == data
            assert "Connection" not in response.headers


def test_lpxelinux_speaks_http_1_0_with_a_long_cookie(served: Rack) -> None:
    request = (
        "GET /images/0123456789abcdef/kernel HTTP/1.0\r\nHost: 10.77.0.1:5248\r\nUser-Agent: Syslinux/6.04\r\n"
        f"Connection: close\r\nCookie: {SYSLINUX_COOKIE}\r\n\r\n"
    )
    with served.client() as client:
        response = client.send(request.encode()).response()
        assert response.body == KERNEL
        assert response.headers["Connection"] == "close"
        assert client.end() == "closed"


def test_live_boot_reads_to_the_end_of_the_connection(served: Rack) -> None:
    request = (
        "GET /images/0123456789abcdef/kernel HTTP/1.1\r\nHost: 10.77.0.1:5248\r\nUser-Agent: Wget\r\n"
        "Connection: close\r\n\r\n"
    )
    with served.client() as client:
        client.send(request.encode())
        client.head()
        assert client.rest() == (len(KERNEL), "closed")


def test_header_names_are_title_case_and_no_value_is_empty(served: Rack) -> None:
    responses = [
        served.get("/grubx64.efi"),
        served.get("/grubx64.efi", "Range: bytes=0-1"),
        served.get("/grubx64.efi", "Range: bytes=99999999-"),
        served.get("/nobody"),
        served.get("/grubx64.efi", "If-None-Match: *"),
        served.get("/grubx64.efi", version="1.0"),
    ]
    for response in responses:
        for name, value in response.headers.items():
            assert all(word[0].isupper() for word in name.split("-")), name
            assert value
            assert value == value.strip()
        assert not 300 <= response.status < 304


def test_a_configuration_made_for_one_machine_is_asked_for_and_served_as_text(served: Rack) -> None:
    with served.client() as client:
        client.send(b"GET /grub/grub.cfg-52:54:00:12:34:56 HTTP/1.1\r\nHost: 10.77.0.1\r\n\r\n")
        kind, request, protocol, name, peer, local = served.mail("ask")
        assert (kind, protocol, name) == ("ask", "http", "grub/grub.cfg-52:54:00:12:34:56")
        assert peer == client.socket.getsockname()
        assert local == ("127.0.0.1", served.port)
        served.reactor.answer(request, Blob.memory(b"set timeout=5\n"))
        response = client.response()
        assert (response.body, response.headers["Content-Type"]) == (b"set timeout=5\n", "text/plain")
        assert client.get("/grubx64.efi").body == GRUB
