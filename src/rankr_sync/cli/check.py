"""The doctor: what works, what does not, and what to do about it. One line each; the looks are in `checks`."""

import asyncio
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime

import typer

from rankr_sync.access import LOG_IN
from rankr_sync.app import api_alone, build, chosen_locations
from rankr_sync.cli import common, show
from rankr_sync.cli.checks import OK, Finding, api, database, of_error, service
from rankr_sync.cli.common import ConfigOption, DebugOption, JsonOption, LocationOption, VerboseOption
from rankr_sync.config import Config, Location, check_transport
from rankr_sync.errors import GrantMissing, Interrupted, RankrSyncError
from rankr_sync.status_page.words import many

CHECK_HELP = (
    "A doctor: configuration, database, credentials and scope of each endpoint, clock, quota. Writes nothing but what"
    " its requests cost. Exit code 1 if something would stop a sync, 2 where that is the configuration, 3 where"
    " credentials or a scope are refused.\n\n"
    + common.example("rankr-sync check", "rankr-sync check --location ve9EPM428h8vShlRW1KT --json")
)


def check(
    config: ConfigOption = None,
    location: LocationOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """A doctor."""
    settings = common.configured(config, quiet=True)
    findings = common.run_until_done(lambda stop: examine(settings, location, stop, quiet=as_json))
    code = max(one.exit_code for one in findings)
    if as_json:
        show.as_json({"at": datetime.now(UTC), "exit_code": code, "findings": [asdict(one) for one in findings]})
    if code:
        raise typer.Exit(code)


async def examine(config: Config, location: str | None, stop: asyncio.Event, *, quiet: bool = False) -> list[Finding]:
    """Everything there is to find, each line printed as soon as it is known. Raises Interrupted when asked to end."""
    findings: list[Finding] = []

    def say(found: Iterable[Finding]) -> None:
        for one in found:
            findings.append(one)
            if not quiet:
                _print(one)

    chosen, found = _configuration(config, location)
    say(found)
    on_store, usable = database.examine(config, [one.id for one in chosen], datetime.now(UTC))
    at_work = not chosen or any(database.tells_of_work(one) for one in on_store)
    say(service.examine(config, at_work=at_work))
    say(on_store)
    if not chosen and found[-1].verdict == OK:
        chosen, found = await _opened(config, stop, usable=usable)
        say(found)
    for one in chosen:
        say(await _location(config, one, stop, with_store=usable))
    return findings


async def _opened(config: Config, stop: asyncio.Event, *, usable: bool) -> tuple[list[Location], list[Finding]]:
    """The locations that OAuth logins open, where none is configured."""
    subject = "OAuth"
    try:
        if not usable:
            raise GrantMissing("there is no store that holds an OAuth login yet", hint=LOG_IN)
        async with build(config, stop=stop) as app:
            found = [Location(id=id_) for id_ in app.locations]
    except RankrSyncError as error:
        return [], [of_error(error, subject)]
    return found, [Finding(OK, subject, f"{many(len(found), 'location')} open")]


def _configuration(config: Config, location: str | None) -> tuple[list[Location], list[Finding]]:
    subject = "configuration"
    try:
        chosen = chosen_locations(config, location)
    except RankrSyncError as error:
        return [], [of_error(error, subject)]
    try:
        check_transport(config)
    except RankrSyncError as error:
        return [], [of_error(error, subject)]
    words = many(len(chosen), "location") if chosen else "locations as OAuth logins open them"
    return chosen, [Finding(OK, subject, f"{words}, streams {', '.join(config.streams)}")]


async def _location(config: Config, location: Location, stop: asyncio.Event, *, with_store: bool) -> list[Finding]:
    """What the API says. Beside a process at work its rate budget is shared, for which the store is needed."""
    try:
        if not with_store:
            async with api_alone(config, location) as source:
                return await api.examine(config, location, source)
        async with (
            build(config, stop=stop, location=location.id) as app,
            app.leases[location.id].held_or_lent(api.MOST_REQUESTS),
        ):
            return await api.examine(config, location, app.sources[location.id])
    except Interrupted:
        raise
    except RankrSyncError as error:
        return [of_error(error, "API", location=location.id)]


def _print(one: Finding) -> None:
    subject = f"{one.location}: {one.subject}" if one.location else one.subject
    print(f"{one.verdict:<8}{subject:<46} {one.words}", flush=True)
    if one.hint:
        print(f"{'':<8}-> {one.hint}", flush=True)
