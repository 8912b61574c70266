"""Who may ask: anyone on this machine but pages of other sites; beyond it, whoever has a token, so often."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets

from tests.api.live import Served
from tickhouse.api.access import Buckets
from tickhouse.api.tokens import Tokens
from tickhouse.errors import ConfigError
from tickhouse.settings import ServeSettings


@pytest.fixture(scope="module")
def guarded(stored: Path) -> Iterator[tuple[Served, str]]:
    """A server that listens beyond loopback, and a token for it."""
    tokens = Tokens(stored)
    token = tokens.add("desk")
    with Served(stored, ServeSettings(host="0.0.0.0", port=0, cors=("https://desk.example",))) as server:
        server.until_reached(1)
        yield server, token
    tokens.remove("desk")


def connects(url: str, **options: object) -> int:
    """Return 101, or the status with which a WebSocket was refused."""

    async def connect() -> int:
        try:
            async with websockets.connect(url, **options):  # type: ignore[arg-type]
                return 101
        except websockets.InvalidStatus as error:
            return int(error.response.status_code)

    return asyncio.run(connect())


def test_beyond_loopback_everything_needs_a_token(guarded: tuple[Served, str]) -> None:
    server, token = guarded
    refused = server.get("/v1/symbols")
    assert refused.status == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "tickhouse token add" in refused.json["detail"]
    assert server.get("/v1/symbols", {"Authorization": "Bearer th_wrong"}).status == 401
    assert server.get("/v1/symbols", {"Authorization": f"Bearer {token}"}).status == 200
    assert server.get("/v1/symbols", {"X-MBX-APIKEY": token}).status == 200
    assert server.get("/v1/symbols?token=" + token).status == 401, "an address ends up in logs"
    assert server.get("/docs").status == 200
    url = server.url.replace("http", "ws") + "/v1/stream"
    assert connects(url) == 401
    assert connects(f"{url}?token={token}") == 101
    assert connects(url, additional_headers={"Authorization": f"Bearer {token}"}) == 101


def test_only_hashes_are_kept(stored: Path, guarded: tuple[Served, str]) -> None:
    kept = (stored / "tokens.json").read_text()
    assert guarded[1] not in kept
    assert guarded[1][3:] not in kept
    assert (stored / "tokens.json").stat().st_mode & 0o077 == 0


def test_a_token_that_was_removed_is_refused(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    token = tokens.add("one")
    assert Tokens(tmp_path).name_of(token) == "one"
    with pytest.raises(ConfigError, match="already"):
        tokens.add("one")
    assert [each.name for each in tokens.all()] == ["one"]
    tokens.remove("one")
    assert Tokens(tmp_path).name_of(token) is None
    with pytest.raises(ConfigError, match="no token named 'one'"):
        tokens.remove("one")
    with pytest.raises(ConfigError, match="name"):
        tokens.add(" ")


def test_pages_of_other_sites_are_kept_out(served: Served, guarded: tuple[Served, str]) -> None:
    assert served.get("/v1/symbols", {"Host": "evil.example"}).status == 421
    url = served.url.replace("http", "ws") + "/v1/stream"
    assert connects(url, origin="https://evil.example") == 403
    assert connects(url, origin="http://localhost:8501") == 101
    answer = served.get("/v1/symbols", {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    server, token = guarded
    headers = {"Origin": "https://desk.example", "Authorization": f"Bearer {token}"}
    assert server.get("/v1/symbols", headers).headers["access-control-allow-origin"] == "https://desk.example"
    assert "access-control-allow-origin" not in server.get("/v1/symbols", {**headers, "Origin": "https://x.example"}).headers
    asked = {"Origin": "https://desk.example", "Access-Control-Request-Method": "GET"}
    assert server.get("/v1/symbols", asked, method="OPTIONS").status == 200


def test_a_bucket_refills_at_its_rate_and_holds_its_burst() -> None:
    now = 0.0
    buckets = Buckets(10.0, 3, lambda: now)
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(0.1)]
    assert buckets.take("b") == 0.0
    now = 0.1
    assert buckets.take("a") == 0.0
    assert buckets.take("a") > 0
    now = 100.0
    assert [buckets.take("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_who_asks_too_often_is_told_when_to_ask_again(stored: Path) -> None:
    with Served(stored, ServeSettings(port=0, rate_per_s=0.5, burst=3)) as server:
        answers = [server.get("/v1/house") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_tokens_are_kept_by_the_command_line(stored: Path) -> None:
    from typer.testing import CliRunner

    from tickhouse.cli import app

    def tickhouse(*words: str) -> str:
        done = CliRunner().invoke(app, ["token", *words, "--house", str(stored)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    token = tickhouse("add", "robot").strip()
    assert Tokens(stored).name_of(token) == "robot"
    assert "robot" in tickhouse("list")
    assert token not in tickhouse("list")
    tickhouse("remove", "robot")
    assert "robot" not in tickhouse("list")
