"""Boot configuration for a machine nobody knows: GRUB, PXELINUX and iPXE text that boots the ephemeral OS.

The idea: what to boot (``Ephemeral``) is chosen once per catalogue from complete sets; rendering is a pure function of
the name a boot loader asked for, the protocol it asked by, and where it stands. Kernel parameters belong to the image's
os, not to the boot method. A name that is nobody's renders to None (404, "File not found").

Every script that cannot boot says in one sentence what is missing and whom to ask, waits, and asks again with growing
waits (dataplane.retry). HTTP only where the loader has it: a GRUB that fetched its script by HTTP, any iPXE, and a
PXELINUX that is lpxelinux.0; those that may have it and fail are sent by TFTP the next time.

Left to others: machines that are known (a later step), who may ask, and the timeline (rack_api).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2

from bootplane.control.domain.images import INITRD, KERNEL, ROOT_IMAGE, SQUASHFS, ResourceSet
from bootplane.dataplane.namespace import BootName, image_name, parse_boot_name
from bootplane.dataplane.retry import (
    SWITCH_S,
    Again,
    grub_loop,
    grub_open,
    ipxe_loop,
    ipxe_open,
    pxelinux_again,
    split_again,
)

TEMPLATES = Path(__file__).resolve().parent / "templates" / "boot"
HOSTNAME = "enlist"
GRUB_CPUS = {"amd64": ("x86_64", "i386"), "arm64": ("arm64",), "armhf": ("arm",), "ppc64el": ("powerpc",)}
IPXE_ARCHES = {"amd64": ("x86_64", "i386"), "arm64": ("arm64",), "armhf": ("arm32",)}
PXELINUX_ARCH = "amd64"  # PXELINUX itself exists for PC firmware only; others read its files under folders of theirs
UBOOT_ARCHES = ("arm64", "armhf", "riscv64")
PXELINUX_FOLDERS = {"ppc64el": "ppc64el", "s390x": "s390x"}  # petitboot's, and that of s390's network boot
COMMAND_LINE_BYTES = 2048  # of a kernel, its last zero included; more is cut off without a word
COMMAND_LINE_BYTES_OF = {"armhf": 1024}
# A kernel that panics and an initrd that cannot have its root image start the machine anew; nobody stands next to it.
# lpxelinux.0 needs it too: by HTTP it takes what has come of an initrd when the connection breaks for the whole.
PANIC_S = 60
PXELINUX_NAME_BYTES = 255  # FILENAME_MAX - 1
_BOOTIF = "BOOTIF=01-00-00-00-00-00-00"  # what each loader adds
_TICKET = re.compile(r"[A-Za-z0-9_-]{0,128}")
_NUMBER = re.compile(r"\d+\.\d+")
_PLAIN = re.compile(r"[^A-Za-z0-9 ._+()-]")  # what a title may not bring into a script: it is shown, nothing else
# Words that iPXE would take for its own, wherever they stand in a line; it has no quotes.
_IPXE_WORD = re.compile(r"\|\||&&|#.*|.*\$\{.*")


@dataclass(frozen=True, slots=True)
class Ephemeral:
    """A kernel, an initrd and a root image that make a machine run without a disk. Wire names, by content."""

    os: str
    release: str
    arch: str
    title: str
    kernel: str
    initrd: str
    root: str
    kparams: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the machine stands: its rack's addresses as the machine reaches them, and the region behind."""

    region: str
    http: str  # "10.0.0.1:5248"
    tftp: str
    ticket: str = ""  # one boot of one machine: the running kernel gives it back to /MAAS/metadata/boot/<ticket>
    pxelinux_has_http: bool = True  # what is served as pxelinux.0 is lpxelinux.0

    def __post_init__(self) -> None:
        if not _TICKET.fullmatch(self.ticket):
            raise ValueError(f"boot ticket: expected up to 128 letters, digits, - and _, got {self.ticket[:80]!r}")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A script, and what it says: what it boots ("Debian 12 (amd64)") or why it boots nothing; a script that only leads
    to another has neither, and one that boots in u-boot alone has both."""

    text: str
    boots: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Branch:
    """What a script does on one arch: boot, or say why not."""

    arch: str
    image: Ephemeral
    words: list[str]
    cpus: tuple[str, ...] = ()
    reason: str | None = None


def choose(sets: Sequence[ResourceSet]) -> dict[str, Ephemeral]:
    """arch -> what an unknown machine of that arch boots, out of complete sets.

    Ubuntu before others (its images enlist), then the newest release by its number, then the plainest kernel: ga
    before hwe, no flavour before one; tested labels before the rest. Deterministic: ties end at the name.
    """
    best: dict[str, tuple[tuple[object, ...], Ephemeral]] = {}
    for resource_set in sets:
        ephemeral = _ephemeral(resource_set)
        if ephemeral is None:
            continue
        resource = resource_set.resource
        number = tuple(int(part) for part in _number(resource.title))
        rank = (
            resource.os == "ubuntu",
            resource.is_tested,
            number,
            not resource.subarch.startswith("hwe-"),
            resource.kflavor in ("", "generic"),
            -len(resource.subarch),
            resource.name,
        )
        known = best.get(resource.arch)
        if known is None or rank > known[0]:
            best[resource.arch] = (rank, ephemeral)
    return {arch: found for arch, (_rank, found) in sorted(best.items())}


def render(name: str, proto: str, place: Place, ephemerals: Mapping[str, Ephemeral]) -> str | None:
    """The text of the configuration called *name* (canonical), asked for by *proto* ("http" or "tftp"); else None."""
    rendered = compose(name, proto, place, ephemerals)
    return rendered.text if rendered else None


def compose(name: str, proto: str, place: Place, ephemerals: Mapping[str, Ephemeral]) -> Rendered | None:
    """The configuration called *name* and what it says; None for a name that is nobody's."""
    boot = parse_boot_name(name)
    if boot is None:
        return None
    if boot.loader == "grub":
        return _grub(boot, name, proto, place, ephemerals)
    if boot.loader == "ipxe":
        return _ipxe(boot, name, place, ephemerals)
    return _pxelinux(boot, name, proto, place, ephemerals)


