"""Keyrings: armor and packets, without gpg. Real keys: tests/spec/test_openpgp.py."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootplane.control.simplestreams.errors import NotAKeyring
from bootplane.control.simplestreams.keyring import Key, Keyring, crc24, dearmor, from_text, load


def packet(tag: int, body: bytes, *, old: bool = False) -> bytes:
    if old:
        return bytes([0x80 | tag << 2 | 1]) + len(body).to_bytes(2, "big") + body
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4, "big") + body


def armor(data: bytes, kind: str = "PUBLIC KEY BLOCK", *, crc: bool = True, headers: str = "") -> bytes:
    lines = base64.encodebytes(data).decode().strip()
    check = "\n=" + base64.b64encode(crc24(data).to_bytes(3, "big")).decode() if crc else ""
    return f"-----BEGIN PGP {kind}-----\n{headers}\n{lines}{check}\n-----END PGP {kind}-----\n".encode()


KEY = b"\x04" + bytes(range(40))
RING = packet(6, KEY) + packet(13, b"Some One <one@x.invalid>") + packet(2, b"sig") + packet(14, KEY + b"sub")


def test_crc24_is_the_one_of_the_standard() -> None:
    assert crc24(b"") == 0xB704CE
    assert crc24(b"123456789") == 0x21CF02


def test_old_and_new_packet_formats_name_the_same_key() -> None:
    new, old = load(packet(6, KEY)), load(packet(6, KEY, old=True))
    assert new.fingerprints == old.fingerprints
    assert len(new.fingerprints[0]) == 40 and new.fingerprints[0].isupper()


def test_a_keyring_lists_primary_keys_with_their_subkeys_and_users() -> None:
    ring = load(RING + packet(6, KEY + b"2"))
    assert len(ring.keys) == 2
    assert ring.keys[0].user_ids == ("Some One <one@x.invalid>",) and len(ring.keys[0].subkeys) == 1
    assert ring.keys[1] == Key(ring.fingerprints[1], (), ())


@pytest.mark.parametrize("crc", [True, False])
def test_armor_gives_the_same_keyring_with_words_around_it_and_blocks_in_a_row(crc: bool) -> None:
    text = (
        b"Dear operator,\n"
        + armor(RING, crc=crc, headers="Version: 1\nComment: x\n")
        + b"and\n"
        + armor(packet(6, KEY))
    )
    assert load(text).data == RING + packet(6, KEY)
    assert load(text.replace(b"\n", b"\r\n")).data == RING + packet(6, KEY)


def test_text_of_an_api_field_is_armor_or_base64() -> None:
    expected = load(RING)
    assert from_text(armor(RING).decode()) == expected
    assert from_text(base64.encodebytes(RING).decode()) == expected
    assert from_text(base64.b64encode(armor(RING)).decode()) == expected
    with pytest.raises(NotAKeyring, match="neither armor nor base64: 'nonsense!'"):
        from_text("nonsense!")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (packet(5, KEY), "a private key"),
        (packet(13, b"me"), "packet of type 13"),
        (packet(6, KEY) + packet(11, b"data"), "packet of type 11"),
        (packet(8, b"compressed"), "packet of type 8"),
        (packet(10, b"PGP"), "without a key"),
        (packet(6, b"\x03" + KEY), "version 3"),
        (packet(6, b""), "version 0"),
        (packet(6, KEY)[:-1], "cut off in the middle of a key"),
        (packet(6, KEY) + b"\x00", "no OpenPGP packet at byte 47"),
        (b"\xc6\xe1" + KEY, "unknown length"),
        (b"\x9b" + KEY, "unknown length"),
        (b"\xc6", "unknown length"),
        (armor(RING).replace(b"\n\n", b"\n\n!!!!\n"), "not base64"),
        (armor(RING, "MESSAGE"), "a PGP message"),
        (b" \n ", "an empty file"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(data: bytes, words: str) -> None:
    with pytest.raises(NotAKeyring) as caught:
        load(data, "ring.gpg")
    assert str(caught.value).startswith("ring.gpg: expected an OpenPGP public keyring (binary or ASCII-armored), got ")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_keyring_of_many_keys_is_described_briefly() -> None:
    ring = Keyring(b"", tuple(Key(str(number), (), ()) for number in range(6)))
    assert ring.describe() == "0, 1, 2, 3 and 2 more"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_keyring_or_one_sentence(data: bytes) -> None:
    for candidate in (
        data,
        b"\xc6" + data,
        packet(6, b"\x04" + data) + data,
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n" + data,
    ):
        try:
            ring = load(candidate)
        except NotAKeyring as error:
            assert "\n" not in str(error)
        else:
            assert ring.keys


@given(st.binary(min_size=1, max_size=2000), st.booleans())
def test_dearmor_undoes_armor(data: bytes, crc: bool) -> None:
    assert dearmor(armor(data, crc=crc)) == data
