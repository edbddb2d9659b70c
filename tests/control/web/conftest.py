"""A region's service and sessions made of fixed answers: what the pages meet, without database, sync or cookie."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient

from bootplane.control.web.pages import router
from tests.fakes import documents

TOKEN = "admin-token-of-the-region"


STORE = documents.store(bytes=500 << 20, free_bytes=80 << 30)
STORE["audit"]["checked_bytes"] = 500 << 20
CACHE = documents.rack()["cache"] | {"refused_chunks": 0}


class FakeService:
    """Change a field to change what a page shows."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.store: dict[str, Any] = {}  # what the status of the store says in place of the below
        self.documents: dict[str, Any] = {
            "sync": documents.sync(
                documents.sync_file(
                    "noble/amd64/1/squashfs", 400 << 20, done=100 << 20, rate=1 << 20, state="downloading"
                ),
                documents.sync_file("noble/amd64/1/boot-kernel", 14 << 20, rate=1 << 20),
                documents.sync_file("noble/amd64/1/boot-initrd", 86 << 20, done=0, rate=1 << 20, state="waiting"),
                state="downloading", bytes_done=114 << 20, rate=1 << 20, eta_s=386, started="2026-11-20T10:00:00Z",
                finished=None,
            ),
            "sources": [documents.source()],
            "selections": [documents.selection()],
            "racks": [
                documents.rack(
                    id="r1", name="rack-a07", http="10.0.0.2:5248", tftp="10.0.0.2:69", catalogue=6, cache=CACHE,
                    created="2026-11-20T09:00:00Z", last_seen="2026-11-20T10:00:00Z",
                )
            ],
            "images": [
                {
                    "name": "ubuntu/noble/amd64/ga-24.04", "os": "ubuntu", "release": "noble", "title": "24.04 LTS",
                    "arch": "amd64", "subarch": "ga-24.04", "kflavor": "generic", "label": "candidate", "version": "1",
                    "complete": True, "served": None, "size": 500 << 20, "rtype": "synced", "base_image": "",
                    "versions": [], "source": "images",
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
        return documents.status(
            region=documents.region(id="kiruna", started="2026-11-20T09:00:00Z"),
            store=STORE | self.store,
            catalogue={"version": 7, "names": 143},
            sync=self["sync"],
            sources=len(self["sources"]),
            selections=len(self["selections"]),
            images=len(self["images"]),
            racks=self["racks"],
            banners=self["banners"],
        )

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
