"""The daily summary as work: made for each day that ended, kept, and delivered until every target has it.

Promises kept here:
- of each day and location one summary is made, whoever makes it, and missed ones when the daemon returns;
- what a target has taken, and that is written down, is not sent to it again. A process that dies between the two
  sends once more: at least once, not exactly once, is what a mail can promise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import structlog

from rankr_sync import summary as pure
from rankr_sync.config import Config, Summary
from rankr_sync.delivery import Target, Undelivered, read_urls, targets
from rankr_sync.store import SqlStore, summaries
from rankr_sync.summary import day_of, days_to_make, markdown, title

log = structlog.get_logger()

LOOKS_EVERY = timedelta(minutes=1)
"""How often the daemon asks the store whether a summary is to be made or delivered."""

CLAIMED_FOR = timedelta(minutes=15)
"""How long a delivery may take before another process may try."""


@dataclass(frozen=True, slots=True)
class Place:
    """A location as a summary names it, and the time zone of its days."""

    id: str
    name: str
    zone: str


def place_of(store: SqlStore, config: Config, location_id: str) -> Place:
    """What the configuration says of a location, else what the API said; UTC where neither knows its time zone."""
    with store.reading() as tx:
        name, zone = summaries.name_and_zone(tx.connection, location_id)
    said = next((one for one in config.locations if one.id == location_id), None)
    return Place(
        location_id,
        (said.name if said else None) or name or location_id,
        (said.timezone if said else None) or zone or "UTC",
    )


def summarise(store: SqlStore, config: Config, place: Place, day: date, now: datetime) -> pure.Summary:
    """The summary of a day as the store has it now."""
    here, next_ = (day_of(date_, place.zone) for date_ in (day, day + timedelta(days=1)))
    with store.reading() as tx:
        return summaries.summarise(tx.connection, place.id, place.name, here, next_, now, config.streams)


def kept_or_made(store: SqlStore, config: Config, place: Place, day: date, now: datetime) -> pure.Summary:
    """The summary of a day that is kept; of a day that has none, as the store has it now."""
    with store.reading() as tx:
        row = summaries.stored(tx.connection, place.id, day)
    return pure.from_document(row["content"]) if row else summarise(store, config, place, day, now)


def make_missing(store: SqlStore, config: Config, location_id: str, now: datetime) -> list[date]:
    """Make the summaries of this location whose hour has come; returns their days."""
    place = place_of(store, config, location_id)
    with store.reading() as tx:
        since = summaries.first_run_at(tx.connection, location_id)
        earliest = pure.today(now, place.zone) - timedelta(days=pure.CAUGHT_UP)
        made = summaries.days_made(tx.connection, location_id, earliest)
    if since is None:
        return []
    found: list[date] = []
    for day in days_to_make(now, place.zone, time.fromisoformat(config.summary.at), since, made):
        summary = summarise(store, config, place, day.date, now)
        with store.transaction() as tx:
            due_at = now if sends(config.summary) else None
            if summaries.save(tx.connection, summary, due_at):
                found.append(day.date)
    for date_ in found:
        log.info("summary.made", location=location_id, day=date_.isoformat())
    return found


def sends(config: Summary) -> bool:
    """Whether it is configured where to send summaries."""
    return bool(config.urls) or config.urls_file is not None


def targets_of(config: Summary) -> list[Target]:
    """Where summaries are sent. Raises BadConfiguration when the file with the URLs cannot be read."""
    return targets(read_urls([url.get_secret_value() for url in config.urls], config.urls_file))


def deliver_due(
    store: SqlStore,
    location_id: str,
    find_targets: Callable[[], Sequence[Target]],
    now: Callable[[], datetime],
    ended: Callable[[], bool] = lambda: False,
) -> list[Undelivered]:
    """Deliver every summary of a location that is due, each to the targets that do not have it; returns what failed.

    What failed is due again later. Whoever delivers claims the summary first, so of two processes one does.
    """
    failed: list[Undelivered] = []
    while not ended():
        with store.reading() as tx:
            waits = summaries.is_due(tx.connection, location_id, now())
        if not waits:
            break
        with store.transaction() as tx:
            claimed = summaries.claim(tx.connection, location_id, now(), now() + CLAIMED_FOR)
        if claimed is None:
            break
        failed += _deliver(store, claimed, find_targets(), now, ended)
    return failed


def _deliver(
    store: SqlStore,
    delivery: summaries.Delivery,
    to: Sequence[Target],
    now: Callable[[], datetime],
    ended: Callable[[], bool],
) -> list[Undelivered]:
    summary = pure.from_document(delivery.content)
    subject, body = title(summary), markdown(summary, heading=False)
    has_it, failed = list(delivery.delivered_to), list[Undelivered]()
    if not to:
        failed.append(Undelivered("summary.urls_file names no target", hint="write an apprise URL into it"))
    for target in to:
        if target.id in has_it:
            continue
        if ended():
            return failed  # the rest when the claim lapses
        try:
            target.send(subject, body)
        except Undelivered as error:
            failed.append(error)
            continue
        has_it.append(target.id)
        with store.transaction() as tx:
            summaries.note_delivered_to(tx.connection, delivery, has_it)
    where = {"location": delivery.location_id, "day": delivery.day.isoformat()}
    if not failed:
        with store.transaction() as tx:
            summaries.note_delivered(tx.connection, delivery, now())
        log.info("summary.delivered", **where, targets=len(has_it))
        return failed
    error_words = "; ".join(error.message for error in failed)
    again_at = pure.next_attempt(now(), delivery.made_at, delivery.attempts)
    with store.transaction() as tx:
        summaries.note_undelivered(tx.connection, delivery, error_words, again_at)
    again = again_at.isoformat(timespec="seconds") if again_at else "never"
    log.warning("summary.undelivered", **where, error=error_words, attempts=delivery.attempts, again=again)
    return failed
