"""What a plan means for the sets we hold: which come, which stay, which go. Pure.

The choices say what sources offer and selections want; the stored sets say what is here or on its way. Rules:
- the chosen version of a resource comes, unless a newer complete one is here (going back is an operator's word);
- an incomplete set that is not chosen any more goes at once, nobody can have booted it;
- while a source could not be read, one of lower priority replaces nothing that came from it;
- a complete set stays while its resource is chosen or still selected, though upstream dropped it; otherwise it is
  marked, and goes after the grace time;
- a commissioning release stays until another one of its arch is whole;
- of two boot loaders for one kind of machine only the chosen one stays;
- an operator's upload is none of a sync's business, and no source's product takes its name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bootplane.control.domain.images import CUSTOM_OS, UPLOADED_LABEL, BootResource, Product, Selection
from bootplane.control.simplestreams.commissioning import commissions, is_commissioning
from bootplane.control.simplestreams.paths import url_of
from bootplane.control.simplestreams.plan import Plan
from bootplane.control.simplestreams.select import Choice, wants
from bootplane.control.storage.images import StoredSet, WantedSet


@dataclass(frozen=True, slots=True)
class Decision:
    wanted: tuple[WantedSet, ...]
    dropped: tuple[int, ...]  # ids of incomplete sets
    marked: tuple[int, ...]  # ids of complete sets
    refused: tuple[str, ...]  # one sentence for each set that is not taken


@dataclass(frozen=True, slots=True)
class Fetch:
    """One file to be had. *urls*: where, the preferred place first."""

    sha256: str
    size: int  # bytes
    path: str  # for people
    urls: tuple[str, ...]


def decide(
    choices: Sequence[Choice],
    plan: Plan,
    stored: Sequence[StoredSet],
    selections: Sequence[Selection],
    unread: Mapping[str, int] | None = None,
) -> Decision:
    """See the module's text. A choice whose files contradict each other (plan.refused) is not taken; ours stays.
    *unread*: sources that could not be read, id -> priority."""
    refused: list[str] = []
    wanted: list[WantedSet] = []
    keep_ids: set[int] = set()
    by_name: dict[str, list[StoredSet]] = {}
    uploads = {each.resource_set.resource.name for each in stored if each.resource_set.resource.is_uploaded}
    for each in stored:
        by_name.setdefault(each.resource_set.resource.name, []).append(each)
    chosen_names = {choice.resource.name for choice in choices}
    chosen_loaders = {
        _loader(choice.resource): choice.resource.name for choice in choices if choice.resource.is_bootloader
    }
    unread = unread or {}
    held = {
        _place(each.resource_set.resource): unread[each.source_id]
        for each in stored
        if each.marked is None and each.source_id is not None and each.source_id in unread
    }
    for choice in choices:
        name = choice.resource.name
        if name in uploads or choice.resource.os == CUSTOM_OS or choice.resource.label == UPLOADED_LABEL:
            refused.append(f"{name} {choice.version.name} is not taken: its name is that of an operator's upload")
            continue
        if held.get(_place(choice.resource), -1) > choice.source.priority:
            keep_ids.update(each.id for each in by_name.get(name, ()))
            chosen_loaders.pop(_loader(choice.resource), None)
            continue
        digests = {item.sha256 for item in choice.items}
        reason = next((each.sentence for each in plan.refused if each.digests & digests), None)
        if reason is not None:
            refused.append(f"{name} {choice.version.name} is not taken: {reason}")
            keep_ids.update(each.id for each in by_name.get(name, ()))
            continue
        if any(each.complete and each.resource_set.version > choice.version.name for each in by_name.get(name, ())):
            keep_ids.update(each.id for each in by_name[name] if each.complete)
            continue
        paths = {item.file_name: item.path for item in choice.items}
        wanted.append(WantedSet(choice.resource_set(), choice.source.id, paths, choice.told()))
    coming = {(each.resource_set.resource.name, each.resource_set.version) for each in wanted}
    unasked = _still_commissioning(stored, chosen_names, selections)
    dropped: list[int] = []
    marked: list[int] = []
    for each in stored:
        resource = each.resource_set.resource
        if resource.is_uploaded:
            continue
        if each.id in keep_ids or (resource.name, each.resource_set.version) in coming:
            continue
        if not each.complete:
            is_wanted = is_selected(resource, selections) or each.id in unasked
            if resource.name in chosen_names or not is_wanted or each.source_id is None:
                dropped.append(each.id)
            continue
        replaced = resource.is_bootloader and chosen_loaders.get(_loader(resource), resource.name) != resource.name
        is_wanted = resource.name in chosen_names or is_selected(resource, selections) or each.id in unasked
        if replaced or not is_wanted:
            marked.append(each.id)
    return Decision(tuple(wanted), tuple(dropped), tuple(marked), tuple(refused))


def changes(wanted: Iterable[WantedSet], stored: Iterable[StoredSet]) -> list[WantedSet]:
    """Those of *wanted* that the database does not have just so: with nothing new upstream, none."""

    def key(each: WantedSet | StoredSet) -> tuple[object, ...]:
        of = each.resource_set
        return of.resource, of.version, frozenset(of.files), each.source_id, frozenset(each.paths.items())

    there = {key(each): each.told for each in stored if each.marked is None}
    return [each for each in wanted if key(each) not in there or there[key(each)] != each.told]


def fetches(
    stored: Iterable[StoredSet],
    present: Iterable[str],
    base_urls: Mapping[str, str],
    offers: Mapping[str, Sequence[str]],
) -> list[Fetch]:
    """What incomplete sets, and complete ones that want a further file, still lack: each digest once.

    *base_urls*: source id -> where its paths begin, quoted and ending in a slash. *offers*: digest -> URLs of the
    plan, the preferred first; empty when a sync goes on after a restart, then each file's own place is used.
    """
    held = set(present)
    found: dict[str, Fetch] = {}
    for each in stored:
        if each.marked is not None or each.source_id is None or each.source_id not in base_urls:
            continue
        for file in each.resource_set.files:
            if file.sha256 in held or file.sha256 in found:
                continue
            path = each.paths[file.name]
            urls = tuple(offers.get(file.sha256, ())) or (url_of(base_urls[each.source_id], path),)
            found[file.sha256] = Fetch(file.sha256, file.size, path, urls)
    return list(found.values())


def is_selected(resource: BootResource, selections: Iterable[Selection]) -> bool:
    """Whether some selection still asks for this resource, as far as what we stored of it can tell."""
    number = re.search(r"\d+(\.\d+)*", resource.title)
    flavour = f"-{resource.kflavor}" if resource.kflavor else ""
    product = Product(
        id="",
        content_id="",
        os=resource.os,
        arch=resource.arch,
        label=resource.label,
        versions=(),
        release=resource.release,
        version=number[0] if number else "",
        title=resource.title,
        codename=resource.codename,
        subarch=resource.subarch.replace(flavour, "") if flavour else resource.subarch,
        arches=(resource.arch,),
        kflavor=resource.kflavor,
        bootloader_type=resource.bootloader_type,
    )
    return any(wants(selection, product) for selection in selections)


def _still_commissioning(
    stored: Sequence[StoredSet], chosen_names: Collection[str], selections: Sequence[Selection]
) -> set[int]:
    """Ids of commissioning sets without which machines of an arch whose images stay would have none."""
    images = [
        (each, each.resource_set.resource)
        for each in stored
        if each.marked is None and not each.resource_set.resource.is_bootloader
    ]
    covered = {of.arch for each, of in images if each.complete and of.name in chosen_names and commissions(of)}
    staying = {
        of.arch for _, of in images if not of.is_uploaded and (of.name in chosen_names or is_selected(of, selections))
    }
    return {each.id for each, of in images if is_commissioning(of) and of.arch in staying - covered}


def _place(resource: BootResource) -> tuple[str, ...]:
    """What only one resource may stand for."""
    return _loader(resource) if resource.is_bootloader else (resource.name,)


def _loader(resource: BootResource) -> tuple[str, str]:
    return resource.bootloader_type, resource.arch
