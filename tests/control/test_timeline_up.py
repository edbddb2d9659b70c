"""The boot timeline through `bootplane up`: stock clients fetch, the operator asks what the machine did.

Every process as an operator has it. A request for a configuration by MAC names what its address has done before; a
region that is killed while machines fetch loses nothing of it and doubles nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.up import Site, up

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
MAC = "52:54:00:77:00:01"
MACHINE, OTHER = "127.0.0.1", "127.0.0.9"  # where clients are


def tftp_get(site: Site, name: str, target: Path) -> None:
    argv = ["tftp", "-m", "binary", *site.tftp, "-c", "get", name, str(target)]
    subprocess.run(argv, check=True, timeout=60, stdin=subprocess.DEVNULL, capture_output=True)


def events_of(site: Site, machine: str, is_enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """What `machine timeline` has of *machine*, once it is enough."""

    def look() -> list[dict[str, Any]]:
        done = site.command("machine", "timeline", machine, "--json")
        found: list[dict[str, Any]] = json.loads(done.stdout)["events"] if done.returncode == 0 else []
        return found

    return site.eventually(look, is_enough)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if shutil.which("tftp") is None:
        assert "CI" not in os.environ, "tftp is missing, and CI must have it"
        pytest.skip("tftp is not on this machine")
    with up(tmp_path_factory.mktemp("site"), "--no-share") as found:
        yield found


@pytest.fixture(scope="module")
def fetched(site: Site, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, str, int]]:
    """What a machine has fetched: (protocol, name, outcome, bytes), in order."""
    folder = tmp_path_factory.mktemp("fetched")
    image = site.json("image", "show", "ubuntu/noble/amd64/ga-24.04")
    names = {file["ftype"]: (file["names"][0], file["size"]) for file in image["files"]}
    kernel, root = names["boot-kernel"], names["squashfs"]
    tftp_get(site, "bootx64.efi", folder / "loader")
    tftp_get(site, "revocations_sku.efi", folder / "nothing")
    tftp_get(site, kernel[0], folder / "kernel")
    site.curl(root[0])
    site.curl(root[0], "--range", "100-199")
    site.curl("nobody")
    return [
        ("tftp", "bootx64.efi", "complete", (folder / "loader").stat().st_size),
        ("tftp", "revocations_sku.efi", "refused", 0),
        ("tftp", kernel[0], "complete", kernel[1]),
        ("http", root[0], "complete", root[1]),
        ("http", root[0], "complete", 100),
        ("http", "nobody", "refused", 0),
    ]


def facts(events: list[dict[str, Any]]) -> list[tuple[str, str, str, int]]:
    return [
        (event["detail"]["protocol"], event["name"], event["outcome"], event["detail"].get("sent", 0))
        for event in events
        if event["kind"] == "transfer"
    ]


def test_what_an_address_fetched_is_listed_in_order_and_a_configuration_by_mac_names_it(
    site: Site, fetched: list[Any]
) -> None:
    events = events_of(site, MACHINE, lambda found: len(found) >= len(fetched))
    assert facts(events) == fetched
    assert {event["mac"] for event in events} == {None}
    kernel, root = events[2]["detail"], events[3]["detail"]
    assert (
        kernel["source"] == "miss" and kernel["packets"] == kernel["size"] // 512 + 1
    )  # stock tftp asks for no blksize
    assert root["status"] == 200 and root["agent"].startswith("curl/") and events[4]["detail"]["offset"] == 100
    assert [machine["id"] for machine in site.json("machine", "list")["items"]].count(MACHINE) == 1
    is_named_by_a_configuration(site, fetched)


def is_named_by_a_configuration(site: Site, fetched: list[Any]) -> None:
    """What is asked for by a MAC names what its address did before."""
    site.curl(f"grub/grub.cfg-{MAC}")
    events = events_of(site, MAC, lambda found: len(found) >= len(fetched) + 2)
    assert facts(events)[:-1] == fetched
    assert (events[-2]["kind"], events[-2]["name"]) == ("transfer", f"grub/grub.cfg-{MAC}")
    config = events[-1]
    assert (config["kind"], config["outcome"]) == ("config", "boots")
    assert config["detail"]["boots"] == "Ubuntu 24.04 LTS (amd64)"
    lines = site.run("machine", "timeline", MAC.replace(":", "-")).splitlines()
    assert f"at {MACHINE}, rack r" in lines[0] and lines[1].split() == [
        "TIME",
        "+S",
        "VIA",
        "BY",
        "FILE",
        "WHAT",
        "OUTCOME",
    ]
    assert [line.rpartition("  ")[2].strip() for line in lines[2:-2]] == [event["outcome"] for event in events]
    last = (
        f"Last: curl fetched grub.cfg-{MAC}, complete, ",
        f"Last: the region gave grub/grub.cfg-{MAC}, which boots ",
    )
    assert lines[-1].startswith(last)  # which of the two ended later is for two processes' clocks to say
    assert lines[-1].endswith(" ago; the machine has not reported.")


def test_a_region_that_is_killed_loses_nothing_and_doubles_nothing(site: Site) -> None:
    def fetch(name: str) -> None:
        site.curl(name, "--interface", OTHER)

    run_json = site.data / "run.json"
    for _ in range(2):
        pid = json.loads(run_json.read_text())["region_pid"]
        for _ in range(10):
            fetch("bootx64.efi")
        os.kill(pid, signal.SIGKILL)  # some of them are told, some are not
        for _ in range(10):
            fetch("bootx64.efi")
        site.eventually(lambda: json.loads(run_json.read_text())["region_pid"], lambda now, gone=pid: now != gone)
    fetch("the-last-one")
    events = events_of(site, OTHER, lambda found: any(event["name"] == "the-last-one" for event in found))
    assert [event["name"] for event in events] == ["bootx64.efi"] * 40 + ["the-last-one"]
