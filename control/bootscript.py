"""Boot configuration for a machine nobody knows: GRUB, PXELINUX and iPXE text that boots the ephemeral OS.

The idea: what to boot (``Ephemeral``) is chosen once per catalogue from complete sets; rendering is a pure function of
the name a boot loader asked for, the protocol it asked by, and where it stands. Kernel parameters belong to the image's
os, not to the boot method. A name that is nobody's renders to None (404, "File not found").

Every script that cannot boot says in one sentence what is missing and whom to ask, waits, and asks again with growing
waits: GRUB loops in ``grub.cfg`` (the scripts it sources try once and return), PXELINUX by the name of the next
configuration, iPXE in ``ipxe.cfg``. Left to others: machines that are known (a later step), who may ask (rack_api).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from bootplane.control.domain.images import INITRD, KERNEL, ROOT_IMAGE, SQUASHFS, ResourceSet
from bootplane.dataplane.namespace import BootName, image_name, parse_boot_name

TEMPLATES = Path(__file__).resolve().parent / "templates" / "boot"
WAITS_S = (5, 10, 20, 40, 60, 120, 300)  # the last one again and again
HOSTNAME = "enlist"
GRUB_CPUS = {"amd64": ("x86_64", "i386"), "arm64": ("arm64",), "armhf": ("arm",), "ppc64el": ("powerpc",)}
IPXE_ARCHES = {"amd64": ("x86_64", "i386"), "arm64": ("arm64",), "armhf": ("arm32",)}
PXELINUX_ARCH = "amd64"  # PXELINUX itself exists for PC firmware only; petitboot reads its files under ppc64el/
_STEP_NAME = re.compile(r"-(?P<why>wait|retry)-(?P<step>\d{1,2})\Z")
_PLAIN = re.compile(r"[^A-Za-z0-9 ._+()-]")  # what a title may not bring into a script: it is shown, nothing else
_TICKET = re.compile(r"[A-Za-z0-9_-]{0,128}")
_NUMBER = re.compile(r"\d+\.\d+")


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

    def __post_init__(self) -> None:
        if not _TICKET.fullmatch(self.ticket):
            raise ValueError(f"boot ticket: expected up to 128 letters, digits, - and _, got {self.ticket[:80]!r}")


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


def _grub(boot: BootName, name: str, proto: str, place: Place, ephemerals: Mapping[str, Ephemeral]) -> str:
    directory = name.rpartition("/")[0]
    if boot.mac is None and boot.arch is None and not name.endswith("-default"):
        return _text("grub.cfg.j2", place=place, directory=directory, waits=_steps())
    prefix = f"(http,{place.http})/" if proto == "http" else "/"
    arches = [boot.arch] if boot.arch else sorted(ephemerals)
    branches = [
        {
            "cpus": GRUB_CPUS.get(arch, (arch,)),
            "image": ephemerals[arch],
            "words": parameters(ephemerals[arch], place),
        }
        for arch in arches
        if arch in ephemerals
    ]
    return _text(
        "grub-machine.cfg.j2", prefix=prefix, branches=branches, missing=missing(boot.arch, place), place=place
    )


def _ipxe(boot: BootName, name: str, place: Place, ephemerals: Mapping[str, Ephemeral]) -> str:
    if boot.mac is None and boot.arch is None and not name.endswith("-default"):
        return _text("ipxe.cfg.j2", place=place, waits=_steps())
    wanted = _ipxe_arch(boot.arch)
    branches = [
        {"arch": arch, "cpus": IPXE_ARCHES.get(arch, (arch,)), "image": image, "words": parameters(image, place)}
        for arch, image in ephemerals.items()
        if wanted in (None, arch)
    ]
    return _text("ipxe-machine.cfg.j2", place=place, branches=branches, missing=missing(wanted, place))


def _pxelinux(boot: BootName, name: str, proto: str, place: Place, ephemerals: Mapping[str, Ephemeral]) -> str | None:
    if boot.address_hex:
        return None  # nine lookups that lead to `default` anyway
    arch = boot.arch or (name.split("/")[0] if name.split("/")[0] in ("ppc64el", "s390x") else PXELINUX_ARCH)
    arch = {"i386": "amd64"}.get(arch, arch)
    image = ephemerals.get(arch)
    found = _STEP_NAME.search(name)
    step = min(int(found["step"]) if found else 0, len(WAITS_S) - 1)
    directory = name[: name.rindex("pxelinux.cfg/")]
    return _text(
        "pxelinux.cfg.j2",
        image=image,
        words=parameters(image, place) if image else [],
        prefix=f"http://{place.http}/" if proto == "http" else "/",
        place=place,
        missing=missing(arch, place),
        wait_s=WAITS_S[step],
        # Who comes from `wait` has waited before asking; who comes from `retry` failed at once and waits now.
        is_retry=found is not None and found["why"] == "retry",
        again=f"/{directory}pxelinux.cfg/default-{arch}-{'retry' if image else 'wait'}-"
        f"{min(step + 1, len(WAITS_S) - 1)}",
    )


def _ephemeral(resource_set: ResourceSet) -> Ephemeral | None:
    resource = resource_set.resource
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


def _steps() -> list[tuple[int, int]]:
    """(this wait, the next one), in seconds."""
    return [*itertools.pairwise(WAITS_S)]


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
    return _ENVIRONMENT.get_template(template).render(**values)
