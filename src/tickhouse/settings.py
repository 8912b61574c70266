"""What a user may set, in one frozen tree: defaults < `tickhouse.toml` < `TICKHOUSE_SECTION__KEY` < the command line.

Components receive their own section, never the tree. `tickhouse config` prints every value and where it came from.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import os
import textwrap
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer, field_validator

from tickhouse.errors import ConfigError
from tickhouse.rules import DEFAULT_INDICATORS, Rules, parse_duration

__all__ = [
    "Engine",
    "HouseRules",
    "JournalSettings",
    "KafkaSettings",
    "LakeSettings",
    "ServeSettings",
    "Settings",
    "Sources",
    "SparkSettings",
    "explained",
    "find_file",
    "load",
]

ENV_PREFIX = "TICKHOUSE_"
_WELL_KNOWN = {"KAFKA_SERVER": "kafka.servers", "KAFKA_TOPIC": "kafka.topic"}
"""Names that others' tools use as well; ours, where both are set, win."""
_NOT_SETTINGS = {"TICKHOUSE_HOUSE", "TICKHOUSE_CONFIG", "TICKHOUSE_SHARED"}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HouseRules(_Section):
    """The rules a new house is made with; a house keeps them."""

    lateness: str = "10s"
    """How long after its end a bar waits for stragglers; a multiple of 250ms."""
    intervals: tuple[str, ...] = ("1m", "5m", "15m", "1h", "1d")
    """Bar intervals, finest first; each a multiple of the finest."""
    indicators: tuple[str, ...] = DEFAULT_INDICATORS
    """TA-Lib functions by name and parameters, e.g. "rsi(14)", and ours: bbands, stddev, volatility."""
    indicator_intervals: tuple[str, ...] = ("1m",)
    """The intervals that indicators are computed on."""
    detector: str = "zscore(100,3)"
    """The trade detector: window and threshold in sample deviations."""

    @field_validator("lateness")
    @classmethod
    def _is_duration(cls, value: str) -> str:
        parse_duration(value)
        return value

    def rules(self) -> Rules:
        """Return these as the record that the journal keeps.

        Raises:
            ConfigError: a combination that the rules do not allow.
        """
        return Rules(
            lateness_us=parse_duration(self.lateness),
            intervals=self.intervals,
            indicators=self.indicators,
            indicator_intervals=self.indicator_intervals,
            detector=self.detector,
        )


class JournalSettings(_Section):
    """The durable log of what was received."""

    kind: Literal["sqlite", "kafka"] = "sqlite"
    """Of a new house: `sqlite`, a file in it, or `kafka`, a topic; see [kafka]."""
    sync: Literal["normal", "full"] = "normal"
    """`normal` survives a killed process; `full` also a power cut, the tables too, at a few disk flushes a commit."""
    keep: str = "1d"
    """How long messages stay after every table has them."""

    @field_validator("keep")
    @classmethod
    def _is_duration(cls, value: str) -> str:
        parse_duration(value)
        return value


