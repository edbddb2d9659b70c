"""What the API takes and gives, as models: they make its OpenAPI and check what comes in. RegionService makes the
documents; a test holds each of them against its model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

KEYRING_CHARACTERS = 8 << 20

Word = Annotated[str, Field(min_length=1, max_length=64)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SourceIn(_In):
    url: Annotated[str, Field(min_length=1, max_length=2048)]
    keyring: Annotated[str | None, Field(max_length=KEYRING_CHARACTERS)] = None  # armored, or base64 of either form
    unsigned: bool = False
    priority: Annotated[int | None, Field(ge=0, le=1_000_000)] = None
    name: Annotated[str | None, Field(max_length=64)] = None
    ca: Annotated[str | None, Field(max_length=1 << 20)] = None  # PEM


class SourceChange(_In):
    url: Annotated[str | None, Field(min_length=1, max_length=2048)] = None
    keyring: Annotated[str | None, Field(max_length=KEYRING_CHARACTERS)] = None
    priority: Annotated[int | None, Field(strict=True, ge=0, le=1_000_000)] = None
    enabled: Annotated[bool | None, Field(strict=True)] = None
    name: Annotated[str | None, Field(max_length=64)] = None
    ca: Annotated[str | None, Field(max_length=1 << 20)] = None


class SyncIn(_In):
    limit_bytes_s: Annotated[int | None, Field(strict=True, ge=0)] = None
    window: Annotated[str | None, Field(strict=True, max_length=16)] = None


class Source(_Out):
    id: int
    name: str
    url: str
    priority: int
    enabled: bool
    unsigned: bool
    own_ca: bool
    fingerprints: list[str]
    last_checked: str | None
    last_updated: str | None
    error: str | None
    warnings: list[str]
    passed_over: list[str]


class SelectionIn(_In):
    os: Word
    release: Word
    arches: Annotated[list[Word], Field(max_length=64)]
    subarches: Annotated[list[Word], Field(max_length=64)] = []
    labels: Annotated[list[Word], Field(max_length=64)] = []


class Selection(_Out):
    id: int
    os: str
    release: str
    arches: list[str]
    subarches: list[str]
    labels: list[str]


class SyncFile(_Out):
    sha256: str
    path: str
    size: int
    done: int
    rate: int
    state: str
    error: str | None


class Sync(_Out):
    state: str
    files: list[SyncFile]
    bytes_total: int
    bytes_done: int
    rate: int
    eta_s: float | None
    limit_bytes_s: int | None
    window: str | None
    window_open: bool
    started: str | None
    finished: str | None
    error: str | None


class ImageFile(_Out):
    name: str
    ftype: str
    sha256: str
    size: int
    names: list[str]
    packages: bool


class Package(_Out):
    name: str
    version: str


class ImageVersion(_Out):
    version: str
    complete: bool
    marked: str | None


class Image(_Out):
    name: str
    os: str
    release: str
    title: str
    arch: str
    subarch: str
    kflavor: str
    label: str
    version: str
    complete: bool
    served: str | None
    size: int
    source: str | None
    files: list[ImageFile]
    packages: list[Package] | None = None
    rtype: str = "synced"
    base_image: str = ""
    versions: list[ImageVersion] = []


class ImageRemoved(_Out):
    name: str
    arch: str
    versions: list[str]
    size: int


class ImagesRemoved(_Out):
    items: list[ImageRemoved]
    next: str | None = None


class ImageName(_Out):
    name: str
    version: str


class PackageChange(_Out):
    name: str
    old: str
    new: str


class ImageDiff(_Out):
    old: ImageName
    new: ImageName
    added: list[Package]
    removed: list[Package]
    changed: list[PackageChange]
    same: int


class UploadFileIn(_In):
    ftype: Word
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(strict=True, ge=1, le=1 << 50)]


class UploadCheckIn(_In):
    name: Annotated[str, Field(min_length=1, max_length=130)]
    arch: Annotated[str, Field(min_length=1, max_length=97)]
    title: Annotated[str, Field(max_length=256)] = ""
    base_image: Annotated[str | None, Field(max_length=128)] = None


class UploadChecked(_Out):
    image: str
    title: str
    base_image: str


class UploadIn(UploadCheckIn):
    files: Annotated[list[UploadFileIn], Field(min_length=1, max_length=16)]


class UploadFile(_Out):
    name: str
    ftype: str
    sha256: str
    size: int
    done: int
    state: str


class Upload(_Out):
    id: str
    image: str
    title: str
    arch: str
    subarch: str
    base_image: str
    state: str
    version: str | None
    size: int
    done: int
    rate: int
    eta_s: float | None
    files: list[UploadFile]
    created: str
    expires: str
    error: str | None


class Uploads(_Out):
    items: list[Upload]
    next: str | None = None


class RackIn(_In):
    cache_bytes: Annotated[int | None, Field(strict=True)] = None
    upstream_bytes_s: Annotated[int | None, Field(strict=True)] = None
    shares: Annotated[str | None, Field(strict=True, max_length=16384)] = None


class RackInForce(_Out):
    cache_bytes: int | None
    upstream_bytes_s: int | None


class RackLimits(RackInForce):
    shares: str | None


class Rack(_Out):
    id: str
    name: str
    http: str | None
    tftp: str | None
    https: str | None
    catalogue: int | None
    cache: dict[str, Any] | None
    limits: RackLimits
    in_force: RackInForce | None
    warning: str | None
    created: str
    last_seen: str | None


class CachedFile(_Out):
    name: str
    sha256: str
    size: int
    present_bytes: int
    percent: int


class RefusedChunk(_Out):
    at: str
    blob: str
    chunk: int
    source: str
    expected: str
    got: str


class Eviction(_Out):
    at: str
    sha256: str
    name: str
    segments: int
    bytes: int
    reason: str
    idle_s: float
    wanted_by: str
    wanted_name: str


class RackCache(_Out):
    rack: str
    name: str
    heard: str
    age_s: float
    up_s: float
    limit_bytes: int
    charged_bytes: int
    condemned_bytes: int
    segments: int
    open_segments: int
    reopened_segments: int
    protected_bytes: int
    reused_bytes: int
    made_segments: int
    ghost_double_segments: int
    ghost_quadruple_segments: int
    evicted_segments: int
    evicted_room_segments: int
    evicted_limit_segments: int
    evicted_disk_segments: int
    evicted_bytes: int
    filled_bytes: int
    refused_chunks: int
    kept_segments: int
    misfit_segments: int
    rechecked_chunks: int
    rotten_chunks: int
    present_bytes: int
    upstream_bytes: int
    served_bytes: int
    transfers: int
    hits: int
    misses: int
    coalesced: int
    in_place_files: int
    upstream_limit_bytes_s: int
    throttled_s: float
    disk_bytes: int
    disk_free_bytes: int
    scrub_passes: int
    scrub_chunks: int
    scrub_damaged: int
    scrub_last_pass_s: float
    files: list[CachedFile]
    files_total: int
    files_age_s: float
    evictions: list[Eviction]
    refusals: list[RefusedChunk]


class FileShare(_Out):
    name: str
    sha256: str
    size: int
    bytes: int


class RackForecast(_Out):
    rack: str
    name: str
    heard: str
    age_s: float
    image: str
    version: str
    limit_bytes: int
    charged_bytes: int
    size: int
    present_bytes: int
    in_place_bytes: int
    needed_bytes: int
    free_bytes: int
    evicted_bytes: int
    short_bytes: int
    files: list[FileShare]
    evicted: list[FileShare]


class RackTokenIn(_In):
    name: Annotated[str, Field(max_length=64)] = ""


class RackToken(_Out):
    id: str
    token: str


class LoginLink(_Out):
    path: str


class Banner(_Out):
    id: str
    text: str
    since: str
    remedy: str


class RegionFacts(_Out):
    id: str
    listen: str
    bulk: str
    started: str


class AsideFacts(_Out):
    path: str
    files: int
    bytes: int
    until: str | None


class AuditFacts(_Out):
    interval_s: float
    due: int
    oldest: str | None
    newest: str | None
    found: int
    found_bytes: int
    checked: int
    checked_bytes: int
    rotten: int


class StoreFacts(_Out):
    path: str
    blobs: int
    bytes: int
    free_bytes: int
    marked_bytes: int
    aside: AsideFacts
    audit: AuditFacts


class CatalogueFacts(_Out):
    version: int
    names: int


class Status(_Out):
    version: str
    region: RegionFacts
    store: StoreFacts
    catalogue: CatalogueFacts
    sync: Sync
    sources: int
    selections: int
    images: int
    racks: list[Rack]
    banners: list[Banner]


class Sources(_Out):
    items: list[Source]
    next: str | None = None


class Selections(_Out):
    items: list[Selection]
    next: str | None = None


class Images(_Out):
    items: list[Image]
    next: str | None = None


class Racks(_Out):
    items: list[Rack]
    next: str | None = None


class Machine(_Out):
    id: str
    mac: str | None
    address: str
    rack: str
    seen: str
    kind: str
    name: str
    outcome: str


class Machines(_Out):
    items: list[Machine]
    next: str | None = None


class BootEvent(_Out):
    id: int
    at: str
    kind: str
    mac: str | None
    address: str
    rack: str
    name: str
    outcome: str
    detail: dict[str, Any]


class BootTimeline(_Out):
    machine: Machine
    events: list[BootEvent]
    next: str | None = None
    now: str


class Problem(_Out):
    type: str
    title: str
    status: int
    detail: str
    offset: int | None = None  # of kind wrong-offset: the byte to go on at
