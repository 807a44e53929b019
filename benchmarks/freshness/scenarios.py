"""What happens at the source: who changes when, and what the quota buys. Times are days since the start."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

DAYS, WARM_UP = 20.0, 8.0
"""Days that are simulated, and those of them that are not counted, unless a world has its own."""

TAIL = 9.0
"""Days more in which life goes on, until every counted change was seen."""

MIXTURE = ((0.70, 1 / 400), (0.22, 1 / 60), (0.07, 1 / 7), (0.01, 2.0))
"""Of a hundred contacts so many, and their changes a day."""

HOUR = 1 / 24


@dataclass(frozen=True)
class World:
    """One account: its contacts' rates of change, what becomes of it, and what visits may cost."""

    name: str
    rates: list[float]
    """Changes a day of each contact; those after the first `contacts` arrive later."""
    contacts: int
    changes: list[tuple[float, int]]
    dated: list[int]
    """Records of each contact that carry a date of the 90 days before its first visit."""
    visits_a_day: list[tuple[float, float]]
    """From which day on the quota buys how many visits a day."""
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    shifts: list[tuple[float, int, float]] = field(default_factory=list)
    """When the rate of a contact becomes another: for who is told the rates."""
    outages: list[tuple[float, float]] = field(default_factory=list)
    special: frozenset[tuple[float, int]] = frozenset()
    """The changes of a campaign or an import, told apart from the others in the report."""
    days: float = DAYS
    warm_up: float = WARM_UP
    history: float = 90.0
    """Days before the first visit that `dated` tells of."""
    others_a_day: float = 0.0
    """Requests beside the visits: polls, walks, audits."""


def freshness(contacts: int, seed: int = 7, busy: float = 1.0, dated_share: float = 0.5) -> World:
    """FRESHNESS's account: 34 changes and 900 visits a day for a thousand contacts. Most are quiet, a few are not."""
    chance = random.Random(seed)
    rates = [busy * _rate(chance) for _ in range(contacts)]
    changes = sorted((moment, who) for who, rate in enumerate(rates) for moment in _moments(chance, rate))
    dated = [_poisson(chance, 90 * dated_share * rate) for rate in rates]
    return World("freshness", rates, contacts, changes, dated, [(0.0, 0.9 * contacts)])


def hastened(world: World, haste: float) -> World:
    """The same, so many times as fast: rates, changes, history and quota. All delays are as much shorter."""
    return replace(
        world,
        name=f"{world.name}, {haste:g} times as fast",
        rates=[haste * rate for rate in world.rates],
        changes=[(moment / haste, who) for moment, who in world.changes],
        visits_a_day=[(since / haste, haste * many) for since, many in world.visits_a_day],
        days=world.days / haste,
        warm_up=world.warm_up / haste,
        history=world.history / haste,
    )


def burst(contacts: int, seed: int = 7) -> World:
    """A campaign edits 5 % of the contacts within an hour, on five days."""
    world, chance = freshness(contacts, seed), random.Random(seed + 1)
    edits = [
        (day + 10 * HOUR + chance.random() * HOUR, who)
        for day in (3, 9, 12, 14, 17)
        for who in chance.sample(range(contacts), contacts // 20)
    ]
    return replace(world, name="burst", changes=sorted(world.changes + edits), special=frozenset(edits))


def quiet(contacts: int, seed: int = 7) -> World:
    """A fiftieth of the contacts, each with a fifth of the changes, and all of the quota: 45 visits each, a day."""
    world = freshness(max(contacts // 50, 50), seed, busy=0.2)
    return replace(world, name="quiet", visits_a_day=[(0.0, 45.0 * world.contacts)])


def bulk_import(contacts: int, seed: int = 7) -> World:
    """At noon of the tenth day 30 new contacts for each 100 arrive within an hour, every third with a note."""
    world, chance = freshness(contacts, seed), random.Random(seed + 2)
    arrivals = sorted((10.5 + chance.random() * HOUR, contacts + each) for each in range(3 * contacts // 10))
    rates = [_rate(chance) for _ in arrivals]
    imported = [(moment, who) for moment, who in arrivals if chance.random() < 1 / 3]
    later = [(at, who) for moment, who in arrivals for at in _moments(chance, rates[who - contacts], moment)]
    dated = [0] * len(arrivals)
    for _, who in imported:
        dated[who - contacts] = 1
    return replace(
        world,
        name="bulk import",
        rates=world.rates + rates,
        changes=sorted(world.changes + imported + later),
        dated=world.dated + dated,
        arrivals=arrivals,
        special=frozenset(imported),
    )


def drifting(contacts: int, seed: int = 7, every: float = 60.0) -> World:
    """Every contact's rate becomes another, drawn anew, about once in `every` days."""
    world, chance = freshness(contacts, seed), random.Random(seed + 3)
    changes, shifts = [], []
    for who, first in enumerate(world.rates):
        rate, since = first, 0.0
        while since < DAYS + TAIL:
            until = since + chance.expovariate(1 / every)
            changes += [(moment, who) for moment in _moments(chance, rate, since, until)]
            rate, since = _rate(chance), until
            shifts.append((since, who, rate))
    return replace(
        world, name=f"rates drawn anew every {every:.0f} days", changes=sorted(changes), shifts=sorted(shifts)
    )


def clumped(contacts: int, seed: int = 7) -> World:
    """Changes come in groups: four on average, within the hour."""
    world, chance = freshness(contacts, seed), random.Random(seed + 4)
    changes = []
    for who, rate in enumerate(world.rates):
        for moment in _moments(chance, rate / 4):
            more = _poisson(chance, 3.0)
            changes += [(moment, who), *((moment + chance.random() * HOUR, who) for _ in range(more))]
    return replace(world, name="changes in groups of four", changes=sorted(changes))


def budget(contacts: int, factor: float, seed: int = 7) -> World:
    """From the twelfth day on the quota buys `factor` times as many visits."""
    world = freshness(contacts, seed)
    first = world.visits_a_day[0]
    return replace(world, name=f"budget x {factor:g} on day 12", visits_a_day=[first, (12.0, factor * first[1])])


def outage(contacts: int, seed: int = 7) -> World:
    """On the twelfth day the source cannot be reached for twelve hours."""
    return replace(freshness(contacts, seed), name="12 h outage on day 12", outages=[(12.25, 12.75)])


def _rate(chance: random.Random) -> float:
    shares, usual = zip(*MIXTURE, strict=True)
    return float(chance.choices(usual, shares)[0] * chance.gammavariate(2, 0.5))


def _moments(chance: random.Random, rate: float, since: float = 0.0, until: float = DAYS + TAIL) -> Iterator[float]:
    until = min(until, DAYS + TAIL)
    moment = since + chance.expovariate(rate)
    while moment < until:
        yield moment
        moment += chance.expovariate(rate)


def _poisson(chance: random.Random, mean: float) -> int:
    if mean > 500:
        return round(chance.gauss(mean, math.sqrt(mean)))
    number, passed = 0, chance.expovariate(1.0)
    while passed < mean:
        number += 1
        passed += chance.expovariate(1.0)
    return number
