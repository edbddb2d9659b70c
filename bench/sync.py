"""``make bench-sync``: a region and a mirror of 200 products in two serials: what a sync moves, what nothing new costs.

The region is the real process, in a control group of its own; the mirror runs here and counts. Measured are the bytes
and requests of the first sync against the distinct selected files, and of syncs that find nothing new the requests and
the CPU seconds from the request until the region says that it is done. Asking for that is part of the cost: four times
a second, as the command line does twice.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.meter import LOAD_CPU, SERVER_CPU, Server
from bench.ratio import figure, write
from bootplane.control.mirror_publish import Signer, publish
from tests.fakes.mirror import MirrorServer, many_products, serve
from tests.fakes.region_api import RegionApi

PRODUCTS = 200
ROUNDS = 7
REQUESTS, CPU_S = 3, 0.5
POLL_S = 0.25
PATIENCE_S = 300.0


class Region:
    """The process and its API."""

    def __init__(self, data: Path, server: Server) -> None:
        assert server.process.stdout is not None
        line = server.process.stdout.readline().decode().split()
        if line[:1] != ["ready"]:
            raise SystemExit(f"bench: the region did not become ready: {line}")
        self.server = server
        self.call = RegionApi(line[1].partition("=")[2], data).call

    def sync(self) -> tuple[float, float]:
        """(CPU seconds of the region, seconds) of one whole sync."""
        began, cpu = time.monotonic(), self.server.cpu_s()
        self.call("POST", "/sync")
        tick = threading.Event()
        while time.monotonic() - began < PATIENCE_S:
            document = self.call("GET", "/sync")
            if document["state"] == "complete":
                return self.server.cpu_s() - cpu, time.monotonic() - began
            if document["state"] in ("failed", "stopped"):
                raise SystemExit(f"bench: the sync {document['state']}: {document['error']}")
            tick.wait(POLL_S)
        raise SystemExit(f"bench: the sync did not end within {PATIENCE_S:.0f} s")


def distinct(published: Mapping[str, tuple[str, int]], newest: str) -> int:
    """Bytes of the distinct files of the newest serial."""
    return sum({sha256: size for path, (sha256, size) in published.items() if newest in path.split("/")}.values())


def measure(folder: Path, mirror: MirrorServer, products: int, rounds: int) -> list[Any]:
    with Signer.generate(folder / "key", algorithm="ed25519") as signer:
        made = list(many_products(folder / "inputs", products))
        published = publish(mirror.root, made, signer)
        keyring = base64.b64encode(signer.public()).decode()
    wanted = distinct(published.files, max(product.version for product in made))
    data = folder / "data"
    argv = [sys.executable, "-m", "bootplane.control.region", "--data", str(data)]
    argv += ["--listen", "127.0.0.1:0", "--bulk", "127.0.0.1:0"]
    env = {**os.environ, "BOOTPLANE_SYNC_INTERVAL": "0"}
    os.sched_setaffinity(0, {LOAD_CPU})
    with Server("region", argv, cpu=SERVER_CPU, env=env) as server:
        region = Region(data, server)
        region.call("POST", "/sources", {"url": mirror.url, "keyring": keyring})
        region.call("POST", "/selections", {"os": "ubuntu", "release": "*", "arches": ["*"]})
        mirror.sent.clear()
        cpu_s, took_s = region.sync()
        moved = sum(count for path, count in mirror.sent.items() if not path.startswith("streams/"))
        print(f"first sync: {moved} bytes of {wanted} distinct ones, {took_s:.1f} s, {cpu_s:.2f} CPU s", flush=True)
        requests, spent = [], []
        for _ in range(rounds):
            mirror.requests.clear()
            cpu_s, took_s = region.sync()
            requests.append(len(mirror.requests))
            spent.append(cpu_s)
            print(f"nothing new: {requests[-1]} requests, {cpu_s:.3f} CPU s, {took_s:.2f} s", flush=True)
    name = f"sync that finds nothing new ({products} products)"
    return [
        figure("sync of a mirror: bytes moved for each distinct byte", [moved / wanted], "bytes", goal=1.0),
        figure(f"{name}: upstream requests", requests, "requests", goal=REQUESTS),
        figure(f"{name}: CPU", spent, "CPU s", goal=CPU_S),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=PRODUCTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bootplane-bench-") as name:
        folder = Path(name)
        (folder / "mirror").mkdir()
        with serve(folder / "mirror") as mirror:
            lines = measure(folder, mirror, options.products, options.rounds)
    for line in lines:
        print(line)
    print(f"written to {write('sync' if options.products == PRODUCTS else 'sync-short', lines)}")
    return int(not all(line.within(2.0) for line in lines) or lines[0].ratio != 1.0)


if __name__ == "__main__":
    sys.exit(main())
