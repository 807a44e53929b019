"""The rate budget, in virtual time, against servers that count as the real one may."""

import heapq
import itertools
import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankr_sync.pacing import RateBudget, RateHeaders, RateLimit, affordable_interval, is_due

TICK = 1 / 1024
"""Virtual times are whole ticks: binary fractions, so that sums of them are exact."""

TOLD = RateHeaders()


@dataclass(frozen=True)
class Trip:
    """A request to come: wanted `pause` after the one before, answered after `latency`, and counted by the
    server at `share` of the way.
    """

    pause: float
    latency: float
    share: float


@dataclass
class Journal:
    """What the server saw."""

    counted: list[float]
    last_answer: float
    most_polls: int


def drive(budget: RateBudget, trips: Iterable[Trip], *, start: float = 0.0, limit: RateLimit | None = None) -> Journal:
    """Send every trip as soon as the budget allows, many in flight. With `limit`, answers tell what is left of it."""
    now, counted, most_polls = start, [], 0
    flying: list[tuple[float, int, RateHeaders]] = []
    numbers = itertools.count()

    def land() -> None:
        when, _, told = heapq.heappop(flying)
        budget.answered(when, told)

    for trip in trips:
        ready = now + trip.pause
        while flying and flying[0][0] <= ready:
            land()
        now, polls = ready, 0
        while (wait := budget.take(now)) != 0.0:
            polls += 1
            asked_again = math.inf if wait is None else max(now + wait, math.nextafter(now, math.inf))
            answer = flying[0][0] if flying else math.inf
            now = min(asked_again, answer)
            assert now < math.inf, "nothing is in flight, and the budget names no time"
            if answer <= now:
                land()
        most_polls = max(most_polls, polls)
        seen_at = now + math.floor(trip.latency * trip.share / TICK) * TICK
        counted.append(seen_at)
        told = TOLD
        if limit is not None:
            window = sorted(when for when in counted if when <= seen_at)
            used = len(window) - bisect_right(window, seen_at - limit.seconds)
            told = RateHeaders(limit=limit.requests, remaining=max(0, limit.requests - used), interval=limit.seconds)
        heapq.heappush(flying, (now + trip.latency, next(numbers), told))
    last = now
    while flying:
        last = flying[0][0]
        land()
    return Journal(sorted(counted), last, most_polls)


def most_in_sliding_window(counted: list[float], seconds: float) -> int:
    """The most requests in any half-open interval of this length."""
    return max((i + 1 - bisect_right(counted, when - seconds) for i, when in enumerate(counted)), default=0)


def most_in_fixed_window(counted: list[float], seconds: float, phase: float) -> int:
    """The most requests in one of the windows that begin every `seconds` from `phase`."""
    return max(Counter(math.floor((when - phase) / seconds) for when in counted).values(), default=0)


ticks = st.integers(0, 3000).map(lambda n: n * TICK)
trips = st.lists(
    st.builds(
        Trip,
        pause=st.one_of(st.just(0.0), st.just(0.0), ticks),
        latency=st.one_of(st.just(0.0), ticks),
        share=st.floats(0, 1),
    ),
    min_size=1,
    max_size=120,
)
limits = st.builds(RateLimit, st.integers(1, 12), st.integers(1, 4096).map(lambda n: n * TICK))


@given(trips=trips, limit=limits, phase=ticks, headers=st.booleans())
def test_the_limit_is_never_exceeded(trips, limit, phase, headers):
    """Whatever the latencies, and whenever the server counts: neither a sliding nor a fixed window overflows."""
    seen = drive(RateBudget(limit, now=0.0), trips, limit=limit if headers else None)
    assert most_in_sliding_window(seen.counted, limit.seconds) <= limit.requests
    assert most_in_fixed_window(seen.counted, limit.seconds, phase) <= limit.requests


@given(trips=trips, limit=limits, phase=ticks)
def test_the_limit_is_learned_in_time(trips, limit, phase):
    """Starting without a limit, the one that the first answer tells is kept from the first request on."""
    seen = drive(RateBudget(None, now=0.0), trips, limit=limit)
    assert most_in_sliding_window(seen.counted, limit.seconds) <= limit.requests
    assert most_in_fixed_window(seen.counted, limit.seconds, phase) <= limit.requests


