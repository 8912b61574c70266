"""`verify`: a house that holds what the rules say is proven; any other one is told where it differs."""

from __future__ import annotations

import json
from datetime import date

import msgspec
import pyarrow as pa
import pytest

from tickhouse.model import Position
from tickhouse.quality.digest import table_digest
from tickhouse.quality.verify import verify
from tickhouse.tables import TABLES

CLOCK = 12_000


@pytest.fixture
def store(bronze, memory_store):
    """A house with gaps, late trades, rejected ones, anomalies, bars and indicators."""
    for i in range(400):
        clock = 20 + i * 20
        if i % 50 != 49:
            bronze.trade(
                clock, i, 100.0 + (i % 7) * 0.25 + (50 if i == 250 else 0), 0.5 + i % 3, ts=clock - (75 if i % 40 == 3 else 0)
            )
    bronze.trade(8_020, 5, ts=175, verdict="duplicate")
    bronze.trade(8_020, 49, ts=1000, backfilled=True)
    bronze.trade(8_020, 401, price=-1.0, verdict="price")
    bronze.trade(8_020, 5, ts=8_020, verdict="id_conflict")
    bronze.trade(8_040, 7, price=100.0, size=0.0, ts=8_040, verdict="identity", id_space="quote", kind="polled")
    bronze.reject(8_040, "malformed", b"\xff{")
    bronze.event(8_050, "refilled", first=0, last=120)
    return memory_store.of(bronze, CLOCK)


def change(store, table: str, place: int, column: str, value) -> None:
    rows = store.tables[table].to_pylist()
    rows[place][column] = value
    store.tables[table] = pa.Table.from_pylist(rows, schema=store.tables[table].schema)


def test_a_house_that_follows_the_rules_is_proven(store):
    done = []
    report = verify(store, progress=done.append)
    assert report.differences == []
    assert report.ok
    assert report.digests == {name: table_digest(store.tables[name], spec) for name, spec in TABLES.items()}
    assert all(report.digests[name] == digest for name, digest in report.recomputed.items())
    assert all(report.rows[name] > 0 for name in TABLES)
    assert msgspec.to_builtins(report.balance) == {
        "received": 398,
        "accepted": 393,
        "duplicate": 1,
        "rejected": 4,
        "silver": 393,
        "repeated_causes": 0,
        "ok": True,
    }
    assert done == [397]  # what a source rejected is no trade


def test_the_report_is_plain_json(store):
    change(store, "gold.bars", 3, "close", 1.5)
    content = json.loads(json.dumps(verify(store).to_json()))
    assert content.keys() == {"ok", "digests", "rows", "differences", "balance"}
    assert content["ok"] is False
    assert content["differences"][0]["table"] == "gold.bars"


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("silver.trades", "price", 99.0),
        ("silver.trades", "score", -0.0),
        ("silver.trades", "late", True),
        ("gold.bars", "volume", 0.1),
        ("gold.bars", "vwap", None),
        ("gold.indicators", "value", 1.0),
        ("gold.anomalies", "baseline", 1.0),
    ],
)
def test_one_changed_cell_is_found_and_shown_beside_its_right_value(store, table, column, value):
    right = store.tables[table].to_pylist()[0]
    change(store, table, 0, column, value)
    report = verify(store)
    assert [(found.table, found.rows, found.what) for found in report.differences] == [(table, 2, "a row has other values")]
    found = report.differences[0]
    assert found.stored[column] == value
    assert found.recomputed == {name: right[name] for name in TABLES[table].values}
    assert report.digests[table] != report.recomputed[table]


def test_a_missing_row_is_found(store):
    store.tables["gold.gaps"] = store.tables["gold.gaps"].slice(1)
    report = verify(store)
    assert [(found.table, found.rows, found.what, found.stored) for found in report.differences] == [
        ("gold.gaps", 1, "a row is missing", None)
    ]
    assert report.differences[0].key["symbol"] == "BTC-USDT"


def test_a_row_too_many_is_found_even_where_it_repeats_another(store):
    store.tables["gold.indicators"] = pa.concat_tables(
        [store.tables["gold.indicators"], store.tables["gold.indicators"].slice(5, 1)]
    )
    (found,) = verify(store).differences
    assert (found.table, found.rows, found.recomputed) == ("gold.indicators", 1, None)
    assert found.what == "a row is stored that the rules do not give"


