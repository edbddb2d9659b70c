"""The parts of a region that bring files, keep them true and take them away, made and joined. Does nothing itself."""

from __future__ import annotations

from collections.abc import Callable

from bootplane.control import datadir
from bootplane.control.banners import Board
from bootplane.control.catalogue import Publication
from bootplane.control.config import Settings
from bootplane.control.events import Hub
from bootplane.control.racks import RackBook
from bootplane.control.storage.banners import BannerRepository
from bootplane.control.storage.database import Database
from bootplane.control.storage.repositories import Repositories
from bootplane.control.sync.coordinator import Coordinator
from bootplane.control.sync.custody import Custody
from bootplane.control.sync.dbos_engine import DbosEngine
from bootplane.control.sync.download import Downloader
from bootplane.control.sync.engine import SyncEngine
from bootplane.control.sync.housekeeping import Housekeeper
from bootplane.control.sync.limits import SyncLimits
from bootplane.control.sync.owner import OwnerFile
from bootplane.control.sync.progress import Progress
from bootplane.control.sync.refresh import Refresher
from bootplane.control.sync.removal import Removal
from bootplane.control.sync.sources import SourceKeeper
from bootplane.control.sync.space import Room
from bootplane.control.sync.transport import Transport
from bootplane.control.sync.users import Users
from bootplane.dataplane.store import Store


class SyncParts:
    """*engine*: what runs works, None for the durable one. *publish* brings racks up to date, *published* is what they
    have."""

    def __init__(
        self,
        settings: Settings,
        *,
        region_id: str,
        database: Database,
        rows: Repositories,
        store: Store,
        banners: BannerRepository,
        board: Board,
        hub: Hub,
        racks: RackBook,
        publish: Callable[[], None],
        published: Callable[[], Publication | None],
        engine: SyncEngine | None,
    ) -> None:
        transport = Transport(rows.sources, proxy=settings.proxy, no_proxy=settings.no_proxy)
        self.keeper = SourceKeeper(rows.sources, transport.fetcher, board=board, frozen_after_s=settings.frozen_after_s)
        self.refresher = Refresher(rows.sources, rows.selections, rows.images, rows.blobs, self.keeper, board)
        self.housekeeper = Housekeeper(store, rows.blobs, rows.images, settings.removal_grace_s)
        self.custody = Custody(
            store=store,
            owner=OwnerFile(store.directory, rows.settings, database.make_durable),
            region_id=region_id,
            settings=rows.settings,
            blobs=rows.blobs,
            images=rows.images,
            runs=rows.runs,
            board=board,
            housekeeper=self.housekeeper,
            publish=publish,
            request_sync=lambda: self.coordinator.request() if self.refresher.has_work() else None,
            grace_s=settings.removal_grace_s,
            audit_interval_s=settings.audit_interval_s,
        )
        racks.refused = self.custody.doubt
        self.removal = Removal(
            store,
            rows.blobs,
            rows.images,
            Users(racks.list, rows.timeline.steps),
            grace_s=settings.removal_grace_s,
            may_delete=self.custody.may_delete,
            publish=publish,
            published=published,
        )
        limits = SyncLimits(rows.settings)
        progress = Progress()
        self.coordinator = Coordinator(
            images=rows.images,
            blobs=rows.blobs,
            runs=rows.runs,
            settings=rows.settings,
            board=board,
            limits=limits,
            refresher=self.refresher,
            housekeeper=self.housekeeper,
            removal=self.removal,
            engine=engine or _durable(settings, region_id, rows),
            downloader=Downloader(
                store,
                rows.blobs,
                rows.runs,
                progress,
                attempts=settings.fetch_attempts,
                fetcher=transport.fetcher,
                throttle=limits.throttle,
            ),
            progress=progress,
            room=Room(store, banners, settings.low_space_bytes),
            hub=hub,
            publish=publish,
            interval_s=settings.sync_interval_s,
        )


def _durable(settings: Settings, region_id: str, rows: Repositories) -> SyncEngine:
    return DbosEngine(
        settings.database or f"sqlite:///{settings.data / datadir.SYNC_DATABASE}",
        rows.leases,
        region_id=region_id,
        parallel=settings.parallel_downloads,
        lease_s=settings.lease_s,
        alone=settings.database is None,
    )
