"""`bootplane up` as an operator has it: a signed mirror, a region and a rack as processes, one sync behind them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bootplane.control.mirror_publish import PublishProduct, publish
from bootplane.control.simplestreams.signer import Signer
from tests.fakes.mirror import serve, small_products
from tests.fakes.region_api import RegionApi

ROOT = Path(__file__).resolve().parents[2]
ANY = "127.0.0.1:0"
UBUNTU = ("ubuntu", "noble", "--arch", "amd64")
WAIT_S = 120.0
POLL_S = 0.2
END_S = 60.0

T = TypeVar("T")


class Site(NamedTuple):
    """*ready*: where it listens, by "region", "bulk", "http", "tftp". *log*: what its processes say."""

    data: Path
    ready: dict[str, str]
    log: Path

    @property
    def http(self) -> str:
        return self.ready["http"]

    @property
    def tftp(self) -> tuple[str, str]:
        host, _, port = self.ready["tftp"].rpartition(":")
        return host, port

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "bootplane", *words, "--data", str(self.data)]
        return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)

    def run(self, *words: str) -> str:
        """What a command that succeeds prints."""
        done = self.command(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))

    def curl(self, name: str, *options: str) -> None:
        argv = ["curl", "-sS", "-o", os.devnull, *options, f"http://{self.http}/{name}"]
        subprocess.run(argv, check=True, timeout=60)

    def until_racks_know(self) -> None:
        """Every rack has the catalogue that the region has published last."""
        api = RegionApi(self.ready["region"], self.data)

        def known() -> tuple[int, list[int | None]]:
            version = api.call("GET", "/status")["catalogue"]["version"]
            return version, [rack["catalogue"] for rack in api.call("GET", "/racks")["items"]]

        self.eventually(known, lambda found: bool(found[1]) and set(found[1]) == {found[0]})

    def eventually(self, look: Callable[[], T], is_enough: Callable[[T], bool]) -> T:
        """What *look* finds, once it is enough."""
        tick = threading.Event()
        for _ in range(int(WAIT_S / POLL_S)):
            found = look()
            if is_enough(found):
                return found
            tick.wait(POLL_S)
        raise AssertionError(f"expected more within {WAIT_S:.0f} s, got {found}; the log:\n{self.log.read_text()}")


@contextmanager
def up(
    folder: Path,
    *options: str,
    products: Callable[[Path], list[PublishProduct]] = small_products,
    selections: Sequence[Sequence[str]] = (UBUNTU,),
    signer: Signer | None = None,
) -> Iterator[Site]:
    """A site in *folder*, which is made; `up` gets *options*. It ends with status 0, or the test has failed. Who gives
    the *signer* can publish anew in ``folder / "mirror"``."""
    folder.mkdir(parents=True, exist_ok=True)
    signing = nullcontext(signer) if signer else Signer.generate(folder / "gnupg", algorithm="ed25519")
    with signing as signer:
        publish(folder / "mirror", products(folder / "inputs"), signer)
        (folder / "keyring.gpg").write_bytes(signer.public())
    with serve(folder / "mirror") as mirror, started(folder, *options) as site:
        site.run("source", "add", mirror.url, "--keyring", str(folder / "keyring.gpg"))
        for selection in selections:
            site.run("select", "add", *selection)
        site.run("sync", "--wait")
        site.until_racks_know()
        yield site


@contextmanager
def started(folder: Path, *options: str) -> Iterator[Site]:
    """`up` on what is in *folder*."""
    places = [part for name in ("listen", "bulk", "http", "tftp") for part in (f"--{name}", ANY)]
    argv = [sys.executable, "-m", "bootplane", "up", "--data", str(folder / "data"), *places, *options]
    log = folder / "log"
    with (
        log.open("a") as told,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=told, text=True, cwd=ROOT) as process,
    ):
        try:
            assert process.stdout is not None
            word, *listed = process.stdout.readline().split() or [""]
            assert word == "ready", log.read_text()
            yield Site(folder / "data", dict(place.split("=") for place in listed), log)
        finally:
            process.terminate()
            try:
                assert process.wait(END_S) == 0, log.read_text()
            finally:
                process.kill()  # nothing, if it has ended: leaving waits for it without a limit
