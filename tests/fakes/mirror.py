"""A boot source for tests: a small one published like images.maas.io, and a server that counts and can misbehave.

``publish_small`` lays out all three kinds of product in seconds. ``MirrorServer`` serves a folder over HTTP/1.1 on
loopback with ranges and validators as a good mirror does; ``faults`` maps a path to what goes wrong there.
"""

from __future__ import annotations

import hashlib
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from bootplane.control.mirror_publish import (
    Published,
    PublishProduct,
    Signer,
    bootloader,
    centos,
    image,
    pack,
    publish,
)

UBUNTU_LIST = "streams/v1/com.ubuntu.maas:stable:v3:download"
LOADER_LIST = "streams/v1/com.ubuntu.maas:stable:1:bootloader-download"
ARCHES = ("amd64", "arm64", "armhf", "ppc64el", "s390x")
CENTOS_LIST = "streams/v1/com.ubuntu.maas:stable:centos-bases-download"


def content(name: str, size: int) -> bytes:
    """*size* bytes that only *name* determines."""
    return hashlib.shake_128(name.encode()).digest(size)


def make_file(folder: Path, name: str, size: int) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content(name, size))
    return path


def small_products(inputs: Path, serial: str = "20250709", root_bytes: int = 200_000) -> list[PublishProduct]:
    """noble ga and hwe for amd64 (one squashfs for both) and arm64, four boot loaders, CentOS 8: about 1 MB."""
    products = []
    for arch in ("amd64", "arm64"):
        squashfs = make_file(inputs, f"{arch}-{serial}-squashfs", root_bytes)
        manifest = inputs / f"{arch}-{serial}-squashfs.manifest"
        manifest.write_text("adduser\t3.137ubuntu1\nbase-files\t13ubuntu10\n")
        for subarch in ("ga-24.04", "hwe-24.04"):
            products.append(
                image(
                    serial=serial,
                    arch=arch,
                    subarch=subarch,
                    kernel=make_file(inputs, f"{arch}-{subarch}-{serial}-kernel", 30_000),
                    initrd=make_file(inputs, f"{arch}-{subarch}-{serial}-initrd", 70_000),
                    squashfs=squashfs,
                    manifest=manifest,
                )
            )
    return (
        products
        + small_loaders(inputs)
        + [centos(serial="20211104_01", root_tgz=make_file(inputs, "root-tgz", 90_000))]
    )


def small_loaders(inputs: Path, serial: str = "20231004.0") -> list[PublishProduct]:
    def archive(package: str, *names: str) -> Path:
        files = {name: make_file(inputs, f"{package}-{name}", 5_000) for name in names}
        return pack(files, inputs / f"{package}.tar.xz")

    shim = archive("shim-signed", "bootx64.efi", "mmx64.efi")
    grub = archive("grub2-signed", "grubx64.efi")
    arm = archive("grub2", "bootaa64.efi", "grubaa64.efi")
    pxe = archive("syslinux", "lpxelinux.0", "pxelinux.0", "ldlinux.c32", "libutil.c32", "libcom32.c32", "chain.c32")
    return [
        bootloader(
            os="grub-efi-signed",
            kind="uefi",
            arch="amd64",
            serial=serial,
            archives={"shim-signed": shim, "grub2-signed": grub},
        ),
        bootloader(os="grub-efi", kind="uefi", arch="arm64", serial=serial, archives={"grub2": arm}),
        bootloader(
            os="pxelinux", kind="pxe", arch="i386", serial=serial, archives={"syslinux": pxe}, arches="amd64, i386"
        ),
        bootloader(os="pxelinux", kind="pxe", arch="amd64", serial=serial, archives={"syslinux": pxe}),
    ]


def publish_small(
    root: Path, signer: Signer | None, *, serial: str = "20250709", updated: datetime | None = None
) -> Published:
    """The small boot source under *root*; its input files stand beside it."""
    inputs = root.with_name(root.name + ".inputs")
    return publish(root, small_products(inputs, serial), signer, updated=updated)


