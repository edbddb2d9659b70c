"""Whether a migration from MAAS has begun and not succeeded: while it has not, no machine is commissioned or deployed.

The fact stands in the region's settings, so that every process and every start sees it; a banner says it to people.
"""

from __future__ import annotations

from bootplane.control.storage.banners import BannerRepository
from bootplane.control.storage.settings import SettingsRepository

MIGRATION = "maas_migration"  # settings: absent, "pending" or "done"
PENDING, DONE = "pending", "done"
BANNER = "maas-migration"
TEXT = "The migration from MAAS has not succeeded yet: machines cannot be commissioned or deployed until it has."
REMEDY = "Stop the region and run `bootplane migrate-maas --database URL` again; it goes on where it stopped."


def is_pending(settings: SettingsRepository) -> bool:
    """What commissioning and deploying must ask first."""
    return settings.get(MIGRATION) == PENDING


def begin(settings: SettingsRepository, banners: BannerRepository, why: str = "") -> None:
    settings.put({MIGRATION: PENDING})
    banners.raise_(BANNER, f"{TEXT} {why}".strip(), REMEDY)


def succeed(settings: SettingsRepository, banners: BannerRepository) -> None:
    settings.put({MIGRATION: DONE})
    banners.end(BANNER)
