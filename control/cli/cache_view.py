"""What a rack's cache has, how far that carries and what a storm would cost it, in sentences and tables.

Of the API's documents (RackCache, RackForecast). Left to others: asking (rack), the numbers (the rack's beat).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer

from bootplane.control.cli import figures, output
from bootplane.dataplane import units

LATE_S = 6.0  # a rack tells each 5 s: what is older is said to be


def print_cache(document: dict[str, Any]) -> None:
    for sentence in cache_sentences(document):
        typer.echo(output.clean(sentence))
    _print_files(document)
    _print_evictions(document["evictions"])
    _print_refusals(document["refusals"])


def print_forecast(document: dict[str, Any]) -> None:
    for sentence in forecast_sentences(document):
        typer.echo(output.clean(sentence))
    if document["evicted"]:
        typer.echo()
        output.print_table(
            ("WOULD LEAVE", "SIZE", "BYTES"),
            (
                (
                    share["name"] or share["sha256"][:16] or "others",
                    units.size(share["size"] or None),
                    units.size(share["bytes"]),
                )
                for share in document["evicted"]
            ),
            right=("SIZE", "BYTES"),
        )


def forecast_sentences(forecast: dict[str, Any]) -> list[str]:
    """What a storm of an image would cost a rack, in sentences."""
    size = units.size
    told = "" if forecast["age_s"] <= LATE_S else f" This is as of {figures.duration(forecast['age_s'])} ago."
    needs = f"{forecast['image']} {forecast['version']} is {size(forecast['size'])}"
    cached = f"in the cache of rack {forecast['name']}"
    in_place = "in the region's own directory, which the rack reads"
    if not forecast["needed_bytes"]:
        where = cached
        if forecast["in_place_bytes"]:
            where = f"{cached} or {in_place}" if forecast["present_bytes"] else f"{in_place} ({forecast['name']})"
        return [f"{needs}: all of it is {where}; a storm would fetch nothing.{told}"]
    here = f"{size(forecast['present_bytes'])} of it {cached}"
    if forecast["in_place_bytes"]:
        here += f" and {size(forecast['in_place_bytes'])} {in_place}"
    sentences = [f"{needs}, {here}: a storm would fetch {size(forecast['needed_bytes'])}, once.{told}"]
    free = f"{size(forecast['free_bytes'])} of {size(forecast['limit_bytes'])} are free"
    if forecast["evicted_bytes"]:
        sentences.append(f"{free}: {size(forecast['evicted_bytes'])} would leave for it, about in this order.")
    else:
        sentences.append(f"{free}: no other file would leave for it.")
    if forecast["short_bytes"]:
        sentences.append(
            f"It does not fit: {size(forecast['short_bytes'])} of it would push out its own beginning, "
            "and be fetched again for machines that come late."
        )
    return sentences


def cache_sentences(cache: dict[str, Any]) -> list[str]:
    """The state of a cache in sentences. Percentages are rounded down: 100 % means all."""
    size, count = figures.size, figures.count
    told = f"Rack {cache['name']}, up for {figures.duration(cache['up_s'])}"
    if cache["age_s"] > LATE_S:
        told += f"; told {figures.duration(cache['age_s'])} ago ({cache['heard']}), silent since"
    used = f"{size(cache['charged_bytes'])} of {size(cache['limit_bytes'])} used"
    if cache["limit_bytes"]:
        used += f" ({100 * cache['charged_bytes'] // cache['limit_bytes']} %)"
    used += f" in {count(cache['segments'], 'segment')}"
    if cache["protected_bytes"] or cache["reused_bytes"]:
        used += f": {size(cache['protected_bytes'])} protected, {size(cache['reused_bytes'])} in lasting use"
    if cache["condemned_bytes"]:
        used += f"; {size(cache['condemned_bytes'])} evicted, but still being read"
    evicted = "Nothing was evicted."
    if cache["evicted_segments"]:
        reasons = (("room", "for room"), ("limit", "by a lower limit"), ("disk", "for a full disk"))
        why = ", ".join(
            f"{cache[f'evicted_{key}_segments']} {words}" for key, words in reasons if cache[f"evicted_{key}_segments"]
        )
        evicted = f"Evicted: {count(cache['evicted_segments'], 'segment')}, {size(cache['evicted_bytes'])} ({why})."
    refused = "No chunk was refused."
    if cache["refused_chunks"]:
        was = "was" if cache["refused_chunks"] == 1 else "were"
        refused = f"{count(cache['refused_chunks'], 'chunk')} {was} refused for a wrong digest; no machine saw them."
    sentences = [f"{told}.", f"{used}.", _hits(cache), _upstream(cache), f"{evicted} {refused}"]
    return sentences + [said for key, words in _SAID_WHEN_THERE_IS if cache[key] and (said := words(cache))]


def _hits(cache: dict[str, Any]) -> str:
    if not cache["transfers"]:
        return "No machine has fetched anything yet."
    percent = 100 * cache["hits"] // cache["transfers"]
    noun = "transfer" if cache["transfers"] == 1 else "transfers"
    waited = f"{cache['misses']:,} had to wait for the region"
    if cache["coalesced"]:
        waited += f", {cache['coalesced']:,} for what others had asked for already"
    return f"{percent} % of {cache['transfers']:,} {noun} found everything here; {waited}."


def _upstream(cache: dict[str, Any]) -> str:
    """How many bytes went to machines for each that was fetched."""
    gave, served = figures.size(cache["upstream_bytes"]), figures.size(cache["served_bytes"])
    if not cache["upstream_bytes"]:
        return f"Upstream gave nothing for {served} served."
    times = cache["served_bytes"] / cache["upstream_bytes"]
    return f"Upstream gave {gave} for {served} served ({f'{times:.0f}' if times >= 10 else f'{times:.1f}'} x)."


def _open(cache: dict[str, Any]) -> str:
    files = f"{cache['open_segments']} of {cache['segments']} files are open"
    return f"{files}; one was opened again {figures.count(cache['reopened_segments'], 'time')}."


def _ghost(cache: dict[str, Any]) -> str:
    """What a larger cache would have been good for."""
    if not cache["made_segments"]:
        return ""
    shares = [100 * cache[f"ghost_{times}_segments"] // cache["made_segments"] for times in ("double", "quadruple")]
    twice, four_times = (figures.size(times * cache["limit_bytes"]) for times in (2, 4))
    made = figures.count(cache["made_segments"], "segment")
    return (
        f"Of {made} fetched, a cache of {twice} would still have had {shares[0]} %, one of {four_times} {shares[1]} %."
    )


def _throttled(cache: dict[str, Any]) -> str:
    limit = units.rate(cache["upstream_limit_bytes_s"])
    waited = "nobody has waited for that yet"
    if cache["throttled_s"]:
        waited = f"machines have waited for that for {figures.duration(cache['throttled_s'])}"
    return f"Upstream is limited to {limit}; {waited}."


def _kept(cache: dict[str, Any]) -> str:
    """What an earlier run left, and what became of it."""
    said = f"{figures.count(cache['kept_segments'], 'segment')} kept from the run before"
    if cache["rechecked_chunks"] or cache["rotten_chunks"]:
        looked = figures.count(cache["rechecked_chunks"], "chunk")
        said += f"; {looked} hashed before the first use, {cache['rotten_chunks'] or 'none'} found rotten"
    if cache["misfit_segments"]:
        said += f"; {cache['misfit_segments']} did not fit what the catalogue says of their files"
    return f"{said}."


def _scrub(cache: dict[str, Any]) -> str:
    looked = figures.count(cache["scrub_chunks"], "chunk")
    said = f"Scrub: {looked} read again from the disk, {cache['scrub_damaged'] or 'none'} damaged"
    if cache["scrub_passes"]:
        last = figures.duration(cache["scrub_last_pass_s"])
        passes = "1 whole pass" if cache["scrub_passes"] == 1 else f"{cache['scrub_passes']} whole passes"
        said += f"; {passes}, the last in {last}"
    return f"{said}."


def _in_place(cache: dict[str, Any]) -> str:
    files = figures.count(cache["in_place_files"], "file")
    return f"{files} served from the region's own directory: not in the cache, and not counted as used."


_SAID_WHEN_THERE_IS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (  # in this order
    ("reopened_segments", _open),
    ("evicted_segments", _ghost),
    ("upstream_limit_bytes_s", _throttled),
    ("kept_segments", _kept),
    ("scrub_chunks", _scrub),
    ("in_place_files", _in_place),
)


def _print_files(cache: dict[str, Any]) -> None:
    if not cache["files"]:
        return
    typer.echo()
    output.print_table(
        ("FILE", "SIZE", "HERE", "%"),
        (
            (
                file["name"] or f"{file['sha256'][:16]} (withdrawn)",
                figures.size(file["size"]),
                figures.size(file["present_bytes"]),
                str(file["percent"]),
            )
            for file in cache["files"]
        ),
        right=("SIZE", "HERE", "%"),
    )
    if cache["files_total"] > len(cache["files"]):
        output.say(f"The {len(cache['files'])} with most bytes here, of {cache['files_total']}.")
    if cache["files_age_s"] > LATE_S:
        output.say(f"The list of files is {figures.duration(cache['files_age_s'])} older than the rest.")


def _print_evictions(evictions: Sequence[dict[str, Any]]) -> None:
    if not evictions:
        return
    typer.echo("\nLeft last:")
    for eviction in evictions:
        typer.echo(output.clean(f"  {eviction['at']}  {eviction_sentence(eviction)}"))


def eviction_sentence(eviction: dict[str, Any]) -> str:
    """Which file lost how much, why, for whom, and how long that had not been used."""
    file = eviction["name"] or f"{eviction['sha256'][:16]} (withdrawn)"
    lost = f"{figures.count(eviction['segments'], 'segment')} ({figures.size(eviction['bytes'])}) of {file}"
    wanted = eviction["wanted_name"] or eviction["wanted_by"][:16]
    unused = f", unused for {figures.duration(eviction['idle_s'])}"
    why = {
        "room": f"made room for {wanted or 'others'}{unused}",
        "limit": f"left as the limit was lowered{unused}",
        "disk": f"left as the disk was full{unused}",
        "dropped": "left as no catalogue names it any more",
        "rotten": "left as it was damaged on the disk",
    }
    return f"{lost} {why.get(eviction['reason'], eviction['reason'])}."


def _print_refusals(refusals: Sequence[dict[str, Any]]) -> None:
    if not refusals:
        return
    typer.echo()
    output.print_table(
        ("REFUSED AT", "FILE", "CHUNK", "FROM", "EXPECTED", "GOT"),
        ((r["at"], r["blob"][:16], str(r["chunk"]), r["source"], r["expected"][:16], r["got"][:16]) for r in refusals),
        right=("CHUNK",),
    )