class KafkaSettings(_Section):
    """The topic that is the journal of a house of kind `kafka`."""

    servers: str = "127.0.0.1:9092"
    """Brokers to begin with, host:port separated by commas. KAFKA_SERVER sets it, too."""
    topic: str = "stock-ticks"
    """The topic; made where it is missing. KAFKA_TOPIC sets it, too."""
    form: Literal["json", "avro", "arrow"] = "json"
    """How trades are written: `json`, one readable message each; `avro`, the same with a schema registry; `arrow`, batches."""
    partitions: int = Field(default=4, ge=1, le=10_000)
    """Of a new topic. They are never changed in place: a house keeps the number its topic was made with."""
    replication: int = Field(default=1, ge=1)
    """Copies that a new topic keeps of each message."""
    retention: str = "7d"
    """How long a new topic keeps messages."""
    registry: str | None = None
    """URL of the schema registry (Confluent's API), for `avro`."""
    publish: tuple[str, ...] = ()
    """Tables whose rows are also published, each to a topic of its own, e.g. ["gold.bars", "gold.anomalies"]."""
    prefix: str = "tickhouse."
    """Before the table's name in the names of those topics."""
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    """How to talk to the brokers."""
    sasl_mechanism: str = "SCRAM-SHA-512"
    """Where `security` has SASL: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER."""
    username: str | None = None
    """For SASL."""
    password: SecretStr | None = None
    """For SASL; better in the environment: TICKHOUSE_KAFKA__PASSWORD."""
    ca_file: str | None = None
    """Certificates to trust, PEM; default: the system's."""
    certificate_file: str | None = None
    """The client's own certificate, PEM, where brokers ask for one."""
    key_file: str | None = None
    """Its private key."""

    @field_validator("retention")
    @classmethod
    def _is_duration(cls, value: str) -> str:
        parse_duration(value)
        return value

    @field_serializer("password", when_used="json")
    def _for_a_child(self, value: SecretStr | None) -> str | None:
        """Processes of the house hand settings on as JSON, by a pipe; shown anywhere else it is masked."""
        return value.get_secret_value() if value is not None else None


class LakeSettings(_Section):
    """The tables on disk."""

    layout: Literal["date", "date/symbol"] = "date"
    """Where a closed day's files lie after `tickhouse compact`."""


class Engine(_Section):
    """The embedded engine."""

    commit_every: str = "1s"
    """How often rows become visible in the lake."""
    snapshot_every: str = "60s"
    """How often the state is stored, which bounds the work after a crash."""

    @field_validator("commit_every", "snapshot_every")
    @classmethod
    def _is_duration(cls, value: str) -> str:
        parse_duration(value)
        return value


class SparkSettings(_Section):
    """The Spark engine, `tickhouse spark`."""

    master: str = "local[*,4]"
    """Where it runs: this machine (`local[CORES,TRIES]`), or a cluster, e.g. spark://host:7077."""
    trigger: str = "5s"
    """How often a micro-batch begins, or availableNow: work off what is there, and end."""
    max_records: int = Field(default=1_000_000, ge=1)
    """A micro-batch takes at most this many messages of the topic, shared out over its partitions."""
    conf: dict[str, str] = Field(default_factory=dict)
    """Spark's own settings, e.g. { "spark.executor.memory" = "4g" }."""


class Sources(_Section):
    """Which sources `tickhouse run` takes, and their own settings."""

    enabled: tuple[str, ...] = ()
    """Names of sources; empty = Binance's public stream where it is reachable, else the synthetic market."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings by source name, e.g. [sources.options.binance] symbols = ["BTC-USDT"]."""


class ServeSettings(_Section):
    """The API and what it allows."""

    host: str = "127.0.0.1"
    """Where it listens; beyond loopback every request needs a token (`tickhouse token add NAME`)."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """Its port; 0 = any free one, printed."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may ask from a browser, e.g. "https://desk.example"; empty = none."""
    rate_per_s: float = Field(default=100.0, gt=0)
    """Requests a second that one token may make (one address, where no token is needed) in the long run."""
    burst: int = Field(default=500, ge=1)
    """Requests that it may make at once."""
    sql_timeout_s: float = Field(default=10.0, gt=0)
    """Longest time that a question in SQL may take, seconds."""
    hours: dict[str, str] = Field(default_factory=dict)
    """Weekly hours by venue, e.g. IEX = "Mon-Fri 09:30-16:00 America/New_York", so that a closed market is called closed."""


class Settings(_Section):
    """Everything."""

    rules: HouseRules = HouseRules()
    journal: JournalSettings = JournalSettings()
    kafka: KafkaSettings = KafkaSettings()
    lake: LakeSettings = LakeSettings()
    engine: Engine = Engine()
    spark: SparkSettings = SparkSettings()
    sources: Sources = Sources()
    serve: ServeSettings = ServeSettings()


