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


def eventually(is_true: Callable[[], bool], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not is_true():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.02)


def sent(rack: RackProcess, group: str) -> float:
    return rack.metrics().get(f'bootplane_share_bytes_total{{group="{group}"}}', 0)


@pytest.mark.parametrize("reactors", ["1", "2"])
def test_one_machine_gets_its_share_once_the_region_has_said_so(tmp_path: Path, reactors: str) -> None:
    with FakeRegion({"images/x/squashfs": IMAGE}) as region:
        rack = RackProcess(tmp_path / "rack", region, "--reactors", reactors, "--drain-limit", "0")
        with rack, concurrent.futures.ThreadPoolExecutor(GREEDY) as pool:
            http_fetch.fetch(rack.http.host, rack.http.port, "/images/x/squashfs")  # it is here from now on
            region.settings = {"shares": "total 480Mbit/s; team-a 127.0.1.0/24; team-b 127.0.2.0/24"}
            eventually(lambda: "shares: total 480Mbit/s; team-a 127.0.1.0/24; team-b" in rack.log())

            def greedy(n: int) -> None:
                with contextlib.suppress(CoreError, OSError):  # the rack ends first
                    http_fetch.fetch(
                        rack.http.host, rack.http.port, "/images/x/squashfs", source=f"127.0.1.{n + 1}", verify=False
                    )

            for n in range(GREEDY):
                pool.submit(greedy, n)
            eventually(lambda: sent(rack, "team-a") > 4 * MB)
            before = sent(rack, "team-a")
            fetched = http_fetch.fetch(
                rack.http.host, rack.http.port, "/images/x/squashfs", end=48 * MB - 1, source="127.0.2.1"
            )
            after = sent(rack, "team-a")
            assert fetched.size == 48 * MB == sent(rack, "team-b")
            assert (after - before) / (48 * MB) == pytest.approx(1, rel=0.1)
            assert rack.stop() == 0
