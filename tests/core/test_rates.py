"""How often a contact changes, learned from visits: what is expected, and what never happens."""

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankr_sync import rates
from rankr_sync.rates import KINDS, Evidence, Prior

changes = st.integers(0, 5000)
days = st.floats(0, 3000)
evidence = st.builds(Evidence, changes.map(float), days)
priors = st.builds(rates.gamma, st.floats(0.05, 5), st.floats(0.01, 20)) | st.lists(
    st.floats(1e-9, 1), min_size=len(KINDS), max_size=len(KINDS)
).map(lambda weights: Prior(tuple(weight / sum(weights) for weight in weights)))


def test_the_kinds_are_equal_steps_from_years_to_minutes():
    """From one change in three years to a thousand a day, each kind the same factor above the one before."""
    assert (KINDS[0], KINDS[-1]) == (0.001, 1000.0)
    for one, next_ in itertools.pairwise(KINDS):
        assert next_ / one == pytest.approx(10**0.25, rel=0.001)


@given(evidence, st.floats(0, 400), st.integers(0, 100))
def test_a_visit_adds_what_it_saw_and_older_counts_less(before, passed, found):
    """What was seen before never gains weight, what was just seen counts in full."""
    after = before.after(passed, found)
    assert found <= after.changes <= before.changes + found
    assert passed <= after.days <= before.days + passed


def test_what_was_seen_counts_half_after_the_half_life():
    """Evidence halves once per half-life."""
    assert Evidence(8, 40).after(rates.HALF_LIFE, 0) == Evidence(4, 20 + rates.HALF_LIFE)


@given(evidence, st.lists(st.floats(0.01, 30), max_size=20))
def test_a_visit_without_change_splits_as_one_likes(before, passed):
    """Many looks that found nothing fade the changes seen before as one look after the same time does."""
    looked = before
    for each in passed:
        looked = looked.after(each, 0)
    assert looked.changes == pytest.approx(before.after(sum(passed), 0).changes, rel=1e-6)
    assert looked.days <= before.after(sum(passed), 0).days + 1e-6


@given(st.integers(0, 500))
def test_dates_of_records_are_evidence(dated):
    """More records with a recent date, more changes to expect; half of the changes leave no date."""
    seen = rates.from_history(dated)
    assert seen == Evidence(dated, rates.HISTORY_DAYS * rates.DATED_SHARE)


@given(priors, evidence)
def test_the_expected_rate_is_one_of_those_there_are(prior, seen):
    """Between the smallest kind and the largest, and a step, whatever was seen."""
    rate = prior.rate(seen)
    assert rates.step_of(KINDS[0]) <= rate <= rates.step_of(KINDS[-1])
    assert rate == rates.step_of(rate)


@given(priors, changes, st.integers(1, 100), days)
def test_more_changes_never_lower_the_rate(prior, seen, more, passed):
    """In the same time, more changes mean the same rate or a higher one."""
    assert prior.rate(Evidence(seen, passed)) <= prior.rate(Evidence(seen + more, passed))


@given(priors, changes, days, st.floats(0, 1000))
def test_more_days_never_raise_the_rate(prior, seen, passed, more):
    """As many changes in a longer time mean the same rate or a lower one."""
    assert prior.rate(Evidence(seen, passed)) >= prior.rate(Evidence(seen, passed + more))


def test_much_evidence_outweighs_what_is_usual():
    """A thousand changes in a hundred days are ten a day, whatever the others do (the kinds are 1.8 apart)."""
    assert 10 / 1.4 < rates.gamma(mean=0.01).rate(Evidence(1000, 100)) < 10 * 1.4


@given(st.floats(0.3, 1), st.floats(0.03, 10))
def test_a_gamma_prior_has_its_mean(shape, mean):
    """The shares add up to one, and their mean is the one that was asked for, as far as the kinds reach."""
    prior = rates.gamma(shape, mean)
    assert math.fsum(prior.shares) == pytest.approx(1)
    assert prior.mean() == pytest.approx(mean, rel=0.5)


@given(st.floats(1e-4, 1e4))
def test_a_step_is_its_own_step(rate):
    """Rounding twice is rounding once, and moves a rate by less than a tenth."""
    step = rates.step_of(rate)
    assert rates.step_of(step) == step
    assert 1 / 1.1 < step / rate < 1.1


@given(st.lists(st.tuples(evidence, st.integers(0, 100_000)), max_size=8), priors)
def test_fitted_shares_add_up_to_one(seen, start):
    """Whatever was seen, however odd: shares between none and all, that add up to one."""
    fitted = rates.fit(seen, start)
    assert math.fsum(fitted.shares) == pytest.approx(1)
    assert all(0 < share <= 1 for share in fitted.shares)


def test_fitting_finds_how_many_contacts_change_how_often():
    """Of 5,000 contacts seen for 60 days, the quiet, the monthly and the daily are told apart."""
    chance, mixture = random.Random(3), ((0.7, 0.002), (0.2, 1 / 30), (0.1, 1.5))
    seen: Counter[Evidence] = Counter()
    for share, rate in mixture:
        for _ in range(round(5000 * share)):
            seen[Evidence(_poisson(chance, 60 * rate), 60)] += 1
    fitted = rates.fit(seen.items(), rates.gamma())
    # 1.5 a day lies between two kinds, and many days tell them well apart: the mean is as coarse as the kinds.
    assert fitted.mean() == pytest.approx(sum(share * rate for share, rate in mixture), rel=0.15)
    near = [_between(fitted, rate / 3, rate * 3) for _, rate in mixture]
    assert near == pytest.approx([share for share, _ in mixture], abs=0.08)
    assert _between(fitted, 5, 1e9) < 0.001


def test_a_fit_to_nothing_is_the_start():
    """A location where nothing was seen yet keeps the prior it began with."""
    assert rates.fit([], rates.gamma()).shares == pytest.approx(rates.gamma().shares)


def test_a_fit_needs_few_contacts_to_leave_a_wrong_start():
    """A start that is a hundred times too lively is out-voted by a thousand quiet contacts."""
    fitted = rates.fit([(Evidence(0, 100), 990), (Evidence(10, 100), 10)], rates.gamma(mean=3.0))
    assert fitted.rate(Evidence(0, 30)) < 0.02


def _between(prior: Prior, low: float, high: float) -> float:
    return sum(share for share, rate in zip(prior.shares, KINDS, strict=True) if low <= rate <= high)


def _poisson(chance: random.Random, mean: float) -> int:
    number, passed = 0, chance.expovariate(1)
    while passed < mean:
        number += 1
        passed += chance.expovariate(1)
    return number


@given(evidence)
def test_rounded_evidence_is_much_the_same(seen):
    """Rounding keeps the days within five hundredths, or half a hundredth of a day, and rounds once."""
    rounded = rates.rounded(seen)
    assert rounded.changes == seen.changes
    assert rounded.days > 0
    assert rounded.days == pytest.approx(seen.days, rel=0.0501, abs=0.01)
    assert rates.rounded(rounded) == rounded


def test_contacts_seen_for_hours_only_are_not_taken_for_the_liveliest():
    """A thousand contacts change ten times a day and were seen for five hours: about ten is what is usual here."""
    chance = random.Random(1)
    seen = Counter(
        rates.rounded(Evidence(float(sum(chance.random() < 0.01 for _ in range(200))), 0.2)) for _ in range(1000)
    )
    assert rates.fit(seen.items(), rates.gamma()).mean() == pytest.approx(10, rel=0.1)
