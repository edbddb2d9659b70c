"""`export-tree`: every name of the catalogue is a file that other servers give out, and `current` never shows half."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bootplane.control.app import Region
from bootplane.control.cli.main import app
from bootplane.control.export_tree import CURRENT, TREE, Exported, export_tree
from bootplane.control.holdings import holdings
from bootplane.control.mirror_publish import PublishProduct, bootloader, image, pack
from bootplane.control.placing import How, PlaceError
from bootplane.control.simplestreams.signer import Signer
from bootplane.core.digest import sha256_hex
from tests.fakes.cuts import EVERY, Cut, cut_at
from tests.fakes.filled import SELECTIONS, filled
from tests.fakes.mirror import make_file
from tests.fakes.ports import quiet_port
from tests.fakes.regions import running

AMD64 = "ubuntu/amd64/ga-24.04/noble/stable"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> Iterator[Region]:
    power = {"os": "ubuntu", "release": "noble", "arches": ["ppc64el"]}
    with filled(tmp_path_factory.mktemp("site"), signer, more=of_power, selections=[*SELECTIONS, power]) as (region, _):
        yield region


def of_power(inputs: Path) -> list[PublishProduct]:
    """What an open-firmware machine boots."""
    files = {name: make_file(inputs, f"ppc64el-{name}", 9000) for name in ("kernel", "initrd", "squashfs")}
    archive = pack({"bootppc64.bin": make_file(inputs, "bootppc64", 4000)}, inputs / "grub2-ieee1275.tar.xz")
    loader = bootloader(
        os="grub-ieee1275", kind="open-firmware", arch="ppc64el", serial="20231004.0", arches="ppc64el,ppc64",
        archives={"grub2-ieee1275": archive},
    )  # fmt: skip
    return [image(serial="20250709", arch="ppc64el", **files), loader]


def export(site: Region, folder: Path, how: How = How.LINK) -> Exported:
    with holdings(site.settings.data) as held:
        return export_tree(held, folder, how)


def names_of(site: Region) -> dict[str, str]:
    """Wire name -> sha256, as racks have it."""
    return dict(site.publisher.current.contents.names)


def laid_out(folder: Path) -> dict[str, str]:
    """Name -> sha256 of every file below current."""
    root = folder / TREE / CURRENT
    return {
        str((Path(at) / name).relative_to(root)): sha256_hex((Path(at) / name).read_bytes())
        for at, _, names in os.walk(root)
        for name in names
    }


@pytest.mark.parametrize("how", [How.LINK, How.SYMLINK, How.COPY])
def test_it_is_the_catalogue_name_for_name(how: How, site: Region, tmp_path: Path) -> None:
    done = export(site, tmp_path / "out", how)
    names = names_of(site)
    assert laid_out(tmp_path / "out") == names
    assert (done.names, done.files) == (len(names), len(set(names.values())))


@pytest.mark.parametrize(
    "name",
    [
        # what firmware asks MAAS's racks for
        "bootx64.efi", "grubx64.efi", "mmx64.efi", "bootaa64.efi", "grubaa64.efi", "bootppc64.bin",
        "lpxelinux.0", "pxelinux.0", "ldlinux.c32", "libutil.c32", "libcom32.c32",
        "chain.c32", "images/bootx64.efi", "images/bootaa64.efi",
        # MAAS's tree
        "bootloader/uefi/amd64/bootx64.efi", "bootloader/uefi/amd64/grubx64.efi", "bootloader/uefi/arm64/bootaa64.efi",
        "bootloader/open-firmware/ppc64el/bootppc64.bin",
        "bootloader/pxe/i386/lpxelinux.0", "bootloader/pxe/i386/ldlinux.c32", "syslinux/lpxelinux.0",
        "syslinux/ldlinux.c32", "bios/lpxelinux.0", "bios/ldlinux.c32",
        f"{AMD64}/boot-kernel", f"{AMD64}/boot-initrd", f"{AMD64}/squashfs", f"{AMD64}/squashfs.manifest",
        f"bios/{AMD64}/boot-kernel", "ubuntu/arm64/hwe-24.04/noble/stable/boot-kernel",
        "centos/amd64/generic/8/stable/root-tgz",
    ],
)  # fmt: skip
def test_the_links_one_by_one(name: str, site: Region, tmp_path: Path) -> None:
    export(site, tmp_path / "out")
    content = (tmp_path / "out" / TREE / CURRENT / name).read_bytes()
    assert sha256_hex(content) == names_of(site)[name]


def test_files_by_content_stand_under_sixteen_digits(site: Region, tmp_path: Path) -> None:
    export(site, tmp_path / "out")
    sha256 = names_of(site)[f"{AMD64}/squashfs"]
    path = tmp_path / "out" / TREE / CURRENT / "images" / sha256[:16] / AMD64 / "squashfs"
    assert sha256_hex(path.read_bytes()) == sha256


def test_hard_links_take_no_room_and_a_copy_takes_each_file_once(site: Region, tmp_path: Path) -> None:
    linked = export(site, tmp_path / "linked")
    copied = export(site, tmp_path / "copied", How.COPY)
    assert (linked.copied_bytes, copied.copied_bytes) == (0, copied.bytes)
    name = f"{AMD64}/squashfs"
    stored = site.store.path_of(names_of(site)[name])
    assert (tmp_path / "linked" / TREE / CURRENT / name).samefile(stored)
    copy = tmp_path / "copied" / TREE / CURRENT / name
    assert not copy.samefile(stored) and copy.samefile(copy.parents[5] / "bios" / name)


def test_a_second_export_changes_nothing_and_a_new_catalogue_switches(tmp_path: Path, signer: Signer) -> None:
    with filled(tmp_path / "site", signer) as (site, _):
        switches(site, tmp_path)


def switches(site: Region, tmp_path: Path) -> None:
    first = export(site, tmp_path / "out", How.COPY)
    again = export(site, tmp_path / "out", How.COPY)
    assert (again.is_new, again.snapshot) == (False, first.snapshot)
    drop(site, "centos/8/amd64/generic")
    second = export(site, tmp_path / "out", How.COPY)
    assert second.is_new and second.snapshot != first.snapshot
    assert second.copied_bytes == 0  # the earlier snapshot has every file
    tree = tmp_path / "out" / TREE
    assert (tree / CURRENT).readlink() == Path(second.snapshot)
    assert laid_out(tmp_path / "out") == names_of(site)
    assert (tree / first.snapshot).is_dir()  # for transfers under way
    drop(site, "ubuntu/noble/arm64/ga-24.04")
    third = export(site, tmp_path / "out", How.COPY)
    assert sorted(p.name for p in tree.glob("snapshot-*")) == sorted({second.snapshot, third.snapshot})


def test_who_has_opened_current_reads_one_whole_snapshot(tmp_path: Path, signer: Signer) -> None:
    with filled(tmp_path / "site", signer) as (site, _):
        export(site, tmp_path / "out")
        names = names_of(site)
        root = os.open(tmp_path / "out" / TREE / CURRENT, os.O_RDONLY | os.O_DIRECTORY)
        try:
            drop(site, "centos/8/amd64/generic")
            export(site, tmp_path / "out")
            for name, sha256 in names.items():
                with open(os.open(name, os.O_RDONLY, dir_fd=root), "rb") as file:
                    assert sha256_hex(file.read()) == sha256
        finally:
            os.close(root)


def drop(site: Region, name: str) -> None:
    site.images.remove(each.id for each in site.images.sets() if each.resource_set.resource.name == name)
    site.publish()


def test_another_way_makes_another_snapshot(site: Region, tmp_path: Path) -> None:
    linked = export(site, tmp_path / "out", How.LINK)
    copied = export(site, tmp_path / "out", How.COPY)
    assert copied.is_new and copied.snapshot != linked.snapshot
    assert not (tmp_path / "out" / TREE / CURRENT / AMD64 / "squashfs").samefile(
        site.store.path_of(names_of(site)[f"{AMD64}/squashfs"])
    )


@pytest.mark.parametrize("how", [How.LINK, How.SYMLINK, How.COPY])
@pytest.mark.parametrize("harm", ["rot", "cut"])
def test_a_damaged_file_gets_no_name_and_current_stays(how: How, harm: str, tmp_path: Path, signer: Signer) -> None:
    with filled(tmp_path / "site", signer) as (site, _):
        export(site, tmp_path / "out", how)
        before = (tmp_path / "out" / TREE / CURRENT).readlink()
        drop(site, "centos/8/amd64/generic")
        path = site.store.path_of(names_of(site)[f"{AMD64}/squashfs"])
        path.write_bytes(b"x" * path.stat().st_size if harm == "rot" else path.read_bytes()[:-1])
        if how is How.COPY:  # the last snapshot has it right: it is taken from there
            assert laid_out(tmp_path / "out") | names_of(site) == laid_out(tmp_path / "out")
            export(site, tmp_path / "out", how)
            assert laid_out(tmp_path / "out") == names_of(site)
            shutil.rmtree(tmp_path / "out")
            (tmp_path / "out").mkdir()
        with pytest.raises(PlaceError, match=r"expected the content .* it is damaged"):
            export(site, tmp_path / "out", how)
        if how is not How.COPY:
            assert (tmp_path / "out" / TREE / CURRENT).readlink() == before
        assert not list((tmp_path / "out" / TREE).glob(".building-*"))


def test_a_link_to_what_was_damaged_gives_way_to_the_file_that_came_again(tmp_path: Path, signer: Signer) -> None:
    with filled(tmp_path / "site", signer) as (site, _):
        export(site, tmp_path / "out")
        name = f"{AMD64}/squashfs"
        path = site.store.path_of(names_of(site)[name])
        content = path.read_bytes()
        path.write_bytes(b"x" * len(content))  # the link shows it, too
        path.rename(tmp_path / "aside")
        path.write_bytes(content)  # fetched again
        assert export(site, tmp_path / "out").is_new
        assert (tmp_path / "out" / TREE / CURRENT / name).read_bytes() == content
        assert not export(site, tmp_path / "out").is_new


def test_a_snapshot_that_has_rotted_is_made_anew_when_it_is_checked(site: Region, tmp_path: Path) -> None:
    export(site, tmp_path / "out", How.COPY)
    path = tmp_path / "out" / TREE / CURRENT / AMD64 / "squashfs"
    path.write_bytes(b"x" * path.stat().st_size)
    with holdings(site.settings.data) as held:
        assert not export_tree(held, tmp_path / "out", How.COPY).is_new
        assert export_tree(held, tmp_path / "out", How.COPY, check=True).is_new
        assert laid_out(tmp_path / "out") == names_of(site)
        assert not export_tree(held, tmp_path / "out", How.COPY, check=True).is_new


def test_a_file_that_went_from_the_snapshot_comes_back(site: Region, tmp_path: Path) -> None:
    export(site, tmp_path / "out")
    (tmp_path / "out" / TREE / CURRENT / "bootx64.efi").unlink()
    assert export(site, tmp_path / "out").is_new
    assert laid_out(tmp_path / "out") == names_of(site)


def test_what_the_tree_says_of_itself_puts_no_file_of_the_host_into_it(site: Region, tmp_path: Path) -> None:
    first = export(site, tmp_path / "out", How.COPY)
    (tmp_path / "shadow").write_text("secret")
    sha256 = names_of(site)[f"{AMD64}/squashfs"]
    memory = tmp_path / "out" / TREE / f".{first.snapshot}.json"
    known = json.loads(memory.read_text())
    known["names"] = {name: digest for name, digest in known["names"].items() if digest != sha256}
    known["names"]["../../../shadow"] = sha256
    memory.write_text(json.dumps(known))
    export(site, tmp_path / "out", How.COPY)
    assert laid_out(tmp_path / "out") == names_of(site)


@pytest.mark.parametrize("how", [How.LINK, How.COPY])
def test_killed_anywhere_current_is_whole_and_the_next_export_leaves_nothing_of_it(
    how: How, tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(tmp_path / "site", signer) as (site, _):
        before = names_of(site)
        export(site, tmp_path / "old", how)
        drop(site, "centos/8/amd64/generic")
        after, number = names_of(site), 1
        expected: set[str] = set()
        while True:
            folder = tmp_path / f"out-{number}"
            shutil.copytree(tmp_path / "old", folder, symlinks=True, copy_function=os.link)
            try:
                with cut_at(number, monkeypatch):
                    export(site, folder, how)
                break
            except Cut:
                pass
            assert laid_out(folder) in (before, after)
            export(site, folder, how)
            assert laid_out(folder) == after
            found = {path.name for path in (folder / TREE).iterdir()}
            expected = expected or found
            assert found == expected
            shutil.rmtree(folder)
            number += EVERY
    assert number > 40


def test_other_users_servers_can_read_all_of_it_whatever_the_umask(site: Region, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        export(site, tmp_path / "out", How.COPY)
    finally:
        os.umask(before)
    for at, folders, files in os.walk(tmp_path / "out" / TREE / CURRENT):
        assert Path(at).stat().st_mode & 0o555 == 0o555, at
        assert all((Path(at) / name).stat().st_mode & 0o444 == 0o444 for name in (*folders, *files)), at


def test_what_a_killed_export_left_is_cleared_away(site: Region, tmp_path: Path) -> None:
    left = tmp_path / "out" / TREE / ".building-snapshot-1-00000000"
    left.mkdir(parents=True)
    (left / "bootx64.efi").write_text("half")
    export(site, tmp_path / "out")
    assert not left.exists()


def test_a_current_of_somebody_else_is_left_alone(site: Region, tmp_path: Path) -> None:
    tree = tmp_path / "out" / TREE
    (tree / CURRENT).mkdir(parents=True)
    with pytest.raises(PlaceError, match=r"current: expected a link that `export-tree` made, got something else"):
        export(site, tmp_path / "out")
    (tree / CURRENT).rmdir()
    (tree / CURRENT).symlink_to("/srv/tftp")
    with pytest.raises(PlaceError, match=r"expected a link to a snapshot beside it, got one to /srv/tftp"):
        export(site, tmp_path / "out")
    assert (tree / CURRENT).readlink() == Path("/srv/tftp")


def test_a_copy_that_does_not_fit_is_refused_before_it_begins(
    site: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = os.statvfs(tmp_path)
    full = os.statvfs_result((*found[:4], 0, *found[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _path: full)
    with pytest.raises(PlaceError, match=r"boot-resources: expected \d+ bytes free for copies, got 0"):
        export(site, tmp_path / "out", How.COPY)
    assert not list((tmp_path / "out" / TREE).glob("snapshot-*"))


def test_an_empty_region_has_nothing_to_lay_out(tmp_path: Path) -> None:
    with running(tmp_path / "data") as (region, _), pytest.raises(PlaceError, match="expected a complete image"):
        export(region, tmp_path / "out")


def test_the_command_says_what_it_did(site: Region, tmp_path: Path) -> None:
    words = ["export-tree", str(tmp_path / "out"), "--data", str(site.settings.data)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Laid out ") and "/boot-resources/current -> snapshot-" in done.stdout
    assert CliRunner().invoke(app, words).stdout.startswith("Nothing new in ")
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["is_new"] is False
    assert CliRunner().invoke(app, [*words, "--how", "magic"]).exit_code == 1


def test_pythons_http_server_gives_the_same_bytes(site: Region, tmp_path: Path) -> None:
    export(site, tmp_path / "out")
    argv = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]
    argv += ["--directory", str(tmp_path / "out" / TREE / CURRENT)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().split(" port ")[1].split()[0])
            for name, sha256 in names_of(site).items():
                got = subprocess.run(
                    ["curl", "-fsS", f"http://127.0.0.1:{port}/{name}"], capture_output=True, check=True, timeout=30
                )
                assert sha256_hex(got.stdout) == sha256, name
        finally:
            server.kill()


@pytest.mark.parametrize("how", [How.LINK, How.COPY])
def test_tftpd_hpa_gives_the_same_bytes(how: How, site: Region) -> None:
    daemon = shutil.which("in.tftpd", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if daemon is None or os.geteuid() != 0:
        pytest.skip("in.tftpd is not on this machine, or this is not root")
    with tempfile.TemporaryDirectory(prefix="bp-tree-", dir=site.settings.data.parent.parent) as made:
        folder = Path(made)
        export(site, folder, how)
        folder.chmod(0o755)
        port = quiet_port(socket.SOCK_DGRAM)
        argv = [daemon, "-L", "--secure", "-u", "root", "-4", "-a", f"127.0.0.1:{port}", str(folder / TREE / CURRENT)]
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as server:
            try:
                for name in ("bootx64.efi", "lpxelinux.0", f"{AMD64}/boot-kernel", f"{AMD64}/boot-initrd"):
                    retry = ["--retry", "30", "--retry-all-errors", "--retry-delay", "1", "--max-time", "20"]
                    got = subprocess.run(
                        ["curl", "-fsS", *retry, f"tftp://127.0.0.1:{port}/{name}"], capture_output=True, timeout=60
                    )
                    assert sha256_hex(got.stdout) == names_of(site)[name], got.stderr
            finally:
                server.kill()
