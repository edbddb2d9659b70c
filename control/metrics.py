"""Prometheus text of a region, from the counters' own help. Read at scrape time; no label has unbounded values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bootplane.control.timeline import KINDS, Timeline
from bootplane.core.counters import COUNTERS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SYNC_STATES = ("idle", "refreshing", "downloading", "paused", "finishing", "stopped", "failed", "complete")


class RegionCollector(Collector):
    """*counters*: of the bulk reactor. *status*: RegionService.status. *uploads*: Uploads.figures."""

    def __init__(
        self,
        counters: Callable[[], dict[str, int]],
        status: Callable[[], dict[str, Any]],
        timeline: Timeline,
        uploads: Callable[[], dict[str, int]],
    ) -> None:
        self._counters = counters
        self._uploads = uploads
        self._status = status
        self._timeline = timeline

    def collect(self) -> Iterator[Metric]:
        values = self._counters()
        for counter in COUNTERS:
            if not counter.name.startswith(("tftp_", "records")):  # a region has no TFTP, and tells nobody of racks
                yield CounterMetricFamily(f"bootplane_{counter.name}", counter.help, value=values.get(counter.name, 0))
        yield from self._boot_events()
        uploads = self._uploads()
        yield GaugeMetricFamily("bootplane_uploads", "Uploads that are not complete.", value=uploads["uploads"])
        text = "Files of uploads that come in just now."
        yield GaugeMetricFamily("bootplane_upload_receiving", text, value=uploads["receiving"])
        text = "Bytes of uploads taken."
        yield CounterMetricFamily("bootplane_upload_bytes", text, value=uploads["bytes"])
        status = self._status()
        gauges = {
            "store_blobs": ("Complete files in the store.", status["store"]["blobs"]),
            "store_bytes": ("Bytes of the complete files in the store.", status["store"]["bytes"]),
            "store_free_bytes": ("Bytes that may still be reserved.", status["store"]["free_bytes"]),
            "store_marked_bytes": ("Bytes of files that nothing names any more.", status["store"]["marked_bytes"]),
            "store_aside_bytes": ("Bytes of what was put aside.", status["store"]["aside"]["bytes"]),
            "store_due_blobs": ("Files of the store that are to be hashed again.", status["store"]["audit"]["due"]),
            "store_found_blobs": ("Files found that nobody has verified yet.", status["store"]["audit"]["found"]),
            "catalogue_version": ("Version of the published catalogue.", status["catalogue"]["version"]),
            "catalogue_names": ("Names in the published catalogue.", status["catalogue"]["names"]),
            "images": ("Images, complete or on their way.", status["images"]),
            "sources": ("Boot sources.", status["sources"]),
            "racks": ("Racks with a valid token.", len(status["racks"])),
            "banners": ("Conditions an operator should see.", len(status["banners"])),
            "sync_bytes": ("Bytes of the files of the last sync.", status["sync"]["bytes_total"]),
            "sync_done_bytes": ("Bytes of them that are here.", status["sync"]["bytes_done"]),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"bootplane_{name}", text, value=value)
        audit = status["store"]["audit"]
        for name, text, value in (
            ("store_checked", "Files of the store that were hashed again and were right.", audit["checked"]),
            ("store_checked_bytes", "Bytes of the store that were read again.", audit["checked_bytes"]),
            ("store_rotten", "Files of the store found damaged on the disk.", audit["rotten"]),
        ):
            yield CounterMetricFamily(f"bootplane_{name}", text, value=value)
        state = GaugeMetricFamily("bootplane_sync_state", "1 for the state the sync is in.", labels=["state"])
        for each in SYNC_STATES:
            state.add_metric([each], float(status["sync"]["state"] == each))
        yield state

    def _boot_events(self) -> Iterator[Metric]:
        taken = CounterMetricFamily("bootplane_boot_events", "Boot events taken into the timeline.", labels=["kind"])
        for kind in KINDS:
            taken.add_metric([kind], self._timeline.taken[kind])
        yield taken
        for name, text, value in (
            ("boot_events_refused", "Transfers that a rack told in a form nobody knows.", self._timeline.refused),
            ("boot_events_lost", "Boot events that racks, or this region, could not keep.", self._timeline.lost),
        ):
            yield CounterMetricFamily(f"bootplane_{name}", text, value=value)


def exposition(
    counters: Callable[[], dict[str, int]],
    status: Callable[[], dict[str, Any]],
    timeline: Timeline,
    uploads: Callable[[], dict[str, int]],
) -> Callable[[], bytes]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RegionCollector(counters, status, timeline, uploads))
    return lambda: generate_latest(registry)
