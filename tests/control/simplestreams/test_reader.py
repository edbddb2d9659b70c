"""Reading a whole source: the order of attempts, who may sign, what nothing new costs, and every way to be refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bootplane.control.domain.images import BootSource
from bootplane.control.mirror_publish import Signer, publish
from bootplane.control.simplestreams.errors import (
    BadSignature,
    DocumentRefused,
    MissingSignature,
    NotAKeyring,
    NotFound,
    SourceError,
    UnknownKey,
)
from bootplane.control.simplestreams.fetch import Fetcher
from bootplane.control.simplestreams.reader import SourceReading, read_source
from tests.fakes.mirror import (
    CENTOS_LIST,
    LOADER_LIST,
    UBUNTU_LIST,
    Fault,
    MirrorServer,
    publish_small,
    serve,
    small_loaders,
)

INDEX = "streams/v1/index"
UPDATED = datetime(2025, 7, 24, 8, 0, 0, tzinfo=UTC)
PRODUCTS = 9


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Signer, Signer]]:
    home = tmp_path_factory.mktemp("signers")
    with (
        Signer.generate(home / "good", algorithm="ed25519") as good,
        Signer.generate(home / "other", algorithm="ed25519") as other,
    ):
        yield good, other


@pytest.fixture
def signer(signers: tuple[Signer, Signer]) -> Signer:
    return signers[0]


@pytest.fixture
def mirror(tmp_path: Path, signer: Signer) -> Iterator[MirrorServer]:
    publish_small(tmp_path / "m", signer, updated=UPDATED)
    with serve(tmp_path / "m") as server:
        yield server


def read(
    server: MirrorServer, signer: Signer | None, previous: SourceReading | None = None, path: str = ""
) -> SourceReading:
    source = BootSource(
        "1", "s", server.url + path, keyring=signer.public() if signer else None, unsigned=signer is None
    )
    with Fetcher(proxies={}, retry_waits_s=()) as fetcher:
        return read_source(source, fetcher, previous)


def refusal(server: MirrorServer, signer: Signer | None, path: str = "") -> SourceError:
    with pytest.raises(SourceError) as caught:
        read(server, signer, path=path)
    assert str(caught.value).startswith(server.url) and str(caught.value).isprintable()
    return caught.value


def test_a_source_is_read_with_one_request_for_each_clear_signed_document(mirror: MirrorServer, signer: Signer) -> None:
    reading = read(mirror, signer)
    assert len(reading.products) == PRODUCTS and len(reading.lists) == 3
    assert sorted(mirror.requests) == sorted(f"{name}.sjson" for name in (INDEX, UBUNTU_LIST, LOADER_LIST, CENTOS_LIST))
    assert mirror.requests[0] == f"{INDEX}.sjson" and mirror.connections == 1


def test_without_a_clear_signed_index_the_detached_signatures_are_used(mirror: MirrorServer, signer: Signer) -> None:
    (mirror.root / f"{INDEX}.sjson").unlink()
    reading = read(mirror, signer)
    assert len(reading.products) == PRODUCTS and reading.index_url == f"{mirror.url}{INDEX}.json"
    assert not [path for path in mirror.requests[1:] if path.endswith(".sjson")]
    assert sum(path.endswith(".gpg") for path in mirror.requests) == 4


def test_a_missing_detached_signature_is_never_taken_for_unsigned(mirror: MirrorServer, signer: Signer) -> None:
    (mirror.root / f"{INDEX}.sjson").unlink()
    (mirror.root / f"{INDEX}.json.gpg").unlink()
    error = refusal(mirror, signer)
    assert isinstance(error, MissingSignature)
    assert str(error) == (
        f"{mirror.url}{INDEX}.json: expected a signature beside it ({mirror.url}{INDEX}.json.gpg), got 404"
    )
    assert isinstance(refusal(mirror, signer, f"{INDEX}.json"), MissingSignature)  # whatever the URL ends in


def test_an_unsigned_source_is_read_only_when_it_says_so(tmp_path: Path) -> None:
    publish_small(tmp_path / "m", None)
    with serve(tmp_path / "m") as server:
        reading = read(server, None)
        assert (len(reading.products), reading.signers, reading.keyring) == (PRODUCTS, (), None)
        with pytest.raises(NotAKeyring, match="expected a keyring or an explicit 'unsigned', got neither"):
            read_source(BootSource("1", "s", server.url), Fetcher())


def test_a_signed_source_may_be_read_as_unsigned_in_either_form(mirror: MirrorServer) -> None:
    assert len(read(mirror, None).products) == PRODUCTS
    for path in mirror.root.glob("streams/v1/*.json*"):
        path.unlink()
    assert len(read(mirror, None).products) == PRODUCTS


def test_a_reading_remembers_who_signed(mirror: MirrorServer, signer: Signer) -> None:
    (found,) = read(mirror, signer).signers
    assert found.fingerprint == signer.fingerprint


def test_another_key_is_refused_and_both_are_named(mirror: MirrorServer, signers: tuple[Signer, Signer]) -> None:
    good, other = signers
    error = refusal(mirror, other)
    assert isinstance(error, UnknownKey)
    assert good.fingerprint in str(error) and other.fingerprint in str(error)


def test_one_list_signed_by_another_key_refuses_the_source(
    mirror: MirrorServer, signers: tuple[Signer, Signer]
) -> None:
    plain = (mirror.root / f"{UBUNTU_LIST}.json").read_bytes()
    (mirror.root / f"{UBUNTU_LIST}.sjson").write_bytes(signers[1].clearsign(plain))
    assert isinstance(refusal(mirror, signers[0]), UnknownKey)


def test_a_list_swapped_for_another_validly_signed_one_is_refused(mirror: MirrorServer, signer: Signer) -> None:
    (mirror.root / f"{UBUNTU_LIST}.sjson").write_bytes((mirror.root / f"{CENTOS_LIST}.sjson").read_bytes())
    error = refusal(mirror, signer)
    assert isinstance(error, DocumentRefused)
    assert "expected the content_id 'com.ubuntu.maas:stable:v3:download' of its index entry" in str(error)


def test_html_instead_of_json_is_said_in_one_sentence(mirror: MirrorServer, signer: Signer) -> None:
    page = Fault(body=b"<!DOCTYPE html><html><title>Sign in</title></html>", headers={"Content-Type": "text/html"})
    mirror.faults[f"{INDEX}.sjson"] = page
    assert str(refusal(mirror, signer)) == f"{mirror.url}{INDEX}.sjson: expected a JSON index, got HTML ('Sign in')"
    mirror.faults = {f"{UBUNTU_LIST}.sjson": page}
    assert str(refusal(mirror, signer)) == (
        f"{mirror.url}{UBUNTU_LIST}.sjson: expected a JSON product list, got HTML ('Sign in')"
    )


def test_a_tampered_index_is_refused(mirror: MirrorServer, signer: Signer) -> None:
    index = mirror.root / f"{INDEX}.sjson"
    index.write_bytes(index.read_bytes().replace(b"image-ids", b"image-idz"))
    assert isinstance(refusal(mirror, signer), BadSignature)


def test_plain_json_under_a_clear_signed_name_is_refused(mirror: MirrorServer, signer: Signer) -> None:
    (mirror.root / f"{INDEX}.sjson").write_bytes((mirror.root / f"{INDEX}.json").read_bytes())
    assert isinstance(refusal(mirror, signer), MissingSignature)


def test_no_index_names_every_url_that_was_tried(mirror: MirrorServer, signer: Signer) -> None:
    error = refusal(mirror, signer, "nothing/")
    assert isinstance(error, NotFound)
    base = f"{mirror.url}nothing/{INDEX}"
    assert str(error) == f"{base}.sjson: expected a boot source's index, got 404 (nor at {base}.json)"


def test_a_list_the_index_names_and_the_server_lacks_refuses_the_source(mirror: MirrorServer, signer: Signer) -> None:
    (mirror.root / f"{CENTOS_LIST}.sjson").unlink()
    assert "expected the product list that the index names, got 404" in str(refusal(mirror, signer))


def test_daily_is_read_as_stable_and_as_itself_where_there_is_no_stable(tmp_path: Path, signer: Signer) -> None:
    publish_small(tmp_path / "m" / "a" / "stable", signer)
    publish_small(tmp_path / "m" / "b" / "daily", signer)
    with serve(tmp_path / "m") as server:
        assert read(server, signer, path="a/daily/").base == f"{server.url}a/stable/"
        assert read(server, signer, path="b/daily").base == f"{server.url}b/daily/"


def test_nothing_new_costs_one_request(mirror: MirrorServer, signer: Signer) -> None:
    first = read(mirror, signer)
    mirror.requests.clear()
    sent = sum(mirror.sent.values())
    second = read(mirror, signer, first)
    assert mirror.requests == [f"{INDEX}.sjson"] and sum(mirror.sent.values()) == sent
    assert not second.changed and second.products == first.products and second.signers == first.signers


def test_a_list_older_than_its_entry_is_asked_for_again_although_the_index_stands(
    mirror: MirrorServer, signer: Signer, tmp_path: Path
) -> None:
    old = (mirror.root / f"{UBUNTU_LIST}.sjson").read_bytes()
    publish_small(mirror.root, signer, serial="20250812", updated=UPDATED + timedelta(days=1))
    new = (mirror.root / f"{UBUNTU_LIST}.sjson").read_bytes()
    (mirror.root / f"{UBUNTU_LIST}.sjson").write_bytes(old)  # a mirror caught between its index and its lists
    between = read(mirror, signer)
    assert {v.name for p in between.lists[2].products for v in p.versions} <= {"20250709"}
    (mirror.root / f"{UBUNTU_LIST}.sjson").write_bytes(new)
    mirror.requests.clear()
    after = read(mirror, signer, between)
    assert after.changed and mirror.requests == [f"{INDEX}.sjson", f"{UBUNTU_LIST}.sjson"]
    assert "20250812" in {v.name for p in after.products for v in p.versions}


def test_a_new_index_brings_new_products(mirror: MirrorServer, signer: Signer) -> None:
    first = read(mirror, signer)
    publish_small(mirror.root, signer, serial="20250812", updated=UPDATED + timedelta(days=1))
    second = read(mirror, signer, first)
    assert second.changed and second.updated == UPDATED + timedelta(days=1)
    assert "20250812" in {v.name for p in second.products for v in p.versions}


def test_another_keyring_makes_an_earlier_reading_worthless(
    mirror: MirrorServer, signers: tuple[Signer, Signer]
) -> None:
    first = read(mirror, signers[0])
    with pytest.raises(UnknownKey):
        read(mirror, signers[1], first)
    assert read(mirror, None, first).changed
    with pytest.raises(UnknownKey):
        read(mirror, signers[1], read(mirror, None))


def test_a_detached_signature_that_changed_meanwhile_is_fetched_once_more(mirror: MirrorServer, signer: Signer) -> None:
    old = (mirror.root / f"{INDEX}.json").read_bytes()
    publish_small(mirror.root, signer, updated=UPDATED + timedelta(days=1))
    mirror.faults[f"{INDEX}.sjson"] = Fault(status=404)
    mirror.faults[f"{INDEX}.json"] = Fault(body=old, times=1)
    assert read(mirror, signer).updated == UPDATED + timedelta(days=1)


def test_an_index_in_an_index_is_followed_and_a_loop_is_not(mirror: MirrorServer, signer: Signer) -> None:
    (mirror.root / "streams/v1/inner.sjson").write_bytes((mirror.root / f"{INDEX}.sjson").read_bytes())
    outer = {
        "format": "index:1.0",
        "index": {
            "inner": {"format": "index:1.0", "path": "streams/v1/inner.sjson"},
            "loop": {"format": "index:1.0", "path": f"{INDEX}.sjson"},
        },
    }
    (mirror.root / f"{INDEX}.sjson").write_bytes(signer.clearsign(json.dumps(outer).encode()))
    reading = read(mirror, signer)
    assert len(reading.products) == PRODUCTS
    assert any("is named twice; read once" in warning for warning in reading.warnings)


def test_a_further_signer_is_a_warning(mirror: MirrorServer, signers: tuple[Signer, Signer], tmp_path: Path) -> None:
    good, other = signers
    with Signer.generate(tmp_path / "both", algorithm="ed25519") as both:
        for each in signers:
            both.gpg("--import", stdin=each.gpg("--export-secret-keys"))
        plain = (mirror.root / f"{CENTOS_LIST}.json").read_bytes()
        message = both.gpg(
            "--digest-algo", "SHA512", "-u", good.fingerprint, "-u", other.fingerprint, "--clearsign", stdin=plain
        )
    (mirror.root / f"{CENTOS_LIST}.sjson").write_bytes(message)
    reading = read(mirror, good)
    assert reading.unknown_signers == (other.fingerprint,)
    assert any(f"also signed by {other.fingerprint}" in warning for warning in reading.warnings)


def test_one_product_in_two_lists_is_a_warning(tmp_path: Path, signer: Signer) -> None:
    loaders = small_loaders(tmp_path / "in")
    publish(tmp_path / "m", [*loaders, replace(loaders[0], content_id="com.example:twice")], signer)
    with serve(tmp_path / "m") as server:
        assert any(f"product {loaders[0].id} is in " in warning for warning in read(server, signer).warnings)
