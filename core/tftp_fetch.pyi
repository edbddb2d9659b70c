from bootplane.core.client import Fetch

def fetch(
    host: str,
    port: int,
    name: str,
    *,
    blksize: int = 1428,
    windowsize: int = 1,
    tsize: bool = True,
    timeout_s: float = 60.0,
    drop_every: int = 0,
    verify: bool = True,
    sink_fd: int = -1,
    keep: bool = False,
    retry_s: float = 1.0,
    source: str = "",
) -> Fetch: ...
def probe(
    host: str,
    port: int,
    name: str,
    *,
    blksize: int = 1468,
    windowsize: int = 4,
    timeout_s: float = 60.0,
    retry_s: float = 1.0,
    source: str = "",
) -> int: ...
