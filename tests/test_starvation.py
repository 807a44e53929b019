"""Nobody starves: the real agenda on a real store, whatever signals, arrivals and failures come, and whatever there is
to visit with. Time is virtual; a day here has few visits, and a tick is as long as one visit takes to be bought.
"""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from rankr_sync import rates, schema, visits
from rankr_sync.engine.agenda import Agenda, Find
from rankr_sync.model import Look, Page, Visit
from rankr_sync.pacing import DayBudget
from rankr_sync.store import SqlStore
from rankr_sync.streams import STREAMS
from rankr_sync.visits import Bounds
from test_agenda import NOW

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BOUNDS = Bounds(timedelta(minutes=15), DAY)
SHARE = 0.9
DAYS = 4
SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
MANY, FEW = (1000, 100) if SOAK else (3, 1)
pytestmark = pytest.mark.timeout(4 * 3600 if SOAK else 120)
LOOK = (Phase.explicit, Phase.reuse, Phase.generate)
NOTES = STREAMS["notes"]


@dataclass(frozen=True)
class World:
    """A location over some days."""

    rates: list[float]
    """The changes a day of each contact that is there from the beginning; all were visited in its first pass."""
    passes: float
    """How often what may be spent in `max_age` buys a visit of everybody, also of those that come."""
    noisy: float
    """The share of the contacts that are signalled every hour, though nothing has changed."""
    arrive: tuple[int, int]
    """So many hours after the beginning so many contacts arrive."""
    failing: int
    """So many of the contacts cannot be read on the second day."""
    seed: int

    @property
    def count(self) -> int:
        """All contacts that there ever are."""
        return len(self.rates) + self.arrive[1]

    @property
    def a_day(self) -> float:
        """The visits that are bought in a day."""
        return self.passes * self.count / (BOUNDS.max_age / DAY)

    @property
    def bound(self) -> timedelta:
        """How long a contact may wait that has its turn by index.

        `max_age` where one pass fits; else two passes, as half of the visits go to whoever waited longest. The first
        visits of those that arrive, a tick, the hour in which the ages are counted, and two visits that cannot be
        divided may be added.
        """
        longest = BOUNDS.max_age if self.passes >= 1 else 2 * DAY * (self.count / self.a_day)
        return longest + HOUR + self.tick + DAY * ((self.arrive[1] + 2) / self.a_day)

    @property
    def late_bound(self) -> timedelta:
        """How long one may wait that arrives, or could not be read: they share with signals what a pass leaves."""
        return self.bound if self.passes >= 2 or self.passes < 1 else self.bound + BOUNDS.max_age

    @property
    def tick(self) -> timedelta:
        """Between two looks at what is due."""
        return min(HOUR, DAY / self.a_day)


