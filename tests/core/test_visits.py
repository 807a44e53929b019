"""Which contact to visit next: the index, the bounds on age, signals, and the budget that is never exceeded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankr_sync import pacing, rates, visits
from rankr_sync.visits import DAY, Bounds, Sent, Step, Trust, Waiting

NOW = datetime(2026, 7, 17, 12, tzinfo=UTC)
NONE = timedelta(0)

prices = st.floats(1e-9, 1e3)
any_rate = st.floats(1e-3, 1e3)
steps = st.sampled_from([rates.step_of(rate) for rate in rates.KINDS[::3]])
recalls = st.floats(0, visits.MOST_RECALL)
ages = st.timedeltas(NONE, timedelta(days=20))
bounds = st.builds(Bounds, st.timedeltas(NONE, timedelta(hours=6)), st.timedeltas(timedelta(days=1), timedelta(days=9)))
contacts = st.lists(st.tuples(st.sampled_from(["notes", "tasks"]), steps, ages), max_size=40)


class Account:
    """The visits of one location, answering as the store does."""

    def __init__(self, contacts: Sequence[tuple[str, float, timedelta]]) -> None:
        self.waiting = [Waiting(stream, str(id_), NOW - age, rate) for id_, (stream, rate, age) in enumerate(contacts)]
        self.read = 0

    def heads(self) -> dict[Step, datetime]:
        """The longest waiting of each step."""
        found: dict[Step, datetime] = {}
        for one in self.waiting:
            step = (one.stream, one.rate)
            found[step] = min(found.get(step, one.last_visited_at), one.last_visited_at)
        return found

    def pick(self, count: int, price: float, recall: Mapping[str, float], bounds: Bounds) -> list[Waiting]:
        """As the engine asks."""

        def fetch(before: Mapping[Step, datetime]) -> list[Waiting]:
            found: list[Waiting] = []
            for step, until in before.items():
                mine = [one for one in self.waiting if (one.stream, one.rate) == step and one.last_visited_at <= until]
                found += sorted(mine, key=lambda one: one.last_visited_at)[:count]
            self.read += len(found)
            return found

        return visits.pick(self.heads(), fetch, NOW, count, price, recall, bounds)[0]


def _worth(one: Waiting, recall: Mapping[str, float], bounds: Bounds) -> tuple[timedelta, float]:
    age = NOW - one.last_visited_at
    return max(age - bounds.max_age, NONE), visits.index(one.rate, age, recall[one.stream])


# -- the index -----------------------------------------------------------------------------------------


@given(any_rate, ages, recalls, st.floats(0, 100))
def test_the_index_is_the_time_that_unseen_changes_would_have_waited(rate, age, recall, announced):
    """Half of rate x age^2 for what nobody announces, and what signals have added."""
    worth = visits.index(rate, age, recall, announced)
    assert worth == pytest.approx((1 - recall) * rate * (age / DAY) ** 2 / 2 + announced)
    assert worth >= announced


@given(prices, any_rate, recalls, bounds)
def test_a_contact_is_due_when_its_visit_is_worth_the_price(price, rate, recall, bounds):
    """At the moment it is due the index is the price, unless a bound decides."""
    wait = visits.due_in(price, rate, recall, bounds)
    assert bounds.min_age <= wait <= bounds.max_age
    if bounds.min_age < wait < bounds.max_age:
        assert visits.index(rate, wait, recall) == pytest.approx(price, rel=1e-3, abs=1e-9)


@given(prices, any_rate, recalls, bounds, st.floats(0, 10), st.floats(1, 10))
def test_dearer_later_livelier_and_announced_sooner(price, rate, recall, bounds, announced, factor):
    """A higher price never makes a visit due sooner; a higher rate or a signal never later."""
    wait = visits.due_in(price, rate, recall, bounds, announced)
    assert visits.due_in(price * factor, rate, recall, bounds, announced) >= wait
    assert visits.due_in(price, rate * factor, recall, bounds, announced) <= wait
    assert visits.due_in(price, rate, recall, bounds, announced * factor) <= wait
    assert visits.due_in(price, rate, recall / factor, bounds, announced) <= wait


@given(prices, any_rate, recalls, bounds)
def test_after_a_visit_the_next_turn_is_told_with_its_reason(price, rate, recall, bounds):
    """By index within the bounds; by age where the limit comes first."""
    due_at, why = visits.due_after_visit(NOW, price, rate, recall, bounds)
    assert NOW + bounds.min_age <= due_at <= NOW + bounds.max_age
    assert why == (visits.BY_AGE if due_at == NOW + bounds.max_age else visits.BY_INDEX)


# -- signals -------------------------------------------------------------------------------------------


@given(ages, prices, any_rate, recalls, st.floats(0, 10))
def test_a_signal_never_makes_a_visit_due_before_it_was_noticed(age, price, rate, recall, announced):
    """What is worth its price at once is due at once, not in the past."""
    due_at = visits.due_after_signal(NOW, NOW - age, price, rate, recall, announced)
    assert due_at >= NOW
    if announced >= price:
        assert due_at == NOW


@given(ages, st.floats(0, 1))
def test_a_signal_is_worth_the_time_since_the_last_look(age, precision):
    """The longer ago the last look, the more a change waits to be found; a clock set back makes nothing negative."""
    assert visits.worth_of_signal(age, precision) == pytest.approx(precision * (age / DAY))
    assert visits.worth_of_signal(-age, precision) == 0


def test_trust_begins_with_none_in_signals():
    """No recall, and a change behind every other signal, until seen otherwise; what must be made is certain."""
    assert Trust().recall == 0
    assert {Trust().precision(signal) for signal in visits.LEARNED_FROM} == {0.5}
    assert {Trust().precision(signal) for signal in (visits.NEW_CONTACT, visits.MISSED, visits.POSTPONED)} == {1.0}


@given(st.lists(st.tuples(st.sampled_from([*visits.LEARNED_FROM, visits.BY_INDEX]), st.booleans()), max_size=60))
def test_trust_stays_between_never_and_always(seen):
    """Whatever visits found: recall from none to nearly all, precision strictly between none and all."""
    trust = _learned(seen)
    assert 0 <= trust.recall <= visits.MOST_RECALL
    assert all(0 < trust.precision(signal) < 1 for signal in visits.LEARNED_FROM)


@given(st.sampled_from(visits.LEARNED_FROM), st.integers(0, 500), st.integers(0, 500))
def test_trust_is_learned(signal, right, wrong):
    """A signal that was right gains precision, one that was wrong loses it; others stay as they were."""
    trust = _learned([(signal, True)] * right + [(signal, False)] * wrong)
    assert _learned([(signal, True)] * (right + 1) + [(signal, False)] * wrong).precision(signal) > trust.precision(
        signal
    )
    assert _learned([(signal, True)] * right + [(signal, False)] * (wrong + 1)).precision(signal) < trust.precision(
        signal
    )
    assert all(trust.precision(other) == 0.5 for other in visits.LEARNED_FROM if other != signal)


@given(st.integers(0, 500), st.integers(0, 500))
def test_recall_is_the_share_of_changes_that_were_announced(announced, unannounced):
    """It rises with what signals foretold and falls with what they missed, and begins with doubt."""
    found = [(visits.CHANGED_CONTACT, True)] * announced + [(visits.BY_INDEX, True)] * unannounced
    recall = _learned(found).recall
    assert recall <= announced / max(announced + unannounced, 1)
    assert _learned([*found, (visits.CHANGED_CONTACT, True)]).recall > recall or recall == visits.MOST_RECALL
    assert _learned([*found, (visits.BY_INDEX, True)]).recall <= recall


def test_a_few_lucky_signals_are_not_trusted():
    """Five changes, all announced, may be chance: recall stays low until there are many more."""
    assert _learned([(visits.CHANGED_CONTACT, True)] * 5).recall <= 0.2


def test_much_experience_outweighs_the_doubt():
    """Of ten thousand changes nine in ten were announced: that is the recall."""
    trust = Trust({visits.CHANGED_CONTACT: Sent(18_000, 9_000), visits.BY_INDEX: Sent(90_000, 1_000)})
    assert trust.recall == pytest.approx(0.9, abs=0.01)
    assert trust.precision(visits.CHANGED_CONTACT) == pytest.approx(0.5, abs=0.01)


def _learned(seen: Sequence[tuple[str, bool]]) -> Trust:
    counted: dict[str, Sent] = {}
    for reason, found in seen:
        sent = counted.get(reason, Sent())
        counted[reason] = Sent(sent.visits + 1, sent.found + found)
    return Trust(counted)


# -- picking -------------------------------------------------------------------------------------------


@given(contacts, st.integers(1, 30), prices, recalls, bounds)
def test_the_visits_that_are_worth_most_are_picked(contacts, count, price, recall, bounds):
    """Whatever price we begin with: as many as wanted, the same as if all had been ranked, the best first."""
    account, shares = Account(contacts), {"notes": recall, "tasks": 0.0}
    # The age at which a step is worth the lowest price is the youngest that is looked at.
    allowed = [one for one in account.waiting if NOW - one.last_visited_at >= bounds.min_age]
    allowed = [one for one in allowed if _worth(one, shares, bounds)[1] > 2 * visits.LOWEST_PRICE]
    best = sorted((_worth(one, shares, bounds) for one in allowed), reverse=True)[:count]
    picked = [_worth(one, shares, bounds) for one in account.pick(count, price, shares, bounds)]
    assert picked[: len(best)] == best
    assert len(picked) <= count


@given(contacts, st.integers(1, 30), prices, recalls, bounds)
def test_nobody_is_looked_at_again_too_soon(contacts, count, price, recall, bounds):
    """Never more than wanted, nobody twice, and nobody before `min_age`."""
    picked = Account(contacts).pick(count, price, {"notes": recall}, bounds)
    assert len(picked) <= count
    assert len({one.contact_id for one in picked}) == len(picked)
    assert all(NOW - one.last_visited_at >= bounds.min_age for one in picked)


@given(contacts, st.integers(1, 30), prices, recalls, bounds)
def test_what_is_past_the_age_limit_goes_first(contacts, count, price, recall, bounds):
    """Before everybody else, the longest waiting first, whatever they are worth."""
    account = Account(contacts)
    picked = account.pick(count, price, {"notes": recall}, bounds)
    late = sorted(NOW - one.last_visited_at for one in account.waiting if NOW - one.last_visited_at > bounds.max_age)
    assert [NOW - one.last_visited_at for one in picked[: len(late)]] == late[::-1][:count]


@given(contacts.filter(bool), st.integers(1, 30), prices)
def test_the_price_is_what_the_last_visit_was_worth(contacts, count, price):
    """The next moment's price is the index of the last that was bought: it finds its own level."""
    account, bounds, none = Account(contacts), Bounds(NONE, timedelta(days=100)), {"notes": 0.0}

    def fetch(before: Mapping[Step, datetime]) -> list[Waiting]:
        return [
            one for one in account.waiting if one.last_visited_at <= before.get((one.stream, one.rate), NOW - 99 * DAY)
        ]

    picked, paid = visits.pick(account.heads(), fetch, NOW, count, price, none, bounds)
    if picked:
        assert paid == visits.index(picked[-1].rate, NOW - picked[-1].last_visited_at, 0.0)
    else:
        assert paid == 0