@given(trips=trips, limit=limits, spent=st.integers(0, 12), ago=ticks)
def test_a_restart_does_not_exceed_the_limit(trips, limit, spent, ago):
    """What an earlier process sent shortly before counts too, if the new one is told how much it was."""
    spent = min(spent, limit.requests)
    seen = drive(RateBudget(limit, now=0.0, taken=spent), trips)
    assert most_in_sliding_window([-ago] * spent + seen.counted, limit.seconds) <= limit.requests


@dataclass(frozen=True)
class Borrowed:
    """A loan to come: asked for at a moment, for so many slots, used for requests with these latencies, and
    noticed to be over so much later.
    """

    asked_at: float
    slots: int
    latencies: tuple[float, ...]
    noticed_after: float


slow_limits = st.builds(RateLimit, st.integers(1, 12), st.integers(256, 4096).map(lambda n: n * TICK))
loans = st.lists(
    st.builds(
        Borrowed,
        asked_at=ticks,
        slots=st.integers(1, 8),
        latencies=st.lists(ticks, min_size=1, max_size=8).map(tuple),
        noticed_after=ticks,
    ),
    max_size=6,
)


@given(limit=slow_limits, latency=ticks, loans=loans, seed=st.integers(0, 99), phase=ticks)
def test_the_limit_is_not_exceeded_with_loans(limit, latency, loans, seed, phase):
    """A holder at full pace and borrowers, each with a budget of its own: together they keep the limit, and
    everyone gets through.
    """
    chance, counted, holder = random.Random(seed), [], RateBudget(limit, now=0.0)
    events, numbers = [], itertools.count()
    waiting, unfinished = [], len(loans)

    def at(when, act):
        heapq.heappush(events, (when, next(numbers), act))

    def send(budget, now, takes, then):
        counted.append(now + math.floor(takes * chance.random() / TICK) * TICK)

        def land(when):
            budget.answered(when, TOLD)
            then(when)

        at(now + takes, land)

    def borrow(loan, slots):
        budget, left = RateBudget(limit, now=0.0), list(loan.latencies)
        budget.keep_to(slots)

        def go_on(now):
            nonlocal unfinished
            while left and (wait := budget.take(now)) == 0.0:
                send(budget, now, left.pop(), go_on)
            if left and wait is not None:
                at(max(now + wait, math.nextafter(now, math.inf)), go_on)
            if not left and not budget.in_flight and budget not in ended:
                ended.append(budget)
                unfinished -= 1
                at(now + loan.noticed_after, lambda when: holder.take_back(when, slots))

        return go_on

    ended = []
    for loan in loans:
        at(loan.asked_at, lambda now, loan=loan: waiting.append([loan, 0]))
    last, now = max((loan.asked_at for loan in loans), default=0.0) + 3 * limit.seconds, 0.0
    look = max(limit.seconds / 8, TICK)
    looks = 0
    while now < last or unfinished:
        looks += 1
        assert looks < 20_000, "a borrower waits for ever"
        while events and events[0][0] <= now:
            when, _, act = heapq.heappop(events)
            act(when)
        for entry in waiting:
            entry[1] = entry[1] or holder.lend(entry[0].slots)
        granted = [entry for entry in waiting if entry[1]] if holder.may_use_loans(now) else []
        for entry in granted:
            waiting.remove(entry)
            borrow(*entry)(now)
        while now < last and holder.take(now) == 0.0:
            send(holder, now, latency, lambda when: None)
        now = now + look if now < last or waiting or not events else max(events[0][0], now)
    assert most_in_sliding_window(sorted(counted), limit.seconds) <= limit.requests
    assert most_in_fixed_window(counted, limit.seconds, phase) <= limit.requests


@given(
    start=st.floats(0, 1e7),
    limit=st.builds(RateLimit, st.integers(1, 9), st.floats(0.001, 1000)),
    latencies=st.lists(st.floats(0, 5), min_size=1, max_size=60),
)
def test_there_is_always_a_next_time(start, limit, latencies):
    """On any clock, a budget that is full and idle names a time, and then keeps its word."""
    seen = drive(RateBudget(limit, now=start), [Trip(0.0, latency, 1.0) for latency in latencies], start=start)
    assert len(seen.counted) == len(latencies)
    assert seen.most_polls <= 2 * limit.requests + 3


@pytest.mark.parametrize("headers", [False, True])
@pytest.mark.parametrize("latency", [0.0, 0.05])
@pytest.mark.parametrize(("requests", "seconds"), [(100, 10.0), (20, 10.0), (1000, 60.0)])
def test_nearly_all_of_the_rate_is_used(requests, seconds, latency, headers):
    """Ten bursts take at most 3 % longer than the limit itself demands."""
    limit = RateLimit(requests, seconds)
    many = 10 * requests
    seen = drive(
        RateBudget(limit, now=0.0), itertools.repeat(Trip(0.0, latency, 0.5), many), limit=limit if headers else None
    )
    assert seen.last_answer <= 1.03 * (many - requests) * seconds / requests


