"""A rack that has slept, on a path that has lost its long poll, and a region that has removed what it knows.

Every process as an operator has it. The rack is new to the region, so that nothing of the region's waits for it; its
disk is a copy of another rack's, of before.
"""

from __future__ import annotations

import http.client
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from bootplane.control.mirror_publish import publish
from bootplane.control.simplestreams.signer import Signer
from bootplane.core.digest import sha256_hex
from bootplane.dataplane import racktoken
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.mirror import small_products
from tests.fakes.relay import relay
from tests.fakes.up import Site, started, up

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
GA = "ubuntu/noble/amd64/ga-24.04"
KERNEL = "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"


def ask(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def kernel(site: Site) -> str:
    """The digest of the newest one."""
    files = site.json("image", "show", GA)["files"]
    return str(next(file["sha256"] for file in files if file["name"] == "boot-kernel"))


def test_a_rack_that_slept_learns_of_the_newer_catalogue_from_a_410(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bootplane.toml").write_text("removal_grace = 0\nsync_interval = 0\nlow_space = 0\n")
    with Signer.generate(tmp_path / "keys", algorithm="ed25519") as signer:
        with up(tmp_path, "--no-share", signer=signer) as site:
            old = kernel(site)
            assert ask(site.ready["bulk"], f"/blob/{old}")[0] == 200
            slept = copied_rack(site, tmp_path)
            products = small_products(tmp_path / "inputs", "20260101")
            publish(tmp_path / "mirror", products, signer, updated=datetime.now(UTC) + timedelta(hours=1))

            def after_a_sync() -> int:
                site.run("sync", "--wait")
                return ask(site.ready["bulk"], f"/blob/{old}")[0]

            assert site.eventually(after_a_sync, lambda status: status != 200) == 410
            assert not (site.data / "image-storage" / old).exists()
            new = kernel(site)
            assert new != old
        with started(tmp_path, "--no-share") as site:  # a region knows it over a restart
            assert ask(site.ready["bulk"], f"/blob/{old}", "HEAD") == (410, b"")
            assert ask(site.ready["bulk"], f"/blob/{'ab' * 32}")[0] == 404
            machine_gets_the_new_kernel(site, slept, tmp_path / "slept", old, new)


def copied_rack(site: Site, folder: Path) -> Path:
    """The disk of a rack that has today's catalogue and not one file."""
    data = folder / "slept" / "data"
    data.mkdir(parents=True)
    (own,) = {path.parent for path in site.data.rglob("catalogue") if path.is_file()}
    shutil.copy(own / "catalogue", data)
    shutil.copytree(own / "chunks", data / "chunks")
    return data


def machine_gets_the_new_kernel(site: Site, data: Path, folder: Path, old: str, new: str) -> None:
    admin = (site.data / "admin-token").read_text().strip()
    host, _, port = site.ready["region"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.request(
        "POST",
        "/api/v1/rack-tokens",
        json.dumps({"name": "slept"}),
        {"Authorization": f"Bearer {admin}", "Content-Type": "application/json"},
    )
    told = json.loads(connection.getresponse().read())
    connection.close()
    (folder / "told").write_text(told["token"] + "\n")
    (folder / "told").chmod(0o600)
    with relay(site.ready["region"]) as path:
        path.hold_request = b"Prefer: wait"  # every long poll
        place = SimpleNamespace(token=racktoken.read(folder / "told"), url=f"http://{path.address}")
        with RackProcess(folder, place, data=data) as rack:  # type: ignore[arg-type]
            assert path.held.wait(60)
            status, body = ask(str(rack.http), f"/{KERNEL}")
            assert (status, sha256_hex(body)) == (200, new)
            assert not path.release.is_set()  # it was not the long poll that brought the catalogue
            assert ask(str(rack.http), f"/images/{old[:16]}/{KERNEL}")[0] == 404
            log = rack.log()
            path.release.set()
    assert log.count("says that it has removed") == 1 and old in log
