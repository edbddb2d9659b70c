"""A matrix of faults, 1: what a boot source says. Metadata, signatures, paths; each through ``bootplane sync --wait``.

The region has synced once. Then the mirror says something it must not: the command exits 1 with one sentence (where,
expected, got), no file is fetched, the metadata that moves is bounded, and store, database and catalogue stand as they
stood; a banner says which. When the mirror is mended, the next sync completes and the banner is gone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bootplane.control.simplestreams.signer import Signer
from tests.fakes.mirror import CENTOS_LIST, UBUNTU_LIST, Fault, revoke
from tests.fakes.operator import INDEX, Operator, operator

pytestmark = pytest.mark.integration
LIST = f"{UBUNTU_LIST}.sjson"
LATER_IN_2020 = ("--faked-system-time", "20200301T000000")
SOCKETS = 8 << 20  # what can lie in socket buffers when a client has had enough


class Site(NamedTuple):
    """*good* are the mirror's documents when all is well."""

    operator: Operator
    keys: dict[str, Signer]
    by_revoked: bytes  # today's index, signed while the key was good
    good: dict[str, bytes]


def index_of(site: Operator) -> Any:
    """The index as it is clear-signed, a minute younger, so that its lists are asked for again."""
    document = json.loads((site.mirror.root / "streams/v1/index.json").read_bytes().replace(b'.json"', b'.sjson"'))
    document["updated"] = "Thu, 01 Jan 2099 00:00:00 +0000"
    for entry in document["index"].values():
        entry["updated"] = document["updated"]
    return document


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("metadata")

    def key(name: str, expires: str = "never", *options: str) -> Signer:
        who = f"{name} <{name}@bootplane.invalid>"
        return Signer.generate(folder / "keys" / name, who, algorithm="ed25519", expires=expires, options=options)

    keys = {name: key(name) for name in ("good", "stranger", "revoked")}
    keys["expired"] = key("expired", "1y", "--faked-system-time", "20200101T000000")
    keys["old"] = key("old", "never", "--faked-system-time", "20200101T000000")
    with pytest.MonkeyPatch.context() as patch, operator(folder, keys["good"], patch) as made:
        by_revoked = keys["revoked"].clearsign(json.dumps(index_of(made)).encode())
        revoke(keys["revoked"])
        made.add(keys["good"], keys["expired"], keys["old"], keys["revoked"])
        made.sync()
        streams = made.mirror.root / "streams/v1"
        good = {f"streams/v1/{path.name}": path.read_bytes() for path in streams.iterdir()}
        yield Site(made, keys, by_revoked, good)
    for signer in keys.values():
        signer.close()


@pytest.fixture
def mended(site: Site) -> Iterator[Site]:
    """The site, all well before and after."""
    yield site
    mend(site)
    site.operator.run("source", "check", "mirror", "--accept-older")


def mend(site: Site) -> None:
    made = site.operator
    made.mirror.faults.clear()
    streams = made.mirror.root / "streams/v1"
    for path in streams.iterdir():
        if f"streams/v1/{path.name}" not in site.good:
            path.unlink()
    for name, data in site.good.items():
        made.put(name, data)


# -- how each fault is made: it changes the mirror


def raw(data: bytes) -> Callable[[Site], None]:
    """*data* instead of the index, signed by nobody."""
    return lambda site: site.operator.put(INDEX, data)


def signed(data: bytes) -> Callable[[Site], None]:
    """*data* as the index, properly signed."""
    return lambda site: site.operator.sign(INDEX, data)


def index_with(**changes: Any) -> Callable[[Site], None]:
    return lambda site: site.operator.sign(INDEX, index_of(site.operator) | changes)


def index_without(key: str) -> Callable[[Site], None]:
    def spoil(site: Site) -> None:
        document = index_of(site.operator)
        del document[key]
        site.operator.sign(INDEX, document)

    return spoil


def entry_with(**changes: Any) -> Callable[[Site], None]:
    """The Ubuntu list's entry in the index says otherwise."""

    def spoil(site: Site) -> None:
        document = index_of(site.operator)
        document["index"]["com.ubuntu.maas:stable:v3:download"].update(changes)
        site.operator.sign(INDEX, document)

    return spoil


def cut_index(site: Site) -> None:
    site.operator.sign(INDEX, json.dumps(index_of(site.operator)).encode()[:-40])


def fault(path: str, **options: Any) -> Callable[[Site], None]:
    def spoil(site: Site) -> None:
        site.operator.sign(INDEX, index_of(site.operator))
        site.operator.mirror.faults[path] = Fault(**options)

    return spoil


