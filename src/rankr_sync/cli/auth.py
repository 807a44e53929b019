"""`auth`: logging in by OAuth 2.0, what is granted, logging out, and the key that stored tokens are encrypted with."""

import asyncio
import contextlib
import json
import sys
import webbrowser
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

import typer

from rankr_sync.access import log_in, open_client
from rankr_sync.app import open_store
from rankr_sync.cli import common
from rankr_sync.cli.common import ConfigOption, DebugOption, JsonOption, NoConfigOption, VerboseOption
from rankr_sync.config import Config, check_transport
from rankr_sync.errors import BadConfiguration
from rankr_sync.oauth import Grant, callback, grants, keys
from rankr_sync.store import SqlStore

app = common.new_app("Log in by OAuth 2.0, instead of a private integration token.")

WAIT = 600.0
"""Seconds for which a person may look at the page."""

LOGIN_HELP = (
    "Let the app in: opens HighLevel's page, where you choose a location (or with --agency the whole agency), and keeps"
    " what it gives, encrypted, in the store.\n\n"
    + common.example("rankr-sync auth login", "rankr-sync auth login --agency")
)
STATUS_HELP = "What is granted, until when, and what went wrong last; no token is shown.\n\n" + common.example(
    "rankr-sync auth status", "rankr-sync auth status --json"
)
LOGOUT_HELP = (
    "Forget tokens: all, or those of one location or agency. The app stays installed in HighLevel until it is removed"
    " there.\n\n" + common.example("rankr-sync auth logout", "rankr-sync auth logout location:ve9EPM428h8vShlRW1KT")
)
KEY_HELP = (
    "Make a key that stored tokens are encrypted with: printed, or with --keyring kept in the system's keyring.\n\n"
    + common.example('export RANKR_SYNC_OAUTH__KEY="$(rankr-sync auth key)"', "rankr-sync auth key --keyring")
)


@app.command(help=LOGIN_HELP)
def login(
    agency: Annotated[bool, typer.Option("--agency", help="The whole agency, with all of its locations.")] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address of the page.")] = False,
    paste: Annotated[bool, typer.Option("--paste", help="Paste the address that the browser was sent to.")] = False,
    config: ConfigOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Let the app in; see LOGIN_HELP."""
    settings = common.configured(config)
    check_transport(settings)
    with contextlib.closing(open_store(settings, may_be_new=True)) as store:
        let_in(settings, store, agency=agency, browser=not no_browser, paste=paste)
    typer.echo("Next: rankr-sync check")


def let_in(config: Config, store: SqlStore, *, agency: bool, browser: bool = True, paste: bool = False) -> None:
    """The whole login with a person, and what it opened. Raises BadConfiguration, TokenRefused or TryLater."""
    ask = _asking(config.oauth.redirect_uri or "", browser=browser, paste=paste)
    _say(asyncio.run(_log_in(config, store, ask, agency)), config)


async def _log_in(config: Config, store: SqlStore, ask: Callable[[str], Awaitable[str]], agency: bool) -> Grant:
    async with open_client(config) as client:
        return await log_in(config, store, client, ask, lambda: datetime.now(UTC), agency=agency)


def _asking(redirect_uri: str, *, browser: bool, paste: bool) -> Callable[[str], Awaitable[str]]:
    """Show the page, and learn where the browser was sent to: by listening on this machine, or from what is pasted."""
    port = None if paste else callback.port_of(redirect_uri)

    async def ask(url: str) -> str:
        if port is None:
            _show(url, browser=browser)
            typer.echo("\nAfterwards the browser is sent to a page that may not load. Paste its whole address here:")
            return await asyncio.to_thread(_pasted)
        [state] = parse_qs(urlsplit(url).query)["state"]
        with callback.listening(port, urlsplit(redirect_uri).path or "/", state) as (_, arrived):
            _show(url, browser=browser)
            return await asyncio.to_thread(callback.wait_for, arrived, WAIT)

    return ask


def _show(url: str, *, browser: bool) -> None:
    typer.echo(f"Open this page and choose what rankr-sync may read:\n\n{url}")
    sys.stdout.flush()
    if browser:
        with contextlib.suppress(webbrowser.Error):
            webbrowser.open(url)


def _pasted() -> str:
    line = sys.stdin.readline()
    if not line.strip():
        raise BadConfiguration("nothing was pasted", hint="rankr-sync auth login")
    return line


def _say(grant: Grant, config: Config) -> None:
    whose = f"agency {grant.company_id}" if grant.location_id is None else f"location {grant.location_id}"
    until = grant.expires_at.isoformat(timespec="minutes")
    typer.echo(f"\nLogged in to {whose}. Its token is good until {until} and is refreshed before it ends.")
    missing = grants.not_granted(config.oauth.scopes, grant.scopes)
    if missing:
        typer.echo(f"Not granted: {', '.join(missing)}. Add them to the app, then log in again.")


@app.command(help=STATUS_HELP)
def status(
    config: ConfigOption = None, json_: JsonOption = False, verbose: VerboseOption = False, debug: DebugOption = False
) -> None:
    """What is granted; see STATUS_HELP."""
    settings = common.configured(config, quiet=True)
    with contextlib.closing(open_store(settings)) as store:
        found = grants.state(store, datetime.now(UTC))
    if json_:
        print(json.dumps([asdict(one) for one in found], default=lambda value: value.isoformat(), indent=2))
        return
    if not found:
        print("nobody is logged in\n  -> rankr-sync auth login")
    for one in found:
        until = one.expires_at.isoformat(timespec="minutes")
        print(f"{one.id}  {one.status}  until {until}  {'refreshed' if one.renews else 'made of its agency'}")
        print(f"  scopes: {', '.join(one.scopes) or 'not told'}")
        if one.error:
            print(f"  last error: {one.error}")
        if one.ended:
            print("  -> rankr-sync auth login")


@app.command(help=LOGOUT_HELP)
def logout(
    grant: Annotated[str | None, typer.Argument(help="location:ID or company:ID, as `auth status` shows them.")] = None,
    config: ConfigOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Forget tokens; see LOGOUT_HELP."""
    settings = common.configured(config, quiet=True)
    with contextlib.closing(open_store(settings)) as store:
        gone = grants.forget(store, None if grant is None else [grant])
    if grant is not None and not gone:
        raise BadConfiguration(f"nobody is logged in to {grant}", hint="rankr-sync auth status")
    for id_ in gone:
        print(f"{id_} is forgotten")
    print("The app stays installed in HighLevel: remove it there too (Settings > Integrations).")


@app.command(help=KEY_HELP)
def key(
    keyring: Annotated[bool, typer.Option("--keyring", help="Keep it in the system's keyring.")] = False,
    config: NoConfigOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a key; see KEY_HELP."""
    made = keys.new_key()
    if keyring:
        keys.save_in_keyring(made)
        print("The key is in the system's keyring: set oauth.keyring = true")
    else:
        print(made)
