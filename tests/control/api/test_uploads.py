"""Custom images through the API of a real region: announced, sent in pieces, verified, offered, replaced, deleted."""

from __future__ import annotations

import hashlib
import http.client
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bootplane.control.api import schemas
from bootplane.control.api.limits import BODY_BYTES
from bootplane.control.app import Region
from bootplane.control.errors import Gone
from bootplane.control.uploads import uploads
from tests.control.api.test_routes import problem
from tests.fakes import archives
from tests.fakes.regions import running, synced

TREE = "custom/amd64/generic/web/uploaded/root-tgz"


def announced(*files: tuple[str, bytes], name: str = "web", **more: Any) -> dict[str, Any]:
    listed = [{"ftype": ftype, "sha256": sha(data), "size": len(data)} for ftype, data in files]
    return {"name": name, "arch": "amd64", "files": listed, **more}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(
    client: TestClient, upload: dict[str, Any], name: str, data: bytes, start: int = 0, end: int | None = None
) -> Any:
    end = len(data) if end is None else end
    headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
    return client.put(f"/api/v1/uploads/{upload['id']}/files/{name}", content=data[start:end], headers=headers)


def begun(client: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/api/v1/uploads", json=body)
    assert answer.status_code == 201, answer.text
    return schemas.Upload.model_validate(answer.json()).model_dump()


def uploaded(client: TestClient, data: bytes, **more: Any) -> dict[str, Any]:
    upload = begun(client, announced(("root-tgz", data), **more))
    if upload["state"] == "complete":
        return upload
    answer = put(client, upload, "root-tgz", data)
    assert answer.status_code == 200, answer.text
    return schemas.Upload.model_validate(answer.json()).model_dump()


def names(region: Region) -> dict[str, str]:
    published = region.publisher.current
    assert published is not None
    return dict(published.contents.names)


def bulk(region: Region, sha256: str) -> bytes:
    connection = http.client.HTTPConnection(region.bulk.address, timeout=20)
    try:
        connection.request("GET", f"/blob/{sha256}")
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read()
    finally:
        connection.close()


@pytest.fixture(autouse=True)
def one_day(monkeypatch: pytest.MonkeyPatch) -> str:
    """Versions are called after the day: no midnight comes in the middle of a test."""
    day = uploads.today()
    monkeypatch.setattr(uploads, "today", lambda: day)
    return day


@pytest.fixture
def tgz(tmp_path: Path) -> bytes:
    return archives.archive(tmp_path, "tgz").read_bytes()


@pytest.fixture
def other_tgz(tmp_path: Path) -> bytes:
    return archives.archive(tmp_path, "tgz", "two").read_bytes()


def test_an_upload_becomes_an_image_that_racks_are_told_of(
    region: Region, client: TestClient, tgz: bytes, one_day: str
) -> None:
    now = datetime.now(UTC)
    assert one_day in [(now - timedelta(minutes=minutes)).strftime("%Y%m%d") for minutes in (0, 10)]
    upload = uploaded(client, tgz, title="Web servers", base_image="ubuntu/noble")
    assert (upload["state"], upload["version"], upload["done"]) == ("complete", one_day, len(tgz))
    image = schemas.Image.model_validate(client.get("/api/v1/images").json()["items"][0])
    assert (image.name, image.title, image.label, image.version) == (
        "custom/web/amd64/generic", "Web servers", "uploaded", one_day,
    )  # fmt: skip
    assert (image.rtype, image.base_image, image.complete) == ("uploaded", "ubuntu/noble", True)
    assert image.files[0].names[:2] == [f"images/{sha(tgz)[:16]}/{TREE}", TREE]
    assert names(region)[TREE] == sha(tgz)
    assert bulk(region, sha(tgz)) == tgz
    assert len(region.store.chunk_list(sha(tgz))) == 32
    assert client.get("/api/v1/uploads").json()["items"] == []
    assert client.get(f"/api/v1/uploads/{upload['id']}").json()["state"] == "complete"


def test_it_goes_on_where_the_regions_bytes_end(region: Region, client: TestClient, tgz: bytes) -> None:
    body = announced(("root-tgz", tgz))
    upload = begun(client, body)
    assert put(client, upload, "root-tgz", tgz, 0, 1000).json()["done"] == 1000
    again = begun(client, body)
    assert (again["id"], again["done"], again["files"][0]["state"]) == (upload["id"], 1000, "waiting")
    assert put(client, upload, "root-tgz", tgz, 1000, 2000).json()["done"] == 2000
    assert names(region) == {} and not region.store.has(sha(tgz))
    assert put(client, upload, "root-tgz", tgz, 2000).json()["state"] == "complete"
    assert bulk(region, sha(tgz)) == tgz


@pytest.mark.parametrize("start", [0, 500, 1001, 20_000])
def test_bytes_that_do_not_go_on_are_told_where_to(client: TestClient, tgz: bytes, start: int) -> None:
    upload = begun(client, announced(("root-tgz", tgz)))
    put(client, upload, "root-tgz", tgz, 0, 1000)
    answer = put(client, upload, "root-tgz", tgz, start)
    assert "byte 1000, got" in problem(answer, 409)
    assert (answer.json()["type"], answer.json()["offset"]) == ("urn:bootplane:wrong-offset", 1000)


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({}, 400, "Content-Range: expected bytes FIRST-LAST/TOTAL"),
        ({"Content-Range": "bytes */5"}, 400, "Content-Range"),
        ({"Content-Range": "bytes 5-3/9"}, 400, "Content-Range"),
        ({"Content-Range": "bytes 0-9/9"}, 400, "Content-Range"),
        ({"Content-Range": "bytes 0-6/7"}, 400, "bytes in all, got 7"),
    ],
)
def test_a_put_says_where_its_bytes_belong(
    client: TestClient, tgz: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    upload = begun(client, announced(("root-tgz", tgz)))
    answer = client.put(f"/api/v1/uploads/{upload['id']}/files/root-tgz", content=b"1234567", headers=headers)
    assert words in problem(answer, status)


def test_a_byte_too_many_is_refused_announced_or_not(region: Region, client: TestClient, tgz: bytes) -> None:
    upload = begun(client, announced(("root-tgz", tgz)))
    where = f"/api/v1/uploads/{upload['id']}/files/root-tgz"
    headers = {"Content-Range": f"bytes 0-{len(tgz) - 1}/{len(tgz)}"}
    assert f"got {len(tgz) + 1}" in problem(client.put(where, content=tgz + b"x", headers=headers), 413)

    def chunked() -> Any:
        yield tgz
        yield b"x"

    assert "or more" in problem(client.put(where, content=chunked(), headers=headers), 413)
    assert names(region) == {} and not region.store.has(sha(tgz))


def test_a_body_larger_than_any_other_of_the_api_passes_here_and_nowhere_else(
    region: Region, client: TestClient, tgz: bytes
) -> None:
    large = tgz + bytes(BODY_BYTES)  # gzip's readers stop at its trailer, and so does nobody here
    assert uploaded(client, large)["state"] == "complete"
    answer = client.put("/api/v1/uploads", content=bytes(BODY_BYTES + 1))
    assert answer.status_code == 413
    assert client.post("/api/v1/uploads", content=bytes(BODY_BYTES + 1)).status_code == 413


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/uploads"),
        ("POST", "/uploads"),
        ("POST", "/uploads/check"),
        ("GET", "/uploads/ab"),
        ("PUT", "/uploads/ab/files/root-tgz"),
        ("DELETE", "/uploads/ab"),
        ("DELETE", "/images/web"),
        ("GET", "/image-diff?old=a&new=b"),
    ],
)
def test_every_call_needs_the_admin_token_and_a_session_changes_nothing(
    region: Region, client: TestClient, method: str, path: str
) -> None:
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}):
        assert "admin token" in problem(client.request(method, f"/api/v1{path}", headers=headers), 401)
    client.get(region.sessions.new_link(), headers={"Authorization": ""}, follow_redirects=False)
    answer = client.request(method, f"/api/v1{path}", headers={"Authorization": ""})
    assert (answer.status_code == 401) == (method != "GET")


