"""Recorded files: every format gives the same trades, and no line is lost."""

from __future__ import annotations

import gzip
import hashlib
import json
from decimal import Decimal
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tickhouse.columns import concat_trades, trade_json
from tickhouse.errors import ConfigError
from tickhouse.lines import FileOptions
from tickhouse.model import MAX_PAYLOAD_BYTES, NO_TIME, Feed, Rejected, Trade
from tickhouse.sources.base import IGNORED, Parsed
from tickhouse.sources.files.opener import Opener

T0 = 1_767_225_600_000_000
ROWS = [
    {"symbol": "BINANCE:BTCUSDT", "ts": T0 + 1_000, "price": 61737.63, "size": 0.25, "trade_id": 10, "side": "buy"},
    {"symbol": "BINANCE:ETHUSDT", "ts": T0 + 2_000, "price": 2400.1, "size": 3.0, "trade_id": 10, "side": "sell"},
    {"symbol": "IEX:AAPL", "ts": T0 + 3_000, "price": 1e-7, "size": 0.0, "trade_id": 7, "side": "buy"},
]


class Echo:
    """A source whose frames are `{"echo": [[ts, price], ...]}`."""

    name = "echo"
    feed = Feed("echo", "IEX", "AAPL", "", "none", "aapl")

    def parse(self, payload, received_at):
        try:
            frame = json.loads(payload)
        except ValueError:
            return Parsed(rejected=[Rejected("echo", received_at, "malformed", payload)])
        if "note" in frame:
            return IGNORED
        return Parsed(trades=[Trade(self.feed, ts, price, 1.0) for ts, price in frame["echo"]])

    def recognises(self, payload):
        return payload.startswith(b'{"echo"')


def read(path, sources=(), **options):
    """Return (trades, rejected, file) of a whole file."""
    file = Opener(sources)(path, FileOptions(**options))
    blocks = list(file.blocks())
    trades = concat_trades([block.trades for block in blocks])
    return trades, [rejected for block in blocks for rejected in block.rejected], file


def as_json(path, sources=(), **options):
    trades, rejected, file = read(path, sources, **options)
    assert not rejected
    return [json.loads(trade_json(trades, i, file.feeds)) for i in range(len(trades))]


def ndjson(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def one(tmp_path, line: bytes, **options):
    """Return (trades, reasons) of a file of a good line and `line`."""
    good = b'{"s":"IEX:AAPL","p":1.5,"t":1767225600000,"v":2,"id":1}\n'
    (tmp_path / "x.ndjson").write_bytes(good + line)
    trades, rejected, _ = read(tmp_path / "x.ndjson", **options)
    return trades, rejected


def test_every_format_gives_the_same_trades(tmp_path):
    plain = ndjson(tmp_path / "a.ndjson", ROWS)
    expected = as_json(plain)
    assert [row["price"] for row in expected] == [61737.63, 2400.1, 1e-7]
    assert [row["feed"]["symbol"] for row in expected] == ["BTC-USDT", "ETH-USDT", "AAPL"]
    (tmp_path / "a.gz").write_bytes(gzip.compress(plain.read_bytes()[:90]) + gzip.compress(plain.read_bytes()[90:]))
    (tmp_path / "a.zst").write_bytes(zstandard.compress(plain.read_bytes()))
    header = list(ROWS[0])
    lines = [",".join(header), *(",".join(str(row[name]) for name in header) for row in ROWS)]
    (tmp_path / "a.csv").write_text("\r\n".join(lines) + "\r\n")
    (tmp_path / "semicolon.csv").write_text("\n".join(line.replace(",", ";") for line in lines))
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "a.parquet")
    typed = table.set_column(1, "ts", table["ts"].cast(pa.timestamp("us", tz="UTC")))
    pq.write_table(typed, tmp_path / "typed.parquet")
    quoted = [{**row, "price": repr(row["price"]), "size": str(row["size"]), "trade_id": str(row["trade_id"])} for row in ROWS]
    ndjson(tmp_path / "quoted.ndjson", quoted)
    for name in ("a.gz", "a.zst", "a.csv", "semicolon.csv", "a.parquet", "typed.parquet", "quoted.ndjson"):
        assert as_json(tmp_path / name) == expected, name


