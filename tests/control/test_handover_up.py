"""A machine that boots and says so, on one connection to `bootplane up`: every part as an operator has it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.handover import MAC, MACHINE, Machine, eventually
from tests.fakes.http_client import Response as Answer
from tests.fakes.up import Site, up

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
OTHER_MAC, OTHER_MACHINE = "52:54:00:77:00:02", "127.0.0.3"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with up(tmp_path_factory.mktemp("up")) as found:
        yield found


def timeline(data: Path, region: str, machine: str) -> list[dict[str, Any]]:
    with Machine(int(region.rpartition(":")[2]), "127.0.0.1") as operator:
        token = (data / "admin-token").read_text().strip()
        answer = operator.get(f"/api/v1/machines/{machine}/timeline", f"Authorization: Bearer {token}")
        assert answer.status == 200, answer
        events: list[dict[str, Any]] = json.loads(answer.body)["events"]
        return events


def test_a_machine_boots_and_says_so_on_one_connection(site: Site) -> None:
    data, ready = site.data, site.ready
    lies = ("X-Forwarded-For: 6.6.6.6", "Bootplane-Rack: " + "00" * 32)
    with Machine(int(ready["http"].rpartition(":")[2])) as machine:
        script = machine.get(f"/grub/grub.cfg-{MAC}").body.decode()
        ticket = re.search(rf"bootplane=http://{re.escape(ready['http'])}(/MAAS/metadata/boot/[A-Za-z0-9_-]+)", script)
        kernel = re.search(r"/images/\S+/boot-kernel", script)
        assert ticket is not None and kernel is not None, script
        bytes_of_kernel = machine.get(kernel[0]).body
        facts = machine.get(ticket[1], *lies).body.decode().splitlines()
        assert facts[2:] == [f"mac: {MAC}", f"address: {MACHINE}"]
        assert machine.post(ticket[1], {"name": "up", "result": "SUCCESS"}, *lies).status == 204
        assert machine.get(kernel[0]).body == bytes_of_kernel
        assert machine.get(ticket[1]).status == 410
    with Machine(
        int(ready["region"].rpartition(":")[2]), "127.0.0.1"
    ) as liar:  # where a proxy might stand, and no rack
        assert liar.post(ticket[1], {"name": "lie"}, *lies).status == 204

    def told() -> list[tuple[str, str]]:
        events = timeline(data, ready["region"], MAC)
        return [
            (event["kind"], event["address"]) for event in events if event["kind"] in ("config", "ticket", "report")
        ]

    eventually(lambda: len(told()) >= 4, 60)
    assert told() == [("config", MACHINE), ("ticket", MACHINE), ("report", MACHINE), ("report", "127.0.0.1")]


def test_a_ticket_is_good_when_the_region_was_killed_while_its_machine_booted(site: Site) -> None:
    data, ready = site.data, site.ready
    with Machine(int(ready["http"].rpartition(":")[2]), OTHER_MACHINE) as machine:
        script = machine.get(f"/grub/grub.cfg-{OTHER_MAC}").body.decode()
        ticket = re.search(r"/MAAS/metadata/boot/[A-Za-z0-9_-]+", script)
        assert ticket is not None, script
        before = (data / "region.lock").read_text()
        os.kill(int(before), signal.SIGKILL)
        answers: list[Answer] = []

        def is_back() -> bool:
            answers.append(machine.get(ticket[0]))
            return answers[-1].status != 503

        eventually(is_back, 90)
        assert (answers[-1].status, (data / "region.lock").read_text() != before) == (200, True)
        assert all(answer.headers["retry-after"] for answer in answers[:-1])  # and the connection stayed
        assert machine.post(ticket[0], {"name": "up"}).status == 204
