"""The first five minutes: ask for token and location, try them, and write a `config.toml` that works."""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from rankr_sync.app import api_alone
from rankr_sync.cli import common, plan
from rankr_sync.cli.common import DebugOption
from rankr_sync.config import Api, Config, Database, Location
from rankr_sync.engine.context import URGENT
from rankr_sync.errors import BadConfiguration, NotFound, RequestRefused, ScopeMissing
from rankr_sync.highlevel import HighLevel
from rankr_sync.model import Request
from rankr_sync.store.connect import location_of
from rankr_sync.store.scratch import scratch_copy
from rankr_sync.streams import OWNER, reference
from rankr_sync.visits import Bounds

INIT_HELP = (
    "Set up: asks for a token and a location, tries them, and writes a configuration that works. The token goes into a"
    " file of its own that only you can read. Without a terminal: --token-file, --location and --yes.\n\n"
    + common.example(
        "rankr-sync init",
        "rankr-sync init --token-file token --location ve9EPM428h8vShlRW1KT --yes",
    )
)

TOKEN_FILE = "highlevel_token"  # noqa: S105 - a file's name
CLOSED = (ScopeMissing, RequestRefused, NotFound)


@dataclass(frozen=True, slots=True)
class Account:
    """What a first look at a location found; None where that is closed to the token."""

    contacts: int | None
    name: str | None
    timezone: str | None


def init(
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="A file that holds the token; else it is asked for.")
    ] = None,
    location: Annotated[str | None, typer.Option("--location", help="The id of the location (sub-account).")] = None,
    database: Annotated[str | None, typer.Option("--database", help="Database URL.")] = None,
    output: Annotated[Path, typer.Option("--output", help="The file to write.")] = Path("config.toml"),
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: take the defaults, overwrite.")] = False,
    debug: DebugOption = False,
) -> None:
    """Set up; see INIT_HELP."""
    base = Config()  # the environment over the defaults; what an older file says is about to be replaced
    if yes and (token_file is None or location is None):
        raise BadConfiguration(
            "with --yes the token and the location must be given", hint="add --token-file FILE and --location ID"
        )
    if output.exists() and not yes and not _confirmed(f"{output} exists. Overwrite it?"):
        raise BadConfiguration(f"{output} exists and was left as it is", hint="name another file with --output FILE")
    token = _token(token_file)
    id_ = location or _asked("Location id (the part after /location/ in the address of your HighLevel pages)")
    config = _config(base, token, id_, database or base.database.url)
    account = common.run_until_done(lambda stop: _look(config))
    print(f"The token works. {_described(account)}")
    if database is None and not yes:
        config = _config(base, token, id_, _asked("Database", default=base.database.url))
    location_of(config.database.url)  # refuses what is no database URL, before anything is written
    zone = account.timezone
    if zone is None and not yes:
        zone = _asked("Time zone of the location, such as America/New_York", default="UTC")
    if zone is not None:
        config = _config(base, token, id_, config.database.url, zone)  # refuses what is no time zone
    if token_file is None:
        token_file = output.with_name(TOKEN_FILE)
        _write(token_file, f"{token}\n")
        print(f"Wrote the token to {token_file}, which only you can read.")
    max_age = _max_age(config, account.contacts or 0)
    _write(output, _toml(config, token_file, account, zone if account.timezone is None else None, max_age))
    print(f"Wrote {output}. Next:\n")
    option = "" if output == Path("config.toml") else f" --config {output}"
    for command in ("check", "backfill", "run"):
        print(f"  rankr-sync {command}{option}")


def _config(base: Config, token: str, id_: str, database: str, zone: str | None = None) -> Config:
    """The configuration to try. Raises BadConfiguration for an id or a zone that cannot be one."""
    try:
        where = Location(id=id_, timezone=zone)
    except ValueError:
        raise BadConfiguration(
            f"{id_!r} is no location id, or {zone!r} no time zone", hint="an id looks like ve9EPM428h8vShlRW1KT"
        ) from None
    api = base.api.model_copy(update={"token": SecretStr(token), "token_file": None})
    changes = {"api": api, "locations": (where,), "database": Database(url=database)}
    return base.model_copy(update=changes)


def _token(file: Path | None) -> str:
    if file is None:
        return _asked("Private integration token (not shown)", hidden=True)
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise BadConfiguration(f"the token file {file} cannot be read", hint="check --token-file") from None


