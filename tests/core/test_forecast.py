"""What freshness may be expected and what was achieved: arithmetic that people will hold the product to."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankr_sync import rates
from rankr_sync.freshness import (
    Audit,
    Crowd,
    Expected,
    after_the_first_copy,
    audit,
    crowd_of,
    forecast,
    full_passes,
    one_pass,
    percentile,
    polls,
    walks,
)
from rankr_sync.visits import (
    BY_INDEX,
    CHANGED_CONTACT,
    DAY,
    NEW_CONTACT,
    Bounds,
    Sent,
    Step,
    Trust,
    Waiting,
    kept_a_day,
    pick,
)

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
WIDE = Bounds(timedelta(seconds=1), timedelta(days=3650))

# -- percentiles and audits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "share", "value"),
    [
        ({}, 0.5, None),
        ({4: 0}, 0.5, None),
        ({4: 1}, 0.5, 4),
        ({10: 5, 1: 50, 2: 45}, 0.5, 1),
        ({10: 5, 1: 50, 2: 45}, 0.95, 2),
        ({10: 5, 1: 50, 2: 45}, 0.951, 10),
        ({1: 0, 2: 3, 3: 0}, 0.0, 2),
    ],
)
def test_a_percentile_is_the_class_that_holds_it(classes: dict[int, int], share: float, value: int | None) -> None:
    """So many of what was counted are in the class or below."""
    assert percentile(classes, share) == value


def test_an_audit_is_told_with_its_interval() -> None:
    """Three stale rows of 10,000: the sentence that people read."""
    assert str(audit(10_000, 3)) == "99.97 % of rows current, 95 % interval 99.91 to 99.99 %"


@pytest.mark.parametrize(
    ("rows", "stale", "percent", "low", "high"),
    [
        (10, 0, 100.0, 72.25, 100.0),
        (10, 10, 0.0, 0.0, 27.75),
        (100, 1, 99.0, 94.55, 99.82),
        (1_000_000, 0, 100.0, 99.9996, 100.0),
    ],
)
def test_the_interval_is_wilsons(rows: int, stale: int, percent: float, low: float, high: float) -> None:
    """Also where no row was stale, or every one: there too a sample leaves doubt."""
    found = audit(rows, stale)
    assert found is not None
    assert (found.percent, found.low, found.high) == pytest.approx((percent, low, high), abs=0.005)


def test_an_audit_of_nothing_says_nothing() -> None:
    """No share without a row."""
    assert audit(0, 0) is None


@given(st.integers(1, 10**7), st.data())
def test_an_audit_never_promises_too_much(rows: int, data: st.DataObject) -> None:
    """The interval holds the share and stays within 0 and 100, and no rounding makes either of them better."""
    stale = data.draw(st.integers(0, rows))
    found = audit(rows, stale)
    assert found is not None
    assert 0 <= found.low <= found.percent <= found.high <= 100
    words = str(found).split()
    assert float(words[0]) <= found.percent + 1e-6
    assert float(words[-4]) <= found.low + 1e-6
    assert float(words[-2]) >= found.high - 1e-6
    assert stale == 0 or not str(Audit(found.percent, found.low, found.high)).startswith("100.00")


@pytest.mark.parametrize(("rows", "current"), [(50, 0.9), (200, 0.99), (400, 0.999)])
def test_the_interval_holds_the_truth_about_95_times_in_100(rows: int, current: float) -> None:
    """Over every outcome that a sample can have, each as often as it comes."""
    held = 0.0
    for stale in range(rows + 1):
        found = audit(rows, stale)
        assert found is not None
        if found.low <= 100 * current <= found.high:
            held += math.comb(rows, stale) * (1 - current) ** stale * current ** (rows - stale)
    assert 0.92 <= held <= 0.99


# -- forecasts by hand -----------------------------------------------------------------------------------


def notes(crowd: Crowd, budget: float, bounds: Bounds = WIDE, notice: timedelta = MINUTE) -> Expected:
    """The forecast of a location with one stream."""
    return forecast({"notes": crowd}, budget, bounds, notice)["notes"]


def test_four_times_the_rate_is_half_the_interval() -> None:
    """100 contacts that change four times a day, 100 once: 300 visits a day are twice and once a day."""
    found = notes(Crowd({4.0: 100, 1.0: 100}), 300)
    assert (found.contacts, found.changes, found.visits, found.signalled) == pytest.approx((200, 500, 300, 0))
    assert found.shortest == pytest.approx(43_200, rel=1e-4)
    assert found.longest == pytest.approx(86_400, rel=1e-4)
    # 400 changes wait up to half a day, 100 up to a day.
    assert found.mean == pytest.approx(0.3 * 86_400, rel=1e-4)
    assert found.p95 == pytest.approx(0.75 * 86_400, rel=1e-4)


def test_announced_changes_wait_for_the_notice() -> None:
    """Half of 500 changes are announced, half of the signals are false: 500 of the visits go to signals."""
    found = notes(Crowd({4.0: 100, 1.0: 100}, recall=0.5, precision=0.5), 1300)
    assert (found.visits, found.signalled) == pytest.approx((1300, 500))
    rolling_mean = 0.3 * 86_400 * 300 / 800
    assert found.mean == pytest.approx(0.5 * rolling_mean + 0.5 * 60, rel=1e-4)
    assert found.p95 < 0.75 * 86_400 * 300 / 800


def test_signals_leave_what_is_kept_for_the_bound_on_age() -> None:
    """More signals than half of the budget: some are not heard, and the rolling visits go on."""
    found = notes(Crowd({10.0: 100}, recall=0.9), 1000)
    assert (found.visits, found.signalled) == pytest.approx((1000, 500))
    assert found.longest == pytest.approx(86_400 / 5, rel=1e-4)


def test_streams_share_one_price() -> None:
    """The stream that changes more gets more of the visits, as its rates say."""
    found = forecast({"notes": Crowd({4.0: 100}), "appointments": Crowd({1.0: 100})}, 300, WIDE, MINUTE)
    assert (found["notes"].visits, found["appointments"].visits) == pytest.approx((200, 100), rel=1e-4)


def test_nobody_is_visited_sooner_than_min_age() -> None:
    """More budget than can be used: each contact once in `min_age`, and the rest is left."""
    found = notes(Crowd({1.0: 10, 0.01: 10}), 1e9, Bounds(15 * MINUTE, 7 * DAY))
    assert (found.visits, found.shortest, found.longest) == pytest.approx((20 * 96, 900, 900))
    assert (found.mean, found.p95) == pytest.approx((450, 855))


def test_nobody_waits_longer_than_max_age_where_one_pass_fits() -> None:
    """The quiet ones wait for the bound, the lively ones share what is left."""
    found = notes(Crowd({100.0: 10, 0.001: 700}), 200, Bounds(MINUTE, 7 * DAY))
    assert found.longest == 7 * 86_400
    assert found.visits == pytest.approx(200)
    assert found.shortest == pytest.approx(10 / 100 * 86_400, rel=1e-4)


def test_where_no_pass_fits_the_oldest_get_half() -> None:
    """Half of the visits go to those who wait longest, the others still have their turn."""
    found = notes(Crowd({100.0: 10, 0.001: 700}), 50, Bounds(MINUTE, 7 * DAY))
    assert found.visits == pytest.approx(50)
    assert found.longest == pytest.approx(700 / 25 * 86_400, rel=1e-3)
    assert found.shortest == pytest.approx(10 / 25 * 86_400, rel=1e-3)


@pytest.mark.parametrize("budget", [0.0, -5.0])
def test_nothing_is_expected_of_no_budget(budget: float) -> None:
    """A change is never seen; nothing is divided by zero."""
    found = notes(Crowd({1.0: 10}, recall=0.5), budget)
    assert (found.visits, found.signalled) == (0, 0)
    assert math.inf == found.mean == found.p95 == found.longest


def test_a_location_without_visits_has_no_forecast() -> None:
    """Only contacts are mirrored, or nobody is there."""
    assert forecast({}, 1000, WIDE, MINUTE) == {}
    nobody = notes(Crowd({}), 1000)
    assert (nobody.contacts, nobody.visits, nobody.mean, nobody.p95) == (0, 0, 0, 0)


# -- forecasts, whatever the crowd -------------------------------------------------------------------------

CROWDS = st.builds(
    Crowd,
    st.dictionaries(st.floats(0.001, 100), st.integers(1, 100_000), min_size=1, max_size=8),
    st.floats(0, 0.98),
    st.floats(0.01, 1),
)
QUIET = st.builds(Crowd, st.dictionaries(st.floats(0.001, 100), st.integers(1, 100_000), min_size=1, max_size=8))


@given(st.dictionaries(st.sampled_from(["notes", "appointments", "tasks"]), CROWDS), st.floats(0, 10**7))
def test_the_budget_is_never_exceeded(crowds: dict[str, Crowd], budget: float) -> None:
    """Whatever the contacts, the visits that are expected are those that can be paid; and none is left unused."""
    bounds = Bounds()
    found = forecast(crowds, budget, bounds, MINUTE)
    spent = sum(one.visits for one in found.values())
    assert spent <= budget * (1 + 1e-6)
    eager = all(one.longest <= bounds.min_age.total_seconds() * (1 + 1e-6) for one in found.values())
    never = any(math.isinf(one.longest) for one in found.values())
    assert eager or never or spent >= budget * (1 - 1e-3)


@given(st.dictionaries(st.sampled_from(["notes", "appointments"]), CROWDS, min_size=1), st.floats(1, 100))
def test_the_bound_on_age_holds_where_one_pass_fits(crowds: dict[str, Crowd], times: float) -> None:
    """With the visits of one pass in `max_age` or more, nobody waits longer, however much others change."""
    bounds = Bounds()
    a_pass = math.ceil(sum(crowd.size for crowd in crowds.values())) / (bounds.max_age / DAY)
    found = forecast(crowds, a_pass * times * (1 + 1e-9), bounds, MINUTE)
    assert max(one.longest for one in found.values()) <= bounds.max_age.total_seconds() * (1 + 1e-6)


@given(QUIET, st.floats(1.0001, 50), st.floats(1, 50))
def test_more_budget_is_never_worse(crowd: Crowd, times: float, more: float) -> None:
    """Where the bound on age can be kept, each further visit makes the mean delay shorter or leaves it."""
    a_pass = math.ceil(crowd.size) / 7
    little, much = (notes(crowd, budget, Bounds()) for budget in (a_pass * times, a_pass * times * more))
    assert much.mean <= little.mean * (1 + 1e-6)
    assert much.longest <= little.longest * (1 + 1e-6)


@given(QUIET, st.floats(0.1, 10))
def test_visits_by_index_are_never_worse_than_round_robin(crowd: Crowd, passes_a_day: float) -> None:
    """The mean delay is at most that of visiting everybody in order, with as many visits."""
    budget = crowd.size * passes_a_day
    assert notes(crowd, budget).mean <= 86_400 / passes_a_day / 2 * (1 + 1e-6)


@given(CROWDS, st.floats(1, 10**6), st.integers(1, 10**6))
def test_delays_are_in_order(crowd: Crowd, budget: float, contacts: int) -> None:
    """No delay is longer than the longest interval or the notice; a crowd that grows keeps its kinds."""
    found = notes(crowd.grown_to(contacts), budget, Bounds(), HOUR)
    assert found.contacts == pytest.approx(contacts)
    assert found.changes / contacts == pytest.approx(crowd.changes / crowd.size)
    most = max(found.longest, 3600) * (1 + 1e-6)
    assert 0 < found.mean <= most
    assert 0 < found.p95 <= most
    assert found.shortest <= found.longest


# -- against visits that are really picked -----------------------------------------------------------------


def simulated(
    contacts: dict[float, int], budget: int, bounds: Bounds, days: int, at_once: int = 1
) -> tuple[float, float]:
    """The mean delay and the longest interval, in days, when `pick` chooses the visits; the first half not counted."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rate_of = {f"{rate}-{number}": rate for rate, count in contacts.items() for number in range(count)}
    # Not all at once: who begins together comes of age together.
    last = {id_: start - bounds.max_age * (place * 7 % 11 / 11) for place, id_ in enumerate(rate_of)}
    waited = changes = longest = 0.0
    price = 1.0

    def fetch(before: Mapping[Step, datetime]) -> list[Waiting]:
        found = [Waiting("notes", id_, at, rate_of[id_]) for id_, at in last.items()]
        never = start - 100 * DAY
        mine = [one for one in found if one.last_visited_at <= before.get(("notes", one.rate), never)]
        return sorted(mine, key=lambda one: one.last_visited_at)

    for visit in range(at_once, budget * days + 1, at_once):
        now = start + DAY * visit / budget
        heads = {("notes", rate): min(last[id_] for id_ in last if rate_of[id_] == rate) for rate in contacts}
        picked, price = pick(heads, fetch, now, at_once, price, {}, bounds)
        for one in picked:
            age = (now - last[one.contact_id]) / DAY
            last[one.contact_id] = now
            if visit > budget * days / 2:
                waited, changes = waited + one.rate * age**2 / 2, changes + one.rate * age
                longest = max(longest, age)
    return waited / changes, longest


