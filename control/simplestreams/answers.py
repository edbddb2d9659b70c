"""What a server's answer, or its silence, means: final, or worth another try. Sorted once, for fetch.

Invariant: only "not now" is retryable (no answer, 5xx, 408, 425, 429); a 4xx and a certificate nobody vouches for are
final, because the same request would be refused again.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from email.utils import parsedate_to_datetime

from bootplane.control.simplestreams.errors import AccessRefused, NotFound, SourceError, Unreachable, shown
from bootplane.control.simplestreams.paths import shown_url

_LATER = {408, 425, 429}


def refusal(answer: http.client.HTTPResponse, url: str) -> SourceError:
    """Why the answer of status 4xx or 5xx to a GET of *url* is no file."""
    said = f"{answer.status} {shown(answer.reason, 40)}".strip()
    message = f"{shown_url(url)}: expected the file, got {said}"
    if answer.status in (404, 410):
        return NotFound(message)
    if answer.status in _LATER or answer.status >= 500:
        wait_s = _retry_after_s(answer.getheader("Retry-After", ""))
        return Unreachable(f"{message}, and not to come back for {wait_s:.0f} s" if wait_s else message, wait_s)
    return AccessRefused(message)


def _retry_after_s(text: str) -> float:
    """Seconds a Retry-After header asks for (RFC 9110, 10.2.3); 0 when it makes no sense."""
    if text.strip().isdecimal():
        return float(text.strip()[:9])
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return 0.0


def network_error(url: str, error: Exception) -> SourceError:
    """*error* of a connection or of what came over it, sorted."""
    where = shown_url(url)
    if isinstance(error, ssl.SSLCertVerificationError):
        return AccessRefused(f"{where}: expected a certificate that verifies, got: {shown(error.verify_message)}")
    if isinstance(error, ssl.SSLError):
        return Unreachable(f"{where}: expected TLS, got: {shown(error.reason or str(error))}")
    if isinstance(error, socket.gaierror):
        return Unreachable(f"{where}: expected the host's name to resolve, got: {shown(error.strerror or str(error))}")
    if isinstance(error, TimeoutError):
        return Unreachable(f"{where}: expected an answer, got none in time")
    if isinstance(error, OSError):
        return Unreachable(f"{where}: expected an answer, got: {shown(error.strerror or str(error))}")
    if isinstance(error, UnicodeError):
        return AccessRefused(f"{where}: expected a host name, got one that cannot be encoded")
    return Unreachable(f"{where}: expected HTTP, got {type(error).__name__}: {shown(str(error))}")