def test_nobody_waiting_is_nobody_picked():
    """An empty location, or one where all were just visited, asks for nothing."""
    assert Account([]).pick(5, 0.01, {}, Bounds()) == []
    assert Account([("notes", 1.0, timedelta(minutes=1))] * 9).pick(5, 0.01, {}, Bounds()) == []


def test_picking_reads_little():
    """With the price of the moment before, only those are read who are about to be bought."""
    ages = [timedelta(hours=hours) for hours in range(1, 101)]
    account = Account([("notes", rate, age) for rate in (0.01, 0.1, 1.0, 10.0) for age in ages])
    none, bounds = {"notes": 0.0}, Bounds(NONE, timedelta(days=50))
    best = account.pick(10, 1e-9, none, bounds)
    price = visits.index(best[-1].rate, NOW - best[-1].last_visited_at, 0.0)
    account.read = 0
    assert account.pick(10, price, none, bounds) == best
    assert account.read <= 2 * len(best)


@given(contacts, st.integers(1, 30), prices, bounds, st.floats(0.1, 1))
def test_who_is_late_gets_no_more_than_a_share(contacts, count, price, bounds, share):
    """The longest waiting first, as far as their share goes; the rest of the visits to the highest indexes."""
    account, none = Account(contacts), {"notes": 0.0, "tasks": 0.0}
    picked = account.pick(count, price, none, replace(bounds, first=share))
    ages = [NOW - one.last_visited_at for one in account.waiting]
    late = sorted((age for age in ages if age > bounds.max_age), reverse=True)[: math.ceil(count * share)]
    assert [NOW - one.last_visited_at for one in picked[: len(late)]] == late