@pytest.mark.parametrize(
    ("contacts", "budget", "max_age"),
    [({4.0: 10, 1.0: 20, 0.05: 30}, 60, 30 * DAY), ({4.0: 10, 1.0: 20, 0.02: 30}, 60, 2 * DAY)],
)
def test_the_forecast_is_what_visits_bring(contacts: dict[float, int], budget: int, max_age: timedelta) -> None:
    """Sixty contacts, each visit chosen as the daemon does: mean delay and longest wait as announced, within 7 %."""
    bounds = Bounds(MINUTE, max_age)
    expected = notes(Crowd(contacts), budget, bounds)
    mean, longest = simulated(contacts, budget, bounds, 20)
    assert expected.mean / 86_400 == pytest.approx(mean, rel=0.07)
    assert expected.longest / 86_400 == pytest.approx(longest, rel=0.07)


def test_the_forecast_is_what_visits_bring_where_no_pass_fits() -> None:
    """The same where `max_age` is missed and a half of the visits goes to the oldest."""
    contacts, budget = {4.0: 10, 0.02: 50}, 40
    bounds = Bounds(MINUTE, DAY)
    expected = notes(Crowd(contacts), budget, bounds)
    share = kept_a_day(60, budget, bounds) / budget
    # One visit at a time cannot be halved: two at a time can.
    mean, longest = simulated(contacts, budget, Bounds(MINUTE, DAY, share), 40, at_once=2)
    assert expected.mean / 86_400 == pytest.approx(mean, rel=0.1)
    assert expected.longest / 86_400 == pytest.approx(longest, rel=0.1)


