"""TLS and SASL against a broker that demands both; who is refused learns why in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.journals import drained
from tests.kafka_topics import T0, fresh, trade
from tests.services.kafka import SecureBroker
from tickhouse.errors import ConfigError
from tickhouse.journal.kafka.journal import KafkaJournal
from tickhouse.journal.kafka.topic import KafkaTopic
from tickhouse.model import Feeds

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("secure")]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """A broker that takes TLS with a certificate of the client's, and a password."""
    with SecureBroker(tmp_path_factory.mktemp("secure")) as broker:
        yield broker


def known(broker: SecureBroker) -> dict[str, Any]:
    """Return the settings of a client that is let in."""
    folder = broker.log.parent
    return {
        "servers": broker.secure_servers,
        "security": "sasl_ssl",
        "sasl_mechanism": "PLAIN",
        "username": broker.user,
        "password": broker.password,
        "ca_file": str(folder / "ca.pem"),
        "certificate_file": str(folder / "client.pem"),
        "key_file": str(folder / "client.key"),
    }


def test_a_house_writes_and_reads_by_tls_and_sasl(secure: SecureBroker, tmp_path: Path) -> None:
    settings = fresh(secure, **known(secure), partitions=1)
    with closing(KafkaJournal.create_or_open(tmp_path, settings, None)) as journal:
        with closing(journal.appender("test")) as appender:
            appender.trades([trade(number) for number in range(5)], T0)
            appender.heartbeat(T0)
        batches = drained(journal.reader(0, 0, Feeds()))
    assert sum(len(batch.trades) for batch in batches) == 5


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"password": "close, sesame"}, "Authentication failed"),
        ({"username": "nobody"}, "Authentication failed"),
        ({"sasl_mechanism": "SCRAM-SHA-512"}, "mechanism"),
        ({"ca_file": "other.pem"}, "certificate"),
    ],
    ids=["password", "name", "mechanism", "authority"],
)
def test_who_is_refused_is_told_at_once(secure: SecureBroker, wrong: dict[str, Any], why: str) -> None:
    if "ca_file" in wrong:
        wrong = {"ca_file": str(secure.log.parent / wrong["ca_file"])}
    with pytest.raises(ConfigError, match=rf"Kafka at {secure.secure_servers} refuses: opening topic .*{why}"):
        KafkaTopic.open(fresh(secure, **{**known(secure), **wrong}))


def test_a_wrong_password_is_one_line_on_the_command_line(secure: SecureBroker, tmp_path: Path) -> None:
    config = tmp_path / "t.toml"
    lines = [f'{key} = "{value}"' for key, value in {**known(secure), "password": "close, sesame"}.items()]
    config.write_text("\n".join(['[journal]\nkind = "kafka"\n[kafka]', *lines, ""]), "utf-8")
    words = [sys.executable, "-m", "tickhouse", "work", "--house", str(tmp_path / "house"), "--config", str(config)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    told = done.stderr.splitlines()
    assert len(told) == 1, told
    assert told[0].startswith(f"tickhouse: Kafka at {secure.secure_servers} refuses: opening topic stock-ticks: ")
    assert "Authentication failed" in told[0]
    assert "sesame" not in done.stderr
