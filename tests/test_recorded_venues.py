"""Our bars of recorded trades are the bars that the venues themselves published of them."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import polars as pl
import pytest

from tests import venue_files
from tests.scripted import MINUTE, SECOND, Script, rows_of, run
from tests.venue_files import BarKey, Ohlcv
from tickhouse.house import House
from tickhouse.runs import ReplayRun
from tickhouse.settings import HouseRules, Settings
from tickhouse.sources.binance import Binance, BinanceSettings

pytestmark = pytest.mark.slow


def _bars(house: Path, file: Path, interval: str = "1m") -> dict[BarKey, Ohlcv]:
    """Replay a file into a new house; return its bars."""
    settings = Settings(rules=HouseRules(intervals=tuple(dict.fromkeys((interval, "1m")))))
    told = ReplayRun(House(house), settings, [file], {}, say=lambda _line: None).run(threading.Event())
    assert told["rejected"] == {}
    assert told["received"] == told["accepted"]
    rows = House(house).sql(
        "select symbol, epoch_ms(start) as start, open, high, low, close, volume from gold.bars "
        f"where interval = '{interval}' and revision = 0 and symbol <> 'ZZZ'"
    )
    return {(row[0], row[1]): Ohlcv(*row[2:]) for row in rows.iter_rows()}


def _differing(ours: dict[BarKey, Ohlcv], theirs: dict[BarKey, Ohlcv]) -> list[BarKey]:
    """Bars that are not equal: prices to the last bit, volumes up to the venue's own rounding."""
    return [
        key
        for key in sorted(ours.keys() | theirs.keys())
        if key not in ours
        or key not in theirs
        or ours[key][:4] != theirs[key][:4]
        or ours[key].volume != pytest.approx(theirs[key].volume, rel=1e-9, abs=1e-9)
    ]


def test_comex_gold_has_the_vendors_minute_bars(shared: Path, tmp_path: Path):
    ours = _bars(tmp_path / "house", venue_files.gold_trades(shared, tmp_path / "gold.ndjson"))
    theirs = venue_files.gold_bars(shared)
    assert len(theirs) == 1_500
    # The vendor cuts a contract's last bar of the day short: its volume lacks contracts that its own ticks have.
    last = {symbol: max(start for name, start in theirs if name == symbol) for symbol, _ in theirs}
    differing = _differing(ours, theirs)
    assert len(differing) == 5
    for symbol, start in differing:
        assert start == last[symbol]
        assert ours[symbol, start][:4] == theirs[symbol, start][:4]
        assert ours[symbol, start].volume > theirs[symbol, start].volume


@pytest.mark.parametrize(("interval", "count"), [("1s", 18_228), ("1m", 1_406)])
def test_oanda_eurusd_has_the_vendors_bars_of_bid_and_ask(shared: Path, tmp_path: Path, interval: str, count: int):
    ours = _bars(tmp_path / "house", venue_files.eurusd_quotes(shared, tmp_path / "eurusd.ndjson"), interval)
    theirs = venue_files.eurusd_bars(shared, interval)
    assert len(theirs) == 2 * count
    assert _differing(ours, theirs) == []


def test_coinbase_minutes_are_made_of_its_seconds(shared: Path, tmp_path: Path):
    ours = _bars(tmp_path / "house", venue_files.coinbase_trades(shared, tmp_path / "coinbase.ndjson"))
    theirs = venue_files.coinbase_bars(shared)
    assert len(theirs) == 1_419 + 1_400
    assert _differing(ours, theirs) == []


def test_binance_futures_bars_are_its_klines_at_every_update(shared: Path, tmp_path: Path):
    updates = venue_files.futures_updates(shared)
    assert len(updates) == 15
    source = Binance(BinanceSettings(market="usdm"))
    for update in updates:
        script = Script().beat(update.trades[-1]["T"] * 1000 // 250_000 * 250_000)
        for frame in update.trades:
            [trade] = source.parse(json.dumps(frame).encode(), 0).trades
            script.trade(trade.ts, trade.price, trade.size, trade.trade_id, trade.feed)
        script.beat(update.start * 1000 + MINUTE + 10 * SECOND)
        bars = run(script, tmp_path)["gold.bars"]
        bars = bars.filter(pl.col("start").dt.epoch("ms") == update.start)
        [(*prices, volume)] = rows_of(bars, *Ohlcv._fields, interval="1m")
        assert tuple(prices) == update.bar[:4]
        assert volume == pytest.approx(update.bar.volume, rel=1e-12)
