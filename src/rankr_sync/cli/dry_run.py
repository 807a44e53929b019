"""What a dry run shows: what would be written, with a few ids, what that cost, and for the daemon what is due when."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rankr_sync.app import App
from rankr_sync.cli import show
from rankr_sync.daemon import Schedule
from rankr_sync.model import Tally
from rankr_sync.spans import ago
from rankr_sync.store import look
from rankr_sync.store.scratch import ScratchStore, Written
from rankr_sync.streams import STREAMS

KINDS = ("insert", "update", "tombstone", "reject")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a dry run did at one location, to its scratch copy. `spent`: requests, those for reference data included."""

    location_id: str
    tallies: Mapping[str, Tally]
    written: Mapping[str, Written]
    spent: int
    due: Sequence[tuple[str, str]] = ()
    """Kinds of work, and when each would be done next."""


async def outcomes(app: App, now: datetime, *, daemon: bool = False) -> list[Outcome]:
    """What was done at each location; with `daemon` also what is due."""
    assert isinstance(app.store, ScratchStore)
    found = []
    for id_, sync in app.locations.items():
        tallies = dict(sync.context.progress.streams)
        written = {name: one for (where, name), one in app.store.written.items() if where == id_}
        due = await _due(app, id_, now) if daemon else ()
        found.append(Outcome(id_, tallies, written, app.sources[id_].pacer.budget.sent, due))
    return found


async def _due(app: App, id_: str, now: datetime) -> list[tuple[str, str]]:
    sync = app.locations[id_]
    rows = [(name, ago(at, now)) for name, at in (await Schedule(app, sync).next_times()).items()]
    with app.store.reading() as tx:
        states = {one.stream: one for one in look.stream_statuses(tx.connection, now) if one.location_id == id_}
    for name in sync.context.visited_streams():
        words, one = "by turns", states.get(name)
        if one is not None and one.next_due_at is not None:
            soonest = f"{one.due_now:,} now" if one.due_now else ago(one.next_due_at, now)
            words += f"; contacts that a signal announced: {soonest}"
        rows.append((f"{name} visits", words))
    return rows


def show_outcome(one: Outcome) -> None:
    """A table of what would be written by stream, ids of the first records, the cost, and what is due."""
    names = [name for name in STREAMS if name in one.tallies or name in one.written]
    rows = [_row(name, one.tallies.get(name, Tally()), one.written.get(name, Written())) for name in names]
    header = ("stream", "requests", "read", *KINDS)
    show.table(f"location {one.location_id}: what would be written", header, rows, right=range(1, len(header)))
    for name in names:
        for line in _examples(name, one.written.get(name, Written())):
            print(line)
    print(f"{one.spent:,} requests were spent; nothing was written.")
    if one.due:
        print()
        show.table(f"location {one.location_id}: what is due", ("work", "next"), one.due)
    print()


def _row(name: str, tally: Tally, written: Written) -> tuple[str, ...]:
    counts = (getattr(written, kind).records for kind in KINDS)
    return (name, *(f"{count:,}" for count in (tally.requests, tally.fetched, *counts)))


def _examples(name: str, written: Written) -> Iterable[str]:
    for kind in KINDS:
        count = getattr(written, kind)
        if count.records:
            more = ", ..." if count.records > len(count.examples) else ""
            yield f"  {kind} of {name}: {', '.join(count.examples)}{more}"
