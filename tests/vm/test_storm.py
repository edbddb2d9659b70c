"""Sixteen machines at once, as far as the kernel: each has loaded it, and all of them fit in 1 GB of this host."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.vm import expect, guests, scenarios
from tests.vm.conftest import MakeLab
from tests.vm.scenarios import Fetch

pytestmark = [pytest.mark.vm, pytest.mark.storm]

HOST_BYTES = 1_000_000_000  # of all QEMU processes together


def test_sixteen_machines_load_the_kernel_at_once_within_a_gigabyte(
    make_lab: MakeLab, say: Callable[[str], None]
) -> None:
    lab = make_lab(list(scenarios.STORM))
    lab.up()
    lab.mirror()
    machines = [lab.boot(guests.SMALL_BIOS, lease) for lease in scenarios.STORM]
    kernel = scenarios.image("amd64", "boot-kernel")
    waiting, most = list(machines), 0
    while waiting:
        most = max(most, sum(guest.pss_bytes() for guest in waiting))
        for guest in waiting.copy():
            events = lab.timeline(guest.mac)
            loaded = [
                event
                for proto in ("http", "tftp")
                for event in events
                if expect.is_complete(event, Fetch(proto, kernel))
            ]
            if loaded:
                assert loaded[0]["detail"]["sent"] == lab.source.sizes["kernel-amd64"]
                lab.off(guest)
                waiting.remove(guest)
            elif not guest.is_on:
                pytest.fail(expect.failure(lab, guest, "went off before it had loaded the kernel", events))
        time.sleep(0.5)
    say(f"{len(machines)} machines: {most / 1e6:.0f} MB of host memory")
    assert most <= HOST_BYTES
