"""The ASGI application of a region: what is the same for every route, and the routes that anybody may ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from bootplane import __version__
from bootplane.control import metrics
from bootplane.control.api import problems
from bootplane.control.api.limits import BodyLimit

LOOPBACK = ("127.", "::1", "::ffff:127.", "testclient")


def application(
    routers: Iterable[APIRouter],
    routes: Iterable[BaseRoute],
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
) -> FastAPI:
    """*routers* stand in the OpenAPI, *routes* do not."""
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
    for router in routers:
        app.include_router(router)
    app.router.routes.extend(routes)
    return app


def probes(exposition: Callable[[], bytes]) -> list[BaseRoute]:
    """/healthz, and /metrics for callers on this host."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def shown(request: Request) -> Response:
        if request.client is None or not request.client.host.startswith(LOOPBACK):
            detail = "/metrics: expected a caller on this host; scrape it from here or through a proxy"
            return problems.problem(403, "forbidden", "forbidden", detail)
        return Response(exposition(), media_type=metrics.CONTENT_TYPE)

    return [Route("/healthz", healthz), Route("/metrics", shown)]
