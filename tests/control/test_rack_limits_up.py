"""`rack set` on a real `up --no-share`: the cache shrinks while machines are served, and grows again."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootplane.control.mirror_publish import PublishProduct
from bootplane.core import http_fetch
from bootplane.dataplane import addresses
from tests.fakes.mirror import small_products
from tests.fakes.up import Site, up

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
MIB = 1 << 20
ROOT_BYTES = 22 * MIB + 12_345  # six segments
LARGE, SMALL = 64 * MIB, 9 * MIB


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    def products(inputs: Path) -> list[PublishProduct]:
        return small_products(inputs, root_bytes=ROOT_BYTES)

    options = ("--no-share", "--cache-size", str(LARGE))
    with up(tmp_path_factory.mktemp("site"), *options, products=products) as found:
        yield found


class Reader(threading.Thread):
    """Fetches one file over and over, and hashes each; *on_disk* is sampled after each."""

    def __init__(self, site: Site, name: str, sha256: str) -> None:
        super().__init__(daemon=True)
        self.site, self.name_, self.sha256 = site, name, sha256
        self.fetched = 0
        self.wrong: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        place = addresses.parse(self.site.http, "http")
        while not self.ended.is_set():
            got = http_fetch.fetch(place.host, place.port, f"/{self.name_}", keep=True)
            if hashlib.sha256(got.body).hexdigest() != self.sha256:
                self.wrong.append(f"{got.status}: {len(got.body)} bytes")
            self.fetched += 1


def on_disk(site: Site) -> int:
    """Bytes of segments that were there at one instant, by the disk's own accounting."""

    def look() -> dict[tuple[Path, int], int]:
        found = {}
        for path in (site.data / "rack" / "cache").glob("*.d/*"):
            with contextlib.suppress(FileNotFoundError):  # evicted between the two calls
                now = path.stat()
                found[path, now.st_ino] = now.st_blocks * 512
        return found

    first, second = look(), look()
    return sum(size for file, size in first.items() if file in second)


def fits(told: dict[str, Any]) -> bool:
    """Whether the rack, as of its last beat, is within the lower limit: what was in use when it fell has left, too."""
    return bool(told["limit_bytes"] == SMALL and told["charged_bytes"] + told["condemned_bytes"] <= SMALL)


def in_force(site: Site) -> int:
    force = site.json("rack", "show")["in_force"]
    return int(force["cache_bytes"]) if force else 0


def test_a_cache_shrinks_while_it_serves_and_grows_again(site: Site) -> None:
    image = site.json("image", "show", "ubuntu/noble/amd64/ga-24.04")
    root = next(file for file in image["files"] if file["ftype"] == "squashfs")
    reader = Reader(site, root["names"][0], root["sha256"])
    reader.start()
    try:
        site.eventually(lambda: reader.fetched, lambda fetched: fetched >= 2)
        assert ROOT_BYTES <= on_disk(site) <= ROOT_BYTES + 4096
        said = site.run("rack", "set", "local", "--cache-size", f"{SMALL // MIB}MiB")
        assert said.startswith("Cache limit: ") and "9.0 MiB" in said
        site.eventually(lambda: in_force(site), lambda limit: limit == SMALL)
        site.eventually(lambda: on_disk(site), lambda found: found <= SMALL)
        fetched = reader.fetched
        worst = site.eventually(
            lambda: (on_disk(site), reader.fetched), lambda now: now[1] >= fetched + 5 or now[0] > SMALL
        )
        assert worst[0] <= SMALL
        storm = site.json("rack", "cache", "--forecast", "ubuntu/noble/amd64/ga-24.04")
        assert storm["short_bytes"] > 0 and storm["needed_bytes"] == storm["size"] - storm["present_bytes"]
        assert "It does not fit: " in site.run("rack", "cache", "local", "--forecast", storm["image"])
        assert "Cache limit: 9.0 MiB, as set here." in site.run("rack", "show", "local")
        told = site.eventually(lambda: site.json("rack", "cache"), fits)
        (lowered,) = (
            each for each in told["evictions"] if each["reason"] == "limit"
        )  # one after another, none between
        assert lowered["name"] == "ubuntu/noble/amd64/ga-24.04/squashfs" and lowered["wanted_name"] == ""
        assert lowered["segments"] == told["evicted_limit_segments"] >= 4 and lowered["bytes"] >= ROOT_BYTES - SMALL
        counts = [told[f"evicted_{why}segments"] for why in ("", "room_", "limit_", "disk_")]
        assert counts[0] == sum(counts[1:]) and counts[3] == 0
        assert " of ubuntu/noble/amd64/ga-24.04/squashfs left as the limit was lowered, " in site.run("rack", "cache")
        site.run("rack", "set", "local", "--cache-size", "default")
        site.eventually(lambda: in_force(site), lambda limit: limit == LARGE)
        site.eventually(lambda: on_disk(site), lambda found: found >= ROOT_BYTES)
    finally:
        reader.ended.set()
        reader.join(60)
    assert not reader.is_alive() and reader.wrong == [] and reader.fetched > 6
    log = site.log.read_text()
    assert "cache limit: 9.0 MiB, set by the region; it was 64.0 MiB" in log
    assert "cache limit: evicted " in log
    assert "cache limit: 64.0 MiB, set by the command line; it was 9.0 MiB" in log


def test_a_limit_no_rack_can_keep_is_refused_and_one_beyond_the_disk_is_warned_of(site: Site) -> None:
    refused = site.command("rack", "set", "local", "--cache-size", "1MiB")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "bootplane: rack local: cache limit: expected 4194304 bytes (one segment) or more, got 1048576\n"
    )
    beyond = site.command("rack", "set", "local", "--cache-size", "4000TiB")
    assert beyond.returncode == 0
    assert beyond.stderr.startswith("Warning: cache limit 4000.0 TiB: the file system under the cache has ")
    site.run("rack", "set", "local", "--cache-size", "default")


def test_an_upstream_limit_is_taken_while_it_fetches_and_given_up_again(site: Site) -> None:
    image = site.json("image", "show", "ubuntu/noble/amd64/ga-24.04")
    root = next(file for file in image["files"] if file["ftype"] == "squashfs")
    site.run("rack", "set", "local", "--upstream-limit", "160Mbit/s", "--cache-size", f"{SMALL // MIB}MiB")
    site.eventually(lambda: in_force(site), lambda limit: limit == SMALL)  # most of the file has left
    assert "Upstream limit: 160 Mbit/s, as set here." in site.run("rack", "show")
    place = addresses.parse(site.http, "http")
    got = http_fetch.fetch(place.host, place.port, f"/{root['names'][0]}", keep=True)
    assert hashlib.sha256(got.body or b"").hexdigest() == root["sha256"]
    told = site.eventually(lambda: site.json("rack", "cache"), lambda now: now["throttled_s"] > 0)
    assert told["upstream_limit_bytes_s"] == 20_000_000
    site.run("rack", "set", "local", "--upstream-limit", "default", "--cache-size", "default")
    site.eventually(lambda: site.json("rack", "show")["in_force"]["upstream_bytes_s"], lambda limit: limit == 0)
    log = site.log.read_text()
    assert "upstream limit: 160 Mbit/s, set by the region; it was no limit" in log
    assert "upstream limit: no limit, set by the command line; it was 160 Mbit/s" in log
