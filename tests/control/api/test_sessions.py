"""Sessions: one-use links, the cookie, and what each of them opens."""

from __future__ import annotations

from fastapi.testclient import TestClient
from starlette.requests import Request
from starlette.responses import Response

from bootplane.control.api.sessions import COOKIE, LINK_S, LINKS, Sessions
from bootplane.control.app import Region

TOKEN = "ab" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def request(cookie: str = "", authorization: str = "", method: str = "GET") -> Request:
    headers = [(b"cookie", f"{COOKIE}={cookie}".encode())] if cookie else []
    headers += [(b"authorization", authorization.encode())] if authorization else []
    return Request({"type": "http", "method": method, "path": "/", "headers": headers})


def cookie_of(response: Response) -> str:
    return response.headers["set-cookie"].partition("=")[2].partition(";")[0]


def once_of(path: str) -> str:
    return path.partition("once=")[2]


def test_a_link_opens_a_session_once() -> None:
    sessions = Sessions(TOKEN, b"key")
    once = once_of(sessions.new_link())
    response = Response()
    assert sessions.redeem(once, response)
    assert sessions.is_open(request(cookie_of(response)))
    assert "HttpOnly" in response.headers["set-cookie"] and "SameSite=lax" in response.headers["set-cookie"]
    assert not sessions.redeem(once, Response())
    assert not sessions.redeem("", Response())


def test_a_link_lapses_after_a_minute() -> None:
    clock = Clock()
    sessions = Sessions(TOKEN, b"key", clock)
    once = once_of(sessions.new_link())
    clock.now += LINK_S + 1
    assert not sessions.redeem(once, Response())


def test_links_nobody_uses_do_not_pile_up() -> None:
    sessions = Sessions(TOKEN, b"key")
    first = once_of(sessions.new_link())
    last = [once_of(sessions.new_link()) for _ in range(LINKS)][-1]
    assert not sessions.redeem(first, Response())
    assert sessions.redeem(last, Response())


def test_a_session_outlives_the_process_and_not_its_sign_out() -> None:
    response = Response()
    assert Sessions(TOKEN, b"key").sign_in(TOKEN, response)
    cookie = cookie_of(response)
    later = Sessions(TOKEN, b"key")
    assert later.is_open(request(cookie))
    assert not Sessions(TOKEN, b"another key").is_open(request(cookie))
    later.sign_out(request(cookie), Response())
    assert not later.is_open(request(cookie))


def test_a_wrong_token_and_a_forged_cookie_open_nothing() -> None:
    sessions = Sessions(TOKEN, b"key")
    for token in ("", TOKEN[:-1], TOKEN.upper(), "ü"):
        assert not sessions.sign_in(token, Response())
    for cookie in ("x", "x.y.z", TOKEN):
        assert not sessions.is_open(request(cookie))


def test_a_session_opens_reading_only() -> None:
    sessions = Sessions(TOKEN, b"key")
    response = Response()
    sessions.sign_in(TOKEN, response)
    cookie = cookie_of(response)
    assert sessions.is_authorised(request(cookie))
    assert not sessions.is_authorised(request(cookie, method="POST"))
    assert sessions.is_authorised(request(authorization=f"bearer {TOKEN}", method="POST"))
    assert not sessions.is_authorised(request(cookie, authorization="Bearer wrong"))


def test_a_login_link_of_the_api_opens_the_pages_and_the_event_stream(region: Region, client: TestClient) -> None:
    path = client.post("/api/v1/login-links").json()["path"]
    browser = TestClient(region.app, follow_redirects=False)
    assert browser.get("/").status_code == 303
    assert browser.get(path).status_code == 303
    assert browser.get("/").status_code == 200
    assert browser.get("/api/v1/sync").status_code == 200
    assert browser.post("/api/v1/sync").status_code == 401
    assert browser.get(path).status_code == 403
