"""A machine in mid-boot on a version while the next one lands: it keeps getting its files, and then they go.

Every process as an operator has it, with no grace time at all, so that only the machine and the rack hold the old one.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bootplane.control.mirror_publish import publish
from bootplane.control.simplestreams.signer import Signer
from bootplane.core.digest import sha256_hex
from bootplane.dataplane import racktoken
from tests.fakes.mirror import small_products
from tests.fakes.up import Site, up

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
GA = "ubuntu/noble/amd64/ga-24.04"
MAC = "52:54:00:77:00:01"


class Lab(NamedTuple):
    site: Site
    folder: Path
    signer: Signer

    def curl(self, url: str, *options: str) -> tuple[int, bytes]:
        """Status and body."""
        target = self.folder / "body"
        argv = ["curl", "-sS", "-o", str(target), "-w", "%{http_code}", *options, url]
        done = subprocess.run(argv, check=True, timeout=60, capture_output=True, text=True)
        return int(done.stdout), target.read_bytes() if target.exists() else b""

    def file(self, name: str) -> tuple[int, str]:
        """Status and SHA-256 of what the rack gives under *name*."""
        status, body = self.curl(f"http://{self.site.http}/{name}")
        return status, sha256_hex(body)

    def chunks(self, sha256: str) -> int:
        """What the region answers a rack that asks for a chunk list."""
        secret = racktoken.read(self.site.data / "rack-token").secret
        url = f"http://{self.site.ready['region']}/rack/v1/chunks/{sha256}"
        return self.curl(url, "-H", f"Authorization: Bearer {secret}")[0]

    def image(self) -> dict[str, dict[str, Any]]:
        return {file["name"]: file for file in self.site.json("image", "show", GA)["files"]}

    def events(self) -> list[dict[str, Any]]:
        done = self.site.command("machine", "timeline", MAC, "--json")
        found: list[dict[str, Any]] = json.loads(done.stdout)["events"] if done.returncode == 0 else []
        return found


@pytest.fixture(params=["share", "no-share"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bootplane.toml").write_text("removal_grace = 0\nsync_interval = 0\nlow_space = 0\n")
    with (
        Signer.generate(tmp_path / "keys", algorithm="ed25519") as signer,
        up(tmp_path, f"--{request.param}", signer=signer) as site,
    ):
        yield Lab(site, tmp_path, signer)


def test_a_machine_in_mid_boot_keeps_getting_its_files_until_it_has_reported(lab: Lab) -> None:
    old = lab.image()
    names = {name: file["names"][0] for name, file in old.items() if file["names"]}
    _, script = lab.curl(f"http://{lab.site.http}/grub/grub.cfg-{MAC}")
    assert names["squashfs"].encode() in script  # by its content: this is what the machine will ask for
    ticket = script.partition(b"/MAAS/metadata/boot/")[2].split()[0].strip(b"'\"").decode()
    assert lab.file(names["boot-kernel"]) == (200, old["boot-kernel"]["sha256"])
    lab.site.eventually(lab.events, lambda found: any(e["name"] == names["boot-kernel"] for e in found))

    products = small_products(lab.folder / "inputs", "20260101")
    publish(lab.folder / "mirror", products, lab.signer, updated=datetime.now(UTC) + timedelta(hours=1))
    for _ in range(2):
        lab.site.run("sync", "--wait")
    lab.site.until_racks_know()
    new = lab.image()
    assert new["squashfs"]["sha256"] != old["squashfs"]["sha256"]
    assert lab.file(new["squashfs"]["names"][0]) == (200, new["squashfs"]["sha256"])
    for name in ("boot-initrd", "squashfs"):  # nobody has fetched these before
        assert lab.file(names[name]) == (200, old[name]["sha256"])
    assert "is kept beyond its time: machine " in lab.site.log.read_text()
    assert lab.chunks(old["squashfs"]["sha256"]) == 200

    report = json.dumps({"name": "init-network", "event_type": "finish", "result": "SUCCESS"})
    url = f"http://{lab.site.http}/MAAS/metadata/boot/{ticket}"
    assert lab.curl(url, "-H", "Content-Type: application/json", "-d", report)[0] == 204

    def gone() -> int:
        lab.site.run("sync", "--wait")
        return lab.chunks(old["squashfs"]["sha256"])

    assert lab.site.eventually(gone, lambda status: status != 200) == 410
    assert not (lab.site.data / "image-storage" / old["squashfs"]["sha256"]).exists()
    assert lab.file(names["squashfs"])[0] == 404
    assert lab.file(new["squashfs"]["names"][0]) == (200, new["squashfs"]["sha256"])
    assert lab.site.json("status")["store"]["marked_bytes"] == 0