def test_bytes_that_are_not_those_announced_are_refused_and_not_kept(
    region: Region, client: TestClient, tgz: bytes
) -> None:
    upload = begun(client, announced(("root-tgz", tgz)))
    wrong = tgz[:-1] + bytes([tgz[-1] ^ 1])
    detail = problem(put(client, upload, "root-tgz", wrong), 422)
    assert "sha256 differs" in detail and sha(wrong) in detail
    shown = client.get(f"/api/v1/uploads/{upload['id']}").json()
    assert (shown["state"], shown["error"], shown["done"]) == ("failed", detail, 0)
    assert region.store.partials() == [] and list(region.store.complete()) == [] and names(region) == {}
    assert uploaded(client, tgz)["state"] == "complete"  # the same upload, from its beginning


def test_bytes_of_another_type_are_refused_before_they_are_all_here(
    region: Region, client: TestClient, tmp_path: Path, tgz: bytes
) -> None:
    wrong = archives.archive(tmp_path, "ddxz").read_bytes()
    upload = begun(client, announced(("root-tgz", wrong)))
    assert "did you mean --type ddxz" in problem(put(client, upload, "root-tgz", wrong, 0, 100_000), 422)
    assert region.store.partials() == []
    client.post("/api/v1/uploads", json=announced(("root-dd.xz", wrong), name="disk"))  # here under its right type ..
    other = begun(client, announced(("root-dd.xz", wrong), name="disk"))
    assert put(client, other, "root-dd.xz", wrong).json()["state"] == "complete"
    answer = client.post("/api/v1/uploads", json=announced(("root-tgz", wrong), name="web2"))
    assert "did you mean --type ddxz" in problem(answer, 422)  # .. and refused under a wrong one without a byte sent
    assert [image["name"] for image in client.get("/api/v1/images").json()["items"]] == ["custom/disk/amd64/generic"]


