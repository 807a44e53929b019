"""Configuration: a TOML file and the environment over it, read once into a frozen `Config`.

The defaults are here and nowhere else. Unknown keys are errors that name the nearest known one. Below
`app` nothing knows that a configuration exists.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from rankr_sync.errors import BadConfiguration
from rankr_sync.mapping import FieldRule, check_target
from rankr_sync.pacing import RateLimit
from rankr_sync.streams import STREAMS
from rankr_sync.streams.base import FILLED_BY_US

PREFIX = "RANKR_SYNC_"
EVERY_KEY = "see config.example.toml for every key, then run: rankr-sync check"
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What can be asked of the API by its id; an address or a number cannot."""
REAL_API = "https://services.leadconnectorhq.com"
_NOT_OURS = re.compile(r"RANKR_SYNC_(CONFIG|TEST_\w+|(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_\w+)?))\Z")
"""Variables that are no configuration: the file's path, the tests', and Kubernetes' links to services named like us
(`rankr-sync`, `rankr-sync-postgresql`)."""
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?\Z")
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def parse_duration(value: Any) -> Any:
    """`90s`, `15m`, `1h30m`, `7d`, or a number of seconds."""
    if isinstance(value, timedelta):
        return value
    written = value.strip() if isinstance(value, str) else value
    try:
        if isinstance(written, (int, float)) and not isinstance(written, bool) and written >= 0:
            return timedelta(seconds=written)
        if isinstance(written, str) and re.fullmatch(r"\d+(\.\d+)?", written):
            return timedelta(seconds=float(written))
        if isinstance(written, str) and (match := _DURATION.match(written)) and any(match.groups()):
            days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
            return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        raise ValueError("a duration cannot be as long as that") from None
    raise ValueError("write a duration as 90s, 15m, 24h or 7d")


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Several words: a list in the file, separated by commas in the environment."""


class Section(BaseModel):
    """A table of the file: no unknown keys, no changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Api(Section):
    """How the API is reached."""

    token: SecretStr | None = None
    token_file: Path | None = None
    base_url: str = REAL_API
    version: str = "2021-07-28"
    listing: Literal["auto", "list", "search"] = "auto"
    rate_limit: str = "100/10s"
    concurrency: int = Field(default=32, ge=1, le=200)
    connect_timeout: Duration = timedelta(seconds=10)
    read_timeout: Duration = timedelta(seconds=30)
    total_timeout: Duration = timedelta(seconds=60)
    attempts: int = Field(default=6, ge=1, le=20)
    retry_for: Duration = timedelta(minutes=2)
    insecure_hosts: Words = ()

    @field_validator("rate_limit")
    @classmethod
    def _is_rate(cls, value: str) -> str:
        RateLimit.parse(value)
        return value

    @field_validator("version")
    @classmethod
    def _is_version(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9.-]{1,32}", value):
            raise ValueError("a version is written as 2021-07-28 or v3")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        parts = urlsplit(value)
        superfluous = parts.query or parts.fragment or parts.username
        try:
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # the port is no number
            usable = False
        if not usable or superfluous:
            raise ValueError("write a URL such as https://services.leadconnectorhq.com")
        return value.rstrip("/")


class Location(Section):
    """One location (sub-account) to mirror; `token` where it has one of its own."""

    id: str
    name: str | None = None
    token: SecretStr | None = None
    token_file: Path | None = None
    timezone: str | None = None

    @field_validator("id")
    @classmethod
    def _is_id(cls, value: str) -> str:
        if not ID.fullmatch(value):
            raise ValueError("this is no location id; one looks like ve9EPM428h8vShlRW1KT")
        return value

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ZoneInfo(value)
            except (ValueError, OSError, ZoneInfoNotFoundError):
                raise ValueError("write a time zone as Europe/Zurich") from None
        return value


class Database(Section):
    """Where the mirror is kept."""

    url: str = "sqlite:///rankr.db"


class Schedule(Section):
    """How often the daemon does what. Walks that would cost too much of the day's quota run less often."""

    poll: Duration = timedelta(minutes=1)
    full_pass: Duration = timedelta(hours=24)
    walk: Duration = timedelta(minutes=15)
    overlap: Duration = timedelta(seconds=60)