class Play:
    """One world, from its beginning to its end."""

    def __init__(self, world: World, store: SqlStore) -> None:
        self.world, self.store, self.now = world, store, NOW
        self.chance = random.Random(world.seed)
        self.limit = round(world.a_day / SHARE) + 1
        self.left, self.resets_at = self.limit, NOW + DAY
        self.agenda = Agenda("loc", bounds=BOUNDS, share=SHARE, day=self._day, now=lambda: self.now)
        self.ids = [f"c{number}" for number in range(len(world.rates))]
        self.new = {f"n{number}": number for number in range(world.arrive[1])}
        self.failing = set(self.ids[: world.failing])
        self.noisy = self.ids[len(self.ids) - int(world.noisy * len(self.ids)) :]
        self.since: dict[str, datetime] = {}
        """Since when each contact waits."""
        self.longest = self.longest_apart = timedelta(0)
        """How long anyone waited; and of those that arrived, or could not be read."""
        self.visits = 0

    def _day(self) -> DayBudget:
        return DayBudget(self.limit, self.left, (self.resets_at - self.now).total_seconds())

    def run(self) -> None:
        """All days."""
        first = BOUNDS.max_age * min(1.0, 1 / self.world.passes)
        with self.store.transaction() as tx:
            tx.connection.execute(delete(schema.child_visits))
            tx.connection.execute(delete(schema.sync_settings))
            tx.connection.execute(delete(schema.visit_signals))
            seen = [self._seen(id_, rate, NOW - first * self.chance.random()) for id_, rate in self._copied()]
            tx.put_visits("loc", seen)
        arrived = False
        while self.now + self.world.tick < NOW + DAYS * DAY:
            self.now += self.world.tick
            if self.now >= self.resets_at:
                self.left, self.resets_at = self.limit, self.resets_at + DAY
            signals = dict.fromkeys(self.noisy, visits.CHANGED_CONTACT)
            if not arrived and self.now >= NOW + self.world.arrive[0] * HOUR:
                arrived = True
                self.since |= dict.fromkeys(self.new, self.now)
                signals |= dict.fromkeys(self.new, visits.NEW_CONTACT)
            self._tick(signals)

    def _copied(self) -> Iterator[tuple[str, float]]:
        yield from zip(self.ids, self.world.rates, strict=True)

    def _seen(self, id_: str, rate: float, at: datetime) -> Visit:
        self.since[id_] = at
        return Visit("notes", id_, at + DAY, visits.BY_INDEX, last_visited_at=at, rate=rates.step_of(rate))

    def _tick(self, signals: dict[str, str]) -> None:
        with self.store.reading() as tx:
            lesson = self.agenda.study(tx, ["notes"], ["notes"])
        with self.store.transaction() as tx:
            if lesson is not None:
                self.agenda.learn(tx, lesson)
            self.agenda.signal(tx, ["notes"], signals)
            due = self.agenda.due(tx, ["notes"], {}, (), rolling=["notes"])
            looks = [self._look(one.contact_id) for one in due]
            known = tx.visits_of("loc", "notes", [look.contact_id for look in looks])
            finds = {id_: Find(int(self.chance.random() < 0.2)) for id_ in known}
            self.agenda.settle(tx, NOTES, looks, known, finds)
        self.visits += len(looks)
        self.left -= len(looks)
        mended = NOW + 2 * DAY
        for id_, since in self.since.items():
            if id_ in self.failing or id_ in self.new:
                waits = self.now - (max(since, mended) if id_ in self.failing else since)
                self.longest_apart = max(self.longest_apart, waits)
            else:
                self.longest = max(self.longest, self.now - since)

    def _look(self, id_: str) -> Look:
        if id_ in self.failing and NOW + DAY <= self.now < NOW + 2 * DAY:
            return Look("notes", id_, self.now, None, failure="broken")
        self.since[id_] = self.now
        return Look("notes", id_, self.now, Page(whole=True))


worlds = st.builds(
    World,
    rates=st.lists(st.sampled_from([20.0, 0.001, 0.3, 2.0]), min_size=10, max_size=16),
    passes=st.sampled_from([1.3, 0.6, 2.0, 3.0]),
    noisy=st.sampled_from([1.0, 0.4, 0.1]),
    arrive=st.tuples(st.integers(1, 40), st.integers(0, 8)),
    failing=st.integers(0, 4),
    seed=st.integers(0, 99),
)


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    """An empty store of this release."""
    made = SqlStore(database_url)
    made.upgrade()
    yield made
    made.close()


def test_nobody_starves(store: SqlStore, database_url: str, counted: Callable[[str, int], None]) -> None:
    """When one pass fits in `max_age`, everybody is visited in it, however many signals, arrivals and failures there
    are (who arrives where there is little to spare, in twice that time); when it does not fit, in two of the passes
    that can be afforded. And no more is spent than there is.
    """
    made = 0

    @given(worlds)
    @example(World([20.0, 0.001, 0.3, 2.0] * 3, 1.3, 1.0, (11, 2), 0, 1))
    @settings(max_examples=MANY if database_url.startswith("sqlite") else FEW, phases=LOOK)
    def check(world: World) -> None:
        nonlocal made
        play = Play(world, store)
        play.run()
        made += play.visits
        assert play.longest <= world.bound
        assert play.longest_apart <= world.late_bound
        assert play.visits <= DAYS * (SHARE * play.limit + 2)

    check()
    counted("visits bought so that nobody starves", made)
