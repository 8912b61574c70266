"""Recorded files as a journal: a replay into a new house needs no second copy of them.

- `journal`: the list of files with the rules and the checkpoints, all that is stored.
- `digest`: what tells one file from another.
- `reader`: the lines of the files as one partition, with `heartbeats` from the times that they tell, read by `read_ahead`.
- `pace`: hands them out at recorded speed; `followed`: no further than the tables of a house have come.
"""

from tickhouse.journal.recording.followed import FollowedRecording
from tickhouse.journal.recording.journal import Recording
from tickhouse.journal.recording.pace import PacedJournal

__all__ = ["FollowedRecording", "PacedJournal", "Recording"]
