"""A region says that it has removed a file: this rack's catalogue is old, and a newer one is asked for at once.

    fill thread ──410──▶ told() ──▶ one thread: catalogue? ──▶ newer: served │ none newer │ no answer
                                             │
                              is_running ◀───┘ until then waiters of removed files are told nothing (fill)

The long poll would bring it, unless the rack's own end of it hangs, the follower waits after a failure, or another
region was asked.

Invariants: one question at a time, however many fetches were told 410; none while the catalogue is the one of which a
region has said that none is newer; none within PAUSE_S of one that nobody answered.

Left to others: asking and serving (follower), who waits (fill).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from bootplane.dataplane.catalogue import Catalogue, CatalogueError
from bootplane.dataplane.region_client import RegionError

PAUSE_S = 2.0

log = logging.getLogger("bootplane.catalogue")


class Refresher:
    """*ask()* returns once the region has answered and what it gave is served; *served()* is the catalogue that is;
    *done()* is called after each question. Any thread may call told()."""

    def __init__(
        self, ask: Callable[[], None], served: Callable[[], Catalogue | None], done: Callable[[], None]
    ) -> None:
        self._ask, self._served, self._done = ask, served, done
        self._lock = threading.Lock()
        self._reason = ""  # of the question to be asked
        self._newest = -1  # a region has said that none is newer than this version
        self._not_before = 0.0
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="refresh", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns at once: the thread may hang in a question, and touches nothing that is freed."""
        self._stopping = True
        self._wake.set()

    @property
    def is_running(self) -> bool:
        """Whether a question is to be asked, or has been and is not answered yet."""
        return bool(self._reason)

    def told(self, sha256: str, source: str) -> None:
        """*source* says that it has removed this file. Returns at once."""
        with self._lock:
            served = self._served()
            if served is None or sha256 not in served.blobs:  # a newer one has come meanwhile
                return
            if self._stopping or self._reason or served.version == self._newest or time.monotonic() < self._not_before:
                return
            self._reason = f"{source} says that it has removed {sha256}"
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stopping:
                self._reason = ""
                return
            if self._reason:
                self._refresh()

    def _version(self) -> int:
        served = self._served()
        return served.version if served else 0

    def _refresh(self) -> None:
        before = self._version()
        log.warning("%s: asking for a catalogue newer than %d", self._reason, before)
        try:
            self._ask()
            if self._version() == before:
                self._newest = before
                log.warning("the region has no catalogue newer than %d, which names files it has removed", before)
        except (RegionError, CatalogueError) as error:
            self._not_before = time.monotonic() + PAUSE_S
            log.warning("asking for a newer catalogue: %s", error)
        except Exception:  # everything: whoever waits is told, and the log has the traceback
            self._not_before = time.monotonic() + PAUSE_S
            log.exception("asking for a newer catalogue failed in a way that was not foreseen")
        finally:
            with self._lock:
                self._reason = ""
            self._done()
