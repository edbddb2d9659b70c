"""`source publish`: the reference client and bootplane itself read what one region hands to another."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from bootplane.control import datadir, placing, source_publish
from bootplane.control.app import Region
from bootplane.control.cli.main import app
from bootplane.control.domain.images import BootResource, ResourceFile
from bootplane.control.errors import StartError
from bootplane.control.holdings import holdings
from bootplane.control.mirror_publish import PublishProduct, image
from bootplane.control.placing import How, PlaceError
from bootplane.control.simplestreams.signer import PublishError, Signer
from bootplane.control.source_publish import (
    KEY_FILE,
    KEYRING,
    LOCK,
    STATE,
    Outcome,
    publish_region,
    signer_for,
)
from bootplane.control.storage.blobs import BlobRecord
from bootplane.control.storage.models import SetRow
from bootplane.core.digest import sha256_hex
from tests.fakes.cuts import EVERY, Cut, cut_at
from tests.fakes.filesystems import mounted, or_skip
from tests.fakes.filled import fill, filled
from tests.fakes.mirror import make_file, serve
from tests.fakes.regions import running, synced

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> Iterator[Path]:
    """The data directory of a region that runs and has everything the small source offers."""
    with filled(tmp_path_factory.mktemp("region"), signer) as (region, _):
        yield region.settings.data


def publish(data: Path, folder: Path, signer: Signer, **options: Any) -> Outcome:
    with holdings(data) as held:
        return publish_region(held, folder, signer, **options)


def held_files(client: TestClient) -> dict[str, tuple[str, dict[str, str]]]:
    """Image -> its version and its files' digests."""
    found = {}
    for item in client.get("/api/v1/images?limit=500").json()["items"]:
        shown = client.get(f"/api/v1/images/{item['name']}").json()
        found[item["name"]] = (shown["version"], {file["name"]: file["sha256"] for file in shown["files"]})
    return found