def list_with(change: Callable[[Any], None]) -> Callable[[Site], None]:
    """The Ubuntu list, changed, with a newer index."""

    def spoil(site: Site) -> None:
        document = site.operator.document(f"{UBUNTU_LIST}.json")
        change(document)
        site.operator.sign(LIST, document)
        site.operator.sign(INDEX, index_of(site.operator))

    return spoil


def item_path(path: str) -> Callable[[Site], None]:
    def change(document: Any) -> None:
        product = document["products"]["com.ubuntu.maas.stable:v3:boot:24.04:amd64:ga-24.04"]
        (version,) = product["versions"].values()
        version["items"]["boot-kernel"]["path"] = path

    return list_with(change)


def swapped(site: Site) -> None:
    """The CentOS list, validly signed, where the Ubuntu list should be."""
    site.operator.sign(INDEX, index_of(site.operator))
    site.operator.put(LIST, site.good[f"{CENTOS_LIST}.sjson"])


def older_list(site: Site) -> None:
    list_with(lambda document: document.update(updated="Wed, 01 Jan 2020 00:00:00 +0000"))(site)


def by(name: str, *options: str) -> Callable[[Site], None]:
    """The index, signed by another key or in another way."""

    def spoil(site: Site) -> None:
        data = json.dumps(index_of(site.operator)).encode()
        site.operator.put(INDEX, site.keys[name].clearsign(data, options=options))

    return spoil


def twice(site: Site) -> None:
    site.operator.put(INDEX, site.good[INDEX] * 2)


def sealed(site: Site) -> None:
    site.operator.put(INDEX, site.keys["good"].gpg("--sign", "--armor", stdin=b"{}"))


def tampered(site: Site) -> None:
    site.operator.put(INDEX, site.good[INDEX].replace(b'"format": "index:1.0"', b'"format": "index:1.1"'))


def cut_signature(site: Site) -> None:
    site.operator.put(INDEX, site.good[INDEX][:-60])


def revoked(site: Site) -> None:
    site.operator.put(INDEX, site.by_revoked)


def list_by_stranger(site: Site) -> None:
    site.operator.sign(INDEX, index_of(site.operator))
    site.operator.put(LIST, site.keys["stranger"].clearsign(site.good[f"{UBUNTU_LIST}.json"]))


def no_clear_signed(data: Callable[[Site], bytes] | None) -> Callable[[Site], None]:
    """No index.sjson, and beside index.json a signature of *data*, or none."""

    def spoil(site: Site) -> None:
        (site.operator.mirror.root / INDEX).unlink()
        signature = site.operator.mirror.root / "streams/v1/index.json.gpg"
        signature.unlink()
        if data is not None:
            signature.write_bytes(data(site))

    return spoil


def key_twice(site: Site) -> None:
    site.operator.sign(INDEX, json.dumps(index_of(site.operator)).encode()[:-1] + b', "format": "index:1.0"}')


class Case(NamedTuple):
    spoil: Callable[[Site], None]
    words: str  # what the sentence must say
    most: int = 64 << 10  # bytes of metadata that may move


