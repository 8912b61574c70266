"""A venue for measurements: a WebSocket server on loopback that sends Binance's trade frames at a steady rate.

`python bench/venue.py --rate 20000 --symbols 50 --seconds 30` prints its port, waits for one client, sends, prints how many
trades it sent, and ends. One trade a frame, as Binance sends them; frames that are due together leave in one write.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["start"]

TICK_S = 0.001
FRAME = b'{"stream":"%s@trade","data":{"e":"trade","E":%d,"s":"%s","t":%d,"p":"%.2f","q":"%.5f","T":%d,"m":false,"M":true}}'
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


def start(rate: int, symbols: int, seconds: float) -> tuple[subprocess.Popen[str], str]:
    """Start a venue in a process of its own; return it and its address. Its last line is how many trades it sent."""
    words = ["--rate", str(rate), "--symbols", str(symbols), "--seconds", str(seconds)]
    process = subprocess.Popen([sys.executable, str(Path(__file__)), *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, f"ws://127.0.0.1:{int(process.stdout.readline())}"


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: int, symbols: int, seconds: float) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    key = next(line.split(b":")[1].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1(key + _MAGIC).digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept + b"\r\n\r\n"
    )  # fmt: skip
    rng = random.Random(1)
    names = [b"S%03dUSDT" % i for i in range(symbols)]
    prices = [rng.uniform(1, 1_000) for _ in names]
    picks = [min(int(rng.expovariate(4 / symbols)), symbols - 1) for _ in range(1 << 16)]
    ids = [1_000_000] * symbols
    steps = [1 + rng.gauss(0, 1e-4) for _ in range(1 << 15)]
    sent, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        frames, ms = [], time.time_ns() // 1_000_000
        for _ in range(int(elapsed * rate) - sent):
            i = picks[sent & 0xFFFF]
            prices[i] *= steps[sent & 0x7FFF]
            sent += 1
            ids[i] += 1
            payload = FRAME % (names[i].lower(), ms, names[i], ids[i], prices[i], 0.01 + (sent & 0xFF) / 100, ms)
            frames.append(b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload)
        writer.write(b"".join(frames))
        await writer.drain()
        await asyncio.sleep(TICK_S)
    await asyncio.sleep(1.0)
    writer.close()
    return sent


async def _main(rate: int, symbols: int, seconds: float) -> None:
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = await _serve(reader, writer, rate, symbols, seconds)
        if not done.done():
            done.set_result(sent)

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    print(await done, flush=True)


def main() -> None:
    """Serve one client."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=int, default=20_000, help="trades a second")
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    asyncio.run(_main(given.rate, given.symbols, given.seconds))


if __name__ == "__main__":
    main()
