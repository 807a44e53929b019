"""Does the simulation tell the truth? The real daemon, on the sandbox and a real store, against it.

    make bench          or: python benchmarks/freshness/daemon.py [--contacts 400] [--seeds 4] [--haste 96] [--busy 2]

Daemon, engine, pacer and store are the product's own; the network is the sandbox in this process, and time is virtual
(see `virtual`). The daemon and the simulation get the same contacts, which change at the same moments, and the same
quota. A delay is the time from an edit in the sandbox until the transaction that brought it into the mirror.
"""

import argparse
import asyncio
import contextlib
import math
import platform
import random
import statistics
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path

import httpx
import scenarios
import simulate
from pydantic import SecretStr
from scenarios import World
from sqlalchemy import text
from virtual import Clock, Loop

from rankr_sync import freshness, logs, rates, visits
from rankr_sync.app import WALK_SHARE, App, build
from rankr_sync.config import Api, Config, Database, Location, Schedule, Visits
from rankr_sync.daemon import run_for_ever
from rankr_sync.engine import audit, loans
from rankr_sync.engine.agenda import BOUGHT_EVERY
from rankr_sync.sandbox import DEFAULT_LOCATION_ID, DEFAULT_TOKEN, Sandbox, SandboxOptions, create_app

AGREE = 0.20
"""So far the daemon's delays may be from the simulated ones, as a share of these."""

LATENCY = 0.2
"""Seconds that an answer takes."""

STREAMS = ("contacts", "tasks", "notes")
TASKS_EACH = 1

MONTH = 30.0
"""Days for which the contacts have notes already: listing more of them takes CPU time, and shows nothing new."""

DAY = simulate.DAY


@dataclass
class Account:
    """The sandbox, as a world says: its contacts and their notes, and the edits as they happen."""

    world: World
    clock: Clock
    seed: int = 1
    edits: list[tuple[float, str, int]] = field(default_factory=list)
    """When (days since the start), of which note, and the number that its text has since then."""

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        limit = round(self.world.visits_a_day[0][1] / simulate.SHARE)
        options = SandboxOptions(contacts=0, seed=self.seed, daily_limit=limit, latency_ms=1000 * LATENCY)
        self.sandbox = Sandbox(options, now=self.clock.epoch)
        self.contacts: list[str] = []
        self.notes: list[list[str]] = [[] for _ in range(self.world.contacts)]
        self._write_history()

    def _write_history(self) -> None:
        """All contacts are as old as what `dated` tells of, so that the first look learns just that."""
        self.clock.advance(-(self.world.history + rates.ARRIVAL_DAYS) * DAY.total_seconds())
        for who in range(self.world.contacts):
            contact = self.sandbox.create_contact(firstName=f"Contact {who}", email=f"{who}@example.com")
            self.contacts.append(contact["id"])
            for _ in range(TASKS_EACH):
                self.sandbox.create_task(contact["id"], title="Call back")
        dated = [
            (self._chance.random() * self.world.history, who)
            for who, count in enumerate(self.world.dated)
            for _ in range(count)
        ]
        self.clock.advance(rates.ARRIVAL_DAYS * DAY.total_seconds())
        passed = 0.0
        for moment, who in sorted(dated):
            self.clock.advance((moment - passed) * DAY.total_seconds())
            passed = moment
            self.notes[who].append(self.sandbox.create_note(self.contacts[who], body="<p>0</p>")["id"])
        self.clock.advance((self.world.history - passed) * DAY.total_seconds())

    async def live(self) -> None:
        """Edit as the world says, at its moments: half of the changes are new notes, half are edits of old ones."""
        for number, (moment, who) in enumerate(self.world.changes, 1):
            await asyncio.sleep(moment * DAY.total_seconds() - self.clock.seconds())
            self._edit(who, number)

    def _edit(self, who: int, number: int) -> None:
        body, today = f"<p>{number}</p>", self.clock.seconds() / DAY.total_seconds()
        if self.notes[who] and self._chance.random() < 0.5:
            note_id = self._chance.choice(self.notes[who])
            self.sandbox.update_note(note_id, body=body)
        else:
            note_id = self.sandbox.create_note(self.contacts[who], body=body)["id"]
            self.notes[who].append(note_id)
        self.edits.append((today, note_id, number))

    def counted(self) -> list[tuple[float, str, int]]:
        """The edits after the warm-up and before the end."""
        return [edit for edit in self.edits if self.world.warm_up <= edit[0] < self.world.days]

    def visited(self) -> int:
        """How often notes were read in the days that count."""
        began = self.clock.began.timestamp()
        days = ((call.at - began) / DAY.total_seconds() for call in self.sandbox.calls if call.path.endswith("/notes"))
        return sum(self.world.warm_up <= day < self.world.days for day in days)