DEEP = b'{"format": "index:1.0", "index": ' + b'{"a": ' * 40 + b"1" + b"}" * 40 + b"}"
VERY_DEEP = b"[" * 200_000
BOUND = 16 << 20
METADATA = {
    "cut JSON": Case(cut_index, "expected a JSON index, got something else at line 1"),
    "no JSON": Case(signed(b"hello"), "got something else at line 1, column 1, which begins with 'hello"),
    "an empty document": Case(signed(b""), "expected a JSON index"),
    "nothing at all": Case(raw(b""), "expected a clear-signed message"),
    "noise": Case(raw(bytes(range(256)) * 8), "expected a clear-signed message, got text"),
    "not UTF-8": Case(signed(b'{"format": "\xff\xfe"}'), "expected a JSON index, got "),
    "half a surrogate": Case(signed(b'{"format": "index:1.0", "index": {}, "x": "\\ud800"}'), "half a surrogate pair"),
    "NaN": Case(signed(b'{"format": "index:1.0", "index": NaN}'), "got the number NaN"),
    "a number of 5,000 digits": Case(signed(b'{"format": ' + b"1" * 5000 + b"}"), "expected a JSON index, got "),
    "a list": Case(signed(b"[]"), "expected a JSON index, got a list"),
    "a key twice": Case(key_twice, "got the key 'format' twice in one object"),
    "deep": Case(signed(DEEP), "at most 16 levels"),
    "very deep": Case(signed(VERY_DEEP), "expected a JSON index", 500_000),
    "a portal's page": Case(raw(b"<html><title>Sign in</title></html>"), "expected a JSON index, got HTML ('Sign in')"),
    "a signed page": Case(signed(b"<html></html>"), "expected a JSON index, got HTML"),
    "another format": Case(index_with(format="index:2.0"), "expected the format index:1.0, got 'index:2.0'"),
    "no format": Case(index_without("format"), "expected the format index:1.0, got none"),
    "a product list as the index": Case(
        lambda site: site.operator.put(INDEX, site.good[LIST]), "expected the format index:1.0, got 'products:1.0'"
    ),
    "no entries": Case(index_without("index"), "expected an object under 'index', got nothing"),
    "thousands of entries": Case(index_with(index={str(n): {} for n in range(300)}), "at most 256 entries"),
    "an entry that is none": Case(index_with(index={"x": 5}), "expected an object as entry 'x', got a number"),
    "an entry without a path": Case(entry_with(path=None), "expected a path in entry"),
    "the index is not there": Case(
        lambda site: no_clear_signed(None)(site) or (site.operator.mirror.root / "streams/v1/index.json").unlink(),
        "expected a boot source's index, got 404",
    ),
    "a list is not there": Case(fault(LIST, status=404), "expected the product list that the index names, got 404"),
    "access refused": Case(fault(INDEX, status=403), "expected the file, got 403"),
    "a server that is down": Case(fault(INDEX, status=503), "expected the file, got 503"),
    "endless": Case(fault(INDEX, is_endless=True), f"expected at most {BOUND} bytes, got more", BOUND + SOCKETS),
    "announced as 1 TB": Case(
        fault(INDEX, headers={"Content-Length": str(1 << 40)}), f"expected at most {BOUND} bytes, got {1 << 40}"
    ),
    "cut on the way": Case(fault(INDEX, cut_after=100), "got an end after 100 bytes"),
    "another list, validly signed": Case(
        swapped, "expected the content_id 'com.ubuntu.maas:stable:v3:download' of its index entry, got 'com.ubuntu"
    ),
    "a list of another format": Case(
        list_with(lambda document: document.update(format="products:2.0")), "expected the format products:1.0, got"
    ),
    "a list of another datatype": Case(
        list_with(lambda document: document.update(datatype="notes")), "expected the datatype image-ids"
    ),
    "a list without products": Case(
        list_with(lambda document: document.pop("products")), "expected an object under 'products', got nothing"
    ),
    "a product without versions": Case(
        list_with(lambda document: document["products"].update(x={})), "an object with 'versions' as product 'x'"
    ),
}  # fmt: skip
SIGNATURES = {
    "unsigned": Case(
        lambda site: site.operator.put(INDEX, site.good["streams/v1/index.json"]), "expected a clear-signed message"
    ),
    "a key nobody knows": Case(by("stranger"), "which is not in it"),
    "an expired key": Case(by("expired", *LATER_IN_2020), "expected a signature by a valid key, got one by"),
    "a revoked key": Case(revoked, "which is revoked"),
    "an expired signature": Case(by("old", *LATER_IN_2020, "--default-sig-expire", "1d"), "that expired on 2020-03-02"),
    "SHA-1": Case(by("good", "--digest-algo", "SHA1"), "got one over SHA-1"),
    "two messages": Case(twice, "expected exactly one signed message, got"),
    "sealed, not clear-signed": Case(sealed, "expected a clear-signed message, got a PGP message"),
    "one byte changed": Case(tampered, "the data is not what was signed"),
    "cut in the signature": Case(cut_signature, "got one that is cut off"),
    "a list by a key nobody knows": Case(list_by_stranger, "which is not in it"),
    "no detached signature": Case(no_clear_signed(None), "expected a signature beside it"),
    "a detached signature of something else": Case(
        no_clear_signed(lambda site: site.keys["good"].detach(b"{}")), "the data is not what was signed"
    ),
    "a detached signature by a stranger": Case(
        no_clear_signed(lambda site: site.keys["stranger"].detach(site.good["streams/v1/index.json"])),
        "which is not in it",
    ),
    "two detached signatures": Case(
        no_clear_signed(lambda site: site.keys["good"].detach(site.good["streams/v1/index.json"]) * 2),
        "expected one detached signature, got 2",
    ),
    "a detached signature of 100 KB": Case(no_clear_signed(lambda _: b"x" * 100_000), "at most 65536 bytes", 300_000),
}  # fmt: skip
PATHS = {
    "../../etc/passwd": "got a '..'",
    "noble/../../../etc/passwd": "got a '..'",
    "/etc/passwd": "got an absolute one",
    "//evil.invalid/x": "got an absolute one",
    "http://evil.invalid/x": "got a URL",
    "file:///etc/passwd": "got a URL",
    "%2e%2e/x": "got a '..'",
    "..%2fx": "got a '..'",
    "%252e%252e/x": "got a '..'",
    "%2fetc/passwd": "got an absolute one",
    "..\\x": "got a backslash",
    "a%5c..%5cb": "got a backslash",
    "a\0b": "got a NUL character",
    "a%00b": "got a NUL character",
    "a\nb": "got a control character",
    "a%0d%0aX: y": "got a control character",
    "a\u202eb": "got a control character",
    "a//b": "got an empty or '.' segment",
    "./a": "got an empty or '.' segment",
    "a/": "got an empty or '.' segment",
    "": "got an empty one",
    "a" * 300: "got a segment of more than 255 bytes",
    "a/" * 600 + "b": "got one of 1201 characters",
    "%25252525252e/x": "got nested percent-encoding",
}
LISTS = [
    *(pytest.param(case, id=name) for name, case in METADATA.items()),
    *(pytest.param(case, id=name) for name, case in SIGNATURES.items()),
    *(pytest.param(Case(item_path(path), words), id=f"path {path[:24]!r}") for path, words in PATHS.items()),
    *(
        pytest.param(Case(entry_with(path=path), PATHS[path]), id=f"list at {path!r}")
        for path in ("../x", "/etc/passwd", "http://evil.invalid/x", "%2e%2e/x")
        if path in PATHS
    ),
]


