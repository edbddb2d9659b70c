"""Names and base images of uploads: each refusal with its reason, and what passes is fit for the wire."""

from __future__ import annotations

import pytest

from bootplane.control.domain.images import ROOT_ARCHIVES, UPLOADED, BootResource, Selection
from bootplane.control.errors import CallerError, Conflict
from bootplane.control.uploads.rules import TYPES, Wanted, default_base, files_of, resource_of
from bootplane.dataplane.namespace import tree_name

OFFERED = {("ubuntu", "noble"), ("ubuntu", "jammy"), ("centos", "8-stream"), ("grub-efi-signed", "")}
SHA = "ab" * 32
HERE = [
    BootResource("ubuntu", "amd64", "jammy", "ga-22.04", "stable", title="22.04 LTS"),
    BootResource("custom", "amd64", "db", "generic", "uploaded", rtype=UPLOADED, base_image="centos/8"),
    BootResource("custom", "arm64", "web", "generic", "uploaded", rtype=UPLOADED, base_image="rhel/9"),
]


def made(name: str, arch: str = "amd64", title: str = "", base: str | None = None) -> BootResource:
    return resource_of(name, arch, title, base, OFFERED, HERE, [])


@pytest.mark.parametrize(
    ("name", "resource"),
    [
        ("web", "custom/web/amd64/generic"),
        ("custom/web", "custom/web/amd64/generic"),
        ("Web-2.1_b", "custom/Web-2.1_b/amd64/generic"),
        ("centos/golden", "centos/golden/amd64/generic"),
        ("rhel/9", "rhel/9/amd64/generic"),
        ("debian/noble", "debian/noble/amd64/generic"),  # what ubuntu offers is nobody else's name
        ("x" * 64, f"custom/{'x' * 64}/amd64/generic"),
    ],
)
def test_a_name_that_nobody_has_becomes_a_resource(name: str, resource: str) -> None:
    found = made(name)
    assert (found.name, found.rtype, found.label) == (resource, UPLOADED, "uploaded")
    assert tree_name(found.os, found.arch, found.subarch, found.release, found.label, "root-tgz").endswith("/root-tgz")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("ubuntu", Conflict, "'ubuntu' is the name of an operating system"),
        ("custom/Ubuntu", Conflict, "name of an operating system"),
        ("esxi", Conflict, "name of an operating system"),
        ("custom", Conflict, "name of an operating system"),
        ("centos7", Conflict, "what CentOS calls its releases"),
        ("CentOS8", Conflict, "what CentOS calls its releases"),
        ("centos-8.4", Conflict, "what CentOS calls its releases"),
        ("noble", Conflict, "a boot source offers ubuntu/noble"),
        ("custom/Jammy", Conflict, "a boot source offers ubuntu/jammy"),
        ("ubuntu/noble", Conflict, "a boot source offers ubuntu/noble"),
        ("grub-efi-signed", Conflict, "what a boot source calls an operating system"),
        ("plan9/web", CallerError, "the name of an operating system before the slash"),
        ("custom/a/b", CallerError, "got 'a/b'"),
        ("", CallerError, "expected a name of 1 to 64"),
        ("custom/", CallerError, "expected a name of 1 to 64"),
        ("../web", CallerError, "before the slash"),
        (".web", CallerError, "begins with a letter or digit"),
        ("-web", CallerError, "begins with a letter or digit"),
        ("we b", CallerError, "letters, digits and . _ -"),
        ("wéb", CallerError, "letters, digits and . _ -"),
        ("web\n", CallerError, "letters, digits and . _ -"),
        ("web%2f", CallerError, "letters, digits and . _ -"),
        ("x" * 65, CallerError, "1 to 64"),
    ],
)
def test_a_name_is_refused_with_its_reason(name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as refused:
        made(name)
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "base", ["ubuntu/noble", "ubuntu/trusty", "centos/8", "centos/centos70", "rhel/9.4", "ol/9", "debian/trixie"]
)
def test_a_base_image_is_an_os_and_a_series(base: str) -> None:
    assert made("web", base=base).base_image == base
    assert made("web", base=base.title()).base_image == base


def test_an_ubuntu_that_only_a_source_knows_is_a_base_image() -> None:
    offered = OFFERED | {("ubuntu", "stonking")}
    assert resource_of("web", "amd64", "", "ubuntu/stonking", offered, [], []).base_image == "ubuntu/stonking"


@pytest.mark.parametrize(
    ("base", "words"),
    [
        *((base, "expected a base image OS/SERIES") for base in
          ("noble", "windows/2022", "ubuntu/", "/noble", "ubuntu/no ble", "ubuntu/a/b", "custom/x")),
        ("ubuntu/nobel", "expected the code name of an Ubuntu release, got 'nobel'"),
        ("ubuntu/24.04", "expected the code name of an Ubuntu release"),
        ("centos/stream", "expected a release of centos with its number"),
    ],
)  # fmt: skip
def test_any_other_base_image_is_refused(base: str, words: str) -> None:
    with pytest.raises(CallerError, match=words):
        made("web", base=base)


