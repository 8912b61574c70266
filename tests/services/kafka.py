"""Apache Kafka as one KRaft node on the loopback, from its jars."""

from __future__ import annotations

import base64
import os
import socket
import struct
import subprocess
import uuid
from pathlib import Path

from tests.services.certificates import make_certificates
from tests.services.maven import fetch, java
from tests.services.server import START_S, Server, free_port

__all__ = ["Broker", "SecureBroker", "jars"]

_POM = Path(__file__).parent / "kafka-pom.xml"
_JVM = (
    *("-Xms96m", "-Xmx384m", "-XX:+UseSerialGC", "-Xshare:auto"),
    *("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Djava.net.preferIPv4Stack=true"),
)
# The short session lets a killed broker come back in four seconds instead of thirteen. One that cannot register itself in a
# minute, by default, ends: on a busy machine that is not enough. Topics keep everything, but where they say otherwise.
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
num.network.threads=2
num.io.threads=2
num.partitions=4
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=4194304
log.cleaner.threads=1
auto.create.topics.enable=false
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
initial.broker.registration.timeout.ms={registration_ms}
log.retention.ms=-1
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
"""
# Certificates are signed by an authority of the test's own; the client needs one, too.
_SECURE = """\
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SECURE://127.0.0.1:{secure}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SECURE://127.0.0.1:{secure}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
sasl.enabled.mechanisms=PLAIN
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
  user_{user}="{password}";
ssl.keystore.type=PEM
ssl.keystore.location={folder}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.pem
listener.name.secure.ssl.client.auth=required
"""


# The head of a batch of messages: its first offset, its size from there on, and the last offset in it, from the first on.
_BATCH, _SIZED = struct.Struct(">qi11xi"), 12


def jars() -> Path:
    """Return the folder with Kafka's jars, fetching them where they are not cached."""
    return fetch(_POM)


_REPLACED = ("listeners=", "advertised.listeners=", "listener.security.protocol.map=")


class Broker(Server):
    """A broker whose data lies in `folder`; the same folder started again is the same cluster, at the same address.

    Args:
        folder: Made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._properties = folder / "server.properties"
        self._data = folder / "data"
        self._java = [java(), *_JVM, "-cp", f"{jars()}/*"]
        if not self._properties.exists():
            self._format(folder)
        told = self._properties.read_text("utf-8").partition("listeners=PLAINTEXT://127.0.0.1:")[2]
        self._port = int(told.partition(",")[0])
        self.servers = f"127.0.0.1:{self._port}"
        """For `bootstrap.servers`."""
        super().__init__("kafka", [*self._java, "kafka.Kafka", str(self._properties)], folder, self._listens)

    def _format(self, folder: Path) -> None:
        self._properties.write_text(self._text(free_port(), free_port(), folder), "utf-8")
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        tool = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._properties)]
        subprocess.run([*self._java, *tool], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _text(self, port: int, controller: int, folder: Path) -> str:
        return _PROPERTIES.format(port=port, controller=controller, data=self._data, registration_ms=round(1e3 * START_S))

    def create_topic(self, name: str, partitions: int = 1, **config: str) -> None:
        """Make a topic and wait until it is there."""
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})
        admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(30)

    def lose(self, topic: str, partition: int, below: int) -> None:
        """Cut a partition of a broker that was killed, as a power cut does: batches that reach offset `below` are gone."""
        (segment,) = (self._data / f"{topic}-{partition}").glob("*.log")
        batches, end = segment.read_bytes(), 0
        while end < len(batches):
            base, size, last = _BATCH.unpack_from(batches, end)
            if base + last >= below:
                break
            end += _SIZED + size
        os.truncate(segment, end)

    def _listens(self) -> bool:
        with socket.create_connection(("127.0.0.1", self._port), 0.2):
            return True


class SecureBroker(Broker):
    """A broker with a second listener, which takes TLS, a certificate of the client's, and a name with a password.

    Args:
        folder: Holds the certificates, too: `ca.pem`, `client.pem` with `client.key`, and `other.pem` of another authority.
    """

    user, password = "house", "open, sesame"

    def __init__(self, folder: Path) -> None:
        self._secure = free_port()
        super().__init__(folder)
        self.secure_servers = f"127.0.0.1:{self._secure}"

    def _text(self, port: int, controller: int, folder: Path) -> str:
        make_certificates(folder)
        more = _SECURE.format(
            port=port, controller=controller, secure=self._secure, user=self.user, password=self.password, folder=folder
        )
        kept = [line for line in super()._text(port, controller, folder).splitlines() if not line.startswith(_REPLACED)]
        return "\n".join([*more.splitlines(), *kept, ""])

    def _listens(self) -> bool:
        with socket.create_connection(("127.0.0.1", self._secure), 0.2):
            return super()._listens()
