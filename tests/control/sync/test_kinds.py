"""Every kind of mirror and product there is, as whole syncs through the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.control.mirror_publish import PublishItem, PublishProduct, image, publish
from bootplane.control.simplestreams.signer import Signer
from tests.fakes.mirror import make_file, small_loaders
from tests.fakes.operator import Operator, operator

pytestmark = pytest.mark.integration
GA = "ubuntu/noble/amd64/ga-24.04"


@pytest.fixture
def site(tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    with operator(tmp_path, signer, monkeypatch) as made:
        yield made


def complete(site: Operator) -> set[str]:
    return {each["name"] for each in site.json("image", "list")["items"] if each["complete"]}


def kernel(
    site: Operator, subarch: str, kflavor: str = "generic", label: str = "stable", **more: str
) -> PublishProduct:
    """An image with a kernel of its own and the squashfs that all share."""
    folder = site.folder / "inputs"
    name = f"{subarch}-{kflavor}-{label}"
    return image(
        serial="20250709",
        subarch=subarch,
        kflavor=kflavor,
        label=label,
        kernel=make_file(folder, f"kernel-{name}", 3000),
        initrd=make_file(folder, f"initrd-{name}", 5000),
        squashfs=make_file(folder, f"squashfs-{label}", 9000),
        **more,
    )


def test_a_filtered_mirror_has_whole_metadata_and_the_selected_files_only(site: Operator) -> None:
    """What sstream-mirror makes of a filter: most files are 404, and nobody minds."""
    for path in list(site.mirror.root.rglob("*")):
        name = str(path.relative_to(site.mirror.root))
        if path.is_file() and not name.startswith(
            ("streams/", "noble/amd64/", "bootloaders/uefi/amd64", "bootloaders/pxe")
        ):
            path.unlink()
    site.add()
    site.sync()
    assert GA in complete(site) and site.banners() == {}
    site.json("select", "add", "ubuntu", "noble", "--arch", "arm64")
    assert "expected the file, got 404" in site.refused("sync", "--wait")  # these are selected now
    assert GA in complete(site)


def test_a_mirror_of_plain_documents_with_detached_signatures(site: Operator) -> None:
    for path in (site.mirror.root / "streams/v1").glob("*.sjson"):
        path.unlink()
    site.add()
    site.sync()
    assert GA in complete(site)
    site.forget()
    site.sync()
    assert site.item_bytes() == 0 and len(site.mirror.requests) <= 3


def test_a_url_that_names_the_plain_index_is_signed_all_the_same(site: Operator) -> None:
    url = site.mirror.url + "streams/v1/index.json"
    site.json("source", "add", url, "--keyring", site.keyring(), "--name", "mirror")
    site.json("select", "add", "ubuntu", "noble", "--arch", "amd64")
    site.sync()
    assert GA in complete(site)
    (site.mirror.root / "streams/v1/index.json.gpg").unlink()
    site.put("streams/v1/index.json", (site.mirror.root / "streams/v1/index.json").read_bytes() + b" ")
    assert "expected a signature beside it" in site.refused("source", "check", "mirror")


def test_a_mirror_in_a_folder(site: Operator) -> None:
    site.json("source", "add", site.mirror.root.as_uri(), "--keyring", site.keyring(), "--name", "folder")
    site.json("select", "add", "ubuntu", "noble", "--arch", "amd64")
    site.sync()
    assert GA in complete(site) and site.mirror.requests == []
    site.is_sound()


@pytest.mark.parametrize("has_stable", [True, False])
def test_daily_means_stable_where_there_is_one(site: Operator, has_stable: bool) -> None:
    folder = site.mirror.root / "ephemeral-v3" / ("stable" if has_stable else "daily")
    publish(folder, [kernel(site, "ga-24.04"), *small_loaders(site.folder / "inputs")], site.signer)
    url = site.mirror.url + "ephemeral-v3/daily/"
    site.json("source", "add", url, "--keyring", site.keyring())
    site.json("select", "add", "ubuntu", "noble", "--arch", "amd64")
    site.sync()
    assert GA in complete(site)
    assert any(path.startswith(f"ephemeral-v3/{folder.name}/noble/") for path in site.mirror.requests)


def test_a_candidate_is_taken_beside_the_stable_one_and_called_untested(site: Operator) -> None:
    publish(site.mirror.root / "candidate", [kernel(site, "ga-24.04", label="candidate")], site.signer)
    site.add()
    site.json("source", "add", f"{site.mirror.url}candidate/", "--keyring", site.keyring(), "--name", "candidate")
    site.sync()
    assert {GA, f"{GA}/candidate"} <= complete(site)
    assert "candidate (not tested)" in site.run("image", "list").stdout
    assert "candidate (not tested)" in site.run("image", "show", f"{GA}/candidate").stdout
    (names,) = [f["names"] for f in site.json("image", "show", f"{GA}/candidate")["files"] if f["ftype"] == "squashfs"]
    assert all("/candidate/" in name for name in names)


KERNELS = {
    ("ga-24.04", "generic"): "ga-24.04",
    ("ga-24.04", "lowlatency"): "ga-24.04-lowlatency",
    ("hwe-24.04", "generic"): "hwe-24.04",
    ("hwe-24.04", "lowlatency"): "hwe-24.04-lowlatency",
    ("hwe-24.04-edge", "generic"): "hwe-24.04-edge",
    ("hwe-24.04-edge", "lowlatency"): "hwe-24.04-lowlatency-edge",
}


@pytest.mark.parametrize(
    ("subarch", "chosen"),
    [
        ("*", set(KERNELS.values())),
        ("ga-24.04", {"ga-24.04", "ga-24.04-lowlatency"}),  # a subarch, as the product lists have it: all its flavours
        ("ga-*", {"ga-24.04", "ga-24.04-lowlatency"}),
        ("hwe-24.04", {"hwe-24.04", "hwe-24.04-lowlatency"}),
        ("*-edge", {"hwe-24.04-edge", "hwe-24.04-lowlatency-edge"}),
        ("*lowlatency*", {"ga-24.04-lowlatency", "hwe-24.04-lowlatency", "hwe-24.04-lowlatency-edge"}),
        ("hwe-24.04-lowlatency-edge", {"hwe-24.04-lowlatency-edge"}),
    ],
)
def test_a_selection_chooses_kernels(site: Operator, subarch: str, chosen: set[str]) -> None:
    site.publish([kernel(site, *each) for each in KERNELS])
    site.json("source", "add", site.mirror.url, "--keyring", site.keyring())
    site.json("select", "add", "ubuntu", "24.04", "--arch", "amd64", "--subarch", subarch)
    site.sync()
    assert complete(site) == {f"ubuntu/noble/amd64/{name}" for name in chosen}
    moved = [path for path in site.mirror.requests if path.endswith("/squashfs")]
    assert len(moved) == 1  # one root for all kernels of a release


ROOTS = [
    "root-tgz", "root-tbz", "root-txz", "root-dd", "root-dd.raw", "root-dd.bz2", "root-dd.gz", "root-dd.xz",
    "root-dd.tar", "root-dd.tar.bz2", "root-dd.tar.xz",
]  # fmt: skip


def test_every_ftype_arrives_under_its_name(site: Operator) -> None:
    folder = site.folder / "inputs"

    def product(release: str, ftypes: list[str]) -> PublishProduct:
        items = tuple(
            PublishItem(ftype, ftype, f"x/{release}/1/{ftype}", make_file(folder, f"{release}-{ftype}", 1000))
            for ftype in ftypes
        )
        tags = {"os": "custom-os", "release": release, "arch": "amd64", "label": "stable", "subarch": "generic"}
        return PublishProduct("com.example:download", f"com.example:{release}:amd64", "1", tags, items)

    sets = {f"r-{ftype.replace('.', '-')}": [ftype, "manifest"] for ftype in ROOTS}
    sets["trusty"] = ["boot-kernel", "boot-initrd", "root-image.gz", "root-image.manifest"]
    sets["mustang"] = ["boot-kernel", "boot-initrd", "boot-dtb", "squashfs"]
    sets["both"] = ["boot-kernel", "boot-initrd", "squashfs", "root-image.gz"]
    sets["odd"] = ["root-tgz", "notifications", "di-kernel", "nobody-knows-this"]
    site.publish([product(release, ftypes) for release, ftypes in sets.items()])
    site.json("source", "add", site.mirror.url, "--keyring", site.keyring(), "--name", "mirror")
    site.json("select", "add", "custom-os", "*", "--arch", "amd64")
    site.sync()
    left_out = {"both": {"root-image.gz"}, "odd": {"notifications", "di-kernel", "nobody-knows-this"}}
    for release, ftypes in sets.items():
        files = site.json("image", "show", f"custom-os/{release}/amd64/generic")["files"]
        assert {file["ftype"] for file in files} == set(ftypes) - left_out.get(release, set()), release
    assert "nobody here knows the ftype 'nobody-knows-this'" in site.run("source", "list").stderr
