"""The routes of `/v1` over a stored house: what they answer is what the tables hold."""

from __future__ import annotations

import io

import polars as pl
import pytest

from tests.api.live import Served
from tickhouse.house import House
from tickhouse.tables import TABLES


def test_bars_are_the_last_ones_in_order(served: Served, stored) -> None:
    rows = served.rows("/v1/bars?symbol=btc/usdt&interval=1m&limit=5")
    expected = House(stored).bars("BTC-USDT", "1m", venue="BINANCE").tail(5)
    assert [row["start"] for row in rows] == expected["start"].dt.epoch("us").to_list()
    assert [row["close"] for row in rows] == expected["close"].to_list()
    assert list(rows[0]) == [*TABLES["gold.bars"].values, "final"]


@pytest.mark.parametrize(
    ("path", "limit"),
    [("bars?symbol=BTC-USDT&", 13), ("trades?symbol=BINANCE:BTCUSDT&", 400), ("anomalies?", 3), ("rejected?", 7)],
)
def test_pages_follow_each_other_without_a_gap_or_a_double(served: Served, path: str, limit: int) -> None:
    whole = served.get(f"/v1/{path}start=0&limit=50000").json
    assert whole["next"] is None
    pages, cursor = [], ""
    while cursor is not None:
        answer = served.get(f"/v1/{path}start=0&limit={limit}{cursor and '&cursor=' + cursor}").json
        pages += answer["rows"]
        cursor = answer["next"]
    assert pages == whole["rows"]
    assert len(pages) > 2 * limit


@pytest.mark.parametrize(
    ("accept", "read"),
    [
        ("text/csv", pl.read_csv),
        ("application/vnd.apache.arrow.stream", lambda body: pl.read_ipc_stream(io.BytesIO(body))),
        ("application/vnd.apache.parquet", lambda body: pl.read_parquet(io.BytesIO(body))),
    ],
)
def test_an_answer_comes_in_the_form_that_is_accepted(served: Served, accept: str, read) -> None:
    answer = served.get("/v1/trades?symbol=BTC-USDT&start=0&limit=20", {"Accept": f"application/pdf, {accept};q=0.5"})
    assert answer.headers["content-type"].startswith(accept)
    assert answer.headers["x-next-cursor"]
    frame = read(answer.body)
    rows = served.rows("/v1/trades?symbol=BTC-USDT&start=0&limit=20")
    assert frame["price"].to_list() == [row["price"] for row in rows]
    assert frame.columns == list(rows[0])


def test_indicators_stand_beside_their_bars(served: Served, stored) -> None:
    rows = served.rows("/v1/bars?symbol=ETH-USDT&indicators=1&limit=3")
    wide = House(stored).queries.indicators_wide("ETH-USDT").tail(3)
    assert [row["sma_20"] for row in rows] == wide["sma_20"].to_list()
    assert [row["bbands_20_2_upper"] for row in rows] == wide["bbands_20_2_upper"].to_list()
    assert rows[0]["sma_20"] is not None


def test_the_bar_that_is_still_open_comes_last(served: Served) -> None:
    closed = served.rows("/v1/bars?symbol=BTC-USDT&limit=3")
    rows = served.rows("/v1/bars?symbol=BTC-USDT&limit=3&open=1")
    assert rows[:3] == closed
    assert [row["final"] for row in rows[3:]] == [False] * len(rows[3:])
    assert rows[3]["start"] == closed[-1]["end"]
    assert rows[3]["revision"] is None


def test_what_a_house_is_and_does(served: Served) -> None:
    house = served.get("/v1/house").json
    assert (house["kind"], house["running"], house["intervals"][0]) == ("sqlite", False, "1m")
    health = served.get("/v1/health").json
    assert health["status"] == "stopped"
    assert health["accepted"] > 10_000
    symbols = served.rows("/v1/symbols")
    assert [(row["venue"], row["symbol"]) for row in symbols] == [
        ("BINANCE", "BTC-USDT"), ("BINANCE", "ETH-USDT"), ("COINBASE", "BTC-USD"),
    ]  # fmt: skip
    assert sum(row["trades"] for row in symbols) == health["accepted"]
    catalogue = {row["indicator"]: row for row in served.get("/v1/indicators/catalogue").json["rows"]}
    assert catalogue["sma(20)"]["pane"] == "price"
    assert catalogue["volatility(20)"]["pane"] == "own"
    assert {"output": "upper", "column": "bbands_20_2_upper"} in catalogue["bbands(20,2)"]["outputs"]


def test_feeds_count_since_the_house_began_and_say_which_market_is_closed(served: Served) -> None:
    rows = served.rows("/v1/feeds")
    health = served.get("/v1/health").json
    assert sum(row["trades"] for row in rows) == health["accepted"]
    assert sum(row["duplicate"] for row in rows) == health["duplicate"]
    assert {row["venue"]: row["market"] for row in rows} == {"BINANCE": "open", "COINBASE": "closed"}
    prices = {(row["venue"], row["symbol"]): row["last_price"] for row in served.rows("/v1/symbols")}
    assert {(row["venue"], row["symbol"]): row["last"] for row in rows} == prices


def test_sql_answers_in_rows(served: Served) -> None:
    answer = served.post("/v1/sql", {"sql": "SELECT venue, count(*) AS n FROM silver.trades GROUP BY venue ORDER BY venue"})
    assert [row["venue"] for row in answer.json["rows"]] == ["BINANCE", "COINBASE"]
