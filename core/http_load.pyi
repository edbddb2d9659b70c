from bootplane.core.client import Fetch as Fetch
from bootplane.core.client import LoadResult as LoadResult
from bootplane.core.http_client import USER_AGENT as USER_AGENT
from bootplane.core.http_fetch import fetch as fetch

def load(
    host: str,
    port: int,
    path: str,
    *,
    connections: int,
    requests: int = 0,
    seconds: float = 0.0,
    discard: bool = True,
    verify_every: int = 0,
    sha256: str = "",
    range_bytes: int = 0,
    range_span: int = 0,
    keep_alive: bool = True,
    timeout_s: float = 60.0,
    source: str = "",
) -> LoadResult: ...