@dataclass
class Fault:
    """What goes wrong at one path, *times* times (None: always)."""

    status: int = 0  # answer this instead
    body: bytes | None = None  # send this instead of the file
    headers: dict[str, str] = field(default_factory=dict)  # added, or replacing
    cut_after: int | None = None  # bytes of the body after which the connection is closed
    ignore_range: bool = False
    no_validators: bool = False
    times: int | None = None
    is_endless: bool = False  # a chunked body that never ends
    drip_s: float = 0.0  # between two bytes of the body
    is_reset: bool = False  # the connection is reset before any answer
    first: Callable[[], object] | None = None  # done before this answer: the mirror changes just now


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: MirrorServer

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.server.note(path, self)
        fault = self.server.fault_at(path)
        file = self.server.root / path
        if fault.first is not None:
            fault.first()
        if fault.is_reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return None
        if fault.is_endless:
            return self._send_for_ever(path)
        if fault.status or fault.body is not None:
            return self._send(fault.status or 200, fault.body or b"", fault, {})
        if not file.is_file():
            return self._send(404, b"no such file\n", fault, {"Content-Type": "text/plain"})
        data = file.read_bytes()
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        headers = {} if fault.no_validators else {"ETag": etag}
        if self.headers.get("If-None-Match") == etag and not fault.no_validators:
            return self._send(304, b"", fault, headers)
        span = self.headers.get("Range", "")
        if span and not fault.ignore_range and self.headers.get("If-Range", etag) == etag:
            start = int(span.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                return self._send(416, b"", fault, {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self._send(206, data[start:], fault, headers)
        return self._send(200, data, fault, headers)

    def _send(self, status: int, body: bytes, fault: Fault, headers: dict[str, str]) -> None:
        self.send_response(status)
        if status != 304:
            headers = {"Content-Length": str(len(body)), **headers}
        for name, value in {**headers, **fault.headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if fault.cut_after is not None:
            body = body[: fault.cut_after]
            self.close_connection = True
        if status != 304:
            with self.server.lock:  # before the write: whoever has the last byte may look at the sum at once
                self.server.sent[unquote(urlsplit(self.path).path).lstrip("/")] += len(body)
            if fault.drip_s:
                for at in range(len(body)):
                    self.wfile.write(body[at : at + 1])
                    if self.server.closing.wait(fault.drip_s):
                        return
                return
            self.wfile.write(body)

    def _send_for_ever(self, path: str) -> None:
        """A body of chunks until the client has had enough."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        piece = b"[" * (64 << 10)
        while not self.server.closing.is_set():
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            with self.server.lock:
                self.server.sent[path] += len(piece)

    def log_message(self, *args: object) -> None:
        pass


class MirrorServer(ThreadingHTTPServer):
    """``requests`` lists every path asked for, ``sent`` adds up body bytes by path, ``connections`` counts clients."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.requests: list[str] = []
        self.heads: list[dict[str, str]] = []
        self.targets: list[str] = []
        self.sent: Counter[str] = Counter()
        self.connections = 0
        self.faults: dict[str, Fault | list[Fault]] = {}  # a list: one for each request, then none
        self.closing = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def get_request(self):  # type: ignore[no-untyped-def]
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in the middle is what some tests are about; anything else is news."""
        if not isinstance(sys.exc_info()[1], OSError):  # ssl.SSLError is one too
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def note(self, path: str, handler: BaseHTTPRequestHandler) -> None:
        with self.lock:
            self.requests.append(path)
            self.targets.append(handler.path)
            self.heads.append(dict(handler.headers))

    def fault_at(self, path: str) -> Fault:
        with self.lock:
            fault = self.faults.get(path)
            if isinstance(fault, list):
                return fault.pop(0) if fault else Fault()
            if fault is None or fault.times == 0:
                return Fault()
            if fault.times is not None:
                fault.times -= 1
            return fault


@contextmanager
def serve(root: Path) -> Iterator[MirrorServer]:
    """A MirrorServer for the block, on a thread."""
    with MirrorServer(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def item_urls(base: str, paths: Iterable[str]) -> list[str]:
    return [base + quote(path, safe="/:") for path in paths]


def revoke(signer: Signer) -> None:
    """Revoke the key with the certificate gpg made at its birth."""
    certificate = signer.home / "openpgp-revocs.d" / f"{signer.fingerprint}.rev"
    text = certificate.read_text().replace("\n:-----BEGIN", "\n-----BEGIN")  # gpg guards it with a colon
    signer.gpg("--import", stdin=text.encode())


def many_products(
    inputs: Path, products: int = 200, serials: Sequence[str] = ("20250709", "20250812")
) -> Iterator[PublishProduct]:
    """*products* images in two serials each, as a whole stream has them: five architectures, a ga and a hwe kernel for
    each release, which share the squashfs; every fourth hwe kernel is the ga kernel's bytes under its own path, and
    every fifth release has the same kernels in both serials."""
    for serial in serials:
        for number in range(products):
            release, arch, is_hwe = f"r{number // 10:03}", ARCHES[number % 10 // 2], number % 2 == 1
            kernel = f"{release}-{arch}" + ("-hwe" if is_hwe and number % 8 != 1 else "")
            if number // 10 % 5:
                kernel += f"-{serial}"
            yield image(
                serial=serial,
                release=release,
                version=f"{number // 10}.04",
                title=f"{number // 10}.04 LTS",
                codename=f"Release {release}",
                arch=arch,
                subarch=f"{'hwe' if is_hwe else 'ga'}-{number // 10}.04",
                kernel=_once(inputs, f"kernel-{kernel}", 12_000),
                initrd=_once(inputs, f"initrd-{kernel}", 40_000),
                squashfs=_once(inputs, f"squashfs-{release}-{arch}-{serial}", 120_000),
                manifest=_once(inputs, f"manifest-{release}-{arch}", 2_000),
            )


def _once(folder: Path, name: str, size: int) -> Path:
    path = folder / name
    return path if path.exists() else make_file(folder, name, size)
