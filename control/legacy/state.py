"""Whether a migration from MAAS has begun and not succeeded: while it has not, no machine is commissioned or deployed.

The fact stands in the region's settings, so that every process and every start sees it; a banner says it to people.
"""

from __future__ import annotations

from bootplane.control.banners import MAAS_MIGRATION, Board
from bootplane.control.storage.settings import SettingsRepository

MIGRATION = "maas_migration"  # settings: absent, "pending" or "done"
PENDING, DONE = "pending", "done"
TEXT = "The migration from MAAS has not succeeded yet: machines cannot be commissioned or deployed until it has."


def is_pending(settings: SettingsRepository) -> bool:
    """What commissioning and deploying must ask first."""
    return settings.get(MIGRATION) == PENDING


def is_done(settings: SettingsRepository) -> bool:
    return settings.get(MIGRATION) == DONE


def begin(settings: SettingsRepository, board: Board, why: str = "") -> None:
    settings.put({MIGRATION: PENDING})
    board.show(MAAS_MIGRATION, f"{TEXT} {why}".strip())


def succeed(settings: SettingsRepository, board: Board) -> None:
    settings.put({MIGRATION: DONE})
    board.end(MAAS_MIGRATION)
