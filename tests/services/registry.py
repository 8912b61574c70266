"""The Apicurio schema registry, which speaks Confluent's API, in memory."""

from __future__ import annotations

import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from tests.services.maven import fetch, java
from tests.services.server import Server, free_port

__all__ = ["Registry", "app"]

_POM = Path(__file__).parent / "registry-pom.xml"
_JVM = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")


def app() -> Path:
    """Return the registry's jar, fetching it where it is not cached."""
    return next(fetch(_POM, _unpack).glob("app/*-runner.jar"))


class Registry(Server):
    """A registry that forgets everything when it stops."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        """For Confluent's clients."""
        options = [f"-Dquarkus.http.port={port}", "-Dquarkus.http.host=127.0.0.1"]
        super().__init__("registry", [java(), *_JVM, *options, "-jar", str(app())], folder, self._answers_http)

    def _answers_http(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=1) as answer:
                return answer.status == 200
        except urllib.error.URLError:
            return False


def _unpack(folder: Path) -> None:
    (archive,) = folder.glob("*.tar.gz")
    target = folder / "app"
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    archive.unlink()
