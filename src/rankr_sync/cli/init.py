"""The first five minutes: ask for the access and what it opens, try it, and write a `config.toml` that works."""

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from rankr_sync import logs
from rankr_sync.app import api_alone, build, open_store
from rankr_sync.cli import auth, common
from rankr_sync.cli.common import DebugOption, VerboseOption
from rankr_sync.cli.config_file import CLIENT_SECRET_FILE, KEY_FILE, TOKEN_FILE, toml, write
from rankr_sync.cli.first_look import Account, fitting_max_age, look
from rankr_sync.config import Config, Database, Location, check_transport
from rankr_sync.errors import BadConfiguration
from rankr_sync.oauth import keys
from rankr_sync.store.connect import location_of

INIT_HELP = (
    "Set up: asks for a token and a location (or with --oauth for your app, and lets it in), tries them, and writes a"
    " configuration that works. Each secret goes into a file of its own that only you can read. Without a terminal:"
    " --token-file, --location and --yes.\n\n"
    + common.example(
        "rankr-sync init",
        "rankr-sync init --oauth --agency",
        "rankr-sync init --token-file token --location ve9EPM428h8vShlRW1KT --yes",
    )
)


def init(
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="A file that holds the token; else it is asked for.")
    ] = None,
    location: Annotated[str | None, typer.Option("--location", help="The id of the location (sub-account).")] = None,
    oauth: Annotated[bool, typer.Option("--oauth", help="Log in by OAuth 2.0, instead of a token.")] = False,
    agency: Annotated[
        bool, typer.Option("--agency", help="With --oauth: the whole agency, with all of its locations.")
    ] = False,
    database: Annotated[str | None, typer.Option("--database", help="Database URL.")] = None,
    output: Annotated[Path, typer.Option("--output", "--config", help="The file to write.")] = Path("config.toml"),
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: take the defaults, overwrite.")] = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Set up; see INIT_HELP."""
    logs.configure("console", "warning")  # a person reads this; --verbose shows the rest
    base = Config()  # the environment over the defaults; what an older file says is about to be replaced
    if oauth and (token_file is not None or location is not None or yes):
        raise BadConfiguration(
            "--oauth goes without --token-file, --location and --yes: a person logs in, and chooses what it opens",
            hint="rankr-sync init --oauth",
        )
    if agency and not oauth:
        raise BadConfiguration("--agency goes with --oauth", hint="rankr-sync init --oauth --agency")
    if yes and (token_file is None or location is None):
        raise BadConfiguration(
            "with --yes the token and the location must be given", hint="add --token-file FILE and --location ID"
        )
    if output.exists() and not yes and not _confirmed(f"{output} exists. Overwrite it?"):
        raise BadConfiguration(f"{output} exists and was left as it is", hint="name another file with --output FILE")
    if oauth:
        config, accounts = _by_login(base, database, output, agency=agency)
    else:
        config, accounts = _by_token(base, token_file, location, database, output, ask=not yes)
    largest = max(accounts, key=lambda one: one.contacts)
    write(output, toml(config, fitting_max_age(config, largest)))
    print(f"Wrote {output}. Next:\n")
    option = "" if output == Path("config.toml") else f" --config {output}"
    for command in ("check", "backfill", "run"):
        print(f"  rankr-sync {command}{option}")


# -- by a private integration token ------------------------------------------------------------------------


def _by_token(
    base: Config, token_file: Path | None, location: str | None, database: str | None, output: Path, *, ask: bool
) -> tuple[Config, list[Account]]:
    if token_file is None:
        _need_terminal()
        print("To log in by OAuth 2.0 instead of a token: rankr-sync init --oauth\n")
    token = _token(token_file)
    id_ = location or _asked("Location id (the part after /location/ in the address of your HighLevel pages)")
    config = _config(base, token, id_, database or base.database.url)
    account = common.run_until_done(lambda stop: _look(config))
    print(f"The token works. {account.words}")
    if database is None and ask:
        config = _config(base, token, id_, _asked("Database", default=base.database.url))
    location_of(config.database.url)  # refuses what is no database URL, before anything is written
    zone = None
    if account.timezone is None and ask:
        zone = _asked("Time zone of the location, such as America/New_York", default="UTC")
    config = _config(base, token, id_, config.database.url, account.name, zone)  # refuses what is no time zone
    if token_file is None:
        token_file = _secret_file(output, TOKEN_FILE, token, "the token")
    api = config.api.model_copy(update={"token_file": token_file})
    return config.model_copy(update={"api": api}), [account]


