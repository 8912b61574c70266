"""History answers with exactly the rows whose cause is before the asking record, stored or on their way (rule R15)."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.table_rows import DAY, MINUTE, T0, bar, rows, trade
from tickhouse.history import LakeHistories, LakeHistory
from tickhouse.indicators.series import SeriesWanted
from tickhouse.model import Cause, Instrument, Position
from tickhouse.sinks.base import Outputs
from tickhouse.sinks.lake import Lake, LakeTables

BTC = Instrument("BINANCE", "BTC-USDT")
MIDNIGHT = 1_700_006_400_000_000
ALWAYS = 2**62


def coded(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("symbol")
    return table.set_column(at, "symbol", table.column("symbol").dictionary_encode())


def trades(first: int, last: int) -> pa.Table:
    return coded(rows("silver.trades", [trade(offset, ("BTC-USDT", "ETH-USDT")[offset % 2]) for offset in range(first, last)]))


def offsets(table: pa.Table) -> list[int]:
    return sorted(table.column("offset").to_pylist())


def store(lake: Lake, name: str, table: pa.Table, reached: int) -> None:
    lake.write(Outputs(0, Position(reached, 0), {name: table}))
    lake.commit()


def test_trades_are_the_same_before_and_after_every_commit(tmp_path: Path) -> None:
    lake, histories = Lake(tmp_path), LakeHistories(tmp_path, 1)
    history = histories.of[0]
    before = Cause(0, 25, 0)
    for step in range(4):
        history.add({"silver.trades": trades(step * 10, step * 10 + 10)})
    expected = list(range(4, 25, 2))
    ask = lambda: offsets(history.trades(BTC, T0 + 3000, T0 + 60_000, before))  # noqa: E731
    assert ask() == expected
    for step in range(4):
        store(lake, "silver.trades", trades(step * 10, step * 10 + 10), step * 10 + 10)
        assert ask() == expected
        histories.committed()
        assert ask() == expected
    lake.close()


def test_rows_that_the_store_has_are_no_longer_held(tmp_path: Path) -> None:
    lake, histories = Lake(tmp_path), LakeHistories(tmp_path, 1)
    history = histories.of[0]
    for step in range(4):
        history.add({"silver.trades": trades(step * 10, step * 10 + 10)})
    store(lake, "silver.trades", trades(0, 30), 30)
    histories.committed()
    assert [piece.offset for piece in history._pending["silver.trades"]] == [39]
    lake.close()


def test_rows_fed_again_after_a_restart_are_not_double(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    store(lake, "silver.trades", trades(0, 30), 30)
    history = LakeHistory(LakeTables(tmp_path), 0)
    history.add({"silver.trades": trades(10, 40)})
    assert offsets(history.trades(BTC, 0, ALWAYS, Cause(0, 99, 0))) == list(range(0, 40, 2))
    assert offsets(history.trades(BTC, 0, ALWAYS, Cause(0, 20, 0))) == list(range(0, 20, 2))
    lake.close()


def test_the_row_within_a_message_counts_as_cause(tmp_path: Path) -> None:
    history = LakeHistory(LakeTables(tmp_path), 0)
    message = rows("silver.trades", [trade(7, row=row, ts=T0 + row) for row in range(5)])
    history.add({"silver.trades": message})
    assert history.trades(BTC, 0, ALWAYS, Cause(0, 7, 3)).column("row").to_pylist() == [0, 1, 2]


def test_other_partitions_are_left_out(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    other = rows("silver.trades", [trade(offset, partition=1) for offset in range(5)])
    lake.write(Outputs(1, Position(5, 0), {"silver.trades": other}))
    lake.commit()
    lake.close()
    assert len(LakeHistory(LakeTables(tmp_path), 0).trades(BTC, 0, ALWAYS, Cause(0, 99, 0))) == 0
    assert len(LakeHistory(LakeTables(tmp_path), 1).trades(BTC, 0, ALWAYS, Cause(1, 99, 0))) == 5


@pytest.mark.parametrize("stored", [0, 3, 6])
def test_known_ids_are_found_wherever_they_are(tmp_path: Path, stored: int) -> None:
    records = [
        trade(0),
        trade(1, trade_id=None, trade_ref="abc"),
        trade(2, "ETH-USDT"),
        trade(3, trade_id=77),
        trade(4),
        trade(5),
    ]
    lake, histories = Lake(tmp_path), LakeHistories(tmp_path, 1)
    history = histories.of[0]
    if stored:
        store(lake, "silver.trades", rows("silver.trades", records[:stored]), stored)
    histories.committed()
    if stored < 6:
        history.add({"silver.trades": rows("silver.trades", records[stored:])})
    assert history.known_ids(BTC, [0, 2, 77, 5, "abc", "x", None], Cause(0, 5, 0)) == {0, 77, "abc"}
    lake.close()


def series(end: int = ALWAYS, count: int | None = None, start: int | None = None, symbol: str = "BTC-USDT") -> SeriesWanted:
    return SeriesWanted(Instrument("BINANCE", symbol), "1m", end, count, start)


def closes(history: LakeHistory, wanted: SeriesWanted, before: Cause) -> list[tuple[int, float]]:
    found = history.bars([wanted], before).get(wanted)
    return [] if found is None else list(zip(found.start.tolist(), found.close.tolist(), strict=True))


@pytest.mark.parametrize("stored", [0, 4, 7])
def test_bars_come_in_their_latest_revision_before_the_cause(tmp_path: Path, stored: int) -> None:
    late = MIDNIGHT + 10 * MINUTE
    records = [
        bar(0, MIDNIGHT - MINUTE),
        bar(1, MIDNIGHT),
        bar(2, MIDNIGHT + MINUTE),
        bar(3, MIDNIGHT, revision=1, available_at=late),
        bar(4, MIDNIGHT, revision=2, available_at=late + MINUTE),
        bar(5, MIDNIGHT + MINUTE, "ETH-USDT"),
        bar(6, MIDNIGHT + MINUTE, origin="kraken", available_at=late),
    ]
    lake, histories = Lake(tmp_path), LakeHistories(tmp_path, 1)
    history = histories.of[0]
    if stored:
        store(lake, "gold.bars", rows("gold.bars", records[:stored]), stored)
    histories.committed()
    if stored < len(records):
        history.add({"gold.bars": coded(rows("gold.bars", records[stored:]))})
    assert closes(history, series(), Cause(0, 3, 0)) == [(MIDNIGHT - MINUTE, 0.0), (MIDNIGHT, 1.0), (MIDNIGHT + MINUTE, 2.0)]
    assert closes(history, series(), Cause(0, 4, 0)) == [(MIDNIGHT - MINUTE, 0.0), (MIDNIGHT, 3.0), (MIDNIGHT + MINUTE, 2.0)]
    assert closes(history, series(count=2), Cause(0, 9, 0)) == [(MIDNIGHT, 4.0), (MIDNIGHT + MINUTE, 2.0)]
    assert closes(history, series(end=MIDNIGHT), Cause(0, 9, 0)) == [(MIDNIGHT - MINUTE, 0.0)]
    assert closes(history, series(start=MIDNIGHT, end=MIDNIGHT + MINUTE), Cause(0, 9, 0)) == [(MIDNIGHT, 4.0)]
    assert closes(history, series(symbol="XRP-USDT"), Cause(0, 9, 0)) == []
    lake.close()


def test_the_last_bars_are_found_however_many_days_back(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    starts = [MIDNIGHT - number * 5 * DAY for number in range(40)][::-1]
    store(lake, "gold.bars", rows("gold.bars", [bar(offset, start) for offset, start in enumerate(starts)]), 40)
    history = LakeHistory(LakeTables(tmp_path), 0)
    both = [series(count=30), series(start=starts[20], end=starts[22])]
    found = history.bars(both, Cause(0, 99, 0))
    assert found[both[0]].start.tolist() == starts[-30:]
    assert found[both[1]].start.tolist() == starts[20:22]
    lake.close()


def test_a_restart_of_many_series_is_one_quick_question(tmp_path: Path) -> None:
    symbols, minutes = 2000, 120
    codes, at = np.divmod(np.arange(symbols * minutes), minutes)
    one = rows("gold.bars", [bar(0, MIDNIGHT)])
    table = pa.concat_tables([one]).take(pa.array(np.zeros(symbols * minutes, np.int64)))
    names = pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32)), pa.array([f"S{code:04d}" for code in range(symbols)])
    )
    replaced = {"symbol": names, "start": pa.array(MIDNIGHT + at * MINUTE).view(one.schema.field("start").type)}
    for name, column in replaced.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    lake = Lake(tmp_path)
    store(lake, "gold.bars", table, 1)
    wanted = [series(count=100, symbol=f"S{code:04d}") for code in range(symbols)]
    began = time.monotonic()
    found = LakeHistory(LakeTables(tmp_path), 0).bars(wanted, Cause(0, 1, 0))
    took_s = time.monotonic() - began
    assert len(found) == symbols
    assert all(len(columns.start) == 100 for columns in found.values())
    assert took_s < 10
    lake.close()
