"""The ordered, durable log of what was received, in partitions. A house has one kind: SQLite, a recording, or Kafka."""
