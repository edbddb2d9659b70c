"""`image upload` against a region of fixed answers: what it asks, when it waits, and what it says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bootplane.control.api import schemas
from bootplane.control.cli import upload as upload_module
from bootplane.control.cli import upload_view
from bootplane.control.cli.failure import CliError
from tests.fakes import archives

CHECKED = {"image": "custom/web/amd64/generic", "title": "web", "base_image": "ubuntu/noble"}


@pytest.fixture
def tgz(tmp_path: Path) -> Path:
    return archives.archive(tmp_path, "tgz")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_module, "PAUSE_S", 0.01)


def told(file: Path, state: str, file_state: str, done: int | None = None, **more: Any) -> dict[str, Any]:
    data = file.read_bytes()
    done = len(data) if done is None else done
    listed = {
        "name": "root-tgz", "ftype": "root-tgz", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data),
        "done": done, "state": file_state,
    }  # fmt: skip
    document = {
        "id": "ab", "image": "custom/web/amd64/generic", "title": "web", "arch": "amd64", "subarch": "generic",
        "base_image": "ubuntu/noble", "state": state, "version": "20261122" if state == "complete" else None,
        "size": len(data), "done": done, "rate": 0, "eta_s": None, "files": [listed],
        "created": "2026-11-22T10:00:00Z", "expires": "2026-11-23T10:00:00Z", "error": None,
    }  # fmt: skip
    schemas.Upload.model_validate(document | more)
    return document | more


def test_what_is_here_already_is_not_sent(bootplane, region, tgz: Path) -> None:
    region.answers |= {"POST /uploads/check": CHECKED, "POST /uploads": told(tgz, "complete", "done")}
    done = bootplane("image", "upload", "web", tgz, "--arch", "amd64", "--title", "Web", "--base-image", "ubuntu/noble")
    assert done.exit_code == 0, done.stderr
    assert "custom/web/amd64/generic 20261122 is complete" in done.stdout.splitlines()[-1]
    check, announce = region.calls
    asked = {"name": "web", "arch": "amd64", "title": "Web", "base_image": "ubuntu/noble"}
    assert (check.path, check.body) == ("/uploads/check", asked)
    data = tgz.read_bytes()
    files = [{"ftype": "root-tgz", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}]
    assert (announce.path, announce.body) == ("/uploads", asked | {"files": files})


def test_content_that_somebody_else_sends_is_waited_for_to_its_very_end(bootplane, region, tgz: Path) -> None:
    region.answers |= {
        "POST /uploads/check": CHECKED,
        "POST /uploads": [
            told(tgz, "receiving", "receiving", 10),
            told(tgz, "receiving", "done"),  # its last byte is here, and the image not yet
            told(tgz, "complete", "done"),
        ],
    }
    done = bootplane("image", "upload", "web", tgz, "--arch", "amd64", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "complete"
    assert [call.path for call in region.calls] == ["/uploads/check", *["/uploads"] * 3]


def test_a_refused_name_is_told_before_the_file_is_hashed(
    bootplane, region, tgz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_module, "_sha256", lambda *_: pytest.fail("it was hashed"))
    region.problem("POST /uploads/check", 409, "image 'noble': a boot source offers ubuntu/noble")
    done = bootplane("image", "upload", "noble", tgz, "--arch", "amd64")
    assert (done.exit_code, done.stderr) == (1, "bootplane: image 'noble': a boot source offers ubuntu/noble\n")


def test_a_region_that_is_not_there_is_told_at_once(bootplane, region, data: Path, tgz: Path) -> None:
    (data / "run.json").write_text(json.dumps({"region": "127.0.0.1:9"}))
    done = bootplane("image", "upload", "web", tgz, "--arch", "amd64")
    assert done.exit_code == 1 and "No region answers at http://127.0.0.1:9" in done.stderr
    assert "Waiting" not in done.stderr


class Notes(upload_view.Quiet):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, sentence: str) -> None:
        self.said.append(sentence)


def test_a_region_that_takes_nothing_any_more_is_waited_for_a_minute_and_its_reason_said_once() -> None:
    now, notes = [0.0], Notes()
    patience = upload_module._Patience(notes, lambda: now[0])
    disk = CliError("the disk fails")

    def passed(seconds: float, done: int) -> None:
        now[0] += seconds
        patience.heard(done)
        patience.lost(disk)

    passed(0.0, 5)
    passed(59.0, 5)
    passed(59.0, 6)  # a byte came: the minute begins anew
    passed(59.0, 6)
    with pytest.raises(CliError, match="the disk fails"):
        passed(2.0, 6)
    waited = "the disk fails. Waiting for it."
    assert notes.said == [waited, "The region answers again.", waited]


def test_who_waits_long_for_others_says_so_once() -> None:
    now, notes = [0.0], Notes()
    patience = upload_module._Patience(notes, lambda: now[0])
    for _ in range(10):
        patience.heard(5)
        patience.queue("16 files come in")
        now[0] += 10.0
    assert notes.said == ["16 files come in: waiting."]
    patience.heard(6)  # it goes on meanwhile, by somebody else
    patience.queue("somebody else sends it")
    assert len(notes.said) == 1


def test_an_upload_that_has_failed_says_why(bootplane, region, tgz: Path) -> None:
    failed = told(tgz, "failed", "waiting", 0, error="image web: root-tgz: sha256 differs")
    region.answers |= {"POST /uploads/check": CHECKED, "POST /uploads": failed}
    done = bootplane("image", "upload", "web", tgz, "--arch", "amd64")
    assert (done.exit_code, done.stderr) == (1, "bootplane: image web: root-tgz: sha256 differs\n")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 2, "--arch: expected the arch"),
        (("--arch", "amd64", "--type", "zip"), 2, "--type: expected one of tgz"),
        (("--arch", "amd64", "--kernel", "FILE"), 2, "got both"),
        (("--arch", "amd64", "--type", "txz"), 1, "did you mean --type tgz"),
    ],
)
def test_what_cannot_be_is_refused_without_a_question(
    bootplane, region, tgz: Path, words: tuple[str, ...], status: int, said: str
) -> None:
    done = bootplane("image", "upload", "web", tgz, *(tgz if word == "FILE" else word for word in words))
    assert done.exit_code == status and said in done.stderr, done.stderr
    assert region.calls == []


def test_a_set_needs_all_of_its_files(bootplane, region, tgz: Path) -> None:
    done = bootplane("image", "upload", "web", "--arch", "amd64", "--kernel", tgz, "--initrd", tgz)
    assert done.exit_code == 2 and "all of --kernel, --initrd and --squashfs" in done.stderr
    assert region.calls == []


def test_a_diff_is_of_two_versions_or_of_two_images(bootplane, region) -> None:
    found = {
        "old": {"name": "custom/web/amd64/generic", "version": "1"},
        "new": {"name": "custom/web/amd64/generic", "version": "2"},
        "added": [{"name": "z", "version": "1"}], "removed": [], "same": 7,
        "changed": [{"name": "b", "old": "1", "new": "2"}],
    }  # fmt: skip
    schemas.ImageDiff.model_validate(found)
    for words, query in {
        ("web", "1", "2"): "old=web%401&new=web%402",
        ("web", "1"): "old=web%401&new=web",
        ("web", "custom/db"): "old=web&new=custom%2Fdb",
    }.items():
        region.answers[f"GET /image-diff?{query}"] = found
        done = bootplane("image", "diff", *words)
        assert [line.split() for line in done.stdout.splitlines()[1:]] == [
            ["changed", "b", "1", "2"], ["added", "z", "-", "1"],
        ]  # fmt: skip
        assert "1 -> 2: 1 added, 0 removed, 1 changed, 7 the same" in done.stderr
    assert json.loads(bootplane("image", "diff", "web", "1", "2", "--json").stdout) == found


def test_a_delete_names_what_went(bootplane, region) -> None:
    gone = {
        "items": [{"name": "custom/web/arm64/generic", "arch": "arm64", "versions": ["1"], "size": 5}],
        "next": None,
    }
    region.answers["DELETE /images/custom/web?arch=arm64"] = gone
    done = bootplane("image", "delete", "custom/web", "--arch", "arm64")
    assert done.exit_code == 0 and "custom/web/arm64/generic is deleted" in done.stdout


def test_uploads_under_way_are_a_table_and_one_can_be_cancelled(bootplane, region, tgz: Path) -> None:
    moving = told(tgz, "receiving", "receiving", 100, rate=1 << 20, eta_s=0.2)
    failed = told(tgz, "failed", "waiting", 0, id="cd", error="sha256 differs")
    region.answers["GET /uploads"] = {
        "items": [moving, told(tgz, "receiving", "waiting", 7, id="ef"), failed],
        "next": None,
    }
    done = bootplane("image", "uploads")
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("ab", "custom/web/amd64/generic", "receiving"),
        ("ef", "custom/web/amd64/generic", "waiting"),
        ("cd", "custom/web/amd64/generic", "failed"),
    ]
    assert "1.0 MiB/s" in done.stdout and done.stderr == "sha256 differs\n"
    region.answers["DELETE /uploads/ef"] = told(tgz, "receiving", "waiting", 7, id="ef")
    assert "is forgotten" in bootplane("image", "uploads", "--cancel", "ef").stdout
    region.answers["GET /uploads"] = {"items": [], "next": None}
    assert bootplane("image", "uploads").stderr == "No upload is under way.\n"
