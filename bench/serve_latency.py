"""How live on the wire: the time from receiving a trade to having it at a WebSocket client of the API, with everything on.

A venue on loopback (`venue.py`) sends single Binance frames to `tickhouse run`, whose processes receive, append to the journal,
commit the lake and serve. A process of clients subscribes: many to the bars of one symbol each, the open bar included, and one
to the trades of all symbols. Measured is, for each message, the time from `received_at` of the newest trade behind it to its
arrival at the client. The clients share the machine with the house.

`python bench/serve_latency.py --rate 20000 --subscribers 100` prints percentiles and writes .bench/serve_latency.json; exit
code 1 where the house refused a trade. `--abuse` adds clients that mean no good: ten that never read and subscribe a thousand
times, and questions in SQL that never end. The line `engine` says how long the process that makes the tables took, from
receiving the newest trade of a group to having worked it off, by its own histogram: whatever clients do, it should not move.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import venue
from rich.console import Console
from rich.table import Table
from run import KEPT, cpu_s, machine

__all__ = ["measure"]

PERCENTILES = (50, 90, 99, 99.9, 100)
AT = re.compile(rb'"received_at":(\d+)')


class _Clients:
    """Subscribers on connections of their own; note the age of every message."""

    def __init__(self) -> None:
        self.ages: dict[str, list[int]] = {"bars": [], "trades": []}
        self.rows = 0
        self.measures = False

    async def one(self, session: aiohttp.ClientSession, url: str, ask: dict[str, Any]) -> None:
        async with session.ws_connect(url, max_msg_size=0) as socket:
            await socket.send_json({"op": "subscribe", "id": "s", **ask})
            ages = self.ages[ask["channel"]]
            async for message in socket:
                now = time.time_ns() // 1000
                payload = message.data.encode() if isinstance(message.data, str) else message.data
                found = AT.search(payload[:200])
                if found and self.measures:
                    ages.append(now - int(found[1]))
                    if ask["channel"] == "trades":
                        self.rows += payload.count(b'"trade_id"')


async def _symbols(session: aiohttp.ClientSession, url: str, count: int) -> list[str]:
    while True:
        async with session.get(f"{url}/v1/feeds") as answer:
            rows = (await answer.json()).get("rows", [])
        if len(rows) >= min(count, 10):
            return [row["symbol"] for row in rows]
        await asyncio.sleep(0.5)


async def _listen(
    url: str, symbols: int, subscribers: int, warm_up_s: float, seconds: float, pids: dict[str, int], *, abuse: bool
) -> Any:
    clients = _Clients()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        names = await _symbols(session, url, symbols)
        bars = [{"channel": "bars", "symbol": names[i % len(names)], "interval": "1m"} for i in range(subscribers)]
        asks = [*bars, {"channel": "trades"}] if subscribers else []
        tasks = [asyncio.create_task(clients.one(session, f"{url}/v1/stream", ask)) for ask in asks]
        if abuse:
            tasks += [asyncio.create_task(_abuse(session, url)) for _ in range(2)]
        await asyncio.sleep(warm_up_s)
        engine = await _engine(session, url)
        before = {name: cpu_s(pid) for name, pid in pids.items()}
        clients.measures = True
        await asyncio.sleep(seconds)
        clients.measures = False
        cores = {name: round((cpu_s(pid) - before[name]) / seconds, 2) for name, pid in pids.items()}
        shares = _shares(engine, await _engine(session, url))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return clients, cores, shares


async def _abuse(session: aiohttp.ClientSession, url: str) -> None:
    """Never read, subscribe a thousand times, ask what has no end; until cancelled."""
    endless = {"sql": "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t"}
    stream = url.removeprefix("http://").partition(":")
    frames = b"".join(
        _frame(json.dumps({"op": "subscribe", "id": str(i), "channel": "bars" if i % 2 else "trades"})) for i in range(1_000)
    )
    deaf = []
    for _ in range(10):
        reader, writer = await asyncio.open_connection(stream[0], int(stream[2]), limit=1024)
        writer.write(
            b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n" + frames
        )
        deaf.append((reader, writer))
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.post(f"{url}/v1/sql", json=endless) as answer:
                await answer.read()


def _frame(text: str) -> bytes:
    """Return a client's frame, under 126 bytes, masked with zeros."""
    return b"\x81" + bytes([0x80 | len(text)]) + b"\0\0\0\0" + text.encode()


_TO_KERNEL = re.compile(r'tickhouse_latency_seconds_bucket\{le="([^"]+)",to="kernel"\} (\S+)')


