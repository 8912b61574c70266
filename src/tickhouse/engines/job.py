"""What is to be done, in plain values that can be sent to any machine: the job of a house, and ranges of its topic.

Processes that only plan load nothing more than this; those that work the ranges off load `ranges.py`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from tickhouse.errors import SchemaMismatchError
from tickhouse.journal.kafka.client import TopicIdentity
from tickhouse.rules import Rules
from tickhouse.settings import KafkaSettings

if TYPE_CHECKING:  # what reads topics is loaded by those that do
    from tickhouse.journal.kafka.topic import KafkaTopic

__all__ = ["Job", "Range"]


class Range(msgspec.Struct, frozen=True):
    """Messages of one partition: those with `start` <= offset < `end`."""

    partition: int
    start: int
    end: int
    keep: bool = False
    """The state that it ends with is wanted beside Spark, too: by those who follow the house."""


class Job(msgspec.Struct, frozen=True):
    """What every process that works for a house has to know; plain values, so that it can be sent anywhere."""

    run: str
    """Names one run of the engine: what a process keeps of partitions is of use in that run only."""
    house: str
    """The id of the house."""
    topic: TopicIdentity
    kafka: str
    """The settings of [kafka] as JSON, with what they keep secret."""
    rules: Rules
    lake: str
    """The lake's folder, the same path on every machine."""
    begin: tuple[int, ...]
    """By partition: the offset at which the house begins, where there is no state yet."""
    makes_beats: bool | None
    """Whether heartbeats are made from record times (rule R3); None = the topic is still empty."""

    @property
    def key(self) -> str:
        """Names the job: the same for equal jobs."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]

    def open_topic(self) -> KafkaTopic:
        """Return the topic, which must be the house's.

        Raises:
            SchemaMismatchError: it is another one by now.
        """
        from tickhouse.journal.kafka.topic import KafkaTopic

        topic = KafkaTopic.open(KafkaSettings.model_validate_json(self.kafka))
        if topic.identity != self.topic:
            topic.close()
            raise SchemaMismatchError(
                f"topic {self.topic.topic} is not the one that this house reads any more (it has id {topic.identity.topic_id} "
                f"and {topic.identity.partitions} partitions, not {self.topic.topic_id} and {self.topic.partitions}): "
                "begin a new house for the new topic"
            )
        return topic
