from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from bootplane.dataplane import catalogue, transfers
from bootplane.dataplane.addresses import HostPort
from bootplane.dataplane.catalogue import CatalogueError, PinnedKey
from bootplane.dataplane.region_client import RegionClient, RegionError, RegionRefused, RegionUnreachable, Taken
from tests.fakes.region import FakeRegion, chunks_of

DEAD = "http://127.0.0.1:9"  # discard: nobody listens there


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion({"kernel": b"k" * 3000}) as fake:
        yield fake


def client(region: FakeRegion, *urls: str) -> RegionClient:
    return RegionClient([*urls] or [region.url], region.token, timeout_s=5)


def test_the_catalogue_comes_with_its_signature_and_the_bulk_addresses(region: FakeRegion) -> None:
    answer = client(region).catalogue(0, 0)
    assert answer is not None
    signed, bulk = answer
    parsed = catalogue.open_signed(signed.body, signed.signature, PinnedKey(region.key.public_hex))
    assert parsed.version == 1
    assert bulk == [HostPort("127.0.0.1", region.bulk_port)]


def test_a_catalogue_that_has_not_changed_is_none(region: FakeRegion) -> None:
    assert client(region).catalogue(1, 0) is None


def test_a_long_poll_ends_when_the_catalogue_changes(region: FakeRegion) -> None:
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(client(region).catalogue(1, 25)))
    waiting.start()
    region.publish({"kernel": b"new"})
    waiting.join(timeout=20)
    assert not waiting.is_alive()
    assert found[0] is not None


def test_a_chunk_list_is_what_the_region_sends_and_none_when_it_has_no_such_blob(region: FakeRegion) -> None:
    (sha256,) = region.blobs
    assert client(region).chunks(sha256) == chunks_of(b"k" * 3000)
    assert client(region).chunks("0" * 64) is None


def test_a_boot_text_comes_with_its_signature(region: FakeRegion) -> None:
    region.texts["grub/grub.cfg-52:54:00:77:00:01"] = b"boot"
    answer = client(region).boot("grub/grub.cfg-52:54:00:77:00:01", "tftp", "10.0.0.9", "10.0.0.1:5248", "10.0.0.1:69")
    assert answer is not None
    PinnedKey(region.key.public_hex).check_boot("grub/grub.cfg-52:54:00:77:00:01", answer.body, answer.signature)
    with pytest.raises(CatalogueError):
        PinnedKey(region.key.public_hex).check_boot("grub/grub.cfg", answer.body, answer.signature)
    assert region.boots == [
        {
            "name": "grub/grub.cfg-52:54:00:77:00:01",
            "proto": "tftp",
            "peer": "10.0.0.9",
            "http": "10.0.0.1:5248",
            "tftp": "10.0.0.1:69",
        }
    ]
    assert client(region).boot("grub/grub.cfg", "http", "10.0.0.9", "h:1", "t:1") is None


def test_a_beat_brings_the_bulk_addresses(region: FakeRegion) -> None:
    assert client(region).beat({"rack": "rack-1"}) == ([HostPort("127.0.0.1", region.bulk_port)], None)
    assert region.beats == [{"rack": "rack-1"}]


def test_a_beat_brings_what_is_set_for_the_rack_unchecked(region: FakeRegion) -> None:
    region.settings = {"cache_bytes": -1, "for later": []}
    assert client(region).beat({}).settings == region.settings


def test_the_next_region_is_asked_when_one_is_gone_and_remembered(region: FakeRegion) -> None:
    asking = client(region, DEAD, region.url)
    assert asking.beat({}).bulk != []
    assert asking.urls == [region.url, DEAD]


def test_no_region_at_all_is_one_sentence_with_every_reason(region: FakeRegion) -> None:
    with pytest.raises(RegionUnreachable, match=r"no region reachable: http://127.0.0.1:9: .*refused"):
        client(region, DEAD).catalogue(0, 0)


def test_an_answer_that_is_none_is_a_sentence_with_status_and_text(region: FakeRegion) -> None:
    region.api_status = 500
    with pytest.raises(RegionError, match=r"catalogue of http://.*: expected 200 or 304, got 500 as told"):
        client(region).catalogue(0, 0)


def test_a_connection_the_region_closed_is_replaced_without_a_word(region: FakeRegion) -> None:
    asking = client(region)
    asking.beat({})
    region.stop()
    region.start()
    asking.beat({})
    assert len(region.beats) == 2


def test_the_secret_is_in_no_message(region: FakeRegion) -> None:
    region.api_status = 500
    with pytest.raises(RegionError) as caught:
        client(region).beat({})
    assert region.token.secret not in str(caught.value)


@pytest.mark.parametrize("url", ["10.0.0.1:5240", "ftp://10.0.0.1", "http://", "http://h:x", ""])
def test_a_region_that_is_no_url_is_one_sentence(region: FakeRegion, url: str) -> None:
    with pytest.raises(ValueError, match="region: expected http://HOST:PORT"):
        client(region, url)


BATCH = transfers.encode_batch(
    "ab" * 8, 1.0, 0, 0, [transfers.encode(transfers.Transfer(1, 1.0, "tftp", "::1", "cut"))]
)


def test_transfers_are_handed_over_and_what_is_refused_comes_back(region: FakeRegion) -> None:
    assert client(region).transfers(BATCH) == Taken(0, [])
    assert [transfer.outcome for batch in region.batches for transfer in batch.transfers] == ["cut"]
    bad = transfers.encode_batch("ab" * 8, 1.0, 0, 0, [b"7"])
    assert client(region).transfers(bad) == Taken(1, ["transfer 0: expected an object, got int"])


@pytest.mark.parametrize(
    ("status", "error"), [(400, RegionRefused), (413, RegionRefused), (422, RegionRefused), (401, RegionError)]
)
def test_transfers_that_must_not_be_sent_again_are_told_apart(
    region: FakeRegion, status: int, error: type[RegionError]
) -> None:
    region.transfers_status = status
    with pytest.raises(RegionError, match=f"expected 200, got {status}") as raised:
        client(region).transfers(BATCH)
    assert type(raised.value) is error


def test_a_token_that_nobody_knows_is_said_in_words(region: FakeRegion) -> None:
    region.transfers_status = 401
    with pytest.raises(RegionError, match="expected 200, got 401 for this rack's token, which it does not know"):
        client(region).transfers(BATCH)


def test_transfers_wait_for_a_region_that_fails_or_speaks_of_something_else(region: FakeRegion) -> None:
    region.transfers_status = 503
    with pytest.raises(RegionError, match="got 503"):
        client(region).transfers(BATCH)
    with pytest.raises(RegionUnreachable):
        client(region, DEAD).transfers(BATCH)
