"""Every 500th TFTP DATA packet is lost on the way: machines boot all the same, and little is sent twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm import expect, scenarios
from tests.vm.lab import Lab

pytestmark = pytest.mark.vm

EVERY = 500
SENT_PER_BLOCK = 1.3  # OVMF repeats an ACK for each stale packet of a window: 1.14 was seen with such losses


@pytest.fixture
def loss(lab: Lab) -> Iterator[None]:
    lab.network.lose_data(EVERY)
    yield
    lab.network.lose_nothing()


def test_every_500th_data_packet_lost_costs_little(lab: Lab, loss: None) -> None:
    guests = [lab.boot(scenario.firmware, scenario.lease, scenario.letter) for scenario in scenarios.LOSS]
    for guest in guests:
        expect.switched_off(lab, guest)
    for scenario, guest in zip(scenarios.LOSS, guests, strict=True):
        events = expect.whole_story(lab, scenario)
        shown = expect.failure(lab, guest, "see the timeline", events)
        assert not expect.missing(events, scenario.fetches), shown
        assert [event["kind"] for event in events].count("report") == 1, shown
        for event in expect.transfers(events, "tftp"):
            detail = event["detail"]
            blocks = detail["size"] // detail["blksize"] + 1  # the last one is short, or empty
            assert blocks <= detail["packets"] <= max(SENT_PER_BLOCK * blocks, blocks + 8), (event, shown)
        lab.off(guest)
    seen, lost = lab.network.losses()
    assert lost == seen // EVERY
    assert lost > 0, f"expected packets to be lost, got {lost} of {seen}"
