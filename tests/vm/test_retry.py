"""Nothing to boot, then no region: each boot loader says why and whose rack it is, asks again, and boots when it can.

GRUB, PXELINUX and iPXE run their retry scripts for real, side by side.
"""

from __future__ import annotations

import pytest

from tests.vm import content, expect, scenarios
from tests.vm.conftest import MakeLab
from tests.vm.guests import Guest
from tests.vm.lab import HTTP

pytestmark = pytest.mark.vm


def squeezed(guest: Guest) -> str:
    """The console without white space: a screen of 80 columns breaks sentences anywhere."""
    return "".join(guest.console.split())


def says(guest: Guest, *sentences: str, after: int = 0) -> bool:
    text = squeezed(guest)[after:]
    return all("".join(sentence.split()) in text for sentence in sentences)


def test_loaders_say_why_they_wait_and_boot_when_they_can(make_lab: MakeLab) -> None:
    lab = make_lab([scenario.lease for scenario in scenarios.RETRY])
    region = lab.apart()
    lab.mirror(image=False)
    machines = {scenario: lab.boot(scenario.firmware, scenario.lease, scenario.letter) for scenario in scenarios.RETRY}
    for guest in machines.values():
        expect.until(
            lab, guest, "the reason on the console",
            lambda guest=guest: says(guest, "no bootable image", f"rack {HTTP}"),
        )  # fmt: skip

    lab.end(region)
    heard = {scenario: len(squeezed(guest)) for scenario, guest in machines.items()}
    for scenario, guest in machines.items():
        expect.until(
            lab, guest, "the missing region on the console",
            lambda guest=guest, after=heard[scenario]: says(guest, "the region cannot be reached", HTTP, after=after),
        )  # fmt: skip

    lab.region()
    lab.select(content.OS, content.RELEASE, "amd64")
    for scenario, guest in machines.items():
        expect.switched_off(lab, guest)
        events = expect.whole_story(lab, scenario)
        shown = expect.failure(lab, guest, "see the timeline", events)
        assert not expect.missing(events, scenario.fetches), shown
        assert expect.report(events)[1]["sha256"] == lab.source.root_sha256, shown
        lab.off(guest)
