"""Fetches the messages of a partition through librdkafka's own interface, without an object for each of them.

confluent_kafka makes a Python object of every message, which takes ten times as long as fetching it
(docs/decisions/0011-messages-without-objects.md). The library under it is the same, in the same process, with the same
settings: its functions are looked up in confluent_kafka's own module, so there is one librdkafka and one version of it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import confluent_kafka.cimpl
import numpy as np
from confluent_kafka import KafkaError
from llvmlite import ir
from numba import njit, types
from numba.core.cgutils import raw_memcpy
from numba.extending import intrinsic

from tickhouse.errors import ConfigError, FatalError
from tickhouse.journal.kafka.received import Received, empty_received
from tickhouse.model import I64
from tickhouse.scanning import PADDING

__all__ = ["Fetched", "Fetcher"]

_CONSUMER = 1
_TEXT_BYTES = 512
_FEW, _BYTES = 64, 16 << 20
"""A call brings about so many bytes at most, but so many messages at least; what waits stays in the library."""
# Of rd_kafka_message_t where a pointer has eight bytes: err, rkt, partition, payload, len, key, key_len, offset.
_ERROR, _PAYLOAD, _LENGTH, _OFFSET = 0, 24, 32, 56
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "rd_kafka_conf_new": (_POINTER, []),
    "rd_kafka_conf_set": (ctypes.c_int, [_POINTER, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, _SIZE]),
    "rd_kafka_conf_destroy": (None, [_POINTER]),
    "rd_kafka_new": (_POINTER, [ctypes.c_int, _POINTER, ctypes.c_char_p, _SIZE]),
    "rd_kafka_poll_set_consumer": (ctypes.c_int, [_POINTER]),
    "rd_kafka_queue_get_consumer": (_POINTER, [_POINTER]),
    "rd_kafka_queue_destroy": (None, [_POINTER]),
    "rd_kafka_topic_partition_list_new": (_POINTER, [ctypes.c_int]),
    "rd_kafka_topic_partition_list_add": (_POINTER, [_POINTER, ctypes.c_char_p, ctypes.c_int32]),
    "rd_kafka_topic_partition_list_set_offset": (
        ctypes.c_int,
        [_POINTER, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int64],
    ),
    "rd_kafka_topic_partition_list_destroy": (None, [_POINTER]),
    "rd_kafka_assign": (ctypes.c_int, [_POINTER, _POINTER]),
    "rd_kafka_consume_batch_queue": (ctypes.c_ssize_t, [_POINTER, ctypes.c_int, _POINTER, _SIZE]),
    "rd_kafka_get_watermark_offsets": (
        ctypes.c_int,
        [_POINTER, ctypes.c_char_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_int64)],
    ),
    "rd_kafka_consumer_close": (ctypes.c_int, [_POINTER]),
    "rd_kafka_destroy": (None, [_POINTER]),
    "rd_kafka_message_destroy": (None, [_POINTER]),
    "rd_kafka_message_timestamp": (ctypes.c_int64, [_POINTER, _POINTER]),
}


class Fetched(NamedTuple):
    """What one call brought."""

    messages: Received
    notices: list[tuple[KafkaError, int]]
    """What the library has to say instead of a message, with the offset it speaks of."""


class Fetcher:
    """One partition, from an offset on; used by one thread at a time.

    Args:
        config: As confluent_kafka's; no callbacks.
        topic: Whose partition.
        partition: Which one.
        start: The first offset wanted.
        most: Messages that one call brings at most.

    Raises:
        ConfigError: the library does not take a setting.
    """

    def __init__(self, config: Mapping[str, Any], topic: str, partition: int, start: int, most: int) -> None:
        self._library = _library()
        self._topic = topic.encode()
        self._partition = partition
        self._client = _client(self._library, config)
        self._library.rd_kafka_poll_set_consumer(self._client)
        self._queue = int(self._library.rd_kafka_queue_get_consumer(self._client))
        self._pointers = np.zeros(most, np.int64)
        self._most = most
        self.assign(start)

    def assign(self, start: int) -> None:
        """Go on from another offset; what was fetched ahead is dropped."""
        places = self._library.rd_kafka_topic_partition_list_new(1)
        self._library.rd_kafka_topic_partition_list_add(places, self._topic, self._partition)
        self._library.rd_kafka_topic_partition_list_set_offset(places, self._topic, self._partition, start)
        failed = self._library.rd_kafka_assign(self._client, places)
        self._library.rd_kafka_topic_partition_list_destroy(places)
        if failed:
            raise FatalError(f"Kafka's library does not read {self._topic.decode()}: {KafkaError(failed).str()}")

    def fetch(self, timeout_s: float) -> Fetched:
        """Return what has arrived, without waiting for more than the first message, and for that `timeout_s` at most."""
        consume, at, most = self._library.rd_kafka_consume_batch_queue, self._pointers.ctypes.data, self._most
        count = consume(self._queue, 0, at, most)
        if not count:
            count = consume(self._queue, int(1e3 * timeout_s), at, 1)
            if count == 1:
                count += consume(self._queue, 0, at + 8, most - 1)
        if count <= 0:
            return _NOTHING
        fetched = self._taken(self._pointers[:count])
        size = len(fetched.messages.buffer) // count
        self._most = min(len(self._pointers), max(_FEW, _BYTES // size))
        return fetched

    def high(self) -> int:
        """Return where the partition ends, as far as the last answer of the broker told; negative = none has come."""
        low, high = ctypes.c_int64(-1), ctypes.c_int64(-1)
        places = (ctypes.byref(low), ctypes.byref(high))
        failed = self._library.rd_kafka_get_watermark_offsets(self._client, self._topic, self._partition, *places)
        return -1 if failed else high.value

    def close(self) -> None:
        """Release the connection."""
        if self._client:
            self._library.rd_kafka_queue_destroy(self._queue)
            self._library.rd_kafka_consumer_close(self._client)
            self._library.rd_kafka_destroy(self._client)
            self._client = self._queue = 0

    def _taken(self, pointers: I64) -> Fetched:
        """Copy messages out of the library's memory, and give that back."""
        count, address = len(pointers), pointers.ctypes.data
        buffer = np.empty(_bytes(address, count) + count + PADDING, np.uint8)
        buffer[-PADDING:] = 10
        columns = [np.empty(count, np.int64) for _ in range(5)]
        begins, ends, offsets, times, codes = columns
        destroy, timestamp = _addresses()
        _copy(address, count, buffer.ctypes.data, begins, ends, offsets, times, codes, destroy, timestamp)
        messages = Received(buffer, begins, ends, offsets, times)
        if not codes.any():
            return Fetched(messages, [])
        told = np.flatnonzero(codes).tolist()
        notices = [
            (KafkaError(int(codes[i]), (messages.value(i) or b"").decode("utf-8", "replace")), int(offsets[i])) for i in told
        ]
        return Fetched(messages.select(codes == 0), notices)