# -- what was learned, and what is usual ---------------------------------------------------------------------


def test_a_crowd_trusts_signals_as_they_were() -> None:
    """Recall and precision are those of all signals together; a new contact is no signal of a change."""
    trust = Trust({CHANGED_CONTACT: Sent(98, 48), NEW_CONTACT: Sent(1000, 0), BY_INDEX: Sent(500, 28)})
    crowd = crowd_of({1.0: 100}, trust)
    assert crowd.recall == pytest.approx(trust.recall) == pytest.approx(0.5)
    assert crowd.precision == pytest.approx(0.49)
    assert crowd.signals == pytest.approx(50 / 0.49)
    assert crowd_of({1.0: 1}, Trust()).signals == 0


def test_before_anything_is_known_contacts_are_as_is_usual() -> None:
    """All contacts, with the changes that the prior expects, spread over steps of rate that differ widely."""
    prior = rates.gamma()
    found = after_the_first_copy(prior, 100_000)
    assert sum(found.values()) == pytest.approx(100_000)
    assert sum(rate * count for rate, count in found.items()) == pytest.approx(100_000 * prior.mean(), rel=0.05)
    assert max(found) > 10 * min(found)
    assert all(rate == rates.step_of(rate) for rate in found)


# -- listings and what things cost -----------------------------------------------------------------------------