def tree(folder: Path) -> dict[str, bytes]:
    """Path -> content of what readers can ask for."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (STATE, LOCK)
    }


@contextmanager
def as_file(folder: Path) -> Iterator[str]:
    yield folder.as_uri() + "/"


@contextmanager
def as_http(folder: Path) -> Iterator[str]:
    with serve(folder) as server:
        yield server.url


@pytest.mark.parametrize("way", [as_file, as_http])
def test_a_second_region_takes_all_of_the_first_from_its_mirror(way: Any, tmp_path: Path, signer: Signer) -> None:
    folder = tmp_path / "handed over"
    with filled(tmp_path / "a", signer) as (region, client):
        expected = held_files(client)
        names = dict(region.publisher.current.contents.names)
        with signer_for(region.settings.data, None) as own:
            publish(region.settings.data, folder, own)
    shutil.rmtree(tmp_path / "a")  # an air gap
    with way(folder) as url, running(tmp_path / "b") as (region, client):
        fill(region, client, url, (folder / KEYRING).read_bytes())
        assert held_files(client) == expected
        assert dict(region.publisher.current.contents.names) == names  # boot loaders' own files among them
        kinds = {file["ftype"] for i in expected for file in client.get(f"/api/v1/images/{i}").json()["files"]}
        assert {"boot-kernel", "boot-initrd", "squashfs", "manifest", "root-tgz"} <= kinds
        assert client.get("/api/v1/images/ubuntu/noble/amd64/ga-24.04?packages=true").json()["packages"]


def stream_client(program: str) -> str:
    beside = Path(sys.executable).with_name(program)
    found = str(beside) if beside.exists() else shutil.which(program)
    if found is None:
        assert "CI" not in os.environ, f"{program} is missing, and CI must have it"
        pytest.skip(f"{program} is not on this machine")
    return found


def reference(program: str, *words: str) -> str:
    """What a command of python-simplestreams prints."""
    done = subprocess.run(
        [stream_client(program), *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_reference_client_mirrors_it_with_every_digest(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with signer_for(data, None) as signer:
        done = publish(data, folder, signer)
    keyring = str(folder / KEYRING)
    with serve(folder) as server:
        copy = tmp_path / "copy"
        reference("sstream-mirror", f"--keyring={keyring}", server.url, str(copy), "--max=1")
    items = [path for path in copy.rglob("*") if path.is_file()]
    items = [path for path in items if path.relative_to(copy).parts[0] not in ("streams", ".data")]
    assert len(items) == done.files
    for path in items:
        assert sha256_hex(path.read_bytes()) == sha256_hex((folder / path.relative_to(copy)).read_bytes())


def test_the_reference_client_finds_products_by_their_tags(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with signer_for(data, None) as signer:
        publish(data, folder, signer)
    query = [f"--keyring={folder / KEYRING}", "--json", f"file://{folder}/streams/v1/index.sjson"]
    found = json.loads(reference("sstream-query", *query, "release=noble", "arch=amd64", "ftype=squashfs"))
    assert {each["product_name"] for each in found} == {
        "com.ubuntu.maas.stable:v3:boot:24.04:amd64:ga-24.04",
        "com.ubuntu.maas.stable:v3:boot:24.04:amd64:hwe-24.04",
    }
    assert {each["os"] for each in json.loads(reference("sstream-query", *query, "bootloader-type=uefi"))} == {
        "grub-efi-signed",
        "grub-efi",
    }


def test_the_reference_client_refuses_another_key(data: Path, tmp_path: Path, signer: Signer) -> None:
    with signer_for(data, None) as own:
        publish(data, tmp_path / "out", own)
    keyring = tmp_path / "other.gpg"
    keyring.write_bytes(signer.public())
    done = subprocess.run(
        [stream_client("sstream-query"), f"--keyring={keyring}", f"{tmp_path}/out/streams/v1/index.sjson"],
        capture_output=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode != 0


def test_the_key_is_made_once_and_kept_for_its_owner_alone(data: Path, tmp_path: Path) -> None:
    prints = set()
    for _ in range(2):
        with signer_for(data, None) as signer:
            prints.add(signer.fingerprint)
    assert len(prints) == 1
    assert (data / KEY_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_publication_that_is_ended_leaves_no_key_for_long(end: signal.Signals, data: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key")  # it reads there for ever, its folder made
    aside = tmp_path / "t"
    aside.mkdir()
    argv = [sys.executable, "-m", "bootplane", "source", "publish", str(tmp_path / "out"), "--data", str(data)]
    argv += ["--key", str(tmp_path / "key")]
    tick, writer = threading.Event(), -1
    with subprocess.Popen(
        argv, cwd=ROOT, env={**os.environ, "TMPDIR": str(aside)}, stderr=subprocess.DEVNULL
    ) as process:
        for _ in range(6000):
            with suppress(OSError):  # ENXIO until it reads
                writer = os.open(tmp_path / "key", os.O_WRONLY | os.O_NONBLOCK)
                break
            tick.wait(0.01)
        process.send_signal(end)
        process.wait(60)
    os.close(writer)
    left = list(aside.iterdir())
    if end is signal.SIGTERM:
        assert left == []
        return
    assert [path.stat().st_mode & 0o777 for path in left] == [0o700]
    with datadir.private_folder(aside, "bootplane-key-") as folder:
        assert list(aside.iterdir()) == [folder]
    assert list(aside.iterdir()) == []


def test_other_users_servers_can_read_all_of_it_whatever_the_umask(data: Path, tmp_path: Path, signer: Signer) -> None:
    before = os.umask(0o077)
    try:
        publish(data, tmp_path / "deep" / "out", signer, how=How.COPY)
    finally:
        os.umask(before)
    paths = [tmp_path / "deep", *(tmp_path / "deep").rglob("*")]
    closed = {path.name for path in paths if path.stat().st_mode & 0o444 != 0o444}
    assert closed == {STATE, LOCK}
    assert all(path.stat().st_mode & 0o111 == 0o111 for path in paths if path.is_dir())


def test_a_given_key_signs(data: Path, tmp_path: Path, signer: Signer) -> None:
    (data / KEY_FILE).unlink(missing_ok=True)
    (tmp_path / "key").write_text(signer.secret())
    with signer_for(data, tmp_path / "key") as given:
        assert publish(data, tmp_path / "out", given).fingerprint == signer.fingerprint
    assert not (data / KEY_FILE).exists()


@pytest.mark.parametrize("content", [b"", b"no key", None])
def test_what_is_no_secret_key_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes | None, signer: Signer
) -> None:
    (tmp_path / "key").write_bytes(signer.public() if content is None else content)
    refused = pytest.raises(PublishError, match=r"/key: expected (a|one) secret OpenPGP key, got")
    with refused, signer_for(tmp_path, tmp_path / "key"):
        pass


@pytest.mark.parametrize("how", [How.LINK, How.COPY, How.SYMLINK])
def test_each_way_lays_the_same_bytes_out(how: How, data: Path, tmp_path: Path, signer: Signer) -> None:
    done = publish(data, tmp_path / "out", signer, how=how)
    index = json.loads((tmp_path / "out/streams/v1/index.json").read_text())
    assert len(index["index"]) == 3 and done.how == how
    for content_id in index["index"]:
        listed = json.loads((tmp_path / "out" / index["index"][content_id]["path"]).read_text())
        assert listed["content_id"] == content_id
        for product in listed["products"].values():
            for version in product["versions"].values():
                for item in version["items"].values():
                    content = (tmp_path / "out" / item["path"]).read_bytes()
                    assert (len(content), sha256_hex(content)) == (item["size"], item["sha256"])
    file = tmp_path / "out/noble/amd64/20250709/squashfs"
    assert file.is_symlink() == (how is How.SYMLINK)
    assert (file.lstat().st_nlink > 1) == (how is How.LINK)
    again = publish(data, tmp_path / "out", signer, how=how)
    assert (again.copied_bytes, again.removed, again.stale) == (0, 0, 0)


def spoil(path: Path, content: bytes = b"rotten") -> None:
    """Other bytes at the begin of *path*, as a disk does it: length and name stay."""
    with path.open("r+b") as file:
        file.write(content)


@pytest.mark.parametrize("how", [How.LINK, How.SYMLINK, How.COPY])
def test_a_damaged_file_is_published_in_no_way_and_the_index_stays(how: How, tmp_path: Path, signer: Signer) -> None:
    with filled(tmp_path / "region", signer):
        data = tmp_path / "region" / "data"
    publish(data, tmp_path / "out", signer, how=how, patterns=["centos/*"])
    before = tree(tmp_path / "out")
    store = data / "image-storage"
    inner = {sha256_hex(content) for content in before.values()}  # a link to one of these would show the damage
    others = [path for path in store.iterdir() if path.is_file() and path.name not in inner]
    spoil(max(others, key=lambda path: path.stat().st_size))
    with pytest.raises(PlaceError, match=r"expected the content .* it is damaged"):
        publish(data, tmp_path / "out", signer, how=how)
    after = tree(tmp_path / "out")
    assert {path: after[path] for path in before} == before
    assert not [path for path in after if path.endswith(".part")]


def test_a_copy_that_has_rotted_since_is_replaced_when_it_is_checked(
    data: Path, tmp_path: Path, signer: Signer
) -> None:
    publish(data, tmp_path / "out", signer, how=How.COPY)
    path = tmp_path / "out/noble/amd64/20250709/squashfs"
    content, times = path.read_bytes(), path.stat()
    spoil(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    publish(data, tmp_path / "out", signer, how=How.COPY)
    assert path.read_bytes() != content  # only its length and time were looked at
    done = publish(data, tmp_path / "out", signer, how=How.COPY, check=True)
    assert path.read_bytes() == content and done.copied_bytes == len(content)


@pytest.mark.parametrize("kind", ["stale", "files", "documents"])
def test_a_folder_that_has_been_elsewhere_removes_nothing_outside(
    kind: str, data: Path, tmp_path: Path, signer: Signer
) -> None:
    folder, victim = tmp_path / "out", tmp_path / "victim"
    publish(data, folder, signer)
    victim.write_text("precious")
    state = json.loads((folder / STATE).read_text())
    if kind == "documents":
        state[kind].append("../victim")
    else:
        state[kind]["../victim"] = 0 if kind == "stale" else ["0" * 64, 8, 0]
    (folder / STATE).write_text(json.dumps(state))
    with pytest.raises(PublishError, match=r"path '\.\./victim': expected a plain relative path, got a '\.\.'"):
        publish(data, folder, signer, grace_s=0)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", [LOCK, f".{KEYRING}.part", f".{STATE}.part", "streams/v1/.index.json.part"])
def test_no_link_in_the_folder_is_written_through(name: str, data: Path, tmp_path: Path, signer: Signer) -> None:
    folder, victim = tmp_path / "out", tmp_path / "victim"
    publish(data, folder, signer)
    victim.write_text("precious")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(victim)
    with suppress(StartError):  # the lock's
        publish(data, folder, signer, patterns=["ubuntu/*"])
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["noble/amd64", "streams"])
def test_a_folder_in_the_folder_that_has_become_a_link_is_refused(
    name: str, data: Path, tmp_path: Path, signer: Signer
) -> None:
    folder, outside = tmp_path / "out", tmp_path / "outside"
    publish(data, folder, signer)
    shutil.rmtree(folder / name)
    outside.mkdir()
    (folder / name).symlink_to(outside)
    with pytest.raises(PlaceError, match=rf"out/{name}: expected a folder, got a link to .*outside"):
        publish(data, folder, signer)
    assert list(outside.iterdir()) == []


def test_lists_of_a_first_publication_that_was_killed_go_with_a_later_one(
    data: Path, tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    write = source_publish.write_lists

    def killed(*words: Any, **options: Any) -> None:
        write(*words, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(source_publish, "write_lists", killed)
        publish(data, folder, signer)
    assert len(list(folder.glob("streams/v1/*centos*"))) == 3
    publish(data, folder, signer, patterns=["ubuntu/*"], grace_s=0)
    assert not list(folder.glob("streams/v1/*centos*"))


def test_a_selection_of_images_takes_the_boot_loaders_along(data: Path, tmp_path: Path, signer: Signer) -> None:
    done = publish(data, tmp_path / "out", signer, patterns=["ubuntu/noble/amd64/ga-*"])
    assert {name.rpartition(" ")[0] for name in done.names} == {
        "com.ubuntu.maas.stable:v3:boot:24.04:amd64:ga-24.04",
        "com.ubuntu.maas.stable:1:grub-efi-signed:uefi:amd64",
        "com.ubuntu.maas.stable:1:grub-efi:uefi:arm64",
        "com.ubuntu.maas.stable:1:pxelinux:pxe:amd64",
        "com.ubuntu.maas.stable:1:pxelinux:pxe:i386",
    }
    with pytest.raises(PublishError, match=r"expected a complete image that matches plan9/\* to publish, got none"):
        publish(data, tmp_path / "other", signer, patterns=["plan9/*"])
    with pytest.raises(PublishError, match=r"--image plan9/\*: expected the name of a complete image"):
        publish(data, tmp_path / "other", signer, patterns=["centos/*", "plan9/*"])


def test_what_is_published_no_more_stays_for_its_grace_and_then_goes(
    data: Path, tmp_path: Path, signer: Signer
) -> None:
    folder, noon = tmp_path / "out", time.time()
    publish(data, folder, signer, now=lambda: noon)
    path = folder / "centos/8/amd64/20211104_01/root-tgz"
    content = path.read_bytes()
    done = publish(data, folder, signer, patterns=["ubuntu/*"], grace_s=60, now=lambda: noon + 1)
    assert (done.removed, done.stale) == (0, 4) and path.read_bytes() == content  # the file and its list in 3 forms
    assert "centos" not in (folder / "streams/v1/index.json").read_text()
    publish(data, folder, signer, patterns=["ubuntu/*"], grace_s=60, now=lambda: noon + 30)
    done = publish(data, folder, signer, patterns=["ubuntu/*"], grace_s=60, now=lambda: noon + 62)
    assert (done.removed, done.stale) == (4, 0)
    assert not (folder / "centos").exists() and not list(folder.glob("streams/v1/*centos*"))
    publish(data, folder, signer, now=lambda: noon + 63)
    assert path.read_bytes() == content


def test_time_that_goes_back_does_not_take_the_index_back(data: Path, tmp_path: Path, signer: Signer) -> None:
    noon = 1_795_000_000.0
    first = publish(data, tmp_path / "out", signer, now=lambda: noon)
    assert publish(data, tmp_path / "out", signer, now=lambda: noon - 3600).updated == first.updated


@pytest.mark.parametrize("place", ["", ".aside", "mirror"])
@pytest.mark.parametrize("command", [["source", "publish"], ["export-tree"]])
def test_nothing_is_laid_out_in_the_store(command: list[str], place: str, data: Path) -> None:
    folder = data / "image-storage" / place
    before = sorted((data / "image-storage").rglob("*"))
    done = CliRunner().invoke(app, [*command, str(folder), "--data", str(data)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "expected a folder outside the store, got one in" in done.stderr and done.stderr.count("\n") == 1
    assert sorted((data / "image-storage").rglob("*")) == before


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(data: Path, tmp_path: Path, signer: Signer) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(PublishError, match=r"expected an empty folder, .* got one with 'mine'"):
        publish(data, tmp_path / "out", signer)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_other_bytes_under_a_published_path_get_a_path_of_their_own(data: Path, tmp_path: Path, signer: Signer) -> None:
    folder = tmp_path / "out"
    publish(data, folder, signer, how=How.COPY)
    state = json.loads((folder / STATE).read_text())
    path = "noble/amd64/20250709/squashfs"
    state["files"][path][0] = "0" * 64  # as if another content had been published there before
    (folder / STATE).write_text(json.dumps(state))
    before = (folder / path).stat().st_mtime_ns
    publish(data, folder, signer, how=How.COPY)
    listed = json.loads((folder / "streams/v1/com.ubuntu.maas.stable.v3.download.json").read_text())
    product = listed["products"]["com.ubuntu.maas.stable:v3:boot:24.04:amd64:ga-24.04"]
    item = product["versions"]["20250709"]["items"]["squashfs"]
    assert item["path"] == f"content/{item['sha256'][:16]}/squashfs"
    assert (folder / path).stat().st_mtime_ns == before


def test_the_command_says_what_it_did(data: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["source", "publish", str(tmp_path / "m"), "--data", str(data)])
    assert done.exit_code == 0, done.output
    assert "Published 9 images (" in done.stdout and "signed by" in done.stdout and KEYRING in done.stderr
    found = json.loads(
        CliRunner().invoke(app, ["source", "publish", str(tmp_path / "m"), "--data", str(data), "--json"]).stdout
    )
    assert found["sets"] == 9 and found["copied_bytes"] == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--how", "magic"], "--how magic: expected one of reflink, link, symlink, copy."),
        (["--key", "/nowhere"], "/nowhere: expected a secret OpenPGP key, got: No such file or directory."),
        (["--image", "plan9"], "expected a complete image that matches plan9 to publish, got none."),
    ],
)
def test_a_refusal_is_one_sentence(words: list[str], sentence: str, data: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["source", "publish", str(tmp_path / "m"), "--data", str(data), *words])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.endswith(f"{sentence}\n") and done.stderr.count("\n") == 1


def test_a_directory_without_a_region_is_said_plainly(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["source", "publish", str(tmp_path / "m"), "--data", str(tmp_path / "none")])
    assert done.exit_code == 1
    assert "expected the data directory of a region, got one without region.sqlite" in done.stderr


def test_a_reader_finds_a_whole_mirror_at_any_moment(data: Path, tmp_path: Path, signer: Signer) -> None:
    folder = tmp_path / "out"
    publish(data, folder, signer)
    stop, seen, wrong = threading.Event(), [], []

    def read() -> None:
        """As a slow client does: the index, its lists, every file they name."""
        while not stop.is_set():
            try:
                index = json.loads((folder / "streams/v1/index.json").read_bytes())
                for entry in index["index"].values():
                    listed = json.loads((folder / entry["path"]).read_bytes())
                    for product in listed["products"].values():
                        for version in product["versions"].values():
                            for item in version["items"].values():
                                if sha256_hex((folder / item["path"]).read_bytes()) != item["sha256"]:
                                    wrong.append(item["path"])
                seen.append(len(index["index"]))
            except (OSError, ValueError) as error:
                wrong.append(repr(error))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(12):
            publish(data, folder, signer, patterns=["ubuntu/*"] if turn % 2 else [], how=(How.COPY, How.LINK)[turn % 2])
    finally:
        stop.set()
        reader.join()
    assert wrong == [] and set(seen) == {2, 3}


def test_a_copy_that_does_not_fit_is_refused_before_it_begins(
    data: Path, tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.statvfs_result((*(found := os.statvfs(tmp_path))[:4], 0, *found[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _path: full)
    with pytest.raises(PlaceError, match=r"out: expected \d+ bytes free for copies, got 0"):
        publish(data, tmp_path / "out", signer, how=How.COPY)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {STATE, LOCK}


def test_a_set_that_goes_meanwhile_is_left_out(tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled(tmp_path / "a", signer) as (region, _):
        place = placing.place
        calls: list[str] = []

        def go_first(source: Path, *rest: Any) -> None:
            if not calls:  # the region removes what it no longer needs, in the middle
                gone = [s for s in region.images.sets() if s.resource_set.resource.os == "centos"]
                region.images.remove(each.id for each in gone)
                digests = [file.sha256 for each in gone for file in each.resource_set.files]
                region.blobs.lose(digests)
                for sha256 in digests:
                    region.store.path_of(sha256).unlink()
            calls.append(source.name)
            place(source, *rest)

        monkeypatch.setattr(placing, "place", go_first)
        done = publish(region.settings.data, tmp_path / "out", signer)
    assert done.sets == 8 and not [name for name in done.names if "centos" in name]


def test_no_name_needs_more_than_a_disk_formatted_as_fat_can_hold(data: Path, tmp_path: Path, signer: Signer) -> None:
    publish(data, tmp_path / "out", signer)
    names = [path.name for path in (tmp_path / "out").rglob("*")]
    assert [name for name in names if set(name) & set('<>:"|?*\\') or name.endswith((".", " "))] == []


def test_what_a_killed_publication_left_goes_with_a_later_one(
    data: Path, tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    publish(data, folder, signer, patterns=["ubuntu/*"])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(source_publish, "_announce", killed)
        publish(data, folder, signer)
    (folder / "centos" / ".root-tgz.part").write_text("half")
    assert (folder / "centos/8/amd64/20211104_01/root-tgz").exists()
    publish(data, folder, signer, patterns=["ubuntu/*"], grace_s=0)
    assert not (folder / "centos").exists()


def test_a_second_publication_at_the_same_time_is_refused(data: Path, tmp_path: Path, signer: Signer) -> None:
    publish(data, tmp_path / "out", signer)
    lock = datadir.Lock(tmp_path / "out" / LOCK, "publication")
    with pytest.raises(StartError, match="expected to be the only publication here"):
        publish(data, tmp_path / "out", signer)
    lock.release()
    publish(data, tmp_path / "out", signer)


def test_a_custom_image_goes_along(tmp_path: Path, signer: Signer) -> None:
    content = b"a root archive of our own" * 1000
    with filled(tmp_path / "a", signer) as (region, _):
        upload(region, "web", content)
        publish(region.settings.data, tmp_path / "out", signer)
    with running(tmp_path / "b") as (region, client):
        keyring = base64.b64encode(signer.public()).decode()
        source = {"url": (tmp_path / "out").as_uri() + "/", "keyring": keyring}
        assert client.post("/api/v1/sources", json=source).status_code == 201
        body = {"os": "upstream", "release": "web", "arches": ["amd64"]}
        assert client.post("/api/v1/selections", json=body).status_code == 201
        done = synced(region, client)
        assert done["state"] == "complete", done["error"]
        names = region.publisher.current.contents.names
        assert names["upstream/amd64/generic/web/custom/root-tgz"] == sha256_hex(content)


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    """Product id -> what the mirror in *folder* says of it."""
    index = json.loads((folder / "streams/v1/index.json").read_text())["index"]
    found: dict[str, dict[str, Any]] = {}
    for content_id, entry in index.items():
        document = json.loads((folder / entry["path"]).read_text())
        assert document["content_id"] == content_id
        found |= document["products"]
    return found


def upstream_of_odd_words(inputs: Path) -> list[PublishProduct]:
    """A product whose id, list and tags follow no scheme of ours, and one of a list whose name is another's on FAT."""
    files = {name: make_file(inputs, f"odd-{name}", 3000) for name in ("kernel", "initrd", "squashfs")}
    odd = image(serial="20260101.odd", release="plucky", version="25.04", title="Plucky Puffin", **files)
    kernel = replace(odd.items[0], tags={"kpackage": "linux-generic", "src_version": "6.14.0", "md5": "0" * 32})
    words = {**odd.tags, "support_eol": "2026-01-15", "subarches": "generic,hwe-p,ga-24.04", "rank": 3, "share": 0.5}
    odd = replace(odd, content_id="org.example:Odd", id="org.example/odd?1", tags=words, items=(kernel, *odd.items[1:]))
    files = {name: make_file(inputs, f"even-{name}", 3000) for name in ("kernel", "initrd", "squashfs")}
    even = image(serial="1", release="questing", version="25.10", title="25.10", **files)
    return [odd, replace(even, content_id="org.example.odd")]


