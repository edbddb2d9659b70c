"""How boot sources are reached: through which proxy, and whose certificates are believed.

A source's own CA counts for that source's host and port alone, beside what this system trusts: a company's CA that
vouches for its mirror must not vouch for anybody else's.

Left to others: requests (simplestreams.fetch). What comes over a connection is proved by signatures and digests; a
certificate only keeps others from reading along.
"""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

from bootplane.control.domain.images import BootSource
from bootplane.control.errors import CallerError
from bootplane.control.simplestreams.fetch import Fetcher
from bootplane.control.storage.sources import SourceRepository

HTTPS_PORT = 443


class Transport:
    """*proxy*: an http URL for http and https alike, ``no_proxy`` the hosts without; None: as the environment says."""

    def __init__(self, sources: SourceRepository, *, proxy: str | None = None, no_proxy: str = "") -> None:
        self._sources = sources
        self._proxies = None if proxy is None else {"http": proxy, "https": proxy, "no": no_proxy} if proxy else {}

    def fetcher(self, candidate: BootSource | None = None) -> Fetcher:
        """For one thread. *candidate* is a source that is not stored, or not so; it counts instead of what is."""

        def context(host: str, port: int) -> ssl.SSLContext:
            known = {record.source.id: record.source for record in self._sources.list()}
            if candidate is not None:
                known[candidate.id] = candidate
            return context_of([each.ca for each in known.values() if each.ca and _place(each.url) == (host, port)])

        return Fetcher(proxies=self._proxies, tls=context)


def context_of(certificates: list[str]) -> ssl.SSLContext:
    """What this system trusts and *certificates* (PEM). Raises CallerError when one is none."""
    context = ssl.create_default_context()
    for text in certificates:
        try:
            context.load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError) as error:
            raise CallerError(
                f"CA of a boot source: expected certificates in PEM, got something else ({error})"
            ) from None
    return context


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or HTTPS_PORT
