"""Answers reactors' questions for dynamic names: the region's signed text for this machine, or a retry script.

    reactor ──ask──▶ worker thread ──▶ region ──▶ signature checked against name and key ──▶ Blob.memory ──answer──▶

Invariants: a text that the pinned region did not sign for exactly this name is shown to nobody; while no region can be
asked a machine gets a script that only waits and asks again (offline); each question gets one answer.

Left to others: contents of configurations (control), transport (region_client), the script's words (offline).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bootplane.core.blob import Blob
from bootplane.core.status import RingFull
from bootplane.dataplane import addresses
from bootplane.dataplane.addresses import HostPort
from bootplane.dataplane.catalogue import CatalogueError, PinnedKey
from bootplane.dataplane.namespace import mac_of
from bootplane.dataplane.offline import Waits, retry_script
from bootplane.dataplane.region_client import RegionClient, RegionError, RegionUnreachable

ST_UNKNOWN = 10  # status.pxd
ST_UPSTREAM = 13
TFTP_PORT = 69  # what a region is told of a rack that serves no TFTP itself
WORKERS = 8  # a question is a few milliseconds of a region's time; 64 machines at once wait for eight rounds

Address = tuple[str, int]
Reply = Callable[[int, int, Blob | None, int], None]  # (reactor, request, blob, status)

log = logging.getLogger("bootplane.dynamic")


class Dynamic:
    """*http* and *tftp* are where this rack listens; *reply* hands an answer to a reactor."""

    def __init__(
        self, client: RegionClient, key: PinnedKey, rack_id: str, http: HostPort, tftp: HostPort | None, reply: Reply
    ) -> None:
        self._client = client
        self._key = key
        self._rack_id = rack_id
        self._http = http
        self._tftp = tftp
        self._reply = reply
        self._lock = threading.Lock()
        self._waits = Waits()
        self._said: str | None = None  # why the region could not be asked, as last logged
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="ask")
        self.outcomes: Counter[str] = Counter()  # text, unknown, retry, refused

    def ask(self, reactor: int, request: int, proto: str, name: str, peer: Address, local: Address) -> None:
        """Returns at once; the answer goes to the reactor."""
        self._pool.submit(self._answer, reactor, request, proto, name, peer, local)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, reactor: int, request: int, proto: str, name: str, peer: Address, local: Address) -> None:
        try:
            blob, status = self.resolve(proto, name, peer[0], local[0])
        except Exception:  # everything: the machine waits for some answer, and the log for the traceback
            log.exception("boot text %r for %s could not be made", name, peer[0])
            blob, status = None, ST_UPSTREAM
        try:
            self._reply(reactor, request, blob, status)
        except RingFull as error:  # nobody reads what this task raises
            log.error("boot text %r for %s: %s", name, peer[0], error)

    def resolve(self, proto: str, name: str, peer: str, local: str) -> tuple[Blob | None, int]:
        """The answer for a machine at *peer* that asked at our address *local*: a blob, or None and a status code."""
        http = self._seen(self._http, local)
        tftp = self._seen(self._tftp or HostPort(self._http.host, TFTP_PORT), local)
        try:
            signed = self._client.boot(name, proto, peer, http, tftp)
            if signed is None:
                self._count("unknown")
                return None, ST_UNKNOWN
            self._key.check_boot(name, signed.body, signed.signature)
        except CatalogueError as error:
            log.error("%s", error)
            return self._retry(name, peer, http, "the region's answer is not signed by its key", "refused")
        except RegionError as error:
            self._say(str(error))
            gone = isinstance(error, RegionUnreachable)
            reason = "the region cannot be reached" if gone else "the region answered with an error"
            return self._retry(name, peer, http, reason, "retry")
        self._say(None)
        self._count("text")
        return Blob.memory(signed.body), 0

    def _retry(self, name: str, peer: str, http: str, reason: str, outcome: str) -> tuple[Blob | None, int]:
        self._count(outcome)
        with self._lock:
            attempt, wait_s = self._waits.next(mac_of(name) or peer, time.monotonic())
        regions = ", ".join(self._client.urls)
        script = retry_script(name, self._rack_id, http, regions, reason, attempt, wait_s)
        return (None, ST_UPSTREAM) if script is None else (Blob.memory(script), 0)

    def _seen(self, listening: HostPort, local: str) -> str:
        """Our address as the machine sees it: the one it asked at, with the port of this service."""
        if local and not addresses.is_unspecified(local):
            return str(HostPort(local, listening.port))
        return str(listening)

    def _count(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1

    def _say(self, reason: str | None) -> None:
        """Logs when questions begin to fail for a new reason, and when they are answered again."""
        with self._lock:
            if reason == self._said:
                return
            before, self._said = self._said, reason
        if reason is not None:
            log.warning("machines get retry scripts: %s", reason)
        elif before is not None:
            log.info("the region answers again")
