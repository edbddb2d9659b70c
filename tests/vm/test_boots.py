"""Real firmware boots from it: every scenario from power-on to the machine's own report, two machines at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.vm import expect, scenarios
from tests.vm.guests import Guest
from tests.vm.lab import Lab
from tests.vm.scenarios import Scenario

pytestmark = pytest.mark.vm

AT_A_TIME = 2


class Machines:
    """Switches the scenarios' machines on in the order of the tests, AT_A_TIME at once."""

    def __init__(self, lab: Lab, order: list[Scenario]) -> None:
        self._lab = lab
        self._waiting = order
        self._on: dict[str, Guest] = {}

    def run(self, scenario: Scenario) -> Guest:
        """The scenario's machine, which has switched itself off."""
        while scenario.letter not in self._on or (self._waiting and self._running() < AT_A_TIME):
            following = self._waiting.pop(0)
            self._on[following.letter] = self._lab.boot(following.firmware, following.lease, following.letter)
        expect.switched_off(self._lab, self._on[scenario.letter])
        return self._on[scenario.letter]

    def _running(self) -> int:
        return sum(guest.is_on for guest in self._on.values())

    def off(self) -> None:
        for guest in self._on.values():
            self._lab.off(guest)


@pytest.fixture(scope="module")
def machines(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Machines]:
    # Only those whose tests are to run.
    wanted = [
        item.callspec.params["scenario"]
        for item in request.session.items
        if item.path == request.path and isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]
    machines = Machines(lab, [scenario for scenario in scenarios.ALL if scenario in wanted])
    yield machines
    machines.off()


@pytest.mark.parametrize("scenario", scenarios.ALL, ids=[scenario.letter for scenario in scenarios.ALL])
def test_a_machine_boots_and_reports(lab: Lab, machines: Machines, scenario: Scenario) -> None:
    guest = machines.run(scenario)
    events = expect.whole_story(lab, scenario)
    shown = expect.failure(lab, guest, "see the timeline", events)

    # The rack saw what this firmware and its loaders fetch, in that order, and every byte of kernel and initrd.
    assert not expect.missing(events, scenario.fetches), shown
    for file in ("kernel", "initrd"):
        (fetched,) = [
            event
            for event in events
            if event["kind"] == "transfer"
            and event["name"].endswith(f"/boot-{file}")
            and event["outcome"] == "complete"
        ]
        size = lab.source.sizes[f"{file}-{scenario.arch}"]
        assert (fetched["detail"]["size"], fetched["detail"]["sent"]) == (size, size), shown
        assert fetched["address"] == scenario.lease.address, shown

    # The machine claimed its script's ticket once, and reported with it: the root image's bytes are this run's.
    assert [event["kind"] for event in events].count("ticket") == 1, shown
    report, said = expect.report(events)
    assert (report["name"], report["outcome"]) == ("hello", "SUCCESS"), shown
    assert report["address"] == said["address"] == scenario.lease.address, shown
    assert report["mac"] == said["mac"] == scenario.mac, shown
    # GRUB writes 01-52:54:..., PXELINUX and iPXE 01-52-54-...: initramfs-tools reads both.
    assert said["bootif"].lower().replace(":", "-") == "01-" + scenario.mac.replace(":", "-"), shown
    assert said["sha256"] == lab.source.root_sha256, shown
    assert said["secure_boot"] == scenario.secure_boot, shown
    assert said["second_get"] == "410", shown

    # The command line tells the same.
    assert json.loads(lab.cli("machine", "timeline", scenario.mac, "--json"))["events"] == events, shown

    if scenario.arch == "arm64":
        assert "Booting Linux on physical CPU" in guest.console, shown