def test_listings_cost_what_their_pages_cost() -> None:
    """A poll a minute; a full pass of 10,000 contacts; a walk of tasks that may take 5 % of the day at most."""
    poll = polls(500, MINUTE)
    assert (poll.requests, poll.mean, poll.p95) == (1445, 30, 57)
    assert full_passes(10_001, DAY).requests == 104
    assert full_passes(10_000, DAY / 2).requests == 206
    assert walks(990, 15 * MINUTE, 200_000, 0.05).requests == 14 * 96
    capped = walks(50_000, 15 * MINUTE, 200_000, 0.05)
    assert capped.requests == pytest.approx(10_000)
    assert capped.every == pytest.approx(510 * 8.64)
    assert polls(0, timedelta(0)).requests == 86_400


def test_what_one_pass_costs() -> None:
    """100,000 contacts of two streams in six hours are 800,000 visits a day; 160,000 buy 30 hours."""
    found = one_pass(200_000, 6 * HOUR, 160_000)
    assert (found.visits, found.fits, found.shortest) == (800_000, False, 30 * HOUR)
    assert one_pass(200_000, 30 * HOUR, 160_000).fits
    assert not one_pass(200_000, 29 * HOUR, 160_000).fits
    assert one_pass(200_000, 6 * HOUR, -1).shortest is None
    assert not one_pass(200_000, 6 * HOUR, -1).fits