@pytest.mark.parametrize("case", LISTS)
def test_what_a_source_must_not_say_changes_nothing(mended: Site, case: Case) -> None:
    site = mended.operator
    before = site.state()
    site.forget()
    case.spoil(mended)
    sentence = site.refused("sync", "--wait")
    assert case.words in sentence
    assert sentence.startswith(f"The sync failed: source mirror: {site.mirror.url}") and "expected" in sentence
    assert site.item_bytes() == 0
    assert sum(site.sent.values()) <= case.most
    assert site.state() == before
    (banner,) = [text for name, text in site.banners().items() if name in ("source-away-1", "source-refused-1")]
    assert case.words in banner
    assert case.words in site.refused("source", "check", "mirror")
    mend(mended)
    site.sync()
    assert site.banners() == {} and site.state() == before


def test_an_older_index_is_kept_out_said_after_a_day_and_taken_by_force(mended: Site) -> None:
    site = mended.operator
    before = site.state()
    document = index_of(site)
    document["updated"] = "Wed, 01 Jan 2020 00:00:00 +0000"
    site.sign(INDEX, document)
    site.forget()
    site.sync()  # a mirror behind a balancer steps back for minutes: no alarm
    assert site.state() == before and site.item_bytes() == 0 and site.banners() == {}
    words = "index: expected updated "
    assert words in site.refused("source", "check", "mirror") and site.state() == before

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bootplane.control.sync.sources.OLDER_PATIENCE_S", 0.0)
        assert words in site.refused("sync", "--wait")
    assert list(site.banners()) == ["source-older-1", "sync"]
    assert "got 2020-01-01" in site.banners()["source-older-1"] and site.state() == before

    forced = site.run("source", "check", "mirror", "--accept-older")
    assert forced.exit_code == 0, forced.stderr
    site.sync()
    # what it says now is gone by; that it has not moved for years is another matter
    assert list(site.banners()) == ["source-frozen-1"]
    assert site.state().accepted[""].startswith("2020-01-01") and site.state().images == before.images


def test_an_older_list_under_a_newer_index_is_kept_out_too(mended: Site) -> None:
    site = mended.operator
    site.sync()
    before = site.state()
    older_list(mended)
    site.sync()
    assert site.state() == before
    sentence = site.refused("source", "check", "mirror")
    assert "product list com.ubuntu.maas:stable:v3:download: expected updated" in sentence


def test_an_index_that_lost_its_date_is_not_newer(mended: Site) -> None:
    site = mended.operator
    before = site.state()
    index_without("updated")(mended)
    sentence = site.refused("source", "check", "mirror")
    assert "index: expected updated " in sentence and sentence.endswith("as accepted before, got none")
    site.sync()
    assert site.state() == before