def find_file(given: Path | None = None) -> Path | None:
    """Return the configuration file in force: the given one, TICKHOUSE_CONFIG, or ./tickhouse.toml where it exists.

    Raises:
        ConfigError: a file that was named is not there.
    """
    named = given or (Path(os.environ["TICKHOUSE_CONFIG"]) if os.environ.get("TICKHOUSE_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"the configuration file {named} does not exist")
        return named
    default = Path("tickhouse.toml")
    return default if default.is_file() else None


def load(file: Path | None = None, overrides: dict[str, Any] | None = None) -> tuple[Settings, dict[str, str]]:
    """Return the settings in force, and for each `section.key` set somewhere, where.

    Args:
        file: A TOML file; None = none.
        overrides: Dotted keys set on the command line, e.g. {"rules.lateness": "5s"}.

    Raises:
        ConfigError: an unknown key (the nearest known one is named), or a value out of its bounds.
    """
    tree: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for dotted, value, where in [*_from_file(file), *_from_environment(), *_from_overrides(overrides)]:
        _check_known(dotted, where)
        _put(tree, dotted, value)
        origin[dotted] = where
    try:
        return Settings.model_validate(tree), origin
    except ValidationError as error:
        first = error.errors()[0]
        dotted = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{dotted} = {first.get('input')!r} ({_where(origin, dotted)}): {first['msg']}") from error


def explained(record: type[BaseModel]) -> dict[str, str]:
    """Return the text that stands under each field of a settings record in its source.

    Read for documentation only: pydantic would do it whenever a program starts, for a tenth of a second.
    """
    (written,) = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    assert isinstance(written, ast.ClassDef)
    found = {}
    for field, under in itertools.pairwise(written.body):
        match field, under:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found


def _from_file(file: Path | None) -> list[tuple[str, Any, str]]:
    if file is None:
        return []
    try:
        tree = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error
    found: list[tuple[str, Any, str]] = []
    for section, keys in tree.items():
        if not isinstance(keys, dict):
            found.append((section, keys, str(file)))
            continue
        found += [(f"{section}.{key}", value, str(file)) for key, value in keys.items()]
    return found


def _from_environment() -> list[tuple[str, Any, str]]:
    found: list[tuple[str, Any, str]] = [
        (key, os.environ[name], name) for name, key in _WELL_KNOWN.items() if os.environ.get(name)
    ]
    for name, value in sorted(os.environ.items()):
        if not name.startswith(ENV_PREFIX) or name in _NOT_SETTINGS or "__" not in name:
            continue
        dotted = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
        found.append((dotted, _split_list(dotted, value), name))
    return found


def _from_overrides(overrides: dict[str, Any] | None) -> list[tuple[str, Any, str]]:
    return [(dotted, value, "command line") for dotted, value in (overrides or {}).items() if value is not None]


def _split_list(dotted: str, value: str) -> Any:
    section, _, key = dotted.partition(".")
    known = Settings.model_fields.get(section)
    kind = known.annotation.model_fields.get(key) if known and isinstance(known.annotation, type) else None
    if kind is not None and "tuple" in str(kind.annotation):
        return tuple(part.strip() for part in value.split(";" if ";" in value else ",") if part.strip())
    return value


def _check_known(dotted: str, where: str) -> None:
    known = _known_keys()
    if dotted in known or dotted.startswith("sources.options"):
        return
    near = difflib.get_close_matches(dotted, known, 1, 0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"unknown setting {dotted!r} in {where}{hint}")


def _known_keys() -> list[str]:
    keys = []
    for section, info in Settings.model_fields.items():
        record = info.annotation
        assert isinstance(record, type)
        assert issubclass(record, BaseModel)
        keys += [f"{section}.{key}" for key in record.model_fields]
    return keys


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
    tree[last] = value


def _where(origin: dict[str, str], dotted: str) -> str:
    return next((where for key, where in origin.items() if dotted.startswith(key)), "default")
