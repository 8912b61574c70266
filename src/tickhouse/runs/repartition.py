"""`tickhouse repartition`: a topic -> another topic with another number of partitions, for a new house."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from tickhouse.errors import ConfigError
from tickhouse.house import House
from tickhouse.house.journals import open_appender
from tickhouse.journal.kafka.journal import KafkaJournal
from tickhouse.journal.kafka.merged import MergedTopic
from tickhouse.journal.kafka.topic import KafkaTopic
from tickhouse.journal.transfer import transfer
from tickhouse.settings import Settings

__all__ = ["repartition"]


def repartition(
    house: House,
    settings: Settings,
    origin: str,
    stop: threading.Event,
    progress: Callable[[float, float], None] | None = None,
) -> dict[str, Any]:
    """Fill the topic of [kafka] from another one of the same brokers; return what was done.

    Each record keeps its clock, so the tables of a house over either topic are the same. Interrupted or killed, the same call
    goes on. Nobody may write to the old topic meanwhile: what comes later is not taken.

    Args:
        house: The new house, of the new topic.
        settings: All of them; [kafka] names the new topic and its partitions.
        origin: The name of the old topic.
        stop: Set = end in good order.
        progress: Called with (messages read, messages in all), now and then.

    Raises:
        ConfigError: there is no such topic, or it is the new one.
        LogCorruptError: retention has deleted the beginning of the old topic.
    """
    if origin == settings.kafka.topic:
        raise ConfigError(f"{origin} is the topic to fill: name another one in [kafka] topic, with the partitions you want")
    with ExitStack() as stack:
        stack.enter_context(house.appending("kafka"))
        old = KafkaTopic.open(settings.kafka.model_copy(update={"topic": origin}), stop, make=False)
        stack.callback(old.close)
        journal = KafkaJournal.create_or_open(house.journal_path, settings.kafka, old.rules(), stop)
        stack.callback(journal.close)
        transfer(MergedTopic(old), open_appender(house, journal), stop, progress)
        return {"journal": journal.check(), "partitions": {origin: old.partitions, settings.kafka.topic: journal.partitions}}
