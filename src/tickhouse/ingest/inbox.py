"""What was received and is not appended yet: a bounded queue between ingest's threads, without a lock while it is not empty."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from tickhouse.ingest.core import IngestCore
from tickhouse.sources.base import Frame, Source

__all__ = ["Inbox", "Work"]

Work = Callable[[IngestCore], None] | tuple[Source, Frame]
"""A frame to be appended, or, rarely, anything else to be done in its turn."""


class Inbox:
    """A bounded queue: one thread takes, any number offer.

    Args:
        size: Beyond it nothing is taken in.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[Work] = deque()
        self._changed = threading.Condition()
        self._waiting = False
        self._settled = True

    @property
    def is_idle(self) -> bool:
        """True where everything offered was taken and flushed."""
        return not self._items and self._settled

    def offer(self, work: Work, *, beyond_size: bool = False) -> bool:
        """Take `work` in; False where the inbox is full."""
        if len(self._items) >= self._size and not beyond_size:
            return False
        self._items.append(work)
        if self._waiting:
            self.wake()
        return True

    def take(self) -> Work | None:
        """Return the next item, None where there is none."""
        if not self._items:
            return None
        self._settled = False
        return self._items.popleft()

    def settle(self) -> bool:
        """Say that what was taken is flushed; return whether nothing has arrived since."""
        self._settled = True
        return not self._items

    def wait(self, timeout_s: float, unless: threading.Event) -> None:
        """Sleep until something is offered."""
        with self._changed:
            self._waiting = True
            if not self._items and not unless.is_set():
                self._changed.wait(timeout_s)
            self._waiting = False

    def wake(self) -> None:
        """End the sleep."""
        with self._changed:
            self._changed.notify_all()
