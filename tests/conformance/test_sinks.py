"""What every sink in the registry must do: write twice = same rows, a kill keeps rows and position together, errors say why."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.table_rows import bar, rows, trade
from tickhouse.errors import FatalError
from tickhouse.model import Position
from tickhouse.plugins import SINKS, build, names
from tickhouse.sinks.base import Outputs, Sink
from tickhouse.sinks.lake import LakeTables
from tickhouse.tables import TABLES

ROWS = 500


def outputs(number: int) -> Outputs:
    first = number * ROWS
    trades = [trade(offset, f"S{offset % 7}-USDT") for offset in range(first, first + ROWS)]
    tables = {
        "bronze.trades": rows("bronze.trades", trades),
        "silver.trades": rows("silver.trades", trades),
        "gold.bars": rows("gold.bars", [bar(first, first * 60_000_000)]),
    }
    return Outputs(0, Position(first + ROWS, first + ROWS), tables)


def stored_offsets(path: Path, table: str) -> list[int]:
    return sorted(LakeTables(path).table(table, ["offset"]).column("offset").to_pylist())


@pytest.fixture(params=sorted(names(SINKS)))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def open_sink(kind: str, path: Path) -> Sink:
    sink: Sink = build(SINKS, kind, {}, path=path)
    return sink


def write_and_commit(sink: Sink, outputs: Outputs) -> None:
    sink.write(outputs)
    sink.commit()


def test_writing_the_same_outputs_again_changes_no_row(kind: str, tmp_path: Path) -> None:
    sink = open_sink(kind, tmp_path)
    sink.write(outputs(0))
    sink.write(outputs(0))
    sink.commit()
    sink.write(outputs(0))
    sink.commit(everything=True)
    sink.close()
    sink = open_sink(kind, tmp_path)
    sink.write(outputs(0))
    sink.write(outputs(1))
    sink.commit()
    sink.close()
    assert stored_offsets(tmp_path, "silver.trades") == list(range(2 * ROWS))
    assert stored_offsets(tmp_path, "gold.bars") == [0, ROWS]


def test_a_batch_cut_elsewhere_after_a_restart_adds_only_what_is_new(kind: str, tmp_path: Path) -> None:
    sink = open_sink(kind, tmp_path)
    sink.write(outputs(0))
    sink.commit()
    wider = Outputs(
        0, Position(ROWS + 3, 9), {"silver.trades": rows("silver.trades", [trade(offset) for offset in range(10, ROWS + 3)])}
    )
    sink.write(wider)
    sink.commit()
    sink.close()
    assert stored_offsets(tmp_path, "silver.trades") == list(range(ROWS + 3))
    assert open_sink(kind, tmp_path).positions(0)["silver.trades"] == Position(ROWS + 3, 9)


def test_a_table_without_rows_moves_only_when_everything_is_committed(kind: str, tmp_path: Path) -> None:
    sink = open_sink(kind, tmp_path)
    sink.write(Outputs(0, Position(ROWS, 7), {"silver.trades": outputs(0).tables["silver.trades"]}))
    sink.commit()
    assert sink.positions(0)["silver.trades"] == Position(ROWS, 7)
    assert sink.positions(0)["gold.gaps"] == Position()
    sink.commit(everything=True)
    assert set(sink.positions(0).values()) == {Position(ROWS, 7)}
    assert set(sink.positions(0)) == set(TABLES)
    sink.close()


def test_partitions_have_positions_of_their_own(kind: str, tmp_path: Path) -> None:
    sink = open_sink(kind, tmp_path)
    sink.write(outputs(0))
    other = rows("silver.trades", [trade(offset, partition=3) for offset in range(5)])
    sink.write(Outputs(3, Position(5, 1), {"silver.trades": other}))
    sink.commit()
    assert sink.positions(0)["silver.trades"].offset == ROWS
    assert sink.positions(3)["silver.trades"] == Position(5, 1)
    assert sink.positions(1)["silver.trades"] == Position()
    sink.close()


def test_closing_drops_what_was_not_committed(kind: str, tmp_path: Path) -> None:
    sink = open_sink(kind, tmp_path)
    sink.write(outputs(0))
    sink.close()
    assert stored_offsets(tmp_path, "silver.trades") == []
    assert open_sink(kind, tmp_path).positions(0)["silver.trades"] == Position()


def test_a_kill_at_any_moment_keeps_rows_and_position_together(kind: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from pathlib import Path\n"
        "from tests.conformance.test_sinks import open_sink, outputs\n"
        f"sink = open_sink({kind!r}, Path({str(tmp_path)!r}))\n"
        "begin = sink.positions(0)['silver.trades'].offset\n"
        "print('ready', flush=True)\n"
        "for number in range(400):\n"
        "    sink.write(outputs(number))\n"
        "    sink.commit(everything=number % 5 == 0)\n"
    )
    for after_s in (0.31, 0.53):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(after_s)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        sink = open_sink(kind, tmp_path)
        for table in ("bronze.trades", "silver.trades"):
            assert stored_offsets(tmp_path, table) == list(range(sink.positions(0)[table].offset))
        sink.close()
    reached = sink.positions(0)["bronze.trades"].offset // ROWS
    assert reached > 0
    sink = open_sink(kind, tmp_path)
    for number in range(reached + 2):
        sink.write(outputs(number))
    sink.commit(everything=True)
    sink.close()
    assert stored_offsets(tmp_path, "bronze.trades") == list(range((reached + 2) * ROWS))
    assert stored_offsets(tmp_path, "silver.trades") == list(range((reached + 2) * ROWS))


def test_a_full_disk_says_so_and_shows_nothing_half(kind: str, tmp_path: Path) -> None:
    sink = open_sink(kind, tmp_path)
    sink.write(outputs(0))
    sink.commit()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = rows("bronze.rejected", [{"offset": offset, "payload": os.urandom(4096)} for offset in range(ROWS, ROWS + 200)])
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(FatalError, match=r"no room to write bronze\.rejected"):
            write_and_commit(sink, Outputs(0, Position(ROWS + 200, 1), {"bronze.rejected": big}))
        with pytest.raises(FatalError, match="no room"):
            sink.commit()
        sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert stored_offsets(tmp_path, "bronze.rejected") == []
    sink = open_sink(kind, tmp_path)
    sink.write(Outputs(0, Position(ROWS + 200, 1), {"bronze.rejected": big}))
    sink.commit()
    sink.close()
    assert stored_offsets(tmp_path, "bronze.rejected") == list(range(ROWS, ROWS + 200))


def test_check_says_that_the_store_can_be_written(kind: str, tmp_path: Path) -> None:
    sink = open_sink(kind, tmp_path)
    assert "writable" in sink.check()
    sink.close()
