"""A hostile world: bad lines, odd names, damaged files, full disks. One clear line, nothing lost, and on it goes."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import tickhouse as house_door
from tests.test_cli import NDJSON, printed, tickhouse

START_MS = 1_768_516_200_000
LATER = START_MS + 600_000
GOOD = NDJSON.encode().splitlines()
OVERSIZED = b'{"s":"BINANCE:BTCUSDT","p":"' + b"9" * (10 << 20)

BAD_LINES = {
    "truncated": (b'{"s":"BINANCE:BTCUSDT","p":100,"t":17685', "malformed"),
    "not JSON": (b"not JSON at all", "malformed"),
    "no object": (b"[1,2]", "malformed"),
    "invalid UTF-8": (b'{"s":"BINANCE:BTC\xff\xfe","p":1,"t":%d,"v":1,"id":5000}' % LATER, "malformed"),
    "zero bytes": (bytes(50), "malformed"),
    "deep nesting": (b'{"a":' * 5_000, "malformed"),
    "a NaN": (b'{"s":"BINANCE:BTCUSDT","p":NaN,"t":%d,"v":1,"id":5000}' % LATER, "malformed"),
    "a text for a price": (b'{"s":"BINANCE:BTCUSDT","p":"abc","t":%d,"v":1,"id":5000}' % LATER, "type_price"),
    "no symbol": (b'{"p":1,"t":%d,"v":1,"id":5000}' % LATER, "missing_symbol"),
    "an empty symbol": (b'{"s":"","p":1,"t":%d,"v":1,"id":5000}' % LATER, "symbol"),
    "a number for a symbol": (b'{"s":5,"p":1,"t":%d,"v":1,"id":5000}' % LATER, "type_symbol"),
    "a time beyond all years": (b'{"s":"BINANCE:BTCUSDT","p":1,"t":99999999999999999999,"v":1,"id":5000}', "ts"),
    "a truth for an id": (b'{"s":"BINANCE:BTCUSDT","p":1,"t":%d,"v":1,"id":true}' % LATER, "type_trade_id"),
}
BAD_TRADES = {
    "price": b'{"s":"BINANCE:BTCUSDT","p":0,"t":%d,"v":1,"id":5000}' % LATER,
    "size": b'{"s":"BINANCE:BTCUSDT","p":1,"t":%d,"v":-1,"id":5001}' % LATER,
    "future": b'{"s":"BINANCE:BTCUSDT","p":1,"t":%d,"v":1,"id":5002}' % (LATER + 10_000_000_000),
    "ts": b'{"s":"BINANCE:BTCUSDT","p":1,"t":-5,"v":1,"id":5003}',
}


def replayed(folder: Path, lines: list[bytes], *options: str) -> Path:
    """Replay lines into a new house; return it, proven."""
    (folder / "trades.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    tickhouse("replay", folder / "trades.ndjson", "--house", folder / "house", *options)
    assert json.loads(tickhouse("verify", "--house", folder / "house", "--json"))["ok"]
    return folder / "house"


def digests(house: Path) -> dict[str, str]:
    """Return the digests of a proven house."""
    report: dict[str, Any] = json.loads(tickhouse("verify", "--house", house, "--json"))
    return report["digests"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A house in order; tests damage copies of it."""
    return replayed(tmp_path_factory.mktemp("sound"), GOOD)


@pytest.fixture
def house(sound: Path, tmp_path: Path) -> Path:
    """A copy of the house in order."""
    shutil.copytree(sound, tmp_path / "house")
    return tmp_path / "house"