def test_the_late_do_not_hide_who_is_worth_more():
    """Who is late is read at any price; the others are still looked for, down to the price of the last bought."""
    late = [("notes", 0.001, timedelta(days=10 + day)) for day in range(6)]
    lively = [("notes", 1.0, timedelta(hours=30 + hour)) for hour in range(6)]
    picked = Account(late + lively).pick(4, 1000.0, {"notes": 0.0}, Bounds(first=0.5))
    assert [one.rate for one in picked] == [0.001, 0.001, 1.0, 1.0]


# -- in time -------------------------------------------------------------------------------------------

paces = st.floats(1, 1e6)


@given(st.integers(1, 10**6), paces, bounds)
def test_half_of_the_visits_are_kept_for_the_bound(contacts, a_day, bounds):
    """Or what one pass needs, if that is more and there is so much; never more than there is."""
    kept, a_pass = visits.kept_a_day(contacts, a_day, bounds), contacts / (bounds.max_age / DAY)
    assert a_day / 2 <= kept <= a_day
    if a_pass <= a_day:
        assert kept >= a_pass


@given(st.lists(ages, min_size=1, max_size=60), paces, st.floats(1, 10), bounds)
def test_the_longest_waiting_go_first_before_it_is_too_late(waiting, kept, more, bounds):
    """While the limit stands as it is, what is kept suffices for everybody to be seen before reaching it."""
    kept = max(kept, len(waiting) / (bounds.max_age / DAY))
    counted = visits.ages_to_count(len(waiting), kept, bounds)
    older = {age: sum(each > age for each in waiting) for age in counted}
    now = visits.in_time(older, kept, kept * more, bounds)
    assert bounds.min_age <= now.max_age <= bounds.max_age
    assert now.first * kept * more == pytest.approx(kept)
    if now.max_age == bounds.max_age:
        for ahead, age in enumerate(sorted(waiting, reverse=True), 1):
            assert age > bounds.max_age or ahead <= kept * ((bounds.max_age - age) / DAY) + 1


