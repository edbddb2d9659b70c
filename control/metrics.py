"""Prometheus text of a region, from the counters' own help. Read at scrape time; no label has unbounded values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bootplane.core.counters import COUNTERS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SYNC_STATES = ("idle", "refreshing", "downloading", "finishing", "stopped", "failed", "complete")


class RegionCollector(Collector):
    """*counters*: of the bulk reactor. *status*: RegionService.status."""

    def __init__(self, counters: Callable[[], dict[str, int]], status: Callable[[], dict[str, Any]]) -> None:
        self._counters = counters
        self._status = status

    def collect(self) -> Iterator[Metric]:
        values = self._counters()
        for counter in COUNTERS:
            if not counter.name.startswith("tftp_"):  # a region has no TFTP
                yield CounterMetricFamily(f"bootplane_{counter.name}", counter.help, value=values.get(counter.name, 0))
        status = self._status()
        gauges = {
            "store_blobs": ("Complete files in the store.", status["store"]["blobs"]),
            "store_bytes": ("Bytes of the complete files in the store.", status["store"]["bytes"]),
            "store_free_bytes": ("Bytes that may still be reserved.", status["store"]["free_bytes"]),
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
        state = GaugeMetricFamily("bootplane_sync_state", "1 for the state the sync is in.", labels=["state"])
        for each in SYNC_STATES:
            state.add_metric([each], float(status["sync"]["state"] == each))
        yield state


def exposition(counters: Callable[[], dict[str, int]], status: Callable[[], dict[str, Any]]) -> Callable[[], bytes]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RegionCollector(counters, status))
    return lambda: generate_latest(registry)