@pytest.mark.parametrize("seed", range(5))
def test_slow_and_uneven_answers_do_not_look_like_foreign_use(seed):
    """What is left by the answers is explained by our own requests, also by those that we just forgot."""
    chance, limit = random.Random(seed), RateLimit(100, 10.0)
    uneven = [Trip(0.0, chance.uniform(0.05, 0.6), chance.random()) for _ in range(1000)]
    with_headers = drive(RateBudget(limit, now=0.0), uneven, limit=limit)
    without = drive(RateBudget(limit, now=0.0), uneven)
    assert with_headers.last_answer <= 1.03 * without.last_answer


def filled(limit: RateLimit | None = RateLimit(10, 10.0), *, at: float = 0.0, **options) -> RateBudget:
    """A budget whose first answer has come, without headers."""
    budget = RateBudget(limit, now=at, **options)
    assert budget.take(at) == 0.0
    budget.answered(at, TOLD)
    return budget


def burst(budget: RateBudget, now: float, most: int = 1000) -> int:
    """How many requests may be sent at once."""
    return sum(1 for _ in itertools.takewhile(lambda wait: wait == 0.0, (budget.take(now) for _ in range(most))))


@pytest.mark.parametrize("limit", [RateLimit(100, 10.0), None])
def test_the_first_request_goes_alone(limit):
    """Until an answer has told how things stand, one request at a time."""
    budget = RateBudget(limit, now=0.0)
    assert budget.take(0.0) == 0.0
    assert budget.take(0.1) is None
    budget.answered(0.2, None)  # no answer came: still nothing is known
    assert budget.take(0.2) == 0.0
    assert budget.take(0.3) != 0.0
    budget.answered(0.4, TOLD)
    assert burst(budget, 0.4) > 50


def test_without_a_limit_nothing_waits():
    """No limit, and none told: everything goes at once."""
    assert burst(filled(None), 0.0, 5000) == 5000


@pytest.mark.parametrize(("told", "then"), [(5, 4), (100, 99), (0, 9), (None, 9)])
def test_the_headers_change_the_limit(told, then):
    """The limit that the API tells replaces the assumed one; nonsense does not."""
    budget = RateBudget(RateLimit(10, 10.0), now=0.0)
    budget.take(0.0)
    budget.answered(0.0, RateHeaders(limit=told))
    assert burst(budget, 0.0) == then


def test_the_headers_change_the_interval():
    """A longer interval is kept from the answer on that told it."""
    budget = RateBudget(RateLimit(2, 1.0), now=0.0)
    budget.take(0.0)
    budget.answered(0.0, RateHeaders(limit=2, interval=60.0))
    assert burst(budget, 1.5) == 1
    budget.answered(1.5, TOLD)
    assert budget.take(2.0) == 58.0


def test_foreign_use_is_left_to_others_for_one_interval():
    """What `remaining` shows to be missing beyond ours is held back, and given back one interval later."""
    budget = RateBudget(RateLimit(100, 10.0), now=0.0)
    budget.take(0.0)
    budget.answered(0.0, RateHeaders(limit=100, remaining=59))
    assert budget.used(0.0) == 41
    assert burst(budget, 9.0) == 59
    assert budget.used(10.0) == 59  # all ours


def test_our_own_use_is_not_foreign():
    """What is in flight or answered lately explains what is missing."""
    budget = filled(RateLimit(100, 10.0))
    assert burst(budget, 1.0, 50) == 50
    budget.answered(2.0, RateHeaders(limit=100, remaining=49))
    assert budget.used(2.0) == 51


def test_what_is_lent_is_not_foreign_use():
    """What a borrower sends is explained by its loan, and counts once."""
    budget = filled(RateLimit(100, 10.0))
    assert budget.lend(6) == 6
    budget.take(1.0)
    budget.answered(1.0, RateHeaders(limit=100, remaining=92))
    assert budget.used(1.0) == 8
    budget.take_back(2.0, 6)
    assert budget.used(11.5) == 6
    assert budget.used(12.0) == 0