def test_nobody_is_hurried_while_there_is_time():
    """A hundred contacts, five hundred visits a day: none is old, and the limit stays; all are, and it does not."""
    limit = Bounds()
    counted = visits.ages_to_count(100, 500.0, limit)
    assert counted[0] > timedelta(days=6)
    assert visits.in_time(dict.fromkeys(counted, 0), 500.0, 1000.0, limit) == replace(limit, first=0.5)
    assert visits.in_time(dict.fromkeys(counted, 100), 500.0, 1000.0, limit).max_age == counted[0]


# -- the budget ----------------------------------------------------------------------------------------

floods = st.lists(st.integers(0, 3000), min_size=24, max_size=24)


@given(floods, st.integers(500, 5000), st.floats(0.1, 0.9), st.floats(0, 1), st.floats(0, 1))
def test_visits_never_spend_what_is_kept_for_others(signals, limit, share, others, kept):
    """Whatever signals come: the day is never overspent, the reserve is left alone, and what the bound on age needs
    is there until the reset.
    """
    day = pacing.DayBudget(limit, limit)
    kept_a_day = kept * share * limit
    reserve = (1 - share) * limit
    tick, waiting, fraction, rolling, urgent = 600.0, 0, 0.0, 0, 0
    for turn in range(144):
        waiting += signals[turn // 6] // 6
        used = int(others * reserve * (turn + 1) / 144) - int(others * reserve * turn / 144)  # polls, people
        done = min(waiting, pacing.signalled_visits(day, share, kept_a_day))
        waiting, urgent = waiting - done, urgent + done
        day = replace(day, left=day.left - done)
        assert day.left - reserve >= kept_a_day * day.seconds / 86_400 - 1 or not done
        fraction += pacing.visits_a_second(day, share) * tick
        bought, fraction = int(fraction), fraction % 1
        rolling += bought
        day = pacing.DayBudget(limit, day.left - bought - used, day.seconds - tick)
        assert day.left >= reserve - int(others * reserve * (turn + 1) / 144) - 1
    assert urgent + rolling <= share * limit + 1
    if not others:
        assert urgent + rolling >= share * limit - 2  # and what is there is spent
        assert rolling >= min(kept_a_day, share * limit) - 2


@given(st.integers(0, 1000), st.integers(1, 1000), st.floats(0, 86_400), st.floats(0, 1), st.floats(0, 1e5))
def test_nothing_left_is_nothing_to_spend(left, limit, seconds, share, kept):
    """Never less than nothing, also when others took more than their part, or the day is over."""
    day = pacing.DayBudget(limit, min(left, limit), seconds)
    assert 0 <= pacing.signalled_visits(day, share, kept) <= max(0, day.left)
    pace = pacing.visits_a_second(day, share)
    assert 0 <= pace * max(seconds, 1.0) <= max(0.0, day.left + 1e-6)
    if day.left <= (1 - share) * limit:
        assert pace == 0