def parameters(image: Ephemeral, place: Place) -> list[str]:
    """Kernel parameters of *image* at *place*, without what only the boot loader knows (BOOTIF)."""
    http = place.http
    root = f"http://{http}/{image.root}"
    if image.os == "debian":
        words = ["boot=live", f"fetch={root}", "ip=dhcp", "net.ifnames=0"]
    else:
        is_ipv6 = http.startswith("[")
        words = ["nomodeset", f"root=squash:{root}"]
        words += ["ip=off", "ip6=dhcp"] if is_ipv6 else [f"ip=::::{HOSTNAME}:BOOTIF:dhcp", "ip6=off"]
        words += [
            "cc:{'datasource_list':['MAAS']}end_cc",
            f"cloud-config-url=http://{http}/MAAS/metadata/latest/enlist-preseed/?op=get_enlist_preseed",
            "ro",
            "overlayroot=tmpfs",
            "overlayroot_cfgdisk=disabled",
        ]
        if image.os == "ubuntu" and _number(image.title) and tuple(map(int, _number(image.title))) < (22, 4):
            words.append("apparmor=0")
    words.append(f"panic={PANIC_S}")
    if place.ticket:
        words.append(f"bootplane=http://{http}/MAAS/metadata/boot/{place.ticket}")
    return [*words, *image.kparams.split()]


def missing(arch: str | None, place: Place) -> str:
    """The sentence a machine shows when nothing is there to boot it."""
    what = f"for {arch} " if arch else ""
    return (
        f"no bootable image {what}is selected and complete on region {place.region}: ask its operator to select and "
        f"sync one (this is rack {place.http})"
    )


