"""The scanner gives what reading line by line gives, bit for bit, whatever the lines are."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from tickhouse.columns import concat_trades
from tickhouse.lines import FileOptions
from tickhouse.model import Feeds, Trades
from tickhouse.sources.files.columns import find_columns
from tickhouse.sources.files.flat import FlatBlockBuilder, json_record, numbered_lines
from tickhouse.sources.files.rows import FlatRows
from tickhouse.sources.files.scanner import LineScanner
from tickhouse.sources.files.text import Chunk

T0 = 1_767_225_600_000
NAMES = ["s", "p", "v", "t", "id", "r", "m", "c", "x"]
_ARRAYS = [name for name in Trades.__slots__ if name not in {"text", "feed"}]


def both(text: bytes, names=NAMES, first=0, **options):
    """Read `text` both ways; return [(trades, rejected, feeds), ...] and how many lines the scanner handed back."""
    options = FileOptions(**{"ts_unit": "ms", "received_unit": "ms"} | options)
    columns = find_columns(names, options, "test")
    out = []
    handed = 0
    for fast in (True, False):
        feeds = Feeds()
        rows = FlatRows(columns, options, feeds)
        builder = FlatBlockBuilder(rows, json_record)
        trades = None
        if fast:
            scanned = LineScanner(columns, options, rows).scan(Chunk.of(text), first)
            trades, lines, end = scanned
            handed = len(lines)
        else:
            lines = numbered_lines(text, first)
            end = first + len(lines)
        builder.read_lines(lines)
        block = builder.build(end, trades)
        out.append((block, feeds))
    return out, handed


def assert_same(text: bytes, names=NAMES, **options):
    ((fast, fast_feeds), (slow, slow_feeds)), handed = both(text, names, **options)
    assert fast.end == slow.end
    assert fast.rejected == slow.rejected
    for name in _ARRAYS:
        left, right = getattr(fast.trades, name), getattr(slow.trades, name)
        assert left.dtype == right.dtype, name
        assert left.tobytes() == right.tobytes(), name
    assert [fast_feeds.feeds[i] for i in fast.trades.feed] == [slow_feeds.feeds[i] for i in slow.trades.feed]
    assert (fast.trades.text is None) == (slow.trades.text is None)
    if fast.trades.text is not None:
        assert fast.trades.text.equals(slow.trades.text)
    assert fast.time.tobytes() == slow.time.tobytes()
    assert fast.time_line.tobytes() == slow.time_line.tobytes()
    return len(fast.trades), handed


def line(rng: random.Random) -> str:
    price = rng.choice(
        [f"{rng.uniform(0, 1e5):.2f}", f"{rng.random():.8f}", str(rng.randrange(10**6)), repr(rng.uniform(0, 1e5))]
    )
    size = rng.choice([f"{rng.random():.6f}", "0", "0.000000", '"12.50"', "1e-3"])
    symbol = rng.choice(["BINANCE:BTCUSDT", "IEX:AAPL", "KRAKEN:XBT/USD", "é", "A\\u0042", ""])
    side = rng.choice(["true", "false", "null", '"buy"', '"S"'])
    extra = rng.choice(["1", "null", '"é"', "true", "[1]"])
    return (
        f'{{"s":"{symbol}","p":{price},"t":{T0 + rng.randrange(10**6)},"v":{size},"id":{rng.randrange(10**9)},'
        f'"r":{T0 + rng.randrange(10**6)},"m":{side},"c":null,"x":{extra}}}'
    )


def mutated(rng: random.Random, text: bytes) -> bytes:
    data = bytearray(text)
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(data) + 1)
        action = rng.randrange(4)
        if action == 0:
            data[at:at] = bytes([rng.choice(b'"\\{}[],: \t\r0123456789.-+eEnulltrfabs\x00\x1f\x7f\xc3\xff')])
        elif action == 1:
            del data[at : at + rng.randrange(4)]
        elif action == 2 and at < len(data):
            data[at] = rng.randrange(256)
        else:
            end = min(len(data), at + rng.randrange(12))
            data[at:at] = data[at:end]
    return bytes(data)


@pytest.mark.parametrize("seed", range(8))
def test_mutated_lines_read_the_same_both_ways(seed):
    rng = random.Random(seed)
    plain = [b'{"s":"IEX:AAPL","p":1.5,"t":1767225600000,"v":2,"id":1,"r":1767225600000,"m":true,"c":null,"x":1}']
    lines = plain * 20 + [mutated(rng, line(rng).encode()) for _ in range(2_000)]
    text = b"".join(one + rng.choice([b"\n", b"\n", b"\r\n"]) for one in lines)
    trades, handed = assert_same(text)
    assert trades > 500
    assert handed < len(lines)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_every_unit_and_any_size_of_time_reads_the_same(unit):
    rng = random.Random(unit)
    times = [
        "1",
        "0",
        "-5",
        "null",
        "1.5",
        "01",
        '"1767225600"',
        '"01"',
        "9" * 18,
        "9" * 19,
        "9223372036854775807",
        "9223372036854",
    ]
    times += [str(rng.randrange(10 ** rng.randrange(1, 20))) for _ in range(500)]
    lines = [f'{{"s":"IEX:AAPL","p":1.5,"t":{time},"v":2,"id":{i},"r":{time}}}' for i, time in enumerate(["5"] * 3 + times)]
    trades, handed = assert_same("\n".join(lines).encode(), NAMES[:6], ts_unit=unit, received_unit=unit)
    assert trades > 250
    assert handed < len(lines) - 200


def test_every_decimal_reads_the_same():
    rng = random.Random(5)
    numbers = [
        "0",
        "-0",
        "-0.0",
        "0.0",
        "1.",
        ".5",
        "01",
        "00",
        "1e5",
        "-1.5",
        "+1",
        "1e999",
        "9007199254740991",
        "9007199254740993",
        "0." + "0" * 30 + "1",
    ]
    for _ in range(3_000):
        digits = str(rng.randrange(10 ** rng.randrange(1, 21)))
        point = rng.randrange(len(digits) + 1)
        numbers.append(f"{digits[:point] or '0'}.{digits[point:] or '0'}" if rng.random() < 0.8 else digits)
        numbers.append(repr(rng.random() * 10 ** rng.randrange(-8, 9)))
    numbers += [f'"{number}"' for number in numbers[:2_000]]
    lines = [
        f'{{"s":"IEX:AAPL","p":{number},"t":{T0},"v":{number},"id":{i}}}' for i, number in enumerate(["1.5"] * 3 + numbers)
    ]
    trades, handed = assert_same("\n".join(lines).encode(), NAMES[:5])
    assert trades > 5_000
    assert handed < len(lines) * 3 // 4


def test_every_id_and_side_reads_the_same():
    values = ["1", "0", "-1", '"5"', '"05"', '"x"', "null", "1.0", "9" * 18, "9" * 19, "9" * 30, '""', "true", "[]"]
    sides = [
        "true",
        "false",
        "null",
        '"b"',
        '"BUY"',
        '"Sell"',
        '"ask"',
        '"true"',
        '"x"',
        '""',
        "1",
        "buy",
        '"buyer"',
        '"sellers1"',
    ]
    lines = [f'{{"s":"IEX:AAPL","p":1,"t":{T0},"v":1,"id":{value},"m":{side}}}' for value in values for side in sides]
    for names in (["s", "p", "t", "v", "id", "m"], ["s", "p", "t", "v", "id"]):
        assert_same("\n".join(lines).encode(), names)
    assert_same("\n".join(lines).encode(), ["s", "p", "t", "v", "id", "m"], identity="none")
    with_side = "\n".join(lines).replace('"m":', '"side":').encode()
    assert_same(with_side, ["s", "p", "t", "v", "id", "side"])


def test_lines_of_an_ordinary_file_are_all_scanned_whatever_the_spacing():
    for separators in ((",", ":"), (", ", ": "), (" ,\t", " : ")):
        rows = [{"s": "IEX:AAPL", "p": 1.25, "t": T0 + i, "v": 2, "id": i} for i in range(50)]
        text = "\n".join(json.dumps(row, separators=separators) for row in rows).encode()
        assert assert_same(text, NAMES[:5]) == (50, 0)


def test_file_without_a_symbol_column_is_scanned():
    text = "\n".join(f'{{"p":1.5,"t":{T0 + i},"v":2,"id":{i}}}' for i in range(50)).encode()
    assert assert_same(text, ["p", "t", "v", "id"], symbol="BTCUSDT", venue="BINANCE") == (50, 0)


def test_more_symbols_than_there_is_room_for_are_read_one_by_one():
    text = "\n".join(f'{{"s":"S{i}","p":1.5,"t":{T0},"v":2,"id":{i}}}' for i in range(33_000)).encode()
    trades, handed = assert_same(text, NAMES[:5])
    assert trades == 33_000
    assert 0 < handed < 1_000


def test_new_layout_is_learned_from_the_lines_that_do_not_fit():
    options = FileOptions(ts_unit="ms")
    columns = find_columns(NAMES[:5], options, "test")
    rows = FlatRows(columns, options, Feeds())
    scanner = LineScanner(columns, options, rows)
    first = "".join(f'{{"s":"AAPL","p":1.5,"t":{T0},"v":2,"id":{i}}}\n' for i in range(50)).encode()
    other = "".join(f'{{"id":{i},"s":"AAPL","p":1.5,"t":{T0},"v":2}}\n' for i in range(50)).encode()
    handed = [len(scanner.scan(Chunk.of(chunk), 0).unusual) for chunk in (first, other, other, first, first)]
    assert handed == [0, 50, 0, 50, 0]


def test_junk_alone_is_handed_back_whole():
    trades, handed = assert_same(b"junk\n\n{}\n\xff\xfe\n" * 50)
    assert (trades, handed) == (0, 200)


def test_scanned_columns_are_contiguous_and_of_the_contracts_types():
    text = f'{{"s":"AAPL","p":1.5,"t":{T0},"v":2,"id":1}}\n'.encode() * 3
    ((fast, _), _), _ = both(text, NAMES[:5])
    trades = concat_trades([fast.trades, fast.trades])
    assert trades.feed.dtype == np.int32
    assert all(getattr(fast.trades, name).flags.c_contiguous for name in [*_ARRAYS, "feed"])
