"""One half of a region is lost. The database: racks serve what they hold, and a sync that moves no byte brings all
back. The store, or the disk it is on: racks serve what they hold, for as long as it takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.fakes.mirror import serve
from tests.fakes.up import UBUNTU, started, up

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
GA = "ubuntu/noble/amd64/ga-24.04"


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
