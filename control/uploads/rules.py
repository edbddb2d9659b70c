"""What an upload may be called, what it may be made from and what its files are: MAAS's rules, each with its reason.

Pure: the command line asks before it hashes, the region before it takes a byte. Invariant: whatever passes here is a
segment of names on the wire and of URLs as it stands. Left to others: what the bytes are (magic).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from bootplane.control.domain.images import (
    CUSTOM_OS,
    INITRD,
    KERNEL,
    ROOT_ARCHIVES,
    SQUASHFS,
    UPLOADED,
    UPLOADED_LABEL,
    BootResource,
    ResourceFile,
    Selection,
)
from bootplane.control.errors import CallerError, Conflict

# What MAAS calls the types of an upload -> the ftype its file is served as. Its root-dd is a tar in gzip.
TYPES = {
    "tgz": "root-tgz",
    "tbz": "root-tbz",
    "txz": "root-txz",
    "ddtgz": "root-dd",
    "ddtbz": "root-dd.tar.bz2",
    "ddtxz": "root-dd.tar.xz",
    "ddtar": "root-dd.tar",
    "ddbz2": "root-dd.bz2",
    "ddgz": "root-dd.gz",
    "ddxz": "root-dd.xz",
    "ddraw": "root-dd.raw",
}
TYPE_OF = {ftype: kind for kind, ftype in TYPES.items()}
KERNEL_SET = (KERNEL, INITRD, SQUASHFS)
MANIFEST = "manifest"
ARCHES = ("amd64", "arm64", "armhf", "i386", "ppc64el", "riscv64", "s390x")
SUBARCH = "generic"
OSES = frozenset(
    {"ubuntu", "ubuntu-core", "debian", "centos", "rhel", "ol", "rocky", "almalinux", "suse", "windows", "esxi"}
)  # what may stand before the slash of a name
RESERVED = OSES | {CUSTOM_OS, "bootloader", "fedora", "opensuse"}  # no image is called like an operating system
BASE_OSES = ("ubuntu", "debian", "centos", "rhel", "ol", "rocky", "almalinux")  # MAAS's four and three more
UBUNTU_SERIES = (
    "trusty", "utopic", "vivid", "wily", "xenial", "yakkety", "zesty", "artful", "bionic", "cosmic", "disco", "eoan",
    "focal", "groovy", "hirsute", "impish", "jammy", "kinetic", "lunar", "mantic", "noble", "oracular", "plucky",
    "questing", "resolute",
)  # fmt: skip  # in their order; a later one is known by the source that offers it
LAST_BASE = "ubuntu/noble"  # when nothing is selected and nothing is here
NAME_CHARACTERS = 64
TITLE_CHARACTERS = 128

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_CENTOS = re.compile(r"centos-?[0-9]+(\.[0-9]+)*\Z", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file of an upload as its client announces it."""

    ftype: str
    sha256: str
    size: int  # bytes


def resource_of(
    name: str,
    arch: str,
    title: str,
    base_image: str | None,
    offered: Iterable[tuple[str, str]],
    here: Iterable[BootResource],
    selections: Iterable[Selection],
) -> BootResource:
    """The resource that an upload called *name* becomes. *offered*: (os, release) of sources and of synced images;
    *here*: what is offered to machines, uploads included.

    Without *base_image* it is that of the image it replaces, else default_base(). Raises CallerError or Conflict with
    the rule that is broken.
    """
    offered, here = set(offered), list(here)
    os, release = _os_and_release(name, offered)
    arch, subarch = _arch(name, arch)
    if len(title) > TITLE_CHARACTERS or not title.isprintable():
        raise CallerError(
            f"title of image {name!r}: expected at most {TITLE_CHARACTERS} printable characters, got {title!r}"
        )
    resource = BootResource(
        os=os,
        arch=arch,
        release=release,
        subarch=subarch,
        label=UPLOADED_LABEL,
        title=title or release,
        rtype=UPLOADED,
    )
    if os != CUSTOM_OS:
        if base_image:
            raise CallerError(
                f"image {name!r}: expected no base image, its name says that it is of {os}; got {base_image!r} "
                f"(custom/{release} would take one)"
            )
        return resource
    if base_image:
        base = _base_image(name, base_image, {series for system, series in offered if system == "ubuntu"})
    else:
        elder = next((each for each in here if each.is_uploaded and each.name == resource.name), None)
        base = (elder.base_image if elder else "") or default_base(here, selections)
    return replace(resource, base_image=base)


