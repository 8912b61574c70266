"""What a source is: a pure `parse` from payload to trades, and a transport that delivers payloads.

Ingest drives a source: it awaits `stream`, hands every payload to `parse`, and appends what comes out to the journal. The same
`parse` reads recorded payloads, so a recording gives the trades that the live connection gave.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from tickhouse.model import Event, Rejected, Trade

__all__ = ["IGNORED", "Frame", "Parsed", "Source"]


class Frame(NamedTuple):
    """One payload as the provider sent it."""

    payload: bytes
    received_at: int
    """UTC microseconds."""


class Parsed(NamedTuple):
    """What one payload holds; at most MAX_MESSAGE_ROWS trades and rejected parts together."""

    trades: Sequence[Trade] = ()
    rejected: Sequence[Rejected] = ()
    """Parts of the payload that are not of the documented form, in their order; `offset` and `row` are set by the journal."""
    ignored: int = 0
    """Documented messages that we do not take."""


IGNORED = Parsed(ignored=1)


class Source(Protocol):
    """A provider of trades. Constructed with its own settings record; nothing is opened before `stream`."""

    name: str
    """As in the `source` column, e.g. `binance`."""

    def parse(self, payload: bytes, received_at: int) -> Parsed:
        """Read one payload; pure: no I/O, no clock, no state.

        Called once a payload by ingest, and again by a replay of a recording. Must not raise on any bytes: what is not of the
        documented form comes back in `Parsed.rejected`.
        """
        ...

    def recognises(self, payload: bytes) -> bool:
        """Say whether `payload` looks like this provider's; used on the first lines of a recording."""
        ...

    def stream(self) -> AsyncIterator[Frame | Event]:
        """Yield payloads and feed events (`connected`, `disconnected`, ...) for ever; reconnects by itself.

        Raises:
            ConfigError: the provider refuses what was asked for (an unknown symbol).
        """
        ...

    async def check(self) -> str:
        """Return a line that says the provider is reachable.

        Raises:
            NotConnectedError: it is not; the text says why.
        """
        ...