@pytest.mark.parametrize(("unit", "factor"), [("s", 1_000_000), ("ms", 1_000), ("us", 1)])
def test_unit_of_ts_is_guessed_by_magnitude_and_shown(tmp_path, unit, factor):
    path = ndjson(tmp_path / "a.ndjson", [{**row, "ts": T0 // factor} for row in ROWS])
    trades, _, file = read(path)
    assert file.options.ts_unit == unit
    assert set(trades.ts.tolist()) == {T0}


def test_nanoseconds_are_rounded_down(tmp_path):
    path = ndjson(tmp_path / "a.ndjson", [{**ROWS[0], "ts": T0 * 1000 + 999}])
    trades, _, file = read(path)
    assert file.options.ts_unit == "ns"
    assert trades.ts.tolist() == [T0]


def test_given_unit_wins_over_magnitude(tmp_path):
    path = ndjson(tmp_path / "a.ndjson", [{**ROWS[0], "ts": 1_000}])
    assert read(path, ts_unit="s")[0].ts.tolist() == [1_000_000_000]


@pytest.mark.parametrize(
    "text", ["2026-01-01T00:00:00Z", "2026-01-01 00:00:00", "2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00.000000999Z"]
)
def test_iso_text_is_a_time_and_utc_unless_it_says_otherwise(tmp_path, text):
    path = ndjson(tmp_path / "a.ndjson", [{**ROWS[0], "ts": text}])
    assert read(path)[0].ts.tolist() == [T0]


def test_well_known_names_are_recognised_ignoring_case_last(tmp_path):
    path = ndjson(tmp_path / "a.ndjson", [{"Ticker": "AAPL", "PRICE": 1, "Qty": 2, "Time": T0}])
    trades, _, file = read(path)
    assert file.options.columns == {"symbol": "Ticker", "price": "PRICE", "size": "Qty", "ts": "Time"}
    assert len(trades) == 1


def test_ambiguous_column_names_its_candidates(tmp_path):
    path = ndjson(tmp_path / "a.ndjson", [{"s": "AAPL", "p": 1, "v": 2, "t": 5, "T": T0}])
    with pytest.raises(ConfigError, match=r"'ts' could be t or T; say --columns ts=t or ts=T"):
        Opener()(path, FileOptions())
    assert read(path, columns={"ts": "T"})[0].ts.tolist() == [T0]


def test_missing_column_says_which_option_helps(tmp_path):
    path = ndjson(tmp_path / "a.ndjson", [{"p": 1, "v": 2, "t": T0}])
    with pytest.raises(ConfigError, match=r"no column for 'symbol'.*--symbol"):
        Opener()(path, FileOptions())
    assert as_json(path, symbol="BTCUSDT", venue="binance")[0]["feed"]["symbol"] == "BTC-USDT"


def test_mapped_column_that_is_not_there_is_refused(tmp_path):
    path = ndjson(tmp_path / "a.ndjson", ROWS)
    with pytest.raises(ConfigError, match="has no column 'px'"):
        Opener()(path, FileOptions(columns={"price": "px"}))
    with pytest.raises(ConfigError, match="knows no 'prize'"):
        Opener()(path, FileOptions(columns={"prize": "price"}))


def test_one_odd_line_among_the_first_makes_no_column_ambiguous(tmp_path):
    rows = [{"s": "AAPL", "p": 1, "v": 2, "t": T0, "id": i} for i in range(50)]
    path = ndjson(tmp_path / "a.ndjson", [*rows[:3], {"T": 1, "x": 2}, *rows[3:]])
    trades, rejected, _ = read(path)
    assert len(trades) == 50
    assert [r.reason for r in rejected] == ["missing_symbol"]


def test_identity_is_contiguous_on_known_venues_unique_elsewhere_none_without_ids(tmp_path):
    path = ndjson(tmp_path / "a.ndjson", ROWS)
    assert [row["feed"]["identity"] for row in as_json(path)] == ["contiguous", "contiguous", "unique"]
    assert {row["feed"]["identity"] for row in as_json(path, identity="unique")} == {"unique"}
    without = as_json(path, identity="none")
    assert {(row["feed"]["identity"], row["feed"]["id_space"], row["trade_id"]) for row in without} == {("none", "", None)}
    bare = ndjson(tmp_path / "b.ndjson", [{k: v for k, v in row.items() if k != "trade_id"} for row in ROWS])
    assert {row["feed"]["identity"] for row in as_json(bare)} == {"none"}
    with pytest.raises(ConfigError, match="needs a column of trade ids"):
        Opener()(bare, FileOptions(identity="unique"))


def test_textual_ids_keep_their_text(tmp_path):
    path = ndjson(tmp_path / "a.ndjson", [{**ROWS[2], "trade_id": "t-1"}, {**ROWS[2], "trade_id": 1 << 70}])
    assert [row["trade_id"] for row in as_json(path)] == ["t-1", str(1 << 70)]


def test_maker_flag_gives_the_aggressor(tmp_path):
    rows = [{"s": "AAPL", "p": 1, "v": 2, "t": T0, "m": True}, {"s": "AAPL", "p": 1, "v": 2, "t": T0, "m": False}]
    assert [row["side"] for row in as_json(ndjson(tmp_path / "a.ndjson", rows))] == ["sell", "buy"]


def test_receive_time_is_read_and_its_absence_rejects_nothing(tmp_path):
    rows = [{**ROWS[0], "r": T0 // 1000}, {**ROWS[1], "r": None}, {**ROWS[2], "r": "x"}]
    trades, rejected, file = read(ndjson(tmp_path / "a.ndjson", rows))
    assert trades.received_at.tolist() == [T0, NO_TIME, NO_TIME]
    assert not rejected
    assert file.options.received_unit == "ms"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"s":"IEX:AAPL","p":1.5,"t":17672', "malformed"),
        (b"not json at all", "malformed"),
        (b"[1,2]", "malformed"),
        (b'"text"', "malformed"),
        (b'{"s":"IEX:AAPL","p":NaN,"t":1767225600000,"v":2,"id":2}', "malformed"),
        (b'{"s":"IEX:\xff","p":1.5,"t":1767225600000,"v":2,"id":2}', "malformed"),
        (b"[" * 100_000, "malformed"),
        (b'{"s":"IEX:AAPL","t":1767225600000,"v":2,"id":2}', "missing_price"),
        (b'{"p":1.5,"t":1767225600000,"v":2,"id":2}', "missing_symbol"),
        (b'{"s":"IEX:AAPL","p":1.5,"t":1767225600000,"id":2}', "missing_size"),
        (b'{"s":"IEX:AAPL","p":1.5,"v":2,"id":2}', "missing_ts"),
        (b'{"s":"IEX:AAPL","p":1.5,"t":1767225600000,"v":2}', "missing_trade_id"),
        (b'{"s":"IEX:AAPL","p":"n/a","t":1767225600000,"v":2,"id":2}', "type_price"),
        (b'{"s":"IEX:AAPL","p":"NaN","t":1767225600000,"v":2,"id":2}', "type_price"),
        (b'{"s":"IEX:AAPL","p":"1e999","t":1767225600000,"v":2,"id":2}', "type_price"),
        (b'{"s":"IEX:AAPL","p":true,"t":1767225600000,"v":2,"id":2}', "type_price"),
        (b'{"s":"IEX:AAPL","p":1.5,"t":1767225600000,"v":null,"id":2}', "type_size"),
        (b'{"s":"IEX:AAPL","p":1.5,"t":null,"v":2,"id":2}', "type_ts"),
        (b'{"s":"IEX:AAPL","p":1.5,"t":"yesterday","v":2,"id":2}', "type_ts"),
        (b'{"s":"IEX:AAPL","p":1.5,"t":99999999999999999999,"v":2,"id":2}', "ts"),
        (b'{"s":"IEX:AAPL","p":1.5,"t":1767225600000,"v":2,"id":2.5}', "type_trade_id"),
        (b'{"s":"IEX:AAPL","p":1.5,"t":1767225600000,"v":2,"id":false}', "type_trade_id"),
        (b'{"s":"KRAKEN:XBTUSD","p":1.5,"t":1767225600000,"v":2,"id":"x"}', "type_trade_id"),
        (b'{"s":"","p":1.5,"t":1767225600000,"v":2,"id":2}', "symbol"),
        (b'{"s":"BINANCE:","p":1.5,"t":1767225600000,"v":2,"id":2}', "symbol"),
        (b'{"s":5,"p":1.5,"t":1767225600000,"v":2,"id":2}', "type_symbol"),
    ],
)
def test_bad_line_is_rejected_with_its_reason_and_bytes(tmp_path, line, reason):
    trades, rejected = one(tmp_path, line + b"\n")
    assert len(trades) == 1
    assert [(r.reason, r.payload, r.length, r.offset, r.source) for r in rejected] == [(reason, line, len(line), 1, "replay")]


@pytest.mark.parametrize(("field", "value"), [("p", "-1.5"), ("p", "0"), ("v", "-1"), ("t", "0"), ("t", "4999999999999")])
def test_numbers_out_of_range_pass_to_the_kernel_as_trades(tmp_path, field, value):
    fields = {"s": '"IEX:AAPL"', "p": "1.5", "t": "1767225600000", "v": "2", "id": "2"} | {field: value}
    line = "{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}"
    trades, rejected = one(tmp_path, line.encode())
    assert (len(trades), rejected) == (2, [])


def test_last_of_duplicate_keys_counts_and_blank_lines_count_as_lines(tmp_path):
    trades, rejected = one(tmp_path, b'\n  \r\n{"s":"IEX:AAPL","p":1,"p":9,"t":1767225600000,"v":2,"id":2}\r\n')
    assert trades.price.tolist() == [1.5, 9.0]
    assert trades.offset.tolist() == [0, 3]
    assert not rejected


def test_ten_megabyte_line_keeps_its_first_mib_length_and_digest(tmp_path):
    line = b'{"s":"' + b"x" * 10_000_000
    _, rejected = one(tmp_path, line + b"\n" + b'{"s":"IEX:AAPL","p":2,"t":1767225600000,"v":2,"id":3}\n')
    assert len(rejected) == 1
    assert rejected[0].payload == line[:MAX_PAYLOAD_BYTES]
    assert (rejected[0].length, rejected[0].sha256) == (len(line), hashlib.sha256(line).hexdigest())


def test_rejected_parquet_rows_keep_their_values(tmp_path):
    rows = [{**ROWS[0]}, {**ROWS[1], "price": None}, {**ROWS[1], "price": float("nan")}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    trades, rejected, _ = read(tmp_path / "a.parquet")
    assert len(trades) == 1
    assert [(r.reason, r.offset) for r in rejected] == [("missing_price", 1), ("type_price", 2)]
    assert json.loads(rejected[0].payload)["size"] == 3.0


def test_parquet_decimals_are_numbers(tmp_path):
    rows = [{**ROWS[0], "price": Decimal("61737.63")}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0].price.tolist() == [61737.63]


def test_csv_line_of_another_width_is_malformed_and_an_empty_field_missing(tmp_path):
    lines = ["ts,symbol,price,size,note", '1767225600000,"IEX:AAPL",1,2,"a,b"', "1767225600000,IEX:AAPL,1"]
    lines += ["1767225600000,IEX:AAPL,,2,", "1767225600000,,1,2,"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    trades, rejected, _ = read(tmp_path / "a.csv")
    assert trades.offset.tolist() == [1]
    assert [r.reason for r in rejected] == ["malformed", "missing_price", "symbol"]


def test_csv_without_header_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("1767225600000,1.5,2\n")
    with pytest.raises(ConfigError, match="no header line"):
        Opener()(tmp_path / "a.csv", FileOptions())


def test_torn_compressed_file_gives_every_line_before_the_tear(tmp_path):
    whole = "".join(json.dumps({**ROWS[0], "trade_id": i, "price": i * 1.17 + 1}) + "\n" for i in range(5_000)).encode()
    for name, data in (("a.gz", gzip.compress(whole)), ("a.zst", zstandard.compress(whole))):
        (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
        trades, rejected, _ = read(tmp_path / name)
        assert trades.trade_id.tolist() == list(range(len(trades)))
        assert rejected[-1].reason == "torn_file"
        assert len(trades) > 100 or name == "a.zst"


def test_frames_go_through_the_source_that_recognises_them(tmp_path):
    path = tmp_path / "a.frames"
    path.write_bytes(
        b'1767225600000000999 {"echo":[[1767225600000000,1.5],[1767225600000001,2.5]]}\n'
        b'1767225600100000000 {"note":1}\n'
        b"1767225600200000000 {torn\n"
        b"neither\n"
    )
    file = Opener([Echo()])(path, FileOptions())
    assert (file.options.format, file.options.source) == ("frames", "echo")
    (block,) = file.blocks()
    assert block.trades.received_at.tolist() == [T0, T0]
    assert list(zip(block.trades.offset.tolist(), block.trades.row.tolist(), strict=True)) == [(0, 0), (0, 1)]
    assert block.ignored_line == [1]
    assert [(r.offset, r.reason, r.payload) for r in block.rejected] == [
        (2, "malformed", b"{torn"),
        (3, "malformed", b"neither"),
    ]
    assert block.time_line.tolist() == [0, 1, 2]


def test_frames_nobody_recognises_are_refused_with_the_option_that_helps(tmp_path):
    (tmp_path / "a").write_bytes(b'1767225600000000000 {"other":1}\n')
    with pytest.raises(ConfigError, match=r"no source recognises.*echo.*--source"):
        Opener([Echo()])(tmp_path / "a", FileOptions())


def test_lines_of_our_own_name_the_source_and_carry_heartbeats_events_and_bytes(tmp_path):
    frame = b'{"echo":[[1767225600000000,1.5]]}\n\xff'
    lines = [
        b'{"tickhouse":{"source":"echo"}}',
        b'{"tickhouse":{"heartbeat":1767225600250000}}',
        msgspec.json.encode({"tickhouse": {"event": {"event": "connected", "source": "echo", "detail": {"n": 1}}}}),
        msgspec.json.encode({"tickhouse": {"frame_b64": b'{"echo":[[1767225600000000,1.5]]}'}}),
        msgspec.json.encode({"tickhouse": {"frame_b64": frame}}),
        b'{"tickhouse":{"event":{"evnt":1}}}',
        b'{"tickhouse":{"what":1}}',
    ]
    (tmp_path / "a").write_bytes(b"".join(b"1767225600000000000 " + line + b"\n" for line in lines))
    file = Opener([Echo()])(tmp_path / "a", FileOptions())
    assert file.has_beats
    (block,) = file.blocks()
    assert block.beats == [(1, 1767225600250000)]
    assert [(e.event, e.source, e.detail, e.offset) for e in block.events] == [("connected", "echo", {"n": 1}, 2)]
    assert block.trades.offset.tolist() == [3]
    assert [(r.offset, r.reason) for r in block.rejected] == [(4, "malformed"), (5, "malformed"), (6, "malformed")]
    assert block.rejected[0].payload == frame


def test_frames_without_receive_time_are_told_from_flat_lines(tmp_path):
    (tmp_path / "a").write_bytes(b'{"echo":[[1767225600000000,1.5]]}\n')
    trades, _, file = read(tmp_path / "a", [Echo()])
    assert file.options.format == "frames"
    assert trades.received_at.tolist() == [NO_TIME]
    flat = ndjson(tmp_path / "b", ROWS)
    assert read(flat, [Echo()])[2].options.format == "ndjson"


def test_times_are_receive_times_and_else_those_of_valid_trades(tmp_path):
    rows = [
        {**ROWS[0], "r": T0 + 5},
        {**ROWS[0], "r": T0 + 6, "price": None},
        {**ROWS[0], "r": None, "ts": T0 + 7},
        {**ROWS[0], "r": None, "ts": T0 + 8, "price": -1},
        {**ROWS[0], "r": 3, "ts": 4},
    ]
    file = Opener()(ndjson(tmp_path / "a", rows), FileOptions())
    (block,) = file.blocks()
    assert list(zip(block.time_line.tolist(), block.time.tolist(), strict=True)) == [(0, T0 + 5), (1, T0 + 6), (2, T0 + 7)]


def test_recorded_binance_frames_give_every_trade(shared):
    binance = pytest.importorskip("tickhouse.sources.binance")
    path = shared / "fixtures" / "binance" / "ws_spot_btcusdt_20240808.gz"
    file = Opener([binance.Binance()])(path, FileOptions())
    blocks = list(file.blocks())
    trades = concat_trades([block.trades for block in blocks])
    assert blocks[-1].end == 41_249
    assert (np.diff(trades.trade_id) == 1).all()
    assert sum(len(block.ignored_line) for block in blocks) + len(trades) == 41_249
    assert not any(block.rejected for block in blocks)
