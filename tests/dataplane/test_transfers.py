from __future__ import annotations

import json
from typing import Any

import pytest
import zstandard

from bootplane.dataplane import transfers
from bootplane.dataplane.transfers import BatchError, Transfer, decode_batch, encode, encode_batch, printable

START = "0123456789abcdef"
FACTS = Transfer(
    seq=7,
    at=1795000000.25,
    protocol="tftp",
    address="10.77.0.9",
    outcome="complete",
    seconds=1.8,
    port=25300,
    name="grub/grub.cfg-52:54:00:77:00:01",
    mac="52:54:00:77:00:01",
    known_by="name",
    size=2_100_000,
    sent=2_100_000,
    source="hit",
    blksize=1468,
    windowsize=4,
    packets=1434,
    retransmits=3,
    duplicate_acks=12,
)
PLAIN = Transfer(
    seq=8, at=1795000001, protocol="http", address="fd77::9", outcome="refused", status=404, agent="iPXE/1"
)


def packed(document: Any) -> bytes:
    return zstandard.ZstdCompressor().compress(json.dumps(document).encode())


def batch(*listed: Any, **change: Any) -> bytes:
    document = {"format": transfers.FORMAT, "start": START, "sent": 1795000002.5, "lost": 0, "told": 0}
    return packed(document | {"transfers": list(listed)} | change)


def one(**change: Any) -> dict[str, Any]:
    return dict(json.loads(encode(FACTS))) | change


def test_a_batch_comes_out_as_it_went_in() -> None:
    body = encode_batch(START, 1795000002.5, 9, 4, [encode(FACTS), encode(PLAIN)])
    found = decode_batch(body)
    assert (found.start, found.sent, found.lost, found.told) == (START, 1795000002.5, 9, 4)
    assert found.transfers == (FACTS, PLAIN) and found.refused == ()


def test_a_field_at_its_default_costs_nothing() -> None:
    assert json.loads(encode(PLAIN)).keys() == {"seq", "at", "protocol", "address", "outcome", "status", "agent"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seq": 0}, "transfer 1: expected seq as a number from 1 to 9223372036854775807, got 0"),
        ({"seq": True}, "got True"),
        ({"seq": 1 << 63}, "got 9223372036854775808"),
        ({"at": -1}, "transfer 1: expected at from 0 to 4102444800 s, got -1"),
        ({"at": float("nan")}, "expected at in seconds, got nan"),
        ({"at": "now"}, "expected at in seconds, got 'now'"),
        ({"seconds": float("inf")}, "expected seconds in seconds, got inf"),
        ({"protocol": "gopher"}, "expected protocol to be one of tftp, http, got 'gopher'"),
        ({"outcome": []}, "expected outcome to be one of"),
        ({"source": "thin air"}, "expected source to be one of"),
        ({"known_by": "rumour"}, "expected known_by to be one of"),
        ({"address": "machine 9"}, "expected an IP address, got 'machine 9'"),
        ({"address": 7}, "expected an IP address, got 7"),
        ({"port": 65536}, "expected port as a number from 0 to 65535, got 65536"),
        ({"status": 65536}, "expected status"),
        ({"size": -2}, "expected size as a number from -1"),
        ({"sent": -1}, "expected sent"),
        ({"retransmits": 1.5}, "expected retransmits as a number"),
        ({"mac": "52-54-00-77-00-01"}, "expected a mac, got '52-54-00-77-00-01'"),
        ({"mac": None}, "expected a mac, got None"),
        ({"uuid": "x"}, "expected a uuid, got 'x'"),
        ({"name": "a\0b"}, "expected name as at most 512 printable characters"),
        ({"name": "\ud800"}, "expected name as"),
        ({"name": "x" * 513}, "expected name as"),
        ({"agent": "x" * 65}, "expected agent as at most 64"),
        ({"head": 1}, "expected true or false as head, got 1"),
        ({"surprise": 1}, "expected its fields and no other, got it wrong with 'surprise'"),
    ],
)
def test_a_bad_transfer_is_refused_in_one_sentence_and_the_others_are_kept(
    change: dict[str, Any], sentence: str
) -> None:
    found = decode_batch(batch(one(), one(**change), one(seq=9)))
    assert [each.seq for each in found.transfers] == [7, 9]
    [refused] = found.refused
    assert sentence in refused and "\n" not in refused


@pytest.mark.parametrize("field", ["seq", "at", "protocol", "address", "outcome"])
def test_a_transfer_without_what_every_one_has_is_refused(field: str) -> None:
    item = one()
    del item[field]
    assert f"got it wrong with '{field}'" in decode_batch(batch(item)).refused[0]


def test_what_is_no_object_is_no_transfer() -> None:
    assert decode_batch(batch([], 1, None)).refused == (
        "transfer 0: expected an object, got list",
        "transfer 1: expected an object, got int",
        "transfer 2: expected an object, got NoneType",
    )


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "expected zstd-compressed JSON"),
        (b"{}", "expected zstd-compressed JSON"),
        (packed([]), "expected format 'bootplane-transfers:1', got 'list'"),
        (packed({"format": "other"}), "got 'other'"),
        (batch(start="x"), "expected 16 hex digits as start, got 'x'"),
        (batch(sent=None), "expected sent in seconds, got None"),
        (batch(lost=-1), "expected lost as a number"),
        (batch(told="1"), "expected told as a number"),
        (batch(transfers={}), "expected a list of at most 500 transfers, got dict"),
        (batch(*[{}] * 501), "expected a list of at most 500 transfers, got 501"),
        (zstandard.ZstdCompressor().compress(b"[" * 100_000), "expected zstd-compressed JSON"),
        (zstandard.ZstdCompressor().compress(b"9" * 100_000), "expected zstd-compressed JSON"),
        (b"x" * (256 * 1024 + 1), "expected at most 262144 bytes, got 262145"),
        (zstandard.ZstdCompressor().compress(b" " * (3 << 20)), "expected at most 2097152 bytes decompressed"),
        (
            zstandard.ZstdCompressor(write_content_size=False).compress(b" " * (3 << 20)),
            "expected zstd-compressed JSON",
        ),
    ],
)
def test_a_body_that_makes_no_sense_is_one_sentence(body: bytes, sentence: str) -> None:
    with pytest.raises(BatchError) as refused:
        decode_batch(body)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_a_full_batch_with_the_longest_names_is_within_its_limits() -> None:
    names = ["\xe4" * 255] * transfers.BATCH_TRANSFERS
    listed = [encode(Transfer(n + 1, 1.0, "tftp", "fd77::9", "refused", name=name)) for n, name in enumerate(names)]
    assert len(decode_batch(encode_batch(START, 1.0, 0, 0, listed)).transfers) == transfers.BATCH_TRANSFERS


def test_what_a_terminal_should_not_meet_becomes_a_question_mark() -> None:
    assert printable("caf\xe9 \x1b[2J\x85\n") == "caf\xe9 ?[2J??"
    assert printable("plain") == "plain"