def test_no_more_than_half_is_lent():
    """The lender itself always goes on; who asks beyond that waits, or gets less at once."""
    budget = filled(RateLimit(10, 10.0))
    assert [budget.lend(3), budget.lend(3), budget.lend(2), budget.lend(1)] == [3, 0, 2, 0]
    assert burst(budget, 0.0) == 4
    budget.take_back(0.0, 3)
    assert budget.lend(9) == 0
    budget.take_back(0.0, 2)
    assert budget.lend(9) == 5


def test_a_foreign_burst_is_forgotten_under_steady_foreign_use():
    """One request a second by someone else does not keep their burst of long ago alive."""
    budget = filled(RateLimit(100, 10.0))
    budget.take(0.5)
    budget.answered(0.5, RateHeaders(limit=100, remaining=48))
    assert budget.used(0.5) == 52
    for second in range(1, 16):
        assert (budget.used(float(second)) > 50) == (second <= 10)
        assert budget.take(float(second)) == 0.0
        ours = second + 2 if second < 10 else 11 if second == 10 else 10
        budget.answered(float(second), RateHeaders(limit=100, remaining=100 - ours - 1))
    assert budget.used(15.0) < 25


def test_foreign_use_of_everything_waits():
    """Nothing is left: wait until what others took is forgotten."""
    budget = RateBudget(RateLimit(10, 10.0), now=0.0)
    budget.take(0.0)
    budget.answered(1.0, RateHeaders(limit=10, remaining=0))
    assert budget.take(1.0) == 10.0


@pytest.mark.parametrize(("retry_after", "wait"), [(3.0, 3.0), (None, 10.0), (0.0, 10.0), (120.0, 120.0)])
def test_a_429_waits_as_asked_and_goes_on_at_half_pace(retry_after, wait):
    """Wait what the server asks, or one interval; then half of the limit, and more with every interval."""
    budget = filled(RateLimit(10, 10.0), at=0.0)
    budget.take(1.0)
    budget.refused(1.0, retry_after)
    budget.answered(1.0, TOLD)
    assert budget.take(1.0) == wait
    assert budget.throttled == 1
    after = 1.0 + max(wait, 11.0)  # our own requests are forgotten too
    shares = []
    for interval in range(8):
        now = after + interval * 20.0  # each burst is long forgotten at the next
        shares.append(burst(budget, now))
        for _ in range(shares[-1]):
            budget.answered(now, TOLD)
    assert shares[0] in (5, 6)
    assert shares == sorted(shares)
    assert shares[-1] == 10


def test_one_incident_halves_the_pace_once():
    """Refusals that were under way when the first came are the same incident; a later one is another."""
    budget = filled(RateLimit(16, 1.0))
    burst(budget, 0.0, 4)
    for _ in range(4):
        budget.refused(0.5, None)
        budget.answered(0.5, TOLD)
    assert burst(budget, 1.5) == 8
    for _ in range(8):
        budget.answered(1.5, TOLD)
    budget.refused(1.6, None)
    assert burst(budget, 2.6) == 4


def test_refusals_without_end_leave_one_request():
    """However often we are refused, one request at a time still asks."""
    budget = filled(RateLimit(3, 1.0))
    for minute in range(20):
        budget.refused(60.0 * minute, None)
    assert burst(budget, 60.0 * 19 + 1.0) == 1


def test_a_refusal_without_a_limit_waits_too():
    """Also where no limit is known, a 429 is obeyed."""
    budget = filled(None)
    budget.refused(0.0, 7.0)
    assert budget.take(2.0) == 5.0
    assert budget.take(7.0) == 0.0


def test_the_day_ends_at_its_reserve():
    """Requests beyond the reserve wait for the reset, more urgent ones go on to the last."""
    budget = filled()
    budget.take(0.0)
    budget.answered(0.0, RateHeaders(daily_limit=100, daily_remaining=3, daily_reset=500.0))
    assert budget.take(1.0, reserve=2) == 0.0
    assert budget.take(1.0, reserve=2) == 499.0  # the one in flight counts
    assert budget.day_spent(1.0, 2)
    assert not budget.day_spent(1.0)
    assert burst(budget, 1.0) == 2
    assert budget.take(1.0) == 499.0


def test_an_answer_that_was_overtaken_gives_nothing_of_the_day_back():
    """What the latest count has left is left, whichever answer comes last; what is asked later may tell of more."""
    budget = filled()
    assert burst(budget, 0.0, 3) == 3
    budget.answered(1.0, RateHeaders(daily_limit=100, daily_remaining=4, daily_reset=500.0))
    budget.answered(2.0, RateHeaders(daily_limit=100, daily_remaining=6, daily_reset=499.0))
    assert budget.daily_remaining == 4
    assert budget.take(3.0) == 0.0
    budget.answered(4.0, None)
    budget.answered(5.0, RateHeaders(daily_limit=100, daily_remaining=100, daily_reset=500.0))
    assert budget.daily_remaining == 100


