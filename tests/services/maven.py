"""Fetches a server's jars by a pinned pom, once: later calls find them in the cache.

Maven verifies the checksums that the repository gives for each file and fails where one differs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["ServiceMissingError", "cache", "fetch", "java"]

_FETCH_S = 600


class ServiceMissingError(RuntimeError):
    """A server cannot be had on this machine; the text says what to install."""


def cache() -> Path:
    """Return the folder that holds what was fetched."""
    named = os.environ.get("TICKHOUSE_SERVICES")
    return Path(named) if named else Path.home() / ".cache" / "tickhouse" / "services"


def java() -> str:
    """Return the Java to run servers with.

    Raises:
        ServiceMissingError: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None) or shutil.which("java")
    if found is None:
        raise ServiceMissingError(
            "java is missing: install a Java 17 runtime (Debian: apt-get install openjdk-17-jre-headless)"
        )
    return found


def fetch(pom: Path, unpack: Callable[[Path], None] | None = None) -> Path:
    """Return the folder with everything that `pom` names, fetching it where it is not cached.

    Args:
        pom: Its content names the folder, so that another version gets another one.
        unpack: Called once with the folder, after everything is there.

    Raises:
        ServiceMissingError: Maven or Java is missing, or the fetch failed.
    """
    digest = hashlib.sha256(pom.read_bytes()).hexdigest()[:12]
    folder = cache() / f"{pom.stem.removesuffix('-pom')}-{digest}"
    if folder.is_dir():
        return folder
    java()
    maven = shutil.which("mvn")
    if maven is None:
        raise ServiceMissingError("mvn is missing: install Maven (Debian: apt-get install maven)")
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _fetch(maven, pom, folder, unpack)
    return folder


def _fetch(maven: str, pom: Path, folder: Path, unpack: Callable[[Path], None] | None) -> None:
    print(f"services: fetching {folder.name} into {cache()} (once; up to a minute)", file=sys.stderr, flush=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=cache()))
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={draft}"]
    command = [maven, "--quiet", "--batch-mode", "--strict-checksums", "--file", str(pom), *goal]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_S, check=False)
        if done.returncode:
            raise ServiceMissingError(f"Maven could not fetch {pom.name}: {(done.stdout + done.stderr)[-600:].strip()}")
        if unpack is not None:
            unpack(draft)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"services: {folder.name} is there, {size >> 20} MiB", file=sys.stderr, flush=True)
