"""kill -9 of whoever stands around a topic: nothing is lost, nothing is double, and a second ingest never gets in.

A few kills by `make test`, twenty of each by `make campaign`. Moments are chosen by how far the work has come, so that a slow
machine is killed in the middle of it all the same.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.faults.processes import configured, process, reached, said, wait_until
from tests.kafka_topics import counter, ends, fresh, plain_messages
from tests.parity.ways import digests
from tests.services.kafka import Broker
from tests.test_cli import tickhouse

pytestmark = [pytest.mark.timeout(1_800), pytest.mark.slow]
LINES = 120_000
MARKET = (LINES, 20, 5)
KILLS = 3
MANY = 20


def kill_producer(market: Path, broker: Broker, folder: Path, kills: int) -> None:
    """Kill `replay --to kafka` again and again; compare the topic, message by message, with an undisturbed one."""
    calm, disturbed = fresh(broker), fresh(broker)
    (folder / "calm").mkdir()
    tickhouse("replay", market, "--to", "kafka", *configured(folder / "calm", calm))
    options = configured(folder, disturbed)
    rng, whole, killed = random.Random(1), ends(calm), 0
    with counter(disturbed) as count:
        for _ in range(kills):
            moment = count() + rng.randrange(1, max(2, whole // (4 * kills)))  # it goes on for a while before it dies
            with process("replay", market, "--to", "kafka", *options, end=signal.SIGKILL) as child:
                wait_until(count, moment, child)
            killed += count() < whole
    assert killed, "never killed in the middle: the test shows nothing"
    tickhouse("replay", market, "--to", "kafka", *options)
    for partition in range(2):
        ours, theirs = ([message.value() for message in plain_messages(one, partition)] for one in (calm, disturbed))
        assert ours == theirs


def kill_work(market: Path, expected: dict[str, str], broker: Broker, folder: Path, kills: int) -> None:
    """Kill `work` again and again; compare the tables with those of an undisturbed replay."""
    settings = fresh(broker)
    options = configured(folder, settings)
    tickhouse("replay", market, "--to", "kafka", *options)
    rng, whole = random.Random(2), ends(settings)
    for moment in sorted(rng.randrange(1, whole * 3 // 4) for _ in range(kills)):
        with process("work", "--no-serve", *options, end=signal.SIGKILL) as child:
            assert wait_until(lambda: reached(folder / "house"), moment, child)
    tickhouse("work", "--until-drained", *options)
    assert digests(folder / "house") == expected
    assert json.loads(tickhouse("verify", "--house", folder / "house", "--json"))["ok"]


def kill_broker(market: Path, expected: dict[str, str], folder: Path, kills: int, away_s: float) -> None:
    """Kill the broker under a producer and a worker again and again; both wait for it and go on."""
    server = Broker(folder / "kafka").start()
    try:
        settings = fresh(server)
        options = configured(folder, settings)
        with process("work", "--no-serve", *options) as worker:
            with process("replay", market, "--to", "kafka", *options) as producer:
                rng = random.Random(3)
                with counter(settings) as count:
                    for moment in sorted(rng.randrange(10, LINES // 2) for _ in range(kills)):
                        wait_until(count, moment, producer)
                        server.kill()
                        time.sleep(away_s)
                        server.start()
                assert producer.wait(300) == 0, said(producer)
            whole = ends(settings)
            assert wait_until(lambda: reached(folder / "house"), whole * 9 // 10, worker), said(worker)
            worker.send_signal(signal.SIGINT)
            assert worker.wait(300) == 0, said(worker)
        tickhouse("work", "--until-drained", *options)
        assert digests(folder / "house") == expected
    finally:
        server.stop()


def test_killed_producer(market: Path, broker: Broker, tmp_path: Path) -> None:
    kill_producer(market, broker, tmp_path, KILLS)


def test_killed_work(market: Path, expected: dict[str, str], broker: Broker, tmp_path: Path) -> None:
    kill_work(market, expected, broker, tmp_path, KILLS)


def test_killed_broker(market: Path, expected: dict[str, str], tmp_path: Path) -> None:
    kill_broker(market, expected, tmp_path, 2, 1.0)


@pytest.mark.campaign
def test_a_broker_away_for_a_minute(market: Path, expected: dict[str, str], tmp_path: Path) -> None:
    kill_broker(market, expected, tmp_path, 1, 60.0)


@pytest.mark.campaign
def test_killed_producer_many_times(market: Path, broker: Broker, tmp_path: Path) -> None:
    kill_producer(market, broker, tmp_path, MANY)


@pytest.mark.campaign
def test_killed_work_many_times(market: Path, expected: dict[str, str], broker: Broker, tmp_path: Path) -> None:
    kill_work(market, expected, broker, tmp_path, MANY)


@pytest.mark.campaign
def test_killed_broker_many_times(market: Path, expected: dict[str, str], tmp_path: Path) -> None:
    kill_broker(market, expected, tmp_path, MANY, 1.0)


def test_ingest_is_one_a_topic_and_survives_its_own_death(broker: Broker, tmp_path: Path) -> None:
    settings = fresh(broker)
    options = configured(tmp_path, settings)
    other = ["--house", tmp_path / "other", "--config", tmp_path / "t.toml"]
    for end in (signal.SIGKILL, signal.SIGINT):
        with process("ingest", "--source", "synthetic", *options, end=end) as first:
            before = ends(settings)
            assert wait_until(lambda: ends(settings), before + 300, first)
            if end == signal.SIGINT:
                with process("ingest", "--source", "synthetic", *other) as second:
                    second.wait(300)
                    assert second.stdout is not None
                    assert b"is being written by another ingest" in second.stdout.read()
                assert second.returncode == 2
                with counter(settings) as count:
                    assert wait_until(count, count() + 300, first), said(first)
    assert first.returncode == 0
    tickhouse("work", "--until-drained", *options)
    report = json.loads(tickhouse("verify", "--house", tmp_path / "house", "--json"))
    assert report["ok"], report
    assert report["balance"]["accepted"] > 300
    assert report["balance"]["rejected"]
    assert report["rows"]["bronze.events"] >= 2


def test_a_broker_that_is_down_at_the_start_is_waited_for_until_ctrl_c(tmp_path: Path) -> None:
    server = Broker(tmp_path / "kafka")
    options = configured(tmp_path, fresh(server))
    with process("run", "--source", "synthetic", "--no-serve", *options) as child:
        assert child.stdout is not None
        assert b"kafka_unreachable" in child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert child.wait(300) == 2
        assert "cannot be reached" in said(child)
    with process("work", "--until-drained", *options) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        assert b"kafka_unreachable" in line, line
        threading.Timer(1.0, server.start).start()
        assert child.wait(300) == 0
    server.stop()
