"""A region's service and sessions made of fixed answers: what the pages meet, without database, sync or cookie."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient

from bootplane.control.web.pages import router

TOKEN = "admin-token-of-the-region"


def file_of(path: str, size: int, done: int, state: str) -> dict[str, Any]:
    return {
        "sha256": f"{len(path):064x}",
        "path": path,
        "size": size,
        "done": done,
        "rate": 1 << 20,
        "state": state,
        "error": None,
    }


class FakeService:
    """Change a field to change what a page shows."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.store: dict[str, Any] = {}  # what the status of the store says in place of the below
        self.documents: dict[str, Any] = {
            "sync": {
                "state": "downloading",
                "files": [
                    file_of("noble/amd64/1/squashfs", 400 << 20, 100 << 20, "downloading"),
                    file_of("noble/amd64/1/boot-kernel", 14 << 20, 14 << 20, "done"),
                    file_of("noble/amd64/1/boot-initrd", 86 << 20, 0, "waiting"),
                ],
                "bytes_total": 500 << 20,
                "bytes_done": 114 << 20,
                "rate": 1 << 20,
                "eta_s": 386,
                "limit_bytes_s": None,
                "window": None,
                "window_open": True,
                "started": "2026-11-20T10:00:00Z",
                "finished": None,
                "error": None,
            },
            "sources": [
                {
                    "id": 1, "name": "images", "url": "http://mirror.test/stable/", "priority": 1, "enabled": True,
                    "unsigned": False, "fingerprints": ["D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81"],
                    "last_checked": "2026-11-20T10:00:00Z", "last_updated": "2026-11-19T10:00:00Z", "error": None,
                    "own_ca": False, "warnings": [], "passed_over": [],
                }
            ],
            "selections": [
                {"id": 1, "os": "ubuntu", "release": "noble", "arches": ["amd64"], "subarches": ["*"], "labels": ["*"]}
            ],
            "racks": [
                {
                    "id": "r1", "name": "rack-a07", "http": "10.0.0.2:5248", "tftp": "10.0.0.2:69", "catalogue": 6,
                    "created": "2026-11-20T09:00:00Z", "last_seen": "2026-11-20T10:00:00Z",
                    "limits": {"cache_bytes": None, "upstream_bytes_s": None, "shares": None},
                    "in_force": {"cache_bytes": 4 << 30, "upstream_bytes_s": 0}, "warning": None,
                    "cache": {
                        "limit_bytes": 4 << 30, "charged_bytes": 1 << 30, "filled_bytes": 3 << 20, "refused_chunks": 0,
                    },
                }
            ],
            "images": [
                {
                    "name": "ubuntu/noble/amd64/ga-24.04", "os": "ubuntu", "release": "noble", "title": "24.04 LTS",
                    "arch": "amd64", "subarch": "ga-24.04", "kflavor": "generic", "label": "candidate", "version": "1",
                    "complete": True, "size": 500 << 20, "rtype": "synced", "base_image": "", "versions": [],
                    "source": "images",
                    "files": [
                        {
                            "name": "squashfs", "ftype": "squashfs", "sha256": "ab" * 32, "size": 400 << 20,
                            "names": ["images/abababababababab/ubuntu/amd64/ga-24.04/noble/candidate/squashfs"],
                            "packages": True,
                        }
                    ],
                }
            ],
            "banners": [],
        }  # fmt: skip

    def __getitem__(self, name: str) -> Any:
        return self.documents[name]

    def status(self) -> dict[str, Any]:
        return {
            "version": "0.1.0",
            "region": {
                "id": "kiruna", "listen": "127.0.0.1:5240", "bulk": "127.0.0.1:5241", "started": "2026-11-20T09:00:00Z",
            },
            "store": {
                "path": "/srv/image-storage",
                "blobs": 3,
                "bytes": 500 << 20,
                "free_bytes": 80 << 30,
                "marked_bytes": 0,
                "aside": {"path": "/srv/image-storage/.aside", "files": 0, "bytes": 0, "until": None},
                "audit": {
                    "interval_s": 604800.0,
                    "due": 0,
                    "oldest": "2026-11-20T10:00:00Z",
                    "newest": "2026-11-21T10:00:00Z",
                    "found": 0,
                    "found_bytes": 0,
                    "checked": 3,
                    "checked_bytes": 500 << 20,
                    "rotten": 0,
                },
            }
            | self.store,
            "catalogue": {"version": 7, "names": 143},
            "sync": self["sync"],
            "sources": len(self["sources"]),
            "selections": len(self["selections"]),
            "images": len(self["images"]),
            "racks": self["racks"],
            "banners": self["banners"],
        }  # fmt: skip

    def sync_status(self) -> dict[str, Any]:
        return dict(self["sync"])

    def sources(self) -> list[dict[str, Any]]:
        return list(self["sources"])

    def selections(self) -> list[dict[str, Any]]:
        return list(self["selections"])

    def racks(self) -> list[dict[str, Any]]:
        return list(self["racks"])

    def images(self) -> list[dict[str, Any]]:
        return list(self["images"])


class FakeSessions:
    """One cookie with a fixed value; one link that works once."""

    def __init__(self) -> None:
        self.links = {"once-1"}

    def is_open(self, request: Request) -> bool:
        return request.cookies.get("session") == "open"

    def redeem(self, once: str, response: Response) -> bool:
        if once not in self.links:
            return False
        self.links.remove(once)
        response.set_cookie("session", "open")
        return True

    def sign_in(self, token: str, response: Response) -> bool:
        if token == TOKEN:
            response.set_cookie("session", "open")
        return token == TOKEN

    def sign_out(self, request: Request, response: Response) -> None:
        response.delete_cookie("session")


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def stranger(service: FakeService) -> TestClient:
    """A browser without a session; it follows no redirect, so that a test sees each answer."""
    app = FastAPI()
    app.include_router(router(service, FakeSessions()))
    return TestClient(app, follow_redirects=False)


@pytest.fixture
def browser(stranger: TestClient) -> TestClient:
    stranger.cookies.set("session", "open")
    return stranger
