"""TFTP over a network that loses, repeats and reorders: every digest right, no more DATA than losses explain."""

from __future__ import annotations

import hashlib
import os

import pytest

from bootplane.core import tftp_load
from tests.fakes.tftp_client import serving

FILE = os.urandom(700_001)  # 491 blocks of 1428 bytes
BLOCKS = len(FILE) // 1428 + 1


def run(clients: int, windowsize: int, bad: dict[str, float], seed: int) -> tuple[int, int, int]:
    """(DATA sent, blocks there were to send, datagrams lost); all digests have been compared."""
    with serving({"kernel": FILE}) as rack:
        got = tftp_load.load(
            "127.0.0.1", rack.port, "kernel", clients=clients, transfers=clients, blksize=1428, windowsize=windowsize,
            verify_every=1, sha256=hashlib.sha256(FILE).hexdigest(), timeout_s=300, seed=seed, **bad,
        )  # fmt: skip
        assert (got.requests, got.verified, got.errors) == (clients, clients, 0), got.first_error
        counters = rack.counters()
    assert counters["tftp_timed_out"] == 0, counters
    assert counters["tftp_data"] - counters["tftp_retransmitted"] == clients * BLOCKS
    return counters["tftp_data"], clients * BLOCKS, got.lost


BAD = {"lose": 0.01, "repeat": 0.01, "swap": 0.01}


@pytest.mark.integration
@pytest.mark.parametrize("windowsize", [1, 4, 16])
def test_fifty_clients_on_a_bad_network_get_every_byte(windowsize: int) -> None:
    """The bound on DATA is loose: on a busy machine deadlines pass, of 200 ms, for which nothing was lost."""
    sent, blocks, lost = run(50, windowsize, BAD, seed=windowsize)
    assert lost > 50
    assert sent <= 2 * blocks


@pytest.mark.integration
@pytest.mark.parametrize("windowsize", [1, 16])
def test_a_network_that_repeats_everything_makes_nobody_send_twice(windowsize: int) -> None:
    """The Sorcerer's Apprentice (RFC 1123, 4.2.3.1): with each datagram doubled, each block is still sent once."""
    sent, blocks, lost = run(8, windowsize, {"repeat": 0.999}, seed=5)
    assert lost == 0
    assert sent <= 1.5 * blocks  # with the fault it would be twice, at least; a pause of 200 ms costs a window


@pytest.mark.soak
@pytest.mark.parametrize("windowsize", [1, 16])
def test_five_hundred_clients_on_a_bad_network_stay_within_the_bound(windowsize: int) -> None:
    sent, blocks, lost = run(500, windowsize, BAD, seed=2026)
    print(
        f"windowsize {windowsize}: {blocks} blocks, {lost} datagrams lost or late, {sent / blocks:.3f} DATA per block"
    )
    if windowsize == 1:
        assert sent <= blocks + lost + 2 * 500
    else:
        assert sent <= 1.3 * blocks