def _grub(boot: BootName, name: str, proto: str, place: Place, ephemerals: Mapping[str, Ephemeral]) -> Rendered:
    ends = {"begin": grub_open(boot.is_first), "retry": grub_loop(boot.is_first, name)}
    if boot.is_first:
        folder = name[: name.rindex("grub.cfg")]
        return Rendered(_text("grub.cfg.j2", place=place, folder=folder, http=proto == "tftp", **ends))
    branches = [
        _branch(ephemerals[arch], place, GRUB_CPUS.get(arch, (arch,)))
        for arch in ([boot.arch] if boot.arch else sorted(ephemerals))
        if arch in ephemerals
    ]
    text = _text(
        "grub-machine.cfg.j2",
        place=place,
        proto=proto.upper(),
        prefix=f"(http,{place.http})/" if proto == "http" else "/",
        branches=branches,
        missing=missing(boot.arch, place),
        **ends,
    )
    return _rendered(text, branches, missing(boot.arch, place))


def _ipxe(boot: BootName, name: str, place: Place, ephemerals: Mapping[str, Ephemeral]) -> Rendered:
    url = f"http://{place.http}/{name}"
    ends = {"begin": ipxe_open(boot.is_first), "retry": ipxe_loop(boot.is_first, url)}
    if boot.is_first:
        return Rendered(_text("ipxe.cfg.j2", place=place, **ends))
    wanted = _ipxe_arch(boot.arch)
    branches = [
        _branch(image, place, IPXE_ARCHES.get(arch, (arch,)), is_ipxe=True)
        for arch, image in sorted(ephemerals.items())
        if wanted in (None, arch)
    ]
    why = missing(wanted, place)
    text = _text("ipxe-machine.cfg.j2", place=place, branches=branches, missing=why, **ends)
    return _rendered(text, branches, why)


def _pxelinux(
    boot: BootName, name: str, proto: str, place: Place, ephemerals: Mapping[str, Ephemeral]
) -> Rendered | None:
    if boot.uuid or boot.address_hex:
        return None  # nobody is known by these yet; PXELINUX goes on to ask by its MAC, then for `default`
    whose, again = split_again(name)
    folder, _, whose = whose.rpartition("pxelinux.cfg/")
    arch = boot.arch or PXELINUX_FOLDERS.get(folder.rstrip("/"), PXELINUX_ARCH)
    ways = _pxelinux_ways(arch, proto, place)
    how = ways[-1] if again.failed == ways[0] else ways[0]
    prefix = _pxelinux_prefix(how, arch, place)
    branch = _branch(ephemerals[arch], place, prefix=prefix) if arch in ephemerals else None
    if branch is None or branch.reason:
        how, wait_s, step = "none", again.wait_s, again.step + 1
    elif how != ways[-1]:
        wait_s, step = SWITCH_S, again.step
    else:
        wait_s, step = again.wait_s, again.step + 1
    why = missing(arch, place)
    others = _uboot_branches(ephemerals, place) if boot.arch is None and not folder else []
    text = _text(
        "pxelinux.cfg.j2",
        place=place,
        branch=branch,
        reason=branch.reason if branch else why,
        prefix=prefix,
        proto=how.upper(),
        other=f"by {ways[how == ways[0]].upper()}" if len(ways) > 1 else "again",
        failed=again.failed.upper() if again.failed != "none" else "",
        wait_s=wait_s,
        others=others,
        retry=pxelinux_again(f"pxelinux.cfg/{whose}{Again(how, step).suffix()}", wait_s),
    )
    rendered = _rendered(text, [branch] if branch else [], why)
    if rendered.boots is None and others:
        return replace(rendered, boots=f"{_titles(others)} in u-boot alone")
    return rendered


def _pxelinux_ways(arch: str, proto: str, place: Place) -> tuple[str, ...]:
    """The protocols by which files can be had, the better one first."""
    if proto == "http" or arch == "ppc64el":  # a URL is before every name already; petitboot is a Linux
        return ("http",)
    if arch == "s390x":
        return ("tftp",)
    # pxelinux.0 has HTTP where an iPXE has loaded it: it is worth a try, but not the first.
    return ("http", "tftp") if place.pxelinux_has_http else ("tftp", "http")


def _pxelinux_prefix(how: str, arch: str, place: Place) -> str:
    """PXELINUX puts the folder it was loaded from before a name, even one with a leading slash, but not after `::`."""
    if how == "http":
        return f"http://{place.http}/"
    return "/" if arch in PXELINUX_FOLDERS.values() else "::"


