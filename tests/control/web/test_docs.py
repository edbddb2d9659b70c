"""docs/reference/rest.md against the API: the same calls, the same fields, the same kinds of error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi import FastAPI

from bootplane.control import errors
from bootplane.control.api import images, racks, routes, schemas, sources, uploads
from bootplane.control.events import NAMES

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "rest.md").read_text(encoding="utf-8")


def test_the_manual_lists_exactly_the_calls_there_are() -> None:
    app = FastAPI()
    app.include_router(routes.router(None, None, None))  # type: ignore[arg-type]
    for module in (sources, images, racks):
        app.include_router(module.router(None, None))  # type: ignore[arg-type]
    app.include_router(uploads.router(None, None, None))  # type: ignore[arg-type]
    there = set()
    for path, calls in app.openapi()["paths"].items():
        for method in calls:
            there.add((method.upper(), re.sub(r"\{.*?\}", "{}", path.removeprefix(routes.PREFIX))))
    table = TEXT.split("## Calls")[1].split("## Documents")[0]
    named = {
        (method, re.sub(r"\{.*?\}", "{}", re.split(r"[\[?]", path)[0]))
        for method, path in re.findall(r"^\| `(GET|POST|PUT|PATCH|DELETE) (/[^`]*)`", table, re.MULTILINE)
    }
    assert named == there


@pytest.mark.parametrize(
    "model",
    [
        schemas.Source, schemas.SourceIn, schemas.Selection, schemas.Sync, schemas.SyncFile, schemas.Image,
        schemas.ImageFile, schemas.Machine, schemas.BootTimeline, schemas.BootEvent,
        schemas.Rack, schemas.RackLimits, schemas.RackCache, schemas.CachedFile, schemas.RefusedChunk, schemas.Eviction,
        schemas.RackForecast, schemas.FileShare, schemas.Upload, schemas.UploadIn, schemas.UploadFile,
        schemas.UploadFileIn, schemas.ImageDiff, schemas.ImageVersion, schemas.ImageRemoved, schemas.PackageChange,
        schemas.Status, schemas.Banner, schemas.LoginLink, schemas.RackToken,
    ],
)  # fmt: skip
def test_the_manual_names_every_field_of_each_document(model) -> None:
    assert [name for name in model.model_fields if f'"{name}"' not in TEXT] == []


def kinds(error: type[errors.BootplaneError]):
    yield error
    for below in error.__subclasses__():
        yield from kinds(below)


def test_the_manual_lists_each_kind_of_error_with_its_status() -> None:
    for error in kinds(errors.BootplaneError):
        if error.__module__ == errors.__name__ and error is not errors.StartError:  # not of this API
            assert f"| `{error.kind}` | {error.status} |" in TEXT, error


def test_the_manual_lists_every_event() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT.split("## Events")[1], re.MULTILINE)) == set(NAMES)
