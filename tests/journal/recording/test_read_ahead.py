"""Reading ahead changes when items are made, and nothing else."""

from __future__ import annotations

import threading

import pytest

from tickhouse.journal.recording.read_ahead import read_ahead


def alive():
    return [thread for thread in threading.enumerate() if thread.name == "tickhouse-reader"]


def test_items_come_in_order_and_once():
    assert list(read_ahead(iter(range(1_000)), 3)) == list(range(1_000))
    assert list(read_ahead(iter([]), 1)) == []
    assert not alive()


def test_an_error_comes_after_the_items_before_it():
    def failing():
        yield 1
        yield 2
        raise OSError("torn")

    taken = []
    with pytest.raises(OSError, match="torn"):
        taken.extend(read_ahead(failing(), 5))
    ahead = read_ahead(failing(), 5)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="torn"):
        next(ahead)
    assert not alive()


def test_leaving_early_ends_the_thread_and_closes_what_it_reads():
    ended = []

    def endless():
        try:
            while True:
                yield 0
        finally:
            ended.append(threading.current_thread().name)

    ahead = read_ahead(endless(), 2)
    assert next(ahead) == 0
    ahead.close()
    assert ended == ["tickhouse-reader"]
    assert not alive()


def test_no_more_than_the_depth_is_made_ahead():
    made, go = [], threading.Semaphore(0)

    def counted():
        for i in range(10):
            made.append(i)
            go.release()
            yield i

    ahead = read_ahead(counted(), 2)
    next(ahead)
    for _ in range(4):  # one was taken, two wait, one is held by the thread
        assert go.acquire(timeout=120)
    assert not go.acquire(timeout=0.05)
    assert made == [0, 1, 2, 3]
    ahead.close()
