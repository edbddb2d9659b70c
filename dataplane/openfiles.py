"""How many files this process may have open, and how many of them are the cache's.

    RLIMIT_NOFILE, raised to what is allowed ── 64 for the process itself ──┬── half: segments of the cache
    vm.max_map_count ── half: segments, each of which is mapped              └── half: connections and the rest

The cache closes files beyond its share and opens them again when they are wanted (core.lru_open), so a small share
costs time and nothing else. A connection that finds no descriptor is refused: that is why the cache does not take all
that is left.
"""

from __future__ import annotations

import resource
from pathlib import Path

OWN_FILES = 64  # listeners, event loops, logs, the region's connections, files on their way into the cache
FEWEST_SEGMENTS = 8  # with less, readers would close each other's files before each turn
MAPPINGS = 65530  # the kernel's default
UNLIMITED = 1 << 30


def raise_file_limit() -> int:
    """As many descriptors as this process may have, from now on; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return UNLIMITED if hard == resource.RLIM_INFINITY else hard


def mappings_allowed(path: Path = Path("/proc/sys/vm/max_map_count")) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return MAPPINGS


def open_segments(files: int, mappings: int) -> int:
    """Segments of the cache that may be open in a process of so many descriptors and mappings."""
    return max(FEWEST_SEGMENTS, min((files - OWN_FILES) // 2, mappings // 2))
