"""What the browser loads beside the pages: the modules and styles in `web/`, and the charting library out of a wheel."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from tickhouse.errors import ConfigError

__all__ = ["CHARTS_SHA256", "WEB", "charts_file", "routes"]

WEB = Path(__file__).parent / "web"
CHARTS_SHA256 = "c0992580867c4912cc9385b3c2728315bcc1a76c7f1087dca908430fccdf31d7"
"""Of lightweight-charts 5.2.0 as its makers publish it; see docs/decisions/0009-charting-library-from-a-wheel.md."""


def charts_file() -> Path:
    """Return where the charting library lies.

    Raises:
        ConfigError: the wheel that holds it is not installed.
    """
    found = importlib.util.find_spec("lwcharts")  # found, not imported: of the package only this file is wanted
    if found is None or found.origin is None:
        raise ConfigError("the charting library is not installed; do it with: pip install 'tickhouse[dashboard]'")
    return Path(found.origin).parent / "vendor" / "lightweight-charts.standalone.production.js"


def routes() -> list[BaseRoute]:
    """Return the routes below `/web`."""
    charts = charts_file()

    def library(_request: Request) -> Response:
        return FileResponse(charts, media_type="text/javascript", headers=_REVALIDATED)

    return [Route("/web/lightweight-charts.js", library), Mount("/web", _Files(directory=WEB))]


_REVALIDATED = {"cache-control": "no-cache"}
"""A browser asks each time whether its copy is the newest, so an upgrade shows at once."""


class _Files(StaticFiles):
    def file_response(self, *given: Any, **named: Any) -> Response:
        answer = super().file_response(*given, **named)
        answer.headers.update(_REVALIDATED)
        return answer
