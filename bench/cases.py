"""Lines of the table: what a server is loaded with beside its anchors, and the goals. docs/reference/bench.md"""

from __future__ import annotations

from bench.ratio import Goal
from bench.wire import KERNEL, LARGE, NGINX_CACHE, SMALL, Case, http, ranges, tftp

_WINDOWS = {
    ("tftpd-hpa", "cpu"): Goal(0.1, 0.07),
    ("tftpd-hpa", "rate"): Goal(5.0, 7.0),
    ("dnsmasq", "cpu"): Goal(0.25, 0.20),
    ("dnsmasq", "rate"): Goal(3.5, 4.5),
    ("atftpd", "cpu"): Goal(0.25, 0.18),
    ("atftpd", "rate"): Goal(2.0, 2.6),
}

LARGE_HTTP = Case(
    "HTTP 404 MB x 64, warm", "GB", LARGE, http(64, 64),
    {("nginx", "cpu"): Goal(0.95, 0.85), ("nginx", "rate"): Goal(1.0)},
)  # fmt: skip
FILLED = Case(
    "HTTP 404 MB x 64, each from the cache it filled", "GB", LARGE, http(64, 64),
    {(NGINX_CACHE, "cpu"): Goal(0.85, 0.75), (NGINX_CACHE, "rate"): None},
)  # fmt: skip
RANGES = Case(
    "HTTP ranges of 1 MiB x 16", "GB", LARGE, ranges(16, 20_000),
    {("nginx", "cpu"): Goal(1.0), ("nginx", "rate"): None},
)  # fmt: skip


def small(requests: int) -> Case:
    goals = {("nginx", "cpu"): Goal(0.55, 0.5), ("nginx", "rate"): Goal(1.4, 1.5)}
    return Case("HTTP 4 KiB x 64, keep-alive", "request", SMALL, http(64, requests), goals)


def lockstep(transfers: int) -> Case:
    goals = {
        ("tftpd-hpa", "cpu"): Goal(0.25), ("tftpd-hpa", "rate"): None,
        ("dnsmasq", "cpu"): Goal(0.65), ("dnsmasq", "rate"): None,
    }  # fmt: skip
    return Case("TFTP 1428 w1 x 64", "GB", KERNEL, tftp(1428, 1, 64, transfers), goals)


def window(blksize: int, windowsize: int, transfers: int) -> Case:
    load = tftp(blksize, windowsize, 64, transfers)
    return Case(f"TFTP {blksize} w{windowsize} x 64", "GB", KERNEL, load, _WINDOWS)


HTTP = (LARGE_HTTP, FILLED, RANGES, small(300_000))
TFTP = (lockstep(128), window(1428, 16, 128), window(1468, 64, 128))
SMOKE = (LARGE_HTTP, FILLED, small(150_000), lockstep(64), window(1428, 16, 64))
