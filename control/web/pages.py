"""The pages of a region: Overview, Images, and the way in.

A page is a frame around *parts*; a part is one template over what RegionService says, rendered alike within its page
and alone under ``/parts/<name>``, from where ``live.js`` fetches it again after an event. Invariants: every page but
/login needs an open session; a page asks nothing of any other host (the Content-Security-Policy says so, too); whatever
came from outside is escaped. Sessions and their cookie are ``api.sessions``'; the event stream is the API's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bootplane.control.web import assets
from bootplane.control.web.filters import FILTERS

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-store",  # a page shows what only its session may see
    "Referrer-Policy": "no-referrer",  # a one-use link must not travel on
    "X-Content-Type-Options": "nosniff",
}
PAGES = {"/": ("Overview", "overview.html"), "/images": ("Images", "images.html")}


class Service(Protocol):
    """What the pages ask of RegionService; each answers the document of its REST endpoint."""

    def status(self) -> dict[str, Any]: ...
    def sync_status(self) -> dict[str, Any]: ...
    def sources(self) -> list[dict[str, Any]]: ...
    def selections(self) -> list[dict[str, Any]]: ...
    def racks(self) -> list[dict[str, Any]]: ...
    def images(self) -> list[dict[str, Any]]: ...


class Uploads(Protocol):
    """What the pages ask of control.uploads."""

    def list(self) -> list[dict[str, Any]]: ...


# What each part's template is given, by the service's methods.
NEEDS: dict[str, tuple[str, ...]] = {
    "banners": ("status",),
    "steps": ("status",),
    "sync": ("sync",),
    "store": ("status",),
    "racks": ("racks", "status"),
    "sources": ("sources",),
    "selections": ("selections",),
    "images": ("images",),
    "uploads": ("uploads",),
}
SHOWN = {
    "overview.html": ("status", "sync", "racks", "sources", "selections"),
    "images.html": ("status", "images", "uploads"),
}


def environment() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt key fails in a test and not as a blank on a page
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(FILTERS)
    return templates


class Sessions(Protocol):
    """What the pages ask of api.sessions."""

    def is_open(self, request: Request) -> bool: ...
    def redeem(self, once: str, response: Response) -> bool: ...
    def sign_in(self, token: str, response: Response) -> bool: ...
    def sign_out(self, request: Request, response: Response) -> None: ...


def router(service: Service, sessions: Sessions, uploads: Uploads | None = None) -> APIRouter:
    """The pages as routes. Handlers are plain functions: the service reads a database, FastAPI gives each a thread."""
    templates = environment()
    files = assets.load()
    pages = APIRouter(include_in_schema=False)
    documents: dict[str, Callable[[], Any]] = {
        "status": service.status,
        "sync": service.sync_status,
        "racks": service.racks,
        "sources": service.sources,
        "selections": service.selections,
        "images": service.images,
        "uploads": uploads.list if uploads is not None else lambda: [],
    }

    def render(template: str, needs: tuple[str, ...] = (), status_code: int = 200, **more: Any) -> HTMLResponse:
        context = {name: documents[name]() for name in needs}
        html = templates.get_template(template).render(context, **more)
        return HTMLResponse(html, status_code, headers=HEADERS)

    def page(request: Request) -> Response:
        path = request.url.path
        if not sessions.is_open(request):
            return RedirectResponse("/login" if path == "/" else f"/login?next={path}", 303, headers=HEADERS)
        heading, template = PAGES[path]
        return render(template, SHOWN[template], heading=heading)

    for path in PAGES:
        pages.add_api_route(path, page, methods=["GET"])

    @pages.get("/parts/{name}")
    def part(name: str, request: Request) -> Response:
        if not sessions.is_open(request):
            return Response(status_code=401, headers=HEADERS)
        if name not in NEEDS:
            return Response(status_code=404, headers=HEADERS)
        return render(f"parts/{name}.html", NEEDS[name])

    @pages.get("/login")
    def login(request: Request, once: str = "", next: str = "/") -> Response:
        arrival = RedirectResponse(next if next in PAGES else "/", 303, headers=HEADERS)
        if once:
            if sessions.redeem(once, arrival):
                return arrival
            error = (
                "That link was used already or is older than 60 seconds: ask for another, or sign in with the token."
            )
            return render("login.html", status_code=403, next="/", error=error)
        if sessions.is_open(request):
            return arrival
        return render("login.html", next=next if next in PAGES else "/", error="")

    @pages.post("/login")
    def sign_in(token: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "/") -> Response:
        target = next if next in PAGES else "/"  # never another site's address
        arrival = RedirectResponse(target, 303, headers=HEADERS)
        if sessions.sign_in(token.strip(), arrival):
            return arrival
        return render("login.html", status_code=403, next=target, error="That is not this region's admin token.")

    @pages.post("/logout")
    def sign_out(request: Request) -> Response:
        farewell = RedirectResponse("/login", 303, headers=HEADERS)
        sessions.sign_out(request, farewell)
        return farewell

    @pages.get("/static/{name}")
    def static(name: str, request: Request) -> Response:
        return assets.answer(files, name, request)

    return pages
