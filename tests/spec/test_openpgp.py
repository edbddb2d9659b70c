"""OpenPGP (RFC 4880, 7 and 11.4) as boot sources use it: which signatures prove a document, by real gpg and gpgv."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootplane.control.simplestreams import keyring as keyrings
from bootplane.control.simplestreams.errors import (
    BadSignature,
    ExpiredKey,
    ExpiredSignature,
    MissingSignature,
    NotAKeyring,
    RevokedKey,
    SeveralMessages,
    SignatureRefused,
    UnknownKey,
    WeakDigest,
)
from bootplane.control.simplestreams.signature import verify_clearsigned, verify_detached
from bootplane.control.simplestreams.signer import Signer
from tests.fakes.mirror import revoke

URL = "http://mirror.invalid/streams/v1/index.sjson"
TEXT = b'{\n "format": "index:1.0",\n "dash": [\n- 1\n ]\n}\n'  # a dash at the start of a line is escaped when signed
IN_2020 = ("--faked-system-time", "20200101T000000")
LATER_IN_2020 = ("--faked-system-time", "20200301T000000")


@dataclass
class Keys:
    good: Signer
    other: Signer
    expired: Signer
    revoked: Signer
    old: Signer  # made in 2020, still valid
    sha1_self: Signer  # as Canonical's: its own self-signature is over SHA-1
    before_revocation: bytes = b""  # signed by *revoked* while it was good; a revoked key signs nothing


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    home = tmp_path_factory.mktemp("keys")

    def key(name: str, expires: str = "never", *options: str, algorithm: str = "ed25519") -> Signer:
        who = f"{name} <{name}@bootplane.invalid>"
        return Signer.generate(home / name, who, algorithm=algorithm, expires=expires, options=options)

    made = Keys(
        good=key("good", algorithm="rsa2048"),
        other=key("other"),
        expired=key("expired", "1y", *IN_2020),
        revoked=key("revoked"),
        old=key("old", "never", *IN_2020),
        sha1_self=key("sha1-self", "never", "--cert-digest-algo", "SHA1", algorithm="rsa2048"),
    )
    made.before_revocation = made.revoked.clearsign(TEXT)
    revoke(made.revoked)
    yield made
    for signer in vars(made).values():
        if isinstance(signer, Signer):
            signer.close()


def ring(*signers: Signer, armored: bool = False) -> keyrings.Keyring:
    return keyrings.load(b"".join(signer.public(armored=armored) for signer in signers), "keyring")


def test_a_good_message_gives_exactly_the_signed_text_and_its_signer(keys: Keys) -> None:
    verified = verify_clearsigned(keys.good.clearsign(TEXT), ring(keys.good), URL)
    assert verified.data == TEXT
    (signer,) = verified.signers
    assert signer.fingerprint == signer.key == keys.good.fingerprint
    assert (signer.digest, signer.name) == ("SHA-512", "good <good@bootplane.invalid>")
    assert verified.unknown == ()


@pytest.mark.parametrize("digest", ["SHA256", "SHA384", "SHA512"])
def test_sha256_sha384_and_sha512_are_accepted(keys: Keys, digest: str) -> None:
    message = keys.good.clearsign(TEXT, options=("--digest-algo", digest))
    (signer,) = verify_clearsigned(message, ring(keys.good), URL).signers
    assert signer.digest.replace("-", "") == digest


def test_an_armored_keyring_is_as_good_as_a_binary_one(keys: Keys) -> None:
    binary, armored = ring(keys.good, keys.other), ring(keys.good, keys.other, armored=True)
    assert armored == binary
    assert verify_clearsigned(keys.other.clearsign(TEXT), armored, URL).data == TEXT


def test_text_around_the_signed_message_is_left_out(keys: Keys) -> None:
    message = b'{"evil": 1}\n' + keys.good.clearsign(TEXT) + b'{"evil": 2}\n'
    assert verify_clearsigned(message, ring(keys.good), URL).data == TEXT


def test_dash_escapes_are_undone(keys: Keys) -> None:
    message = keys.good.clearsign(TEXT)
    assert b"\n- - 1\n" in message
    assert b"\n- 1\n" in verify_clearsigned(message, ring(keys.good), URL).data


def test_a_sha1_self_signature_on_the_key_passes(keys: Keys) -> None:
    packets = keys.sha1_self.gpg("--list-packets", stdin=keys.sha1_self.public())
    assert b"digest algo 2," in packets  # or the test proves nothing
    assert verify_clearsigned(keys.sha1_self.clearsign(TEXT), ring(keys.sha1_self), URL).data == TEXT


def two_signers(keys: Keys) -> bytes:
    """Signed by both good and other, as in a key roll-over."""
    secret = keys.good.gpg("--export-secret-keys")
    keys.other.gpg("--import", stdin=secret)
    return keys.other.clearsign(TEXT, options=("--local-user", keys.good.fingerprint))


def test_a_further_signer_the_keyring_does_not_know_is_tolerated_and_named(keys: Keys) -> None:
    message = two_signers(keys)
    for known, unknown in ((keys.good, keys.other), (keys.other, keys.good)):
        verified = verify_clearsigned(message, ring(known), URL)
        assert [signer.fingerprint for signer in verified.signers] == [known.fingerprint]
        assert verified.unknown == (unknown.fingerprint,)
    both = verify_clearsigned(message, ring(keys.good, keys.other), URL)
    assert {signer.fingerprint for signer in both.signers} == {keys.good.fingerprint, keys.other.fingerprint}


def test_two_signers_do_not_outweigh_one_changed_byte(keys: Keys) -> None:
    message = two_signers(keys).replace(b"index:1.0", b"index:1.1")
    with pytest.raises(BadSignature):
        verify_clearsigned(message, ring(keys.good, keys.other), URL)
    with pytest.raises(BadSignature):
        verify_clearsigned(message, ring(keys.good), URL)


Faults = dict[str, tuple[bytes, Signer, type[SignatureRefused], str]]


def faults(keys: Keys) -> Faults:
    """name -> message, keyring's key, the refusal, and what its sentence must say."""
    good = keys.good.clearsign(TEXT)
    sha1 = keys.good.clearsign(TEXT, options=("--digest-algo", "SHA1"))
    short_lived = keys.old.clearsign(TEXT, options=(*LATER_IN_2020, "--default-sig-expire", "1d"))
    signed_in_time = keys.expired.clearsign(TEXT, options=LATER_IN_2020)
    sealed = keys.good.gpg("--sign", "--armor", stdin=TEXT)
    detached = keys.good.detach(TEXT)
    half = good.index(b"-----BEGIN PGP SIGNATURE") + 60
    return {
        "wrong key": (good, keys.other, UnknownKey, f"{keys.other.fingerprint}), got one by {keys.good.fingerprint}"),
        "expired key": (signed_in_time, keys.expired, ExpiredKey, "expired since 2020-12-31"),
        "revoked key": (keys.before_revocation, keys.revoked, RevokedKey, "which is revoked"),
        "expired signature": (short_lived, keys.old, ExpiredSignature, "expired on 2020-03-02"),
        "SHA-1": (sha1, keys.good, WeakDigest, "got one over SHA-1"),
        "tampered text": (good.replace(b"1.0", b"1.1"), keys.good, BadSignature, "not what was signed"),
        "two messages": (good + good, keys.good, SeveralMessages, "exactly one signed message"),
        "sealed before": (sealed + good, keys.good, SeveralMessages, "exactly one signed message"),
        "detached after": (good + detached, keys.good, SeveralMessages, "exactly one signed message"),
        "sealed instead": (sealed, keys.good, MissingSignature, "expected a clear-signed message, got a PGP message"),
        "cut in the signature": (good[:half], keys.good, MissingSignature, "cut off"),
        "cut in the text": (good[:60], keys.good, MissingSignature, "cut off"),
        "no signature": (TEXT, keys.good, MissingSignature, "expected a clear-signed message, got text"),
        "empty": (b"", keys.good, MissingSignature, "expected a clear-signed message"),
    }


