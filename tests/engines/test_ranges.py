"""Ranges of a topic worked off one by one give the rows of the embedded engine, however they are cut, repeated and restored."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.engines.clusters import Cluster
from tests.parity.ways import Servers, digests
from tests.services.kafka import Broker
from tickhouse.engines import ranges as module
from tickhouse.engines.job import Range
from tickhouse.engines.ranges import RangeResult, work_off
from tickhouse.errors import FatalError, LogCorruptError, SchemaMismatchError
from tickhouse.model import Position
from tickhouse.rules import Rules
from tickhouse.sinks.lake import Lake

MARKET = (3_000, 12, 7)


@pytest.fixture
def cluster(market: Path, broker: Broker, tmp_path: Path) -> Cluster:
    """A house on a topic with 2 partitions."""
    return Cluster(market, tmp_path / "house", Servers(broker.servers, ""), partitions=2)


def forget() -> None:
    """Let this process forget what it keeps, as a new one has nothing."""
    for kept in module._kept.values():
        kept.close()
    module._kept.clear()


@pytest.mark.parametrize("form", ["json", "arrow"])
def test_every_table_is_that_of_the_embedded_engine(
    form: str, market: Path, expected: dict[str, str], broker: Broker, tmp_path: Path
) -> None:
    cluster = Cluster(market, tmp_path / "house", Servers(broker.servers, ""), form)
    for batch in cluster.ranges(5):
        cluster.batch(batch)
    assert digests(cluster.path) == expected


def test_a_partition_goes_on_in_a_process_that_has_only_its_state(cluster: Cluster, expected: dict[str, str]) -> None:
    for batch in cluster.ranges(6):
        forget()  # what R15 reads back comes from the lake now
        cluster.batch(batch)
    assert digests(cluster.path) == expected


def test_a_batch_run_again_after_its_commit_changes_nothing(cluster: Cluster, expected: dict[str, str]) -> None:
    for batch in cluster.ranges(4):
        results, _ = cluster.execute(batch)
        cluster.commit(results)
        forget()  # the driver died here: nobody has the new states, the same ranges come again
        cluster.batch(batch)
    assert digests(cluster.path) == expected


def test_a_task_run_again_before_the_commit_leaves_one_set_of_rows(cluster: Cluster, expected: dict[str, str]) -> None:
    for batch in cluster.ranges(3):
        cluster.execute(batch[:1])
        cluster.batch(batch)
    assert digests(cluster.path) == expected


def test_without_state_a_house_with_tables_is_neither_skipped_nor_doubled(cluster: Cluster, expected: dict[str, str]) -> None:
    first, *_ = cluster.ranges(2)
    cluster.batch(first)
    forget()
    cluster.begin_anew()
    for batch in cluster.ranges(7):  # cut otherwise: ranges end in the middle of what the tables have
        cluster.batch(batch)
    assert digests(cluster.path) == expected


def test_a_result_survives_the_way_to_the_driver(cluster: Cluster) -> None:
    results, _ = cluster.execute(cluster.ranges(1)[0])
    for result in results:
        again = msgspec.msgpack.decode(msgspec.msgpack.encode(result), type=RangeResult)
        assert again == result
        assert again.rows["silver.trades"].files[0].smallest["ts"].tzinfo is not None


def test_the_state_is_handed_out_where_a_range_says_so(cluster: Cluster) -> None:
    first, _ = cluster.ranges(2)
    results, states = cluster.execute([msgspec.structs.replace(first[0], keep=True), first[1]])
    assert states[0] is not None
    assert [result.snapshot for result in results] == [states[0].snapshot, None]


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_range_that_does_not_follow_is_refused(cluster: Cluster, shift: int) -> None:
    first, second = cluster.ranges(2)
    cluster.batch(first)
    part = second[0]
    with pytest.raises(LogCorruptError, match="left out" if shift > 0 else "count twice"):
        work_off(cluster.job, Range(0, part.start + shift, part.end), cluster.states[0])


def test_state_of_another_house_or_of_other_rules_is_refused(cluster: Cluster) -> None:
    first, second = cluster.ranges(2)
    cluster.batch(first)
    state = cluster.states[0]
    assert state is not None
    with pytest.raises(SchemaMismatchError, match="another house"):
        work_off(cluster.job, second[0], msgspec.structs.replace(state, house="other"))
    with pytest.raises(SchemaMismatchError, match="rules"):
        work_off(msgspec.structs.replace(cluster.job, rules=Rules(lateness_us=0)), second[0], state)


def test_another_topic_of_the_same_name_is_refused(cluster: Cluster) -> None:
    forget()
    other = msgspec.structs.replace(cluster.job, topic=cluster.job.topic._replace(topic_id="other"))
    with pytest.raises(SchemaMismatchError, match="new house"):
        work_off(other, cluster.ranges(1)[0][0], None)


def test_a_lake_that_has_less_than_the_state_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    first, second = cluster.ranges(2)
    cluster.batch(first)
    forget()
    empty = msgspec.structs.replace(cluster.job, lake=str(tmp_path / "other"))
    with pytest.raises(LogCorruptError, match="lost rows"):
        work_off(empty, second[0], cluster.states[0])


def test_a_failed_range_leaves_no_file(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise FatalError("no room")

    monkeypatch.setattr("tickhouse.sinks.lake_encode.TableEncoder.finish", fail)
    with pytest.raises(FatalError, match="no room"):
        cluster.execute(cluster.ranges(1)[0])
    assert not list(cluster.path.rglob("*.parquet"))


def test_rows_that_do_not_follow_the_table_are_not_committed(cluster: Cluster) -> None:
    first, second = cluster.ranges(2)
    results, cluster.states = cluster.execute(first)
    later, _ = cluster.execute(second)
    with pytest.raises(LogCorruptError, match="lost rows"):
        Lake(cluster.house.lake_path).take(0, later[0].rows)
    cluster.commit(results)
    overlapping = {
        name: dataclasses.replace(rows, since=5, position=Position(rows.position.offset + 9, rows.position.clock))
        for name, rows in results[0].rows.items()
    }
    with pytest.raises(FatalError, match="another process writes"):
        Lake(cluster.house.lake_path).take(0, overlapping)
