"""The fakes of these tests speak as the region does: its methods, its sessions, its documents."""

from __future__ import annotations

import inspect

import pytest

from bootplane.control.api import schemas
from bootplane.control.api.sessions import Sessions
from bootplane.control.service import RegionService
from bootplane.control.uploads.uploads import Uploads
from bootplane.control.web import pages


def methods(protocol: type) -> list[str]:
    return [name for name, value in vars(protocol).items() if inspect.isfunction(value) and not name.startswith("_")]


@pytest.mark.parametrize(
    ("asked", "real"), [(pages.Service, RegionService), (pages.Sessions, Sessions), (pages.Uploads, Uploads)]
)
def test_what_the_pages_ask_is_what_the_region_has(asked: type, real: type) -> None:
    assert methods(asked)
    for name in methods(asked):
        wanted, there = (inspect.signature(getattr(kind, name)) for kind in (asked, real))
        assert list(wanted.parameters) == list(there.parameters), name
        assert str(wanted.return_annotation) == str(there.return_annotation), name


def test_the_fake_service_gives_documents_of_the_api(service) -> None:
    schemas.Status.model_validate(service.status())
    schemas.Sync.model_validate(service.sync_status())
    for model, items in (
        (schemas.Source, service.sources()),
        (schemas.Selection, service.selections()),
        (schemas.Rack, service.racks()),
        (schemas.Image, service.images()),
    ):
        for item in items:
            model.model_validate(item)
