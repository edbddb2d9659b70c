"""The rack once its reactors run: everything that is Python, wired together on one event loop and a few threads.

    reactor's mails ──▶ loop ──miss, damaged──▶ Filler (fill threads)
                             ──ask───▶ Dynamic (worker threads)
                             ──handover▶ ControlPort (the loop)
    follower thread: catalogue, tables (and refresh thread: at once)          beat thread: "I live", bulk addresses
    reporter threads: what machines have fetched, to the region          scrub thread: is the disk still right?

Invariant: nothing in here is on the way of a warm hit. Left to others: all the work; this file only connects.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bootplane import __version__
from bootplane.core.lru import Cache
from bootplane.core.tls import Tls, TlsError
from bootplane.dataplane import certificate
from bootplane.dataplane.addresses import HostPort
from bootplane.dataplane.background import Job
from bootplane.dataplane.cachereport import CacheReporter
from bootplane.dataplane.catalogue import PinnedKey
from bootplane.dataplane.dynamic import Dynamic
from bootplane.dataplane.fill import Filler
from bootplane.dataplane.follower import Follower
from bootplane.dataplane.forward import Forwarder
from bootplane.dataplane.limits import Keeper, Limits
from bootplane.dataplane.names import Registry
from bootplane.dataplane.notify import Manager
from bootplane.dataplane.proxy import ControlPort
from bootplane.dataplane.racktoken import RackToken
from bootplane.dataplane.reactors import Reactors
from bootplane.dataplane.refresh import Refresher
from bootplane.dataplane.refusals import Refusal
from bootplane.dataplane.region_client import RegionClient, RegionError
from bootplane.dataplane.reports import Reporter
from bootplane.dataplane.scrub import PASS_S, Damage, Scrubber
from bootplane.dataplane.settle import Settler
from bootplane.dataplane.store import Store

if TYPE_CHECKING:  # imported at the first scrape: a rack that nobody scrapes need not know Prometheus
    from bootplane.core.blob import Blob
    from bootplane.dataplane.metrics import Exposition, Numbers

BEAT_S = 5.0
FIRST_CATALOGUE_S = 10.0  # how long "ready" waits for the region's first answer
DRAIN_S = 30.0  # for what machines fetch while this process is told to end
REPORT_S = 3.0  # for the last transfers, once machines are served no more
RECENT_EVENTS = 32  # refusals told with a beat
CERTIFICATE_S = 24 * 3600.0  # how often is looked whether the certificate expires

log = logging.getLogger("bootplane.rack")


class RackService:
    """Built and run on one thread. *tftp* is None when this rack serves no TFTP."""

    def __init__(
        self,
        *,
        directory: Path,
        token: RackToken,
        regions: Sequence[str],
        cache: Cache,
        reactors: Reactors,
        http: HostPort,
        tftp: HostPort | None,
        https: HostPort | None = None,
        tls: Tls | None = None,
        own_limits: Limits,
        told_limits: Limits,
        shared_store: Path | None = None,
        park_limit_s: float = 20.0,
        scrub_pass_s: float = PASS_S,
        drain_s: float = DRAIN_S,
        manager: Manager | None = None,
    ) -> None:
        self._token = token
        self._cache = cache
        self._reactors = reactors
        self._http = http
        self._tftp = tftp
        self._https = https
        self._tls = tls
        self._drain_s = drain_s
        self._manager = manager or Manager({})
        key = PinnedKey(token.region_key)
        self._client = RegionClient(regions, token)
        store = Store(shared_store, read_only=True) if shared_store else None
        self._refresher = Refresher(
            lambda: self._follower.refresh(), lambda: self._follower.catalogue, lambda: self.filler.look_again()
        )
        self.filler = Filler(cache, reactors.chunk, park_limit_s=park_limit_s, refresher=self._refresher)
        self._follower = Follower(
            directory,
            self._client,
            key,
            lambda chunks: Registry(cache, chunks, store),
            reactors.publish,
            self.filler.set_sources,
            self.filler.forget,
        )
        self._dynamic = Dynamic(self._client, key, token.rack_id, http, tftp, reactors.answer)
        forwarder = Forwarder(lambda: self._client.urls, token.secret)
        self._control = ControlPort(forwarder, self._metrics_text, reactors.adopt)
        self._reporter = Reporter(reactors.records, lambda: reactors.counters()["records_lost"], self._client.transfers)
        self._limits = Keeper(directory, own_limits, told_limits, cache, self.filler, reactors.shares)
        follower = self._follower
        self._settler = Settler(cache)
        self.scrubber = Scrubber(cache, lambda: follower.registry.blobs(), self._damaged, pass_s=scrub_pass_s)
        self._explain = CacheReporter(
            lambda: follower.registry.blobs(),
            lambda: follower.catalogue,
            reactors.counters,
            cache.evictions,
            cache.leavers,
            self._rest,
        )
        self._exposition: Exposition | None = None
        self._region_reachable = False
        self._is_beat_failing = False
        self._beats = Job("beat", self._beat, failed_s=BEAT_S)
        self._certificate: certificate.Certificate | None = None  # the one in use
        self._certificate_looks = Job(
            "certificate", self._look_at_certificate, failed_s=CERTIFICATE_S, prepare=self._know_certificate
        )

    def load(self) -> None:
        """Serves what the rack's own disk holds. The reactors run already."""
        self._follower.load()

    async def run(self, ready: Callable[[], None]) -> None:
        """Serves until SIGTERM or SIGINT, then drains; a second signal ends that, too. Calls *ready* once machines can
        be served."""
        loop = asyncio.get_running_loop()
        stop, hurry = asyncio.Event(), asyncio.Event()

        def end() -> None:
            (hurry if stop.is_set() else stop).set()
            self._follower.tried.set()  # nobody need wait for the first catalogue any more

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(None, self._read_certificate))
        self._reactors.attach(
            loop,
            {"miss": self._miss, "damaged": self._unreadable, "ask": self._ask, "handover": self._handover},
        )
        self._refresher.start()
        self.filler.start()
        self._reporter.start()
        self.scrubber.start()
        self._settler.start()
        self._beats.start()
        if self._tls is not None:
            self._certificate_looks.start()
        threading.Thread(target=self._follower.run, name="follower", daemon=True).start()
        await loop.run_in_executor(None, self._follower.tried.wait, FIRST_CATALOGUE_S)
        self._reactors.open()
        ready()
        where = f"HTTP at {self._http}" + (f" and TFTP at {self._tftp}" if self._tftp else "")
        where += f" and HTTPS at {self._https}" if self._https else ""
        self._manager.ready(f"serves {where}")
        watch = loop.create_task(self._tell_alive())
        await stop.wait()
        self._manager.stopping("finishes what machines fetch")
        await self._end(loop, hurry)
        watch.cancel()

    def _read_certificate(self) -> None:
        if self._tls is None:
            log.info("SIGHUP: there is no certificate to be read again: this rack serves no HTTPS")
            return
        try:
            self._tls.reload()
        except TlsError as error:
            log.error("HTTPS: the certificate stays as it was: %s", error)
        else:
            log.info(
                "HTTPS: read %s and its key again; connections that come from now on get them", self._tls.certificate
            )
            self._know_certificate()
            self._look_at_certificate()

    def _know_certificate(self) -> None:
        """Reads what was given to the reactors just now."""
        assert self._tls is not None
        try:
            self._certificate = certificate.read(self._tls.certificate)
        except certificate.CertificateError as error:  # OpenSSL takes it, and serves it
            log.warning("HTTPS: %s", error)

    def _look_at_certificate(self) -> float:
        """Says what machines hold against the one in use. Returns the seconds until the next look."""
        assert self._tls is not None
        if self._certificate is not None and (complaint := self._certificate.complaint(time.time())):
            log.warning("HTTPS: %s: %s", self._tls.certificate, complaint)
        return CERTIFICATE_S

    async def _tell_alive(self) -> None:
        """To a manager that wants to know: this loop turns, and so do the reactors."""
        while self._manager.watchdog_s is not None:
            if self._reactors.are_turning():
                self._manager.alive()
            await asyncio.sleep(self._manager.watchdog_s / 4)

    async def _end(self, loop: asyncio.AbstractEventLoop, hurry: asyncio.Event) -> None:
        self._beats.end()
        self._certificate_looks.end()
        self._follower.stop()
        self._refresher.stop()
        log.info("draining: at most %.0f s for what runs; a second signal ends it now", self._drain_s)
        began, before = loop.time(), self._transfers_ended()
        await self._reactors.drain(self._drain_s, hurry)
        took_s, after = loop.time() - began, self._transfers_ended()
        await self._control.close(0.0 if hurry.is_set() else None)
        self._dynamic.close()
        await loop.run_in_executor(None, self.scrubber.stop)
        await loop.run_in_executor(None, self._settler.stop)
        await loop.run_in_executor(None, self.filler.stop)  # first: it speaks to the reactors
        self._reactors.detach(loop)
        await loop.run_in_executor(None, self._reactors.stop)
        finished, cut = after - before, self._transfers_ended() - after
        log.info("drained in %.1f s: %d transfers of files came to their end, %d were cut", took_s, finished, cut)
        await loop.run_in_executor(None, self._reporter.stop, REPORT_S)  # last: what was cut is a transfer, too
        self._client.close()

    def _transfers_ended(self) -> int:
        counts = self._reactors.counters()
        return counts["hits"] + counts["misses"] + counts["coalesced"]

    # -- mails of the reactors, on the loop

    def _miss(self, reactor: int, mail: tuple[Any, ...]) -> None:
        if (blob := self._waited_for(reactor, mail)) is not None:
            self.filler.miss(blob, mail[2])

    def _unreadable(self, reactor: int, mail: tuple[Any, ...]) -> None:
        if (blob := self._waited_for(reactor, mail)) is not None:
            self.filler.damaged(blob, mail[2])

    def _waited_for(self, reactor: int, mail: tuple[Any, ...]) -> Blob | None:
        _, blob_id, chunk = mail
        blob = self._follower.registry.by_id(blob_id)
        if blob is None:
            log.error("reactor %d waits for chunk %d of blob id %d, which nobody knows", reactor, chunk, blob_id)
        return blob

    def _ask(self, reactor: int, mail: tuple[Any, ...]) -> None:
        _, request, proto, name, peer, local = mail
        self._dynamic.ask(reactor, request, proto, name, peer, local)

    def _handover(self, reactor: int, mail: tuple[Any, ...]) -> None:
        _, fd, data, peer, _ = mail
        self._control.take(reactor, fd, data, peer)

    def _damaged(self, damage: Damage) -> None:
        """On the scrub's thread."""
        refusal = Refusal(damage.blob, damage.chunk, "its own disk", damage.expected, damage.got, time.time())
        self.filler.events.append(refusal)

    # -- the beat, on its thread

    def _beat(self) -> float:
        """Seconds until the next one: none when limits have changed, for operators are shown what a beat has told."""
        is_news = False
        try:
            answer = self._client.beat(self._report())
            self.filler.set_sources(answer.bulk)
            self._region_reachable, self._is_beat_failing = True, False
            if answer.settings is not None:
                is_news = self._limits.take(answer.settings)
        except RegionError as error:
            self._region_reachable = False
            if not self._is_beat_failing:
                log.warning("beat: %s", error)
            self._is_beat_failing = True
        self._limits.settle()
        return 0.0 if is_news else BEAT_S

    def _rest(self) -> dict[str, float]:
        scrub = self.scrubber.stats
        told = {key: getattr(scrub, key) for key in ("passes", "chunks", "damaged", "last_pass_s")}
        throttled_s = self.filler.stats.throttled_s
        return {
            **self._limits.in_force(),
            "throttled_s": round(throttled_s, 3),
            **{f"scrub_{key}": value for key, value in told.items()},
        }

    def _report(self) -> dict[str, Any]:
        events = [dict(event._asdict(), text=event.sentence()) for event in list(self.filler.events)[-RECENT_EVENTS:]]
        return {
            "rack": self._token.rack_id,
            "http": str(self._http),
            "tftp": str(self._tftp) if self._tftp else "",
            "https": str(self._https) if self._https else "",
            "catalogue": self._follower.version,
            "cache": self._cache.stats(),
            "cache_report": self._explain.report(),
            "upstream_bytes": self.filler.stats.upstream_bytes,
            "events": events,
            "version": __version__,
            "time": time.time(),
        }

    # -- metrics, on the loop

    def _numbers(self) -> Numbers:
        from bootplane.dataplane.metrics import Numbers

        catalogue = self._follower.catalogue
        return Numbers(
            core=self._reactors.counters(),
            reactors=self._reactors.counters_of_each(),
            shares=self._reactors.shares.counts(),
            cache=self._cache.stats(),
            fill=self.filler.stats,
            upstream_limit_bytes_s=self.filler.upstream_limit_bytes_s,
            scrub=self.scrubber.stats,
            questions=self._dynamic.outcomes,
            control=self._control.outcomes,
            transfers=self._reporter.ended,
            reports_waiting=self._reporter.waiting,
            reports_sent=self._reporter.sent,
            reports_dropped=self._reporter.dropped,
            sources=len(self.filler.source_keys()),
            catalogue_version=self._follower.version,
            catalogue_names=len(catalogue.names) if catalogue else 0,
            region_reachable=self._region_reachable,
            certificate_ends=self._certificate.ends if self._certificate is not None else 0.0,
        )

    def _metrics_text(self) -> bytes:
        if self._exposition is None:
            from bootplane.dataplane.metrics import Exposition

            self._exposition = Exposition(self._numbers, __version__)
        return self._exposition.text()
