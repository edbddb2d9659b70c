"""Settings of a region, a rack's supervisor and what they share: frozen, read once, handed down by app.py.

Precedence: command line over environment (``BOOTPLANE_<NAME>``) over ``DIR/bootplane.toml`` over the defaults here.
The keys are the names of the command line's options (``cache_size = "4GiB"``); the properties carry the unit in their
name (``cache_bytes``). A key in bootplane.toml that nobody knows is an error: a misspelt limit must not pass unseen.
Other ``BOOTPLANE_*`` variables belong to the command line (``BOOTPLANE_URL``, ``BOOTPLANE_TOKEN``) or the build.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ByteSize, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from bootplane.control.errors import StartError

REGION_PORT = 5240
BULK_PORT = 5241
RACK_HTTP_PORT = 5248
TFTP_PORT = 69
TFTP_PORT_UNPRIVILEGED = 6969
TOML_NAME = "bootplane.toml"
_FROM_FILE = "_from_file"  # how load() hands the file's content to the last source


class Settings(BaseSettings):
    """Everything an operator can set. Unset options are None on the command line and fall through to the next layer."""

    model_config = SettingsConfigDict(env_prefix="BOOTPLANE_", frozen=True, extra="forbid")

    data: Path
    listen: str = f"127.0.0.1:{REGION_PORT}"
    bulk: str = f"127.0.0.1:{BULK_PORT}"
    http: str = f"127.0.0.1:{RACK_HTTP_PORT}"
    tftp: str = f"127.0.0.1:{TFTP_PORT}"
    https: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cache_size: ByteSize = ByteSize(4 << 30)
    share: bool = True
    database: str | None = None
    bulk_advertise: tuple[str, ...] = ()
    parallel_downloads: int = Field(default=4, ge=1, le=64)
    disk_reserve: ByteSize = ByteSize(100 << 20)
    low_space: ByteSize = ByteSize(2 << 30)
    fetch_attempts: int = Field(default=5, ge=1)
    sync_interval: float = Field(default=3600.0, ge=0)
    removal_grace: float = Field(default=24 * 3600.0, ge=0)
    audit_interval: float = Field(default=7 * 24 * 3600.0, ge=0)
    frozen_after: float = Field(default=45 * 24 * 3600.0, ge=0)
    proxy: str | None = None
    no_proxy: str = ""
    lease: float = Field(default=10.0, gt=0)
    timeline_age: float = Field(default=30 * 24 * 3600.0, gt=0)
    timeline_events: int = Field(default=200_000, ge=1)

    @field_validator("listen", "bulk", "http", "tftp", "https")
    @classmethod
    def _is_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        """An empty one of TFTP means none: another server may have the port."""
        if value is not None and (value or info.field_name != "tftp"):
            split_address(value)
        return value

    @field_validator("proxy")
    @classmethod
    def _is_proxy(cls, value: str | None) -> str | None:
        """Empty means none, whatever the environment says."""
        if value and (urlsplit(value).scheme != "http" or not urlsplit(value).hostname):
            raise ValueError(
                "expected an http URL like http://proxy:3128"
            )  # without what was got: it may hold a password
        return value

    @property
    def cache_bytes(self) -> int:
        return int(self.cache_size)

    @property
    def disk_reserve_bytes(self) -> int:
        """Free bytes a sync never touches: database, logs, unpacked boot loaders."""
        return int(self.disk_reserve)

    @property
    def low_space_bytes(self) -> int:
        return int(self.low_space)

    @property
    def sync_interval_s(self) -> float:
        """Seconds between two automatic syncs; 0 turns them off."""
        return self.sync_interval

    @property
    def removal_grace_s(self) -> float:
        return self.removal_grace

    @property
    def audit_interval_s(self) -> float:
        """Seconds in which every file of the store is hashed once; 0: only what is in doubt."""
        return self.audit_interval

    @property
    def frozen_after_s(self) -> float:
        """Seconds after which an index that has not moved is warned of; 0: never."""
        return self.frozen_after

    @property
    def lease_s(self) -> float:
        return self.lease

    @property
    def timeline_age_s(self) -> float:
        """Seconds for which boot events are kept; at most ``timeline_events`` of them."""
        return self.timeline_age

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data / 'region.sqlite'}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(init_settings, InitSettingsSource)
        given = dict(init_settings.init_kwargs)
        from_file = given.pop(_FROM_FILE, {})
        command_line = {key: value for key, value in given.items() if value is not None}
        return (
            InitSettingsSource(settings_cls, init_kwargs=command_line),
            env_settings,
            InitSettingsSource(settings_cls, init_kwargs=from_file),
        )


def load(data: str | Path, **options: Any) -> Settings:
    """Settings for the data directory *data*; *options* are the command line's, None where it said nothing.

    Raises StartError naming the file or option, what was expected and what was got.
    """
    directory = Path(data).expanduser().absolute()
    path = directory / TOML_NAME
    from_file: dict[str, Any] = {}
    try:
        from_file = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # what is wrong with the directory, datadir says better
        from_file = {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise StartError(f"{path}: cannot be read: {error.strerror}") from None
    if "data" in from_file:
        raise StartError(f"{path}: `data` cannot be set here: this file is found through the data directory")
    given: dict[str, Any] = {"data": directory, _FROM_FILE: from_file, **options}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        got = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
        raise StartError(f"setting `{name}` ({_origin(name, from_file, options, path)}): {said}{got}") from None


def _origin(name: str, from_file: dict[str, Any], options: dict[str, Any], path: Path) -> str:
    if options.get(name) is not None:
        return f"--{name.replace('_', '-')}"
    return str(path) if name in from_file else f"BOOTPLANE_{name.upper()}"


def split_address(address: str) -> tuple[str, int]:
    """``"127.0.0.1:5240"`` or ``"[::1]:5240"`` -> (host, port); port 0 means any free one. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"expected HOST:PORT, got {address!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address stands in brackets, like [::1]:5240; got {address!r}")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