def test_a_mirror_tells_what_its_upstream_told(tmp_path: Path, signer: Signer) -> None:
    selections = [{"os": "ubuntu", "release": name, "arches": ["amd64"]} for name in ("noble", "plucky", "questing")]
    with filled(tmp_path / "a", signer, more=upstream_of_odd_words, selections=selections) as (region, _):
        publish(region.settings.data, tmp_path / "out", signer)
    upstream, ours = listed(tmp_path / "a" / "source"), listed(tmp_path / "out")
    assert "org.example/odd?1" in ours and ours.keys() < upstream.keys()
    del upstream["org.example/odd?1"]["versions"]["20260101.odd"]["items"]["boot-kernel"]["md5"]  # nobody checks it
    assert {product_id: upstream[product_id] for product_id in ours} == ours
    assert len({path.name.casefold() for path in (tmp_path / "out/streams/v1").iterdir()}) == 3 * 5
    with running(tmp_path / "b") as (region, client):  # and once more along the chain
        fill(region, client, (tmp_path / "out").as_uri() + "/", signer.public(), selections)
        publish(region.settings.data, tmp_path / "further", signer)
    assert listed(tmp_path / "further") == ours


def test_what_came_before_a_source_told_anything_is_published_by_the_scheme_and_mended_by_a_sync(
    tmp_path: Path, signer: Signer
) -> None:
    """As with an older version's database, or images that came from a MAAS."""
    with filled(tmp_path / "a", signer) as (region, client):
        with region.database.begin() as session:
            session.execute(sa.update(SetRow).values(told=None))
        publish(region.settings.data, tmp_path / "before", signer)
        assert listed(tmp_path / "before").keys() <= listed(tmp_path / "a" / "source").keys()
        assert synced(region, client)["state"] == "complete"
        publish(region.settings.data, tmp_path / "after", signer)
    upstream, ours = listed(tmp_path / "a" / "source"), listed(tmp_path / "after")
    assert {product_id: upstream[product_id] for product_id in ours} == ours


