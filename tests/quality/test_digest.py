"""Digests: the same rows give the same digest, whatever holds them; any change gives another."""

from __future__ import annotations

import math
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickhouse.errors import SchemaMismatchError
from tickhouse.quality.digest import DigestBuilder, row_hashes, table_digest
from tickhouse.tables import TABLES

SILVER, BARS, REJECTED = TABLES["silver.trades"], TABLES["gold.bars"], TABLES["bronze.rejected"]


def silver(n: int) -> list[dict]:
    return [
        {
            "venue": "BINANCE",
            "symbol": ("BTC-USDT", "ETH-USDT", "é")[i % 3],
            "trade_id": None if i % 5 == 0 else i,
            "trade_ref": f"ref{i}" if i % 5 == 0 else None,
            "ts": 1_700_000_000_000_000 + i,
            "clock": 1_700_000_000_250_000,
            "price": 100.0 + i / 7,
            "size": float(i),
            "value": 0.5 * i,
            "side": (None, "buy", "sell")[i % 3],
            "late": i % 2 == 0,
            "anomaly": False,
            "score": None if i % 4 else 0.25 * i,
            "partition": 0,
            "offset": i,
            "row": 0,
        }
        for i in range(n)
    ]


def table(rows: list[dict], spec=SILVER) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=spec.schema)


def digest(rows: list[dict]) -> str:
    return table_digest(table(rows), SILVER)


def test_a_digest_is_the_same_on_every_machine_and_version():
    assert digest([]) == "5deeb197eb64d37cedd89c6a5ffa19e118e557676778135d55f3c55a384d6c7f"
    assert digest(silver(1000)) == "8e03d49fe5eda290f41168a223c26c889eba61ad1b847eb63fd419db82536b44"


@given(st.permutations(range(40)), st.integers(0, 40))
def test_order_and_pieces_do_not_matter(order, cut):
    rows = silver(40)
    builder = DigestBuilder(SILVER)
    shuffled = [rows[i] for i in order]
    builder.update(table(shuffled[:cut]))
    builder.update(table(shuffled[cut:]))
    assert builder.hexdigest() == digest(rows)
    assert builder.rows == 40


def test_the_cause_and_column_order_do_not_matter():
    rows = silver(20)
    moved = [{**row, "partition": 3, "offset": 7_000 - i, "row": i} for i, row in enumerate(rows)]
    assert digest(moved) == digest(rows)
    plain = table(rows)
    assert table_digest(plain.select(SILVER.values[::-1]), SILVER) == digest(rows)


def test_dictionary_coding_chunks_and_text_width_do_not_matter():
    rows = table(silver(100))
    coded = pa.concat_tables([rows.slice(0, 33), rows.slice(33, 1), rows.slice(34)])
    for name, kind in (("venue", pa.large_string()), ("trade_ref", pa.string_view())):
        coded = coded.set_column(coded.column_names.index(name), name, coded.column(name).cast(kind))
    for name in ("symbol", "side"):
        coded = coded.set_column(coded.column_names.index(name), name, coded.column(name).dictionary_encode())
    assert table_digest(coded, SILVER) == table_digest(rows, SILVER)


def test_a_null_inside_a_dictionary_is_null():
    rows = table(silver(3))
    side = pa.DictionaryArray.from_arrays(pa.array([1, 0, 2], pa.int8()), pa.array(["buy", None, "sell"]))
    coded = rows.set_column(rows.column_names.index("side"), "side", side)
    assert table_digest(coded, SILVER) == table_digest(rows, SILVER)


@pytest.mark.parametrize("name", SILVER.values)
def test_any_changed_cell_changes_the_digest(name):
    rows = silver(30)
    was = rows[7][name]
    changed = {str: "other", bool: not was, int: 12345, float: 0.1, type(None): {"trade_id": 1, "score": 0.0}.get(name, "")}[
        type(was)
    ]
    rows[7] = {**rows[7], name: changed}
    assert digest(rows) != digest(silver(30))


def test_swapped_values_missing_and_repeated_rows_change_the_digest():
    rows = silver(30)
    swapped = [dict(row) for row in rows]
    swapped[3]["price"], swapped[4]["price"] = rows[4]["price"], rows[3]["price"]
    crossed = [dict(row) for row in rows]
    crossed[3]["price"], crossed[3]["size"] = rows[3]["size"], rows[3]["price"]
    digests = [
        digest(other) for other in (rows, swapped, crossed, rows[1:], [*rows, rows[0]], [*rows, *rows], [*rows[1:], rows[1]])
    ]
    assert len(set(digests)) == len(digests)


def test_floats_count_by_their_bits():
    other_nan = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000001))[0]
    seen = {digest([{**silver(1)[0], "score": score}]) for score in (0.0, -0.0, math.nan, None, 5e-324)}
    assert len(seen) == 5
    column = pa.array(np.array([other_nan]))
    one = table([{**silver(1)[0], "score": math.nan}])
    assert table_digest(one.set_column(one.column_names.index("score"), "score", column), SILVER) not in seen


def test_null_empty_and_zero_differ():
    base = silver(2)[1]
    assert len({digest([{**base, "trade_ref": text}]) for text in (None, "", "\0")}) == 3
    assert len({digest([{**base, "trade_id": number}]) for number in (None, 0, -1)}) == 3


def test_payload_bytes_count():
    row = {
        "source": "s",
        "received_at": None,
        "clock": None,
        "reason": "r",
        "payload": b"\xff\x00",
        "length": 2,
        "sha256": None,
    }
    cause = {"partition": 0, "offset": 0, "row": 0}
    one = table_digest(table([{**row, **cause}], REJECTED), REJECTED)
    assert one != table_digest(table([{**row, **cause, "payload": b"\xff\x01"}], REJECTED), REJECTED)


def test_tables_without_rows_differ_by_name():
    assert table_digest(table([]), SILVER) != table_digest(BARS.schema.empty_table(), BARS)


def test_hashes_of_rows_add_up_to_the_digest():
    rows = table(silver(70_000))
    low, high = row_hashes(rows, SILVER)
    assert len(set(zip(low.tolist(), high.tolist(), strict=True))) == 70_000
    builder = DigestBuilder(SILVER)
    builder.add(low, high)
    assert builder.hexdigest() == table_digest(rows, SILVER)


def test_a_missing_column_or_another_type_is_named():
    rows = table(silver(3))
    with pytest.raises(SchemaMismatchError, match=r"silver\.trades has no column score"):
        table_digest(rows.drop_columns(["score"]), SILVER)
    with pytest.raises(SchemaMismatchError, match=r"silver\.trades\.price holds string"):
        table_digest(rows.set_column(6, "price", pa.array(["a", "b", "c"])), SILVER)
