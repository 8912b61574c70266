"""`run` with the API beside it: served from its own port, stopped with it, and never in its way."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest


def start(house: Path, port: int, *more: str) -> subprocess.Popen[str]:
    """Start a run of the synthetic market."""
    words = ["run", "--house", str(house), "--source", "synthetic", "--port", str(port), "--json", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "tickhouse", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str], says: str) -> str:
    """Return the first line on standard error that says something."""
    assert process.stderr is not None
    for text in process.stderr:
        if says in text:
            return text
    raise AssertionError(f"never said {says!r}")


def test_run_serves_what_it_makes_and_takes_the_api_with_it(tmp_path: Path) -> None:
    process = start(tmp_path / "house", 0, "--no-dashboard")
    try:
        url = line(process, "API on").split()[2]
        until = time.monotonic() + 60
        accepted = 0
        while accepted < 100 and time.monotonic() < until:
            with urllib.request.urlopen(f"{url}/v1/health", timeout=30) as answer:
                accepted = json.load(answer)["accepted"]
        assert accepted >= 100
    finally:
        process.terminate()
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["accepted"] >= accepted
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{url}/v1/health", timeout=5)


def test_a_port_in_use_is_one_line_and_the_run_goes_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(tmp_path / "house", port, "--no-dashboard")
        try:
            said = line(process, "no serve")
            assert f"cannot listen on 127.0.0.1:{port}" in said
            assert "--port" in said
            time.sleep(0.5)
            assert process.poll() is None
        finally:
            process.terminate()
            out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["accepted"] > 0


def test_run_shows_what_it_makes_and_takes_the_dashboard_with_it(tmp_path: Path) -> None:
    process = start(tmp_path / "house", 0, "--dashboard-port", "0")
    try:
        line(process, "API on")
        url = line(process, "dashboard on").split()[2]
        until = time.monotonic() + 60
        seen: dict[str, int] = {}
        while not seen.get("accepted") and time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{url}/api/v1/health", timeout=30) as answer:
                    seen = json.load(answer)
            except OSError:
                time.sleep(0.2)
        assert seen.get("accepted")
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert b"<title>Streamlit</title>" in answer.read()
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=5)
