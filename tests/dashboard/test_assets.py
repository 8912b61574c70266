"""What the browser loads is there, is what its makers published, and never comes from elsewhere."""

from __future__ import annotations

import hashlib
import re

from starlette.applications import Starlette
from starlette.testclient import TestClient

from tickhouse.dashboard import assets, theme


def test_charting_library_is_the_file_its_makers_published():
    assert hashlib.sha256(assets.charts_file().read_bytes()).hexdigest() == assets.CHARTS_SHA256


def test_every_module_and_style_is_served_and_asked_for_afresh():
    client = TestClient(Starlette(routes=assets.routes()))
    names = [file.name for file in assets.WEB.iterdir()] + ["lightweight-charts.js"]
    assert len(names) > 10
    for name in names:
        answer = client.get(f"/web/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["cache-control"] == "no-cache"
    assert "javascript" in client.get("/web/chart.js").headers["content-type"]
    assert client.get("/web/../server.py").status_code == 404


def test_modules_import_only_each_other_and_load_nothing_from_elsewhere():
    for file in assets.WEB.iterdir():
        text = file.read_text("utf-8")
        for target in re.findall(r"""(?:from|import)\s+"([^"]+)";""", text):
            assert (assets.WEB / target).is_file(), (file.name, target)
        links = [link for link in re.findall(r"(?:https?:)?//[\w.-]+\.\w+/?", text) if "www.w3.org" not in link]
        assert links == [], file.name


def test_both_themes_set_the_same_colours_and_direction_is_more_than_hue():
    options = theme.options()
    light, dark = (
        {key.rpartition(".")[2] for key in options if key.startswith(f"theme.{name}.")} for name in ("light", "dark")
    )
    assert light == dark
    for name in ("light", "dark"):
        background = _luminance(str(options[f"theme.{name}.backgroundColor"]))
        for colour in ("textColor", "greenColor", "redColor", "grayTextColor", "linkColor"):
            assert _contrast(_luminance(str(options[f"theme.{name}.{colour}"])), background) >= 4.5, (name, colour)


def _luminance(colour: str) -> float:
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: float, other: float) -> float:
    high, low = max(one, other), min(one, other)
    return (high + 0.05) / (low + 0.05)