def test_content_the_region_has_is_not_sent(region: Region, client: TestClient, tgz: bytes) -> None:
    uploaded(client, tgz)
    second = begun(client, announced(("root-tgz", tgz), name="web2"))
    assert second["state"] == "complete"
    assert names(region)["custom/amd64/generic/web2/uploaded/root-tgz"] == sha(tgz)
    assert len(list(region.store.complete())) == 1


def test_the_same_image_again_is_the_same_version_under_its_new_title(client: TestClient, tgz: bytes) -> None:
    first = uploaded(client, tgz, title="one")
    again = uploaded(client, tgz, title="two", base_image="centos/8")
    assert again["version"] == first["version"]
    image = client.get("/api/v1/images/web").json()
    assert (image["title"], image["base_image"], len(image["versions"])) == ("two", "centos/8", 1)


def test_a_new_upload_replaces_the_old_in_one_catalogue_and_the_old_goes_on_by_content(
    region: Region, client: TestClient, tgz: bytes, other_tgz: bytes
) -> None:
    first = uploaded(client, tgz)
    assert region.publisher.current is not None
    before = region.publisher.current.version
    seen = []
    publish = region.publisher.publish

    def watched(new: Any) -> Any:
        seen.append(dict(new.names))
        return publish(new)

    region.publisher.publish = watched  # type: ignore[method-assign]
    second = uploaded(client, other_tgz)
    assert second["version"] == first["version"] + ".1"
    assert region.publisher.current.version == before + 1
    assert all(TREE in each for each in seen)  # at no time was there none
    assert names(region)[TREE] == sha(other_tgz)
    assert names(region)[f"images/{sha(tgz)[:16]}/{TREE}"] == sha(tgz)
    assert (bulk(region, sha(tgz)), bulk(region, sha(other_tgz))) == (tgz, other_tgz)
    shown = client.get("/api/v1/images/custom/web").json()
    assert [(v["version"], v["marked"] is None) for v in shown["versions"]] == [
        (first["version"], False),
        (second["version"], True),
    ]


def test_the_tenth_upload_of_a_day_is_newer_than_the_ninth(region: Region, client: TestClient, tgz: bytes) -> None:
    for number in range(12):
        upload = uploaded(client, tgz + b"%d" % number)
    assert upload["version"].endswith(".11")
    assert client.get("/api/v1/images/web").json()["version"] == upload["version"]
    assert names(region)[TREE] == sha(tgz + b"11")


