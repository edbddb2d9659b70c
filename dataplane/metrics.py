"""The rack's /metrics: every counter of core, the cache, the filler, the control port, as Prometheus text.

A custom collector reads the numbers at scrape time; nothing is counted twice. Invariants: every name begins with
bootplane_, units are base units, no label has unbounded values; help texts of core's counters are core's own.

Left to others: counting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from bootplane.core.counters import COUNTERS
from bootplane.dataplane.fillstats import FillStats
from bootplane.dataplane.reports import DROPPED
from bootplane.dataplane.scrub import ScrubStats
from bootplane.dataplane.transfers import OUTCOMES, PROTOCOLS

PREFIX = "bootplane_"

# key of Cache.stats() -> help; the first ones are levels, the others only grow
CACHE_GAUGES = {
    "limit_bytes": "Bytes the cache may hold.",
    "charged_bytes": "Bytes charged to the cache, reservations of fills included.",
    "condemned_bytes": "Bytes of evicted segments that somebody still reads.",
    "segments": "Segments in the cache.",
    "open_segments": "Segments whose file is open; the others are opened at their next use.",
    "protected_bytes": "Bytes of boot loaders and other small files, which leave last.",
    "reused_bytes": "Bytes of segments that were used again long after they were fetched.",
}
CACHE_COUNTERS = {
    "reopened_segments": "Times that the file of a segment was opened again.",
    "made_segments": "Segments made for what was fetched.",
    "ghost_double_segments": "Segments made that a cache of twice the limit would still have had.",
    "ghost_quadruple_segments": "Segments made that a cache of four times the limit would still have had.",
    "evicted_segments": "Segments evicted: for room, by a lower limit, for a full disk.",
    "evicted_room_segments": "Segments evicted because another one needed the room.",
    "evicted_limit_segments": "Segments evicted because the limit was lowered.",
    "evicted_disk_segments": "Segments evicted because the disk was full before the cache was.",
    "evicted_bytes": "Bytes of evicted segments.",
    "filled_bytes": "Bytes verified and written to the cache.",
    "refused_chunks": "Chunks refused because their digest differed.",
    "misfit_segments": "Files of an earlier run that did not fit their blob, and were removed.",
    "kept_segments": "Segments of an earlier run that were taken over at the start.",
    "rechecked_chunks": "Chunks of an earlier run that were hashed before their first use.",
    "rotten_chunks": "Chunks that were no longer right on the disk; their segments are removed.",
}
SCRUB_COUNTERS = {
    "passes": "Whole passes over the cache.",
    "chunks": "Chunks read again from the disk.",
    "bytes": "Bytes read again from the disk.",
    "hashed": "Chunks hashed with SHA-256: first looks, and confirmations.",
    "damaged": "Chunks found damaged on the disk.",
}
REACTOR_COUNTERS = {
    "http_requests": "HTTP request heads parsed by this thread.",
    "tftp_requests": "TFTP transfers begun by this thread.",
}
FETCH_ERRORS = ("unreachable", "stalled", "cut", "answer", "missing", "disk")
QUESTION_OUTCOMES = ("text", "unknown", "retry", "refused")
CONTROL_OUTCOMES = ("metrics", "forwarded", "refused", "unreachable", "cut", "gone")


@dataclass(frozen=True, slots=True)
class Numbers:
    """One reading of everything, for one scrape."""

    core: Mapping[str, int]
    reactors: Sequence[Mapping[str, int]]  # the same, of each one
    shares: Mapping[str, tuple[int, int]]  # group -> (bytes sent, who waits for a turn); bounded: an operator's names
    cache: Mapping[str, int]
    fill: FillStats
    upstream_limit_bytes_s: int
    scrub: ScrubStats
    questions: Mapping[str, int]
    control: Mapping[str, int]
    transfers: Mapping[tuple[str, str], int]  # (protocol, outcome)
    reports_waiting: int
    reports_sent: int
    reports_dropped: Mapping[str, int]  # why -> transfers
    sources: int
    catalogue_version: int
    catalogue_names: int
    region_reachable: bool
    certificate_ends: float  # Unix seconds; 0: no HTTPS


class RackCollector(Collector):
    def __init__(self, read: Callable[[], Numbers], version: str) -> None:
        self._read = read
        self._version = version

    def collect(self) -> Iterable[Metric]:
        numbers = self._read()
        for counter in COUNTERS:
            yield CounterMetricFamily(PREFIX + counter.name, counter.help, value=numbers.core.get(counter.name, 0))
        for key, text in REACTOR_COUNTERS.items():
            each = CounterMetricFamily(f"{PREFIX}reactor_{key}", text, labels=["reactor"])
            for index, counts in enumerate(numbers.reactors):
                each.add_metric([str(index)], counts[key])
            yield each
        yield from self._shares(numbers.shares)
        for key, text in CACHE_GAUGES.items():
            yield GaugeMetricFamily(f"{PREFIX}cache_{key}", text, value=numbers.cache[key])
        for key, text in CACHE_COUNTERS.items():
            yield CounterMetricFamily(f"{PREFIX}cache_{key}", text, value=numbers.cache[key])
        yield from self._fill(numbers.fill)
        yield GaugeMetricFamily(
            f"{PREFIX}fill_upstream_limit_bytes_per_second",
            "Bytes a second that may be fetched from regions; 0 is no limit.",
            value=numbers.upstream_limit_bytes_s,
        )
        for key, text in SCRUB_COUNTERS.items():
            yield CounterMetricFamily(f"{PREFIX}scrub_{key}", text, value=getattr(numbers.scrub, key))
        yield GaugeMetricFamily(
            f"{PREFIX}scrub_last_pass_seconds", "How long the last whole pass took.", value=numbers.scrub.last_pass_s
        )
        yield _labelled(
            "boot_questions", "Boot configurations asked for.", "outcome", QUESTION_OUTCOMES, numbers.questions
        )
        yield _labelled(
            "control_requests", "Requests on handed-over connections.", "outcome", CONTROL_OUTCOMES, numbers.control
        )
        yield from self._reports(numbers)
        yield GaugeMetricFamily(f"{PREFIX}sources", "Bulk addresses of regions known.", value=numbers.sources)
        yield GaugeMetricFamily(
            f"{PREFIX}catalogue_version", "Version of the catalogue being served.", value=numbers.catalogue_version
        )
        yield GaugeMetricFamily(f"{PREFIX}catalogue_names", "Names being served.", value=numbers.catalogue_names)
        yield GaugeMetricFamily(
            f"{PREFIX}region_reachable", "1 when a region answered the last beat.", value=numbers.region_reachable
        )
        yield GaugeMetricFamily(
            f"{PREFIX}tls_certificate_expiry_timestamp_seconds",
            "Unix time at which the certificate in use expires; 0: no HTTPS.",
            value=numbers.certificate_ends,
        )
        yield InfoMetricFamily(f"{PREFIX}build", "What is running.", value={"version": self._version, "role": "rack"})

    @staticmethod
    def _shares(shares: Mapping[str, tuple[int, int]]) -> Iterable[Metric]:
        sent = CounterMetricFamily(
            f"{PREFIX}share_bytes", "Bytes of large files sent to this group of clients.", labels=["group"]
        )
        waiting = GaugeMetricFamily(
            f"{PREFIX}share_waiting", "Transfers of this group that wait for their turn.", labels=["group"]
        )
        for group, (count, waits) in shares.items():
            sent.add_metric([group], count)
            waiting.add_metric([group], waits)
        yield sent
        yield waiting

    @staticmethod
    def _reports(numbers: Numbers) -> Iterable[Metric]:
        text = "Transfers that ended and were read for the boot timeline."
        ended = CounterMetricFamily(f"{PREFIX}transfers", text, labels=["protocol", "outcome"])
        for protocol in PROTOCOLS:
            for outcome in OUTCOMES:
                ended.add_metric([protocol, outcome], numbers.transfers.get((protocol, outcome), 0))
        yield ended
        yield GaugeMetricFamily(
            f"{PREFIX}reports_waiting", "Transfers that no region has taken yet.", value=numbers.reports_waiting
        )
        yield CounterMetricFamily(
            f"{PREFIX}reports_sent",
            "Transfers that a region has taken for the boot timeline.",
            value=numbers.reports_sent,
        )
        yield _labelled(
            "reports_dropped",
            "Transfers that were read and are in no timeline.",
            "reason",
            DROPPED,
            numbers.reports_dropped,
        )

    @staticmethod
    def _fill(fill: FillStats) -> Iterable[Metric]:
        for key, text, value in (
            ("fill_upstream_bytes", "Body bytes received from regions.", fill.upstream_bytes),
            (
                "fill_wasted_bytes",
                "Body bytes not kept: cut, wrong, or refused by the disk.",
                fill.wasted_bytes,
            ),
            ("fill_chunks", "Chunks fetched, verified and stored.", fill.chunks),
            ("fill_requests", "Range requests sent to regions.", fill.runs),
            ("fill_refused_chunks", "Chunks from regions whose digest differed.", fill.refused),
            ("damaged_chunks", "Chunks found damaged on this host's disk while they were sent.", fill.damaged),
            ("fill_given_up_chunks", "Chunks whose waiters were told that they cannot be had.", fill.given_up),
            ("fill_throttled_seconds", "Time in which somebody waited for the upstream limit.", fill.throttled_s),
        ):
            yield CounterMetricFamily(PREFIX + key, text, value=value)
        yield _labelled("fill_errors", "Fetches that failed.", "reason", FETCH_ERRORS, fill.errors)


class Exposition:
    """Renders the text; one scrape at a time, any thread."""

    def __init__(self, read: Callable[[], Numbers], version: str) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(RackCollector(read, version))
        self._lock = threading.Lock()

    def text(self) -> bytes:
        with self._lock:
            return generate_latest(self._registry)


def _labelled(name: str, text: str, label: str, values: Iterable[str], counts: Mapping[str, int]) -> Metric:
    """A counter with one label of known values: each is there from the start, also while it is 0."""
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for value in values:
        family.add_metric([value], counts.get(value, 0))
    return family