FAULTS = [
    "wrong key", "expired key", "revoked key", "expired signature", "SHA-1", "tampered text", "two messages",
    "sealed before", "detached after", "sealed instead", "cut in the signature", "cut in the text", "no signature",
    "empty",
]  # fmt: skip


@pytest.fixture(scope="module")
def fault_table(keys: Keys) -> Faults:
    table = faults(keys)
    assert set(table) == set(FAULTS)
    return table


@pytest.mark.parametrize("name", FAULTS)
def test_a_message_that_proves_nothing_is_refused_in_one_sentence(fault_table: Faults, name: str) -> None:
    message, signer, refusal, words = fault_table[name]
    with pytest.raises(SignatureRefused) as caught:
        verify_clearsigned(message, ring(signer), URL)
    sentence = str(caught.value)
    assert type(caught.value) is refusal, sentence
    assert sentence.startswith(f"{URL}: expected ") and ", got " in sentence and "\n" not in sentence
    assert words in sentence


def test_a_message_is_refused_however_few_of_its_last_bytes_are_missing(keys: Keys) -> None:
    message = keys.good.clearsign(TEXT).rstrip(b"\n")
    assert verify_clearsigned(message, ring(keys.good), URL).data == TEXT
    for cut in (1, 5, 30, 31, 40, 100, 200, 400):
        with pytest.raises(SignatureRefused):
            verify_clearsigned(message[:-cut], ring(keys.good), URL)


