"""A certificate with its key: what is taken, what is refused in one sentence, and what becomes of open connections."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from bootplane.core import tls
from bootplane.core.blob import Blob
from bootplane.core.reactor import Reactor
from bootplane.core.tls import Tls, TlsError
from tests.fakes.tls import TlsClient, pair, tls_rack, trusting, write_pair


def test_the_library_is_the_systems_and_not_linked() -> None:
    Tls(*pair())
    assert tls.library() in tls.LIBSSL


def test_a_host_without_libssl_is_told_in_one_sentence() -> None:
    code = (
        "from bootplane.core import tls\n"
        "try: tls._load(('libnothing.so.3', 'libc.so.6'))\n"  # not there; there, and without the functions
        "except tls.TlsError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "HTTPS: expected OpenSSL's library (libnothing.so.3 or libc.so.6) on this host, got none\n"


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    certificate, _ = write_pair(tmp_path, "one")
    for kind in ("ec", "rsa"):
        _, key = write_pair(tmp_path, "two", kind=kind)
        with pytest.raises(TlsError, match=rf"^{key}: expected the key of {certificate} in PEM, .* got "):
            Tls(certificate, key)


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path)
    plain = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    Path(key).write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(TlsError, match="without a passphrase"):
        Tls(certificate, key)


def test_a_file_that_is_no_certificate_or_not_there_is_named(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path)
    with pytest.raises(
        TlsError, match=rf"^{key}: expected a certificate in PEM, its chain behind it, got no start line"
    ):
        Tls(key, key)
    missing = str(tmp_path / "missing")
    with pytest.raises(TlsError, match=rf"^{missing}: expected a readable file, got No such file or directory$"):
        Tls(certificate, missing)


def test_a_reload_is_for_those_who_come_and_leaves_the_others_alone(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path)
    mine = Tls(certificate, key)
    with tls_rack({"small": Blob.memory(b"small", dynamic=False)}, tls={"tls": mine}) as it:
        before = TlsClient(it.port, trusting(certificate))
        old = Path(certificate).read_bytes()
        write_pair(tmp_path)
        mine.reload()
        with TlsClient(it.port, trusting(certificate)) as after:  # trusts the new one alone
            assert after.get("/small").body == b"small"
        assert Path(certificate).read_bytes() != old
        assert before.get("/small").body == b"small"
        before.socket.close()


def test_a_broken_pair_changes_nothing(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path)
    context = trusting(certificate)
    mine = Tls(certificate, key)
    with tls_rack({"small": Blob.memory(b"small", dynamic=False)}, tls={"tls": mine}) as it:
        for text in (b"", b"-----BEGIN PRIVATE KEY-----\nrotten\n-----END PRIVATE KEY-----\n"):
            Path(key).write_bytes(text)
            with pytest.raises(TlsError):
                mine.reload()
            with TlsClient(it.port, context) as client:
                assert client.get("/small").body == b"small"


@pytest.mark.skipif("BOOTPLANE_SANITIZED_PYTHON" in os.environ, reason="a sanitizer keeps what was freed")
def test_a_thousand_reloads_leave_nothing_behind(tmp_path: Path) -> None:
    mine = Tls(*pair())
    broken = Tls(*write_pair(tmp_path))
    Path(broken.key).write_bytes(b"")

    def grown(times: int) -> int:
        for _ in range(times):
            mine.reload()
            with pytest.raises(TlsError):
                broken.reload()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    first = grown(200)
    assert grown(1000) - first < 4 << 20


def test_https_without_http_or_without_a_certificate_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected an HTTP service beside it"):
        Reactor(https=[0], https_options={"tls": Tls(*pair())})
    with tls_rack(None) as it, pytest.raises(ValueError, match="expected a Tls as tls, got NoneType"):
        Reactor(http=[it.listener.fileno()], https=[0])


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken_with_both_kinds_of_keys(kind: str, version: ssl.TLSVersion) -> None:
    context = trusting(pair(kind)[0])
    context.minimum_version = context.maximum_version = version
    mine = Tls(*pair(kind))
    names = {"small": Blob.memory(b"small", dynamic=False)}
    with tls_rack(names, tls={"tls": mine}) as it, TlsClient(it.port, context) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.version() == version.name.replace("_", ".")
        assert client.socket.compression() is None
        assert client.get("/small").body == b"small"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tls_1_1_is_refused() -> None:
    context = trusting(pair()[0])
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with tls_rack({}) as it:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            TlsClient(it.port, context)
        it.wait_for("tls_failed_protocol", 1)


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None), ([], None)]
)
def test_http_1_1_is_agreed_on_when_it_is_offered(offered: list[str], chosen: str | None) -> None:
    context = trusting(pair()[0])
    if offered:
        context.set_alpn_protocols(offered)
    with tls_rack({"small": Blob.memory(b"small", dynamic=False)}) as it, TlsClient(it.port, context) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.selected_alpn_protocol() == chosen
        assert client.get("/small").body == b"small"


def test_no_session_is_resumed() -> None:
    context = trusting(pair()[0])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with tls_rack({}) as it, TlsClient(it.port, context) as first:
        assert isinstance(first.socket, ssl.SSLSocket)
        session = first.socket.session
        assert session is None or not session.has_ticket
