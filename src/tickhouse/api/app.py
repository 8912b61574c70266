"""Puts the API together: routes, errors, documentation, and the thread that follows the house."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

from tickhouse.api import binance, binance_stream, metrics, rest, stream
from tickhouse.api.access import Access
from tickhouse.api.context import Context
from tickhouse.api.problems import add_handlers
from tickhouse.api.tokens import Tokens
from tickhouse.house import House
from tickhouse.serving.feeds import FeedFigures
from tickhouse.serving.hours import Hours
from tickhouse.serving.hub import Hub
from tickhouse.serving.pump import Pump
from tickhouse.serving.questions import Questions
from tickhouse.settings import ServeSettings

__all__ = ["make_app"]

_TAGS = [
    {"name": "Market data", "description": "Trades, bars and indicators, with what was known when (`as_of`)."},
    {"name": "Quality", "description": "What was flagged, missing or refused."},
    {"name": "Binance-compatible", "description": "For programs written for Binance: another base address is all they need."},
    {"name": "House", "description": "What the house is and does."},
]
_MEMORY = "1GB"
_ABOUT = """Everything a Tickhouse house holds, and what it makes, as it makes it.

Times are UTC microseconds, given as integers or ISO text. Answers come as JSON, CSV, Arrow or Parquet, by `Accept`.
Live rows come over the WebSocket `/v1/stream`."""


def make_app(house: House, settings: ServeSettings) -> FastAPI:
    """Return the API of a house, which need not exist yet."""
    house.queries.limit(threads=1, memory=_MEMORY)  # the other core is the engine's
    pump = Pump()
    hub = Hub(pump.wake, FeedFigures({venue: Hours.parse(text) for venue, text in settings.hours.items()}))
    follower = house.follower(hub)
    questions = Questions(house.lake_path)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        pumping = asyncio.create_task(pump.run(hub.pump))
        follower.start()
        try:
            yield
        finally:
            await asyncio.to_thread(follower.stop)
            questions.close()
            pumping.cancel()

    app = FastAPI(
        title="Tickhouse", version="1", description=_ABOUT, openapi_tags=_TAGS, docs_url=None, redoc_url=None,
        lifespan=lifespan,
    )  # fmt: skip
    app.state.context = Context(house, follower, hub, questions, settings)
    app.include_router(rest.router)
    app.include_router(stream.router)
    app.include_router(metrics.router)
    app.include_router(binance.router)
    app.include_router(binance_stream.router)
    add_handlers(app)
    _add_docs(app)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.cors), allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["X-Next-Cursor"],
        )  # fmt: skip
    app.add_middleware(Access, tokens=Tokens(house.path), settings=settings)
    return app


def _add_docs(app: FastAPI) -> None:
    """Serve the documentation from here: nothing is loaded from elsewhere."""
    app.mount("/docs-assets", StaticFiles(directory=str(files("fastapi_offline") / "static")), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    def docs(_request: Request) -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=app.openapi_url or "",
            title="Tickhouse API",
            swagger_js_url="/docs-assets/swagger-ui-bundle.js",
            swagger_css_url="/docs-assets/swagger-ui.css",
            swagger_favicon_url="/docs-assets/favicon.png",
        )

    @app.get("/", include_in_schema=False)
    def root() -> RedirectResponse:
        return RedirectResponse("/docs")
