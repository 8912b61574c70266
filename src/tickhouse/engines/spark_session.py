"""Starts Spark for one process, quietly: its log goes to a file, and of what it prints only our own warnings come out.

The engine asks for a session; nothing here knows what runs in it.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from tickhouse.settings import SparkSettings

__all__ = ["spark_session"]

_OUR_WARNING = re.compile(rb"\[(warning|error|critical)\s*\]")
_LOGGING = """\
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {file}
appender.file.filePattern = {file}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{yyyy-MM-dd HH:mm:ss.SSS}} %p %c{{1}}: %m%n%ex
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 3
"""


@contextmanager
def spark_session(settings: SparkSettings, folder: Path) -> Iterator[SparkSession]:
    """Give a session, in the Spark that this process has, or in one of its own that ends with the context.

    Args:
        settings: Of [spark].
        folder: For `spark.log`, and `spark-processes.log`, where everything goes that Spark's processes print.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        yield active.newSession()
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Executors on this machine are to find what this interpreter finds; a cluster's are told by who set it up.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    conf = SparkConf().setAppName("tickhouse").setMaster(settings.master)
    for name, value in {**_defaults(settings.master, folder), **settings.conf}.items():
        conf.set(name, value)
    with _own_signals():
        gateway = _gateway(conf, folder) if SparkContext._gateway is None else None
        session = SparkSession(SparkContext(conf=conf, gateway=gateway))
    try:
        yield session
    finally:
        session.stop()


def _gateway(conf: SparkConf, folder: Path) -> Any:
    """Start the JVM apart from the terminal's signals; what it prints is sorted by a thread."""
    read, write = os.pipe()
    with os.fdopen(write, "wb") as said:
        gateway = launch_gateway(conf, {"stdout": said, "stderr": said, "start_new_session": True})
    log = (folder / "spark-processes.log").open("wb")
    threading.Thread(target=_relay, args=(os.fdopen(read, "rb"), log), name="tickhouse-spark", daemon=True).start()
    return gateway


def _relay(printed: IO[bytes], log: IO[bytes]) -> None:
    with printed, log:
        for line in printed:
            log.write(line)
            log.flush()
            if _OUR_WARNING.search(line):
                sys.stderr.write(line.decode("utf-8", "replace"))
                sys.stderr.flush()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep who handles signals: Spark's own handler would interrupt a commit."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _defaults(master: str, folder: Path) -> Mapping[str, str]:
    """Return what Spark is started with unless [spark] conf says otherwise."""
    log = folder / "log4j2.properties"
    log.write_text(_LOGGING.format(file=folder / "spark.log"), "utf-8")
    java = f"-Dlog4j2.configurationFile={log.absolute().as_uri()}"
    found = {"spark.ui.showConsoleProgress": "false"}
    if master.startswith("local"):
        found |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false"}
        # No trade crosses the JVM: a compiler that optimises for hours would only take cores from Python.
        java += " -XX:TieredStopAtLevel=1"
    found["spark.driver.defaultJavaOptions"] = java
    return found
