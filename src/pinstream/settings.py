"""Settings: one table, read once, passed on in sections.

Sources, the first that says something wins: environment (`PINSTREAM_LOG__KIND=kafka`), one TOML file
(`pinstream.toml`, or the one `PINSTREAM_CONFIG` names), the defaults below. A key that does not exist is an
error that names it. Units are suffixes.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from pinstream.errors import Misconfigured

PREFIX = "PINSTREAM_"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Collect(_Section):
    """The HTTP edge."""

    host: str = Field("127.0.0.1", description="Address of the public port.")
    port: int = Field(8080, ge=1, le=65_535, description="Public port: tag, events, pixel.")
    workers: int = Field(
        1, ge=1, le=64, description="Processes that share the port. Limits below are for all of them together."
    )
    ops_host: str = Field("127.0.0.1", description="Address of the operations port; keep it private.")
    ops_port: int = Field(9080, ge=1, le=65_535, description="Operations port: /readyz and /metrics.")
    commit_interval_ms: int = Field(5, ge=0, le=1000, description="How long a group of events waits for company.")
    max_pending_bytes: int = Field(
        64 << 20, ge=1 << 20, description="Bytes waiting for the log, or in bodies, before 503."
    )
    body_timeout_s: float = Field(10, gt=0, le=120, description="A request's body must arrive within this time.")
    max_connections: int = Field(4096, ge=1, description="Open connections before 503.")
    longest_wait_ms: int = Field(
        100, ge=1, le=10_000, description="While requests wait longer than this to be read, some are told 503."
    )
    script_path: str = Field(
        "/tag.js",
        pattern=r"^(?:/[A-Za-z0-9_-]+)*/[A-Za-z0-9_-]+\.js$",
        description="Where the tag is served, its other files beside it.",
    )
    endpoint_path: str = Field(
        "/p/i",
        pattern=r"^(?:/[A-Za-z0-9_-]+)+$",
        description="Where the tag sends events. /p/i is always answered too.",
    )
    trusted_proxies: list[str] = Field(
        [], description="Networks whose X-Forwarded-For is believed, such as 10.0.0.0/8."
    )
    snapshot_refresh_s: float = Field(
        30, gt=0, description="How often sites and keys are read from the state database."
    )
    reject_records_per_s: int = Field(
        50, ge=0, description="Refusals written to the log a second; the rest are counted."
    )
    limits: Literal["off", "dry_run", "enforce"] = Field(
        "off", description="What happens to events above the limits below: taken, taken and counted, refused with 429."
    )
    site_events_per_s: int = Field(1000, ge=1, description="Events a second that one site may send, over time.")
    key_events_per_s: int = Field(1000, ge=1, description="Events a second that one API key may send, over time.")
    burst_s: int = Field(
        10, ge=1, le=60, description="After a rest, as many events at once as the limit allows in so many seconds."
    )


class Log(_Section):
    """The event log between `collect` and its readers."""

    kind: Literal["journal", "kafka"] = Field(
        "journal", description="`journal` is embedded (SQLite), `kafka` is Apache Kafka."
    )
    consumers: list[str] = Field(
        ["load"], description="Groups that must have read a record before the journal drops it."
    )
    journal_max_bytes: int = Field(4 << 30, ge=1 << 20, description="Size of the journal's files before 503.")
    journal_keep_hours: float = Field(24, ge=0, description="How long records that everybody has read are kept.")
    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka brokers, host:port,host:port.")
    kafka_partitions: int = Field(3, ge=1, le=1024, description="Partitions of pinstream.events; fixed at install.")
    kafka_replication: int = Field(1, ge=1, le=15, description="Copies of each partition; production: 3.")
    kafka_min_insync: int = Field(1, ge=1, le=15, description="Copies that must have a record; production: 2.")
    kafka_create_topics: bool = Field(False, description="Create missing topics at start.")
    kafka_compression: Literal["lz4", "zstd", "none"] = Field("lz4", description="Compression of batches.")
    kafka_request_timeout_ms: int = Field(10_000, ge=500, description="How long one request to Kafka may take.")
    kafka_ack_timeout_ms: int = Field(
        3000, ge=100, description="How long one append waits for Kafka before the spool answers for it."
    )
    kafka_extra: dict[str, Any] = Field(
        {}, description="Passed to aiokafka as it is: security_protocol, sasl_..., ssl_...."
    )
    spool: bool = Field(True, description="Keep events on disk while Kafka is away, and drain them later.")
    spool_max_bytes: int = Field(4 << 30, ge=1 << 20, description="Size of the spool's files before 503.")
    spool_after_s: float = Field(
        2, gt=0, le=60, description="Kafka is away once it has acknowledged nothing for so long."
    )


class Warehouse(_Section):
    """ClickHouse, or the embedded engine behind the same HTTP interface."""

    url: str = Field("http://127.0.0.1:8123", description="ClickHouse's HTTP address.")
    user: str = Field("default", description="ClickHouse user.")
    password: SecretStr = Field(SecretStr(""), description="Empty: read from <data_dir>/warehouse.password (embedded).")
    analyst_user: str = Field(
        "analyst", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$", description="Who reads the views for analysts."
    )
    analyst_password: SecretStr = Field(
        SecretStr(""), description="Theirs. Empty: read from <data_dir>/analyst.password (embedded)."
    )
    database: str = Field("pinstream", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$", description="Database of our tables.")
    mode: Literal["embedded", "single", "cluster"] = Field("embedded", description="How the schema is rendered.")
    cluster: str = Field("", description="ClickHouse's cluster name, for mode = cluster.")
    query_timeout_s: float = Field(300, gt=0, description="Longest statement.")


class Load(_Section):
    """Log -> ClickHouse."""

    block_rows: int = Field(10_000, ge=1, le=100_000, description="Rows of one insert.")
    block_bytes: int = Field(16 << 20, ge=1 << 16, description="Bytes of one insert.")
    interval_s: float = Field(1.0, ge=0.05, le=60, description="Shortest time between two inserts of a partition.")
    max_bad_ratio: float = Field(0.5, ge=0, le=1, description="Share of bad records in a block above which load stops.")
    positions_from_ms: int = Field(
        0, ge=0, description="After a log was recreated: rows received before (ms since 1970) belong to the old one."
    )
    bad_ratio_min_records: int = Field(20, ge=1, description="Blocks smaller than this never stop the load.")
    ops_port: int = Field(9081, ge=1, le=65_535, description="/readyz and /metrics of load.")


class Audiences(_Section):
    """Rules."""

    rates: dict[Annotated[str, Field(pattern=r"^[A-Z]{3}$")], Annotated[float, Field(gt=0, le=1e9)]] = Field(
        {},
        description="What one unit of each currency is worth, the site's own included, all in the same unit: "
        "{EUR = 1.0, USD = 0.92}. Amounts in others are left out and counted.",
    )


class Push(_Section):
    """Audiences -> Pinterest."""

    interval_s: float = Field(900, gt=0, description="Time between two syncs of an audience.")
    chunk_members: int = Field(1900, ge=1, le=10_000, description="Members in one call to a customer list.")
    max_remove_ratio: float = Field(
        0.5, ge=0, le=1, description="A sync that removes a larger share waits for confirmation."
    )
    max_remove_min_members: int = Field(100, ge=0, description="Smaller lists are never held back by max_remove_ratio.")
    ops_port: int = Field(9082, ge=1, le=65_535, description="/readyz and /metrics of push.")


class Console(_Section):
    """The admin API."""

    host: str = Field("127.0.0.1", description="Address of the admin API.")
    port: int = Field(8090, ge=1, le=65_535, description="Port of the admin API: lists.")
    ops_port: int = Field(9083, ge=1, le=65_535, description="/readyz and /metrics of console.")


class Pinterest(_Section):
    """Pinterest's API."""

    base_url: str = Field("https://api.pinterest.com/v5", description="Pinterest's API, or a fake one.")
    ad_account_id: str = Field("", pattern=r"^\d{0,18}$", description="Ad account; empty = nothing is pushed.")
    access_token: SecretStr = Field(SecretStr(""), description="Token with ads:read and ads:write.")
    timeout_s: float = Field(30, gt=0, description="Time-out of one call.")
    requests_per_s: float = Field(5, gt=0, description="Upper bound of calls a second.")