def test_every_bad_line_is_kept_with_its_reason_and_its_bytes(tmp_path: Path) -> None:
    bad = [*(line for line, _ in BAD_LINES.values()), *BAD_TRADES.values(), OVERSIZED]
    house = replayed(tmp_path, [*GOOD[:900], *bad, *GOOD[900:]])
    rows = house_door.open(house).sql("select * from bronze.rejected").sort("offset").to_dicts()
    assert [row["offset"] for row in rows] == list(range(900, 900 + len(bad)))
    kept = rows[: len(BAD_LINES)]
    assert [(row["payload"], row["reason"]) for row in kept] == list(BAD_LINES.values())
    judged = rows[len(BAD_LINES) : -1]
    assert [row["reason"] for row in judged] == list(BAD_TRADES)
    assert [json.loads(row["payload"])["price"] for row in judged] == [0.0, 1.0, 1.0, 1.0]
    oversized = rows[-1]
    assert oversized["payload"] == OVERSIZED[: 1 << 20]
    assert oversized["length"] == len(OVERSIZED)
    assert oversized["sha256"] == hashlib.sha256(OVERSIZED).hexdigest()
    assert house_door.open(house).sql("select count(*) from silver.trades").item() == len(GOOD)


def test_a_trade_that_the_rules_reject_is_kept_up_to_a_mebibyte(tmp_path: Path) -> None:
    huge = b'{"s":"BTC-USD","p":0,"t":%d,"v":1,"id":7,"c":"%b"}' % (START_MS + 700, b"x" * (2 << 20))
    house = replayed(tmp_path, [b'{"s":"BTC-USD","p":1,"t":%d,"v":1,"id":1,"c":"a"}' % START_MS, huge])
    row = house_door.open(house).sql("select reason, octet_length(payload) as kept, length, sha256 from bronze.rejected").row(0)
    assert row[:2] == ("price", 1 << 20)
    assert row[2] > 2 << 20
    assert row[3] is not None


def test_a_symbol_longer_than_any_name_is_rejected(tmp_path: Path) -> None:
    endless = b'{"s":"%b","p":1,"t":%d,"v":1,"id":7}' % (b"A" * 5_000, START_MS + 700)
    house = replayed(tmp_path, [*GOOD, endless])
    assert house_door.open(house).sql("select reason, payload from bronze.rejected").rows() == [("symbol", endless)]


def test_odd_symbols_stay_apart_through_compaction_and_queries(tmp_path: Path) -> None:
    odd = [
        "../../x",
        "..",
        ".",
        "a=b",
        "a%2Fb",
        "a\nb",
        "日本",
        "x" * 500,
        "x" * 499 + "y",
        "a'b",
        'a"b',
        "a\\b",
        "\0a",
        "a:b:c",
        "🦄",
    ]
    lines = [
        json.dumps({"s": name, "p": 100 + k, "t": START_MS + 500 * k, "v": 0.5, "id": k}).encode()
        for k in range(20)
        for name in odd
    ]
    house = replayed(tmp_path, lines)
    before = digests(house)
    tickhouse("compact", "--house", house, "--day", "2026-01-15", "--layout", "date/symbol")
    assert digests(house) == before
    assert {path.name for path in tmp_path.iterdir()} == {"house", "trades.ndjson"}
    counted = house_door.open(house).sql("select venue, symbol, count(*) as n from silver.trades group by all")
    assert counted.height == len(odd)
    assert counted["n"].to_list() == [20] * len(odd)


def test_the_screen_shows_names_as_they_are(tmp_path: Path) -> None:
    names = ["A:smile:B", "[red]A", "A\x1b[31mB"]
    house = replayed(
        tmp_path,
        [json.dumps({"s": f"V:{name}", "p": 1, "t": START_MS, "v": 1}).encode() for name in names],
        "--columns",
        "symbol=s",
    )
    shown = tickhouse("query", "select provider_symbol from bronze.trades", "--house", house)
    assert "V:A:smile:B" in shown
    assert "V:[red]A" in shown
    assert "\x1b" not in shown
    assert r"A\x1b[31mB" in shown


