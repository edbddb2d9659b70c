"""The pages: who may see them, what they show, and that nothing in them leads off the host."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bootplane.control.events import NAMES
from bootplane.control.web import pages

WEB = Path(pages.__file__).parent


@pytest.mark.parametrize(("path", "target"), [("/", "/login"), ("/images", "/login?next=/images")])
def test_a_page_without_a_session_leads_to_the_login(stranger, path: str, target: str) -> None:
    answer = stranger.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, target)


@pytest.mark.parametrize("name", sorted(pages.NEEDS))
def test_a_part_without_a_session_is_401_and_empty(stranger, name: str) -> None:
    answer = stranger.get(f"/parts/{name}")
    assert (answer.status_code, answer.content) == (401, b"")


def test_a_link_works_once_and_brings_a_session(stranger) -> None:
    first = stranger.get("/login?once=once-1")
    assert (first.status_code, first.headers["location"]) == (303, "/")
    assert stranger.get("/").status_code == 200
    stranger.cookies.clear()
    second = stranger.get("/login?once=once-1")
    assert second.status_code == 403
    assert "used already" in second.text
    assert "set-cookie" not in second.headers


def test_the_token_signs_in_and_leads_to_the_page_that_was_asked(stranger) -> None:
    form = stranger.get("/login?next=/images")
    assert 'name="next" value="/images"' in form.text
    answer = stranger.post("/login", data={"token": " admin-token-of-the-region\n", "next": "/images"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/images")
    assert stranger.get("/images").status_code == 200


def test_a_wrong_token_is_refused_and_not_repeated_on_the_page(stranger) -> None:
    answer = stranger.post("/login", data={"token": "wrong-secret"})
    assert answer.status_code == 403
    assert "not this region&#39;s admin token" in answer.text
    assert "wrong-secret" not in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("target", ["https://evil.test/", "//evil.test/", "/\\evil.test", "javascript:alert(1)"])
def test_signing_in_leads_to_no_other_place_than_a_page(stranger, target: str) -> None:
    answer = stranger.post("/login", data={"token": "admin-token-of-the-region", "next": target})
    assert answer.headers["location"] == "/"
    assert "evil" not in stranger.get("/login", params={"next": target}).headers.get("location", "")


def test_signing_out_ends_the_session(browser) -> None:
    assert browser.get("/").status_code == 200
    answer = browser.post("/logout")
    assert answer.headers["location"] == "/login"
    assert 'session=""' in answer.headers["set-cookie"]


def test_the_overview_shows_sync_store_racks_and_sources_without_javascript(browser) -> None:
    text = browser.get("/").text
    for expected in (
        "downloading", "114.0 MiB", "of 500.0 MiB", "1.0 MiB/s", "6:26",  # the sync
        "noble/amd64/1/squashfs", "1 waiting",
        "rack-a07", "10.0.0.2:5248", "version 6", "1.0 GiB of 4.0 GiB", "3.0 MiB",  # a rack that is behind
        "/srv/image-storage", "80.0 GiB", "version 7, 143 names",
        "http://mirror.test/stable/", "verified", "1A5D6C4C7DB87C81", "ubuntu/noble",
        '<noscript><meta http-equiv="refresh" content="5"></noscript>',
    ):  # fmt: skip
        assert expected in text, expected
    assert "First steps" not in text


def test_the_images_page_shows_digests_wire_names_and_that_a_candidate_is_not_tested(browser) -> None:
    text = browser.get("/images").text
    for expected in (
        "ubuntu/noble/amd64/ga-24.04", "24.04 LTS", "candidate, not tested", "500.0 MiB", "complete", "ab" * 32,
        "images/abababababababab/ubuntu/amd64/ga-24.04/noble/candidate/squashfs", "1 of 1 complete",
    ):  # fmt: skip
        assert expected in text, expected


def test_the_store_says_how_it_is_hashed_and_what_lies_aside(browser, service) -> None:
    text = browser.get("/parts/store").text
    assert "all since" in text and not any(word in text for word in ("set aside", "to go", "damaged", "found"))
    store = service.status()["store"]
    service.store = {
        "marked_bytes": 7 << 20,
        "aside": store["aside"] | {"files": 2, "bytes": 5 << 20},
        "audit": store["audit"] | {"oldest": None, "due": 4, "found": 1, "rotten": 3},
    }
    text = " ".join(browser.get("/parts/store").text.split())
    for expected in (
        "7.0 MiB that nothing names any more", "not all, 4 due, 1 found to be looked at, 3 damaged",
        "2 files, 5.0 MiB in", "/srv/image-storage/.aside",
    ):  # fmt: skip
        assert expected in text, expected


def test_refused_chunks_are_said_of_their_rack_and_a_rack_may_tell_less(browser, service) -> None:
    assert "Refused" not in browser.get("/").text
    service.documents["racks"][0]["cache"]["refused_chunks"] = 1
    assert "Refused 1 chunk that did not match" in browser.get("/").text
    for cache in ({}, None, {"limit_bytes": 5}):
        service.documents["racks"][0]["cache"] = cache
        assert browser.get("/").status_code == 200


def test_bytes_are_called_verified_only_when_the_sync_is_complete(browser, service) -> None:
    assert "<dt>arrived</dt>" in browser.get("/parts/sync").text
    service.documents["sync"] |= {"state": "complete", "bytes_done": 500 << 20}
    assert "<dt>verified</dt>" in browser.get("/parts/sync").text


def test_an_empty_region_says_which_command_is_next(browser, service) -> None:
    for name in ("sources", "selections", "racks", "images"):
        service.documents[name] = []
    service.documents["sync"] |= {"state": "idle", "files": [], "bytes_total": 0, "started": None}
    text = browser.get("/").text
    for command in ("source add URL --keyring FILE", "select add ubuntu noble", "sync --wait", "rack-token new"):
        assert f"bootplane {command}" in text
    assert "bootplane select add OS RELEASE" in browser.get("/images").text


def test_errors_and_banners_stand_on_the_page(browser, service) -> None:
    service.documents["banners"] = [
        {"id": "disk", "text": "/srv: 3 bytes missing.", "since": "2026-11-20T10:00:00Z", "remedy": "Make room."}
    ]
    service.documents["sync"] |= {"state": "failed", "error": "squashfs: sha256 differs."}
    service.documents["sources"][0]["error"] = "index.sjson: expired signature."
    text = browser.get("/").text
    for expected in ("/srv: 3 bytes missing.", "Make room.", "squashfs: sha256 differs.", "expired signature."):
        assert expected in text


@pytest.mark.parametrize("state", ["idle", "refreshing", "downloading", "finishing", "stopped", "failed", "complete"])
@pytest.mark.parametrize("total", [0, 500 << 20])
def test_every_state_of_a_sync_can_be_shown(browser, service, state: str, total: int) -> None:
    service.documents["sync"] |= {"state": state, "bytes_total": total, "rate": 0, "eta_s": None}
    answer = browser.get("/parts/sync")
    assert (answer.status_code, state in answer.text) == (200, True)


def test_text_from_outside_is_escaped(browser, service) -> None:
    hostile = '"><script>alert(1)</script>'
    service.documents["images"][0] |= {"title": hostile, "name": hostile, "version": hostile}
    service.documents["sources"][0] |= {"name": hostile, "url": hostile, "error": hostile, "fingerprints": [hostile]}
    service.documents["sync"] |= {"error": hostile}
    service.documents["sync"]["files"][0]["path"] = hostile
    service.documents["racks"][0]["name"] = hostile
    for path in ("/", "/images"):
        text = browser.get(path).text
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)" in text
        assert '"&gt;' not in text  # a quote inside an attribute is escaped, too


@pytest.mark.parametrize("path", ["/", "/images"])
def test_a_part_alone_is_the_same_text_as_in_its_page(browser, path: str) -> None:
    page = browser.get(path).text
    parts = re.findall(r'data-part="(\w+)"', page)
    assert parts
    for name in parts:
        assert browser.get(f"/parts/{name}").text.strip() in page, name


def test_an_unknown_part_is_404(browser) -> None:
    assert browser.get("/parts/nothing").status_code == 404


def test_parts_listen_to_events_that_the_region_sends_and_the_script_to_all_of_them(browser) -> None:
    heard = set()
    for path in ("/", "/images"):
        for names in re.findall(r'data-on="([\w ]+)"', browser.get(path).text):
            heard |= set(names.split())
    shown = set(NAMES) - {"machines"}  # the command line watches these; no page shows them yet
    assert heard == shown
    script = (WEB / "static" / "live.js").read_text()
    assert set(re.findall(r'"(\w+)"', script.split("for (const kind of [")[1].split("]")[0])) == shown


@pytest.mark.parametrize("path", ["/", "/images", "/login?next=/", "/parts/sync"])
def test_every_answer_forbids_other_hosts_framing_caching_and_referrers(browser, path: str) -> None:
    headers = browser.get(path).headers
    assert headers["content-security-policy"] == (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "file", sorted(WEB.glob("templates/**/*.html")) + sorted(WEB.glob("static/*")), ids=lambda p: p.name
)
def test_nothing_in_a_page_leads_off_the_host_or_runs_inline(file: Path) -> None:
    text = file.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert re.findall(r"https?:|(?:src|href|action|url\()\s*=?\s*[\"']?//", text) == []
    assert re.findall(r"\son\w+=|\sstyle=|<style|<script>|\|\s*safe", text) == []  # CSP would refuse; escaping stays on


def test_assets_are_a_closed_set_with_validators(stranger) -> None:
    for name, kind in (("style.css", "text/css"), ("live.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        answer = stranger.get(f"/static/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        again = stranger.get(f"/static/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for name in ("pages.py", "..%2Fpages.py", "%2Fetc%2Fpasswd", ""):
        assert stranger.get(f"/static/{name}").status_code == 404


def test_limits_pauses_warnings_and_banners_are_on_the_page(browser, service) -> None:
    service["sync"].update(state="paused", limit_bytes_s=25_000_000, window="22:00-06:00", window_open=False)
    service["sources"][0].update(
        warnings=["index.sjson: also signed by AB12, which is not in the keyring (a new key?)"],
        passed_over=["ubuntu/noble/amd64/ga-24.04 20250709: 20250812 of mine comes first"],
    )
    service["banners"].append(
        {"id": "source-away-1", "text": "No answer.", "since": "2026-11-21T10:00:00Z", "remedy": "Check the proxy."}
    )
    text = browser.get("/").text
    for words in (
        "paused", "22:00 to 06:00, closed now.", "also signed by AB12", "1 taken from a source of higher priority",
        "20250812 of mine comes first", 'id="banner-source-away-1"', "No answer.", "Check the proxy.",
        '<time datetime="2026-11-21T10:00:00Z">',
    ):  # fmt: skip
        assert words in text, words