class State(_Section):
    """Control-plane database: sites, keys, audiences, push ledger."""

    url: str = Field("", description="SQLAlchemy URL; empty = SQLite at <data_dir>/state.db.")


class FirstSite(_Section):
    """The site that is created when the state database has none."""

    tag_id: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,64}$", description="Its tag id; empty = no site is created.")
    name: str = Field("My shop", max_length=200, description="Its name.")
    origins: list[str] = Field([], description="Allowed origins, such as https://www.shop.example.")
    currency: str = Field("EUR", pattern=r"^[A-Z]{3}$", description="Its currency.")


class Settings(BaseSettings):
    """Everything that can be set. Sections are passed on; nobody else reads the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    data_dir: Path = Field(Path("data"), description="Where journal, embedded warehouse, state and logs live.")
    log_format: Literal["text", "json"] = Field("text", description="How processes log.")
    collect: Collect = Field(default_factory=Collect)
    log: Log = Field(default_factory=Log)
    warehouse: Warehouse = Field(default_factory=Warehouse)
    load: Load = Field(default_factory=Load)
    audiences: Audiences = Field(default_factory=Audiences)
    push: Push = Field(default_factory=Push)
    console: Console = Field(default_factory=Console)
    pinterest: Pinterest = Field(default_factory=Pinterest)
    state: State = Field(default_factory=State)
    site: FirstSite = Field(default_factory=FirstSite)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=config_file()))

    @property
    def journal_dir(self) -> Path:
        """Folder of the journal's files."""
        return self.data_dir / "journal"

    @property
    def spool_dir(self) -> Path:
        """Folder of the spool's files."""
        return self.data_dir / "spool"

    @property
    def state_url(self) -> str:
        """SQLAlchemy URL of the state database."""
        return self.state.url or f"sqlite:///{(self.data_dir / 'state.db').absolute()}"

    @property
    def imports_dir(self) -> Path:
        """Where imports sort, and keep how far they came."""
        return self.data_dir / "imports"

    @property
    def snapshot_file(self) -> Path:
        """Where `collect` keeps its last good snapshot."""
        return self.data_dir / "snapshot.json"

    @property
    def tags_dir(self) -> Path:
        """Folder of the versions of the tag that pages may have pinned."""
        return self.data_dir / "tags"

    @property
    def warehouse_password_file(self) -> Path:
        """Where the embedded warehouse keeps the password it made for itself."""
        return self.data_dir / "warehouse.password"

    @property
    def analyst_password_file(self) -> Path:
        """Where the embedded warehouse keeps the password it made for analysts."""
        return self.data_dir / "analyst.password"


