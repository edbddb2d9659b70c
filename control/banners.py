"""Every banner there can be: its identifier, and what to do. docs/reference/banners.md says what each means.

A banner is a condition and not an event: it is raised when the condition is found, keeps its ``since`` while it lasts,
and ends by itself when it is found gone. Identifiers never change; one that is about a thing ends in the thing's id
(``source-away-3``).
"""

from __future__ import annotations

from dataclasses import dataclass

from bootplane.control.storage.banners import BannerRepository


@dataclass(frozen=True, slots=True)
class Kind:
    """One condition. *id* is the whole identifier, or what stands before the thing's id; *remedy* may depend on more
    than the kind, and is given with the text then."""

    id: str
    remedy: str = ""

    def of(self, subject: str = "") -> str:
        return f"{self.id}-{subject}" if subject else self.id


SYNC_ENGINE = Kind("sync-engine", "See the region's log.")
SYNC_FAILED = Kind("sync", "Mend it, then run `bootplane sync`; the next period tries again by itself.")
DISK_FULL = Kind("disk-full", "Free disk space or remove selections; it goes on by itself.")
LOW_SPACE = Kind("low-space", "Free some disk space or remove selections.")
FILES_REFUSED = Kind(
    "files-refused", "Ask who runs the source; everything else is fetched, and older versions are served meanwhile."
)
SOURCE_AWAY = Kind(
    "source-away", "Check the network, the proxy and the source's URL; what is here is served meanwhile."
)
SOURCE_REFUSED = Kind(
    "source-refused", "Nothing of it is taken: compare its keyring with `bootplane source check`, ask who runs it."
)
SOURCE_OLDER = Kind(
    "source-older",
    "Ask who runs it. If it really went back, `bootplane source check NAME --accept-older` takes what it says now.",
)
SOURCE_FROZEN = Kind(
    "source-frozen",
    "Ask who runs it, or use another mirror: security updates may be held back. `frozen_after` sets it.",
)
SOURCE_FUTURE = Kind(
    "source-future",
    "Check this host's clock (`timedatectl`), else ask who runs the source. Its images are taken meanwhile, and so "
    "will be the next index with an honest date.",
)
SELECTION_UNOFFERED = Kind(
    "selection-unoffered",
    "Check its words with `bootplane select list`, or remove it; images of it that are here stay while it is there.",
)
STORE_OWNER = Kind("store-owner", "Add boot sources and selections again and sync, or stop and restore the database.")
STORE_DAMAGED = Kind(
    "store-damaged", "Look at the disk: its log, smartctl. What is damaged is fetched again by itself."
)
STORE_EMPTIED = Kind(
    "store-emptied", "Is its disk mounted? If it is, nothing is to be done: what is wanted is fetched again."
)
UPLOADS_LOST = Kind("uploads-lost", "Upload them again with `bootplane image upload`.")
MAAS_MIGRATION = Kind(
    "maas-migration",
    "Stop the region and run `bootplane migrate-maas --database URL` again; it goes on where it stopped. `--give-up` "
    "ends it with what has come.",
)

KINDS = (
    SYNC_ENGINE,
    SYNC_FAILED,
    DISK_FULL,
    LOW_SPACE,
    FILES_REFUSED,
    SOURCE_AWAY,
    SOURCE_REFUSED,
    SOURCE_OLDER,
    SOURCE_FROZEN,
    SOURCE_FUTURE,
    SELECTION_UNOFFERED,
    STORE_OWNER,
    STORE_DAMAGED,
    STORE_EMPTIED,
    UPLOADS_LOST,
    MAAS_MIGRATION,
)


class Board:
    """Raises and ends banners by their kind."""

    def __init__(self, banners: BannerRepository) -> None:
        self._banners = banners

    def show(self, kind: Kind, text: str, subject: str = "", remedy: str = "") -> None:
        self._banners.raise_(kind.of(subject), text, remedy or kind.remedy)

    def end(self, kind: Kind, subject: str = "") -> None:
        self._banners.end(kind.of(subject))

    def since(self, kind: Kind) -> str | None:
        """When it began; None: it is not shown."""
        return next((banner.since for banner in self._banners.list() if banner.id == kind.id), None)

    def only(self, kind: Kind, texts: dict[str, str]) -> None:
        """Of *kind* exactly these: subject -> text."""
        for banner in self._banners.list():
            subject = banner.id.removeprefix(f"{kind.id}-")
            if subject != banner.id and subject not in texts:
                self._banners.end(banner.id)
        for subject, text in texts.items():
            self.show(kind, text, subject)