def upload(region: Region, name: str, content: bytes, title: str = "Ours") -> None:
    with region.store.begin(sha256_hex(content), len(content)) as ingest:
        ingest.write(content)
        made = ingest.commit()
    region.blobs.record([BlobRecord(made.sha256, made.size, made.root)])
    resource = BootResource("custom", "amd64", name, "generic", "uploaded", title=title, rtype="uploaded")
    region.images.add_uploaded(resource, [ResourceFile("root-tgz", "root-tgz", made.sha256, made.size)], "20261122")


def test_an_upload_goes_before_one_of_another_region_under_the_same_name(tmp_path: Path, signer: Signer) -> None:
    with filled(tmp_path / "a", signer) as (region, _):
        upload(region, "web", b"of the first region" * 999, "First")
        publish(region.settings.data, tmp_path / "first", signer)
    with running(tmp_path / "b") as (region, client):
        selections = [{"os": "upstream", "release": "web", "arches": ["amd64"]}]
        fill(region, client, (tmp_path / "first").as_uri() + "/", signer.public(), selections)
        upload(region, "web", b"of the second region" * 999, "Second")
        done = publish(region.settings.data, tmp_path / "second", signer)
    assert done.left_out == (
        "upstream/web/amd64/generic/custom is left out: custom/web/amd64/generic is called "
        "upstream/web/amd64/generic/custom for readers, too",
    )
    (found,) = [each for each in listed(tmp_path / "second").values() if each["os"] == "upstream"]
    (version,) = found["versions"].values()
    assert version["items"]["root-tgz"]["sha256"] == sha256_hex(b"of the second region" * 999)


