"""Reports of transfers: what a rack tells its region of TFTP and HTTP transfers that have ended, made and checked in
one file, so that both ends agree.

    body = zstd(JSON)
    JSON = {"format": "bootplane-transfers:1", "start": 16 hex, "sent": Unix s, "lost": int, "told": int,
            "transfers": [{"seq": int, "at": Unix s, "protocol": "tftp", ...}, ...]}

*start* names this start of the rack process and *seq* counts its transfers from 1: the two make a repeated batch add
nothing. *lost* counts what this start could not keep, *told* how much of that a region has acknowledged already.

Invariants: a body is bounded before it is decompressed and after; one bad transfer is refused in one sentence and costs
the others nothing; every text that passes is printable, every number finite and in its range.

Left to others: whose machine it was (machines), transport and repetition (reports, region_client), storage (control).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import zstandard

FORMAT = "bootplane-transfers:1"
BATCH_TRANSFERS = 500
MAX_BODY_BYTES = 256 << 10  # compressed; 500 transfers are about 20 KiB
MAX_DOCUMENT_BYTES = 2 << 20  # decompressed; 500 transfers with the longest names are 0.5 MiB
NAME_CHARACTERS = 512
MAX_AT = 4102444800.0  # the year 2100: a clock beyond it is broken

PROTOCOLS = ("tftp", "http")
OUTCOMES = ("complete", "aborted", "timeout", "cut", "refused", "probe")
SOURCES = ("", "hit", "miss", "coalesced", "dynamic")
KNOWN_BY = ("", "name", "neighbour", "memory")  # what the MAC was taken from

_MAX = (1 << 63) - 1
_START = re.compile(r"[0-9a-f]{16}\Z")
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}\Z")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")

_RANGES = {
    "seq": (1, _MAX),
    "port": (0, 65535),
    "status": (0, 65535),  # a TFTP client may end with any code
    "size": (-1, _MAX),
    "offset": (0, _MAX),
    "sent": (0, _MAX),
    "blksize": (0, 65535),
    "windowsize": (0, 65535),
    "packets": (0, _MAX),
    "retransmits": (0, _MAX),
    "duplicate_acks": (0, _MAX),
    "reused": (0, _MAX),
}
_WORDS = {"protocol": PROTOCOLS, "outcome": OUTCOMES, "source": SOURCES, "known_by": KNOWN_BY}
_LENGTHS = {"name": NAME_CHARACTERS, "agent": 64}
_FORMS = {"mac": _MAC, "uuid": _UUID}


class BatchError(ValueError):
    """A batch, or one transfer of it, is not what a rack of ours sends; one sentence."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One transfer. What the wire facts mean stands in core's ``Record``; a field at its default is not sent."""

    seq: int
    at: float  # when the request was read, Unix seconds by the rack's clock
    protocol: str
    address: str  # the machine's
    outcome: str
    seconds: float = 0.0  # from there to its end
    port: int = 0
    name: str = ""
    mac: str = ""
    known_by: str = ""
    uuid: str = ""
    status: int = 0
    size: int = -1
    offset: int = 0
    sent: int = 0
    source: str = ""
    blksize: int = 0
    windowsize: int = 0
    packets: int = 0
    retransmits: int = 0
    duplicate_acks: int = 0
    head: bool = False
    agent: str = ""
    reused: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    start: str
    sent: float  # Unix seconds by the rack's clock, as it left
    lost: int
    told: int
    transfers: tuple[Transfer, ...]
    refused: tuple[str, ...] = ()  # one sentence for each transfer that was left out


_DEFAULTS = {
    field.name: field.default for field in dataclasses.fields(Transfer) if field.default is not dataclasses.MISSING
}
_FIELDS = frozenset(field.name for field in dataclasses.fields(Transfer))
_REQUIRED = _FIELDS - _DEFAULTS.keys()


def encode(transfer: Transfer) -> bytes:
    """One transfer as JSON: a rack keeps it so until it is sent."""
    facts = {name: getattr(transfer, name) for name in _FIELDS}
    told = {name: value for name, value in facts.items() if name not in _DEFAULTS or value != _DEFAULTS[name]}
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()


def encode_batch(start: str, sent: float, lost: int, told: int, transfers: Iterable[bytes]) -> bytes:
    """The body of one batch, out of transfers that ``encode`` has made."""
    head = {"format": FORMAT, "start": start, "sent": sent, "lost": lost, "told": told}
    text = json.dumps(head)[:-1].encode() + b',"transfers":[' + b",".join(transfers) + b"]}"
    return zstandard.ZstdCompressor(level=3).compress(text)


