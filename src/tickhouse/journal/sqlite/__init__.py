"""The embedded journal: one SQLite file in WAL mode that holds what was received, checkpoints and counters; one partition.

- `appender`: ingest's one writer, a group of messages a transaction.
- `reader`: an engine's batches from any offset on, as a rule in another process; it looks for news every millisecond.
- `journal`: the whole, with checkpoints and upkeep; `tables`: what stands in the file.

A killed process loses nothing that was flushed; a file torn anywhere opens with a prefix of whole flushes.
"""

from tickhouse.journal.sqlite.appender import SqliteAppender
from tickhouse.journal.sqlite.journal import SqliteJournal
from tickhouse.journal.sqlite.reader import SqliteReader

__all__ = ["SqliteAppender", "SqliteJournal", "SqliteReader"]
