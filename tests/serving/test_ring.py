"""The ring: however many pieces went in, what comes out is rows from an offset on, and little memory is kept."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.table_rows import rows, trade
from tickhouse.serving.ring import Piece, Ring, Wanted

PIECES = 3_000
ALL = Wanted("trades")


@pytest.fixture(scope="module")
def ring() -> Ring:
    """A ring of pieces of two trades, of which every tenth is ETH's."""
    ring = Ring(4_000)
    ring.clear((0,))
    for k in range(PIECES):
        records = [trade(2 * k, "ETH-USDT" if k % 10 == 0 else "BTC-USDT"), trade(2 * k + 1)]
        ring.add(Piece("trades", (2 * k,), (2 * k + 2,), k, rows("silver.trades", records)))
    return ring


def ids(found: list[dict[str, object]]) -> list[object]:
    return [row["trade_id"] for row in found]


@pytest.mark.parametrize("offset", [5_999, 5_998, 5_001, 4_000, 3_333, 2_100])
def test_rows_from_an_offset_on_are_complete_and_in_order(ring: Ring, offset: int) -> None:
    pieces = ring.since((offset,))
    assert pieces is not None
    assert ids([row for piece in pieces for row in piece.records(ALL)]) == list(range(offset, 2 * PIECES))
    assert all(before.end == after.begin for before, after in pairwise(pieces))


def test_what_is_gone_is_said(ring: Ring) -> None:
    assert ring.floor == (2_000,)
    assert ring.since(ring.floor) is not None
    assert ring.since((ring.floor[0] - 1,)) is None


def test_old_pieces_are_joined(ring: Ring) -> None:
    assert len(ring.since(ring.floor) or ()) < 1_100


def test_the_newest_rows_of_a_rare_symbol_are_found(ring: Ring) -> None:
    assert ids(ring.newest(Wanted("trades", symbol="ETH-USDT"), 100)) == list(range(4_000, 6_000, 20))
    assert ids(ring.newest(ALL, 3)) == [5_997, 5_998, 5_999]
    assert ring.newest(Wanted("trades", symbol="XRP-USDT"), 3) == []