def test_two_products_of_one_scheme_have_two_ids(tmp_path: Path, signer: Signer) -> None:
    """Uploads whose titles begin with one number."""
    with filled(tmp_path / "a", signer) as (region, _):
        for name in ("one", "two"):
            files = []
            for ftype in ("boot-kernel", "boot-initrd", "squashfs"):
                content = f"{name} {ftype}".encode() * 99
                with region.store.begin(sha256_hex(content), len(content)) as ingest:
                    ingest.write(content)
                    made = ingest.commit()
                region.blobs.record([BlobRecord(made.sha256, made.size, made.root)])
                files.append(ResourceFile(ftype, ftype, made.sha256, made.size))
            resource = BootResource(
                "ubuntu", "amd64", name, "generic", "uploaded", title=f"24.04 {name}", rtype="uploaded"
            )
            region.images.add_uploaded(resource, files, "20261122")
        publish(region.settings.data, tmp_path / "out", signer)
    assert {each["release"] for each in listed(tmp_path / "out").values() if each["label"] == "custom"} == {
        "one",
        "two",
    }


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_the_cheapest_way_is_taken_by_what_the_file_system_can(kind: str, tmp_path: Path, signer: Signer) -> None:
    (tmp_path / "disk").mkdir()
    with or_skip(mounted(kind, tmp_path / "disk")) as disk:
        with filled(disk / "region", signer):
            pass
        done = publish(disk / "region" / "data", disk / "out", signer)
        assert (done.how, done.copied_bytes) == ("link" if kind == "ext4" else "reflink", 0)
        assert publish(disk / "region" / "data", disk / "out", signer).removed == 0
        over_there = publish(disk / "region" / "data", tmp_path / "out", signer)  # another file system
        assert over_there.how == "copy" and over_there.copied_bytes >= over_there.bytes


