"""What the long commands do, one module a command; the command line adds only what is painted.

`live` is `ingest` in a process of its own and `work` in this one. A new long command is a module here and a function in `cli`.
"""

from tickhouse.house.journals import house_rules
from tickhouse.runs.ingest import IngestRun
from tickhouse.runs.live import LiveRun
from tickhouse.runs.replay import ReplayRun, file_options
from tickhouse.runs.work import WorkRun, summary

__all__ = ["IngestRun", "LiveRun", "ReplayRun", "WorkRun", "file_options", "house_rules", "summary"]
