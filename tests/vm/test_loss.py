"""Every 500th TFTP DATA packet is lost on the way: machines boot all the same, and little is sent twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.vm import expect, scenarios
from tests.vm.conftest import MakeLab
from tests.vm.lab import Lab
from tests.vm.scenarios import Scenario

pytestmark = pytest.mark.vm

EVERY = 500
SENT_PER_BLOCK = 1.3  # OVMF repeats an ACK for each stale packet of a window: 1.14 was seen with such losses
SENT_MORE = 8  # what one loss may cost in a file of a few blocks


def boot_with_losses(lab: Lab, chosen: Sequence[Scenario]) -> None:
    lab.network.lose_data(EVERY)
    guests = [lab.boot(scenario.firmware, scenario.lease, scenario.letter) for scenario in chosen]
    for guest in guests:
        expect.switched_off(lab, guest)
    blocks, packets = 0, 0
    for scenario, guest in zip(chosen, guests, strict=True):
        events = expect.whole_story(lab, scenario)
        shown = expect.failure(lab, guest, "see the timeline", events)
        assert not expect.missing(events, scenario.fetches), shown
        assert expect.report(events)[1]["sha256"] == lab.source.root_sha256, shown
        for event in expect.transfers(events, "tftp"):
            wanted = event["detail"]["size"] // event["detail"]["blksize"] + 1  # the last one is short, or empty
            sent = event["detail"]["packets"]
            assert wanted <= sent <= max(SENT_PER_BLOCK * wanted, wanted + SENT_MORE), (event, shown)
            blocks, packets = blocks + wanted, packets + sent
        lab.off(guest)
    # The wire's own count: the rack's words about its packets are true, and packets were lost.
    seen, lost = lab.network.losses()
    lab.network.lose_nothing()
    assert lost == seen // EVERY
    assert lost >= blocks // EVERY > 0
    assert packets <= seen <= SENT_PER_BLOCK * blocks + SENT_MORE * len(chosen)


def test_uefi_and_bios_machines_boot_with_every_500th_data_packet_lost(lab: Lab) -> None:
    boot_with_losses(lab, scenarios.LOSS)


def test_a_pxelinux_without_http_boots_by_tftp_alone_with_every_500th_data_packet_lost(make_lab: MakeLab) -> None:
    lab = make_lab([scenarios.PXELINUX_TFTP.lease], syslinux="syslinux-old")
    lab.up()
    lab.mirror()
    boot_with_losses(lab, [scenarios.PXELINUX_TFTP])
    lab.close()
