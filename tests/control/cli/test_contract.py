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
        "GET /racks/rack1/forecast?image=ubuntu%2Fnoble%2Famd64%2Fga-24.04": schemas.RackForecast,
    }.items():
        model.model_validate(region.answers[key])