def _uboot_branches(ephemerals: Mapping[str, Ephemeral], place: Place) -> list[_Branch]:
    """For u-boot, which reads PXELINUX's files and tries each label in turn, where PXELINUX tries the default alone."""
    branches = [_branch(image, place, prefix="/") for arch, image in sorted(ephemerals.items()) if arch in UBOOT_ARCHES]
    return [branch for branch in branches if branch.reason is None]


def _branch(
    image: Ephemeral, place: Place, cpus: tuple[str, ...] = (), *, prefix: str = "", is_ipxe: bool = False
) -> _Branch:
    """*prefix*: of names, where the loader has a limit for them."""
    words = parameters(image, place)
    reason = None
    limit = COMMAND_LINE_BYTES_OF.get(image.arch, COMMAND_LINE_BYTES) - 1
    names = f"BOOT_IMAGE=http://{place.http}/{image.kernel} initrd=http://{place.http}/{image.initrd}"
    line = len(" ".join([names, *words, _BOOTIF]))
    bad = next((word for word in words if is_ipxe and _IPXE_WORD.fullmatch(word)), None)
    if line > limit:
        reason = f"{image.title} cannot be booted: expected a kernel command line of {limit} bytes at most, got {line}"
    elif prefix and max(len(prefix + image.kernel), len(prefix + image.initrd)) > PXELINUX_NAME_BYTES:
        reason = (
            f"{image.title} cannot be booted: PXELINUX reads names of {PXELINUX_NAME_BYTES} bytes, those are longer"
        )
    elif bad is not None:
        reason = f"{image.title} cannot be booted: iPXE would take a word of its kernel parameters for its own"
    return _Branch(image.arch, image, words, cpus, reason)


def _rendered(text: str, branches: Sequence[_Branch], missing: str) -> Rendered:
    boots = _titles([branch for branch in branches if branch.reason is None])
    if boots:
        return Rendered(text, boots=boots)
    return Rendered(text, reason=next((branch.reason for branch in branches if branch.reason), missing))


def _titles(branches: Sequence[_Branch]) -> str:
    return " or ".join(f"{branch.image.title} ({branch.arch})" for branch in branches)


def _ephemeral(resource_set: ResourceSet) -> Ephemeral | None:
    resource = resource_set.resource
    if resource.is_uploaded:  # what enlists machines is a signed source's, never an operator's own
        return None
    by_type = {file.ftype: file for file in resource_set.files}
    root = by_type.get(SQUASHFS) or by_type.get(ROOT_IMAGE)
    kernel, initrd = by_type.get(KERNEL), by_type.get(INITRD)
    if kernel is None or initrd is None or root is None:
        return None

    def wire(sha256: str, file: str) -> str:
        place = (resource.os, resource.arch, resource.subarch, resource.release, resource.label, file)
        return image_name(sha256, *place)

    return Ephemeral(
        os=resource.os,
        release=resource.release,
        arch=resource.arch,
        title=_PLAIN.sub("", f"{resource.os.capitalize()} {resource.title}")[:80],
        kernel=wire(kernel.sha256, kernel.name),
        initrd=wire(initrd.sha256, initrd.name),
        root=wire(root.sha256, root.name),
        kparams=" ".join(word for word in kernel.kparams.split() if word.isprintable()),
    )


def _number(title: str) -> list[str]:
    found = _NUMBER.search(title)
    return found[0].split(".") if found else []


def _ipxe_arch(arch: str | None) -> str | None:
    if arch is None:
        return None
    return next((ours for ours, theirs in IPXE_ARCHES.items() if arch in theirs), arch)


def _grub_word(word: str) -> str:
    """One word of a GRUB command line; quoted where the shell would take a character for its own."""
    if re.fullmatch(r"[A-Za-z0-9_./:=,@+%-]+", word):
        return word
    return '"' + re.sub(r'([\\"$])', r"\\\1", word) + '"'


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701 (boot loaders' text, not HTML; _grub_word quotes)
)
_ENVIRONMENT.filters["grub"] = _grub_word


def _text(template: str, **values: object) -> str:
    return _ENVIRONMENT.get_template(template).render(**values).rstrip() + "\n"
