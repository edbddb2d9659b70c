"""The fake region of these tests gives documents of the real API, field for field."""

from __future__ import annotations

from bootplane.control.api import schemas


def test_the_fake_region_gives_documents_of_the_api(region) -> None:
    for key, model in {
        "GET /status": schemas.Status,
        "GET /sync": schemas.Sync,
        "GET /sources": schemas.Sources,
        "GET /selections": schemas.Selections,
        "GET /images": schemas.Images,
        "GET /images/ubuntu/noble/amd64/ga-24.04": schemas.Image,
        "GET /racks": schemas.Racks,
        "GET /racks/rack1": schemas.Rack,
        "PATCH /racks/rack1": schemas.Rack,
        "GET /racks/rack1/cache": schemas.RackCache,
    }.items():
        model.model_validate(region.answers[key])
