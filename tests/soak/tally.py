"""What a soak has seen so far: counts, the most of everything, and the first wrong thing, which ends it."""

from __future__ import annotations

import statistics
import threading
from collections import Counter, deque

MIB = 1 << 20


class Tally:
    """Counted by every thread. *totals*: the last metrics of each life; *done*: what was done last, for a failure."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.most: dict[str, float] = {}
        self.ratios: list[float] = []  # of the connections: those with full socket buffers, one a sample
        self.totals: dict[int, dict[str, float]] = {}
        self.done: deque[str] = deque(maxlen=40)
        self.failure = ""
        self.failed = threading.Event()
        self._lock = threading.Lock()

    def count(self, key: str, n: int = 1) -> None:
        with self._lock:
            self.counts[key] += n

    def note(self, key: str, value: float) -> None:
        """By the sampler alone."""
        self.most[key] = max(self.most.get(key, 0.0), value)

    def fail(self, sentence: str) -> None:
        """The first of them is kept."""
        with self._lock:
            if not self.failure:
                self.failure = sentence
        self.failed.set()

    def total(self, name: str) -> float:
        return sum(numbers.get(f"bootplane_{name}", 0.0) for numbers in self.totals.values())

    def summary(self) -> str:
        c = self.counts
        lines = [
            f"{c['bodies']} bodies, {c['bytes'] / 1e9:.2f} GB right, {c['heads']} heads; {c['hang-ups']} hung up",
            f"{c['stalls']} stalls, {c['stalled seconds']} s in all; {c['stalls with >= 1 MiB unread']} with >= 1 MiB"
            f" unread, {c['stalls that outlived their rack']} outlived their rack; of the connections"
            f" {100 * statistics.mean(self.ratios or [0]):.0f} % had full socket buffers ({len(self.ratios)} samples)",
            f"{c['kills']} kills, {c['clean ends']} clean ends, {c['freezes']} freezes, {c['limit changes']} limit"
            f" changes, {c['quiet points']} quiet points, {c['catalogues']} new catalogues",
            f"{self.total('cache_evicted_segments_total'):.0f} segments evicted,"
            f" {self.total('fill_upstream_bytes_total') / 1e9:.2f} GB from the sources,"
            f" {c['segments damaged']} segments damaged, {c['rotten chunks found']} rotten chunks found"
            f" ({c['chunks half-written by a kill']} of a kill), {c['wrong chunks refused']} wrong chunks refused",
            f"at most {self.most.get('bytes on the disk', 0) / MIB:.1f} MiB on the disk,"
            f" {self.most.get('anonymous bytes', 0) / MIB:.0f} MiB anonymous,"
            f" {self.most.get('descriptors', 0):.0f} descriptors, in {c['samples']} samples",
        ]
        lines.append(f"{self.total('cache_reopened_segments_total'):.0f} times a segment's file was opened again")
        lines += [f"{n} x {key}" for key, n in sorted(c.items()) if key.startswith(("refused", "chunks given up"))]
        lines.append(
            "faults: "
            + ", ".join(f"{n} {k.partition(': ')[2]}" for k, n in sorted(c.items()) if k.startswith("faults"))
        )
        return "\n".join(lines)
