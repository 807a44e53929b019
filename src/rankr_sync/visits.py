"""Which contact's children to look at next. Pure: no clock, no store.

Notes (always), appointments, and tasks (where the location-wide search is closed to us) cost one request a
contact, and nothing tells reliably which contact has news. What a visit now is worth (its *index*) is

    (1 - recall) x rate x age^2 / 2  +  the sum, over signals since the last visit, of precision x age at the signal

in changes x days: the price a visit may have. `age` is the time since the last visit, `rate` the changes a day
expected of the contact (see `rates`), `recall` the share of changes that a signal announces, `precision` the
share of signals that a change is behind. The visits that the quota buys go to the highest index; the index of
the last one that could be bought is the *price*. docs/freshness.md derives it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

NEW_CONTACT = "new contact"
MISSED = "record missed"
POSTPONED = "could not be read"
CHANGED_CONTACT = "contact changed"
TOUCHED_CONTACT = "contact touched"
ACTIVE_CONTACT = "contact active"
DEADLINE = "deadline passed"
BY_INDEX = "its turn"
BY_AGE = "age limit"

POSTPONED_FOR = timedelta(hours=1)
"""A contact that could not be read is due again after this."""

LEARNED_FROM = (CHANGED_CONTACT, TOUCHED_CONTACT, ACTIVE_CONTACT, DEADLINE)
"""The signals that foretell a change; the others are visits that must be made whatever they find."""

MOST_RECALL = 0.98
DOUBT = 20.0
"""Changes that no signal announced, as if seen before the first one."""

DAY = timedelta(days=1)

LOWEST_PRICE = 1e-9

Step = tuple[str, float]
"""Stream and rate: contacts that can be told apart by the time since their last visit alone."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """No contact is looked at again before `min_age` unasked, and none waits longer than `max_age`."""

    min_age: timedelta = timedelta(minutes=15)
    max_age: timedelta = timedelta(days=7)
    first: float = 1.0
    """The share of the rolling visits that may go to what is past `max_age` before all others."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What sent us, how often, and how often there was a change; what is older counts less."""

    visits: float = 0.0
    found: float = 0.0


@dataclass(frozen=True, slots=True)
class Trust:
    """How well signals foretold changes at one location and stream. We begin with little trust in them."""

    by_reason: Mapping[str, Sent] = field(default_factory=dict)
    """Each of `LEARNED_FROM`, and `BY_INDEX` for visits that no signal had sent."""

    def precision(self, signal: str) -> float:
        """The chance that a change is behind this signal. One half, until seen otherwise."""
        if signal not in LEARNED_FROM:
            return 1.0
        sent = self.by_reason.get(signal, Sent())
        return (sent.found + 1) / (sent.visits + 2)

    @property
    def recall(self) -> float:
        """The share of changes that some signal announces. None, until seen otherwise."""
        announced = sum(sent.found for reason, sent in self.by_reason.items() if reason in LEARNED_FROM)
        found = sum(sent.found for sent in self.by_reason.values())
        return min(MOST_RECALL, announced / (found + DOUBT))


@dataclass(frozen=True, slots=True)
class Waiting:
    """A contact that may be visited: since when it waits, and the changes a day expected of it."""

    stream: str
    contact_id: str
    last_visited_at: datetime
    rate: float


def index(rate: float, age: timedelta, recall: float, announced: float = 0.0) -> float:
    """What a visit is worth, in changes x days. `announced` is the worth that signals have added."""
    return (1 - recall) * rate * (age / DAY) ** 2 / 2 + announced


def worth_of_signal(age: timedelta, precision: float) -> float:
    """What a signal adds to the index when it comes `age` after the last visit, in changes x days."""
    return precision * max(age / DAY, 0.0)


def due_in(price: float, rate: float, recall: float, bounds: Bounds, announced: float = 0.0) -> timedelta:
    """How long after the last visit the next one is worth its price."""
    missing = max(0.0, price - announced)
    days = math.sqrt(2 * missing / ((1 - recall) * rate))
    if announced and not missing:
        return timedelta(0)
    return min(max(timedelta(days=min(days, 36_500.0)), bounds.min_age), bounds.max_age)


def due_after_visit(
    visited_at: datetime, price: float, rate: float, recall: float, bounds: Bounds
) -> tuple[datetime, str]:
    """When a contact that was just looked at will most likely have its turn again, and why."""
    wait = due_in(price, rate, recall, bounds)
    return visited_at + wait, BY_AGE if wait >= bounds.max_age else BY_INDEX