def config_file() -> Path | None:
    """The TOML file in force, or None."""
    named = os.environ.get(f"{PREFIX}CONFIG")
    if named:
        return Path(named)
    return Path("pinstream.toml") if Path("pinstream.toml").exists() else None


def load() -> Settings:
    """Read the settings. Raises Misconfigured with one line a fault, each naming its key."""
    path = config_file()
    if path and not path.is_file():
        raise Misconfigured(f"{PREFIX}CONFIG names {path}, which is not a file.")
    unknown = _unknown_env(os.environ)
    if unknown:
        raise Misconfigured("\n".join(unknown))
    try:
        return Settings()
    except tomllib.TOMLDecodeError as exc:
        raise Misconfigured(f"{path} is not valid TOML: {exc}") from exc
    except ValidationError as exc:
        raise Misconfigured("\n".join(_sentence(error) for error in exc.errors())) from exc


def _keys() -> Iterator[tuple[str, Any, type[_Section] | None]]:
    """Every key as (dotted name, field, its section)."""
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, _Section):
            for inner, inner_field in section.model_fields.items():
                yield f"{name}.{inner}", inner_field, section
        else:
            yield name, field, None


def _unknown_env(env: os._Environ[str] | dict[str, str]) -> list[str]:
    known = {PREFIX + key.upper().replace(".", "__") for key, _, _ in _keys()} | {f"{PREFIX}CONFIG"}
    sections = {PREFIX + name.upper() for name in Settings.model_fields}
    return [
        f"{name}: no such setting.{_did_you_mean(name, known)}"
        for name in sorted(env)
        if name.startswith(PREFIX) and name.upper() not in known | sections
    ]


def _sentence(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: no such setting.{_did_you_mean(key, {name for name, _, _ in _keys()})}"
    return f"{key}: {error['msg']}."


def _did_you_mean(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f" Did you mean {near[0]}?" if near else " `pinstream config sample` lists them all."


def shown(settings: Settings) -> dict[str, Any]:
    """The effective settings as plain data, secrets masked."""
    plain: dict[str, Any] = json.loads(settings.model_dump_json())
    masked = {"kafka_extra": dict.fromkeys(plain["log"]["kafka_extra"], "**********")}
    plain["log"].update(masked)
    if "://" in plain["state"]["url"] and "@" in plain["state"]["url"]:
        scheme, _, rest = plain["state"]["url"].partition("://")
        plain["state"]["url"] = f"{scheme}://**********@{rest.rpartition('@')[2]}"
    return plain


def sample() -> str:
    """A TOML file with every key, its meaning and its default."""
    lines = [
        "# pinstream.toml: every setting with its default. Environment variables win:",
        "# PINSTREAM_LOG__KIND=kafka sets kind in [log].",
    ]
    open_section: type[_Section] | None = None
    for key, field, section in sorted(_keys(), key=lambda item: item[2] is not None):
        if section and section is not open_section:
            open_section = section
            lines += ["", f"# {section.__doc__}", f"[{key.partition('.')[0]}]"]
        lines.append(f"# {field.description}{_choices(field.annotation)}")
        lines.append(f"# {key.rpartition('.')[2]} = {_toml(field.default)}")
    return "\n".join(lines) + "\n"


def _choices(annotation: Any) -> str:
    options = [repr(option) for option in get_args(annotation) if isinstance(option, str)]
    return f" One of {', '.join(options)}." if options else ""


def _toml(value: Any) -> str:
    if isinstance(value, SecretStr):
        return '""'
    if isinstance(value, Path):
        return json.dumps(str(value))
    if isinstance(value, dict):
        return "{}"
    return json.dumps(value)
