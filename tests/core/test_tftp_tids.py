"""The memory of past TIDs: the latest of each client for 30 s, oldest forgotten first."""

from __future__ import annotations

import random

from bootplane.core.tftp_tids import TidsProbe


def test_a_client_is_remembered_for_thirty_seconds() -> None:
    tids = TidsProbe(16)
    tids.rest(7, 3, now=100.0)
    assert tids.last(7, now=129.9) == 3
    assert tids.last(7, now=130.0) is None
    assert tids.last(8, now=100.0) is None


def test_the_latest_transfer_counts() -> None:
    tids = TidsProbe(16)
    for i, tid in enumerate((0, 1, 2)):
        tids.rest(7, tid, now=float(i))
    assert tids.last(7, now=3.0) == 2


def test_a_full_ring_forgets_the_oldest_and_nothing_else() -> None:
    tids = TidsProbe(16)
    for peer in range(1, 40):
        tids.rest(peer, peer % 4, now=1.0)
    assert [tids.last(peer, now=1.0) for peer in range(1, 24)] == [None] * 23
    assert [tids.last(peer, now=1.0) for peer in range(24, 40)] == [peer % 4 for peer in range(24, 40)]


def test_against_a_dictionary() -> None:
    rng = random.Random(3)
    tids, now = TidsProbe(1024), 0.0
    model: dict[int, tuple[int, float]] = {}
    for _ in range(20000):
        now += rng.random() * 0.1  # about 600 end in 30 s
        peer = rng.randrange(300)
        past = model.get(peer)
        expected = past[0] if past and now < past[1] + 30.0 - 1e-6 else None
        if past is None or abs(now - past[1] - 30.0) > 1e-6:
            assert tids.last(peer, now) == expected
        tid = rng.randrange(4)
        tids.rest(peer, tid, now)
        model[peer] = (tid, now)