def test_text_around_a_signed_index_is_left_out(mended: Site) -> None:
    site = mended.operator
    before = site.state()
    evil = b'{"format": "index:1.0", "index": {}}\n'
    site.put(INDEX, evil + mended.good[INDEX] + evil)
    site.sync()
    assert site.state() == before and site.banners() == {}


def test_a_further_signer_is_taken_and_shown(mended: Site) -> None:
    site = mended.operator
    stranger = mended.keys["stranger"]
    stranger.gpg("--import", stdin=mended.keys["good"].gpg("--export-secret-keys"))
    both = ("--local-user", mended.keys["good"].fingerprint)
    site.put(INDEX, stranger.clearsign(json.dumps(index_of(site)).encode(), options=both))
    done = site.run("source", "check", "mirror")
    assert done.exit_code == 0
    assert f"also signed by {stranger.fingerprint}, which is not in the keyring (a new key?)" in done.stderr
    assert stranger.fingerprint in site.run("source", "list").stderr


def test_an_index_that_has_not_moved_for_long_is_said_until_it_moves(mended: Site) -> None:
    site = mended.operator
    for date, banners in ((datetime(2021, 3, 4, tzinfo=UTC), ["source-frozen-1"]), (datetime.now(UTC), [])):
        document = index_of(site)
        document["updated"] = date.strftime("%a, %d %b %Y %H:%M:%S +0000")
        site.sign(INDEX, document)
        assert site.run("source", "check", "mirror", "--accept-older").exit_code == 0
        assert list(site.banners()) == banners
        if banners:
            assert "moved in the last 45 days, got one of 2021-03-04." in site.banners()["source-frozen-1"]


KEYRINGS: dict[str, tuple[Callable[[Site], bytes], str]] = {
    "empty": (lambda site: b"", "is empty"),
    "blank": (lambda site: b"\n\n", "got an empty file"),
    "a page": (lambda site: b"<!doctype html>", "got HTML or XML"),
    "a private key": (lambda site: site.keys["good"].gpg("--export-secret-keys"), "a private key"),
    "an armored private key": (
        lambda site: site.keys["good"].gpg("--armor", "--export-secret-keys"), "a PGP private key block"
    ),
    "cut": (lambda site: site.keys["good"].public()[:-20], "cut off in the middle of a key"),
    "cut armor": (lambda site: site.keys["good"].public(armored=True)[:120], "cut off before its END line"),
    "a keybox": (lambda site: (site.keys["good"].home / "pubring.kbx").read_bytes(), "a GnuPG keybox"),
    "a signature": (lambda site: site.keys["good"].detach(b"x"), "a PGP signature"),
    "another key": (lambda site: site.keys["stranger"].public(), "which is not in it"),
    "another armored key": (lambda site: site.keys["stranger"].public(armored=True), "which is not in it"),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYRINGS)
def test_a_keyring_that_proves_nothing_adds_no_source(mended: Site, tmp_path: Path, name: str) -> None:
    site = mended.operator
    data, words = KEYRINGS[name]
    path = tmp_path / "keys.gpg"
    path.write_bytes(data(mended))
    before = site.json("source", "list")
    url = site.mirror.url.replace("127.0.0.1", "localhost")
    assert words in site.refused("source", "add", url, "--keyring", str(path))
    assert site.json("source", "list") == before


@pytest.mark.parametrize("is_armored", [True, False])
def test_a_keyring_may_be_armored_or_binary(mended: Site, tmp_path: Path, is_armored: bool) -> None:
    site = mended.operator
    path = tmp_path / "keys"
    path.write_bytes(mended.keys["good"].public(armored=is_armored))
    url = site.mirror.url.replace("127.0.0.1", "localhost")
    added = site.json("source", "add", url, "--keyring", str(path), "--name", "again")
    assert added["fingerprints"] == [mended.keys["good"].fingerprint]
    site.json("source", "remove", "again")


def test_a_list_that_went_and_comes_back_cannot_come_back_older(mended: Site) -> None:
    site = mended.operator
    site.run("source", "check", "mirror", "--accept-older")
    accepted = site.state().accepted
    without = index_of(site)
    without["updated"] = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S +0000")
    del without["index"]["com.ubuntu.maas:stable:v3:download"]
    site.sign(INDEX, without)
    assert site.run("source", "check", "mirror", "--accept-older").exit_code == 0
    assert site.state().accepted["com.ubuntu.maas:stable:v3:download"] == accepted["com.ubuntu.maas:stable:v3:download"]