def test_a_line_that_looks_like_a_heartbeat_does_not_stop_the_clock(shared: Path, tmp_path: Path) -> None:
    frames = shared / "fixtures" / "binance" / "ws_spot_btcusdt_20240808.gz"
    import gzip

    with gzip.open(frames) as file:
        lines = [next(file).rstrip(b"\n") for _ in range(300)]
    stamp = lines[100].partition(b" ")[0]
    lines.insert(100, stamp + b' {"tickhouse":{"heartbeat":"soon"}}')
    house = replayed(tmp_path, lines)
    reasons = house_door.open(house).sql("select reason, count(*) from bronze.rejected group by all").rows()
    assert reasons == [("malformed", 1)]


def _parquet(folder: Path) -> bytes:
    rows = [json.loads(line) for line in NDJSON.splitlines()]
    table = pl.DataFrame(rows).rename({"s": "symbol", "p": "price", "v": "size", "t": "ts", "id": "trade_id"})
    table.write_parquet(folder / "trades.parquet", row_group_size=300, compression="uncompressed", statistics=False)
    return (folder / "trades.parquet").read_bytes()


def test_a_damaged_parquet_file_gives_what_lies_before_the_damage(tmp_path: Path) -> None:
    data = bytearray(_parquet(tmp_path))
    middle = len(data) * 6 // 10
    data[middle : middle + len(data) // 5] = b"\xff" * (len(data) // 5)
    (tmp_path / "trades.parquet").write_bytes(data)
    summary = json.loads(tickhouse("replay", tmp_path / "trades.parquet", "--house", tmp_path / "house", "--json"))
    assert summary["rejected"]["torn_file"] == 1
    assert json.loads(tickhouse("verify", "--house", tmp_path / "house", "--json"))["ok"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"garbage" * 2_000),
        lambda file: file.write_bytes(file.read_bytes()[:5_000]),
        lambda file: (file.unlink(), file.mkdir()),
    ],
    ids=["garbage", "cut short", "a folder"],
)
def test_a_damaged_journal_is_one_clear_line(house: Path, damage: Callable[[Path], object]) -> None:
    for beside in ("-wal", "-shm"):
        (house / f"journal.db{beside}").unlink(missing_ok=True)
    damage(house / "journal.db")
    for words in (["verify"], ["replay", __file__]):
        said = tickhouse(*words, "--house", house, code=2)
        assert "journal.db" in said
        assert "Traceback" not in said


@pytest.mark.parametrize("is_left_empty", [True, False])
def test_a_house_that_lost_its_journal_is_not_written(house: Path, tmp_path: Path, *, is_left_empty: bool) -> None:
    for path in house.glob("journal.db*"):
        path.unlink()
    if is_left_empty:
        (house / "journal.db").touch()
    (tmp_path / "more.ndjson").write_text(NDJSON.replace("BTCUSDT", "ETHUSDT"))
    said = tickhouse("replay", tmp_path / "more.ndjson", "--house", house, code=2)
    assert "journal.db is missing or empty; restore that file" in said


def test_a_journal_that_was_only_begun_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "house.json").write_text('{"version": 1, "journal": "recording"}')
    (tmp_path / "house" / "journal.db").touch()
    assert house_door.open(replayed(tmp_path, GOOD)).sql("select count(*) from silver.trades").item() == len(GOOD)


@pytest.mark.parametrize("lost", ["silver/trades", "gold", "."])
def test_a_table_that_lost_its_rows_is_noticed_and_filled_again(house: Path, sound: Path, lost: str) -> None:
    shutil.rmtree(house / "lake" / lost)
    assert "rows were lost" in tickhouse("verify", "--house", house, code=2)
    tickhouse("replay", sound.parent / "trades.ndjson", "--house", house)
    assert digests(house) == digests(sound)


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut short", "missing"])
def test_a_damaged_file_of_the_lake_is_one_clear_line(house: Path, *, is_cut: bool) -> None:
    [file] = (house / "lake/silver/trades").glob("date=*/*.parquet")
    if is_cut:
        file.write_bytes(file.read_bytes()[:1_000])
    else:
        file.unlink()
    for words in (["query", "select sum(price) from silver.trades"], ["verify"]):
        said = tickhouse(*words, "--house", house, code=2)
        assert "a file of silver.trades is missing or damaged" in said
        assert "Traceback" not in said


