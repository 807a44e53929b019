"""The planner at work, in virtual time: the aims of benchmarks/freshness on a small account, and nobody starves."""

import random
import sys
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankr_sync import visits

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "freshness"))

import plot
import scenarios
import simulate

POLICIES = (
    simulate.ROUND_ROBIN,
    simulate.FROM_VISITS,
    simulate.LEARNED,
    simulate.HALF,
    simulate.MOST,
    simulate.KNOWN,
)


@pytest.fixture(scope="module")
def results() -> dict[str, simulate.Result]:
    """2,000 contacts, 1,800 visits a day, twenty days: what each policy achieves."""
    world = scenarios.freshness(2000)
    return {policy.name: simulate.Simulation(world, policy, tick=600.0).run() for policy in POLICIES}


def _mean(results: dict[str, simulate.Result], policy: simulate.Policy) -> float:
    return results[policy.name].mean


def test_round_robin_takes_half_a_pass(results):
    """The yardstick is what arithmetic says: half of 2,000 / 1,800 days."""
    assert _mean(results, simulate.ROUND_ROBIN) == pytest.approx(12 * 2000 / 1800, rel=0.05)


@pytest.mark.parametrize(
    ("policy", "most"),
    [(simulate.FROM_VISITS, 0.42), (simulate.LEARNED, 0.40), (simulate.HALF, 0.20), (simulate.MOST, 0.045)],
    ids=lambda value: getattr(value, "name", value),
)
def test_changes_are_found_sooner_than_by_round_robin(results, policy, most):
    """The aims: at most so much of round robin's mean delay, with the same visits."""
    assert _mean(results, policy) <= most * _mean(results, simulate.ROUND_ROBIN)


def test_little_is_lost_by_not_knowing_the_rates(results):
    """Learning from visits comes within 1.4 times of knowing; with the dates of records, within 1.25 times."""
    assert _mean(results, simulate.FROM_VISITS) <= 1.4 * _mean(results, simulate.KNOWN)
    assert _mean(results, simulate.LEARNED) <= 1.25 * _mean(results, simulate.KNOWN)


def test_all_of_the_budget_is_used_and_no_more(results):
    """Each policy spends what the quota buys: no visit is left over, none is made that was not bought."""
    assert all(0.99 <= result.used <= 1.0 for result in results.values())


def test_recall_is_learned_from_what_visits_find(results):
    """Half of the changes are announced, or nine in ten: the planner finds out which."""
    assert results[simulate.LEARNED.name].recall == 0
    assert results[simulate.HALF.name].recall == pytest.approx(0.5, abs=0.07)
    assert results[simulate.MOST.name].recall == pytest.approx(0.9, abs=0.05)


def test_nobody_waits_longer_than_the_bound(results):
    """With six times the visits that one pass needs, no look is ever older than `max_age`, whatever is believed."""
    assert max(result.oldest for result in results.values()) <= 7.0 + 600 / 86_400


def test_the_plot_has_a_line_for_each_policy(results):
    """A valid SVG; lines that only rise, from few changes found to all."""
    root = ElementTree.fromstring(plot.delays(list(results.values()) + list(results.values())[:2]))
    lines = [line.attrib["points"].split() for line in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert len(lines) == len(POLICIES) + 2
    for line in lines:
        heights = [float(point.split(",")[1]) for point in line]
        assert heights == sorted(heights, reverse=True)


def test_an_import_is_looked_at_soon_and_starves_nobody():
    """Of 30 new contacts for each 100, within an hour, all are seen within a day; the others within the bound."""
    result = simulate.Simulation(scenarios.bulk_import(1000), simulate.LEARNED, tick=600.0).run()
    assert len(result.first_looks) == 300
    assert max(result.first_looks) < 1.0
    assert result.oldest <= 7.0


def test_an_outage_is_made_up_for():
    """Twelve hours without the source cost little: the day's budget is still there, and nobody waits for ever."""
    result = simulate.Simulation(scenarios.outage(1000), simulate.LEARNED, tick=600.0).run()
    usual = simulate.Simulation(scenarios.freshness(1000), simulate.LEARNED, tick=600.0).run()
    assert result.used >= 0.97
    assert result.mean < 1.4 * usual.mean


def test_a_crowd_that_grows_old_together_is_seen_in_time():
    """Contacts of very different rates, all copied within two days: those that hardly ever change would reach the
    limit together, and are begun with in time.
    """
    chance = random.Random(1)
    rates = [10 ** chance.uniform(-3, 1) for _ in range(300)]
    changes = sorted((20 * chance.random(), who) for who, rate in enumerate(rates) for _ in range(round(20 * rate)))
    world = scenarios.World("crowd", rates, 300, changes, [0] * 300, [(0.0, 3 * 300 / 7)])
    for policy in (simulate.LEARNED, simulate.MOST):
        assert simulate.Simulation(world, policy, tick=1800.0).run().oldest <= 7 + 0.05


MOST_AGE = visits.Bounds(timedelta(minutes=15), timedelta(days=4))

accounts = st.lists(st.sampled_from([0.001, 0.02, 0.3, 2.0, 20.0]), min_size=2, max_size=60)
floods = st.lists(st.tuples(st.floats(0, 20), st.floats(0.05, 1)), max_size=8)


@settings(max_examples=40)
@given(accounts, floods, st.floats(1.1, 8), st.sampled_from([simulate.LEARNED, simulate.MOST, simulate.KNOWN]))
def test_nobody_starves(rates, floods, passes, policy):
    """Whatever the rates and however many signals: when one pass fits, everybody is looked at in time.

    A tick and the whole visit of a small account are what may be added to the bound.
    """
    count = len(rates)
    changes = [(at, who) for at, share in floods for who in range(max(1, int(share * count)))]
    changes += [(19.9, who) for who in range(count)]
    a_day = passes * count / 4
    world = scenarios.World("any", rates, count, sorted(changes), [0] * count, [(0.0, a_day)])
    result = simulate.Simulation(world, policy, tick=3600.0, bounds=MOST_AGE).run()
    assert result.oldest <= 4 + 1 / 24 + 2 / a_day
