"""From sources to the journal: receives payloads, parses them, keeps time, and flushes what has arrived as one group.

- `ingest`: the two threads. One runs the sources' asyncio loop and does nothing but receive; the other appends and flushes, so
  that a slow disk delays only its own flush. Between them stands a bounded `inbox`.
- `core`: the second thread's work without the thread, driven by any clock.
- `heartbeats`: the time of the house, and when a heartbeat is due (rule R3).
"""

from tickhouse.ingest.core import IngestCore, Recorder, SourceCounters
from tickhouse.ingest.heartbeats import Heartbeats
from tickhouse.ingest.ingest import Ingest

__all__ = ["Heartbeats", "Ingest", "IngestCore", "Recorder", "SourceCounters"]
