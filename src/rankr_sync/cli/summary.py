"""The command that tells of a day: what came, changed and went, what is due, and what sync had trouble with."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import typer

from rankr_sync import daily
from rankr_sync import summary as pure
from rankr_sync.app import location_id_of, open_store
from rankr_sync.cli import common, show
from rankr_sync.cli.common import ConfigOption, DebugOption, LocationOption, VerboseOption
from rankr_sync.config import Config
from rankr_sync.delivery import Undelivered
from rankr_sync.errors import BadConfiguration, NotFound
from rankr_sync.spans import ago
from rankr_sync.store import SqlStore, summaries
from rankr_sync.store.upkeep import stored_locations

SUMMARY_HELP = (
    "Tell of a day: contacts, tasks, notes, appointments, and what sync itself had trouble with. Days are those of each"
    " location's time zone. Asks the store, never the API.\n\n"
    + common.example(
        "rankr-sync summary",
        "rankr-sync summary --date today --format markdown",
        "rankr-sync summary --date 2026-11-27 --send",
    )
)

FORMATS = ("text", "markdown", "json")


def summary(
    config: ConfigOption = None,
    date_: Annotated[
        str, typer.Option("--date", help="Which day: yesterday, today (so far), or a date as 2026-11-27.")
    ] = "yesterday",
    location: LocationOption = None,
    format_: Annotated[str, typer.Option("--format", help=f"One of: {', '.join(FORMATS)}.")] = "text",
    send: Annotated[
        bool, typer.Option("--send", help="Also send it to summary.urls, unless it was sent already.")
    ] = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Tell of a day; see SUMMARY_HELP."""
    settings, now = common.configured(config, quiet=True), datetime.now(UTC)
    if format_ not in FORMATS:
        raise BadConfiguration(f"there is no format {format_!r}", hint=f"use one of: {', '.join(FORMATS)}")
    if send and not daily.sends(settings.summary):
        raise BadConfiguration(
            "it is not configured where to send summaries",
            hint="set RANKR_SYNC_SUMMARY__URLS_FILE to a file with apprise URLs, or summary.urls",
        )
    store = open_store(settings)
    ids = [location_id_of(store, settings, location)] if location else [one.id for one in settings.locations]
    places = [daily.place_of(store, settings, id_) for id_ in ids or stored_locations(store) if id_]
    if not places:
        raise NotFound("the store is empty", hint="rankr-sync backfill")
    days = [_day(date_, now, place.zone, ended=send) for place in places]
    found = [daily.kept_or_made(store, settings, place, day, now) for place, day in zip(places, days, strict=True)]
    failed = _send(store, settings, found) if send else []
    _show(store, found, format_)
    store.close()
    if failed:
        raise failed[0]


def _day(wanted: str, now: datetime, zone: str, *, ended: bool) -> date:
    today = pure.today(now, zone)
    try:
        day = {"today": today, "yesterday": today - timedelta(days=1)}.get(wanted) or date.fromisoformat(wanted)
    except ValueError:
        raise BadConfiguration(
            f"{wanted!r} is no date", hint="write yesterday, today, or a date as 2026-11-27"
        ) from None
    if day > today:
        raise BadConfiguration(f"{wanted} has not begun", hint="nothing is known of it yet")
    if ended and day == today:
        raise BadConfiguration("only the summary of a day that has ended is sent", hint="leave out --date today")
    return day


def _send(store: SqlStore, config: Config, found: list[pure.Summary]) -> list[Undelivered]:
    """Keep and deliver these; returns what failed."""
    failed: list[Undelivered] = []
    for one in found:
        now = datetime.now(UTC)
        with store.transaction() as tx:
            if not summaries.save(tx.connection, one, now):
                summaries.wish_delivery(tx.connection, one.location_id, one.day.date, now)
        failed += daily.deliver_due(
            store, one.location_id, lambda: daily.targets_of(config.summary), lambda: datetime.now(UTC)
        )
    for one in found:
        row = _row(store, one)
        if row is not None and row["delivered_at"] is not None:
            typer.echo(f"{one.location_id}: sent {ago(row['delivered_at'], datetime.now(UTC))}", err=True)
    return failed


def _row(store: SqlStore, one: pure.Summary) -> dict[str, Any] | None:
    with store.reading() as tx:
        return summaries.stored(tx.connection, one.location_id, one.day.date)


def _show(store: SqlStore, found: list[pure.Summary], format_: str) -> None:
    if format_ == "json":
        show.as_json([_document(one, _row(store, one)) for one in found])
    else:
        render = pure.markdown if format_ == "markdown" else pure.text
        print("\n".join(render(one) for one in found), end="")


def _document(one: pure.Summary, row: dict[str, Any] | None) -> dict[str, Any]:
    kept = {name: row[name] if row else None for name in ("delivered_at", "delivery_error")}
    return pure.as_document(one) | {"whole": one.whole, "kept": row is not None} | kept
