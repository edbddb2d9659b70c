"""The operator's commands from an empty directory to files that stock clients fetch, byte-identical.

`up`, `source add`, `select add`, `sync --wait`, `image list`, `image show`, then curl and stock TFTP clients.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootplane.core.digest import sha256_hex
from tests.fakes.up import UBUNTU, Site, up

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module", params=["share", "no-share"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    selections = (UBUNTU, ("centos", "8", "--arch", "amd64"))
    with up(tmp_path_factory.mktemp("site"), f"--{request.param}", selections=selections) as found:
        yield found


def images(site: Site) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = site.json("image", "list")["items"]
    return items


def test_what_was_selected_is_there_and_complete(site: Site) -> None:
    names = {image["name"]: image["complete"] for image in images(site)}
    assert names == dict.fromkeys(
        [
            "ubuntu/noble/amd64/ga-24.04",
            "ubuntu/noble/amd64/hwe-24.04",
            "centos/8/amd64/generic",
            "grub-efi-signed/uefi/amd64",
            "pxelinux/pxe/amd64",
            "pxelinux/pxe/i386",
        ],
        True,
    )


def test_curl_fetches_every_name_of_every_image_byte_identical(site: Site, tmp_path: Path) -> None:
    checked = 0
    for image in images(site):
        shown = site.json("image", "show", image["name"])
        for file in shown["files"]:
            for name in file["names"]:
                target = tmp_path / "file"
                subprocess.run(
                    ["curl", "-fsS", "-o", str(target), f"http://{site.http}/{name}"], check=True, timeout=60
                )
                data = target.read_bytes()
                assert (len(data), sha256_hex(data)) == (file["size"], file["sha256"]), name
                checked += 1
    assert checked > 30


@pytest.mark.parametrize("client", ["tftp", "atftp"])
def test_a_stock_tftp_client_fetches_the_kernel_byte_identical(site: Site, client: str, tmp_path: Path) -> None:
    if shutil.which(client) is None:
        assert "CI" not in os.environ, f"{client} is missing, and CI must have it"
        pytest.skip(f"{client} is not on this machine")
    shown = site.json("image", "show", "ubuntu/noble/amd64/ga-24.04")
    kernel = next(file for file in shown["files"] if file["ftype"] == "boot-kernel")
    target = tmp_path / "kernel"
    host, port = site.tftp
    argv = {
        "tftp": ["tftp", "-m", "binary", host, port, "-c", "get", kernel["names"][0], str(target)],
        "atftp": ["atftp", "--option", "windowsize 8", "--option", "blksize 1428", "-g", "-r", kernel["names"][0],
                  "-l", str(target), host, port],
    }[client]  # fmt: skip
    subprocess.run(argv, check=True, timeout=60, stdin=subprocess.DEVNULL, capture_output=True)
    assert sha256_hex(target.read_bytes()) == kernel["sha256"]


def test_a_second_up_on_the_directory_is_refused_in_one_sentence(site: Site) -> None:
    done = site.command("up")
    assert done.returncode == 1
    assert str(site.data) in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
