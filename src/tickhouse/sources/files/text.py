"""Reads a text file, plain or compressed, as chunks of whole lines.

The lowest step of `sources/files`. A compressed file that was cut short gives every line up to the cut.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard

from tickhouse.scanning import PADDING

__all__ = ["CHUNK_BYTES", "Chunk", "TextFile"]

CHUNK_BYTES = 1 << 22
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"
_PIECE_BYTES = 1 << 17
_NEWLINE = 10

Piece = bytes | memoryview


class Chunk(NamedTuple):
    """Whole lines, each of which ends with a newline; there until the next chunk is asked for."""

    memory: npt.NDArray[np.uint8]
    """The lines, and at least `PADDING` bytes more."""
    size: int
    """Bytes of the lines."""

    @classmethod
    def of(cls, text: bytes) -> Chunk:
        """Return lines as a chunk; the last one may lack its newline."""
        ended = text if not text or text.endswith(b"\n") else text + b"\n"
        return cls(np.frombuffer(ended + bytes(PADDING), np.uint8), len(ended))

    def text(self, begin: int = 0, end: int | None = None) -> bytes:
        """Return the bytes from `begin` to `end`."""
        return self.memory[begin : self.size if end is None else end].tobytes()


class TextFile:
    """One pass over a file's lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.bytes_read = 0
        """Of the file as it lies on disk."""
        self.torn = False
        """The compressed data ended early or is damaged; known once `chunks` has ended."""

    def chunks(self, size: int = CHUNK_BYTES) -> Iterator[Chunk]:
        """Yield the text in chunks of about `size` bytes."""
        with self._path.open("rb", buffering=0) as file:
            magic = file.read(4)
            file.seek(0)
            if magic.startswith(_GZIP):
                pieces = self._decompressed(file, lambda: zlib.decompressobj(wbits=31))
            elif magic == _ZSTD:
                pieces = self._decompressed(file, lambda: zstandard.ZstdDecompressor().decompressobj())
            else:
                pieces = self._plain(file)
            yield from _whole_lines(pieces, size)

    def _plain(self, file: RawIOBase) -> Iterator[Piece]:
        piece = memoryview(bytearray(_PIECE_BYTES))
        while count := file.readinto(piece):
            self.bytes_read += count
            yield piece[:count]

    def _decompressed(self, file: RawIOBase, begin: Any) -> Iterator[Piece]:
        member = begin()
        fed = False
        while piece := file.read(_PIECE_BYTES):
            self.bytes_read += len(piece)
            while piece:
                try:
                    yield member.decompress(piece)
                except (zlib.error, zstandard.ZstdError):
                    self.torn = True
                    return
                fed = not member.eof
                piece = member.unused_data if member.eof else b""
                if member.eof:
                    member = begin()
        self.torn = fed


def _whole_lines(pieces: Iterator[Piece], size: int) -> Iterator[Chunk]:
    held = bytearray(size + _PIECE_BYTES + 1 + PADDING)
    filled, wanted = 0, size
    first = True
    for given in pieces:
        piece = given
        if first and len(piece):
            piece, first = piece[len(_BOM) :] if piece[: len(_BOM)] == _BOM else piece, False
        while filled + len(piece) + 1 + PADDING > len(held):
            held = held.ljust(2 * len(held))
        held[filled : filled + len(piece)] = piece
        filled += len(piece)
        if filled < wanted:
            continue
        cut = held.rfind(b"\n", 0, filled) + 1
        if not cut:  # one long line: to look again only when what is held has doubled keeps this linear
            wanted = 2 * filled
            continue
        yield Chunk(np.frombuffer(held, np.uint8), cut)
        rest = held[cut:filled]
        held[: len(rest)] = rest
        filled, wanted = len(rest), size
    if filled:
        if held[filled - 1] != _NEWLINE:
            held[filled] = _NEWLINE
            filled += 1
        yield Chunk(np.frombuffer(held, np.uint8), filled)
