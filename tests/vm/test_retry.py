"""Nothing to boot, then no region: each boot loader says why and whose rack it is, asks again, and boots when it can.

GRUB, PXELINUX and iPXE run their retry scripts for real, side by side.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.vm import content, expect, scenarios
from tests.vm.conftest import MakeLab
from tests.vm.guests import Guest
from tests.vm.lab import HTTP

pytestmark = pytest.mark.vm


class Console:
    """What a machine says from now on, without white space: a screen of 80 columns breaks sentences anywhere."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self._heard = len(self._squeezed())

    def all(self, *sentences: str) -> Callable[[], bool]:
        return lambda: all("".join(sentence.split()) in self._squeezed()[self._heard :] for sentence in sentences)

    def _squeezed(self) -> str:
        return "".join(self.guest.console.split())


def test_loaders_say_why_they_wait_and_boot_when_they_can(make_lab: MakeLab) -> None:
    lab = make_lab([scenario.lease for scenario in scenarios.RETRY])
    region = lab.apart()
    lab.mirror(image=False)
    machines = {scenario: lab.boot(scenario.firmware, scenario.lease, scenario.letter) for scenario in scenarios.RETRY}
    for says in [Console(guest) for guest in machines.values()]:
        why = says.all("no bootable image", f"rack {HTTP}")
        expect.until(lab, says.guest, "the reason on the console", why)

    lab.end(region)
    for says in [Console(guest) for guest in machines.values()]:
        why = says.all("the region cannot be reached", HTTP)
        expect.until(lab, says.guest, "the missing region on the console", why)

    lab.region()
    lab.select(content.OS, content.RELEASE, "amd64")
    for scenario, guest in machines.items():
        expect.switched_off(lab, guest)
        events = expect.whole_story(lab, scenario)
        shown = expect.failure(lab, guest, "see the timeline", events)
        assert not expect.missing(events, scenario.fetches), shown
        assert expect.report(events)[1]["sha256"] == lab.source.root_sha256, shown
        lab.off(guest)
