"""Digests of tables: two runs are the same when each table has the same digest.

`verify`, the parity tests and the benches compare tables with it, whatever store, engine or layout they come from. A digest
says which rows a table holds as a multiset, without the cause columns: independent of files, partitions, order of rows and
dictionary coding; floats count by their bits (-0.0 is not 0.0), null is no value.

Each row is hashed to 128 bits and the hashes are added modulo 2^128, so rows need no sorting and pieces can be digested apart:
O(rows), constant memory. The mixing is written out here (splitmix64 over 64-bit words, BLAKE2b for texts and for the columns'
keys), so that no library's version or machine's word order changes a digest. It finds errors, not forgers: who may choose rows
freely can construct a collision of sums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickhouse.errors import SchemaMismatchError
from tickhouse.tables import Table

__all__ = ["DigestBuilder", "row_hashes", "table_digest"]

U64 = npt.NDArray[np.uint64]

_BATCH_ROWS = 32_768
_MODULUS = 1 << 128
_LOW_32 = np.uint64(0xFFFFFFFF)
_GOLDEN, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)
_KNOWN_TEXTS = 1 << 16


class DigestBuilder:
    """Takes a table piece by piece, in any order, and gives its digest at any time."""

    def __init__(self, spec: Table) -> None:
        self._spec = spec
        self._total = 0
        self.rows = 0

    def update(self, table: pa.Table) -> None:
        """Add rows; the cause columns may be absent.

        Raises:
            SchemaMismatchError: a column of the table's specification is missing or of another type.
        """
        for low, high in _hashes(table, self._spec):
            self.add(low, high)

    def add(self, low: U64, high: U64) -> None:
        """Add rows by the two halves of their hashes, as `row_hashes` gives them."""
        self._total = (self._total + _sum(low) + (_sum(high) << 64)) % _MODULUS
        self.rows += len(low)

    def hexdigest(self) -> str:
        """Return the SHA-256 over the table's name, the number of rows and their sum, as 64 hexadecimal digits."""
        return hashlib.sha256(f"{self._spec.name}\n{self.rows}\n{self._total:032x}".encode()).hexdigest()


def table_digest(table: pa.Table, spec: Table) -> str:
    """Return the digest of all rows of `table`; a table without rows has one too.

    Raises:
        SchemaMismatchError: a column of the table's specification is missing or of another type.
    """
    builder = DigestBuilder(spec)
    builder.update(table)
    return builder.hexdigest()


def row_hashes(table: pa.Table, spec: Table) -> tuple[U64, U64]:
    """Return the low and the high half of each row's hash, in the order of the rows.

    Raises:
        SchemaMismatchError: a column of the table's specification is missing or of another type.
    """
    pieces = list(_hashes(table, spec))
    if not pieces:
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    return np.concatenate([low for low, _ in pieces]), np.concatenate([high for _, high in pieces])


def _hashes(table: pa.Table, spec: Table) -> Iterable[tuple[U64, U64]]:
    missing = [name for name in spec.values if name not in table.column_names]
    if missing:
        raise SchemaMismatchError(
            f"{spec.name} has no column {', '.join(missing)}: it was written by another version of Tickhouse"
        )
    columns = [_Column(spec.name, spec.schema.field(name)) for name in spec.values]
    for batch in table.select(spec.values).to_batches(max_chunksize=_BATCH_ROWS):
        low, high = np.full(batch.num_rows, 1, np.uint64), np.full(batch.num_rows, 2, np.uint64)
        for column, values in zip(columns, batch.columns, strict=True):
            cell_low, cell_high = column.cells(values)
            low = _mix(low ^ cell_low)
            high = _mix(high ^ cell_high)
        yield low, high


class _Column:
    """Hashes the cells of one column to two words each; the words of null are the column's own."""

    def __init__(self, table: str, field: pa.Field) -> None:
        self._where = f"{table}.{field.name}"
        self._type = field.type
        self._is_text = pa.types.is_string(field.type) or pa.types.is_binary(field.type)
        words = np.frombuffer(hashlib.blake2b(field.name.encode(), digest_size=32).digest(), "<u8").astype(np.uint64)
        self._key_low, self._key_high, self._null_low, self._null_high = words
        self._texts: dict[bytes, tuple[int, int]] = {}

    def cells(self, values: pa.Array) -> tuple[U64, U64]:
        try:
            low, high = self._text_words(values) if self._is_text else self._number_words(values)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise SchemaMismatchError(f"{self._where} holds {values.type}, not {self._type}: {error}") from error
        low, high = _mix(low ^ self._key_low), _mix(high ^ self._key_high)
        if values.null_count or pa.types.is_dictionary(values.type):
            # A coded value is also null where the dictionary's own entry is.
            null = values.is_null(nan_is_null=False).to_numpy(zero_copy_only=False)
            if pa.types.is_dictionary(values.type) and values.dictionary.null_count:
                null = pc.is_null(values.dictionary_decode()).to_numpy(zero_copy_only=False)
            low[null], high[null] = self._null_low, self._null_high
        return low, high

    def _number_words(self, values: pa.Array) -> tuple[U64, U64]:
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if values.type != self._type:
            values = values.cast(self._type)
        if pa.types.is_boolean(self._type):
            values = values.cast(pa.uint8())
        elif pa.types.is_timestamp(self._type):
            values = values.view(pa.int64())
        if values.null_count:
            values = values.fill_null(0)
        array: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
        words = array.view(np.uint64) if array.dtype == np.float64 else array.astype(np.int64).view(np.uint64)
        return words, words

    def _text_words(self, values: pa.Array) -> tuple[U64, U64]:
        if not pa.types.is_dictionary(values.type):
            values = values.cast(self._type).dictionary_encode()
        if not len(values.dictionary):
            zeros = np.zeros(len(values), np.uint64)
            return zeros, zeros
        texts = values.dictionary.cast(self._type).cast(pa.binary()).to_pylist()
        pairs = np.array([self._text(text or b"") for text in texts], np.uint64)
        codes = values.indices.fill_null(0).to_numpy(zero_copy_only=False)
        return pairs[codes, 0], pairs[codes, 1]

    def _text(self, text: bytes) -> tuple[int, int]:
        words = self._texts.get(text)
        if words is None:
            digest = hashlib.blake2b(text, digest_size=16).digest()
            words = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
            if len(self._texts) < _KNOWN_TEXTS:
                self._texts[text] = words
        return words


def _mix(words: U64) -> U64:
    """Splitmix64's finaliser (Steele, Lea, Flood 2014): a bijection of 64-bit words."""
    mixed = words + _GOLDEN
    mixed ^= mixed >> _S30
    mixed *= _MIX_1
    mixed ^= mixed >> _S27
    mixed *= _MIX_2
    mixed ^= mixed >> _S31
    return mixed


def _sum(words: U64) -> int:
    """Return the exact sum of 64-bit words; numpy's own would drop the carries."""
    return int((words & _LOW_32).sum()) + (int((words >> _S32).sum()) << 32)