def decode_batch(body: bytes) -> Batch:
    """Reads a body. Raises BatchError when nothing of it can be used."""
    document = _document(body)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        got = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise BatchError(f"transfers: expected format {FORMAT!r}, got {str(got)[:80]!r}")
    start, listed = document.get("start"), document.get("transfers")
    if not isinstance(start, str) or not _START.match(start):
        raise BatchError(f"transfers: expected 16 hex digits as start, got {str(start)[:80]!r}")
    if not isinstance(listed, list) or len(listed) > BATCH_TRANSFERS:
        got = f"{len(listed)}" if isinstance(listed, list) else type(listed).__name__
        raise BatchError(f"transfers: expected a list of at most {BATCH_TRANSFERS} transfers, got {got}")
    lost, told = (_whole(document, name, 0, _MAX, "transfers") for name in ("lost", "told"))
    sent = _seconds(document, "sent", MAX_AT, "transfers")
    taken: list[Transfer] = []
    refused: list[str] = []
    for number, item in enumerate(listed):
        try:
            taken.append(_transfer(item, f"transfer {number}"))
        except BatchError as error:
            refused.append(str(error))
    return Batch(start, sent, lost, told, tuple(taken), tuple(refused))


def printable(text: str) -> str:
    """*text* with what no terminal, log or database should meet as "?"."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _document(body: bytes) -> Any:
    if len(body) > MAX_BODY_BYTES:
        raise BatchError(f"transfers: expected at most {MAX_BODY_BYTES} bytes, got {len(body)}")
    try:
        if zstandard.frame_content_size(body) > MAX_DOCUMENT_BYTES:  # trusted by the decompressor over its own limit
            raise BatchError(f"transfers: expected at most {MAX_DOCUMENT_BYTES} bytes decompressed, got more")
        return json.loads(zstandard.ZstdDecompressor().decompress(body, max_output_size=MAX_DOCUMENT_BYTES))
    except BatchError:
        raise
    except (zstandard.ZstdError, ValueError, RecursionError) as error:
        raise BatchError(f"transfers: expected zstd-compressed JSON, got {str(error)[:200]}") from error


def _transfer(item: Any, what: str) -> Transfer:
    if not isinstance(item, dict):
        raise BatchError(f"{what}: expected an object, got {type(item).__name__}")
    odd = (item.keys() - _FIELDS) or (_REQUIRED - item.keys())
    if odd:
        raise BatchError(f"{what}: expected its fields and no other, got it wrong with {min(odd)[:80]!r}")
    _seconds(item, "at", MAX_AT, what)
    if "seconds" in item:
        _seconds(item, "seconds", MAX_AT, what)
    for name, (low, high) in _RANGES.items():
        if name in item:
            _whole(item, name, low, high, what)
    for name, words in _WORDS.items():
        if name in item and item[name] not in words:
            raise BatchError(f"{what}: expected {name} to be one of {', '.join(words)}, got {_shown(item[name])}")
    for name, characters in _LENGTHS.items():
        text = item.get(name, "")
        if not isinstance(text, str) or len(text) > characters or not text.isprintable():
            raise BatchError(f"{what}: expected {name} as at most {characters} printable characters")
    for name, form in _FORMS.items():
        if name in item and not (isinstance(item[name], str) and form.match(item[name])):
            raise BatchError(f"{what}: expected a {name}, got {_shown(item[name])}")
    if not isinstance(item.get("head", False), bool):
        raise BatchError(f"{what}: expected true or false as head, got {_shown(item['head'])}")
    return Transfer(**{**item, "address": _address(item["address"], what)})


def _address(value: Any, what: str) -> str:
    try:
        return str(ipaddress.ip_address(value)) if isinstance(value, str) else _no_address(value, what)
    except ValueError:
        return _no_address(value, what)


def _no_address(value: Any, what: str) -> str:
    raise BatchError(f"{what}: expected an IP address, got {_shown(value)}")


def _whole(item: dict[str, Any], name: str, low: int, high: int, what: str) -> int:
    value = item.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BatchError(f"{what}: expected {name} as a number from {low} to {high}, got {_shown(value)}")
    return value


def _seconds(item: dict[str, Any], name: str, high: float, what: str) -> float:
    value = item.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise BatchError(f"{what}: expected {name} in seconds, got {_shown(value)}")
    if not 0 <= value <= high:
        raise BatchError(f"{what}: expected {name} from 0 to {high:.0f} s, got {_shown(value)}")
    return float(value)


def _shown(value: Any) -> str:
    return repr(value)[:80]
