"""`House`: everything that can be asked of a house. What `tickhouse.open` returns, and what the API and the commands hold."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tickhouse.house.folder import HouseFolder
from tickhouse.symbols import normalise

if TYPE_CHECKING:  # loaded by what uses it: a question to the tables waits for no engine, a replay for no DuckDB
    import polars as pl

    from tickhouse.follower import Followed, Follower
    from tickhouse.quality.verify import Report
    from tickhouse.serving.hub import Hub
    from tickhouse.serving.queries import Queries
    from tickhouse.serving.rows import Record
    from tickhouse.settings import KafkaSettings

__all__ = ["House", "open_house"]


class House(HouseFolder):
    """One house: read at any time, by any number; held by `writing` and `appending` for those that write it.

    Args:
        path: Its folder.
        kafka: Where its topic is followed, if it has one; None = as `tickhouse.toml` and the environment say.
    """

    def __init__(self, path: Path, kafka: KafkaSettings | None = None) -> None:
        super().__init__(path)
        self._kafka = kafka

    # What is stored: each of these takes as_of and then sees what was known at that instant (rule R13).

    @cached_property
    def queries(self) -> Queries:
        """What answers questions about the tables."""
        from tickhouse.serving.queries import Queries

        return Queries(self.lake_path)

    def bars(self, symbol: str, interval: str = "1m", **options: Any) -> pl.DataFrame:
        """Return bars of a symbol; see `Queries.bars` for start, end, as_of, venue, revisions."""
        return self.queries.bars(symbol, interval, **options)

    def trades(self, symbol: str, **options: Any) -> pl.DataFrame:
        """Return accepted trades of a symbol; see `Queries.trades`."""
        return self.queries.trades(symbol, **options)

    def indicators(self, symbol: str, interval: str = "1m", **options: Any) -> pl.DataFrame:
        """Return indicator values of a symbol in long form; see `Queries.indicators`."""
        return self.queries.indicators(symbol, interval, **options)

    def anomalies(self, symbol: str | None = None, **options: Any) -> pl.DataFrame:
        """Return flagged trades; see `Queries.anomalies`."""
        return self.queries.anomalies(symbol, **options)

    def gaps(self, symbol: str | None = None, **options: Any) -> pl.DataFrame:
        """Return gaps in trade ids; see `Queries.gaps`."""
        return self.queries.gaps(symbol, **options)

    def sql(self, query: str, **options: Any) -> pl.DataFrame:
        """Run a read-only query over tables named `bronze.trades`, `silver.trades`, `gold.bars`, ..."""
        return self.queries.sql(query, **options)

    def verify(self, progress: Callable[[float, float], None] | None = None, day: date | None = None) -> Report:
        """Recompute silver and gold from bronze and compare; see `quality.verify.verify`.

        Args:
            progress: Called with (trades done, trades in all), now and then.
            day: Only the rows of this UTC day.
        """
        from tickhouse.house.stored import StoredTables
        from tickhouse.quality.verify import verify

        self.must_exist()
        store = StoredTables(self)
        if progress is None:
            return verify(store, day=day)
        total = self.queries.row_counts()["bronze.trades"]
        return verify(store, day=day, progress=lambda done: progress(done, total))

    # What another process writes, as it writes it.

    def stream(
        self,
        symbol: str | None = None,
        interval: str | None = "1m",
        *,
        venue: str | None = None,
        channel: str = "bars",
        indicators: bool = False,
        since: int | None = None,
    ) -> AsyncGenerator[Record, None]:
        """Yield rows as the house makes them: open bars in their newest state, final bars and revisions each once.

        Args:
            symbol: In any spelling; None = all.
            interval: Of bars and indicators; None = all.
            venue: Only this one.
            channel: `bars`, `trades`, `indicators`, `anomalies`, `events` or `feeds`.
            indicators: With bars: a column for each output.
            since: UTC microseconds: first everything stored from then on, each row once.

        Raises:
            ConfigError: the symbol or the channel means nothing.

        Example:
            >>> async for bar in house.stream("BTC-USDT", "1m"):  # doctest: +SKIP
            ...     print(bar["close"], bar["final"])
        """
        from tickhouse.follower import follow_rows
        from tickhouse.serving.ring import Wanted

        where, canonical = (venue, None) if symbol is None else normalise(symbol, venue)
        of_any = symbol is None or (venue is None and ":" not in symbol)
        per_interval = interval if channel in ("bars", "indicators") else None
        wanted = Wanted(channel, canonical, (venue or None) if of_any else where, per_interval, indicators, since)
        return follow_rows(self.follower, wanted)

    def follower(self, hub: Hub) -> Follower:
        """Return what follows this house into a hub; the house need not exist yet."""
        from tickhouse.follower import Follower

        return Follower(self._followed, self.journal_identity, hub)

    def _followed(self) -> Followed | None:
        from tickhouse.follower import Followed
        from tickhouse.house.journals import open_followed

        identity, rules = self.journal_identity(), self.stored_rules()
        if identity is None or rules is None:
            return None
        journal = open_followed(self, self._kafka)
        return None if journal is None else Followed(journal, rules, self.lake_path, identity)


def open_house(path: str | Path = "house") -> House:
    """Open a house for reading.

    Args:
        path: Its folder.

    Raises:
        ConfigError: there is no house.

    Example:
        >>> house = open_house("house")  # doctest: +SKIP
        >>> house.bars("BTC-USDT", "1m")  # doctest: +SKIP
    """
    house = House(Path(path))
    house.must_exist()
    return house
