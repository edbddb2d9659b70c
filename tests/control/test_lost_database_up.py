"""One half of a region is lost. The database: racks serve what they hold, and a sync that moves no byte brings all
back. The store, or the disk it is on: racks serve what they hold, for as long as it takes. One file: machines
begin with the version before."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bootplane.control.mirror_publish import publish
from bootplane.control.simplestreams.signer import Signer
from bootplane.core import http_fetch
from bootplane.core.digest import sha256_hex
from bootplane.dataplane import addresses
from tests.fakes.mirror import serve, small_products
from tests.fakes.up import UBUNTU, Site, started, up

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
GA = "ubuntu/noble/amd64/ga-24.04"
TREE = "ubuntu/amd64/ga-24.04/noble/stable"


@pytest.mark.parametrize("option", ["--share", "--no-share"])
def test_after_a_lost_database_nothing_is_fetched_again_and_racks_come_along(tmp_path: Path, option: str) -> None:
    with up(tmp_path, option) as site:
        names = {file["name"]: file["names"][0] for file in site.json("image", "show", GA)["files"] if file["names"]}
        site.curl(names["squashfs"], "--fail")
        before = site.json("status")
    for path in site.data.glob("*.sqlite*"):
        path.unlink()
    with serve(tmp_path / "mirror") as mirror, started(tmp_path, option) as site:
        taken_in = f"{before['store']['blobs']} files are taken in, 0 set aside"
        site.eventually(lambda: site.run("status"), lambda text: taken_in in text)
        for _ in range(2):
            site.curl(names["squashfs"], "--fail")  # of the catalogue that the rack has kept
        site.run("source", "add", mirror.url, "--keyring", str(tmp_path / "keyring.gpg"))
        site.run("select", "add", *UBUNTU)
        site.run("sync", "--wait")
        assert {path for path in mirror.sent if not path.startswith("streams/")} == set()
        after = site.json("status")
        assert after["catalogue"]["names"] == before["catalogue"]["names"]
        assert after["catalogue"]["version"] > before["catalogue"]["version"]
        version = after["catalogue"]["version"]
        site.eventually(lambda: site.json("rack", "list")["items"][0]["catalogue"], lambda told: told == version)
        for name in names.values():
            site.curl(name, "--fail")


def test_after_a_lost_store_a_rack_serves_what_it_holds(tmp_path: Path) -> None:
    with up(tmp_path, "--no-share") as site:
        files = {file["name"]: file["names"][0] for file in site.json("image", "show", GA)["files"] if file["names"]}
        site.curl(files["squashfs"], "--fail")
        before = site.json("status")
    (site.data / "image-storage").rename(tmp_path / "unmounted")
    with started(tmp_path, "--no-share") as site:  # and its source is away
        banners = {banner["id"]: banner["text"] for banner in site.json("status")["banners"]}
        assert "holds none of the files" in banners["store-emptied"]
        assert site.json("status")["catalogue"] == before["catalogue"]
        assert site.json("image", "show", GA)["complete"] is False
        site.curl(files["squashfs"], "--fail")
        with pytest.raises(subprocess.CalledProcessError) as refused:  # the rack has not got it, nor has anybody
            site.curl(files["boot-kernel"], "--fail")
        assert refused.value.returncode == 22  # an HTTP status, 503


def test_while_the_newest_version_lacks_a_lost_file_machines_begin_with_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bootplane.toml").write_text("sync_interval = 0\nlow_space = 0\n")
    with (
        Signer.generate(tmp_path / "keys", algorithm="ed25519") as signer,
        up(tmp_path, "--no-share", signer=signer) as site,
    ):
        old = digests(site)
        products = small_products(tmp_path / "inputs", "20260101")
        publish(tmp_path / "mirror", products, signer, updated=datetime.now(UTC) + timedelta(hours=1))
        site.run("sync", "--wait")
        new, older = digests(site), site.json("image", "show", GA)["versions"][0]["version"]
        assert got(site, f"images/{new['squashfs'][:16]}/{TREE}/squashfs") == new["squashfs"]  # a rack holds it
    kernel = site.data / "image-storage" / new["boot-kernel"]
    kernel.rename(tmp_path / "kernel")
    with started(tmp_path, "--no-share") as site:  # and its source is away
        site.eventually(lambda: got(site, f"{TREE}/boot-kernel"), lambda digest: digest == old["boot-kernel"])
        for name in ("boot-kernel", "boot-initrd", "squashfs"):  # one version, and not one file of another
            assert got(site, f"{TREE}/{name}") == old[name]
        script = fetched(site, "grub/grub.cfg-52:54:00:77:00:01").decode()
        assert f"images/{old['boot-kernel'][:16]}/" in script and new["boot-kernel"][:16] not in script
        for name in ("boot-initrd", "squashfs"):  # who has begun with the newest goes on with it
            assert got(site, f"images/{new[name][:16]}/{TREE}/{name}") == new[name]
        image = site.json("image", "show", GA)
        assert (image["complete"], image["version"], image["served"]) == (False, "20260101", older)
        assert re.search(rf"machines get +{older}\b", site.run("image", "show", GA))
    (tmp_path / "kernel").rename(kernel)
    with started(tmp_path, "--no-share") as site:
        site.eventually(lambda: got(site, f"{TREE}/boot-kernel"), lambda digest: digest == new["boot-kernel"])
        for name in ("boot-initrd", "squashfs"):
            assert got(site, f"{TREE}/{name}") == new[name]
        for name in ("boot-kernel", "boot-initrd", "squashfs"):
            assert got(site, f"images/{old[name][:16]}/{TREE}/{name}") == old[name]


def digests(site: Site) -> dict[str, str]:
    """Of the newest version's files, by name."""
    return {file["name"]: file["sha256"] for file in site.json("image", "show", GA)["files"]}


def fetched(site: Site, name: str) -> bytes:
    """What the rack gives; nothing when that is a refusal."""
    place = addresses.parse(site.http, "http")
    answer = http_fetch.fetch(place.host, place.port, f"/{name}", keep=True)
    return answer.body or b"" if answer.status == 200 else b""


def got(site: Site, name: str) -> str:
    """Its digest."""
    return sha256_hex(fetched(site, name))
