"""Questions in SQL from outside: what one of them leaves behind is no other one's problem."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.api.live import LiveHouse
from tickhouse.errors import ConfigError
from tickhouse.serving.questions import Questions

GREEDY = "SELECT list(a.price) FROM silver.trades a, silver.trades b, silver.trades c"
DEEP = "SELECT " + "(" * 9_000 + "1" + ")" * 9_000


@contextmanager
def asking(lake: Path) -> Iterator[Questions]:
    questions = Questions(lake, at_once=1)
    try:
        yield questions
    finally:
        questions.close()


def ask(questions: Questions, sql: str) -> list[tuple[object, ...]]:
    return questions.ask(sql, as_of=None, max_rows=10, max_bytes=1 << 20, timeout_s=20.0).rows()


def process(questions: Questions) -> int | None:
    """Return the process that waits for the next question."""
    worker = questions._free.get_nowait()
    questions._free.put(worker)
    return worker._process.pid if worker is not None and worker.alive else None


def test_a_worker_that_a_question_filled_answers_no_other(tmp_path: Path) -> None:
    with LiveHouse(tmp_path / "house") as house:
        house.play(random.Random(1), minutes=2, a_minute=240)
        lake = house.house.lake_path
    with asking(lake) as questions:
        assert ask(questions, "SELECT 1") == [(1,)]
        first = process(questions)
        assert ask(questions, "SELECT count(*) > 100 FROM silver.trades") == [(True,)]
        assert process(questions) == first is not None
        with pytest.raises(ConfigError, match=r"Memory|longer than"):
            ask(questions, GREEDY)
        assert process(questions) is None
        with pytest.raises(ConfigError, match="expression depth"):  # not: no memory left to read it
            ask(questions, DEEP)
        assert ask(questions, "SELECT 1") == [(1,)]
        assert process(questions) not in (None, first)
