from collections.abc import Mapping

from bootplane.core.client import Fetch

def fetch(
    host: str,
    port: int,
    path: str,
    *,
    start: int = 0,
    end: int = -1,
    timeout_s: float = 60.0,
    verify: bool = True,
    sink_fd: int = -1,
    rate_bytes_s: int = 0,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    keep: bool = False,
    source: str = "",
) -> Fetch: ...