class Journal:
    """What the mirror held when: a trigger of the database writes down each version of a note as it comes."""

    def __init__(self, app: App) -> None:
        self._app = app
        columns = "id TEXT, body TEXT, synced_at TEXT"
        insert = "INSERT INTO bench_journal VALUES (new.id, new.content_html, new.synced_at)"
        with app.store.transaction() as tx:
            tx.connection.exec_driver_sql(f"CREATE TABLE bench_journal ({columns})")
            for event in ("INSERT", "UPDATE"):
                name = f"bench_{event.lower()}"
                tx.connection.exec_driver_sql(f"CREATE TRIGGER {name} AFTER {event} ON notes BEGIN {insert}; END")

    def versions(self) -> dict[str, list[tuple[int, datetime]]]:
        """Of each note, the numbers that its text had, rising, and since when."""
        found: dict[str, list[tuple[int, datetime]]] = {}
        with self._app.store.reading() as tx:
            for id_, body, at in tx.connection.execute(text("SELECT id, body, synced_at FROM bench_journal")):
                number, since = int(body.strip("<p/>")), datetime.fromisoformat(at)
                of_note = found.setdefault(id_, [])
                if not of_note or of_note[-1][0] < number:
                    of_note.append((number, since.replace(tzinfo=simulate.START.tzinfo)))
        return found

    def delays(self, edits: Sequence[tuple[float, str, int]]) -> list[float]:
        """Days from each of these edits until the mirror held it, or a later one of its note; infinite: not yet."""
        versions, delays = self.versions(), []
        for moment, note_id, number in edits:
            of_note = versions.get(note_id, [])
            place = bisect_left(of_note, number, key=lambda version: version[0])
            found = (of_note[place][1] - simulate.START) / DAY if place < len(of_note) else math.inf
            delays.append(found - moment)
        return delays


@dataclass(frozen=True)
class Achieved:
    """The delays of one stream in days, and the visits made in the days that count."""

    delays: list[float]
    visits: int

    def __add__(self, other: "Achieved") -> "Achieved":
        return Achieved(self.delays + other.delays, self.visits + other.visits)

    @property
    def mean(self) -> float:
        """In minutes."""
        return 1440 * statistics.fmean(self.delays)

    def quantile(self, share: float) -> float:
        """In minutes."""
        ordered = sorted(self.delays)
        return 1440 * ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def configuration(database: Path, bounds: visits.Bounds) -> Config:
    """The defaults, but for the share of visits, which is the simulation's, and the bounds on age."""
    return Config(
        api=Api(token=SecretStr(DEFAULT_TOKEN), base_url="http://localhost"),
        locations=(Location(id=DEFAULT_LOCATION_ID),),
        streams=STREAMS,
        database=Database(url=f"sqlite:///{database}"),
        visits=Visits(min_age=bounds.min_age, max_age=bounds.max_age, share=100 * simulate.SHARE),
    )


def others_a_day(world: World, schedule: Schedule) -> float:
    """What the daemon asks beside its visits, by the product's own forecast: these come out of the same quota."""
    limit = round(world.visits_a_day[0][1] / simulate.SHARE)
    listings = [
        freshness.polls(0, schedule.poll),
        freshness.full_passes(world.contacts, schedule.full_pass),
        freshness.walks(TASKS_EACH * world.contacts, schedule.walk, limit, WALK_SHARE),
    ]
    audits = (DAY / audit.EVERY) * sum(name != "contacts" for name in STREAMS)
    return sum(listing.requests for listing in listings) + audits


def run_daemon(world: World, bounds: visits.Bounds, seed: int = 1) -> Achieved:
    """The real daemon in this world, from an empty store until each counted edit was found."""
    clock = Clock(simulate.START)
    account = Account(world, clock, seed)
    with tempfile.TemporaryDirectory() as folder, clock.everywhere(), _nobody_borrows():
        config = configuration(Path(folder) / "mirror.db", bounds)
        with asyncio.Runner(loop_factory=lambda: Loop(clock)) as runner:
            return runner.run(_run_daemon(account, config))


