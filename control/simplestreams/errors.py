"""What can be wrong with a boot source, in one sentence each: where, what, expected, got.

Invariant: text that came from outside appears in a message only through ``shown``: short, printable, one line.
"""

from __future__ import annotations

from bootplane.control.errors import Refused

SHOWN_CHARACTERS = 80


class SourceError(Refused):
    """A boot source, or a file of it, is not as it must be. *retryable*: the same request may succeed later."""

    retryable = False


class DocumentRefused(SourceError):
    """An index or a product list does not say what one must say."""


class HostilePath(DocumentRefused):
    """A path that is not plain and relative."""


class SizeRefused(SourceError):
    """More bytes than allowed, or another number than promised."""


class NotFound(SourceError):
    """The server says that there is no such file. Metadata may have moved on; the request itself is final."""


class AccessRefused(SourceError):
    """Any other final answer: 401, 403, a certificate nobody vouches for, a redirect to where we do not go."""


class Unreachable(SourceError):
    """No answer, an answer that is not HTTP, or one that says "later"."""

    retryable = True

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s  # what the server asked for; 0 when it said nothing


class Truncated(Unreachable):
    """A body ended before its announced length."""


class SignatureRefused(SourceError):
    """The bytes are not proved to be the signer's."""


class MissingSignature(SignatureRefused):
    pass


class BadSignature(SignatureRefused):
    pass


class UnknownKey(SignatureRefused):
    """Signed, but by nobody in the keyring."""


class ExpiredKey(SignatureRefused):
    pass


class RevokedKey(SignatureRefused):
    pass


class ExpiredSignature(SignatureRefused):
    pass


class WeakDigest(SignatureRefused):
    """Signed over SHA-1, MD5 or another digest that no longer proves anything."""


class SeveralMessages(SignatureRefused):
    """More than one OpenPGP message where one must stand: readers could disagree about which one counts."""


class NotAKeyring(SourceError):
    """What was given as a keyring is something else."""


class VerifierMissing(SourceError):
    """This host has no gpgv, or it does not run. Ours, not the source's."""

    status = 503
    title = "cannot verify"
    kind = "unavailable"


def shown(text: str | bytes, limit: int = SHOWN_CHARACTERS) -> str:
    """*text* from outside, fit for a message: printable, on one line, at most *limit* characters."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    head = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: limit + 1])
    return head if len(head) <= limit else head[: limit - 3] + "..."
