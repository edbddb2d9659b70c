"""`rack cache` of a real `up --no-share`: curl fetches a file twice, and every number is exactly right.

The rack is told apart from nothing: no share, one file, one machine, nothing else in the cache.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from bootplane.control.api import schemas
from bootplane.core import http_fetch, tftp_fetch
from bootplane.dataplane import addresses
from tests.fakes.up import Site, up

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
LIMIT = 64 << 20
ENDS = ("hits", "misses", "coalesced")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with up(tmp_path, "--no-share", "--cache-size", str(LIMIT)) as found:
        yield found


def cache_after(site: Site, transfers: int) -> dict[str, Any]:
    """`rack cache --json` once the rack has told of so many transfers."""
    return site.eventually(lambda: site.json("rack", "cache"), lambda found: found["transfers"] >= transfers)


def test_a_file_fetched_twice_is_one_miss_one_hit_and_here_to_the_last_byte(site: Site) -> None:
    image = site.json("image", "show", "ubuntu/noble/amd64/ga-24.04")
    root = next(file for file in image["files"] if file["ftype"] == "squashfs")
    size, name = root["size"], root["names"][0]
    site.curl(name, "--fail")
    site.curl(name, "--fail")
    document = cache_after(site, transfers=2)
    schemas.RackCache.model_validate(document)
    for key in ("rack", "heard"):
        assert document.pop(key)
    assert document.pop("up_s") > 0 and document.pop("age_s") >= 0
    assert document.pop("disk_bytes") > document.pop("disk_free_bytes") > 0
    assert document == {
        "name": site.json("rack", "list")["items"][0]["name"],
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
        "coalesced": 0,
        "in_place_files": 0,
        "upstream_limit_bytes_s": 0,
        "throttled_s": 0.0,
        "open_segments": 1,
        "reopened_segments": 0,
        "protected_bytes": -(-size // 4096) * 4096,  # smaller than a segment
        "reused_bytes": 0,
        "made_segments": 1,
        "ghost_double_segments": 0,
        "ghost_quadruple_segments": 0,
        "evicted_room_segments": 0,
        "evicted_limit_segments": 0,
        "evicted_disk_segments": 0,
        "kept_segments": 0,
        "misfit_segments": 0,
        "rechecked_chunks": 0,
        "rotten_chunks": 0,
        "scrub_passes": 0,
        "scrub_chunks": 0,
        "scrub_damaged": 0,
        "scrub_last_pass_s": 0.0,
        "evictions": [],
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
    assert lines[2] == "50 % of 2 transfers found everything here; 1 had to wait for the region."
    assert lines[3].startswith("Upstream gave ") and lines[3].endswith(" served (2.0 x).")
    assert lines[-1].split()[0] == "ubuntu/noble/amd64/ga-24.04/squashfs" and lines[-1].split()[-1] == "100"


def test_hits_misses_and_followers_add_up_to_what_was_looked_up_on_http_and_tftp(site: Site) -> None:
    """A cold herd on both ways in; what the rack counts, /metrics says and `rack cache` tells is the same."""
    image = site.json("image", "show", "ubuntu/noble/amd64/ga-24.04")
    initrd = next(file for file in image["files"] if file["ftype"] == "boot-initrd")
    http, tftp = addresses.parse(site.http, "http"), addresses.parse(site.ready["tftp"], "tftp")
    before = site.eventually(lambda: metrics(site), lambda now: now["lookups"] == summed(now))
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        herd = [
            pool.submit(http_fetch.fetch, http.host, http.port, f"/{initrd['names'][0]}", keep=True) for _ in range(8)
        ]
        herd += [pool.submit(tftp_fetch.fetch, tftp.host, tftp.port, initrd["names"][0], keep=True) for _ in range(4)]
        assert {hashlib.sha256(each.result().body or b"").hexdigest() for each in herd} == {initrd["sha256"]}
    after = site.eventually(lambda: metrics(site), lambda now: summed(now) >= summed(before) + 12)
    assert after["lookups"] - before["lookups"] == summed(after) - summed(before) == 12
    assert after["misses"] > before["misses"]
    told = cache_after(site, transfers=summed(after))
    assert {name: told[name] for name in ENDS} == {name: after[name] for name in ENDS}
    assert told["transfers"] == summed(told)


def test_a_storm_costs_a_rack_that_reads_the_regions_directory_nothing(tmp_path: Path) -> None:
    ask = ("rack", "cache", "--forecast", "ubuntu/noble/amd64/ga-24.04")
    with up(tmp_path) as shared:
        found = shared.eventually(lambda: shared.json(*ask), lambda now: now["in_place_bytes"] > 0)
        schemas.RackForecast.model_validate(found)
        assert found["in_place_bytes"] == found["size"] > 0
        assert (found["present_bytes"], found["needed_bytes"], found["evicted"]) == (0, 0, [])
        assert "all of it is in the region's own directory, which the rack reads" in shared.run(*ask)


def metrics(site: Site) -> dict[str, int]:
    with urlopen(f"http://{site.http}/metrics", timeout=20) as answer:
        lines = [line.split() for line in answer.read().decode().splitlines()]
    found = {name.removeprefix("bootplane_").removesuffix("_total"): value for name, value in (x[:2] for x in lines)}
    return {name: int(float(found[name])) for name in (*ENDS, "lookups")}


def summed(counts: dict[str, int]) -> int:
    return sum(counts[name] for name in ENDS)