async def _run_daemon(account: Account, config: Config) -> Achieved:
    world, clock = account.world, account.clock
    client = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(account.sandbox)))
    async with build(config, client=client, now=clock.now, clock=clock.seconds) as app:
        journal = Journal(app)
        daemon, life = asyncio.create_task(run_for_ever(app)), asyncio.create_task(account.live())
        await asyncio.sleep(world.days * DAY.total_seconds())
        while math.inf in (delays := journal.delays(account.counted())) and not life.done():
            await asyncio.wait({life}, timeout=60.0)
        app.stop.set()
        life.cancel()
        await daemon
        with contextlib.suppress(asyncio.CancelledError):
            await life
        return Achieved(delays, account.visited())


@contextlib.contextmanager
def _nobody_borrows() -> Iterator[None]:
    """No other process asks for slots here: looking for one four times a second would be most of the CPU time."""
    usual, loans.LOOK_EVERY = loans.LOOK_EVERY, 3600.0
    try:
        yield
    finally:
        loans.LOOK_EVERY = usual


def run_simulation(world: World, bounds: visits.Bounds) -> Achieved:
    """The simulation in the same world, with the daemon's own grain of time."""
    tick = BOUGHT_EVERY.total_seconds()
    simulation = simulate.Simulation(world, simulate.LEARNED, tick=tick, bounds=bounds)
    result = simulation.run()
    return Achieved(result.delays, int(simulation.made))


def world_of(contacts: int, haste: float, busy: float, seed: int) -> tuple[World, visits.Bounds]:
    """FRESHNESS's account, hastened; the bounds on age are as much shorter. Its contacts are a month old."""
    usual = scenarios.freshness(contacts, seed, busy, dated_share=rates.DATED_SHARE * MONTH / rates.HISTORY_DAYS)
    world = scenarios.hastened(replace(usual, history=MONTH), haste)
    bounds = visits.Bounds()
    bounds = replace(bounds, min_age=bounds.min_age / haste, max_age=bounds.max_age / haste)
    return replace(world, others_a_day=others_a_day(world, Schedule())), bounds


def compare(contacts: int, haste: float, seeds: Sequence[int], busy: float) -> bool:
    """Run both in the same worlds and print the table. Whether they agree."""
    simulated, real = Achieved([], 0), Achieved([], 0)
    began = time.process_time()
    for seed in seeds:
        world, bounds = world_of(contacts, haste, busy, seed)
        simulated, real = simulated + run_simulation(world, bounds), real + run_daemon(world, bounds, seed)
    hours, changes = f"{len(seeds)} x {24 * (world.days - world.warm_up):.0f} hours", len(real.delays)
    print(f"\n### {world.name}: {contacts:,} contacts, {world.visits_a_day[0][1]:,.0f} visits a day,"
          f" {changes:,} changes counted in {hours}; delays in minutes\n")  # fmt: skip
    print("| stream | | simulated | daemon | daemon ÷ simulated | within 20 % |\n| --- | --- | --- | --- | --- | --- |")
    agree = True
    for name, one, other in (
        ("mean", simulated.mean, real.mean),
        ("median", simulated.quantile(0.5), real.quantile(0.5)),
        ("p95", simulated.quantile(0.95), real.quantile(0.95)),
    ):
        agrees = abs(other / one - 1) <= AGREE
        agree = agree and agrees
        print(f"| notes | {name} | {one:.2f} | {other:.2f} | {other / one:.3f} | {'yes' if agrees else 'no'} |")
    print(f"| notes | visits | {simulated.visits:,} | {real.visits:,} | {real.visits / simulated.visits:.3f} | |")
    print(f"\n{time.process_time() - began:.0f} s.")
    return agree


def main() -> None:
    """Print the table; fail where they do not agree."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--contacts", type=int, default=400)
    parser.add_argument("--haste", type=float, default=96.0, help="so many times as fast: 96, 15 minutes for a day")
    parser.add_argument("--busy", type=float, default=2.0, help="so many times as many changes for the same visits")
    parser.add_argument("--seeds", type=int, default=4)
    wanted = parser.parse_args()
    logs.configure(level="warning")
    print(f"{date.today()}, Python {platform.python_version()}")
    agree = compare(wanted.contacts, wanted.haste, range(7, 7 + wanted.seeds), wanted.busy)
    raise SystemExit(0 if agree else "the simulation and the daemon do not agree within 20 %")


if __name__ == "__main__":
    main()
