"""Thousands of connections that want little, at a rack with its own limits: all are taken, none costs much memory, and
who wants something now gets it, every byte right. ``make bench`` has the times; here is what is exact.
"""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.connections import raise_file_limit
from bench.crowd import held
from bench.racks import Rack, rack
from bootplane.core import http_load
from tests.fakes.region import FakeRegion

LARGE, SMALL = "images/large", "images/small"
FILES = {LARGE: hashlib.shake_128(b"large").digest(1 << 20), SMALL: hashlib.shake_128(b"small").digest(4096)}
BYTES_EACH = 400  # of user memory; docs/reference/bench.md
SLACK_BYTES = 1 << 20  # of Python's own, which comes and goes
ASKED = 2000
CPU = max(os.sched_getaffinity(0))
SIZES = [pytest.param(2000, marks=pytest.mark.integration), pytest.param(10_000, marks=pytest.mark.soak)]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Rack]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_file_limit()
    try:
        with FakeRegion(FILES) as region, rack(region, tmp_path, cpu=min(os.sched_getaffinity(0))) as found:
            yield found
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def ask(running: Rack, name: str, requests: int) -> None:
    """Every answer whole and right."""
    sha256 = hashlib.sha256(FILES[name]).hexdigest()
    got = http_load.load(
        "127.0.0.1", running.http, f"/{name}", connections=4, requests=requests, verify_every=1, sha256=sha256
    )
    assert (got.requests, got.verified, got.errors, got.first_error) == (requests, requests, 0, "")


def warmed(running: Rack, requests: int) -> int:
    """Anonymous memory of a rack that has answered, and told its region, as much before."""
    ask(running, LARGE, 4)
    ask(running, SMALL, requests)
    running.wait_until_reported()
    return running.server.anonymous_bytes()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("connections", SIZES)
@pytest.mark.parametrize("rate_bytes_s", [0, 1000], ids=["idle", "slow"])
def test_a_crowd_is_taken_costs_little_and_is_in_nobodys_way(
    running: Rack, connections: int, rate_bytes_s: int
) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit < connections * 2:
        pytest.skip(f"expected {connections * 2} descriptors for each process, got {limit}")
    before = warmed(running, connections)
    accepted = running.numbers()["bootplane_http_connections_total"]
    with held(running.http, f"/{LARGE if rate_bytes_s else SMALL}", connections, rate_bytes_s, cpu=CPU) as crowd:
        assert (crowd.there, crowd.first_error) == (connections, "")
        assert running.numbers()["bootplane_http_connections_total"] >= accepted + connections
        running.wait_until_reported()
        grown = running.server.anonymous_bytes() - before
        ask(running, SMALL, ASKED)
    assert (crowd.after, crowd.errors, crowd.first_error) == (connections, 0, "")
    assert grown <= connections * BYTES_EACH + SLACK_BYTES
