"""What an operator has: a region on a port and the command line, with a mirror beside it that can misbehave.

The region is a real one (database, store, HTTP server) in this process, with threads in place of the durable engine;
commands run in this process too, and reach it over its port. So a test drives a sync as an operator does, in a few
tenths of a second, and looks at the store, the database and the mirror's own counts afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from bootplane.control import config
from bootplane.control.app import Region
from bootplane.control.cli import sync as sync_command
from bootplane.control.cli.main import app
from bootplane.control.mirror_publish import PublishProduct, publish
from bootplane.control.simplestreams.fetch import Fetcher
from bootplane.control.simplestreams.signer import Signer
from bootplane.control.sync import coordinator, download, transport
from tests.fakes.engine import ThreadEngine
from tests.fakes.mirror import MirrorServer, serve, small_products

START_S = 30.0
ENDS_S = 60.0
INDEX = "streams/v1/index.sjson"


@contextmanager
def served(data: Path, **settings: Any) -> Iterator[Region]:
    """A region that listens on a port of loopback (``region.listen``), until the block ends."""
    options: dict[str, Any] = {"listen": "127.0.0.1:0", "bulk": "127.0.0.1:0", "sync_interval": 0, "low_space": 0}
    region = Region(config.load(data, **(options | settings)), engine=ThreadEngine())
    server = uvicorn.Server(
        uvicorn.Config(
            region.app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="on", ws="none"
        )
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    tick = threading.Event()
    for _ in range(int(START_S / 0.01)):
        if server.started or not thread.is_alive():
            break
        tick.wait(0.01)
    assert server.started and not region.failure, region.failure
    region.listen = config.join_address(*server.servers[0].sockets[0].getsockname()[:2])
    try:
        yield region
    finally:
        server.should_exit = True
        thread.join(ENDS_S)
        assert not thread.is_alive()


def in_no_time(patch: pytest.MonkeyPatch) -> None:
    """Waits of the product, short: a test waits for what happens and not for patience to run out."""
    patch.setattr(coordinator, "POLL_S", 0.02)
    patch.setattr(sync_command, "POLL_S", 0.02)
    patch.setattr(download, "WAITS_S", (0.01, 0.01, 0.01))
    patch.setattr(transport, "Fetcher", partial(Fetcher, retry_waits_s=(0.01,), timeout_s=5.0))


class State(NamedTuple):
    """What must not change when nothing good came: every file of the store, every row that matters."""

    files: Mapping[str, tuple[int, str]]  # name in image-storage -> bytes, SHA-256
    images: Mapping[str, str]  # complete ones: name -> version
    blobs: frozenset[str]
    accepted: Mapping[str, str]  # content id -> `updated` of the first source
    catalogue: int


class Operator:
    """*mirror* has been published by *signer* and serves; the region has it as source 1 once ``add`` was called."""

    def __init__(self, region: Region, mirror: MirrorServer, signer: Signer, folder: Path) -> None:
        self.region, self.mirror, self.signer, self.folder = region, mirror, signer, folder
        self.serial = 20250709
        self._updated = datetime.now(UTC) - timedelta(days=1)

    # -- the command line

    def run(self, *words: str) -> Result:
        env = {
            "BOOTPLANE_URL": f"http://{self.region.listen}", "BOOTPLANE_TOKEN": self.region.admin_token,
            "BOOTPLANE_DATA": None,
        }  # fmt: skip
        return CliRunner().invoke(app, list(words), env=env)

    def json(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, *words: str) -> str:
        """The one sentence of a command that fails with exit status 1."""
        done = self.run(*words)
        assert done.exit_code == 1, done.stdout + done.stderr
        *remarks, last = done.stderr.splitlines()
        assert last.startswith("bootplane: ") and "Traceback" not in done.stderr and not remarks, done.stderr
        assert last.isprintable()
        return last.removeprefix("bootplane: ")

    def sync(self) -> str:
        """The last line of a sync that completes."""
        done = self.run("sync", "--wait")
        assert done.exit_code == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-1]

    def banners(self) -> dict[str, str]:
        return {banner["id"]: banner["text"] for banner in self.json("status")["banners"]}

    def keyring(self, *signers: Signer, name: str = "keys") -> str:
        path = self.folder / f"{name}.gpg"
        path.write_bytes(b"".join(each.public() for each in signers or (self.signer,)))
        return str(path)

    def add(self, *signers: Signer) -> None:
        """The mirror as source 1, whose keyring has *signers*, and noble for amd64 as the selection."""
        self.json("source", "add", self.mirror.url, "--keyring", self.keyring(*signers), "--name", "mirror")
        self.json("select", "add", "ubuntu", "noble", "--arch", "amd64")

    # -- the mirror

    def later(self) -> datetime:
        """A date for an index, a minute after the one before."""
        self._updated += timedelta(minutes=1)
        return self._updated

    def products(self) -> list[PublishProduct]:
        """The small mirror's products of a new serial: other bytes throughout."""
        self.serial += 1
        return small_products(self.folder / "inputs", serial=str(self.serial), root_bytes=60_000)

    def publish(self, products: list[PublishProduct] | None = None, updated: datetime | None = None) -> None:
        publish(
            self.mirror.root, self.products() if products is None else products, self.signer,
            updated=updated or self.later(),
        )  # fmt: skip

    def kernel(self, subarch: str = "ga-24.04") -> str:
        """The path of a kernel of the serial published last."""
        return f"noble/amd64/{self.serial}/{subarch}/generic/boot-kernel"

    def document(self, path: str = "streams/v1/index.json") -> Any:
        return json.loads((self.mirror.root / path).read_bytes())

    def put(self, path: str, data: bytes) -> None:
        (self.mirror.root / path).write_bytes(data)

    def sign(self, path: str, document: Any) -> None:
        """*document* (bytes, or what JSON is made of) clear-signed under *path*."""
        data = document if isinstance(document, bytes) else json.dumps(document, indent=1).encode()
        self.put(path, self.signer.clearsign(data))

    def forget(self) -> None:
        """The mirror's counts begin anew."""
        self.mirror.requests.clear()
        self.mirror.sent.clear()
        self.mirror.heads.clear()

    def asked(self) -> list[tuple[str, str | None]]:
        """(path, Range) of each request since ``forget``."""
        with self.mirror.lock:
            return [
                (path, head.get("Range")) for path, head in zip(self.mirror.requests, self.mirror.heads, strict=True)
            ]

    def item_bytes(self) -> int:
        """Bytes of bodies that are no metadata, since ``forget``."""
        return sum(count for path, count in self.mirror.sent.items() if not path.startswith("streams/"))

    @property
    def sent(self) -> Counter[str]:
        return self.mirror.sent

    # -- the region

    def state(self) -> State:
        directory = self.region.store.directory
        files = {
            str(path.relative_to(directory)): (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in sorted(directory.rglob("*"))
            if path.is_file() and path.name != "owner.json"
        }
        complete = {
            each.resource_set.resource.name: each.resource_set.version
            for each in self.region.images.sets()
            if each.complete and each.marked is None
        }
        published = self.region.publisher.current
        assert published is not None
        accepted = self.region.sources.accepted("1")
        return State(files, complete, frozenset(self.region.blobs.present()), accepted, published.version)

    def is_sound(self) -> None:
        """Every file of the store is what its name says, every row has its file, and nothing half stands about."""
        store = self.region.store
        for sha256, size in store.complete():
            data = store.path_of(sha256).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (size, sha256)
        assert {sha256 for sha256, _ in store.complete()} >= set(self.region.blobs.present())


@contextmanager
def operator(folder: Path, signer: Signer, patch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Operator]:
    """A region, a mirror that is published and served, and nothing added yet."""
    in_no_time(patch)
    (folder / "mirror").mkdir(parents=True)
    with serve(folder / "mirror") as mirror, served(folder / "data", **settings) as region:
        made = Operator(region, mirror, signer, folder)
        made.publish()
        yield made