class Visits(Section):
    """How contacts are visited for what costs one request each: no sooner and no later, unless a signal says so, and
    with which part of the day's quota, in percent.
    """

    min_age: Duration = timedelta(minutes=15)
    max_age: Duration = timedelta(days=7)
    share: float = Field(default=90.0, gt=0, le=99)


class Retention(Section):
    """How long tombstones, and the records of runs, are kept before `db purge` removes them."""

    deleted: Duration = timedelta(days=90)
    runs: Duration = timedelta(days=30)


class Deletions(Section):
    """How careful deletions are: a pass that would remove more than `brake` percent of the contacts removes nothing."""

    brake: float = Field(default=5.0, ge=0, le=100)


class Privacy(Section):
    """Paths that are removed from every payload before it is stored."""

    drop: Words = (
        "ssn",
        "attributionSource.ip",
        "attributionSource.userAgent",
        "lastAttributionSource.ip",
        "lastAttributionSource.userAgent",
        "attributions.ip",
        "attributions.userAgent",
    )


class Only(Section):
    """A mirror of a part: only contacts with one of these tags, or of one of these businesses; empty: all."""

    tags: Words = ()
    businesses: Words = ()


class OAuth(Section):
    """OAuth 2.0 instead of a private integration token, and what its stored tokens are encrypted with."""

    client_id: str | None = None
    client_secret: SecretStr | None = None
    client_secret_file: Path | None = None
    redirect_uri: str | None = None
    scopes: Words = (
        "contacts.readonly",
        "locations.readonly",
        "locations/tasks.readonly",
        "locations/customFields.readonly",
    )
    authorize_url: str = "https://marketplace.gohighlevel.com/v2/oauth/chooselocation"
    key: SecretStr | None = None
    key_file: Path | None = None
    keyring: bool = False


class Http(Section):
    """Where the daemon serves its status page, health and metrics, and who may look. `listen = "off"`: nowhere."""

    listen: str = "127.0.0.1:8700"
    password: SecretStr | None = None
    password_file: Path | None = None
    token: SecretStr | None = None
    token_file: Path | None = None
    allowed_hosts: Words = ()


class Summary(Section):
    """The daily summary: of the day that ended, made `at` this time of each location, and sent to `urls` (apprise)."""

    at: str = "07:00"
    urls: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)] = ()
    urls_file: Path | None = None

    @field_validator("at")
    @classmethod
    def _is_time(cls, value: str) -> str:
        if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
            raise ValueError("write a time of day as 07:00")
        return value


class Log(Section):
    """How the program speaks on standard error."""

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


def _locations(value: Any) -> Any:
    if isinstance(value, dict):
        raise ValueError("write [[locations]], in double brackets, once for each location")
    parts = _split(value)
    return [{"id": part} if isinstance(part, str) else part for part in parts] if isinstance(parts, list) else parts


