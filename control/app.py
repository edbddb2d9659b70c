"""The one place that builds everything a region is made of, and the order in which it starts and ends.

Invariant: nothing below knows how anything else is made; whatever owns a thread, a descriptor or a file is closed here,
in the reverse order. Starting raises StartError in one sentence and leaves nothing running.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import threading
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from starlette.routing import BaseRoute

from bootplane.control import datadir, metrics
from bootplane.control.api import images, racks, routes, sources, uploads
from bootplane.control.api.application import application, probes
from bootplane.control.api.sessions import Sessions
from bootplane.control.banners import Board
from bootplane.control.bulk import BulkServer
from bootplane.control.catalogue import Publisher, contents
from bootplane.control.config import Settings
from bootplane.control.errors import BootplaneError, StartError
from bootplane.control.events import Hub
from bootplane.control.identity import new_region_id, signing_key
from bootplane.control.image_service import ImageService
from bootplane.control.metadata import MetadataApi
from bootplane.control.rack_api import RackApi
from bootplane.control.rack_service import RackService
from bootplane.control.racks import RackBook
from bootplane.control.service import RegionService
from bootplane.control.source_service import SourceService
from bootplane.control.storage.banners import Banner, BannerRepository
from bootplane.control.storage.database import Database, now_text
from bootplane.control.storage.repositories import Repositories
from bootplane.control.storage.settings import REGION_ID
from bootplane.control.sync.build import SyncParts
from bootplane.control.sync.engine import SyncEngine
from bootplane.control.tickets import Tickets
from bootplane.control.timeline import Timeline
from bootplane.control.uploads.uploads import Uploads
from bootplane.control.web import pages
from bootplane.dataplane.store import Store, StoreError

_LOG = logging.getLogger("bootplane.region")


class Region:
    """Everything of one region process. ``app`` is its ASGI application; its lifespan starts and ends the rest."""

    def __init__(
        self, settings: Settings, *, engine: SyncEngine | None = None, bulk_socket: socket.socket | None = None
    ) -> None:
        """*bulk_socket*: listens already, in place of settings.bulk."""
        self.settings = settings
        self.listen = settings.listen  # the true address once it is bound
        self.failure = ""  # why start() did not come to its end, one sentence
        self.is_quiet = True  # after close(): no thread is left that waits for somebody outside
        self._bulk_socket = bulk_socket
        self._undo = contextlib.ExitStack()
        try:
            self._open(settings)
            self._join(settings, engine)
            self._offer(settings)
            self.app = application(self._routers(), self._routes(), self._lifespan)
        except SQLAlchemyError as error:
            self._undo.close()
            raise StartError(f"{settings.data}: cannot start: {_reason(error)}") from None
        except BaseException:  # goes on to the caller: what was built so far holds locks and descriptors
            self._undo.close()
            raise

    def _open(self, settings: Settings) -> None:
        """What this process has for itself: the directory, the database, the store."""
        directory = settings.data
        datadir.prepare(directory)
        self._undo.callback(datadir.Lock(directory / "region.lock", "region").release)
        self.admin_token = datadir.secret(directory / datadir.ADMIN_TOKEN, lambda: secrets.token_hex(32))
        self.key = signing_key(directory)
        self.database = Database(settings.database_url)
        self._undo.callback(self.database.close)
        self.database.migrate()
        try:
            self.store = Store(directory, keep_free_bytes=settings.disk_reserve_bytes)
        except StoreError as error:
            raise StartError(str(error)) from None
        self._undo.callback(datadir.Lock(self.store.directory / ".lock", "region").release)

        rows = self.rows = Repositories(self.database)
        self.settings_rows, self.sources, self.selections = rows.settings, rows.sources, rows.selections
        self.images, self.blobs, self.runs = rows.images, rows.blobs, rows.runs
        self.region_id = self.settings_rows.get_or_put(REGION_ID, new_region_id())

    def _join(self, settings: Settings, engine: SyncEngine | None) -> None:
        """What brings images in, keeps them, and hands them to racks."""
        rows = self.rows
        self.hub = Hub()
        self.banners = BannerRepository(self.database, self._banner_changed)
        board = Board(self.banners)
        self.timeline = Timeline(
            rows.timeline, self.hub, age_s=settings.timeline_age_s, events=settings.timeline_events
        )
        self._undo.callback(self.timeline.close)
        self.tickets = Tickets(self.key.secret_bytes())
        self.racks = RackBook(rows.racks)
        self.publisher = Publisher(self.region_id, self.key, rows.settings)
        self._publishing = threading.Lock()
        self.bulk = BulkServer(self.store, settings.bulk, self._bulk_socket)
        self._undo.callback(self.bulk.stop)
        self.sync = SyncParts(
            settings,
            region_id=self.region_id,
            database=self.database,
            rows=rows,
            store=self.store,
            banners=self.banners,
            board=board,
            hub=self.hub,
            racks=self.racks,
            publish=self.publish,
            published=lambda: self.publisher.current,
            engine=engine,
        )
        self.custody, self.removal, self.coordinator = self.sync.custody, self.sync.removal, self.sync.coordinator
        self.housekeeper = self.sync.housekeeper
        self.uploads = Uploads(
            store=self.store,
            rows=rows.uploads,
            blobs=rows.blobs,
            images=rows.images,
            selections=rows.selections,
            offered=rows.sources.offered,
            publish=self.publish,
            hub=self.hub,
            board=board,
        )
        self.intake = uploads.Intake(self.uploads)
        self.removal.arriving = self.uploads.digests
        self._undo.callback(self.intake.close)
        self._undo.callback(self.uploads.close)

    def _offer(self, settings: Settings) -> None:
        """What people and racks may ask."""
        rows = self.rows
        self.sessions = Sessions(self.admin_token, self.key.secret_bytes())
        self.source_service = SourceService(rows.sources, self.sync.keeper, self.sync.refresher, self.hub)
        self.image_service = ImageService(
            images=rows.images,
            blobs=rows.blobs,
            sources=rows.sources,
            selections=rows.selections,
            store=self.store,
            published=lambda: self.publisher.current,
            publish=self.publish,
        )
        self.rack_service = RackService(
            self.racks, self.hub, image=self.image_service.show, public_key=self.key.public_hex
        )
        self.service = RegionService(
            region_id=self.region_id,
            started=now_text()[:19] + "Z",
            listen=lambda: self.listen,
            bulk=lambda: self.bulk.address,
            store=self.store,
            sources=self.source_service,
            selections=rows.selections,
            images=self.image_service,
            blobs=rows.blobs,
            banners=self.banners,
            racks=self.rack_service,
            coordinator=self.coordinator,
            publisher=self.publisher,
            hub=self.hub,
            timeline=self.timeline,
            login_link=self.sessions.new_link,
            custody=self.custody,
        )
        self._rack_api = RackApi(
            region_id=self.region_id,
            publisher=self.publisher,
            racks=self.racks,
            store=self.store,
            blobs=rows.blobs,
            hub=self.hub,
            bulk=lambda: list(settings.bulk_advertise) or [self.bulk.address],
            timeline=self.timeline,
            tickets=self.tickets,
        )
        self._metadata = MetadataApi(
            region_id=self.region_id, tickets=self.tickets, racks=self.racks, timeline=self.timeline
        )

    def _routers(self) -> list[APIRouter]:
        return [
            routes.router(self.service, self.sessions, self.hub),
            sources.router(self.source_service, self.sessions),
            images.router(self.image_service, self.sessions),
            uploads.router(self.uploads, self.sessions, self.intake),
            racks.router(self.rack_service, self.sessions),
            pages.router(self.service, self.sessions, self.uploads),
        ]

    def _routes(self) -> list[BaseRoute]:
        exposition = metrics.exposition(self.bulk.counters, self.service.status, self.timeline, self.uploads.figures)
        return [*self._rack_api.routes(), *self._metadata.routes(), *probes(exposition)]

    def _banner_changed(self, banner: Banner, stands: bool) -> None:
        if stands:
            _LOG.warning("banner %s: %s", banner.id, banner.text)
        else:
            _LOG.info("banner %s ended", banner.id)
        self.hub.publish("banner", {"id": banner.id, "stands": stands, "text": banner.text, "remedy": banner.remedy})

    def publish(self) -> None:
        """Bring bulk table and catalogue up to date with the database. Blobs first: a rack asks at once."""
        with self._publishing:
            present = self.blobs.present()
            new = contents(self.images.sets(), self.blobs.derived(), self.blobs.promised(), self.blobs.lost())
            self.bulk.publish(((blob.sha256, blob.size) for blob in present.values()), self.blobs.removed())
            before = self.publisher.current
            self.custody.before_publishing(has_names=bool(new.names))
            published = self.publisher.publish(new)
        if published is not before:
            _LOG.info("catalogue version %d: %d names, %d files", published.version, len(new.names), len(new.blobs))
            self.hub.publish("images", {"version": published.version})
            self.custody.published(published.version)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Store and database in step, catalogue published, then the threads."""
        found = self.custody.take()
        self.publisher.attach(loop)
        self.hub.attach(loop)
        self.publish()
        self.bulk.start(loop)
        self.timeline.start()
        self.uploads.start()
        self.coordinator.start()
        self.custody.auditor.start()
        if found.missing:
            _LOG.error("%d files are missing or cut: fetching them again", len(found.missing))
            self.coordinator.request()

    def end_waits(self) -> None:
        """On the loop, before connections are waited for: long polls and event streams end now."""
        self.hub.close()
        self.publisher.end_waits()
        self.intake.end_waits()

    def close(self) -> None:
        """In reverse. The running sync stays unfinished and goes on at the next start."""
        self.custody.auditor.end()
        self.is_quiet = self.coordinator.close()
        self.custody.auditor.stop()
        if self.is_quiet:
            self.custody.leave()
        self._undo.close()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, self.start, loop)
        except (OSError, SQLAlchemyError, BootplaneError) as error:  # a traceback would bury the sentence
            self.failure = f"{self.settings.data}: cannot start: {_reason(error)}"
        try:
            yield
        finally:
            self.end_waits()
            await loop.run_in_executor(None, self.close)


def _reason(error: OSError | SQLAlchemyError | BootplaneError) -> str:
    """The fact behind *error*, without the statement, the parameters and the link that SQLAlchemy adds."""
    if isinstance(error, DBAPIError):
        return f"the database says: {error.orig}"
    if isinstance(error, OSError):
        return f"{error.filename or 'system'}: {error.strerror or error}"
    return str(error)