def test_without_a_base_image_it_is_that_of_the_image_it_replaces() -> None:
    assert made("db").base_image == "centos/8"
    assert made("custom/db", base="ubuntu/noble").base_image == "ubuntu/noble"
    assert made("web").base_image == "ubuntu/jammy"  # the one that is here is of another arch
    assert made("web", "arm64").base_image == "rhel/9"


def test_an_image_whose_name_says_its_system_has_no_base_image() -> None:
    assert made("rhel/9").base_image == ""
    with pytest.raises(CallerError, match="expected no base image, its name says that it is of rhel; got 'rhel/9'"):
        made("rhel/golden", base="rhel/9")


@pytest.mark.parametrize("arch", ["", "x86_64", "amd64/", "amd64/a/b", "amd64/../x", "AMD64"])
def test_an_arch_is_one_of_ours(arch: str) -> None:
    if arch == "amd64/":  # as good as amd64
        with pytest.raises(CallerError, match="ARCH/SUBARCH"):
            made("web", arch)
        return
    with pytest.raises(CallerError, match="expected"):
        made("web", arch)


def test_a_subarch_stands_in_the_name() -> None:
    assert made("web", "arm64/xgene-uboot").name == "custom/web/arm64/xgene-uboot"


def resource(os: str, release: str, title: str) -> BootResource:
    return BootResource(os, "amd64", release, "generic", "stable", title=title)


def test_the_default_base_is_the_newest_lts_that_is_here() -> None:
    here = [
        resource("ubuntu", "jammy", "22.04 LTS"),
        resource("ubuntu", "plucky", "25.04"),
        resource("ubuntu", "noble", "24.04 LTS"),
        resource("centos", "8", "CentOS 8"),
    ]
    assert default_base(here, []) == "ubuntu/noble"


@pytest.mark.parametrize(
    ("releases", "base"),
    [
        (["focal", "jammy"], "ubuntu/jammy"),
        (["noble", "xenial"], "ubuntu/noble"),  # the alphabet began anew in between
        (["noble", "amazing"], "ubuntu/amazing"),  # and will again
        (["*"], "ubuntu/noble"),
        ([], "ubuntu/noble"),
    ],
)
def test_before_anything_is_here_the_selections_say_the_default_base(releases: list[str], base: str) -> None:
    selections = [Selection(str(i), "ubuntu", release, ("amd64",)) for i, release in enumerate(releases)]
    assert default_base([], [*selections, Selection("9", "centos", "zz", ("*",))]) == base


def test_every_type_is_an_ftype_of_its_own() -> None:
    assert set(TYPES.values()) == ROOT_ARCHIVES and len(set(TYPES.values())) == len(TYPES)


def test_a_manifest_is_named_after_its_root() -> None:
    files = files_of("web", [Wanted("manifest", SHA, 7), Wanted("root-tgz", SHA, 7)])
    assert [(file.name, file.ftype) for file in files] == [
        ("root-tgz.manifest", "manifest"),
        ("root-tgz", "root-tgz"),
    ]
    kernels = [Wanted(ftype, SHA, 7) for ftype in ("squashfs", "boot-kernel", "boot-initrd", "manifest")]
    assert {file.name for file in files_of("web", kernels)} == {
        "squashfs", "boot-kernel", "boot-initrd", "squashfs.manifest",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ftypes", "size", "sha256", "words"),
    [
        ([], 1, SHA, "got nothing"),
        (["boot-kernel"], 1, SHA, "got boot-kernel"),
        (["boot-kernel", "boot-initrd"], 1, SHA, "expected one root archive"),
        (["root-tgz", "root-dd"], 1, SHA, "expected one root archive"),
        (["root-tgz", "root-tgz"], 1, SHA, "expected one root archive"),
        (["root-tgz", "squashfs"], 1, SHA, "expected one root archive"),
        (["archive.tar.xz"], 1, SHA, "expected one root archive"),
        (["manifest"], 1, SHA, "expected one root archive"),
        (["root-tgz"], 0, SHA, "an empty file"),
        (["root-tgz"], 1, "AB" * 32, "SHA-256 of 64 hex digits"),
    ],
)
def test_files_that_make_no_image_are_refused(ftypes: list[str], size: int, sha256: str, words: str) -> None:
    with pytest.raises(CallerError) as refused:
        files_of("web", [Wanted(ftype, sha256, size) for ftype in ftypes])
    assert words in str(refused.value)


def test_one_content_has_one_size() -> None:
    wanted = [Wanted(ftype, SHA, size) for ftype, size in (("boot-kernel", 5), ("boot-initrd", 5), ("squashfs", 6))]
    with pytest.raises(CallerError, match="expected one size for one content, got 5 and 6 bytes"):
        files_of("web", wanted)
