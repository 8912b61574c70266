"""A house: a folder with `house.json` (what it is), `journal.db` (what was received, snapshots) and `lake/` (the tables).

One process receives into it, one makes its tables, any number read it:

- `house`: `House`, everything that can be asked of one, stored or live. It is a `HouseFolder`.
- `folder`: what stands in the folder, and holding it for writing; `locks`: how it is held.
- `journals`: opens what the house receives into, to append, to be worked off, or to be followed.
- `work`: puts the engine over that journal together with pipelines and sinks.
- `stored`: what `verify` proves.

The last three are the composition root: the only modules that know all concrete classes.
"""

from tickhouse.house.folder import JournalKind
from tickhouse.house.house import House, open_house

__all__ = ["House", "JournalKind", "open_house"]
