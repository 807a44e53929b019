"""The command that answers before anything runs: what will the quota buy, and does a wish fit into it?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from rankr_sync import rates
from rankr_sync.app import WALK_SHARE, chosen_locations, open_store
from rankr_sync.cli import common, show
from rankr_sync.cli.common import ConfigOption, DebugOption, JsonOption, LocationOption, VerboseOption
from rankr_sync.config import Config, Only, parse_duration
from rankr_sync.errors import BadConfiguration
from rankr_sync.freshness import (
    Crowd,
    Listing,
    Pass,
    after_the_first_copy,
    crowd_of,
    forecast,
    full_passes,
    one_pass,
    polls,
    walks,
)
from rankr_sync.pacing import DOCUMENTED_DAILY_LIMIT
from rankr_sync.spans import span
from rankr_sync.store import Transaction, look
from rankr_sync.store.upkeep import stored_locations
from rankr_sync.streams import OWNER, STREAMS
from rankr_sync.visits import Bounds, Trust

PLAN_HELP = (
    "Show what the quota will buy: requests a day, and how long a change waits until it is stored. Asks the store,"
    " never the API. Before the first copy, say how many contacts there are.\n\n"
    + common.example("rankr-sync plan", "rankr-sync plan --contacts 100000 --max-age 6h", "rankr-sync plan --share 60%")
)

ANY = "any"

NOTHING_STORED = "no contact of this location is stored"
HOW_TO_BEGIN = "rankr-sync backfill, or give a number: rankr-sync plan --contacts 100000"


@dataclass(frozen=True, slots=True)
class Row:
    """One way in which a stream is read, what it costs a day, and what it brings. Times are in seconds."""

    stream: str
    how: str
    contacts: int
    changes_a_day: float | None
    requests_a_day: float
    every_seconds: float
    longest_seconds: float
    delay_mean_seconds: float
    delay_p95_seconds: float


@dataclass(frozen=True, slots=True)
class LocationPlan:
    """What is to be expected at one location. `learned`: whether rates of its own contacts are known."""

    id: str
    contacts: int
    visited: int
    daily_limit: int
    share: float
    max_age: timedelta
    rows: tuple[Row, ...]
    budget: float
    learned: bool

    @property
    def requests(self) -> float:
        """All requests a day."""
        return sum(row.requests_a_day for row in self.rows)

    @property
    def one_pass(self) -> Pass:
        """What it costs that nothing is older than `max_age`."""
        return one_pass(self.contacts * self.visited, self.max_age, self.budget)

    @property
    def answer(self) -> str:
        """Whether it fits and what it costs, in a sentence."""
        listings = sum(row.requests_a_day for row in self.rows if row.how != "visits")
        if not self.visited:
            return f"nothing is visited contact by contact: {listings:,.0f} requests a day are all that is spent."
        wanted, limit = self.one_pass, self.daily_limit
        times = wanted.visits / limit
        of_quota = f"{times:,.1f} times the quota" if times >= 1.5 else f"{show.percent(times)} of the quota"
        words = (
            f"{typed(self.max_age)} for all {self.contacts:,} contacts takes {math.ceil(wanted.visits):,} requests"
            f" a day, {of_quota}"
        )
        if wanted.shortest is None:
            return (
                f"{words}, but listings take all of the {show.percent(self.share)} that may be spent: it does not fit."
            )
        shortest = f"{typed(rounded_up(wanted.shortest))} is the shortest that does."
        if wanted.fits:
            return f"{words}: it fits; {shortest}"
        return f"{words}, and {math.floor(self.budget):,} are left for visits: it does not fit; {shortest}"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person wants to know."""

    contacts: int | None
    bounds: Bounds
    share: float


