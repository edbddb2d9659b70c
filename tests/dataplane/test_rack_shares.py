"""Shares set by a region while a rack serves: two networks, fifteen greedy machines in one and one in the other."""

from __future__ import annotations

import concurrent.futures
import contextlib
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bootplane.core import http_fetch
from bootplane.core.status import CoreError
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.region import FakeRegion

pytestmark = pytest.mark.integration

MB = 1_000_000
IMAGE = random.Random(2).randbytes(1 << 20) * 96
GREEDY = 15


def eventually(is_true: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not is_true():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.02)


def sent(rack: RackProcess) -> dict[str, float]:
    """Bytes to each team, at one moment."""
    numbers = rack.metrics()
    return {team: numbers.get(f'bootplane_share_bytes_total{{group="{team}"}}', 0) for team in ("team-a", "team-b")}


@pytest.mark.parametrize("reactors", ["1", "2"])
def test_one_machine_gets_its_share_once_the_region_has_said_so(tmp_path: Path, reactors: str) -> None:
    with FakeRegion({"images/x/squashfs": IMAGE}) as region:
        rack = RackProcess(tmp_path / "rack", region, "--reactors", reactors, "--drain-limit", "0")
        with rack, concurrent.futures.ThreadPoolExecutor(GREEDY + 1) as pool:
            http_fetch.fetch(rack.http.host, rack.http.port, "/images/x/squashfs")  # it is here from now on
            region.settings = {"shares": "total 240Mbit/s; team-a 127.0.1.0/24; team-b 127.0.2.0/24"}
            eventually(lambda: "shares: total 240Mbit/s; team-a 127.0.1.0/24; team-b" in rack.log())

            def greedy(source: str) -> None:
                with contextlib.suppress(CoreError, OSError):  # the rack ends first
                    http_fetch.fetch(rack.http.host, rack.http.port, "/images/x/squashfs", source=source, verify=False)

            for n in range(GREEDY):
                pool.submit(greedy, f"127.0.1.{n + 1}")
            eventually(lambda: sent(rack)["team-a"] > 4 * MB)
            pool.submit(greedy, "127.0.2.1")
            eventually(lambda: sent(rack)["team-b"] > 4 * MB)
            before = sent(rack)
            eventually(lambda: sent(rack)["team-b"] > before["team-b"] + 24 * MB)
            after = sent(rack)
            assert after["team-b"] < len(IMAGE), "both were being sent to all the time"
            grown = {team: after[team] - before[team] for team in after}
            assert grown["team-a"] / grown["team-b"] == pytest.approx(1, rel=0.1)
            assert rack.stop() == 0