def _asked(question: str, *, default: str | None = None, hidden: bool = False) -> str:
    _need_terminal()
    return str(typer.prompt(question, default=default, hide_input=hidden)).strip()


def _confirmed(question: str) -> bool:
    _need_terminal()
    return typer.confirm(question, default=False)


def _need_terminal() -> None:
    if not sys.stdin.isatty():
        raise BadConfiguration(
            "there is no terminal to ask on", hint="rankr-sync init --token-file FILE --location ID --yes"
        )


# -- the first look ----------------------------------------------------------------------------------------


async def _look(config: Config) -> Account:
    """Try the token. Raises AskOwner, or whatever keeps the contacts from being listed."""
    [location] = config.locations
    async with api_alone(config, location) as source:
        contacts, error = None, None
        for walk in OWNER.walks:
            begin = walk.begin(None)
            try:
                answer = await source.fetch(walk.request(location.id, begin), priority=URGENT, hurried=True)
            except CLOSED as refused:
                error = refused
                continue
            page = walk.parse(begin, answer.payload)
            contacts, error = (len(page.records) if page.total is None else page.total), None
            break
        if error is not None:
            raise error
        found = await _optional(source, reference.location_request(location.id))
    row = reference.location_parse(location.id, found) if found is not None else {}
    return Account(contacts, row.get("name"), row.get("timezone"))


async def _optional(source: HighLevel, request: Request) -> dict[str, object] | None:
    try:
        return (await source.fetch(request, priority=URGENT, hurried=True)).payload
    except CLOSED:
        return None


def _described(account: Account) -> str:
    name = f"{account.name}: " if account.name else ""
    zone = f", time zone {account.timezone}" if account.timezone else ""
    return f"{name}{account.contacts or 0:,} contacts{zone}."


# -- what is written ---------------------------------------------------------------------------------------


def _max_age(config: Config, contacts: int) -> timedelta:
    """The bound on age that the quota buys for so many contacts: the default, or what is longer."""
    [location], now, usual = config.locations, datetime.now(UTC), config.visits.max_age
    wish = plan.Wish(contacts, Bounds(config.visits.min_age, usual), config.visits.share / 100)
    with tempfile.TemporaryDirectory(prefix="rankr-sync-init-") as folder:
        nothing = f"sqlite:///{folder}/nothing.db"  # a store in which nothing was learned yet
        with scratch_copy(nothing, None, config.mapping, lambda: now) as store, store.reading() as tx:
            found = plan.plan_of(tx, config, location.id, wish, now) if contacts else None
    if found is None:
        return usual
    print(f"Schedule: {found.requests:,.0f} requests a day, of {found.daily_limit:,}. {found.answer}")
    shortest = found.one_pass.shortest if found.visited else None
    return usual if shortest is None or shortest <= usual else plan.rounded_up(shortest)


def _toml(config: Config, token_file: Path, account: Account, zone: str | None, max_age: timedelta) -> str:
    """The file: only what differs from the defaults, and what a person will look for."""
    usual = Api()
    [location] = config.locations
    lines = [
        "# Written by rankr-sync init. Every other key, with its default: config.example.toml.",
        "# Each can be set from the environment instead, e.g. RANKR_SYNC_SCHEDULE__POLL=30s.",
        "",
        "[api]",
        f"token_file = {_quoted(token_file.resolve())}  # read again when it changes",
    ]
    for key in ("base_url", "version", "rate_limit"):
        value = getattr(config.api, key)
        if value != getattr(usual, key):
            lines.append(f"{key} = {_quoted(value)}")
    lines += ["", "[[locations]]", f"id = {_quoted(location.id)}"]
    if account.name:
        lines.append(f"name = {_quoted(account.name)}")
    if zone is not None:
        lines.append(f"timezone = {_quoted(zone)}  # the token may not read the location's own")
    lines += ["", "[database]", f"url = {_quoted(config.database.url)}"]
    if max_age != config.visits.max_age:
        lines += ["", "[visits]", f'max_age = "{plan.typed(max_age)}"  # what the quota buys: rankr-sync plan']
    return "\n".join(lines) + "\n"


def _quoted(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)  # TOML's basic strings are JSON's


def _write(file: Path, content: str) -> None:
    """Write a file as a whole or not at all, for its owner only. Raises BadConfiguration where that is not possible."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # made with mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as partial:
                partial.write(content)
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BadConfiguration(
            f"{file} cannot be written: {error.strerror}", hint="choose a place you may write to with --output FILE"
        ) from None
