def base64(data: bytes) -> bytes: ...
def refusal(
    status: int,
    name: bytes | None = None,
    why: str = "",
    date: bytes = b"",
    *,
    close: bool = False,
    head: bool = False,
    retry_after: int = 0,
    size: int = 0,
    allow: bool = False,
) -> bytes: ...