def _config(
    base: Config, token: str, id_: str, database: str, name: str | None = None, zone: str | None = None
) -> Config:
    """The configuration to try. Raises BadConfiguration for an id or a zone that cannot be one."""
    try:
        where = Location(id=id_, name=name, timezone=zone)
    except ValueError:
        wrong = f"{id_!r} is no location id" if zone is None else f"{zone!r} is no time zone"
        raise BadConfiguration(
            wrong, hint="an id looks like ve9EPM428h8vShlRW1KT, a time zone like America/New_York"
        ) from None
    api = base.api.model_copy(update={"token": SecretStr(token), "token_file": None})
    oauth = base.oauth.model_copy(update={"client_id": None})
    changes = {"api": api, "oauth": oauth, "locations": (where,), "database": Database(url=database)}
    return base.model_copy(update=changes)


def _token(file: Path | None) -> str:
    if file is None:
        return _asked("Private integration token (not shown)", hidden=True)
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise BadConfiguration(f"the token file {file} cannot be read", hint="check --token-file") from None


async def _look(config: Config) -> Account:
    [location] = config.locations
    async with api_alone(config, location) as source:
        return await look(location.id, source)


# -- by OAuth 2.0 ------------------------------------------------------------------------------------------


def _by_login(base: Config, database: str | None, output: Path, *, agency: bool) -> tuple[Config, list[Account]]:
    """Everything that a login needs, the login itself, and a look at what it opens.

    The secrets are in their files before anybody logs in: a stored token whose key is lost opens nothing.
    """
    oauth = base.oauth
    changes: dict[str, object] = {
        "client_id": oauth.client_id or _asked("Client id of your app in HighLevel's marketplace"),
        "redirect_uri": oauth.redirect_uri or _asked("Redirect URL of the app"),
    }
    secret = None
    if oauth.client_secret is None and oauth.client_secret_file is None:
        secret = _asked("Client secret of the app (not shown)", hidden=True)
    url = database or _asked("Database", default=base.database.url)
    location_of(url)  # refuses what is no database URL, before anything is written
    if secret is not None:
        changes["client_secret_file"] = _secret_file(output, CLIENT_SECRET_FILE, secret, "the client secret")
    if oauth.key is None and oauth.key_file is None and not oauth.keyring:
        file = output.with_name(KEY_FILE)
        changes["key_file"] = (
            file if file.exists() else _secret_file(output, KEY_FILE, keys.new_key(), "a key for the stored tokens")
        )
    api = base.api.model_copy(update={"token": None, "token_file": None})
    config = base.model_copy(
        update={
            "api": api,
            "oauth": oauth.model_copy(update=changes),
            "locations": (),
            "database": Database(url=url),
        }
    )
    check_transport(config)
    with contextlib.closing(open_store(config, may_be_new=True)) as store:
        auth.let_in(config, store, agency=agency)
    accounts = common.run_until_done(lambda stop: _look_at_all(config, stop))
    for account in accounts:
        print(account.words)
    return config, accounts


async def _look_at_all(config: Config, stop: asyncio.Event) -> list[Account]:
    async with build(config, stop=stop) as app:
        return [await look(id_, source) for id_, source in app.sources.items()]


# -- asking ------------------------------------------------------------------------------------------------


def _secret_file(output: Path, name: str, secret: str, what: str) -> Path:
    """Write a secret beside the configuration."""
    file = output.with_name(name)
    write(file, f"{secret}\n")
    print(f"Wrote {what} to {file}, which only you can read.")
    return file


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
