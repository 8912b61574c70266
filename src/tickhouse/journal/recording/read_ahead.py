"""Reads ahead in a thread of its own, so that scanning a file overlaps the work on what was scanned.

The recording reader takes the blocks of a file through it. What the thread meets, the end or an error, comes out at its place
in the order.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import NamedTuple, TypeVar

__all__ = ["read_ahead"]

_Item = TypeVar("_Item")
_LOOK_S = 0.2


class _End(NamedTuple):
    """Nothing more comes; `error` is what ended it, None = the end was reached."""

    error: BaseException | None


def read_ahead(items: Iterator[_Item], depth: int) -> Generator[_Item, None, None]:
    """Yield `items`, of which up to `depth` are made before they are asked for.

    Closing the generator ends the thread, after the item that it is at.

    Args:
        items: Iterated, and closed where it can be, in the thread alone.
        depth: 1 or more.

    Raises:
        BaseException: whatever `items` raised, after the items before it.
    """
    ready: queue.Queue[_Item | _End] = queue.Queue(depth)
    left = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, ready, left), name="tickhouse-reader", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        left.set()
        thread.join()


def _fill(items: Iterator[_Item], ready: queue.Queue[_Item | _End], left: threading.Event) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            if not _put(item, ready, left):
                break
        close = getattr(items, "close", None)
        if close is not None:
            close()
    except BaseException as raised:  # noqa: BLE001 - raised again where the items are taken
        error = raised
    _put(_End(error), ready, left)


def _put(item: _Item | _End, ready: queue.Queue[_Item | _End], left: threading.Event) -> bool:
    """Wait for room; False: nobody takes anything any more."""
    while not left.is_set():
        try:
            ready.put(item, timeout=_LOOK_S)
        except queue.Full:
            continue
        return True
    return False