def plan(
    config: ConfigOption = None,
    location: LocationOption = None,
    contacts: Annotated[
        int | None, typer.Option("--contacts", min=1, help="As if the location had so many contacts.")
    ] = None,
    max_age: Annotated[
        str | None, typer.Option("--max-age", help="No contact's data older than this, e.g. 6h; else visits.max_age.")
    ] = None,
    share: Annotated[
        str | None, typer.Option("--share", help="The part of the day's quota to use, e.g. 60%; else visits.share.")
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what the quota will buy; see PLAN_HELP."""
    settings, now = common.configured(config, quiet=True), datetime.now(UTC)
    longest = settings.visits.max_age if max_age is None else _duration(max_age)
    part = settings.visits.share / 100 if share is None else _share(share)
    wish = Wish(contacts, Bounds(settings.visits.min_age, longest), part)
    store = open_store(settings, may_be_new=True)
    if contacts is not None and location is None and not settings.locations:
        ids = [ANY]
    else:
        ids = [one.id for one in chosen_locations(settings, location)] or stored_locations(store)
    with store.reading() as tx:
        plans = {id_: plan_of(tx, settings, id_, wish, now) for id_ in ids}
    store.close()
    if not any(plans.values()):
        raise BadConfiguration(NOTHING_STORED, hint=HOW_TO_BEGIN)
    if as_json:
        found = [_document(one) if one else {"id": id_, "streams": []} for id_, one in plans.items()]
        show.as_json({"at": now, "locations": found})
        return
    for id_, one in plans.items():
        if one is None:
            print(f"location {id_}: {NOTHING_STORED}\n  -> {HOW_TO_BEGIN}\n")
        else:
            _show(one)


def plan_of(tx: Transaction, config: Config, id_: str, wish: Wish, now: datetime) -> LocationPlan | None:
    """What is to be expected at this location; None where neither the store nor the wish tells its size."""
    stored = tx.count_living(OWNER, id_)
    contacts = stored if wish.contacts is None else wish.contacts
    if not contacts:
        return None
    usage = tx.last_usage(id_)
    limit = (usage["daily_limit"] if usage else None) or DOCUMENTED_DAILY_LIMIT
    changes = look.changes_a_day(tx.connection, id_, now)
    known = {name: look.crowd(tx.connection, id_, name) for name in config.streams if STREAMS[name].lookup}
    visited = [
        name
        for name in config.streams
        if not (stream := STREAMS[name]).owner
        and stream.lookup is not None
        # A stream that has a walk has visits only where a record was missed, unless the walk is closed to us, or would
        # show what belongs to contacts outside the part that is mirrored.
        and (not stream.walks or config.only != Only() or sum(known[name].values()) > stored / 2 > 0)
    ]
    every = config.schedule
    rows = [
        _listed(OWNER.name, "poll", contacts, changes.get(OWNER.name), polls(changes.get(OWNER.name, 0.0), every.poll)),
        _listed(OWNER.name, "full pass", contacts, None, full_passes(contacts, every.full_pass)),
    ]
    for name in config.streams:
        if not STREAMS[name].owner and name not in visited:
            records = tx.count_living(STREAMS[name], id_) * contacts / stored if stored else contacts
            walk = walks(records, every.walk, limit, WALK_SHARE)
            rows.append(_listed(name, "walk", contacts, changes.get(name), walk))
    budget = wish.share * limit - sum(row.requests_a_day for row in rows)
    crowds = {name: _crowd(tx, id_, name, known[name], contacts) for name in visited}
    for name, one in forecast(crowds, budget, wish.bounds, every.poll).items():
        rows.append(
            Row(name, "visits", contacts, one.changes, one.visits, one.shortest, one.longest, one.mean, one.p95)
        )
    learned = any(sum(known[name].values()) for name in visited)
    return LocationPlan(
        id_, contacts, len(visited), limit, wish.share, wish.bounds.max_age, tuple(rows), budget, learned
    )


def _crowd(tx: Transaction, id_: str, stream: str, known: Mapping[float, float], contacts: int) -> Crowd:
    found = known if sum(known.values()) else after_the_first_copy(rates.gamma(), contacts)
    return crowd_of(found, Trust(tx.sent(id_, stream))).grown_to(contacts)


def _listed(stream: str, how: str, contacts: int, changes: float | None, one: Listing) -> Row:
    return Row(stream, how, contacts, changes, one.requests, one.every, one.every, one.mean, one.p95)


# -- what was typed ----------------------------------------------------------------------------------------


def _duration(written: str) -> timedelta:
    try:
        found = parse_duration(written)
    except ValueError as error:
        raise BadConfiguration(f"--max-age is {written!r}: {error}", hint="rankr-sync plan --max-age 6h") from None
    if not found:
        raise BadConfiguration(
            f"--max-age is {written!r}: nothing can be that fresh", hint="rankr-sync plan --max-age 6h"
        )
    return timedelta(seconds=found.total_seconds())


def _share(written: str) -> float:
    try:
        found = float(written.strip().removesuffix("%"))
    except ValueError:
        found = math.nan
    if not 0 < found <= 99:
        raise BadConfiguration(
            f"--share is {written!r}: write a part of the quota from 1% to 99%", hint="rankr-sync plan --share 60%"
        )
    return found / 100


def rounded_up(span: timedelta) -> timedelta:
    """The next whole minute, hour or day that can be typed without a promise too many."""
    for unit, most in ((timedelta(minutes=1), timedelta(hours=2)), (timedelta(hours=1), timedelta(days=10))):
        if span <= most:
            return unit * math.ceil(span / unit)
    return timedelta(days=math.ceil(span / timedelta(days=1)))


def typed(span: timedelta) -> str:
    """As it is typed: `6h`, `90m`, `7d`."""
    seconds = span.total_seconds()
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds % size == 0 and (unit != "d" or seconds >= 2 * size):
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


# -- what is shown -----------------------------------------------------------------------------------------


def _show(one: LocationPlan) -> None:
    rows = [
        (
            row.stream,
            f"{row.how} {_pace(row)}",
            f"{row.contacts:,}",
            "-" if row.changes_a_day is None else _rounded(row.changes_a_day),
            f"{row.requests_a_day:,.0f}",
            span(row.delay_mean_seconds),
            span(row.delay_p95_seconds),
        )
        for row in one.rows
    ]
    rows.append(("all", "", "", "", f"{one.requests:,.0f}", "", ""))
    header = ("stream", "how", "contacts", "changes a day", "requests a day", "mean delay", "p95 delay")
    show.table("any location" if one.id == ANY else f"location {one.id}", header, rows, right=(2, 3, 4, 5, 6))
    spent = show.percent(one.requests / one.daily_limit)
    print(f"{spent} of {one.daily_limit:,} requests a day; at most {show.percent(one.share)} may be used.")
    if one.visited and not one.learned:
        print("Nothing was learned of these contacts yet: the changes a day are what is usual.")
    print(f"{one.answer}\n")


def _pace(row: Row) -> str:
    if math.isinf(row.every_seconds):
        return ""
    if row.how != "visits" or span(row.every_seconds) == span(row.longest_seconds):
        return f"every {span(row.every_seconds)}"
    return f"every {span(row.every_seconds)} to {span(row.longest_seconds)}"


def _rounded(count: float) -> str:
    return f"{count:,.0f}" if count >= 10 or count == 0 else f"{count:.1g}"


def _document(one: LocationPlan) -> dict[str, Any]:
    wanted = one.one_pass
    return {
        "id": one.id,
        "contacts": one.contacts,
        "daily_limit": one.daily_limit,
        "share_percent": 100 * one.share,
        "requests_a_day": one.requests,
        "requests_percent": 100 * one.requests / one.daily_limit,
        "visits_left_a_day": max(0.0, one.budget),
        "learned": one.learned,
        "streams": [{name: _finite(getattr(row, name)) for name in Row.__slots__} for row in one.rows],
        "max_age": {
            "seconds": one.max_age.total_seconds(),
            "requests_a_day": wanted.visits,
            "fits": wanted.fits,
            "shortest_seconds": wanted.shortest.total_seconds() if wanted.shortest else None,
        },
        "answer": one.answer,
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and math.isinf(value) else value
