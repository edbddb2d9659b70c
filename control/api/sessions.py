"""Who may call: the admin token, one-use login links, and the session cookie that a link or the token opens.

A session is a signed cookie (itsdangerous) and opens reading only: the API takes it for GET, changes need the token,
so a page of another site can change nothing. The signing key derives from the region's own, so sessions outlive a
restart; a session that was signed out is refused for as long as it would have lasted.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable

from itsdangerous import BadSignature, TimestampSigner
from starlette.requests import Request
from starlette.responses import Response

COOKIE = "bootplane_session"
SESSION_S = 12 * 3600
LINK_S = 60.0
LINKS = 64  # open at once; more forgets the oldest


class Sessions:
    """Thread-safe. *secret* is derived from, never equal to, the region's key."""

    def __init__(self, admin_token: str, secret: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._token_digest = hashlib.sha256(admin_token.encode()).digest()
        self._signer = TimestampSigner(hashlib.sha256(b"bootplane-session\0" + secret).digest())
        self._clock = clock
        self._lock = threading.Lock()
        self._links: dict[str, float] = {}  # one-use word -> when it lapses
        self._signed_out: dict[str, float] = {}  # session id -> when it would have lapsed

    def is_token(self, token: str) -> bool:
        """Constant time, whatever the lengths."""
        return hmac.compare_digest(hashlib.sha256(token.encode("utf-8", "replace")).digest(), self._token_digest)

    def is_authorised(self, request: Request) -> bool:
        """The admin token in the Authorization header; an open session does for reading."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if token:
            return scheme.lower() == "bearer" and self.is_token(token.strip())
        return request.method in ("GET", "HEAD") and self.is_open(request)

    def new_link(self) -> str:
        """A path that opens a session once, within LINK_S seconds."""
        once = secrets.token_urlsafe(32)
        with self._lock:
            self._expire()
            while len(self._links) >= LINKS:
                del self._links[next(iter(self._links))]
            self._links[once] = self._clock() + LINK_S
        return f"/login?once={once}"

    def is_open(self, request: Request) -> bool:
        return self._session(request) is not None

    def redeem(self, once: str, response: Response) -> bool:
        """Open a session with a link's word; False when it is used, lapsed or nobody's."""
        with self._lock:
            self._expire()
            if self._links.pop(once, None) is None:
                return False
        self._open(response)
        return True

    def sign_in(self, token: str, response: Response) -> bool:
        if not self.is_token(token):
            return False
        self._open(response)
        return True

    def sign_out(self, request: Request, response: Response) -> None:
        session = self._session(request)
        if session is not None:
            with self._lock:
                self._expire()
                self._signed_out[session] = self._clock() + SESSION_S
        response.delete_cookie(COOKIE, httponly=True, samesite="lax")

    def _open(self, response: Response) -> None:
        value = self._signer.sign(secrets.token_urlsafe(16)).decode()
        response.set_cookie(COOKIE, value, max_age=SESSION_S, httponly=True, samesite="lax")

    def _session(self, request: Request) -> str | None:
        try:
            session = self._signer.unsign(request.cookies.get(COOKIE, ""), max_age=SESSION_S).decode()
        except (BadSignature, UnicodeError):
            return None
        with self._lock:
            return None if session in self._signed_out else session

    def _expire(self) -> None:
        now = self._clock()
        for table in (self._links, self._signed_out):
            for key in [key for key, lapses in table.items() if lapses <= now]:
                del table[key]
