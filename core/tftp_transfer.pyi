from typing import Literal

Sent = list[int | Literal["OACK"]]

class TransferProbe:
    room: int | None
    def __init__(
        self,
        size: int,
        *,
        blksize: int | None = None,
        timeout: int | None = None,
        tsize: bool = False,
        windowsize: int | None = None,
        max_blksize: int = 65464,
        max_windowsize: int = 64,
        timeout_s: float = 1.0,
        retries: int = 8,
    ) -> None: ...
    def send(self, now: float = 0.0) -> Sent: ...
    def feed(self, event: str, arg: int = 0, now: float = 0.0) -> tuple[str, Sent]: ...
    def block_bytes(self, block: int) -> int: ...
    @property
    def deadline(self) -> float | None: ...
    @property
    def granted(self) -> dict[str, int]: ...
    @property
    def wire(self) -> tuple[int, int, int, int]: ...
    @property
    def last(self) -> int: ...
    @property
    def acked(self) -> int: ...
