"""The commands that talk to the API: backfill and run."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from rankr_sync.app import App, build, former_rows
from rankr_sync.cli import common, progress, show
from rankr_sync.cli.common import ConfigOption, DebugOption, LocationOption, VerboseOption
from rankr_sync.config import Config, load
from rankr_sync.errors import BadConfiguration, RankrSyncError
from rankr_sync.status_page.words import many
from rankr_sync.streams import STREAMS

if TYPE_CHECKING:
    from rankr_sync.cli.dry_run import Outcome

BACKFILL_HELP = (
    "Copy everything once. Run again after an interruption, it goes on where it was; after a complete copy, it"
    " starts a new full pass.\n\n"
    + common.example("rankr-sync backfill", "rankr-sync backfill --stream notes --location ve9EPM428h8vShlRW1KT")
)
RUN_HELP = (
    "Keep the mirror fresh, for ever. SIGTERM or Ctrl-C ends it, all saved; SIGHUP reads the configuration again.\n\n"
    + common.example(
        "rankr-sync run",
        "rankr-sync run --dry-run",
        "RANKR_SYNC_LOG__FORMAT=json rankr-sync run --config /etc/rankr-sync.toml",
    )
)


def backfill(
    config: ConfigOption = None,
    location: LocationOption = None,
    stream: Annotated[
        list[str] | None, typer.Option("--stream", help=f"Only this stream, repeatable: {', '.join(STREAMS)}.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin again, whatever was done before.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Fetch and compare, show what would be written, write nothing.")
    ] = False,
    confirm_deletions: Annotated[
        bool, typer.Option("--confirm-deletions", help="Let deletions through that the brake holds.")
    ] = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Copy everything once; see BACKFILL_HELP."""
    settings = common.configured(config)
    wish = Wish(_chosen_streams(settings, stream), location, restart, dry_run, confirm_deletions)
    common.run_until_done(lambda stop: backfill_all(settings, wish, stop))


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person wants of a backfill."""

    streams: list[str]
    location: str | None = None
    restart: bool = False
    dry_run: bool = False
    confirm_deletions: bool = False


async def backfill_all(config: Config, wish: Wish, stop: asyncio.Event) -> None:
    """Backfill every chosen location side by side, show it, and raise the last error if there was one."""
    unread = 0
    errors: list[RankrSyncError] = []
    with progress.shown() as (show_progress, shown_of):
        async with build(
            config,
            stop=stop,
            location=wish.location,
            on_progress=show_progress,
            dry_run=wish.dry_run,
            confirm_deletions=wish.confirm_deletions,
        ) as app:
            shown_of(app)

            async def one(location_id: str) -> int:
                sync = app.locations[location_id]
                async with app.leases[location_id].held():
                    await sync.learn()
                    return await sync.backfill(wish.streams, restart=wish.restart)

            # Side by side: each location has its own budget, and one that is refused does not stop the others.
            for result in await asyncio.gather(*map(one, app.locations), return_exceptions=True):
                if isinstance(result, RankrSyncError):
                    errors.append(result)
                elif isinstance(result, BaseException):
                    raise result
                else:
                    unread += result
            done = {id_: dict(sync.context.progress.streams) for id_, sync in app.locations.items()}
            former = {id_: former_rows(app.store, config, id_) for id_ in app.locations}
            dry = await _outcomes(app) if wish.dry_run else []
    _show(dry)
    for id_, streams in done.items():
        for name, tally in streams.items():
            words = (
                f"{tally.fetched:,} read, {tally.inserted:,} new, {tally.updated:,} changed, {tally.deleted:,} gone,"
                f" {tally.rejected:,} rejected, {many(tally.requests, 'request')}"
            )
            typer.echo(f"{id_} {name}: {words}{' (nothing was written)' if wish.dry_run else ''}", err=True)
    for id_, rows in former.items():
        if rows:
            typer.echo(f"{id_} {show.former(rows)}", err=True)
    common.raise_last(errors)
    if unread:
        typer.echo(f"error: {unread:,} contacts could not be read; they are due again within the hour", err=True)
        typer.echo("  -> rankr-sync status, or run the same command again", err=True)
        raise typer.Exit(1)


def run(
    config: ConfigOption = None,
    location: LocationOption = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Do once what is due, show what would be written and what is due next, write nothing."
        ),
    ] = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Keep the mirror fresh, for ever; see RUN_HELP."""
    from rankr_sync.reload import Running  # a scheduler and a server, which no other command needs

    if dry_run:
        settings = common.configured(config, quiet=True)
        common.run_until_done(lambda stop: _tick(settings, location, stop))
        return
    running = Running(common.configured(config), lambda: load(config), location)
    asyncio.run(running.until_ended())


async def _tick(config: Config, location: str | None, stop: asyncio.Event) -> None:
    """One tick of the daemon on a scratch copy. Raises the last error if there was one."""
    from rankr_sync.daemon import one_tick

    with progress.shown() as (show_progress, shown_of):
        async with build(config, stop=stop, location=location, on_progress=show_progress, dry_run=True) as app:
            shown_of(app)
            errors = await one_tick(app)
            dry = await _outcomes(app, daemon=True)
    _show(dry)
    common.raise_last(errors.values())


async def _outcomes(app: App, *, daemon: bool = False) -> "list[Outcome]":
    from rankr_sync.cli import dry_run  # it knows the daemon, whose APScheduler no other command needs

    return await dry_run.outcomes(app, datetime.now(UTC), daemon=daemon)


def _show(outcomes: "list[Outcome]") -> None:
    from rankr_sync.cli.dry_run import show_outcome

    for one in outcomes:
        show_outcome(one)


def _chosen_streams(config: Config, wanted: list[str] | None) -> list[str]:
    for name in wanted or ():
        if name not in STREAMS:
            raise BadConfiguration(f"there is no stream {name!r}", hint=f"use one of: {', '.join(STREAMS)}")
    return [name for name in STREAMS if name in (wanted or config.streams)]
