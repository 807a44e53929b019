"""What planning costs with many contacts: a tick of the agenda over a store with a million visits.

    python benchmarks/planner.py [--contacts 1000000] [--only sqlite]

Fills `child_visits` with rates and ages as a location has them after some weeks, then plans as the daemon does:
a purchase every five seconds, of ten visits, each batch settled as if it had been looked at. Prints the
table of docs/freshness.md.
"""

import argparse
import itertools
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy
from backfill import database, machine

from rankr_sync import rates, schema
from rankr_sync.engine.agenda import BOUGHT_EVERY, Agenda, Find
from rankr_sync.model import Look
from rankr_sync.pacing import DayBudget
from rankr_sync.store import SqlStore
from rankr_sync.streams import STREAMS
from rankr_sync.visits import Bounds, Waiting

NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
LOCATION = "Location"
TICKS = 200


def visits_of(location: str, stream: str, ids: Iterable[str], now: datetime) -> Iterator[dict[str, object]]:
    """Visits as they are after some weeks: 70 % change once in 400 days, 22 % in 60, 7 % weekly, 1 % twice a day."""
    draw = random.Random(stream)
    for contact_id in ids:
        kind = draw.random()
        rate = 1 / 400 if kind < 0.7 else 1 / 60 if kind < 0.92 else 1 / 7 if kind < 0.99 else 2.0
        rate = rates.step_of(rate * draw.gammavariate(2, 0.5))
        age = draw.random() * min(7.0, 1.0 / rate**0.5)
        yield {
            "location_id": location,
            "stream": stream,
            "contact_id": contact_id,
            "last_visited_at": now - timedelta(days=age),
            "rate": rate,
            "seen_days": 60.0,
            "due_at": now,
            "reason": "its turn",
        }


def fill(store: SqlStore, contacts: int) -> None:
    """Visits of two streams."""
    for stream in ("notes", "appointments"):
        ids = (f"{number:020d}" for number in range(contacts))
        rows = visits_of(LOCATION, stream, ids, NOW)
        while batch := list(itertools.islice(rows, 50_000)):
            insert(store, batch)
    with store.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(sqlalchemy.text("VACUUM ANALYZE"))


def insert(store: SqlStore, batch: list[dict[str, object]]) -> None:
    """Insert a batch of visits."""
    with store.transaction() as tx:
        tx.connection.execute(sqlalchemy.insert(schema.child_visits), batch)


def measure(call: Callable[[], object], times: int) -> tuple[float, float]:
    """Median and worst milliseconds of a call."""
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        spent.append((time.perf_counter() - began) * 1000)
    return statistics.median(spent), max(spent)


def run(kind: str, url: str, contacts: int) -> str:
    """Fill a store, plan, and tell what it took."""
    store = SqlStore(url)
    store.upgrade()
    fill(store, contacts)
    now = [NOW]
    day = DayBudget(200_000, 200_000, 86_400.0)
    agenda = Agenda(LOCATION, bounds=Bounds(), share=0.9, day=lambda: day, now=lambda: now[0])
    streams = ["notes", "appointments"]
    picked: list[tuple[str, str]] = []

    def tick() -> None:
        now[0] += BOUGHT_EVERY
        with store.reading() as tx:
            picked[:] = [(one.stream, one.contact_id) for one in agenda.due(tx, streams, {}, (), rolling=streams)]

    def settle() -> None:
        with store.transaction() as tx:
            for stream in streams:
                looks = [Look(stream, id_, now[0], None) for name, id_ in picked if name == stream]
                known = tx.visits_of(LOCATION, stream, [look.contact_id for look in looks])
                agenda.settle(tx, STREAMS[stream], looks, known, {looks[0].contact_id: Find(1)} if looks else {})

    def thousand() -> None:
        with store.reading() as tx:
            heads = tx.visit_heads(LOCATION, streams)
            found: list[Waiting] = tx.waiting_visits(LOCATION, dict.fromkeys(heads, now[0] - timedelta(hours=12)), 20)
            assert len(found) >= min(1000, contacts // 100)

    tick()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ticks, settles = [], []
    for _ in range(TICKS):
        ticks.append(measure(tick, 1)[0])
        settles.append(measure(settle, 1)[0])
    batch = measure(thousand, 20)

    def study() -> None:
        with store.reading() as tx:
            assert agenda.study(tx, streams, streams) is not None

    learned = measure(study, 1)[0]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    store.close()
    tick_, settled = statistics.median(ticks), statistics.median(settles)
    p95 = statistics.quantiles(ticks, n=20)[-1]
    cells = [
        f"{tick_:.1f} / {p95:.1f} / {max(ticks):.1f}",
        f"{settled:.1f}",
        f"{batch[0]:.1f}",
        f"{learned:,.0f}",
        f"{grown:.1f}",
    ]
    return f"| {kind} | {contacts:,} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--contacts", type=int, default=1_000_000)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    wanted = parser.parse_args()
    print(f"{machine()}\n")
    print("| store | contacts x 2 streams | a tick, ms: median / p95 / worst | settling its looks, ms |", end="")
    print(" a thousand candidates, ms | the daily fit, ms | memory, MB |\n|---|---|---|---|---|---|---|")
    for kind in [wanted.only] if wanted.only else ["sqlite", "postgresql"]:
        with tempfile.TemporaryDirectory() as folder, database(kind, Path(folder)) as url:
            print(run(kind, url, wanted.contacts), flush=True)


if __name__ == "__main__":
    main()