def test_a_damaged_log_of_the_lake_is_one_line(house: Path) -> None:
    for file in (house / "lake/silver/trades/_delta_log").glob("*.json"):
        file.write_bytes(file.read_bytes()[:50])
    said = tickhouse("query", "select 1", "--house", house, code=2)
    assert said.count("\n") == 1
    assert "restore it from a backup" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["replay", "."], "is no file; name the files themselves"),
        (["replay", "n" * 300], "the operating system refused"),
        (["query", "select 1", "--output", "none/x.csv"], "cannot be written"),
        (["query", "select [1, 2] as l", "--output", "x.csv"], "cannot be written"),
        (["query", "select interval 1 day as i", "--json"], "cast it"),
    ],
)
def test_what_cannot_be_read_or_written_is_one_clear_line(
    house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = tickhouse(*words, "--house", house, code=2)
    assert says in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[sources.options.synthetik]\nrate = 5\n", "did you mean 'synthetic'?"),
        ("[sources.options.synthetic]\nratee = 5\n", "did you mean 'rate'?"),
        ('[engine]\ncommit_every = "soon"\n', "is not a duration"),
    ],
)
def test_a_wrong_option_of_a_source_names_the_nearest(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "t.toml").write_text(text)
    words = ["--house", tmp_path / "house", "--source", "synthetic", "--duration", "1s", "--config", tmp_path / "t.toml"]
    assert says in tickhouse("run", *words, code=2)


def test_a_wrong_log_level_names_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKHOUSE_LOG", "loud")
    assert "use debug, info" in tickhouse("plugins", code=2)


def test_signals_are_heard_before_any_heavy_module_is_loaded(tmp_path: Path) -> None:
    asks = (
        "import sys, tickhouse.cli as cli, tickhouse.cli.running as running\n"
        "heavy = ('numba', 'polars', 'rich.live')\n"
        "running.stop_on_signals = lambda: sys.exit(40 + any(name in sys.modules for name in heavy))\n"
        "sys.argv = ['tickhouse', sys.argv[1], 'x']\n"
        "sys.argv[2:] = [] if sys.argv[1] == 'run' else ['x']\n"
        "cli.main()\n"
    )
    for command in ("run", "replay"):
        ended = subprocess.run([sys.executable, "-c", asks, command], check=False, capture_output=True, cwd=tmp_path)
        assert ended.returncode == 40, ended.stderr.decode()


@pytest.mark.parametrize("to", [[], ["--to", "sqlite"]], ids=["recording", "sqlite"])
def test_a_full_disk_is_one_clear_line_and_nothing_is_lost(sound: Path, tmp_path: Path, to: list[str]) -> None:
    again = ["replay", sound.parent / "trades.ndjson", "--house", tmp_path / "house", *to]
    for kib in (20, 40):
        ended = subprocess.run(
            [sys.executable, "-m", "tickhouse", *map(str, again)],
            check=False, capture_output=True, text=True, env={**os.environ, "TICKHOUSE_LOG": "error"},
            preexec_fn=lambda kib=kib: resource.setrlimit(resource.RLIMIT_FSIZE, (kib << 10, kib << 10)),
        )  # fmt: skip
        assert ended.returncode == 2, ended.stdout + ended.stderr
        assert ended.stderr.count("tickhouse: ") == 1
        assert "free some" in ended.stderr
        assert "Traceback" not in ended.stderr
    tickhouse(*again)
    assert digests(tmp_path / "house") == digests(sound)


@pytest.mark.parametrize("damage", ["missing", "shorter"])
def test_doctor_finds_a_file_that_is_not_whole(house: Path, damage: str) -> None:
    file = next(path for path in (house / "lake/silver/trades").rglob("*.parquet") if "checkpoint" not in path.name)
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-100])
    found = {one["what"]: one for one in json.loads(printed("doctor", "--house", house, "--json"))}
    assert not found["tables"]["ok"]
    assert file.name in found["tables"]["detail"]
