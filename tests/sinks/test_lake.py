"""The lake: files in order, merges that change no row and no position, errors that say what to do."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.table_rows import DAY, MINUTE, T0, bar, rows, trade
from tickhouse.errors import ConfigError, FatalError
from tickhouse.model import Position
from tickhouse.sinks.base import Outputs
from tickhouse.sinks.lake import Lake, LakeTables
from tickhouse.sinks.lake_compaction import MERGE_FILES, close_day, merge_small
from tickhouse.sinks.lake_encode import RangeEncoder
from tickhouse.sinks.lake_files import stamp
from tickhouse.sinks.lake_log import CHECKPOINT_EVERY
from tickhouse.tables import TABLES

SYMBOLS = ("ETH-USDT", "BTC-USDT", "A/B_C")


def silver(first: int, count: int, *, ts: int | None = None) -> pa.Table:
    records = [
        trade(offset, SYMBOLS[offset % 3], ts=None if ts is None else ts + offset) for offset in range(first, first + count)
    ]
    return rows("silver.trades", records)


def fill(lake: Lake, commits: int, *, each: int = 30, start: int = 0) -> int:
    """Commit in small steps over two days; return the offset reached."""
    for number in range(start, start + commits):
        table = silver(number * each, each, ts=T0 + (number % 2) * DAY)
        lake.write(Outputs(0, Position((number + 1) * each, number), {"silver.trades": table}))
        lake.commit()
    return (start + commits) * each


def everything(path: Path, name: str = "silver.trades") -> pa.Table:
    return LakeTables(path).table(name).sort_by([("offset", "ascending"), ("row", "ascending")])


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    records = [
        {
            "source": "binance",
            "received_at": T0,
            "clock": None,
            "reason": "malformed",
            "payload": b"\x00{",
            "length": 2,
            "offset": 1,
        },
        {"source": "binance", "reason": "price", "payload": b"", "sha256": "ab", "clock": T0 + DAY, "offset": 2, "row": -1},
    ]
    rejected = rows("bronze.rejected", records)
    lake.write(Outputs(0, Position(3, T0), {"bronze.rejected": rejected}))
    lake.commit()
    lake.close()
    assert everything(tmp_path, "bronze.rejected") == rejected
    days = {file.day.isoformat() for file in LakeTables(tmp_path).data_files("bronze.rejected")}
    assert days == {"1970-01-01", "2023-11-15"}


def test_a_file_is_sorted_by_symbol_and_within_it_by_cause(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.write(Outputs(0, Position(40, 0), {"silver.trades": silver(0, 40)}))
    lake.write(Outputs(0, Position(90, 0), {"silver.trades": silver(40, 50)}))
    lake.commit()
    lake.close()
    (file,) = LakeTables(tmp_path).files("silver.trades")
    stored = pq.ParquetFile(file).read()
    pairs = list(zip(stored.column("symbol").to_pylist(), stored.column("offset").to_pylist(), strict=True))
    assert pairs == sorted(pairs)
    assert len(pairs) == 90


def test_coded_and_plain_text_may_be_mixed(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    plain, coded = silver(0, 5), silver(5, 5)
    at = coded.schema.get_field_index("symbol")
    coded = coded.set_column(at, "symbol", coded.column("symbol").dictionary_encode())
    lake.write(Outputs(0, Position(5, 0), {"silver.trades": plain}))
    lake.write(Outputs(0, Position(10, 0), {"silver.trades": coded}))
    lake.commit()
    lake.close()
    assert everything(tmp_path) == silver(0, 10)


def test_merging_small_files_changes_no_row_and_no_position(tmp_path: Path) -> None:
    lake = Lake(tmp_path, merge_every=0)
    reached = fill(lake, 2 * MERGE_FILES)
    before = everything(tmp_path)
    seen_earlier = LakeTables(tmp_path)
    old = len(seen_earlier.files("silver.trades"))
    gone = merge_small(tmp_path, TABLES["silver.trades"])
    tables = LakeTables(tmp_path)
    assert (old, gone, len(tables.files("silver.trades"))) == (2 * MERGE_FILES, 2 * (MERGE_FILES - 1), 2)
    assert everything(tmp_path) == before
    assert tables.position("silver.trades") == Position(reached, 2 * MERGE_FILES - 1)
    assert len(seen_earlier.table("silver.trades")) == len(before)
    fill(lake, 3, start=2 * MERGE_FILES)
    lake.close()
    assert everything(tmp_path).column("offset").to_pylist() == list(range(reached + 90))


def test_merges_beside_the_writer_lose_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path, merge_every=10)
    reached = fill(lake, 75)
    lake.close()
    tables = LakeTables(tmp_path)
    assert everything(tmp_path).column("offset").to_pylist() == list(range(reached))
    assert tables.position("silver.trades").offset == reached
    assert len(tables.files("silver.trades")) < 75 - MERGE_FILES
    assert Lake(tmp_path).positions(0)["silver.trades"].offset == reached


@pytest.mark.parametrize("layout", ["date", "date/symbol"])
def test_closing_a_day_changes_no_row_and_no_position(tmp_path: Path, layout: str) -> None:
    lake = Lake(tmp_path, merge_every=0)
    reached = fill(lake, 6)
    before = everything(tmp_path)
    result = lake.compact("2023-11-14", layout)
    assert result["silver.trades"] == {"before": 6, "after": 4 if layout == "date" else 6}
    assert lake.compact("2023-11-14", layout)["silver.trades"]["after"] == result["silver.trades"]["after"]
    assert everything(tmp_path) == before
    closed = [file.path for file in LakeTables(tmp_path).data_files("silver.trades") if file.day.day == 14]
    assert sum("/symbol=BTC-USDT/" in path for path in closed) == (layout == "date/symbol")
    fill(lake, 1, start=6)
    lake.close()
    assert LakeTables(tmp_path).position("silver.trades").offset == reached + 30
    assert everything(tmp_path).column("offset").to_pylist() == list(range(reached + 30))


def test_a_closed_day_is_sorted_by_symbol_and_time(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for number in range(3):
        table = silver(number * 10, 10, ts=T0 - number * MINUTE)
        lake.write(Outputs(0, Position((number + 1) * 10, 0), {"silver.trades": table}))
        lake.commit()
    close_day(tmp_path, TABLES["silver.trades"], LakeTables(tmp_path).data_files("silver.trades")[0].day, "date")
    lake.close()
    (file,) = LakeTables(tmp_path).files("silver.trades")
    stored = pq.ParquetFile(file).read()
    pairs = list(zip(stored.column("symbol").to_pylist(), stored.column("ts").to_pylist(), strict=True))
    assert pairs == sorted(pairs)


def test_compacting_without_a_day_leaves_the_newest_open(tmp_path: Path) -> None:
    lake = Lake(tmp_path, merge_every=0)
    fill(lake, 6)
    assert lake.compact()["silver.trades"] == {"before": 6, "after": 4}
    open_day = [file for file in LakeTables(tmp_path).data_files("silver.trades") if file.day.day == 15]
    assert len(open_day) == 3
    lake.close()


def test_files_left_by_a_killed_writer_are_seen_by_nobody(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    fill(lake, 2)
    encoder = RangeEncoder(tmp_path, 0, lake.positions(0))
    encoder.write(Outputs(0, Position(90, 9), {"silver.trades": silver(60, 30)}))
    encoder.finish()  # written, never committed: what a kill leaves
    assert len(list((tmp_path / "silver").rglob("*.parquet"))) == 3
    again = Lake(tmp_path)
    assert again.positions(0)["silver.trades"].offset == 60
    assert len(everything(tmp_path)) == 60


def test_files_of_no_commit_are_removed_when_they_are_old(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    fill(lake, 2)
    young, old = (tmp_path / "silver" / "trades" / "date=2023-11-14" / f"part-{name}.parquet" for name in ("young", "old"))
    young.write_bytes(b"x")
    old.write_bytes(b"x")
    two_hours_ago = time.time() - 7200
    os.utime(old, (two_hours_ago, two_hours_ago))
    lake.compact("2023-11-14")
    assert (young.exists(), old.exists()) == (True, False)
    assert len(everything(tmp_path)) == 60
    lake.close()


@pytest.mark.parametrize("table_existed", [True, False])
def test_a_second_writer_is_refused_and_adds_nothing(tmp_path: Path, table_existed: bool) -> None:
    one, other = Lake(tmp_path), Lake(tmp_path)
    fill(one, 1)
    if table_existed:
        other = Lake(tmp_path)
    other.write(Outputs(0, Position(61, 5), {"silver.trades": silver(0, 61)}))
    one.write(Outputs(0, Position(60, 5), {"silver.trades": silver(30, 30)}))
    one.commit()
    with pytest.raises(FatalError, match="another process commits to silver"):
        other.commit()
    assert len(everything(tmp_path)) == 60
    one.close()
    other.close()


def test_readers_stay_at_one_version_until_refreshed(tmp_path: Path) -> None:
    lake, tables = Lake(tmp_path), LakeTables(tmp_path)
    assert tables.version("silver.trades") == -1
    assert tables.table("silver.trades").schema == TABLES["silver.trades"].schema
    assert tables.position("silver.trades") == Position()
    fill(lake, 1)
    assert len(tables.table("silver.trades")) == 0
    tables.refresh()
    assert len(tables.table("silver.trades")) == 30
    assert len(tables.table("silver.trades", below={0: 12})) == 12
    assert len(tables.table("silver.trades", below={1: 12})) == 0
    lake.close()


def test_statistics_are_rounded_outwards() -> None:
    at = pa.scalar(1_700_000_000_123_456, pa.timestamp("us", tz="UTC")).as_py()
    assert stamp(at, up=False) == "2023-11-14T22:13:20.123Z"
    assert stamp(at, up=True) == "2023-11-14T22:13:20.124Z"


def test_statistics_in_the_log_bound_the_rows_of_each_file(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    starts = [T0 // MINUTE * MINUTE + number * MINUTE for number in range(5)]
    table = rows("gold.bars", [bar(number, start) for number, start in enumerate(starts)])
    lake.write(Outputs(0, Position(5, 0), {"gold.bars": table}))
    lake.commit()
    lake.close()
    (file,) = LakeTables(tmp_path).data_files("gold.bars")
    start = table.column("start").to_pylist()
    assert (file.smallest["start"], file.largest["start"], file.rows) == (start[0], start[-1], 5)
    assert (file.smallest["offset"], file.largest["offset"]) == (0, 4)
    assert file.smallest["symbol"] == file.largest["symbol"] == "BTC-USDT"


def test_bad_input_is_named(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(ConfigError, match=r"no table 'gold\.barz'"):
        LakeTables(tmp_path).table("gold.barz")
    with pytest.raises(ConfigError, match=r"'gold\.barz' that is none of"):
        lake.write(Outputs(0, Position(1, 0), {"gold.barz": silver(0, 1)}))
    with pytest.raises(ConfigError, match="'yesterday' is no date"):
        lake.compact("yesterday")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be made"):
        Lake(tmp_path / "file" / "lake")
    lake.close()


def test_many_row_groups_and_days_come_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tickhouse.sinks.lake_files.ROW_GROUP_ROWS", 64)
    lake = Lake(tmp_path)
    records = [trade(offset, SYMBOLS[offset % 3], ts=T0 + (offset % 4) * DAY) for offset in range(1000)]
    for part in (records[i : i + 50] for i in range(0, 1000, 50)):
        lake.write(Outputs(0, Position(part[-1]["offset"] + 1, 0), {"silver.trades": rows("silver.trades", part)}))
    lake.commit()
    lake.close()
    assert everything(tmp_path) == rows("silver.trades", records)
    assert len(LakeTables(tmp_path).files("silver.trades")) == 4


def test_what_a_durable_commit_made_visible_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, bytes] = {}
    flushed_folders: set[Path] = set()

    def keep(descriptor: int) -> None:
        """Note what the disk has been told to keep: the only thing there after a power cut."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_file():
            kept[str(path)] = path.read_bytes()
        else:
            flushed_folders.add(path)

    monkeypatch.setattr(os, "fsync", keep)
    lake = Lake(tmp_path / "lake", merge_every=0, durable=True)
    start = 0
    for commits in (1, 25, 3):  # before a checkpoint, after one, and after a day was closed
        fill(lake, commits, start=start)
        start += commits
        if commits == 3:
            lake.compact()
        after = tmp_path / f"after-{commits}"
        for name, content in kept.items():
            file = after / Path(name).relative_to(tmp_path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            assert Path(name).parent in flushed_folders, "a file is found by its folder"
        assert everything(after / "lake").equals(everything(tmp_path / "lake"))
        assert any(name.endswith("_last_checkpoint") for name in kept) == (start > CHECKPOINT_EVERY)
