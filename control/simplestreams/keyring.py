"""OpenPGP keyrings: what an operator gives (a file's bytes, pasted armor), made into what gpgv reads.

gpgv cannot read armor and says only "no public key" for it, and for anything else that is no keyring. So the armor is
undone here, with its checksum (RFC 4880, 6), and the packets are walked (RFC 4880, 4.2) far enough to know that there
are public keys and which: a wrong file is refused when it is given, in words, and not at the next sync.

Invariant: ``Keyring.data`` is binary, whole packets only, with at least one primary public key and no secret one.
Left to others: whether a key is expired, revoked or weak: gpgv decides that when it checks a signature (signature).
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from bootplane.control.simplestreams.errors import NotAKeyring, shown

KEYRING_BYTES = 4 << 20  # Canonical's has 4 KiB
FINGERPRINTS_SHOWN = 4

_PUBLIC_KEY, _PUBLIC_SUBKEY, _USER_ID = 6, 14, 13
_SECRET = {5, 7}
_IN_A_KEYRING = {2, 6, 10, 12, 13, 14, 17, 21}  # signature, keys, marker, trust, user ids and attributes, padding
_BEGIN = re.compile(rb"^-----BEGIN PGP ([A-Z0-9 ,/]+)-----[ \t\r]*$", re.MULTILINE)
_CRC24_INITIAL, _CRC24_POLYNOMIAL = 0xB704CE, 0x1864CFB


@dataclass(frozen=True, slots=True)
class Key:
    fingerprint: str  # of the primary key, upper-case hex as gpgv prints it
    subkeys: tuple[str, ...]
    user_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Keyring:
    data: bytes
    keys: tuple[Key, ...]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        return tuple(key.fingerprint for key in self.keys)

    def describe(self) -> str:
        """The fingerprints for a sentence, the first few when there are many."""
        more = len(self.keys) - FINGERPRINTS_SHOWN
        listed = ", ".join(self.fingerprints[:FINGERPRINTS_SHOWN])
        return f"{listed} and {more} more" if more > 0 else listed


def load(data: bytes, where: str = "keyring") -> Keyring:
    """The keyring in *data*, binary or ASCII-armored. Raises NotAKeyring in one sentence that begins with *where*."""
    if not data.strip():
        _refuse(where, "an empty file")
    if len(data) > KEYRING_BYTES:
        _refuse(where, f"{len(data)} bytes (at most {KEYRING_BYTES})")
    if not data[0] & 0x80:  # every binary packet begins with this bit set, no text does
        data = dearmor(data, where)
    return Keyring(data, tuple(_keys(data, where)))


def from_text(text: str, where: str = "keyring") -> Keyring:
    """The keyring in a text field: armor as pasted, or base64 of either form."""
    if "-----BEGIN" in text:
        return load(text.encode("utf-8", "replace"), where)
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        _refuse(where, f"neither armor nor base64: {shown(text.strip(), 40)!r}")
    return load(data, where)


def dearmor(text: bytes, where: str = "keyring") -> bytes:
    """The binary content of every public key block in *text*; words around the blocks are passed over."""
    out = []
    end = 0
    while begin := _BEGIN.search(text, end):
        kind = begin[1]
        if kind != b"PUBLIC KEY BLOCK":
            _refuse(where, f"a PGP {shown(kind).lower()}")
        last = re.compile(rb"^-----END PGP " + kind + rb"-----[ \t\r]*$", re.MULTILINE).search(text, begin.end())
        if last is None:
            _refuse(where, "armor that is cut off before its END line")
        out.append(_armored(text[begin.end() : last.start()], where))
        end = last.end()
    if not out:
        _refuse(where, _what_instead(text))
    return b"".join(out)


def _armored(block: bytes, where: str) -> bytes:
    lines = [line.strip() for line in block.split(b"\n")][1:]  # the rest of the BEGIN line is the first
    while lines and b":" in lines[0]:  # armor headers: Version, Comment, Hash
        del lines[0]
    body = [line for line in lines if line]
    crc = body.pop() if body and body[-1].startswith(b"=") and len(body[-1]) == 5 else b""
    try:
        data = base64.b64decode(b"".join(body), validate=True)
        expected = int.from_bytes(base64.b64decode(crc[1:], validate=True), "big") if crc else None
    except (binascii.Error, ValueError):
        _refuse(where, "armor that is not base64")
    if expected is not None and crc24(data) != expected:  # RFC 9580 lets it be absent, not be wrong
        _refuse(where, f"armor with a wrong checksum (expected {expected:06x}, got {crc24(data):06x})")
    return data


def _what_instead(text: bytes) -> str:
    start = text.lstrip()[:200]
    if start[:1] == b"<":
        return "HTML or XML"
    if text[8:12] == b"KBXf":
        return "a GnuPG keybox: export it with `gpg --export`"
    return f"no OpenPGP data: it begins with {shown(start, 30)!r}"


def crc24(data: bytes) -> int:
    """RFC 4880, 6.1."""
    table = _crc24_table()
    crc = _CRC24_INITIAL
    for byte in data:
        crc = ((crc << 8) ^ table[(crc >> 16) ^ byte]) & 0xFFFFFF
    return crc


@functools.cache
def _crc24_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= _CRC24_POLYNOMIAL
        table.append(crc)
    return tuple(table)


def _keys(data: bytes, where: str) -> list[Key]:
    keys: list[tuple[str, list[str], list[str]]] = []
    for tag, body in _packets(data, where):
        if tag in _SECRET:
            _refuse(where, "a private key, which must not leave its owner: export the public one")
        if tag not in _IN_A_KEYRING or (not keys and tag not in (_PUBLIC_KEY, 10)):
            _refuse(where, f"an OpenPGP packet of type {tag} that has no place there")
        if tag == _PUBLIC_KEY:
            keys.append((_fingerprint(body, where), [], []))
        elif tag == _PUBLIC_SUBKEY:
            keys[-1][1].append(_fingerprint(body, where))
        elif tag == _USER_ID:
            keys[-1][2].append(shown(body))
    if not keys:
        _refuse(where, "OpenPGP data without a key")
    return [Key(fingerprint, tuple(subkeys), tuple(users)) for fingerprint, subkeys, users in keys]


def _packets(data: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """(tag, body) of every packet: RFC 4880, 4.2. Partial and indeterminate lengths never occur in a keyring."""
    at = 0
    while at < len(data):
        first = data[at]
        head = data[at + 1 : at + 6]
        if not first & 0x80:
            _refuse(where, f"no OpenPGP packet at byte {at}")
        if first & 0x40:  # new format
            tag = first & 0x3F
            octet = head[0] if head else 0xFE
            if octet < 192:
                used, length = 1, octet
            elif octet < 224:
                used, length = 2, ((octet - 192) << 8) + (head[1] if len(head) > 1 else 0) + 192
            elif octet == 255:
                used, length = 5, int.from_bytes(head[1:5], "big")
            else:
                _refuse(where, f"an OpenPGP packet of unknown length at byte {at}")
        else:
            tag = (first >> 2) & 0x0F
            used = (1, 2, 4, 0)[first & 3]
            if not used:
                _refuse(where, f"an OpenPGP packet of unknown length at byte {at}")
            length = int.from_bytes(head[:used], "big")
        start = at + 1 + used
        if start + length > len(data):
            _refuse(where, f"{len(data)} bytes, cut off in the middle of a key (packet at byte {at})")
        yield tag, data[start : start + length]
        at = start + length


def _fingerprint(body: bytes, where: str) -> str:
    version = body[0] if body else 0
    if version == 4:
        digest = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False)
        return digest.hexdigest().upper()
    if version in (5, 6):
        digest = hashlib.sha256((b"\x9a" if version == 5 else b"\x9b") + len(body).to_bytes(4, "big") + body)
        return digest.hexdigest().upper()
    _refuse(where, f"an OpenPGP key of version {version}, which nothing supports any more")


def _refuse(where: str, got: str) -> NoReturn:
    raise NotAKeyring(f"{where}: expected an OpenPGP public keyring (binary or ASCII-armored), got {got}")
