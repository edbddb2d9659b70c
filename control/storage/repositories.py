"""The nouns of one database, each with its repository."""

from __future__ import annotations

from bootplane.control.storage.blobs import BlobRepository
from bootplane.control.storage.database import Database
from bootplane.control.storage.images import ImageRepository
from bootplane.control.storage.leases import LeaseRepository
from bootplane.control.storage.racks import RackRepository
from bootplane.control.storage.runs import RunRepository
from bootplane.control.storage.selections import SelectionRepository
from bootplane.control.storage.settings import SettingsRepository
from bootplane.control.storage.sources import SourceRepository
from bootplane.control.storage.timeline import TimelineRepository
from bootplane.control.storage.uploads import UploadRepository


class Repositories:
    """All but the banners', which tells somebody."""

    def __init__(self, database: Database) -> None:
        self.settings = SettingsRepository(database)
        self.sources = SourceRepository(database)
        self.selections = SelectionRepository(database)
        self.images = ImageRepository(database)
        self.blobs = BlobRepository(database)
        self.uploads = UploadRepository(database)
        self.runs = RunRepository(database)
        self.leases = LeaseRepository(database)
        self.racks = RackRepository(database)
        self.timeline = TimelineRepository(database)