def test_one_flipped_bit_in_text_or_signature_is_refused(keys: Keys) -> None:
    message = keys.good.clearsign(TEXT)
    armor = message.index(b"\n\n", message.index(b"BEGIN PGP SIGNATURE")) + 2
    for at in (message.index(b"format"), message.index(b"1.0"), armor + 40, armor + 200, armor + 300):
        damaged = bytearray(message)
        damaged[at] ^= 1
        with pytest.raises(SignatureRefused):
            verify_clearsigned(bytes(damaged), ring(keys.good), URL)


def test_a_detached_signature_proves_exactly_its_data(keys: Keys) -> None:
    armored = keys.good.detach(TEXT)
    binary = keys.good.gpg("--detach-sign", stdin=TEXT)
    for signature in (armored, binary):
        assert verify_detached(TEXT, signature, ring(keys.good), URL).data == TEXT
        with pytest.raises(BadSignature):
            verify_detached(TEXT + b"\n", signature, ring(keys.good), URL)
        with pytest.raises(UnknownKey):
            verify_detached(TEXT, signature, ring(keys.other), URL)
    with pytest.raises(WeakDigest):
        verify_detached(TEXT, keys.good.detach(TEXT, options=("--digest-algo", "SHA1")), ring(keys.good), URL)
    with pytest.raises(SignatureRefused):
        verify_detached(TEXT, armored[:80], ring(keys.good), URL)
    with pytest.raises(SeveralMessages):
        verify_detached(TEXT, armored + armored, ring(keys.good), URL)
    for not_detached in (keys.good.clearsign(TEXT), keys.good.gpg("--sign", "--armor", stdin=TEXT), b"", b"<html>"):
        with pytest.raises(SignatureRefused):
            verify_detached(TEXT, not_detached, ring(keys.good), URL)


def test_a_keyring_names_its_keys_as_gpg_does(keys: Keys) -> None:
    loaded = ring(keys.good, keys.other)
    assert loaded.fingerprints == (keys.good.fingerprint, keys.other.fingerprint)
    assert loaded.keys[0].user_ids == ("good <good@bootplane.invalid>",)


def test_what_is_no_keyring_is_refused_in_words(keys: Keys, tmp_path: Path) -> None:
    secret = keys.good.gpg("--export-secret-keys")
    armored_secret = keys.good.gpg("--armor", "--export-secret-keys")
    armored = keys.good.public(armored=True)
    keybox = (keys.good.home / "pubring.kbx").read_bytes()
    table = {
        "a private key": secret,
        "a PGP private key block": armored_secret,
        "a PGP signature": keys.good.detach(TEXT),
        "a PGP signed message": keys.good.clearsign(TEXT),
        "a GnuPG keybox": keybox,
        "cut off before its END line": armored[:200],
        "wrong checksum": flip_crc(armored),
        "cut off in the middle of a key": keys.good.public()[:-20],
        "HTML or XML": b"<!doctype html><title>Not here</title>",
        "no OpenPGP data": TEXT,
        "an empty file": b"",
    }
    for words, data in table.items():
        with pytest.raises(NotAKeyring) as caught:
            keyrings.load(data, "/etc/keyring.gpg")
        assert str(caught.value).startswith("/etc/keyring.gpg: expected an OpenPGP public keyring"), caught.value
        assert words in str(caught.value)


def flip_crc(armored: bytes) -> bytes:
    """The armor with another checksum line (RFC 4880, 6.1)."""
    head, _, tail = armored.rpartition(b"\n=")
    return head + b"\n=" + (b"AAAA" if tail[:4] != b"AAAA" else b"BBBB") + tail[4:]
