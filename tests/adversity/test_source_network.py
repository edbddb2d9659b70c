"""Sources behind a company's CA and proxy, through the command line."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.control.simplestreams.signer import Signer
from tests.fakes.mirror import Fault, MirrorServer, serve
from tests.fakes.operator import INDEX, Operator, operator
from tests.fakes.tls import write_pair

pytestmark = pytest.mark.integration
GA = "ubuntu/noble/amd64/ga-24.04"


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    with Signer.generate(tmp_path_factory.mktemp("key"), algorithm="ed25519") as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    with operator(tmp_path, signer, monkeypatch) as made:
        yield made


def over_tls(server: MirrorServer, folder: Path) -> tuple[str, str]:
    """The server speaks TLS from now on; its https URL and its certificate's file."""
    certificate, key = write_pair(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server.url.replace("http:", "https:"), certificate


def test_a_ca_nobody_knows_is_refused_and_taken_when_it_is_given(site: Operator, tmp_path: Path) -> None:
    url, certificate = over_tls(site.mirror, tmp_path)
    keyring = site.keyring()
    assert "expected a certificate that verifies, got: " in site.refused("source", "add", url, "--keyring", keyring)
    assert site.json("source", "list")["items"] == []
    added = site.json("source", "add", url, "--keyring", keyring, "--ca", certificate, "--name", "mirror")
    assert added["own_ca"] is True
    site.json("select", "add", "ubuntu", "noble", "--arch", "amd64")
    site.sync()
    assert site.state().images[GA] == str(site.serial)

    # what is trusted now does not help what is to be trusted from now on
    (tmp_path / "new").mkdir()
    new, _ = write_pair(tmp_path / "new")
    for ca in ("none", new):
        assert "expected a certificate that verifies" in site.refused("source", "set", "mirror", "--ca", ca)
    assert site.json("source", "list")["items"][0]["own_ca"] is True
    site.sync()

    # from https nothing leads back to http
    with serve(site.mirror.root) as plain:
        site.publish()
        site.mirror.faults[INDEX] = Fault(status=302, headers={"Location": f"{plain.url}{INDEX}"})
        assert "expected to stay on https, got a redirect to http" in site.refused("source", "check", "mirror")
        assert plain.requests == []

    # a CA vouches for its own source's host and port alone
    (tmp_path / "other").mkdir()
    with serve(site.mirror.root) as other:
        other_url, _ = over_tls(other, tmp_path / "other")
        assert "expected a certificate that verifies" in site.refused("source", "add", other_url, "--keyring", keyring)


def test_what_is_no_ca_is_refused_in_one_sentence(site: Operator, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    for content, words in (
        (b"hello", "expected certificates in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "expected certificates in PEM"),
    ):
        path.write_bytes(content)
        said = site.refused("source", "add", site.mirror.url, "--keyring", site.keyring(), "--ca", str(path))
        assert words in said
    assert "cannot be read" in site.refused("source", "add", site.mirror.url, "--unsigned", "--ca", "/nowhere")


def test_a_proxy_carries_a_whole_sync_and_its_password_is_shown_to_nobody(
    tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "proxied").mkdir()
    with serve(tmp_path / "proxied") as proxy:
        given = proxy.url.replace("http://", "http://me:s3cret@").rstrip("/")
        with operator(tmp_path / "site", signer, monkeypatch, proxy=given, no_proxy="inside.invalid") as site:
            proxy.root = site.mirror.root
            url = "http://images.invalid/"
            site.json("source", "add", url, "--keyring", site.keyring(), "--name", "far")
            site.json("select", "add", "ubuntu", "noble", "--arch", "amd64")
            site.sync()
            assert site.state().images[GA] == str(site.serial)
            assert all(target.startswith(url) for target in proxy.targets) and site.mirror.requests == []
            assert {head["Proxy-Authorization"] for head in proxy.heads} == {"Basic bWU6czNjcmV0"}
            said = site.refused("source", "add", "http://inside.invalid/", "--keyring", site.keyring())
            assert "expected the host's name to resolve" in said

            proxy.faults[INDEX] = Fault(status=407)
            said = site.refused("source", "check", "far")
            assert "expected the file, got 407" in said
            everything = said + caplog.text + site.run("source", "list").stdout + site.run("status").stdout
            assert "s3cret" not in everything
