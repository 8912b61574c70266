"""`/metrics`: the processes of a house count once, together, and what they say can be read by Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.api.live import Served, eventually
from tickhouse.telemetry import METRICS, TIMERS

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana" / "tickhouse.json"


def values(text: str) -> dict[str, float]:
    """Return the value of each sample, summed over its labels."""
    found: dict[str, float] = {}
    names = []
    for family in text_string_to_metric_families(text):
        names.append(family.name)
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    assert len(names) == len(set(names)), "a metric stands there twice"
    return found


def test_a_stored_house_tells_its_balance(served: Served) -> None:
    answer = served.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = values(answer.body.decode())
    health = served.get("/v1/health").json
    assert found["tickhouse_house_accepted"] == health["accepted"]
    assert found["tickhouse_house_received"] == health["received"]
    assert found["tickhouse_running"] == 0


def test_the_processes_of_a_run_count_together(tmp_path: Path) -> None:
    command = ["run", "--house", str(tmp_path / "house"), "--source", "synthetic", "--port", "0", "--no-dashboard", "--json"]
    process = subprocess.Popen([sys.executable, "-m", "tickhouse", *command], stdout=-1, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        url = next(line for line in process.stderr if "API on" in line).split()[2]

        def scrape() -> dict[str, float]:
            with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
                return values(answer.read().decode())

        wanted = {f"{name}_count" for name in TIMERS} | {"tickhouse_journal_lag_seconds"}
        found = eventually(lambda: wanted <= (got := scrape()).keys() and got, 120)
    finally:
        process.terminate()
        out, _ = process.communicate(timeout=60)
    totals = json.loads(out)
    assert 0 < found["tickhouse_trades_accepted_total"] <= totals["accepted"]
    assert 0 < found["tickhouse_ingest_trades_total"] <= totals["received"]
    for name in ("tickhouse_journal_flush_seconds", "tickhouse_latency_seconds", "tickhouse_serve_latency_seconds"):
        assert found[f"{name}_count"] > 0, name
    assert found["tickhouse_running"] == 1
    assert found["tickhouse_journal_lag_seconds"] < 60


def test_grafana_asks_for_metrics_that_exist() -> None:
    board = json.loads(GRAFANA.read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel.get("targets", ())
        for name in re.findall(r"tickhouse_\w+", target["expr"])
    }
    ends = ("_total", "_bucket", "_sum", "_count", "")
    known = {f"{name}{end}" for name in (*METRICS, *TIMERS) for end in ends}
    source = (Path(__file__).parents[2] / "src/tickhouse/api/metrics.py").read_text()
    known |= set(re.findall(r'"(tickhouse_\w+)":', source))
    assert asked <= known
    assert len(asked) >= 12
