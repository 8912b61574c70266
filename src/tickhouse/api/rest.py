"""The routes of `/v1`: what is stored, page by page, and what the house is and does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from tickhouse.api.answers import Cursor, Rows, answer, documented, next_cursor, problems
from tickhouse.api.context import Context, context, instant, microseconds, spelled
from tickhouse.api.problems import ProblemError
from tickhouse.indicators.specs import parse_spec
from tickhouse.serving.catalogue import catalogue
from tickhouse.serving.ring import Wanted
from tickhouse.serving.rows import Record, shown_columns
from tickhouse.tables import TABLES

__all__ = ["Catalogue", "CatalogueItem", "Health", "HouseInfo", "Output", "SqlQuery", "router"]

router = APIRouter(prefix="/v1")

MAX_LIMIT = 50_000
_SQL_BYTES = 64 << 20

Here = Annotated[Context, Depends(context)]
_SPELLING = "In any spelling: BTC-USDT, btc/usdt, BINANCE:BTCUSDT."
_FROM = "From here on, included: UTC microseconds or ISO text. Left out = the last `limit` rows."

SymbolQuery = Annotated[str, Query(min_length=1, max_length=100, description=_SPELLING, examples=["BTC-USDT"])]
AnySymbol = Annotated[str | None, Query(max_length=100, description="As above; left out = all.")]
Venue = Annotated[str | None, Query(max_length=100, description="Only this venue.")]
Interval = Annotated[str, Query(max_length=20, description="One of the house's intervals.", examples=["1m"])]
Start = Annotated[str | None, Query(max_length=40, description=_FROM)]
End = Annotated[str | None, Query(max_length=40, description="Before this instant.")]
AsOf = Annotated[str | None, Query(max_length=40, description="See only what was known at this instant.")]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows at most.")]
CursorText = Annotated[str | None, Query(max_length=2_000, description="`next` of the page before.")]

_BAR_ORDER = ("start", "venue", "symbol", "interval", "origin")
_BAR_KEY = "venue, symbol, interval, start, origin"


class _Page:
    """What the routes over one table have in common."""

    def __init__(self, here: Context, name: str, limit: int, cursor: str | None) -> None:
        here.rules()
        self._here = here
        self._name = name
        self._limit = limit
        self._cursor = Cursor.read(cursor) if cursor else None

    def read(
        self,
        asked: dict[str, Any],
        order: Sequence[str],
        *,
        start: str | None,
        end: str | None,
        as_of: str | None,
        latest_by: str = "",
    ) -> tuple[pl.DataFrame, str | None]:
        """Return the rows and the cursor of the next page."""
        begins, ends = instant("start", start), instant("end", end)
        if begins is not None and ends is not None and begins > ends:
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "start: it lies after end")
        newest = begins is None and self._cursor is None
        frame, below = self._here.house.queries.page(
            self._name,
            asked,
            start=begins,
            end=ends,
            as_of=instant("as_of", as_of),
            order=order,
            latest_by=latest_by,
            limit=self._limit,
            newest=newest,
            after=self._cursor.after if self._cursor else None,
            below=self._cursor.below if self._cursor else None,
        )
        return frame, None if newest else next_cursor(frame, order, self._limit, below)


@router.get("/bars", response_model=Rows, responses=documented(), tags=["Market data"])
def bars(
    request: Request, here: Here, symbol: SymbolQuery, interval: Interval = "1m", venue: Venue = None,
    start: Start = None, end: End = None, as_of: AsOf = None, limit: Limit = 500, cursor: CursorText = None,
    indicators: Annotated[bool, Query(description="A column for each output of an indicator, e.g. sma_20.")] = False,
    open: Annotated[bool, Query(description='Also the bar that is still open, with "final": false.')] = False,  # noqa: A002  (as clients say it)
) -> Response:  # fmt: skip
    """Bars of a symbol in their latest revision, by start."""
    here.interval(interval)
    page = _Page(here, "gold.bars", limit, cursor)
    frame, following = page.read(
        {"symbol": symbol, "venue": venue, "interval": interval},
        _BAR_ORDER,
        start=start,
        end=end,
        as_of=as_of,
        latest_by=_BAR_KEY,
    )
    frame = frame.select(TABLES["gold.bars"].values).with_columns(final=pl.lit(True))
    if indicators and len(frame):
        frame = _with_indicators(here, frame, symbol, interval, venue, as_of)
    if open and following is None and not as_of:
        frame = _with_open(here, frame, symbol, interval, venue, end)
    return answer(request, frame, following)


def _with_indicators(
    here: Context, bars: pl.DataFrame, symbol: str, interval: str, venue: str | None, as_of: str | None
) -> pl.DataFrame:
    first, last = bars["start"].min(), bars["end"].max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    wide = here.house.queries.indicators_wide(
        symbol, interval, start=first, end=last, venue=venue, as_of=instant("as_of", as_of)
    )
    columns = [column for each in _catalogue(here) for column in (output["column"] for output in each["outputs"])]
    for column in columns:
        if column not in wide.columns:
            wide = wide.with_columns(pl.lit(None, pl.Float64).alias(column))
    keys = ["venue", "symbol", "interval", "start"]
    return bars.join(wide.select(*keys, *columns), on=keys, how="left", maintain_order="left")


def _with_open(
    here: Context, bars: pl.DataFrame, symbol: str, interval: str, venue: str | None, end: str | None
) -> pl.DataFrame:
    where, canonical = spelled(symbol, venue)
    wanted = Wanted("bars", canonical, where, interval)
    # What is final but not committed yet would else be missing for a second: no longer open, not yet stored.
    last = bars["start"].max()
    fresh = here.hub.fresh_bars(wanted, microseconds(last)) if isinstance(last, datetime) else []
    ends = instant("end", end)
    for rows in (fresh, here.hub.open_bars.all_now(wanted)):
        frame = _frame_of(rows, bars.schema)
        if ends is not None:
            frame = frame.filter(pl.col("start") < ends)
        bars = pl.concat([bars, frame.join(bars.select("venue", "start"), on=["venue", "start"], how="anti")])
    return bars.sort("start", maintain_order=True)


def _frame_of(rows: list[Record], schema: pl.Schema) -> pl.DataFrame:
    columns: dict[str, pl.Series] = {}
    for name, kind in schema.items():
        values = [row.get(name) for row in rows]
        is_time = isinstance(kind, pl.Datetime)
        column = pl.Series(name, values, pl.Int64 if is_time else kind)
        columns[name] = column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC") if is_time else column
    return pl.DataFrame(columns)


@router.get("/trades", response_model=Rows, responses=documented(), tags=["Market data"])
def trades(
    request: Request, here: Here, symbol: SymbolQuery, venue: Venue = None, start: Start = None, end: End = None,
    as_of: AsOf = None, limit: Limit = 500, cursor: CursorText = None,
) -> Response:  # fmt: skip
    """Accepted trades of a symbol, by time."""
    page = _Page(here, "silver.trades", limit, cursor)
    order = ("ts", "venue", "partition", "offset", "row")
    frame, following = page.read({"symbol": symbol, "venue": venue}, order, start=start, end=end, as_of=as_of)
    return answer(request, frame.select(shown_columns("silver.trades")), following)


@router.get("/indicators", response_model=Rows, responses=documented(), tags=["Market data"])
def indicators(
    request: Request, here: Here, symbol: SymbolQuery, interval: Interval = "1m", venue: Venue = None,
    indicator: Annotated[str | None, Query(max_length=100, examples=["bbands(20,2)"])] = None,
    start: Start = None, end: End = None, as_of: AsOf = None, limit: Limit = 2_000, cursor: CursorText = None,
) -> Response:  # fmt: skip
    """Indicator values in long form: a row a bar, indicator and output, as last issued."""
    here.interval(interval)
    asked = {"symbol": symbol, "venue": venue, "interval": interval}
    if indicator is not None:
        asked["indicator"] = parse_spec(indicator).name
    page = _Page(here, "gold.indicators", limit, cursor)
    order = ("start", "venue", "symbol", "interval", "indicator", "output")
    frame, following = page.read(
        asked, order, start=start, end=end, as_of=as_of, latest_by="venue, symbol, interval, start, indicator, output"
    )
    return answer(request, frame.select(shown_columns("gold.indicators")), following)


@router.get("/anomalies", response_model=Rows, responses=documented(), tags=["Quality"])
def anomalies(
    request: Request, here: Here, symbol: AnySymbol = None, venue: Venue = None, start: Start = None, end: End = None,
    as_of: AsOf = None, limit: Limit = 500, cursor: CursorText = None,
) -> Response:  # fmt: skip
    """Flagged trades, by time."""
    page = _Page(here, "gold.anomalies", limit, cursor)
    order = ("ts", "venue", "symbol", "partition", "offset", "row", "detector")
    frame, following = page.read({"symbol": symbol or None, "venue": venue}, order, start=start, end=end, as_of=as_of)
    return answer(request, frame.select(shown_columns("gold.anomalies")), following)


@router.get("/gaps", response_model=Rows, responses=documented(), tags=["Quality"])
def gaps(
    request: Request, here: Here, symbol: AnySymbol = None, venue: Venue = None, as_of: AsOf = None,
    changes: Annotated[bool, Query(description="A row for every change of state, not for each gap its present one.")] = False,
    limit: Limit = 5_000,
) -> Response:  # fmt: skip
    """Holes in the trade ids: open, healed or lost."""
    here.rules()
    frame = here.house.queries.gaps(symbol or None, venue=venue, as_of=instant("as_of", as_of), changes=changes)
    return answer(request, frame.tail(limit))


@router.get("/rejected", response_model=Rows, responses=documented(), tags=["Quality"])
def rejected(
    request: Request, here: Here, start: Start = None, end: End = None, as_of: AsOf = None, limit: Limit = 100,
    cursor: CursorText = None, payload: Annotated[bool, Query(description="With the bytes, base64.")] = False,
) -> Response:  # fmt: skip
    """What was refused, with the reason."""
    page = _Page(here, "bronze.rejected", limit, cursor)
    order = ("clock", "partition", "offset", "row")
    frame, following = page.read({}, order, start=start, end=end, as_of=as_of)
    columns = [name for name in shown_columns("bronze.rejected") if payload or name != "payload"]
    return answer(request, frame.select(columns), following)


@router.get("/symbols", response_model=Rows, responses=documented(), tags=["House"])
def symbols(request: Request, here: Here) -> Response:
    """Every instrument with its trades, first and last price, and the change over its last 24 hours."""
    here.rules()
    return answer(request, here.house.queries.instruments())


@router.get("/feeds", response_model=Rows, responses=documented(), tags=["House"])
def feeds(request: Request, here: Here) -> Response:
    """What each feed does: rate and lag now, the change since the UTC day began, and counts since the house began."""
    here.rules()
    rows = here.hub.feed_records(Wanted("feeds"))
    return answer(request, pl.DataFrame(rows, schema=_FEEDS))


_FEEDS: dict[str, Any] = {
    "venue": pl.String, "symbol": pl.String, "source": pl.String, "connected": pl.Boolean, "market": pl.String,
    "last": pl.Float64, "change_pct": pl.Float64, "rate": pl.Float64, "lag_us": pl.Int64, "trades": pl.Int64,
    "late": pl.Int64, "duplicate": pl.Int64, "rejected": pl.Int64, "open_gaps": pl.Int64, "clock": pl.Int64,
}  # fmt: skip


class Output(BaseModel):
    """One output of an indicator."""

    output: str
    column: str
    """In wide rows."""


class CatalogueItem(BaseModel):
    """One indicator of the house."""

    indicator: str
    title: str
    intervals: list[str]
    outputs: list[Output]
    pane: str
    """`price` where it is drawn over the price, else `own`."""


class Catalogue(BaseModel):
    """The indicators of the house."""

    rows: list[CatalogueItem]
    next: None = None


def _catalogue(here: Context) -> list[dict[str, Any]]:
    return catalogue(here.rules())


@router.get("/indicators/catalogue", response_model=Catalogue, responses=problems(), tags=["House"])
def indicators_catalogue(here: Here) -> dict[str, Any]:
    """The indicators that this house computes, and how to draw them."""
    return {"rows": _catalogue(here), "next": None}


class HouseInfo(BaseModel):
    """What a house is."""

    path: str
    """The name of its folder."""
    kind: str | None
    """Of its journal: `sqlite` (live) or `recording`; null = there is none yet."""
    lateness_us: int | None = None
    intervals: list[str] = []
    indicators: list[str] = []
    indicator_intervals: list[str] = []
    detector: str | None = None
    clock: int | None = None
    """The last heartbeat, UTC microseconds."""
    running: bool
    """Whether some process writes it."""


@router.get("/house", response_model=HouseInfo, responses=problems(), tags=["House"])
def house(here: Here) -> HouseInfo:
    """The house: its rules, its clock, whether it is being written."""
    rules, state = here.follower.rules or here.house.stored_rules(), here.follower.state
    about: dict[str, Any] = {}
    if rules is not None:
        about = {
            "lateness_us": rules.lateness_us,
            "intervals": list(rules.intervals),
            "indicators": list(rules.indicators),
            "indicator_intervals": list(rules.indicator_intervals),
            "detector": rules.detector,
        }
    return HouseInfo(
        path=here.house.path.absolute().name, kind=here.house.kind, clock=state.clock, running=here.writer_runs(), **about
    )


class Health(BaseModel):
    """How the server and the house are."""

    status: str
    """`ok`, `waiting` (there is no house yet), `stopped` (nobody writes it), `failed`."""
    detail: str
    running: bool
    """Whether some process writes the house."""
    position: int
    """The journal offset that this server has come to."""
    clock: int | None
    """The last heartbeat, UTC microseconds."""
    lag_us: int | None
    """How far that heartbeat is behind the present; null where nobody writes."""
    received: int
    accepted: int
    duplicate: int
    rejected: dict[str, int]
    late: int
    bars: int
    revisions: int
    anomalies: int
    """These since the house began."""
    subscribers: int


@router.get("/health", response_model=Health, responses=problems(), tags=["House"])
def health(here: Here) -> Health:
    """Whether the house is being written and how far behind this server is."""
    state, counts, running = here.follower.state, here.follower.counts, here.writer_runs()
    status = {"following": "ok" if running else "stopped"}.get(state.status, state.status)
    detail = state.detail or ("" if running else "no process writes this house now; what is stored can be read")
    return Health(
        status=status, detail=detail, running=running, position=state.position, clock=state.clock,
        lag_us=here.now() - state.clock if running and state.clock is not None else None,
        received=counts.received, accepted=counts.accepted, duplicate=counts.duplicate, rejected=dict(counts.rejected),
        late=counts.late, bars=counts.bars, revisions=counts.revisions, anomalies=counts.anomalies,
        subscribers=here.hub.subscribers,
    )  # fmt: skip


class SqlQuery(BaseModel):
    """A question in SQL."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"sql": "SELECT symbol, count(*) AS n FROM silver.trades GROUP BY symbol"}},
    )

    sql: str = Field(min_length=1, max_length=20_000)
    limit: int = Field(1_000, ge=1, le=MAX_LIMIT)
    as_of: int | str | None = None


@router.post("/sql", response_model=Rows, responses=documented(), tags=["Market data"])
def sql(request: Request, here: Here, query: SqlQuery) -> Response:
    """One SELECT over the tables of the house, in DuckDB's SQL; bounded in rows, time and memory."""
    here.rules()
    as_of = instant("as_of", None if query.as_of is None else str(query.as_of))
    frame = here.questions.ask(
        query.sql, as_of=as_of, max_rows=query.limit, max_bytes=_SQL_BYTES, timeout_s=here.settings.sql_timeout_s
    )
    return answer(request, frame)