async def _engine(session: aiohttp.ClientSession, url: str) -> dict[float, float]:
    """Return the engine's histogram, as counted until now: bound in seconds -> groups."""
    async with session.get(f"{url}/metrics") as answer:
        return {float(bound): float(count) for bound, count in _TO_KERNEL.findall(await answer.text())}


def _shares(before: dict[float, float], after: dict[float, float]) -> dict[str, float]:
    """Return which share of the groups, percent, took no longer than each bound."""
    counts = {bound: count - before.get(bound, 0.0) for bound, count in sorted(after.items())}
    total = max(counts.values(), default=0.0) or 1.0
    return {f"<= {bound * 1000:g} ms": round(100 * count / total, 2) for bound, count in counts.items() if bound <= 1.0}


def _child(parent: int, command: str) -> int:
    """Return the process of a command among the children of another."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            about, words = stat.read_text(), stat.with_name("cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(about.rpartition(")")[2].split()[1]) == parent and command.encode() in words:
            return int(stat.parent.name)
    raise SystemExit(f"there is no process of `tickhouse {command}`")


def measure(
    folder: Path, rate: int, symbols: int, subscribers: int, seconds: float, warm_up_s: float, *, abuse: bool = False
) -> dict[str, Any]:
    """Run and serve a new house in `folder` on made trades; return the percentiles in ms and the balance."""
    server, address = venue.start(rate, symbols, 60.0 + warm_up_s + seconds)
    folder.mkdir()
    config = folder / "tickhouse.toml"
    config.write_text(f'[sources]\nenabled = ["binance"]\n[sources.options.binance]\nws_url = "{address}"\n')
    options = ["--json", "--port", "0", "--no-dashboard", "--house", folder / "house", "--config", config]
    words = [sys.executable, "-m", "tickhouse", "run", *options]
    run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    url = next(line for line in run.stderr if "API on" in line).split()[2]
    pids = {
        "venue": server.pid, "ingest": _child(run.pid, "ingest"), "tables": run.pid, "serve": _child(run.pid, "serve"),
        "clients": os.getpid(),
    }  # fmt: skip
    clients, cores, shares = asyncio.run(_listen(url, symbols, subscribers, warm_up_s, seconds, pids, abuse=abuse))
    server.kill()
    server.wait()
    run.send_signal(signal.SIGINT)
    balance = json.loads(run.communicate(timeout=60)[0])
    return {
        "rate": rate,
        "symbols": symbols,
        "subscribers": subscribers,
        "accepted": balance["accepted"],
        "received": balance["received"],
        "trades_a_second_at_the_client": round(clients.rows / seconds),
        "messages_a_second": {name: round(len(ages) / seconds) for name, ages in clients.ages.items()},
        "latency_ms": {
            name: {f"p{p:g}" if p < 100 else "max": round(float(np.percentile(ages, p)) / 1000, 2) for p in PERCENTILES}
            for name, ages in clients.ages.items()
            if ages
        },
        "engine_pct": shares,
        "cores": cores,
    }


def main() -> None:
    """Measure once, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=int, default=20_000, help="trades a second")
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--subscribers", type=int, default=100, help="of bars; one more takes all trades")
    parser.add_argument("--abuse", action="store_true", help="also clients that mean no good")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm-up", type=float, default=5.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        result = measure(
            Path(folder) / "first",
            given.rate,
            given.symbols,
            given.subscribers,
            given.seconds,
            given.warm_up,
            abuse=given.abuse,
        )
    result = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), **result}
    table = Table(
        title=f"received -> WebSocket client, {given.rate:,} trades/s, {given.subscribers} subscribers of bars + 1 of trades"
    )
    for name in ("channel", "messages/s", *(f"p{p:g}" if p < 100 else "max" for p in PERCENTILES)):
        table.add_column(name, justify="right")
    for channel, found in result["latency_ms"].items():
        table.add_row(channel, str(result["messages_a_second"][channel]), *(f"{value:,.1f} ms" for value in found.values()))
    Console().print(table)
    Console().print("engine: " + ", ".join(f"{pct:g} % {bound}" for bound, pct in result["engine_pct"].items()))
    Console().print("cores: " + ", ".join(f"{name} {busy}" for name, busy in result["cores"].items()))
    KEPT.mkdir(exist_ok=True)
    (KEPT / "serve_latency.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(result["accepted"] != result["received"])


if __name__ == "__main__":
    main()
