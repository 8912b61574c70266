"""The compose file, as far as it can be checked without Docker: it can be read, images are pinned, names and ports agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tests.services.kafka import __file__ as services
from tickhouse.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def compose() -> dict[str, Any]:
    """Return the compose file."""
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return content


def environment() -> dict[str, str]:
    """Return what the .env file sets."""
    lines = (DEPLOY / ".env").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_every_service_of_the_flow_is_there():
    assert {"kafka", "registry", "kafka-ui", "ingest", "work", "serve", "spark-master", "spark-worker"} == set(
        compose()["services"]
    )


def test_images_are_pinned_and_kafka_is_the_one_that_is_tested():
    images = {name: one["image"] for name, one in compose()["services"].items()}
    assert all(re.search(r":v?\d+\.\d+|:local$", image) for image in images.values()), images
    for service, pom in (("kafka", "kafka-pom.xml"), ("registry", "registry-pom.xml")):
        version = images[service].rpartition(":")[2]
        assert f"<version>{version}</version>" in (Path(services).parent / pom).read_text("utf-8")


def test_what_the_compose_file_asks_for_is_set_and_nothing_else():
    asked = set(re.findall(r"\$\{(\w+)\}", (DEPLOY / "compose.yaml").read_text("utf-8")))
    assert asked == set(environment())


def test_ports_are_published_on_the_loopback_only_and_differ():
    published = [port for one in compose()["services"].values() for port in one.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published)
    numbers = [number for name, number in environment().items() if name.endswith("_PORT")]
    assert len(published) == len(set(numbers)) == len(numbers)


def test_settings_given_by_environment_exist():
    given = compose()["services"]["work"]["environment"]
    for name in given:
        if name.startswith("TICKHOUSE_"):
            section, key = name.removeprefix("TICKHOUSE_").lower().split("__")
            assert hasattr(getattr(Settings(), section), key), name


def test_commands_are_commands(monkeypatch):
    from typer.testing import CliRunner

    from tickhouse.cli import app

    for name in ("ingest", "work", "serve"):
        command, *options = compose()["services"][name]["command"]
        shown = re.sub(r"\x1b\[[0-9;]*m", "", CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout)
        for option in options:
            assert not option.startswith("--") or option in shown, (name, option)
