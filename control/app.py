"""The one place that builds everything a region is made of, and the order in which it starts and ends.

Invariant: nothing below knows how anything else is made; whatever owns a thread, a descriptor or a file is closed here,
in the reverse order. Starting raises StartError in one sentence and leaves nothing running.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import logging
import os
import re
import secrets
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bootplane import __version__
from bootplane.control import datadir, metrics
from bootplane.control.api import problems
from bootplane.control.api.images import router as images_router
from bootplane.control.api.limits import BodyLimit
from bootplane.control.api.racks import router as racks_router
from bootplane.control.api.routes import router
from bootplane.control.api.sessions import Sessions
from bootplane.control.api.sources import router as sources_router
from bootplane.control.api.uploads import Intake
from bootplane.control.api.uploads import router as uploads_router
from bootplane.control.banners import Board
from bootplane.control.bulk import BulkServer
from bootplane.control.catalogue import Publisher, contents
from bootplane.control.config import Settings
from bootplane.control.errors import BootplaneError, StartError
from bootplane.control.events import Hub
from bootplane.control.image_service import ImageService
from bootplane.control.metadata import MetadataApi
from bootplane.control.rack_api import RackApi
from bootplane.control.rack_service import RackService
from bootplane.control.racks import RackBook
from bootplane.control.service import RegionService
from bootplane.control.source_service import SourceService
from bootplane.control.storage.banners import Banner, BannerRepository
from bootplane.control.storage.blobs import BlobRepository
from bootplane.control.storage.database import Database, now_text
from bootplane.control.storage.images import ImageRepository
from bootplane.control.storage.leases import LeaseRepository
from bootplane.control.storage.racks import RackRepository
from bootplane.control.storage.runs import RunRepository
from bootplane.control.storage.selections import SelectionRepository
from bootplane.control.storage.settings import REGION_ID, SettingsRepository
from bootplane.control.storage.sources import SourceRepository
from bootplane.control.storage.timeline import TimelineRepository
from bootplane.control.storage.uploads import UploadRepository
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
from bootplane.control.tickets import Tickets
from bootplane.control.timeline import Timeline
from bootplane.control.uploads.uploads import Uploads
from bootplane.dataplane.catalogue import SigningKey
from bootplane.dataplane.store import Store, StoreError

PAGES = "bootplane.control.web.pages"
LOOPBACK = ("127.", "::1", "::ffff:127.", "testclient")
_LOG = logging.getLogger("bootplane.region")


class Region:
    """Everything of one region process. ``app`` is its ASGI application; its lifespan starts and ends the rest."""

    def __init__(self, settings: Settings, *, engine: SyncEngine | None = None) -> None:
        self.settings = settings
        self.listen = settings.listen  # the true address once it is bound
        self.failure = ""  # why start() did not come to its end, one sentence
        self.is_quiet = True  # after close(): no thread is left that waits for somebody outside
        self._undo = contextlib.ExitStack()
        try:
            self._build(settings, engine)
        except SQLAlchemyError as error:
            self._undo.close()
            raise StartError(f"{settings.data}: cannot start: {_reason(error)}") from None
        except BaseException:  # goes on to the caller: what was built so far holds locks and descriptors
            self._undo.close()
            raise

    def _build(self, settings: Settings, engine: SyncEngine | None) -> None:
        directory = settings.data
        datadir.prepare(directory)
        self._undo.callback(datadir.Lock(directory / "region.lock", "region").release)
        self.admin_token = datadir.secret(directory / datadir.ADMIN_TOKEN, lambda: secrets.token_hex(32))
        self.key = _signing_key(settings)
        self.database = Database(settings.database_url)
        self._undo.callback(self.database.close)
        self.database.migrate()
        try:
            self.store = Store(directory, keep_free_bytes=settings.disk_reserve_bytes)
        except StoreError as error:
            raise StartError(str(error)) from None
        self._undo.callback(datadir.Lock(self.store.directory / ".lock", "region").release)

        self.settings_rows = SettingsRepository(self.database)
        self.sources = SourceRepository(self.database)
        self.selections = SelectionRepository(self.database)
        self.images = ImageRepository(self.database)
        self.blobs = BlobRepository(self.database)
        self.runs = RunRepository(self.database)
        self.region_id = self.settings_rows.get_or_put(REGION_ID, _new_region_id())

        self.hub = Hub()
        timeline_rows = TimelineRepository(self.database)
        self.banners = BannerRepository(self.database, self._banner_changed)
        self.timeline = Timeline(
            timeline_rows, self.hub, age_s=settings.timeline_age_s, events=settings.timeline_events
        )
        self._undo.callback(self.timeline.close)
        self.tickets = Tickets(self.key.secret_bytes())
        self.racks = RackBook(RackRepository(self.database))
        self.publisher = Publisher(self.region_id, self.key, self.settings_rows)
        self.bulk = BulkServer(self.store, settings.bulk)
        self._undo.callback(self.bulk.stop)
        self.sessions = Sessions(self.admin_token, self.key.secret_bytes())
        board = Board(self.banners)
        transport = Transport(self.sources, proxy=settings.proxy, no_proxy=settings.no_proxy)
        keeper = SourceKeeper(self.sources, transport.fetcher, board=board, frozen_after_s=settings.frozen_after_s)
        refresher = Refresher(self.sources, self.selections, self.images, self.blobs, keeper, board)
        limits = SyncLimits(self.settings_rows)
        self.housekeeper = Housekeeper(self.store, self.blobs, self.images, settings.removal_grace_s)
        progress = Progress()
        self.custody = Custody(
            store=self.store,
            owner=OwnerFile(self.store.directory, self.settings_rows, self.database.make_durable),
            region_id=self.region_id,
            settings=self.settings_rows,
            blobs=self.blobs,
            images=self.images,
            runs=self.runs,
            board=board,
            housekeeper=self.housekeeper,
            publish=self.publish,
            request_sync=lambda: self.coordinator.request() if refresher.has_work() else None,
            grace_s=settings.removal_grace_s,
            audit_interval_s=settings.audit_interval_s,
        )
        self.racks.refused = self.custody.doubt
        self.removal = Removal(
            self.store,
            self.blobs,
            self.images,
            Users(self.racks.list, timeline_rows.steps),
            grace_s=settings.removal_grace_s,
            may_delete=self.custody.may_delete,
            publish=self.publish,
            published=lambda: self.publisher.current,
        )
        self.coordinator = Coordinator(
            images=self.images,
            blobs=self.blobs,
            runs=self.runs,
            settings=self.settings_rows,
            board=board,
            limits=limits,
            refresher=refresher,
            housekeeper=self.housekeeper,
            removal=self.removal,
            engine=engine or self._engine(settings),
            downloader=Downloader(
                self.store,
                self.blobs,
                self.runs,
                progress,
                attempts=settings.fetch_attempts,
                fetcher=transport.fetcher,
                throttle=limits.throttle,
            ),
            progress=progress,
            room=Room(self.store, self.banners, settings.low_space_bytes),
            hub=self.hub,
            publish=self.publish,
            interval_s=settings.sync_interval_s,
        )
        self.boot_sources = SourceService(self.sources, keeper, refresher, self.hub)
        self.image_service = ImageService(
            images=self.images,
            blobs=self.blobs,
            sources=self.sources,
            selections=self.selections,
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
            sources=self.boot_sources,
            selections=self.selections,
            images=self.image_service,
            blobs=self.blobs,
            banners=self.banners,
            racks=self.rack_service,
            coordinator=self.coordinator,
            publisher=self.publisher,
            hub=self.hub,
            timeline=self.timeline,
            login_link=self.sessions.new_link,
            custody=self.custody,
        )
        self._publishing = threading.Lock()
        self.uploads = Uploads(
            store=self.store,
            rows=UploadRepository(self.database),
            blobs=self.blobs,
            images=self.images,
            selections=self.selections,
            offered=self.sources.offered,
            publish=self.publish,
            hub=self.hub,
            board=board,
        )
        self.intake = Intake(self.uploads)
        self.removal.arriving = self.uploads.digests
        self._undo.callback(self.intake.close)
        self._undo.callback(self.uploads.close)
        self.app = self._application()

    def _banner_changed(self, banner: Banner, stands: bool) -> None:
        if stands:
            _LOG.warning("banner %s: %s", banner.id, banner.text)
        else:
            _LOG.info("banner %s ended", banner.id)
        self.hub.publish("banner", {"id": banner.id, "stands": stands, "text": banner.text, "remedy": banner.remedy})

    def _engine(self, settings: Settings) -> SyncEngine:
        return DbosEngine(
            settings.database or f"sqlite:///{settings.data / datadir.SYNC_DATABASE}",
            LeaseRepository(self.database),
            region_id=self.region_id,
            parallel=settings.parallel_downloads,
            lease_s=settings.lease_s,
            alone=settings.database is None,
        )

    def publish(self) -> None:
        """Bring bulk table and catalogue up to date with the database. Blobs first: a rack asks at once."""
        with self._publishing:
            present = self.blobs.present()
            new = contents(self.images.sets(), self.blobs.derived(), self.blobs.promised())
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

    def _application(self) -> FastAPI:
        @contextlib.asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
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

        app = FastAPI(
            title="bootplane",
            version=__version__,
            lifespan=lifespan,
            docs_url=None,  # its page would fetch scripts from other hosts
            redoc_url=None,
            openapi_url="/openapi.json",
        )
        app.add_middleware(BodyLimit)
        problems.install(app)
        app.include_router(router(self.service, self.sessions, self.hub))
        app.include_router(sources_router(self.boot_sources, self.sessions))
        app.include_router(images_router(self.image_service, self.sessions))
        app.include_router(uploads_router(self.uploads, self.sessions, self.intake))
        app.include_router(racks_router(self.rack_service, self.sessions))
        rack_api = RackApi(
            region_id=self.region_id,
            publisher=self.publisher,
            racks=self.racks,
            store=self.store,
            blobs=self.blobs,
            hub=self.hub,
            bulk=lambda: list(self.settings.bulk_advertise) or [self.bulk.address],
            timeline=self.timeline,
            tickets=self.tickets,
        )
        app.router.routes.extend(rack_api.routes())
        metadata = MetadataApi(region_id=self.region_id, tickets=self.tickets, racks=self.racks, timeline=self.timeline)
        app.router.routes.extend(metadata.routes())
        app.router.routes.extend([Route("/healthz", _healthz), Route("/metrics", self._metrics())])
        if importlib.util.find_spec(PAGES) is not None:
            app.include_router(importlib.import_module(PAGES).router(self.service, self.sessions, self.uploads))
        return app

    def _metrics(self) -> Any:
        exposition = metrics.exposition(self.bulk.counters, self.service.status, self.timeline, self.uploads.figures)

        def answer(request: Request) -> Response:
            if request.client is None or not request.client.host.startswith(LOOPBACK):
                detail = "/metrics: expected a caller on this host; scrape it from here or through a proxy"
                return problems.problem(403, "forbidden", "forbidden", detail)
            return Response(exposition(), media_type=metrics.CONTENT_TYPE)

        return answer


async def _healthz(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _signing_key(settings: Settings) -> SigningKey:
    path = settings.data / datadir.REGION_KEY
    text = datadir.secret(path, lambda: SigningKey.generate().secret_bytes().hex())
    try:
        return SigningKey(bytes.fromhex(text))
    except ValueError:
        raise StartError(f"{path}: expected 64 hex digits, the region's Ed25519 key; got something else") from None


def _reason(error: OSError | SQLAlchemyError | BootplaneError) -> str:
    """The fact behind *error*, without the statement, the parameters and the link that SQLAlchemy adds."""
    if isinstance(error, DBAPIError):
        return f"the database says: {error.orig}"
    if isinstance(error, OSError):
        return f"{error.filename or 'system'}: {error.strerror or error}"
    return str(error)


def _new_region_id() -> str:
    """Names the host, for people at a machine's console, and is unique."""
    host = re.sub(r"[^a-z0-9-]", "-", socket.gethostname().split(".")[0].lower())[:24].strip("-") or "region"
    return f"{host}-{os.urandom(3).hex()}"
