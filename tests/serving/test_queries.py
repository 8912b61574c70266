"""Queries: what the house knew and when, by symbol in any spelling, and nothing that writes."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from tests.table_rows import DAY, MINUTE, T0, bar, rows, trade
from tickhouse.errors import ConfigError
from tickhouse.model import Position
from tickhouse.serving.queries import Queries
from tickhouse.serving.rows import wide_name
from tickhouse.sinks.base import Outputs
from tickhouse.sinks.lake import Lake
from tickhouse.tables import TABLES

START = T0 // MINUTE * MINUTE
LATE = START + 5 * MINUTE


def at(us: int) -> datetime:
    return datetime.fromtimestamp(us // 1_000_000, UTC)


def indicator(offset: int, start: int, name: str, output: str, value: float | None, available_at: int) -> dict[str, object]:
    key = {"venue": "BINANCE", "symbol": "BTC-USDT", "interval": "1m", "start": start, "indicator": name, "output": output}
    return {**key, "value": value, "available_at": available_at, "offset": offset}


def gap(offset: int, first: int, state: str) -> dict[str, object]:
    key = {"venue": "BINANCE", "symbol": "BTC-USDT", "first_missing_id": first, "last_missing_id": first + 2}
    return {**key, "state": state, "clock": T0 + offset, "offset": offset}


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Queries:
    path = tmp_path_factory.mktemp("lake")
    lake = Lake(path)
    trades = [
        trade(0),
        trade(1, "ETH-USDT"),
        trade(2, ts=T0 + DAY),
        trade(3, ts=T0 + 500, clock=T0 + DAY),
        trade(4, venue="KRAKEN", ts=T0 + 100),
    ]
    bars = [
        bar(0, START),
        bar(1, START + MINUTE),
        bar(2, START, revision=1, available_at=LATE),
        bar(3, START, venue="KRAKEN"),
    ]
    due = START + MINUTE
    values = [
        indicator(0, START, "sma(20)", "value", None, due),
        indicator(1, START, "bbands(20,2)", "upper", 2.0, due),
        indicator(2, START, "sma(20)", "value", 7.0, LATE),
    ]
    flagged = {"venue": "BINANCE", "symbol": "BTC-USDT", "ts": T0, "clock": T0, "detector": "zscore(100,3)", "score": 4.0}
    tables = {
        "bronze.trades": trades,
        "silver.trades": trades,
        "gold.bars": bars,
        "gold.indicators": values,
        "gold.anomalies": [flagged],
        "gold.gaps": [gap(0, 5, "open"), gap(1, 50, "open"), gap(2, 5, "healed")],
    }
    for first, last in ((0, 2), (2, 9)):
        part = {
            name: rows(name, [r for r in records if first <= r.get("offset", 0) < last]) for name, records in tables.items()
        }
        lake.write(Outputs(0, Position(last, 0), part))
        lake.commit()
    lake.compact("2023-11-14", "date/symbol")  # days of one table then lie in both layouts
    lake.close()
    return Queries(path)


def test_bars_are_the_latest_revisions_by_venue_and_start(queries: Queries) -> None:
    found = queries.bars("BTC-USDT")
    assert found.columns == TABLES["gold.bars"].values
    assert found.schema["start"] == pl.Datetime("us", "UTC")
    expected = [("BINANCE", at(START), 1), ("BINANCE", at(START + MINUTE), 0), ("KRAKEN", at(START), 0)]
    assert found.select("venue", "start", "revision").rows() == expected


def test_as_of_sees_only_what_was_known_then(queries: Queries) -> None:
    known = queries.bars("BTC-USDT", venue="BINANCE", as_of=at(LATE - 1_000_000))
    assert known["revision"].to_list() == [0, 0]
    assert queries.bars("BTC-USDT", venue="BINANCE", as_of=at(LATE))["revision"].to_list() == [1, 0]
    assert len(queries.bars("BTC-USDT", as_of=at(START))) == 0
    assert queries.trades("BTC-USDT", as_of=at(T0 + 1_000_000))["trade_id"].to_list() == [0, 4]
    assert queries.indicators("BTC-USDT", indicator="sma(20)", as_of=at(LATE - 1_000_000))["value"].to_list() == [None]
    assert queries.sql("SELECT count(*) AS n FROM gold.bars", as_of=at(LATE - 1_000_000)).item() == 3


def test_revisions_shows_every_one(queries: Queries) -> None:
    assert queries.bars("BTC-USDT", venue="BINANCE", revisions=True)["revision"].to_list() == [0, 1, 0]
    assert len(queries.indicators("BTC-USDT", revisions=True)) == 3


def test_start_is_included_and_end_is_not(queries: Queries) -> None:
    begin, end = at(START), at(START + MINUTE)
    assert queries.bars("BTC-USDT", venue="BINANCE", start=begin, end=end)["start"].to_list() == [begin]
    assert queries.bars("BTC-USDT", venue="BINANCE", start=end)["start"].to_list() == [end]
    assert queries.trades("BTC-USDT", start=date(2023, 11, 15))["trade_id"].to_list() == [2]
    assert queries.trades("BTC-USDT", start="2023-11-15", end="2023-11-16T00:00:00")["trade_id"].to_list() == [2]


@pytest.mark.parametrize("spelled", ["BTC-USDT", "btc/usdt", "BINANCE:BTCUSDT", "btc_usdt"])
def test_a_symbol_may_be_spelled_as_people_do(queries: Queries, spelled: str) -> None:
    assert queries.bars(spelled, venue="binance")["symbol"].unique().to_list() == ["BTC-USDT"]


def test_trades_come_in_canonical_order(queries: Queries) -> None:
    assert queries.trades("BTC-USDT", venue="BINANCE")["trade_id"].to_list() == [0, 3, 2]
    assert queries.trades("BTC-USDT", limit=2)["trade_id"].to_list() == [3, 2]


def test_indicators_have_a_wide_form(queries: Queries) -> None:
    wide = queries.indicators_wide("BTC-USDT")
    assert wide.select("start", "sma_20", "bbands_20_2_upper").rows() == [(at(START), 7.0, 2.0)]
    assert queries.sql("SELECT sma_20, bbands_20_2_upper FROM gold.indicators_wide").rows() == [(7.0, 2.0)]
    assert wide_name("macd(12,26,9)", "macdsignal") == "macd_12_26_9_macdsignal"


def test_gaps_are_in_their_current_state(queries: Queries) -> None:
    assert queries.gaps("BTC-USDT").select("first_missing_id", "state").rows() == [(5, "healed"), (50, "open")]
    assert queries.gaps(changes=True)["state"].to_list() == ["open", "healed", "open"]


def test_anomalies_and_symbols_are_listed(queries: Queries) -> None:
    assert queries.anomalies()["score"].to_list() == [4.0]
    found = queries.symbols().select("venue", "symbol", "trades").rows()
    assert found == [("BINANCE", "BTC-USDT", 3), ("BINANCE", "ETH-USDT", 1), ("KRAKEN", "BTC-USDT", 1)]
    assert queries.row_counts()["silver.trades"] == 5


def test_sql_sees_every_table_with_its_date(queries: Queries) -> None:
    by_day = queries.sql("SELECT date, count(*) AS n FROM silver.trades GROUP BY date ORDER BY date").rows()
    assert by_day == [(date(2023, 11, 14), 4), (date(2023, 11, 15), 1)]
    for name, table in TABLES.items():
        assert queries.sql(f"SELECT * FROM {name} LIMIT 0").columns == [*table.schema.names, "date"]
    assert queries.sql("SELECT revision FROM gold.bars_latest WHERE venue = ? ORDER BY start", ["BINANCE"])[
        "revision"
    ].to_list() == [1, 0]
    assert len(queries.sql("SELECT * FROM silver.trades", max_rows=2)) == 2


def test_an_empty_house_answers_with_typed_empty_tables(tmp_path: Path) -> None:
    queries = Queries(tmp_path / "lake")
    assert queries.gaps().schema["clock"] == pl.Datetime("us", "UTC")
    assert len(queries.sql("SELECT * FROM gold.indicators_wide")) == 0
    assert not (tmp_path / "lake").exists()


def test_an_unknown_symbol_names_the_nearest(queries: Queries) -> None:
    with pytest.raises(ConfigError, match="unknown symbol 'BTC-USD'; did you mean BTC-USDT"):
        queries.bars("BTC-USD")
    with pytest.raises(ConfigError, match="not known at venue 'COINBASE'; it is at BINANCE, KRAKEN"):
        queries.trades("BTC-USDT", venue="COINBASE")
    with pytest.raises(ConfigError, match="names no symbol"):
        queries.trades("/")
    assert len(queries.bars("ETH-USDT")) == 0  # known, without bars


def test_a_time_or_interval_that_means_nothing_is_refused(queries: Queries) -> None:
    with pytest.raises(ConfigError, match="'noon' is no time"):
        queries.bars("BTC-USDT", start="noon")
    with pytest.raises(ConfigError, match="'1x' is not a duration"):
        queries.bars("BTC-USDT", "1x")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("CREATE TABLE x (a INT)", "only one SELECT"),
        ("SELECT 1; SELECT 2", "only one SELECT"),
        ("COPY (SELECT 1) TO 'x.csv'", "only one SELECT"),
        ("SET threads = 1", "only one SELECT"),
        ("", "only one SELECT"),
        ("SELEC 1", "cannot be read"),
        ("SELECT * FROM gold.barz", "Did you mean"),
        ("SELECT * FROM read_text('/etc/hostname')", "Permission"),
    ],
)
def test_sql_only_reads_the_house(queries: Queries, query: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        queries.sql(query)


def test_a_query_that_takes_too_long_is_stopped(queries: Queries) -> None:
    with pytest.raises(ConfigError, match=r"longer than 0\.2 s"):
        queries.sql("SELECT count(*) FROM range(1000000000) a, range(1000) b WHERE a.range % 7 = b.range % 11", timeout_s=0.2)