def is_whole(folder: Path) -> None:
    """What its index leads to is there and right, in both forms."""
    for form in ("json", "sjson"):
        text = (folder / f"streams/v1/index.{form}").read_text()
        for path in re.findall(r'"path": "([^"]+)"', text):
            listed = (folder / path).read_text()
            items = re.findall(r'"path": "([^"]+)",\s+"sha256": "([^"]+)"', listed)
            assert items
            assert {p: sha256_hex((folder / p).read_bytes()) for p, _ in items} == dict(items)


@pytest.mark.parametrize("how", [How.LINK, How.COPY])
def test_killed_anywhere_it_is_the_old_mirror_or_the_new_one_and_the_next_publication_ends_it(
    how: How, data: Path, tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: set[str] = set()
    number = 1
    while True:
        folder = tmp_path / str(number)
        publish(data, folder, signer, how=how, patterns=["centos/*"])
        old = json.loads((folder / "streams/v1/index.json").read_text())["index"].keys()
        try:
            with cut_at(number, monkeypatch):
                publish(data, folder, signer, how=how, patterns=["ubuntu/*"], grace_s=0)
            break
        except Cut:
            pass
        is_whole(folder)
        new = json.loads((folder / "streams/v1/index.json").read_text())["index"].keys()
        assert new == old or not any("centos" in each for each in new)
        publish(data, folder, signer, how=how, patterns=["ubuntu/*"], grace_s=0)
        is_whole(folder)
        found = set(tree(folder))
        expected = expected or found
        assert found == expected, "nothing is left of the one that was killed"
        shutil.rmtree(folder)
        number += EVERY
    assert number > 40
