"""What can go wrong in the control plane, by whose fault it is. One sentence each: what, where, expected, got.

Invariant: ``str(error)`` is that sentence, fit for an operator; nothing else is shown. The HTTP status stands here so
that api/problems.py translates without a table of its own; the command line prints the same sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class BootplaneError(Exception):
    """Ours, unless a subclass says otherwise."""

    status = 500
    title = "internal error"
    kind = "internal"
    members: Mapping[str, Any] = MappingProxyType({})  # what a program needs to know besides, in the problem document


class CallerError(BootplaneError):
    """The caller asked for something that makes no sense."""

    status = 400
    title = "bad request"
    kind = "bad-request"


class Unauthorised(CallerError):
    status = 401
    title = "not authorised"
    kind = "unauthorised"


class NotFound(CallerError):
    status = 404
    title = "not found"
    kind = "not-found"


class Conflict(CallerError):
    status = 409
    title = "conflict"
    kind = "conflict"


class WrongOffset(Conflict):
    """Bytes of an upload that do not go on where the region's end. *offset*: where that is, in bytes."""

    kind = "wrong-offset"

    def __init__(self, sentence: str, offset: int) -> None:
        super().__init__(sentence)
        self.members = {"offset": offset}


class Busy(Conflict):
    """Somebody else is at it just now; it may be worth another try in a moment."""

    kind = "busy"


class TooLarge(CallerError):
    status = 413
    title = "too large"
    kind = "too-large"


class Gone(CallerError):
    status = 410
    title = "removed"
    kind = "gone"


class Refused(BootplaneError):
    """The remote's fault: a boot source (or a file of it) was looked at and refused. Nothing was stored."""

    status = 422
    title = "refused"
    kind = "refused"


class Unavailable(BootplaneError):
    """Not now: starting, stopping, or the disk is full."""

    status = 503
    title = "not available"
    kind = "unavailable"


class NoSpace(BootplaneError):
    """The disk of the store has too little room."""

    status = 507
    title = "not enough disk space"
    kind = "no-space"


class StartError(BootplaneError):
    """This process cannot start or go on; the sentence goes to standard error and the exit status is 1."""

    status = 503
    title = "cannot start"
    kind = "start"
