"""What freshness is achieved, and what may be expected: pure arithmetic over counts. No clock, no store.

What is expected follows from the rule by which contacts are visited (see `visits`): at a given price each contact
has an interval of its own, and the price is the one at which all intervals together use up the budget.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from rankr_sync.pacing import affordable_interval
from rankr_sync.rates import KINDS, Prior, from_history
from rankr_sync.visits import DAY, LEARNED_FROM, LOWEST_PRICE, Bounds, Trust, due_in, kept_a_day

SURE = 1.96
"""So many standard errors to each side hold 95 of 100 intervals."""

PAGE = 100
"""Records of a listing that one request brings."""

REFERENCE_REQUESTS = 3
"""With each full pass of contacts the time zone and the custom fields are read, and the end of the list is seen."""

WALK_OVERHEAD = 4
"""Requests of a task walk beyond its pages, which overlap by one task: the ends of two lists, each seen twice."""

_STEPS, _STEPS_OF_AGE = 60, 40
_MOST_DATED = 400
_LONGEST = 10_000.0
"""Days: whoever is visited more rarely is not visited."""


# -- what was achieved -----------------------------------------------------------------------------------


def within_seconds(delay: timedelta) -> int:
    """The class of a detection delay: the next of 1, 2, 3, 4, 5, 6, 8, 10 ... seconds, a fifth apart."""
    seconds = max(delay.total_seconds(), 1.0)
    return math.ceil(2 ** (math.ceil(4 * math.log2(seconds)) / 4))


def percentile(classes: Mapping[int, int], share: float) -> int | None:
    """The class that holds the `share` of what was counted (0.95: 95 of 100 are in it or below); None of nothing."""
    total, seen = sum(classes.values()), 0
    for value in sorted(classes):
        seen += classes[value]
        if classes[value] and seen >= share * total:
            return value
    return None


@dataclass(frozen=True, slots=True)
class Audit:
    """How many rows of a random sample were as at the source, in percent, and the 95 % interval of that share."""

    percent: float
    low: float
    high: float

    def __str__(self) -> str:
        """Rounded so that it never promises more than was seen: one stale row in a million is not `100.00 %`."""
        low, high = _floor(self.low), min(100.0, math.ceil(self.high * 100) / 100)
        return f"{_floor(self.percent):.2f} % of rows current, 95 % interval {low:.2f} to {high:.2f} %"


def audit(rows: int, stale: int) -> Audit | None:
    """What a sample of `rows`, of which some were `stale`, says of all rows; None where nothing was compared.

    (Wilson 1927: unlike the usual interval, it is not empty when every row was current. Rows of one contact are read
    together and tend to be stale together: with many rows a contact, the doubt is a little larger than told.)
    """
    if rows <= 0:
        return None
    share = 1 - stale / rows
    weight = 1 + SURE**2 / rows
    middle = (share + SURE**2 / (2 * rows)) / weight
    reach = SURE / weight * math.sqrt(share * (1 - share) / rows + SURE**2 / (4 * rows**2))
    # A bound that rounding put beyond the share itself would contradict it.
    low, high = max(0.0, min(middle - reach, share)), min(1.0, max(middle + reach, share))
    return Audit(100 * share, 100 * low, 100 * high)


def _floor(percent: float) -> float:
    return math.floor(percent * 100 + 1e-9) / 100


# -- what may be expected of visits ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Crowd:
    """The contacts of one stream: how many have which rate (changes a day), and what signals tell of them.

    `recall`: the share of changes that a signal announces. `precision`: the share of signals that a change is behind.
    """

    contacts: Mapping[float, float]
    recall: float = 0.0
    precision: float = 1.0

    @property
    def size(self) -> float:
        """How many contacts."""
        return sum(self.contacts.values())

    @property
    def changes(self) -> float:
        """The changes a day to expect of all."""
        return sum(rate * count for rate, count in self.contacts.items())

    @property
    def signals(self) -> float:
        """The visits a day that signals send us to."""
        return self.changes * self.recall / self.precision

    def grown_to(self, contacts: float) -> "Crowd":
        """A crowd of so many contacts of the same kinds."""
        factor = contacts / self.size
        return Crowd({rate: count * factor for rate, count in self.contacts.items()}, self.recall, self.precision)


@dataclass(frozen=True, slots=True)
class Expected:
    """What may be expected of one stream. `visits` a day, of which `signalled` ones were sent by signals.

    Delays are from a change at the source until the store has it, in seconds; so is `longest`, the time between two
    visits of the quietest contact. All are infinite where the budget buys nothing.
    """

    contacts: float
    changes: float
    visits: float
    signalled: float
    mean: float
    p95: float
    shortest: float
    longest: float


def forecast(crowds: Mapping[str, Crowd], budget: float, bounds: Bounds, notice: timedelta) -> dict[str, Expected]:
    """What visits of these contacts bring when `budget` of them are made a day, and never more.

    A change that no signal announces waits for its contact's next visit: anything from nothing to the interval, each
    as likely. One that is announced waits for the `notice`. Where not even one pass in `max_age` can be bought, a
    part of the visits goes to whoever waited longest, and the longest interval is what that part buys.
    """
    budget = max(0.0, budget)
    size = sum(crowd.size for crowd in crowds.values())
    kept = kept_a_day(math.ceil(size), budget, bounds)
    sent = sum(crowd.signals for crowd in crowds.values())
    # Signals never use up what is kept for the bound on age.
    heard = min(1.0, max(0.0, budget - kept) / sent) if sent else 1.0
    rolling = budget - sent * heard
    if rolling * _LONGEST <= size:
        intervals = {name: dict.fromkeys(crowd.contacts, math.inf) for name, crowd in crowds.items()}
    else:
        if size / (bounds.max_age / DAY) > rolling:
            bounds = _missed(crowds, rolling, kept, bounds)
        price = _price(crowds, rolling, bounds)
        intervals = {name: _intervals(crowd, price, bounds) for name, crowd in crowds.items()}
    return {name: _expected(crowd, intervals[name], heard, notice) for name, crowd in crowds.items()}


def _missed(crowds: Mapping[str, Crowd], rolling: float, kept: float, bounds: Bounds) -> Bounds:
    """The bounds that hold where `max_age` cannot: those of whoever waits longest use up what is `kept` for them."""
    size = sum(crowd.size for crowd in crowds.values())
    # A microsecond more: rounding must not make the even pace a little too fast to be bought.
    low, high = size / rolling * (1 + 1e-9), max(size / min(kept, rolling), size / rolling) * (1 + 1e-9)
    for _ in range(_STEPS_OF_AGE):
        middle = (low + high) / 2
        tried = Bounds(min(bounds.min_age, timedelta(days=middle)), timedelta(days=middle))
        price = _price(crowds, rolling, tried)
        late = sum(
            count / middle
            for crowd in crowds.values()
            for rate, count in crowd.contacts.items()
            if due_in(price, rate, crowd.recall, tried) >= tried.max_age
        )
        low, high = (low, middle) if late <= kept else (middle, high)
    return Bounds(min(bounds.min_age, timedelta(days=high)), timedelta(days=high))


def _price(crowds: Mapping[str, Crowd], rolling: float, bounds: Bounds) -> float:
    """The lowest price at which no more than `rolling` visits a day have their turn."""

    def visits(price: float) -> float:
        return sum(_visits(crowd, _intervals(crowd, price, bounds)) for crowd in crowds.values())

    def dearest(crowd: Crowd) -> float:
        # At this price even the liveliest contacts wait for `max_age`.
        return (1 - crowd.recall) * max(crowd.contacts, default=0.0) * (bounds.max_age / DAY) ** 2

    low, high = LOWEST_PRICE, max([2 * LOWEST_PRICE, *map(dearest, crowds.values())])
    if visits(low) <= rolling:
        return low
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if visits(middle) <= rolling else (middle, high)
    return high


def _intervals(crowd: Crowd, price: float, bounds: Bounds) -> dict[float, float]:
    """Days between two visits, by rate."""
    return {rate: due_in(price, rate, crowd.recall, bounds) / DAY for rate in crowd.contacts}


def _visits(crowd: Crowd, intervals: Mapping[float, float]) -> float:
    return sum(count / intervals[rate] for rate, count in crowd.contacts.items())


def _expected(crowd: Crowd, intervals: Mapping[float, float], heard: float, notice: timedelta) -> Expected:
    announced = crowd.recall * heard
    waits = [(count * rate, intervals[rate]) for rate, count in crowd.contacts.items() if count]
    changes = crowd.changes
    noticed = notice / DAY
    mean = sum(weight * interval for weight, interval in waits) / changes / 2 if changes else 0.0
    longest = max((interval for _, interval in waits), default=0.0)

    def found_within(days: float) -> float:
        rolling = sum(weight * min(1.0, days / interval) for weight, interval in waits) / changes
        return (1 - announced) * rolling + (announced if days >= noticed else 0.0)

    p95 = _first(found_within, 0.95, max(longest, noticed)) if changes and longest < math.inf else longest
    to_seconds = DAY.total_seconds()
    return Expected(
        contacts=crowd.size,
        changes=changes,
        visits=_visits(crowd, intervals) + crowd.signals * heard,
        signalled=crowd.signals * heard,
        mean=((1 - announced) * mean + (announced * noticed if announced else 0.0)) * to_seconds,
        p95=p95 * to_seconds,
        shortest=min((interval for _, interval in waits), default=0.0) * to_seconds,
        longest=longest * to_seconds,
    )


def _first(rising: Callable[[float], float], wanted: float, most: float) -> float:
    """The least value, of those up to `most`, at which a rising function has what is wanted."""
    low, high = 0.0, most
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) >= wanted else (middle, high)
    return high


def crowd_of(contacts: Mapping[float, float], trust: Trust) -> Crowd:
    """These contacts, with what was learned of the signals that come of them."""
    sent = [one for reason, one in trust.by_reason.items() if reason in LEARNED_FROM]
    precision = (sum(one.found for one in sent) + 1) / (sum(one.visits for one in sent) + 2)
    return Crowd(contacts, trust.recall, precision)


def after_the_first_copy(prior: Prior, contacts: float) -> dict[float, float]:
    """How many contacts will have which rate once their first visits have told what is dated: see `rates`."""
    found: dict[float, float] = defaultdict(float)
    for dated in range(_MOST_DATED):
        history = from_history(dated)
        shares = zip(prior.shares, KINDS, strict=True)
        chance = sum(share * _chance(dated, rate * history.days) for share, rate in shares)
        found[prior.rate(history)] += chance * contacts
    # What is still missing are contacts that change all the time.
    found[prior.rate(from_history(_MOST_DATED))] += max(0.0, contacts - sum(found.values()))
    return {rate: count for rate, count in found.items() if count > contacts * 1e-9}


def _chance(times: int, expected: float) -> float:
    """How likely something happens so many times (Poisson)."""
    return math.exp(times * math.log(expected) - expected - math.lgamma(times + 1))


# -- what may be expected of listings, and what things cost ------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listing:
    """Something that is listed again and again: `requests` a day, a round each `every`.

    A change waits for the next round: anything from nothing to `every`, each as likely. In seconds.
    """

    requests: float
    every: float

    @property
    def mean(self) -> float:
        """The mean time until a change is seen."""
        return self.every / 2

    @property
    def p95(self) -> float:
        """95 of 100 changes are seen within this."""
        return 0.95 * self.every


def listing(requests: float, every: timedelta) -> Listing:
    """A round of so many requests, so often (no more often than the daemon's bell rings)."""
    every = max(every, timedelta(seconds=1))
    return Listing(requests * (DAY / every), every.total_seconds())


def polls(changes: float, every: timedelta) -> Listing:
    """Asking what changed: a request each time, and one more for each page of what did (so many a day)."""
    once = listing(1, every)
    return Listing(once.requests + changes / PAGE, once.every)


def full_passes(contacts: float, every: timedelta) -> Listing:
    """Listing all contacts."""
    return listing(math.ceil(contacts / PAGE) + REFERENCE_REQUESTS, every)


def walks(records: float, wanted: timedelta, daily_limit: int, share: float) -> Listing:
    """Listing all records of a stream, as often as wanted, or as `share` of the day's quota buys."""
    requests = math.ceil(records / (PAGE - 1)) + WALK_OVERHEAD
    return listing(requests, affordable_interval(wanted, requests, daily_limit, share))


@dataclass(frozen=True, slots=True)
class Pass:
    """What it costs that nothing is older than `max_age`: visits a day, of the `budget` that there is for them."""

    visits: float
    budget: float
    shortest: timedelta | None
    """The shortest `max_age` that the budget buys; None where it buys nothing."""

    @property
    def fits(self) -> bool:
        """Whether the budget buys it."""
        return self.visits <= self.budget


def one_pass(visited: float, max_age: timedelta, budget: float) -> Pass:
    """What one visit of each of so many contacts and streams costs within each `max_age`."""
    shortest = timedelta(days=visited / budget) if budget > 0 else None
    return Pass(visited / (max_age / DAY), max(budget, 0.0), shortest)
