"""Status codes of the nogil functions, and check(): the one place where a code becomes an exception."""

import os


class CoreError(Exception):
    """A nogil function of core failed; ``status`` is its code (status.pxd)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Truncated(CoreError):
    """A file on disk is shorter than its digest promised."""


class DigestMismatch(CoreError):
    """Bytes differ from what a digest promised."""


class RingFull(CoreError):
    """A bounded ring has no room; nothing was lost, try again."""


class Timeout(CoreError):
    """A deadline passed."""


class RemoteError(CoreError):
    """The other side answered with an error, malformed data or an early end."""


_TEXT = {
    ST_AGAIN: ("would block", CoreError),
    ST_ABSENT: ("not in the cache", CoreError),
    ST_FULL: ("no room", RingFull),
    ST_CLOSED: ("closed by the peer", RemoteError),
    ST_BAD: ("malformed", RemoteError),
    ST_TRUNCATED: ("shorter than promised", Truncated),
    ST_MISMATCH: ("digest differs", DigestMismatch),
    ST_TIMEOUT: ("timed out", Timeout),
    ST_UNKNOWN: ("unknown name", CoreError),
    ST_REMOTE: ("the other side answered with an error", RemoteError),
    ST_GONE: ("removed", CoreError),
    ST_UPSTREAM: ("no right bytes upstream", RemoteError),
}


cdef object check(int status, str what=""):
    if status == ST_OK:
        return None
    prefix = f"{what}: " if what else ""
    if status < 0:
        raise OSError(-status, f"{prefix}{os.strerror(-status)}")
    if status == ST_NOMEM:
        raise MemoryError(f"{prefix}out of memory")
    text, kind = _TEXT.get(status, ("failed", CoreError))
    raise kind(f"{prefix}{text}", status)


def text_of(int status) -> str:
    """One phrase for a status code, for messages and metrics' labels."""
    if status < 0:
        return os.strerror(-status)
    return "ok" if status == ST_OK else _TEXT.get(status, ("failed", CoreError))[0]
