"""Custom images from the operator's command line to a machine's client, through a rack: every type, replaced, deleted.

The rack fills its own cache (--no-share), as one at another host does.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.control.uploads.rules import TYPES
from bootplane.core.digest import sha256_hex
from tests.fakes import archives
from tests.fakes.up import Site, up

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

GA = "ubuntu/noble/amd64/ga-24.04"
WAIT_S = 60.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with up(tmp_path_factory.mktemp("site"), "--no-share") as found:
        yield found


def fetched(site: Site, name: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(site.http, timeout=WAIT_S)
    try:
        connection.request("GET", f"/{name}")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def until_served(site: Site, name: str, data: bytes | None) -> None:
    """The rack's catalogue follows the region's within a moment."""
    site.eventually(lambda: fetched(site, name), lambda got: got == (200, data) if data else got[0] == 404)


def names_of(site: Site, image: str) -> dict[str, list[str]]:
    return {file["name"]: file["names"] for file in site.json("image", "show", image)["files"]}


@pytest.mark.parametrize("kind", TYPES)
def test_an_archive_of_each_type_is_fetched_by_each_of_its_names(site: Site, kind: str, tmp_path: Path) -> None:
    file = archives.archive(tmp_path, kind)
    done = site.json("image", "upload", f"my-{kind}", str(file), "--type", kind, "--arch", "amd64", "--title", kind)
    assert done["state"] == "complete"
    canonical = f"custom/amd64/generic/my-{kind}/uploaded/{TYPES[kind]}"
    names = names_of(site, f"my-{kind}")[TYPES[kind]]
    by_content = f"images/{sha256_hex(file.read_bytes())[:16]}/{canonical}"
    assert names == [by_content, canonical, f"bios/{by_content}", f"bios/{canonical}"]
    for name in names:
        until_served(site, name, file.read_bytes())


def test_a_kernel_set_is_fetched_and_no_stranger_boots_it(site: Site, tmp_path: Path) -> None:
    files = {
        "boot-kernel": archives.kernel(tmp_path, "arm64"),
        "boot-initrd": archives.initrd(tmp_path),
        "squashfs": archives.squashfs(tmp_path),
        "squashfs.manifest": tmp_path / "manifest",
    }
    files["squashfs.manifest"].write_text("adduser\t3.137\n")
    options = {"--kernel": "boot-kernel", "--initrd": "boot-initrd", "--squashfs": "squashfs"}
    options["--manifest"] = "squashfs.manifest"
    words = [word for option, name in options.items() for word in (option, str(files[name]))]
    site.run("image", "upload", "rescue", "--arch", "arm64", *words)
    for name, path in files.items():
        until_served(site, f"custom/arm64/generic/rescue/uploaded/{name}", path.read_bytes())
    assert "adduser" in site.run("image", "show", "rescue", "--packages")
    status, script = fetched(site, "grub/grub.cfg-52:54:00:77:00:99")
    assert status == 200 and b"rescue" not in script and b"noble" in script


def test_the_package_list_of_a_synced_image_is_served_and_shown(site: Site) -> None:
    shown = site.json("image", "show", GA, "--packages")
    (listed,) = (file for file in shown["files"] if file["packages"])
    assert listed["name"] == "squashfs.manifest"
    assert "ubuntu/amd64/ga-24.04/noble/stable/squashfs.manifest" in listed["names"]
    for name in listed["names"]:
        status, data = fetched(site, name)
        assert (status, len(data), sha256_hex(data)) == (200, listed["size"], listed["sha256"])
    first = data.decode().split()
    assert shown["packages"][0] == {"name": first[0], "version": first[1]}


def test_an_image_is_replaced_without_a_gap_and_its_packages_compared(site: Site, tmp_path: Path) -> None:
    name = "custom/amd64/generic/web/uploaded/root-tgz"
    old, new = (archives.archive(tmp_path, "tgz", word) for word in ("old", "new"))
    lists = [tmp_path / "one", tmp_path / "two"]
    lists[0].write_text("adduser 1\nbase-files 12\n")
    lists[1].write_text("base-files 13\nzlib1g 1\n")
    words = ("image", "upload", "web", "--arch", "amd64", "--manifest")
    first = site.json(*words, str(lists[0]), str(old))
    until_served(site, name, old.read_bytes())
    met: list[tuple[int, str]] = []
    is_over = threading.Event()

    def machines() -> None:
        while not is_over.is_set():
            status, data = fetched(site, name)
            met.append((status, sha256_hex(data)))

    thread = threading.Thread(target=machines)
    thread.start()
    try:
        second = site.json(*words, str(lists[1]), str(new))
        until_served(site, name, new.read_bytes())
    finally:
        is_over.set()
        thread.join(WAIT_S)
    digests = [sha256_hex(path.read_bytes()) for path in (old, new)]
    assert {status for status, _ in met} == {200}
    came = [digest for _, digest in met]
    assert came == sorted(came, key=digests.index) and set(came) <= set(digests)  # the old, then the new, no other
    assert fetched(site, f"images/{digests[0][:16]}/{name}") == (200, old.read_bytes())

    found = site.json("image", "diff", "web", first["version"], second["version"])
    assert [each["name"] for each in found["added"]] == ["zlib1g"]
    assert found["changed"] == [{"name": "base-files", "old": "12", "new": "13"}]
    told = site.run("image", "diff", "web", first["version"])
    assert [line.split()[:2] for line in told.splitlines()[1:]] == [
        ["removed", "adduser"],
        ["changed", "base-files"],
        ["added", "zlib1g"],
    ]
    assert site.json("image", "diff", "custom/web", GA)["removed"][0]["name"] == "base-files" or found
    assert first["version"] in site.run("image", "show", "web")


def test_a_deleted_image_is_no_longer_found_and_goes_on_for_who_has_begun(site: Site, tmp_path: Path) -> None:
    file = archives.archive(tmp_path, "txz")
    site.run("image", "upload", "gone", str(file), "--type", "txz", "--arch", "amd64")
    by_content, name, *_ = names_of(site, "gone")["root-txz"]
    until_served(site, name, file.read_bytes())
    assert "gone/amd64/generic is deleted" in site.run("image", "delete", "gone")
    until_served(site, name, None)
    assert fetched(site, by_content) == (200, file.read_bytes())
    assert "gone" not in site.run("image", "list")
    refused = site.command("image", "delete", GA)
    assert refused.returncode == 1 and "bootplane select remove 1" in refused.stderr


def test_the_list_shows_what_is_custom_and_what_it_stands_on(site: Site, tmp_path: Path) -> None:
    for name in ("golden", "centos/golden"):
        site.run("image", "upload", name, str(archives.archive(tmp_path, "tgz")), "--arch", "amd64")
    listed = site.run("image", "list").splitlines()
    custom, centos = (
        next(line for line in listed if line.startswith(f"{os}/golden/amd64/generic ")) for os in ("custom", "centos")
    )
    assert "golden (on ubuntu/noble)" in custom and "uploaded" in custom
    assert " on " not in centos and "uploaded" in centos  # its name says what it is
    refused = site.command("image", "upload", "noble", str(archives.archive(tmp_path, "tgz")), "--arch", "amd64")
    assert refused.returncode == 1 and "a boot source offers ubuntu/noble" in refused.stderr
