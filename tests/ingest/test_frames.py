"""Recording of frames: the bytes as they came, in the journal's order, readable also where the file was cut."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

from tickhouse.clock import ManualClock
from tickhouse.errors import ConfigError
from tickhouse.ingest import IngestCore
from tickhouse.journal.frames import FrameRecorder
from tickhouse.journal.sqlite import SqliteJournal
from tickhouse.model import HEARTBEAT_US, NO_TIME, Event
from tickhouse.rules import Rules
from tickhouse.sources.base import Frame, Parsed

START = 1_700_000_000_000_000


class Mute:
    """A source that ignores everything."""

    def __init__(self, name: str) -> None:
        self.name = name

    def parse(self, payload: bytes, received_at: int) -> Parsed:
        return Parsed(ignored=1)


def unpacked(data: bytes, suffix: str) -> bytes:
    """Return what can be read of a file, whole or cut."""
    if suffix == ".gz":
        return zlib.decompressobj(31).decompress(data)
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()


def lines(recorder: FrameRecorder) -> list[tuple[int, bytes]]:
    recorder.close()
    (path,) = recorder.path.parent.iterdir()
    split = (line.partition(b" ") for line in unpacked(path.read_bytes(), path.suffix).split(b"\n")[:-1])
    return [(int(ns), rest) for ns, _, rest in split]


def test_lines_stand_in_the_order_of_the_journal(tmp_path):
    clock = ManualClock(START)
    recorder = FrameRecorder(tmp_path / "frames")
    journal = SqliteJournal.create_or_open(tmp_path / "house", Rules())
    with closing(journal), closing(journal.appender()) as appender:
        core = IngestCore(appender, clock, NO_TIME, recorder)
        core.event(Event(event="connected", source="a", detail={"url": "x"}))
        core.frame(Mute("a"), Frame(b'{"x": 1}', START + 1))
        core.frame(Mute("a"), Frame(b"second", START + 2))
        clock.advance(HEARTBEAT_US)
        core.frame(Mute("b"), Frame("é".encode(), START + 3))
        core.frame(Mute("a"), Frame(b"[]", START + 4))
    found = lines(recorder)
    assert found == [
        (START * 1000, b'{"tickhouse":{"heartbeat":%d}}' % START),
        (START * 1000, b'{"tickhouse":{"event":{"event":"connected","source":"a","detail":{"url":"x"}}}}'),
        ((START + 1) * 1000, b'{"tickhouse":{"source":"a"}}'),
        ((START + 1) * 1000, b'{"x": 1}'),
        ((START + 2) * 1000, b"second"),
        ((START + HEARTBEAT_US) * 1000, b'{"tickhouse":{"heartbeat":%d}}' % (START + HEARTBEAT_US)),
        ((START + 3) * 1000, b'{"tickhouse":{"source":"b"}}'),
        ((START + 3) * 1000, "é".encode()),
        ((START + 4) * 1000, b'{"tickhouse":{"source":"a"}}'),
        ((START + 4) * 1000, b"[]"),
    ]


@pytest.mark.parametrize("payload", [b"two\nlines", b"\xff\xfe", b"", b" padded ", b"cr\r", b'{"tickhouse":{"heartbeat":1}}'])
def test_frame_that_is_no_plain_line_is_kept_to_the_byte(tmp_path, payload):
    recorder = FrameRecorder(tmp_path)
    recorder.frame("a", payload, START)
    _, (_, text) = lines(recorder)
    assert base64.b64decode(json.loads(text)["tickhouse"]["frame_b64"]) == payload


@pytest.mark.parametrize("compression", ["zst", "gz"])
def test_cut_file_is_readable_up_to_the_last_flush_before_the_cut(tmp_path, compression):
    recorder = FrameRecorder(tmp_path, compression)
    flushed = []
    for second in range(20):
        recorder.heartbeat(START + second * 1_000_000)
        flushed.append((recorder.path.stat().st_size, second + 1))
        for i in range(50):
            recorder.frame("a", b"frame %d %d" % (second, i * i), START + second * 1_000_000 + i)
    data = recorder.path.read_bytes()
    recorder.close()
    whole = unpacked(recorder.path.read_bytes(), recorder.path.suffix)
    assert whole.count(b"\n") == 20 + 1 + 20 * 50
    for cut in range(100, len(data), 97):
        part = unpacked(data[:cut], recorder.path.suffix)
        assert whole.startswith(part)
        assert part.count(b"heartbeat") >= max((count for size, count in flushed if size <= cut), default=0)
    if compression == "gz":
        assert gzip.decompress(recorder.path.read_bytes()) == whole


def test_each_start_and_each_day_has_a_file_that_names_its_source(tmp_path):
    for _ in range(2):
        with FrameRecorder(tmp_path) as recorder:
            recorder.frame("a", b"1", START)
    with FrameRecorder(tmp_path) as recorder:
        recorder.frame("a", b"1", START)
        recorder.frame("a", b"2", START + 86_400_000_000)
    names = sorted(path.name for path in tmp_path.iterdir())
    stamp = "frames-20231114T221320"
    assert names == sorted(
        [f"{stamp}.ndjson.zst", f"{stamp}-2.ndjson.zst", f"{stamp}-3.ndjson.zst", "frames-20231115T221320.ndjson.zst"]
    )
    for path in tmp_path.iterdir():
        assert unpacked(path.read_bytes(), ".zst").split(b"\n")[0].endswith(b'{"tickhouse":{"source":"a"}}')


def test_folder_that_cannot_be_made_is_a_setting_to_correct(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="name a folder"):
        FrameRecorder(tmp_path / "file" / "frames")
