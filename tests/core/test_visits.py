"""When a contact's children are due: signals first, then the rolling pass."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankr_sync import visits

moments = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))
NOON = datetime(2026, 7, 17, 12, tzinfo=UTC)


def test_a_visit_is_repeated_by_the_rolling_pass():
    """After a look, the next is due one interval later."""
    every = timedelta(days=3)
    assert visits.due_after_visit(NOON, every) == (NOON + every, visits.ROLLING)


@pytest.mark.parametrize(("new", "reason"), [(True, visits.NEW_CONTACT), (False, visits.CHANGED_CONTACT)])
def test_a_signal_says_why(new, reason):
    """A contact that is new or has changed is due, and the reason tells which."""
    due_at, why = visits.due_after_signal(NOON, new=new)
    assert due_at < NOON
    assert why == reason


def test_a_full_pass_is_due_when_it_begins():
    """Everything is due at the begin of a full pass."""
    assert visits.due_in_full_pass(NOON) == (NOON, visits.FULL_PASS)


@given(noticed=moments, visited=moments, every=st.timedeltas(timedelta(0), timedelta(days=30)))
def test_a_signal_goes_before_what_the_rolling_pass_has_due(noticed, visited, every):
    """A signal goes before every contact that became due within the last day, new ones in their order."""
    due_at, _ = visits.due_after_signal(noticed, new=False)
    rolling, _ = visits.due_after_visit(visited, every)
    if rolling > noticed - timedelta(days=1):
        assert due_at < rolling
    later, _ = visits.due_after_signal(noticed + timedelta(seconds=1), new=True)
    assert due_at < later
