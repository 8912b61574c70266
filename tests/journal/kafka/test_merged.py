"""A topic filled from another with other partitions gives the same tables, wherever the filling was killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.faults.processes import configured, process, wait_until
from tests.kafka_topics import T0, counter, ends, fresh, produce
from tests.parity.ways import digests
from tests.services.kafka import Broker
from tests.test_cli import tickhouse
from tickhouse.settings import KafkaSettings

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]
MARKET = (10_000, 20, 5)


def house(folder: Path, settings: KafkaSettings) -> list[str | Path]:
    """Return the options of a new house on a topic."""
    folder.mkdir()
    return configured(folder, settings)


@pytest.mark.parametrize("form", ["json", "arrow"])
def test_another_number_of_partitions_changes_no_row(
    form: str, market: Path, expected: dict[str, str], broker: Broker, tmp_path: Path
) -> None:
    old, new = fresh(broker, partitions=2), fresh(broker, partitions=5)
    tickhouse("replay", market, "--to", "kafka", *house(tmp_path / "old", old))
    options = house(tmp_path / "new", new)
    text = (tmp_path / "new" / "t.toml").read_text()
    (tmp_path / "new" / "t.toml").write_text(text.replace("[kafka]\n", f'[kafka]\nform = "{form}"\n'))
    whole = ends(old)
    with counter(new) as count, process("repartition", old.topic, *options, end=signal.SIGKILL) as child:
        assert wait_until(count, whole // 3 if form == "json" else 8, child)
    told = json.loads(tickhouse("repartition", old.topic, *options, "--json"))
    assert told["partitions"] == {old.topic: 2, new.topic: 5}
    before = ends(new)
    tickhouse("repartition", old.topic, *options)
    assert ends(new) == before
    tickhouse("work", "--until-drained", *options)
    assert digests(tmp_path / "new" / "house") == expected


def test_a_topic_of_others_can_be_moved_too(broker: Broker, tmp_path: Path) -> None:
    old, new = fresh(broker, partitions=1), fresh(broker, partitions=3)
    first = house(tmp_path / "old", old)
    broker.create_topic(old.topic)
    trades = [
        {"symbol": f"S{i % 7}-USD", "venue": "X", "price": 1.5 + i, "size": 1, "ts": T0 + i, "trade_id": i} for i in range(900)
    ]
    produce(old, [b"no trade", *trades, None], timestamp=T0 // 1_000)
    tickhouse("work", "--until-drained", *first)
    options = house(tmp_path / "new", new)
    tickhouse("repartition", old.topic, *options)
    tickhouse("work", "--until-drained", *options)
    found, moved = digests(tmp_path / "old" / "house"), digests(tmp_path / "new" / "house")
    assert found["silver.trades"] == moved["silver.trades"]
    assert [name for name in found if found[name] != moved[name]] == ["bronze.events"]  # who keeps heartbeats has written rules


def test_what_cannot_be_moved_is_said(broker: Broker, tmp_path: Path) -> None:
    settings = fresh(broker)
    options = house(tmp_path / "new", settings)
    assert "is the topic to fill" in tickhouse("repartition", settings.topic, *options, code=2)
    assert "there is no topic nowhere" in tickhouse("repartition", "nowhere", *options, code=2)
