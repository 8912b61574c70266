"""A Kafka topic as a journal; confluent_kafka and fastavro are imported here only.

`journal.py` is the journal of a house over a `topic.py`; `appender.py` writes (under a `lease.py`), `reader.py` reads;
`messages.py` says what is on the topic, `forms.py` and `avro.py` how it is spelled, `decode.py` and `scan.py` read it back;
`publisher.py` is the sink of published tables; `client.py` the connection they share.
"""