def test_an_arch_is_an_image_of_its_own(region: Region, client: TestClient, tgz: bytes, other_tgz: bytes) -> None:
    uploaded(client, tgz)
    upload = begun(client, announced(("root-tgz", other_tgz)) | {"arch": "arm64"})
    put(client, upload, "root-tgz", other_tgz)
    assert {image["name"] for image in client.get("/api/v1/images").json()["items"]} == {
        "custom/web/amd64/generic", "custom/web/arm64/generic",
    }  # fmt: skip
    assert "custom/web/amd64/generic, custom/web/arm64/generic" in problem(client.get("/api/v1/images/web"), 409)
    assert client.get("/api/v1/images/custom/web/arm64").json()["arch"] == "arm64"


def test_a_kernel_set_with_its_packages_is_served_and_never_boots_a_stranger(
    region: Region, client: TestClient, tmp_path: Path
) -> None:
    files = {
        "boot-kernel": archives.kernel(tmp_path).read_bytes(),
        "boot-initrd": archives.initrd(tmp_path).read_bytes(),
        "squashfs": archives.squashfs(tmp_path).read_bytes(),
        "manifest": b"adduser\t3.137\nbase-files\t13\n",
    }
    upload = begun(client, announced(*files.items(), name="rescue"))
    for name, data in files.items():
        wire = "squashfs.manifest" if name == "manifest" else name
        answer = put(client, upload, wire, data)
        assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "complete"
    table = names(region)
    for name, data in files.items():
        wire = "squashfs.manifest" if name == "manifest" else name
        assert table[f"custom/amd64/generic/rescue/uploaded/{wire}"] == sha(data)
    shown = client.get("/api/v1/images/rescue?packages=true").json()
    assert shown["packages"][0] == {"name": "adduser", "version": "3.137"}
    from bootplane.control.bootscript import choose

    assert region.publisher.current is not None
    assert choose(region.publisher.current.contents.offered) == {}


def test_packages_of_two_versions_and_of_two_images_are_compared(client: TestClient, tgz: bytes) -> None:
    def with_packages(name: str, manifest: bytes) -> str:
        upload = begun(client, announced(("root-tgz", tgz), ("manifest", manifest), name=name))
        for wire, data in (("root-tgz", tgz), ("root-tgz.manifest", manifest)):
            if client.get(f"/api/v1/uploads/{upload['id']}").json()["state"] == "receiving":
                put(client, upload, wire, data)
        return str(client.get(f"/api/v1/uploads/{upload['id']}").json()["version"])

    first, second = with_packages("web", b"a 1\nb 1\n"), with_packages("web", b"b 2\nc 1\n")
    with_packages("db", b"b 2\n")
    answer = client.get(f"/api/v1/image-diff?old=web@{first}&new=web@{second}")
    found = schemas.ImageDiff.model_validate(answer.json()).model_dump()
    assert found == {
        "old": {"name": "custom/web/amd64/generic", "version": first},
        "new": {"name": "custom/web/amd64/generic", "version": second},
        "added": [{"name": "c", "version": "1"}],
        "removed": [{"name": "a", "version": "1"}],
        "changed": [{"name": "b", "old": "1", "new": "2"}],
        "same": 0,
    }
    assert client.get("/api/v1/image-diff?old=web&new=custom/db").json()["removed"] == [{"name": "c", "version": "1"}]
    assert "there is none" in problem(client.get("/api/v1/image-diff?old=web&new=nothing"), 404)
    assert first in problem(client.get("/api/v1/image-diff?old=web&new=web@1999"), 404)
    uploaded(client, tgz, name="bare")
    assert "without a package manifest" in problem(client.get("/api/v1/image-diff?old=web&new=bare"), 404)


def test_a_deleted_image_has_no_name_for_who_begins_and_bytes_for_who_has_begun(
    region: Region, client: TestClient, tgz: bytes
) -> None:
    upload = uploaded(client, tgz)
    removed = schemas.ImagesRemoved.model_validate(client.delete("/api/v1/images/web").json()).items
    assert [(each.name, each.versions) for each in removed] == [("custom/web/amd64/generic", [upload["version"]])]
    assert client.get("/api/v1/images").json()["items"] == []
    table = names(region)
    assert TREE not in table and table[f"images/{sha(tgz)[:16]}/{TREE}"] == sha(tgz)
    assert bulk(region, sha(tgz)) == tgz
    assert "no uploaded one" in problem(client.delete("/api/v1/images/web"), 404)
    assert uploaded(client, tgz)["version"] == upload["version"] + ".1"  # and comes back without a byte sent
    assert names(region)[TREE] == sha(tgz)


