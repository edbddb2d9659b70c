"""A machine that boots and says so, on one connection to `bootplane up`: every part as an operator has it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootplane.control.simplestreams.signer import Signer
from tests.fakes.handover import MAC, MACHINE, Machine, eventually
from tests.fakes.http_client import Response as Answer
from tests.fakes.mirror import publish_small, serve

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """`bootplane up` with one release of the small boot source: its data directory, and where it listens."""
    folder = tmp_path_factory.mktemp("up")
    data = folder / "data"
    with Signer.generate(folder / "gnupg", algorithm="ed25519") as signer:
        publish_small(folder / "mirror", signer)
        (folder / "keyring.gpg").write_bytes(signer.public())
    options = [part for name in ("listen", "bulk", "http", "tftp") for part in (f"--{name}", "127.0.0.1:0")]
    argv = [sys.executable, "-m", "bootplane", "up", "--data", str(data), *options]
    with (
        serve(folder / "mirror") as mirror,
        subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process,
    ):
        try:
            assert process.stdout is not None
            word, *places = process.stdout.readline().split()
            assert word == "ready"
            command(data, "source", "add", mirror.url, "--keyring", str(folder / "keyring.gpg"))
            command(data, "select", "add", "ubuntu", "noble", "--arch", "amd64")
            command(data, "sync", "--wait")
            yield data, dict(place.split("=") for place in places)
        finally:
            process.terminate()
            assert process.wait(30) == 0


def command(data: Path, *words: str) -> str:
    argv = [sys.executable, "-m", "bootplane", *words, "--data", str(data)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def timeline(data: Path, region: str, machine: str) -> list[dict[str, Any]]:
    with Machine(int(region.rpartition(":")[2]), "127.0.0.1") as operator:
        token = (data / "admin-token").read_text().strip()
        answer = operator.get(f"/api/v1/machines/{machine}/timeline", f"Authorization: Bearer {token}")
        assert answer.status == 200, answer
        events: list[dict[str, Any]] = json.loads(answer.body)["events"]
        return events


def test_a_machine_boots_and_says_so_on_one_connection(up: tuple[Path, dict[str, str]]) -> None:
    data, ready = up
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


def test_a_ticket_is_good_when_the_region_was_killed_while_its_machine_booted(up: tuple[Path, dict[str, str]]) -> None:
    data, ready = up
    with Machine(int(ready["http"].rpartition(":")[2])) as machine:
        script = machine.get(f"/grub/grub.cfg-{MAC}").body.decode()
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
