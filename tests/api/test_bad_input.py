"""Whatever a client sends: a clear 4xx in one shape, or a close with a reason; never anything outside the house."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import websockets

from tests.api.live import Served
from tickhouse.settings import ServeSettings

HUGE = 10**12


def cursor(value: object) -> str:
    """Return something in the form of a cursor."""
    return quote(base64.urlsafe_b64encode(json.dumps(value).encode()).decode())


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("bars?symbol=NOPE", 404, "unknown symbol 'NOPE'; did you mean"),
        ("bars?symbol=BTC-USDT&venue=MARS", 404, "not known at venue 'MARS'"),
        ("bars?symbol=BTC-USDT&interval=7m", 422, "no bars of '7m'; it has 1m, 5m"),
        ("bars?symbol=BTC-USDT&interval=' OR 1=1", 422, "no bars of"),
        ("bars?symbol=BTC-USDT&start=2026-02-01&end=2026-01-01", 422, "start: it lies after end"),
        ("bars?symbol=BTC-USDT&start=noon", 422, "start: 'noon' is no time"),
        ("bars?symbol=BTC-USDT&start=2026-13-45", 422, "is no time"),
        (f"bars?symbol=BTC-USDT&start={HUGE**3}", 422, "is no time"),
        ("bars?symbol=BTC-USDT&as_of=-99999999999999999", 422, "is no time"),
        ("bars?symbol=BTC-USDT&limit=0", 422, "greater than or equal to 1"),
        ("bars?symbol=BTC-USDT&limit=-1", 422, "greater than or equal to 1"),
        (f"bars?symbol=BTC-USDT&limit={HUGE}", 422, "less than or equal to"),
        ("bars?symbol=BTC-USDT&limit=many", 422, "valid integer"),
        ("bars", 422, "query.symbol"),
        ("bars?symbol=/", 422, "names no symbol"),
        ("bars?symbol=" + "x" * 200, 422, "at most 100 characters"),
        ("trades?symbol=BTC-USDT'; DROP TABLE silver.trades; --", 404, "unknown symbol"),
        ("trades?symbol=" + quote("\x00"), 404, "unknown symbol"),
        ("trades?symbol=BTC-USDT&cursor=AAAA", 422, "cursor"),
        ("trades?symbol=BTC-USDT&cursor=W10%3D", 422, "cursor"),
        ("trades?symbol=BTC-USDT&cursor=" + cursor([9, ["a", "b", "c", "d", "e"]]), 422, "cursor"),
        ("trades?symbol=BTC-USDT&cursor=" + cursor([9, [1]]), 422, "cursor"),
        ("trades?symbol=BTC-USDT&cursor=" + cursor([2**70, [1, "x", 1, 1, 1]]), 422, "cursor"),
        ("indicators?symbol=BTC-USDT&indicator=smaa(20)", 422, "did you mean sma"),
        ("nothing-here", 404, "Not Found"),
        ("bars?symbol=BTC-USDT&x=" + "y" * 20_000, 414, "bytes"),
    ],
)
def test_a_request_that_means_nothing_is_refused_with_a_reason(served: Served, path: str, status: int, says: str) -> None:
    answer = served.get("/v1/" + quote(path, safe="/?&=%"))
    assert answer.status == status, answer.body[:300]
    problem = answer.json
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert says in problem["detail"]
    assert problem["title"]


def test_an_address_of_a_megabyte_is_refused(served: Served) -> None:
    assert served.get("/v1/bars?symbol=" + "y" * 1_000_000).status in (400, 414)
    assert served.get("/v1/health").status == 200


def test_a_huge_range_is_one_page(served: Served) -> None:
    assert len(served.rows("/v1/trades?symbol=BTC-USDT&start=0001-01-01&end=9999-12-31&limit=10")) == 10


def test_a_form_that_cannot_be_given_is_refused(served: Served) -> None:
    answer = served.get("/v1/symbols", {"Accept": "image/png"})
    assert answer.status == 406
    assert "text/csv" in answer.json["detail"]


def test_a_body_that_is_too_large_is_refused(served: Served) -> None:
    answer = served.post("/v1/sql", {"sql": "SELECT '" + "x" * 200_000 + "'"})
    assert answer.status == 413
    assert answer.json["status"] == 413


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE silver.trades",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('{house}/journal.db')",
        "SELECT * FROM read_text('{house}/tokens.json')",
        "SELECT * FROM read_text('{house}/lake/../house.json')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM read_json('http://127.0.0.1:1/x')",
        "ATTACH '{house}/journal.db' AS j (TYPE sqlite)",
        "COPY (SELECT 1) TO '/tmp/stolen.csv'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA database_list",
        "SET enable_external_access = true",
        "CALL pragma_version()",
        "EXPORT DATABASE '/tmp/x'",
        "SELECT getenv('HOME')",
        "SELECT 1; SELECT 2",
        "WITH x AS (INSERT INTO silver.trades VALUES (1)) SELECT 1",
        "",
        "   ",
        "SELECT * FROM silver.nothing",
        "SELECT repeat('x', 10000000) FROM range(1000)",
        "SELECT * FROM read_parquet('http://127.0.0.1:1/x.parquet')",
        "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
        "DETACH memory",
        "CREATE MACRO f(x) AS x",
        "SELECT * FROM query('COPY (SELECT 1) TO ''/tmp/stolen.csv''')",
    ],
)
def test_sql_reads_the_tables_and_nothing_else(served: Served, stored: Path, sql: str) -> None:
    answer = served.post("/v1/sql", {"sql": sql.replace("{house}", str(stored))})
    assert answer.status == 422, (sql, answer.body[:300])
    assert answer.json["detail"]
    assert not Path("/tmp/stolen.csv").exists()


@pytest.fixture(scope="module")
def impatient(stored: Path) -> Iterator[Served]:
    """A server that gives a question three seconds."""
    with Served(stored, ServeSettings(port=0, sql_timeout_s=3.0)) as server:
        server.until_reached(1)
        yield server


def test_sql_is_bounded_in_rows_and_time(stored: Path) -> None:
    with Served(stored, ServeSettings(port=0, sql_timeout_s=0.5)) as server:
        server.until_reached(1)
        rows = server.post("/v1/sql", {"sql": "SELECT * FROM range(1000000000)", "limit": 5}).json["rows"]
        assert [row["range"] for row in rows] == [0, 1, 2, 3, 4]
        slow = server.post("/v1/sql", {"sql": "SELECT count(*) FROM range(10000000000) a, range(1000) b WHERE a.range % 7 = 1"})
        assert slow.status == 422
        assert "longer than 0.5 s" in slow.json["detail"]
        assert server.post("/v1/sql", {"sql": "SELECT 1", "limit": HUGE}).status == 422
        assert server.post("/v1/sql", {"sql": "SELECT 1", "more": 1}).status == 422
        assert server.post("/v1/sql", ["SELECT 1"]).status == 422


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
        "WITH RECURSIVE t(n) AS (SELECT repeat('x', 1000) UNION ALL SELECT n || n FROM t) SELECT max(length(n)) FROM t",
        "SELECT count(*) FROM generate_series(1, 1000000000000)",
        "SELECT list(i) FROM generate_series(1, 1000000000000) t(i)",
        "SELECT list(a.price) FROM silver.trades a, silver.trades b, silver.trades c",
        "SELECT * FROM silver.trades a, silver.trades b, silver.trades c ORDER BY random()",
        "SELECT range(1000000000)",
        "SELECT sum(x) FROM (SELECT unnest(range(1000000000)) x)",
        "SELECT repeat('x', 4000000000)",
        "SELECT " + "(" * 9_000 + "1" + ")" * 9_000,
        "SELECT " + "abs(" * 3_000 + "1" + ")" * 3_000,
        "SELECT * FROM " + "(SELECT * FROM " * 1_000 + "silver.trades" + ")" * 1_000,
    ],
    ids=lambda sql: sql[:40],
)
def test_sql_that_would_eat_the_machine_is_stopped_and_the_house_goes_on(impatient: Served, sql: str) -> None:
    before = _most_memory_kb()
    answer = impatient.post("/v1/sql", {"sql": sql})
    assert answer.status == 422, answer.body[:300]
    assert answer.json["detail"]
    assert impatient.get("/v1/health").status == 200
    answer = impatient.post("/v1/sql", {"sql": "SELECT 1 AS one"})
    assert answer.json.get("rows") == [{"one": 1}], answer.body[:300]
    assert _most_memory_kb() - before < 500_000, "what serves is not what answers"


def _most_memory_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def ask(server: Served, *frames: str | bytes, answers: int) -> list[dict[str, object]]:
    """Send frames; return so many answers."""
    async with websockets.connect(server.url.replace("http", "ws") + "/v1/stream", max_size=None) as connection:
        for frame in frames:
            await connection.send(frame)
        return [json.loads(await asyncio.wait_for(connection.recv(), 20)) for _ in range(answers)]


@pytest.mark.parametrize(
    ("frame", "status"),
    [
        ("not json", 400),
        (b"\x00\xff", 400),
        ("[]", 400),
        ('{"op": 7}', 400),
        ('{"op": "fly"}', 400),
        ('{"op": "unsubscribe", "id": "never"}', 404),
        ('{"op": "subscribe", "channel": "trades"}', 422),
        ('{"op": "subscribe", "id": "a", "channel": "gossip"}', 422),
        ('{"op": "subscribe", "id": "a", "channel": "bars", "symbol": "NOPE"}', 404),
        ('{"op": "subscribe", "id": "a", "channel": "bars", "interval": "7m"}', 422),
        ('{"op": "subscribe", "id": "a", "channel": "trades", "interval": "1m"}', 422),
        ('{"op": "subscribe", "id": "a", "channel": "trades", "since": "noon"}', 422),
        ('{"op": "subscribe", "id": "a", "channel": "trades", "since": 999999999999999999999999}', 422),
        ('{"op": "subscribe", "id": "a", "channel": "trades", "after": -5}', 422),
    ],
)
def test_a_frame_that_means_nothing_is_answered_with_a_problem(served: Served, frame: str | bytes, status: int) -> None:
    (answer, pong) = asyncio.run(ask(served, frame, '{"op":"ping"}', answers=2))
    assert (answer["type"], answer["status"]) == ("error", status), answer
    assert answer["detail"]
    assert pong == {"type": "pong"}


def test_a_connection_has_a_bounded_number_of_subscriptions(served: Served) -> None:
    frames = [json.dumps({"op": "subscribe", "id": i, "channel": "events"}) for i in range(1_000)]
    answers = asyncio.run(ask(served, *frames, answers=1_000))
    refused = [answer for answer in answers if answer["type"] == "error"]
    assert len(refused) == 800
    assert {answer["status"] for answer in refused} == {429}


@pytest.mark.parametrize(("frames", "code"), [(["x"] * 50, 1008), (["y" * 100_000], 1009), ([b"z" * 3_000_000], 1009)])
def test_a_client_that_goes_on_sending_nonsense_is_closed_with_a_reason(served: Served, frames, code: int) -> None:
    async def until_closed() -> tuple[int, str]:
        async with websockets.connect(served.url.replace("http", "ws") + "/v1/stream", max_size=None) as connection:
            with contextlib.suppress(websockets.ConnectionClosed):
                for frame in frames:
                    await connection.send(frame)
                while True:
                    await asyncio.wait_for(connection.recv(), 20)
            return connection.close_code or 0, connection.close_reason or ""

    found, reason = asyncio.run(until_closed())
    assert found == code
    assert reason
    assert served.get("/v1/health").status == 200


def handshaken(served: Served) -> socket.socket:
    """Return a connection that was made a WebSocket, for bytes that no library would send."""
    host, port = served.url.removeprefix("http://").split(":")
    raw = socket.create_connection((host, int(port)), timeout=120)
    key = base64.b64encode(bytes(16)).decode()
    head = (
        "GET /v1/stream HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
    )
    raw.sendall("\r\n".join((*head, f"Sec-WebSocket-Key: {key}", "", "")).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += raw.recv(1)
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return raw


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x83\x80\0\0\0\0", 1002),  # an operation that is not defined
        (b"\x81\x05hello", 1002),  # a client has to mask
        (b"\xf1\x80\0\0\0\0", 1002),  # reserved bits
        (b"\x80\x80\0\0\0\0", 1002),  # the rest of nothing
        (b"\x09\x80\0\0\0\0", 1002),  # a ping in pieces
        (b"\x81\xff\x7f" + b"\xff" * 7 + b"\0\0\0\0", 1009),  # eight exabytes are announced
        (b"\x81\x82\0\0\0\0\xc3\x28", 1007),  # no UTF-8
    ],
)
def test_a_frame_that_breaks_the_protocol_closes_its_connection_only(served: Served, frame: bytes, code: int) -> None:
    with handshaken(served) as raw:
        raw.sendall(frame)
        said = b""
        while piece := raw.recv(4096):
            said += piece
    assert said[0] == 0x88, said  # a close
    assert int.from_bytes(said[2:4]) == code
    assert served.get("/v1/health").status == 200


def test_half_a_frame_and_nothing_more_leaves_the_others_alone(served: Served) -> None:
    with handshaken(served) as raw:
        raw.sendall(b"\x81\xfe\x10\x00\0\0\0\0{")
        (answer,) = asyncio.run(
            ask(served, '{"op": "subscribe", "id": "b", "channel": "bars", "symbol": "BTC-USDT"}', answers=1)
        )
        assert answer["type"] == "snapshot"
