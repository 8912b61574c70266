"""Reads a text file, plain or compressed, as chunks of whole lines.

The lowest step of `files.py`. A compressed file that was cut short gives every line up to the cut.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

__all__ = ["CHUNK_BYTES", "TextFile"]

CHUNK_BYTES = 1 << 22
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"
_PIECE_BYTES = 1 << 17


class TextFile:
    """One pass over a file's lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.bytes_read = 0
        """Of the file as it lies on disk."""
        self.torn = False
        """The compressed data ended early or is damaged; known once `chunks` has ended."""

    def chunks(self, size: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the text in pieces of about `size` bytes that end with a newline; only the last one may lack it."""
        with self._path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            if magic.startswith(_GZIP):
                pieces = self._decompressed(file, lambda: zlib.decompressobj(wbits=31))
            elif magic == _ZSTD:
                pieces = self._decompressed(file, lambda: zstandard.ZstdDecompressor().decompressobj())
            else:
                pieces = self._plain(file, size)
            yield from _whole_lines(pieces, size)

    def _plain(self, file: BinaryIO, size: int) -> Iterator[bytes]:
        while piece := file.read(size):
            self.bytes_read += len(piece)
            yield piece

    def _decompressed(self, file: BinaryIO, begin: Any) -> Iterator[bytes]:
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


def _whole_lines(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    held: list[bytes] = []
    length, wanted = 0, size
    first = True
    for given in pieces:
        piece = given
        if first and piece:
            piece, first = piece.removeprefix(_BOM), False
        held.append(piece)
        length += len(piece)
        if length < wanted:
            continue
        cut = piece.rfind(b"\n") + 1
        if cut:
            whole = piece[:cut] if len(held) == 1 else b"".join([*held[:-1], piece[:cut]])
            held = [piece[cut:]] if cut < len(piece) else []
        else:
            whole = b"".join(held)
            cut = whole.rfind(b"\n") + 1
            if not cut:
                # No newline so far: one long line. Joining only when the held bytes have doubled keeps this linear.
                held, wanted = [whole], 2 * length
                continue
            held = [whole[cut:]]
            whole = whole[:cut]
        length, wanted = sum(map(len, held)), size
        yield whole
    if rest := b"".join(held):
        yield rest
