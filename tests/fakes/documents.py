"""Documents of the REST API as a region would give them: what stands in for one in tests of the command line and pages.

Each function makes a new one; *changes* replace its fields. That they are what the API gives, test_contract.py of both
folders says.
"""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]
FINGERPRINT = "D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81"


def sync(*files: Document, **changes: Any) -> Document:
    """One that has completed, with *files* all of which are here."""
    size = sum(file["size"] for file in files)
    document = {
        "state": "complete", "files": list(files), "bytes_total": size, "bytes_done": size, "rate": 0, "eta_s": None,
        "limit_bytes_s": None, "window": None, "window_open": True, "started": "2026-11-21T10:00:00Z",
        "finished": "2026-11-21T10:00:09Z", "error": None,
    }  # fmt: skip
    return document | changes


def sync_file(path: str, size: int, **changes: Any) -> Document:
    """One that is here."""
    document = {
        "sha256": f"{len(path):064x}", "path": path, "size": size, "done": size, "rate": 0, "state": "done",
        "error": None,
    }  # fmt: skip
    return document | changes


def source(**changes: Any) -> Document:
    document = {
        "id": 1, "name": "images", "url": "http://mirror.test/stable/", "priority": 1, "enabled": True,
        "unsigned": False, "fingerprints": [FINGERPRINT], "last_checked": "2026-11-21T10:00:00Z",
        "last_updated": "2026-11-20T10:00:00Z", "error": None, "own_ca": False, "warnings": [], "passed_over": [],
    }  # fmt: skip
    return document | changes


def selection(**changes: Any) -> Document:
    document = {
        "id": 1, "os": "ubuntu", "release": "noble", "arches": ["amd64"], "subarches": ["*"], "labels": ["*"],
    }  # fmt: skip
    return document | changes


def rack(**changes: Any) -> Document:
    document = {
        "id": "rack1", "name": "rack1", "http": "127.0.0.1:5248", "tftp": "127.0.0.1:6969", "https": None,
        "catalogue": 3,
        "cache": {"limit_bytes": 4 << 30, "charged_bytes": 1 << 30, "filled_bytes": 3 << 20, "refused_chunks": 2},
        "limits": {"cache_bytes": None, "upstream_bytes_s": None, "shares": None},
        "in_force": {"cache_bytes": 4 << 30, "upstream_bytes_s": 0}, "warning": None,
        "created": "2026-11-21T09:00:00Z", "last_seen": "2026-11-21T10:00:00Z",
    }  # fmt: skip
    return document | changes


def store(**changes: Any) -> Document:
    """Of the status: all hashed, nothing aside."""
    document = {
        "path": "/srv/image-storage", "blobs": 3, "bytes": 5 << 20, "free_bytes": 9 << 30, "marked_bytes": 0,
        "aside": {"path": "/srv/image-storage/.aside", "files": 0, "bytes": 0, "until": None},
        "audit": {
            "interval_s": 604800.0, "due": 0, "oldest": "2026-11-20T10:00:00Z", "newest": "2026-11-21T10:00:00Z",
            "found": 0, "found_bytes": 0, "checked": 3, "checked_bytes": 5 << 20, "rotten": 0,
        },
    }  # fmt: skip
    return document | changes


def region(**changes: Any) -> Document:
    """Of the status."""
    document = {
        "id": "r1", "listen": "127.0.0.1:5240", "bulk": "127.0.0.1:5241", "started": "2026-11-21T09:00:00Z",
    }  # fmt: skip
    return document | changes


def status(**changes: Any) -> Document:
    document = {
        "version": "0.1.0", "region": region(), "store": store(), "catalogue": {"version": 3, "names": 12},
        "sync": sync(), "sources": 1, "selections": 1, "images": 1, "racks": [rack()], "banners": [],
    }  # fmt: skip
    return document | changes
