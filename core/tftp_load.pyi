from bootplane.core.client import Fetch as Fetch
from bootplane.core.client import LoadResult as LoadResult
from bootplane.core.tftp_fetch import fetch as fetch
from bootplane.core.tftp_fetch import probe as probe

def load(
    host: str,
    port: int,
    name: str,
    *,
    clients: int,
    transfers: int,
    blksize: int = 1428,
    windowsize: int = 1,
    tsize: bool = True,
    verify_every: int = 0,
    sha256: str = "",
    drop_every: int = 0,
    lose: float = 0.0,
    repeat: float = 0.0,
    swap: float = 0.0,
    seed: int = 1,
    timeout_s: float = 60.0,
    retry_s: float = 1.0,
    source: str = "",
) -> LoadResult: ...
