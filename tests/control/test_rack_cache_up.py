"""`rack cache` of a real `up --no-share`: curl fetches a file twice, and every number is exactly right.

The rack is told apart from nothing: no share, one file, one machine, nothing else in the cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bootplane.control.api import schemas
from bootplane.control.simplestreams.signer import Signer
from tests.fakes.mirror import publish_small, serve

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
ROOT = Path(__file__).resolve().parents[2]
ANY = "127.0.0.1:0"
LIMIT = 64 << 20
TRIES = 600  # each 0.2 s apart and more; a rack tells each 5 s


class Site(NamedTuple):
    data: Path
    http: str

    def run(self, *words: str) -> str:
        argv = [sys.executable, "-m", "bootplane", *words, "--data", str(self.data)]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def curl(self, name: str) -> None:
        argv = ["curl", "-sS", "--fail", "-o", os.devnull, f"http://{self.http}/{name}"]
        subprocess.run(argv, check=True, timeout=60)

    def cache_after(self, transfers: int) -> dict[str, Any]:
        """`rack cache --json` once the rack has told of so many transfers."""
        tick = threading.Event()
        document: dict[str, Any] = {}
        for _ in range(TRIES):
            document = json.loads(self.run("rack", "cache", "--json"))
            if document["transfers"] >= transfers:
                return document
            tick.wait(0.2)
        raise AssertionError(f"expected {transfers} transfers, got {document}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    keyring = folder / "keyring.gpg"
    with Signer.generate(folder / "gnupg", algorithm="ed25519") as signer:
        publish_small(folder / "mirror", signer)
        keyring.write_bytes(signer.public())
    options = [part for name in ("listen", "bulk", "http", "tftp") for part in (f"--{name}", ANY)]
    options += ["--no-share", "--cache-size", str(LIMIT)]
    argv = [sys.executable, "-m", "bootplane", "up", "--data", str(folder / "data"), *options]
    with serve(folder / "mirror") as mirror, subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as up:
        try:
            assert up.stdout is not None
            word, *places = up.stdout.readline().split()
            assert word == "ready"
            found = Site(folder / "data", dict(place.split("=") for place in places)["http"])
            found.run("source", "add", mirror.url, "--keyring", str(keyring))
            found.run("select", "add", "ubuntu", "noble", "--arch", "amd64")
            found.run("sync", "--wait")
            yield found
        finally:
            up.terminate()
            assert up.wait(30) == 0


def test_a_file_fetched_twice_is_one_miss_one_hit_and_here_to_the_last_byte(site: Site) -> None:
    image = json.loads(site.run("image", "show", "ubuntu/noble/amd64/ga-24.04", "--json"))
    root = next(file for file in image["files"] if file["ftype"] == "squashfs")
    size, name = root["size"], root["names"][0]
    site.curl(name)
    site.curl(name)
    document = site.cache_after(transfers=2)
    schemas.RackCache.model_validate(document)
    for key in ("rack", "heard"):
        assert document.pop(key)
    assert document.pop("up_s") > 0 and document.pop("age_s") >= 0
    assert document == {
        "name": json.loads(site.run("rack", "list", "--json"))["items"][0]["name"],
        "limit_bytes": LIMIT,
        "charged_bytes": -(-size // 4096) * 4096,  # whole pages of the disk
        "condemned_bytes": 0,
        "segments": -(-size // (4 << 20)),
        "evicted_segments": 0,
        "evicted_bytes": 0,
        "filled_bytes": size,
        "refused_chunks": 0,
        "present_bytes": size,
        "upstream_bytes": size,
        "served_bytes": 2 * size,
        "transfers": 2,
        "hits": 1,
        "misses": 1,
        "in_place_files": 0,
        "files": [
            {
                "name": "ubuntu/noble/amd64/ga-24.04/squashfs",
                "sha256": root["sha256"],
                "size": size,
                "present_bytes": size,
                "percent": 100,
            }
        ],
        "files_total": 1,
        "files_age_s": 0.0,
        "refusals": [],
    }
    lines = site.run("rack", "cache").splitlines()
    assert lines[2] == "50 % of 2 transfers found everything here; 1 had to wait."
    assert lines[3].startswith("Upstream gave ") and lines[3].endswith(" served (2.0 x).")
    assert lines[-1].split()[0] == "ubuntu/noble/amd64/ga-24.04/squashfs" and lines[-1].split()[-1] == "100"