class Config(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,  # `TOKEN=${TOKEN:-}` in a compose file means "not set"
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    api: Api = Api()
    locations: Annotated[tuple[Location, ...], NoDecode, BeforeValidator(_locations)] = ()
    streams: Words = tuple(STREAMS)
    database: Database = Database()
    schedule: Schedule = Schedule()
    visits: Visits = Visits()
    retention: Retention = Retention()
    deletions: Deletions = Deletions()
    privacy: Privacy = Privacy()
    only: Only = Only()
    oauth: OAuth = OAuth()
    http: Http = Http()
    summary: Summary = Summary()
    log: Log = Log()
    mapping: dict[str, dict[str, FieldRule]] = {}

    @field_validator("streams")
    @classmethod
    def _known_streams(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in STREAMS:
                raise ValueError(f"{name!r} is no stream; there are {', '.join(STREAMS)}")
        return tuple(name for name in STREAMS if name in value)

    @field_validator("locations")
    @classmethod
    def _distinct(cls, value: tuple[Location, ...]) -> tuple[Location, ...]:
        if len({location.id for location in value}) < len(value):
            raise ValueError("the same location is listed twice")
        return value

    @field_validator("only")
    @classmethod
    def _can_be_seen(cls, value: Only, info: ValidationInfo) -> Only:
        dropped = info.data["privacy"].drop if "privacy" in info.data else ()
        for key, path in (("tags", "tags"), ("businesses", "businessId")):
            if getattr(value, key) and path in dropped:
                raise ValueError(f"{key} cannot be told: privacy.drop removes {path!r} from every contact")
        return value

    @field_validator("mapping")
    @classmethod
    def _known_targets(cls, value: dict[str, dict[str, FieldRule]]) -> dict[str, dict[str, FieldRule]]:
        for name, rules in value.items():
            if name not in STREAMS:
                raise ValueError(f"{name!r} is no stream; there are {', '.join(STREAMS)}")
            stream = STREAMS[name]
            for target in rules:
                check_target(target, stream.columns, FILLED_BY_US | stream.since.keys())
            for target, rule in rules.items():
                stream.check_rule(target, rule)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file (which arrives as arguments)."""
        return env_settings, init_settings

    @property
    def rate_limit(self) -> RateLimit | None:
        """The limit that is assumed until the API's headers tell."""
        return RateLimit.parse(self.api.rate_limit)


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read the configuration: `path`, else RANKR_SYNC_CONFIG, else ./config.toml if it exists; then the environment.

    Raises BadConfiguration with a sentence that names the key.
    """
    environ = os.environ if environ is None else environ
    file = path or (Path(environ["RANKR_SYNC_CONFIG"]) if environ.get("RANKR_SYNC_CONFIG") else None)
    named = file is not None
    file = file or Path("config.toml")
    content = _read(file) if named or file.exists() else {}
    _refuse_unknown_variables(environ)
    try:
        config = Config(**content)
    except ValidationError as error:
        raise BadConfiguration(
            "; ".join(_sentences(error, file if content else None)),
            hint=EVERY_KEY,
        ) from None
    except ValueError as error:
        raise BadConfiguration(f"the configuration cannot be read: {error}", hint=EVERY_KEY) from None
    return config


def check_transport(config: Config) -> None:
    """Refuse to send a token over plain http to another machine. Raises BadConfiguration."""
    parts = urlsplit(config.api.base_url)
    host = parts.hostname or ""
    if parts.scheme == "http" and host not in LOCAL_HOSTS and host not in config.api.insecure_hosts:
        raise BadConfiguration(
            f"api.base_url is plain http to {host}: the token would travel readable",
            hint=f'use https, or allow it by name with api.insecure_hosts = ["{host}"]',
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfiguration(
            f"the configuration file {file} cannot be read: {error.strerror}",
            hint="give its path with --config FILE or RANKR_SYNC_CONFIG",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"the configuration file {file} is not valid TOML: {error}", hint=EVERY_KEY) from None


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {key.replace(".", "__").upper() for key in _keys(Config) if not key.startswith("locations.")}
    for name in sorted(environ):
        if not name.upper().startswith(PREFIX) or _NOT_OURS.match(name.upper()):
            continue
        rest = name.upper()[len(PREFIX) :]
        if rest not in known and not rest.startswith("MAPPING__"):
            raise BadConfiguration(f"unknown variable {name}{_did_you_mean(rest, known, PREFIX)}", hint=EVERY_KEY)


def _sentences(error: ValidationError, file: Path | None) -> Iterator[str]:
    known = set(_keys(Config))
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        place = [str(part) for part in problem["loc"]]
        key = ".".join(place)
        if problem["type"] == "extra_forbidden":
            bare = ".".join(part for part in place if not part.isdigit())
            if place[0] == "mapping":
                yield f"unknown key {key}{_did_you_mean(place[-1], _RULE_KEYS, '')}"
            else:
                yield f"unknown key {key}{_did_you_mean(bare, known, '')}"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            yield f"{key}: {message}" + (f" (in {file} or the environment)" if file else "")


_RULE_KEYS = {info.alias or name for name, info in FieldRule.model_fields.items()}


def _did_you_mean(word: str, known: set[str], prefix: str) -> str:
    nearest = difflib.get_close_matches(word, known, 1, cutoff=0.0)
    return f"; did you mean {prefix}{nearest[0]}?" if nearest else ""


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        yield prefix + name
        kinds = [info.annotation, *getattr(info.annotation, "__args__", ())]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from _keys(kind, f"{prefix}{name}.")
