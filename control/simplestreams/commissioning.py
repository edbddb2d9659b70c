"""The commissioning release: the Ubuntu that machines run while they are enlisted, looked at, installed, wiped. Pure.

It is nobody's selection, like boot loaders: a root archive, a CentOS or an operator's image brings no system of its own
to install it with. Where selections ask for images of an arch, and for no tested Ubuntu of it, the newest LTS that is
offered for that arch comes with them: the kernel it was released with, of which there always is one.

Left to others: which sources offer what (select), what stays meanwhile (sync.decide).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bootplane.control.domain.images import BootResource, Product

RELEASED = "ga-"  # what the name of the kernel begins with that a release came out with
GENERIC = ("", "generic")


def commissions(resource: BootResource) -> bool:
    """Whether machines of its arch could be commissioned with it."""
    is_synced_image = not (resource.is_bootloader or resource.is_uploaded)
    return is_synced_image and resource.os == "ubuntu" and resource.is_tested


def is_commissioning(resource: BootResource) -> bool:
    """Whether it is one that comes without being asked for."""
    is_released = resource.subarch.startswith(RELEASED) and resource.kflavor in GENERIC
    return commissions(resource) and is_released and resource.lts is not None


def also_wanted(offered: Sequence[Product], wanted: Iterable[Product]) -> list[Product]:
    """Those of *offered* that no selection asks for and that machines need for what is *wanted*."""
    images = [product.resource for product in wanted if not product.is_bootloader]
    lacking = {image.arch for image in images} - {image.arch for image in images if commissions(image)}
    found: list[Product] = []
    for arch in sorted(lacking):
        able = [each for each in offered if each.arch == arch and is_commissioning(each.resource)]
        newest = max((each.resource.lts or () for each in able), default=())
        found += [each for each in able if each.resource.lts == newest]
    return found