def test_a_wrong_verdict_is_a_difference_of_bronze(store):
    place = [row["verdict"] for row in store.tables["bronze.trades"].to_pylist()].index("duplicate")
    change(store, "bronze.trades", place, "verdict", "accepted")
    report = verify(store)
    assert report.differences[0].table == "bronze.trades"
    assert (report.differences[0].stored, report.differences[0].recomputed) == (
        {"verdict": "accepted"},
        {"verdict": "duplicate"},
    )
    assert not report.balance.ok  # silver has one less than were accepted


def test_a_wrong_reason_is_a_difference_of_bronze_rejected(store):
    change(store, "bronze.rejected", 0, "reason", "size")
    (found,) = verify(store).differences
    assert (found.table, found.stored, found.recomputed) == ("bronze.rejected", {"verdict": "size"}, {"verdict": "price"})


def test_a_lost_silver_row_breaks_the_balance(store):
    store.tables["silver.trades"] = store.tables["silver.trades"].slice(1)
    report = verify(store)
    assert not report.balance.ok
    assert report.differences[0].what == "a row is missing"


def test_a_cause_that_stands_twice_is_found(store):
    store.tables["bronze.rejected"] = pa.concat_tables(
        [store.tables["bronze.rejected"], store.tables["bronze.rejected"].slice(3, 1)]
    )
    report = verify(store)
    assert report.balance.repeated_causes == 1
    assert not report.ok


def test_a_clock_that_falls_is_found(store):
    change(store, "bronze.trades", 0, "clock", store.tables["bronze.trades"].to_pylist()[30]["clock"])
    assert "a trade's clock is above that of a later one, or of the position" in [
        found.what for found in verify(store).differences
    ]


def test_rows_above_the_position_are_left_out(bronze, memory_store):
    bronze.trade(5, 1)
    store = memory_store.of(bronze, 100)
    extra = store.tables["gold.bars"].to_pylist()
    change_all = [{**row, "offset": 2_000_000, "close": 1.0} for row in extra]
    store.tables["gold.bars"] = pa.concat_tables(
        [store.tables["gold.bars"], pa.Table.from_pylist(change_all, schema=store.tables["gold.bars"].schema)]
    )
    assert verify(store).ok


def test_an_empty_house_is_proven(bronze, memory_store):
    store = memory_store.of(bronze, 0)
    store._position = Position()
    report = verify(store)
    assert report.ok
    assert set(report.rows.values()) == {0}


def days_of(bronze, memory_store):
    """Three days, with trades that come hours late across both midnights, and a refill."""
    hour = 3600
    for i in range(600):
        clock = hour * 0.1 * (i + 1)
        if i % 37 != 5:
            bronze.trade(
                clock, i, 100.0 + i % 7 * 0.25 + (9 if i % 200 == 150 else 0), ts=clock - (6 * hour if i % 90 == 70 else 1)
            )
    bronze.trade(65 * hour, 5, ts=0.6 * hour, backfilled=True)
    bronze.event(65 * hour, "refilled", first=0, last=300)
    return memory_store.of(bronze, 66 * hour)


@pytest.mark.parametrize("day", [15, 16, 17, 18, 19])
def test_a_day_can_be_proven_alone(bronze, memory_store, day):
    store = days_of(bronze, memory_store)
    assert verify(store).ok
    report = verify(store, day=date(2026, 1, day))
    assert report.differences == []
    assert report.ok
    assert (report.rows["gold.indicators"] > 0) == (16 <= day <= 18)
    for name, spec in TABLES.items():
        column = "available_at" if "available_at" in spec.values else "clock"
        rows = [row for row in store.tables[name].to_pylist() if row[column].day == day]
        assert report.digests[name] == table_digest(pa.Table.from_pylist(rows, schema=spec.schema), spec)


@pytest.mark.parametrize(
    ("table", "column"), [("silver.trades", "score"), ("gold.bars", "close"), ("gold.indicators", "value")]
)
def test_a_day_answers_for_its_own_rows_only(bronze, memory_store, table, column):
    store = days_of(bronze, memory_store)
    time = "available_at" if "available_at" in TABLES[table].values else "clock"
    at = {row[time].day: place for place, row in enumerate(store.tables[table].to_pylist())}
    change(store, table, at[17], column, 0.125)
    proven = {day: verify(store, day=date(2026, 1, day)).ok for day in (16, 17)}
    assert proven == {16: True, 17: False}