def test_an_arch_is_deleted_alone(client: TestClient, tgz: bytes) -> None:
    uploaded(client, tgz)
    begun(client, announced(("root-tgz", tgz)) | {"arch": "arm64"})
    assert "no uploaded one" in problem(client.delete("/api/v1/images/web?arch=s390x"), 404)
    assert [each["arch"] for each in client.delete("/api/v1/images/web?arch=arm64").json()["items"]] == ["arm64"]
    assert [image["arch"] for image in client.get("/api/v1/images").json()["items"]] == ["amd64"]


def test_syncs_leave_uploads_alone_and_uploads_the_names_of_sources(
    region: Region, client: TestClient, source: dict[str, Any], tgz: bytes
) -> None:
    uploaded(client, tgz)
    half = tgz + b"half"
    unfinished = begun(client, announced(("root-tgz", half), name="later"))
    put(client, unfinished, "root-tgz", half, 0, 5000)
    client.post("/api/v1/sources", json=source)
    client.post("/api/v1/selections", json={"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
    assert synced(region, client)["state"] == "complete"
    assert synced(region, client)["state"] == "complete"
    assert names(region)[TREE] == sha(tgz)
    shown = client.get("/api/v1/images/web").json()
    assert (shown["complete"], shown["versions"][0]["marked"]) == (True, None)
    assert client.get(f"/api/v1/uploads/{unfinished['id']}").json()["done"] == 5000
    assert put(client, unfinished, "root-tgz", half, 5000).json()["state"] == "complete"
    assert client.get("/api/v1/images/later").json()["base_image"] == "ubuntu/noble"  # the newest LTS that is here
    for name, words in {
        "noble": "a boot source offers ubuntu/noble",
        "ubuntu/noble": "a boot source offers ubuntu/noble",
        "pxelinux": "what a boot source calls an operating system",
        "8": "a boot source offers centos/8",  # offered, though nobody selected it
    }.items():
        answer = client.post("/api/v1/uploads", json=announced(("root-tgz", tgz), name=name))
        assert words in problem(answer, 409), name
    detail = problem(client.delete("/api/v1/images/ubuntu/noble/amd64/ga-24.04"), 409)
    assert "expected an uploaded one, got one that is synced" in detail and "bootplane select remove 1" in detail


def test_room_is_reserved_before_the_first_byte_and_given_back_at_the_end(
    region: Region, client: TestClient, tgz: bytes, other_tgz: bytes
) -> None:
    free = region.store.free_bytes()
    huge = announced(("root-tgz", tgz)) | {"files": [{"ftype": "root-tgz", "sha256": "ab" * 32, "size": 1 << 49}]}
    answer = client.post("/api/v1/uploads", json=huge)
    detail = problem(answer, 507)
    assert str(region.store.directory) in detail and str(1 << 49) in detail
    assert answer.json()["type"] == "urn:bootplane:no-space"
    assert client.get("/api/v1/uploads").json()["items"] == []
    upload = begun(client, announced(("root-tgz", tgz)))
    assert region.store._reserved == len(tgz)
    put(client, upload, "root-tgz", tgz, 0, 100_000)
    assert region.store._reserved == len(tgz) - 100_000
    put(client, upload, "root-tgz", tgz, 100_000)
    assert region.store._reserved == 0
    other = begun(client, announced(("root-tgz", other_tgz), name="other"))
    client.delete(f"/api/v1/uploads/{other['id']}")
    assert region.store._reserved == 0 and free


def test_a_cancelled_upload_leaves_nothing(region: Region, client: TestClient, tgz: bytes) -> None:
    upload = begun(client, announced(("root-tgz", tgz)))
    put(client, upload, "root-tgz", tgz, 0, 5000)
    assert client.delete(f"/api/v1/uploads/{upload['id']}").json()["done"] == 5000
    assert region.store.partials() == [] and client.get("/api/v1/uploads").json()["items"] == []
    assert "expired or been cancelled" in problem(client.get(f"/api/v1/uploads/{upload['id']}"), 404)
    assert "expired or been cancelled" in problem(put(client, upload, "root-tgz", tgz, 5000), 404)


def test_who_sends_to_a_cancelled_upload_is_told_and_what_came_is_gone(
    region: Region, client: TestClient, tgz: bytes
) -> None:
    upload = begun(client, announced(("root-tgz", tgz)))
    receiving = region.uploads.open(upload["id"], "root-tgz", 0, len(tgz))
    receiving.write(tgz[:5000])
    client.delete(f"/api/v1/uploads/{upload['id']}")
    with pytest.raises(Gone, match="it was cancelled"):
        receiving.write(tgz[5000:])
    receiving.abandon()
    assert region.store.partials() == [] and region.store._reserved == 0 and names(region) == {}
    assert uploaded(client, tgz)["state"] == "complete"


def test_content_that_a_sync_brings_is_waited_for(region: Region, client: TestClient, tgz: bytes) -> None:
    upload = begun(client, announced(("root-tgz", tgz)))
    with region.store.begin(sha(tgz), len(tgz)) as download:
        answer = put(client, upload, "root-tgz", tgz)
        assert "a sync brings this content" in problem(answer, 409) and answer.json()["type"] == "urn:bootplane:busy"
        download.write(tgz)
        download.commit()
    assert begun(client, announced(("root-tgz", tgz)))["state"] == "complete"


def test_an_upload_expires_a_day_after_its_last_sign_of_life(
    region: Region, client: TestClient, tgz: bytes, other_tgz: bytes
) -> None:
    done = uploaded(client, other_tgz, name="done")
    upload = begun(client, announced(("root-tgz", tgz)))
    put(client, upload, "root-tgz", tgz, 0, 5000)
    shown = client.get(f"/api/v1/uploads/{upload['id']}").json()
    lasts = datetime.fromisoformat(shown["expires"]) - datetime.fromisoformat(shown["created"])
    assert timedelta(hours=23, minutes=59) < lasts < timedelta(hours=24, minutes=1)
    region.uploads._turn()
    assert [each["id"] for each in client.get("/api/v1/uploads").json()["items"]] == [upload["id"]]
    region.uploads._kept_s = -1.0
    region.uploads._turn()
    assert client.get("/api/v1/uploads").json()["items"] == [] and region.store.partials() == []
    assert client.get(f"/api/v1/uploads/{done['id']}").status_code == 404
    assert client.get("/api/v1/images/done").json()["complete"] and region.store._reserved == 0


def test_two_that_bring_the_same_content_do_not_clash(region: Region, client: TestClient, tgz: bytes) -> None:
    first = begun(client, announced(("root-tgz", tgz)))
    second = begun(client, announced(("root-tgz", tgz), name="twin"))
    receiving = region.uploads.open(first["id"], "root-tgz", 0, len(tgz))
    receiving.write(tgz[:5000])
    answer = put(client, second, "root-tgz", tgz)
    assert "somebody else" in problem(answer, 409) and answer.json()["type"] == "urn:bootplane:busy"
    shown = begun(client, announced(("root-tgz", tgz), name="twin"))["files"][0]
    assert (shown["state"], shown["done"]) == ("receiving", 5000)
    receiving.write(tgz[5000:])
    assert receiving.end()["state"] == "complete"
    assert begun(client, announced(("root-tgz", tgz), name="twin"))["state"] == "complete"
    assert region.store._reserved == 0


def test_a_region_that_starts_again_goes_on_and_makes_what_was_whole_an_image(tmp_path: Path, tgz: bytes) -> None:
    with running(tmp_path / "data") as (region, client):
        upload = begun(client, announced(("root-tgz", tgz)))
        put(client, upload, "root-tgz", tgz, 0, 5000)
        whole = begun(client, announced(("root-tgz", tgz + b"2"), name="whole"))
        with region.store.begin(sha(tgz + b"2"), len(tgz) + 1) as ingest:  # killed between the rename and the image
            ingest.write(tgz + b"2")
            ingest.commit()
    with running(tmp_path / "data") as (region, client):
        assert client.get(f"/api/v1/uploads/{whole['id']}").json()["state"] == "complete"
        assert client.get("/api/v1/images/whole").json()["complete"]
        assert begun(client, announced(("root-tgz", tgz)))["done"] == 5000
        assert put(client, upload, "root-tgz", tgz, 5000).json()["state"] == "complete"
        assert bulk(region, sha(tgz)) == tgz


def test_an_upload_whose_file_is_lost_is_said_and_mended_by_another(tmp_path: Path, tgz: bytes) -> None:
    with running(tmp_path / "data") as (region, client):
        uploaded(client, tgz)
        region.store.path_of(sha(tgz)).unlink()
    with running(tmp_path / "data") as (region, client):
        banner = next(each for each in client.get("/api/v1/status").json()["banners"] if each["id"] == "uploads-lost")
        assert "custom/web/amd64/generic" in banner["text"]
        assert not client.get("/api/v1/images/web").json()["complete"]
        synced(region, client)
        assert not client.get("/api/v1/images/web").json()["complete"]  # still there to be named
        assert uploaded(client, tgz)["state"] == "complete"
        assert client.get("/api/v1/images/web").json()["complete"] and names(region)[TREE] == sha(tgz)
        assert "uploads-lost" not in {each["id"] for each in client.get("/api/v1/status").json()["banners"]}


def test_a_full_disk_in_mid_upload_keeps_what_has_arrived(
    region: Region, client: TestClient, tgz: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    from bootplane.dataplane import store as store_module

    large = tgz + bytes(3 << 20)
    upload = begun(client, announced(("root-tgz", large)))
    real, room = os.write, [2 << 20]

    def full(fd: int, data: Any) -> int:
        if len(data) >= 1 << 16:
            if room[0] <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            room[0] -= len(data)
        return real(fd, data)

    monkeypatch.setattr(store_module.os, "write", full)
    detail = problem(put(client, upload, "root-tgz", large), 507)
    assert "what has arrived is kept" in detail and str(region.store.directory) in detail
    monkeypatch.undo()
    shown = begun(client, announced(("root-tgz", large)))
    assert (shown["state"], shown["done"]) == ("receiving", 2 << 20)
    assert put(client, upload, "root-tgz", large, 2 << 20).json()["state"] == "complete"


def test_the_announcement_is_checked_field_by_field(client: TestClient, tgz: bytes) -> None:
    good = announced(("root-tgz", tgz))
    for change, status, words in [
        ({"name": ""}, 422, "name"),
        ({"surprise": 1}, 422, "surprise"),
        ({"arch": "x86"}, 400, "expected an arch"),
        ({"files": []}, 422, "files"),
        ({"files": [{"ftype": "root-tgz", "sha256": "zz", "size": 1}]}, 422, "sha256"),
        ({"files": [{"ftype": "root-tgz", "sha256": "ab" * 32, "size": 0}]}, 422, "size"),
        ({"files": [{"ftype": "root-zip", "sha256": "ab" * 32, "size": 1}]}, 400, "expected one root archive"),
        ({"base_image": "windows/11"}, 400, "expected a base image"),
        ({"title": "a\nb"}, 400, "title"),
    ]:
        assert words in problem(client.post("/api/v1/uploads", json=good | change), status), change
    assert client.get("/api/v1/uploads").json() == {"items": [], "next": None}
    upload = begun(client, good)
    assert "expected one of root-tgz" in problem(put(client, upload, "squashfs", tgz), 404)


def test_a_name_is_checked_before_anything_is_hashed(client: TestClient) -> None:
    asked = {"name": "web", "arch": "amd64", "base_image": "ol/9"}
    answer = client.post("/api/v1/uploads/check", json=asked)
    found = schemas.UploadChecked.model_validate(answer.json()).model_dump()
    assert found == {"image": "custom/web/amd64/generic", "title": "web", "base_image": "ol/9"}
    assert "name of an operating" in problem(client.post("/api/v1/uploads/check", json=asked | {"name": "esxi"}), 409)
    assert client.get("/api/v1/uploads").json()["items"] == []


def test_a_deleted_image_goes_from_the_disk_after_the_grace_time_without_any_sync(tmp_path: Path, tgz: bytes) -> None:
    with running(tmp_path / "quick", removal_grace=0) as (region, client):
        uploaded(client, tgz)
        client.delete("/api/v1/images/web")
        region.removal.step()
        region.removal.step()
        assert list(region.store.complete()) == [] and names(region) == {}


def test_the_page_shows_uploads_and_custom_images(region: Region, client: TestClient, tgz: bytes) -> None:
    client.get(region.sessions.new_link(), headers={"Authorization": ""}, follow_redirects=False)
    uploaded(client, tgz, base_image="ubuntu/jammy")
    upload = begun(client, announced(("root-tgz", tgz + b"x"), name="later"))
    put(client, upload, "root-tgz", tgz + b"x", 0, 5000)
    page = client.get("/images").text
    assert "custom/later/amd64/generic" in page and "1 unfinished" in page
    assert "custom/web/amd64/generic" in page and "on ubuntu/jammy" in page
    assert "custom/later" in client.get("/parts/uploads").text


def test_the_documents_are_those_of_the_openapi(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    put_ = paths["/api/v1/uploads/{key}/files/{file}"]["put"]
    assert put_["requestBody"]["content"] == {"application/octet-stream": {}}
    assert {each["name"] for each in put_["parameters"]} >= {"Content-Range", "key", "file"}


@pytest.mark.parametrize("step", ["blobs.record", "images.add_uploaded", "uploads._rows.complete", "uploads._publish"])
def test_a_region_that_dies_at_any_step_of_the_end_makes_one_image_of_it(
    tmp_path: Path, tgz: bytes, other_tgz: bytes, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(Exception):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Died

    with running(tmp_path / "data") as (region, client):
        first = uploaded(client, other_tgz)
        upload = begun(client, announced(("root-tgz", tgz)))
        *path, last = step.split(".")
        holder: Any = region
        for word in path:
            holder = getattr(holder, word)
        with monkeypatch.context() as patched:
            patched.setattr(holder, last, die)
            with pytest.raises(Died):
                put(client, upload, "root-tgz", tgz)
    with running(tmp_path / "data") as (region, client):
        assert client.get(f"/api/v1/uploads/{upload['id']}").json()["state"] == "complete"
        again = begun(client, announced(("root-tgz", tgz)))
        assert (again["state"], again["version"]) == ("complete", first["version"] + ".1")
        versions = client.get("/api/v1/images/web").json()["versions"]
        assert [(each["version"], each["marked"] is None) for each in versions] == [
            (first["version"], False),
            (again["version"], True),
        ]
        assert names(region)[TREE] == sha(tgz) and bulk(region, sha(tgz)) == tgz
        assert region.store.partials() == []


def test_a_region_on_postgresql_takes_replaces_and_deletes_the_same(
    tmp_path: Path, postgres_url: str, tgz: bytes, other_tgz: bytes
) -> None:
    with running(tmp_path / "data", database=postgres_url) as (region, client):
        first = uploaded(client, tgz)
        assert uploaded(client, tgz)["version"] == first["version"]
        second = uploaded(client, other_tgz)
        assert names(region)[TREE] == sha(other_tgz)
        third = begun(client, announced(("root-tgz", tgz + b"x")))
        put(client, third, "root-tgz", tgz + b"x", 0, 5000)
        assert client.delete("/api/v1/images/web").json()["items"][0]["versions"] == [second["version"]]
        assert put(client, third, "root-tgz", tgz + b"x", 5000).json()["version"] == first["version"] + ".2"
        region.removal.step()
        assert bulk(region, sha(tgz)) == tgz  # marked, and within its grace time


def test_an_upload_that_replaces_another_keeps_its_base_image_until_it_was_deleted(
    client: TestClient, tgz: bytes, other_tgz: bytes
) -> None:
    uploaded(client, tgz, base_image="centos/8")
    uploaded(client, other_tgz)
    assert client.get("/api/v1/images/web").json()["base_image"] == "centos/8"
    client.delete("/api/v1/images/web")
    uploaded(client, tgz)
    assert client.get("/api/v1/images/web").json()["base_image"] == "ubuntu/noble"
    uploaded(client, tgz, name="rhel/web")
    assert client.get("/api/v1/images/rhel/web/amd64/generic").json()["base_image"] == ""
    with_base = announced(("root-tgz", tgz), name="rhel/web", base_image="ubuntu/noble")
    assert "expected no base image" in problem(client.post("/api/v1/uploads", json=with_base), 400)