def files_of(name: str, wanted: Sequence[Wanted]) -> tuple[ResourceFile, ...]:
    """The files of a set, under the names they are served by. Raises CallerError unless machines can use the set."""
    ftypes = [each.ftype for each in wanted]
    roots = [ftype for ftype in ftypes if ftype != MANIFEST]
    is_archive = len(roots) == 1 and roots[0] in ROOT_ARCHIVES
    is_kernel_set = sorted(roots) == sorted(KERNEL_SET)
    if len(set(ftypes)) != len(ftypes) or not (is_archive or is_kernel_set):
        raise CallerError(
            f"image {name!r}: expected one root archive ({', '.join(sorted(ROOT_ARCHIVES))}), or {KERNEL}, {INITRD} "
            f"and {SQUASHFS}, and a manifest beside them if there is one; got {', '.join(ftypes) or 'nothing'}"
        )
    for each in wanted:
        if each.size <= 0:
            raise CallerError(f"image {name!r}: {each.ftype}: expected bytes, got an empty file")
        if not _SHA256.match(each.sha256):
            raise CallerError(f"image {name!r}: {each.ftype}: expected a SHA-256 of 64 hex digits, got {each.sha256!r}")
    sizes = {each.sha256: each.size for each in wanted}
    for each in wanted:
        if sizes[each.sha256] != each.size:
            raise CallerError(
                f"image {name!r}: {each.ftype}: expected one size for one content, got {each.size} and "
                f"{sizes[each.sha256]} bytes of SHA-256 {each.sha256}"
            )
    root = roots[0] if is_archive else SQUASHFS
    return tuple(
        ResourceFile(f"{root}.manifest" if each.ftype == MANIFEST else each.ftype, each.ftype, each.sha256, each.size)
        for each in sorted(wanted, key=lambda each: each.ftype)
    )


def default_base(resources: Iterable[BootResource], selections: Iterable[Selection]) -> str:
    """The newest Ubuntu LTS that is here, else the newest Ubuntu release that is selected by name."""
    numbered = [
        (resource.lts, resource.release)
        for resource in resources
        if resource.os == "ubuntu" and not resource.is_uploaded and resource.lts
    ]
    if numbered:
        return f"ubuntu/{max(numbered)[1]}"
    named = [each.release for each in selections if each.os == "ubuntu" and _NAME.match(each.release)]
    return f"ubuntu/{max(named, key=_ubuntu_order)}" if named else LAST_BASE


def _ubuntu_order(release: str) -> tuple[int, str]:
    """Code names begin at A again now and then."""
    known = release in UBUNTU_SERIES
    return (UBUNTU_SERIES.index(release) if known else len(UBUNTU_SERIES), release)


def _os_and_release(name: str, offered: set[tuple[str, str]]) -> tuple[str, str]:
    os, slash, release = name.partition("/")
    if not slash:
        os, release = CUSTOM_OS, name
    elif os != CUSTOM_OS and os not in OSES:
        raise CallerError(
            f"image {name!r}: expected a name, custom/NAME, or the name of an operating system before the slash "
            f"({', '.join(sorted(OSES))}); got {os!r}"
        )
    if not _NAME.match(release):
        raise CallerError(
            f"image {name!r}: expected a name of 1 to {NAME_CHARACTERS} letters, digits and . _ - that begins with a "
            f"letter or digit, got {release!r}"
        )
    lower = release.lower()
    if lower in RESERVED:
        raise Conflict(f"image {name!r}: {release!r} is the name of an operating system, and reserved")
    if _CENTOS.match(release):
        raise Conflict(f"image {name!r}: {release!r} is what CentOS calls its releases, and reserved")
    for other_os, other_release in sorted(offered):
        if lower == other_os.lower():
            raise Conflict(f"image {name!r}: {release!r} is what a boot source calls an operating system, and reserved")
        if other_release and lower == other_release.lower() and os in (CUSTOM_OS, other_os):
            raise Conflict(f"image {name!r}: a boot source offers {other_os}/{other_release}, so the name is reserved")
    return os, release


def _arch(name: str, text: str) -> tuple[str, str]:
    arch, slash, subarch = text.partition("/")
    if arch not in ARCHES:
        raise CallerError(f"image {name!r}: expected an arch ({', '.join(ARCHES)}), got {arch!r}")
    if slash and not _NAME.match(subarch):
        raise CallerError(f"image {name!r}: expected ARCH or ARCH/SUBARCH, got {text!r}")
    return arch, subarch or SUBARCH


def _base_image(name: str, text: str, offered_ubuntu: Collection[str]) -> str:
    os, slash, series = text.lower().partition("/")
    if not slash or os not in BASE_OSES or not _NAME.match(series):
        raise CallerError(
            f"image {name!r}: expected a base image OS/SERIES with OS one of {', '.join(BASE_OSES)} "
            f"(like ubuntu/noble), got {text!r}"
        )
    if os == "ubuntu" and series not in UBUNTU_SERIES and series not in offered_ubuntu:
        raise CallerError(f"image {name!r}: base image: expected the code name of an Ubuntu release, got {series!r}")
    if os not in ("ubuntu", "debian") and not any(character.isdigit() for character in series):
        raise CallerError(f"image {name!r}: base image: expected a release of {os} with its number, got {series!r}")
    return f"{os}/{series}"
