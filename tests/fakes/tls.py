"""An HTTPS rack of one reactor, its certificate, and a client that speaks TLS to it.

Certificates are made here and live as long as the test run; the client trusts exactly the one it is given.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import ipaddress
import socket
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from bootplane.core import blob as blobs
from bootplane.core.blob import Blob
from bootplane.core.reactor import Reactor
from bootplane.core.table import Table
from bootplane.core.tls import Tls
from tests.fakes.http_client import PATIENCE_S, Client, Rack


def write_pair(
    directory: Path,
    name: str = "rack",
    *,
    kind: str = "ec",
    days: tuple[float, float] = (-1, 2),
    names: tuple[str, ...] = ("127.0.0.1",),
) -> tuple[str, str]:
    """A self-signed certificate for the addresses *names* with its key: their paths. *days*: valid from and to."""
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    )
    if addresses := [x509.IPAddress(ipaddress.ip_address(address)) for address in names]:
        builder = builder.add_extension(x509.SubjectAlternativeName(addresses), False)
    certificate = builder.sign(key, hashes.SHA256())
    paths = directory / f"{name}.crt", directory / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(paths[0]), str(paths[1])


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bootplane-tls-")


def pair(kind: str = "ec") -> tuple[str, str]:
    """The same pair for every test that only needs one."""
    return _pair(kind)


@functools.cache  # by its one argument: with a default, pair() and pair("ec") would be two
def _pair(kind: str) -> tuple[str, str]:
    return write_pair(Path(_folder().name), f"any-{kind}", kind=kind)


def trusting(certificate: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificate)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)  # some builds of Python set it: no end is told then
    return context


@functools.cache  # it takes 30 ms to make
def _any_context() -> ssl.SSLContext:
    return trusting(pair()[0])


def is_cut(error: ssl.SSLError) -> bool:
    """An end without close_notify; before Python 3.11.4 it has no class of its own."""
    return isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING"


class TlsClient(Client):
    """One connection, its handshake done. ``raw`` is the socket under it."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None, receive_buffer: int = 0) -> None:
        super().__init__(port, receive_buffer)
        try:
            self.socket = (context or _any_context()).wrap_socket(
                self.socket,
                server_hostname="127.0.0.1",
                suppress_ragged_eofs=False,  # an end without close_notify is told
            )
        except BaseException:  # whatever it was goes on to the caller: only the socket is not left behind
            self.socket.close()
            raise

    def end(self) -> str:
        """As Client.end, and "cut" for an end without close_notify: TLS says that something may be missing."""
        try:
            return super().end()
        except ssl.SSLError as error:
            if not is_cut(error):
                raise
            return "cut"

    def rest(self) -> tuple[int, str]:
        n = len(self.buffer)
        self.buffer.clear()
        try:
            while data := self.socket.recv(1 << 20):
                n += len(data)
        except ssl.SSLError as error:
            if not is_cut(error):
                raise
            return n, "cut"
        except ConnectionResetError:
            return n, "reset"
        return n, "closed"


class TlsRack(Rack):
    """A rack whose ``port`` speaks TLS; plain HTTP is at ``plain_port``."""

    def __init__(self, names: Mapping[str, Blob] | None, *, tls: Mapping[str, Any], **options: Any) -> None:
        park_limit_s = options.pop("park_limit_s", 20.0)
        self.listeners = [socket.create_server(("127.0.0.1", 0), backlog=4096) for _ in range(2)]
        for listener in self.listeners:
            listener.setblocking(False)
        self.listener = self.listeners[0]
        self.plain_port: int = self.listeners[0].getsockname()[1]
        self.port = self.listeners[1].getsockname()[1]
        given = dict(tls)
        self.tls = given.pop("tls", None) or Tls(*pair())
        self.reactor = Reactor(
            http=[self.listeners[0].fileno()],
            https=[self.listeners[1].fileno()],
            http_options=options,
            https_options={"tls": self.tls, **given},
            park_limit_s=park_limit_s,
        )
        self.mails = []
        self.reactor.start()
        if names is not None:
            self.reactor.publish(Table(names, 1))

    def client(self, receive_buffer: int = 0) -> TlsClient:
        return TlsClient(self.port, receive_buffer=receive_buffer)

    def raw(self) -> Client:
        """A TCP connection to the HTTPS port, no byte said."""
        return Client(self.port)

    def stop(self) -> dict[str, int]:
        c = super().stop()
        self.listeners[1].close()
        assert c["tls_connections"] == c["tls_closed"], c
        failed = sum(value for name, value in c.items() if name.startswith("tls_failed"))
        assert c["tls_connections"] == c["tls_handshakes"] + failed + c["tls_refused"], c
        return c


@contextlib.contextmanager
def tls_rack(
    names: Mapping[str, Blob] | None, *, tls: Mapping[str, Any] | None = None, **options: Any
) -> Iterator[TlsRack]:
    """A rack that serves *names* by HTTPS, with options of http_options_t and, in *tls*, of tls_options_t. On leaving,
    nothing may be left behind."""
    held = {name: blob.references for name, blob in (names or {}).items()}
    it = TlsRack(names, tls=tls or {}, **options)
    try:
        yield it
    finally:
        it.stop()
        del it.reactor
    blobs.reap()
    for name, blob in (names or {}).items():
        assert blob.references == held[name], f"{name}: {blob.references - held[name]} references were not given back"


__all__ = ["PATIENCE_S", "Client", "Self", "TlsClient", "TlsRack", "pair", "tls_rack", "trusting", "write_pair"]