_NOTHING = Fetched(empty_received(), [])


@cache
def _library() -> ctypes.CDLL:
    """Return confluent_kafka's compiled module; a name that it lacks is looked up in the libraries it was linked with."""
    library = ctypes.CDLL(confluent_kafka.cimpl.__file__)
    if ctypes.sizeof(_POINTER) != 8:
        raise FatalError("reading Kafka needs a machine of 64 bits")
    try:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        told = f"confluent_kafka {confluent_kafka.__version__} does not show the library under it ({error})"
        raise FatalError(f"{told}: install the one that is published for this system") from error
    return library


@cache
def _addresses() -> tuple[int, int]:
    """Return where the two functions are that compiled code calls for each message."""
    functions = (_library().rd_kafka_message_destroy, _library().rd_kafka_message_timestamp)
    destroy, timestamp = (ctypes.cast(function, _POINTER).value or 0 for function in functions)
    return destroy, timestamp


def _client(library: ctypes.CDLL, config: Mapping[str, Any]) -> int:
    text = ctypes.create_string_buffer(_TEXT_BYTES)
    settings = library.rd_kafka_conf_new()
    for name, value in config.items():
        spelled = str(value).lower() if isinstance(value, bool) else str(value)
        if library.rd_kafka_conf_set(settings, name.encode(), spelled.encode(), text, _TEXT_BYTES):
            library.rd_kafka_conf_destroy(settings)
            raise ConfigError(f"Kafka's library does not take {name}: {text.value.decode()}; see the settings of [kafka]")
    client = library.rd_kafka_new(_CONSUMER, settings, text, _TEXT_BYTES)
    if not client:
        library.rd_kafka_conf_destroy(settings)
        raise ConfigError(f"Kafka's library does not start: {text.value.decode()}; see the settings of [kafka]")
    return int(client)


@intrinsic  # type: ignore[untyped-decorator]
def _load(_typing: Any, address: Any) -> Any:  # noqa: ARG001 - its type is declared
    """Return the eight bytes at an address."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _move(_typing: Any, to: Any, at: Any, size: Any) -> Any:  # noqa: ARG001 - their types are declared
    """Copy `size` bytes from one address to another."""

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        raw_memcpy(builder, builder.inttoptr(args[0], pointer), builder.inttoptr(args[1], pointer), args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _put(_typing: Any, address: Any, value: Any) -> Any:  # noqa: ARG001 - their types are declared
    """Store one byte at an address."""

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        octet = ir.IntType(8)
        builder.store(builder.trunc(args[1], octet), builder.inttoptr(args[0], octet.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _call(_typing: Any, function: Any, first: Any, second: Any) -> Any:  # noqa: ARG001 - their types are declared
    """Return what the C function at an address makes of two words; one that takes less does not look at the second."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word, word])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1], args[2]])

    return types.int64(types.int64, types.int64, types.int64), generate


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _bytes(pointers: Any, count: Any) -> Any:
    """Return how many bytes messages have together."""
    size = 0
    for i in range(count):
        size += _load(_load(pointers + 8 * i) + _LENGTH)
    return size


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _copy(
    pointers: Any,
    count: Any,
    to: Any,
    begins: Any,
    ends: Any,
    offsets: Any,
    times: Any,
    codes: Any,
    destroy: Any,
    timestamp: Any,
) -> Any:
    """Copy messages one after the other, each followed by a newline, and destroy them."""
    at = 0
    kind = np.zeros(1, np.int64)
    for i in range(count):
        message = _load(pointers + 8 * i)
        payload, size = _load(message + _PAYLOAD), _load(message + _LENGTH)
        begins[i] = at
        if payload != 0:
            _move(to + at, payload, size)
            at += size
            ends[i] = at
        else:
            ends[i] = -1
        _put(to + at, 10)
        at += 1
        offsets[i] = _load(message + _OFFSET)
        times[i] = 1_000 * _call(timestamp, message, kind.ctypes.data)
        codes[i] = np.int32(_load(message + _ERROR))
        _call(destroy, message, 0)