def test_the_day_that_another_process_knows_is_minded():
    """Who takes a location over begins with the less of both counts of the day."""
    budget = RateBudget(None, now=0.0, daily_remaining=9, daily_reset_at=100.0)
    budget.know_day(5, 90.0)
    budget.know_day(7, 80.0)
    assert budget.take(0.0, reserve=5) == 90.0


def test_the_new_day_is_asked_alone():
    """At the reset one request goes out, and its answer tells what the day has."""
    budget = filled()
    budget.take(0.0)
    budget.answered(0.0, RateHeaders(daily_remaining=0, daily_reset=500.0))
    assert budget.take(100.0) == 400.0
    assert budget.take(500.0) == 0.0
    assert budget.take(500.0) is None
    budget.answered(500.1, RateHeaders(daily_remaining=0, daily_reset=1000.0))
    assert budget.take(501.0) == pytest.approx(999.1)


def test_a_day_without_a_known_end_is_asked_again_in_an_hour():
    """Nothing is left and no answer told until when: in an hour one request shows."""
    budget = filled()
    budget.take(0.0)
    budget.answered(0.0, RateHeaders(daily_remaining=0))
    assert budget.take(0.0) == 3600.0
    assert budget.take(600.0) == 3000.0
    assert burst(budget, 3600.0) == 1


def test_the_day_is_counted_down_between_answers():
    """Requests without an answer are spent as well."""
    budget = RateBudget(None, now=0.0, daily_remaining=2, daily_reset_at=1000.0)
    for second in (1.0, 2.0):
        assert budget.take(second) == 0.0
        budget.answered(second, None)
    assert budget.take(3.0) == 997.0


def test_a_restart_remembers_what_was_taken():
    """The burst of the process before is waited for."""
    budget = RateBudget(RateLimit(10, 10.0), now=100.0, taken=10)
    assert budget.take(100.0) == 10.0
    assert budget.take(110.0) == 0.0


def test_failures_count_against_the_limit():
    """The server may have counted what was never answered."""
    budget = filled(RateLimit(3, 10.0))
    for _ in range(2):
        assert budget.take(1.0) == 0.0
    for _ in range(2):
        budget.answered(4.0, None)
    assert budget.take(5.0) == 5.0  # the answer of second 0
    assert burst(budget, 10.0) == 1
    assert budget.in_flight == 1
    assert budget.sent == 4


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("100/10s", RateLimit(100, 10.0)),
        (" 5 / 500 ms ", RateLimit(5, 0.5)),
        ("60/1m", RateLimit(60, 60.0)),
        ("1000/1h", RateLimit(1000, 3600.0)),
        ("3/1.5", RateLimit(3, 1.5)),
        ("none", None),
        (" NONE ", None),
    ],
)
def test_rates_are_read(text, limit):
    """A rate is requests per time, with a unit or in seconds."""
    assert RateLimit.parse(text) == limit


@pytest.mark.parametrize("text", ["", "100", "0/10s", "5/0s", "-1/10s", "100/10d", "a/b", "1/1s/1s"])
def test_other_rates_are_refused(text):
    """What is no rate is refused with an example."""
    with pytest.raises(ValueError, match="not a rate such as 100/10s"):
        RateLimit.parse(text)


NOON = datetime(2026, 7, 17, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("last", "due"),
    [
        (None, True),
        (NOON - HOUR, True),
        (NOON - HOUR + timedelta(seconds=1), False),
        (NOON, False),
        (NOON + HOUR, False),
        (NOON + 2 * HOUR, True),
    ],
)
def test_what_is_due(last, due):
    """Due after its interval; a time far in the future comes from a clock that was set back."""
    assert is_due(NOON, last, HOUR) is due


@pytest.mark.parametrize(
    ("requests", "daily_limit", "share", "hours"),
    [(100, 200_000, 0.5, 1), (100_000, 200_000, 0.5, 24), (50_000, 200_000, 0.25, 24), (9, None, 0.5, 1), (9, 5, 0, 1)],
)
def test_what_a_day_can_afford(requests, daily_limit, share, hours):
    """As often as wanted, or as often as a share of the day's quota pays for."""
    assert affordable_interval(HOUR, requests, daily_limit, share) == hours * HOUR