def due_after_signal(
    noticed_at: datetime,
    last_visited_at: datetime,
    price: float,
    rate: float,
    recall: float,
    announced: float,
    max_age: timedelta = timedelta(days=36_500),
) -> datetime:
    """When a contact with signals since its last visit is due: at once if they are worth the price, else soon."""
    anytime = Bounds(timedelta(0), max_age)
    return max(noticed_at, last_visited_at + due_in(price, rate, recall, anytime, announced))


def pick(
    heads: Mapping[Step, datetime],
    fetch: Callable[[Mapping[Step, datetime]], Sequence[Waiting]],
    now: datetime,
    count: int,
    price: float,
    recall: Mapping[str, float],
    bounds: Bounds,
) -> tuple[list[Waiting], float]:
    """The `count` contacts whose visit is worth most, the best first, and the new price: the index of the last.

    Contacts of one stream and rate differ only by their last visit, so a step's longest waiting are its best.
    `heads` tells the longest waiting of each step; `fetch` gets, for each step, up to `count` contacts last visited
    before a moment, the longest waiting first. Nothing is asked of steps where nobody is worth the price: that of the
    `count`th best head, or lower where there are fewer heads. What is past `max_age` goes before all others, as
    far as `first` allows; what is not past `min_age` is left out.
    """

    def worth(one: Waiting) -> float:
        return _worth((one.stream, one.rate), one.last_visited_at, now, recall)

    allowed = math.ceil(count * bounds.first)
    best = sorted((_worth(step, head, now, recall) for step, head in heads.items()), reverse=True)
    if len(best) >= count:
        price = best[count - 1]
    while True:
        before = {
            step: until
            for step, head in heads.items()
            if head <= (until := now - due_in(price, step[1], recall.get(step[0], 0.0), bounds))
        }
        waiting = fetch(before) if before else ()
        late = [one for one in waiting if now - one.last_visited_at > bounds.max_age]
        late.sort(key=lambda one: (one.last_visited_at, -worth(one)))
        first, too_many = late[:allowed], late[allowed:]
        # Who is late is fetched at any price.
        enough = len(waiting) - sum(worth(one) < price for one in too_many)
        if enough >= count or price < LOWEST_PRICE:
            break
        price /= 4
    taken = {(one.stream, one.contact_id) for one in first}
    others = [one for one in waiting if (one.stream, one.contact_id) not in taken]
    bought = first + sorted(others, key=worth, reverse=True)[: count - len(first)]
    return bought, worth(bought[-1]) if bought else 0.0


def _worth(step: Step, since: datetime, now: datetime, recall: Mapping[str, float]) -> float:
    return index(step[1], now - since, recall.get(step[0], 0.0))


# The bound on age is a promise only if not too many contacts reach it at once. So a part of the visits is kept for
# it, signals or not, and who would otherwise come too late goes first in time.

_AGES = 16


def kept_a_day(contacts: int, visits_a_day: float, bounds: Bounds) -> float:
    """The visits a day that are kept for the bound on age: half of all, or what one pass in `max_age` needs.

    Where not even one pass fits, half of all: the bound is missed, and the others still have their turn.
    """
    a_pass = contacts / (bounds.max_age / DAY)
    return max(a_pass, visits_a_day / 2) if a_pass <= visits_a_day else visits_a_day / 2


def ages_to_count(contacts: int, kept: float, bounds: Bounds) -> list[timedelta]:
    """Of how old contacts the number must be known for `in_time`. None younger can come too late."""
    span = min(timedelta(days=contacts / kept), bounds.max_age) if kept > 0 else bounds.max_age
    return [max(bounds.max_age - span * (part / _AGES), bounds.min_age) for part in range(_AGES, 0, -1)]


def in_time(older: Mapping[timedelta, int], kept: float, pace: float, bounds: Bounds) -> Bounds:
    """The bounds to pick with, so that `kept` visits a day suffice for everybody to be looked at within `max_age`.

    `older` tells how many contacts are older than each of `ages_to_count`; `pace` is that of the rolling visits, a
    day. If there are more than can be visited before they reach `max_age`, they go first from that age on.
    """
    ages = sorted(older)
    share = min(1.0, kept / pace) if pace > 0 else 1.0
    for age, next_age in zip(ages, [*ages[1:], bounds.max_age], strict=True):
        if older[age] > kept * ((bounds.max_age - next_age) / DAY):
            return Bounds(bounds.min_age, age, share)
    return Bounds(bounds.min_age, bounds.max_age, share)
