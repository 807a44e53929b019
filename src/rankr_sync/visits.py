"""Which contact's children to look at next. Pure: no clock, no store.

Notes (always), appointments, and tasks (where the location-wide search is closed to us) cost one request a
contact, and nothing tells which contact has news. The store keeps one *visit* a contact and stream with
the time it falls due; whoever has budget to spend takes the earliest. This module decides those times.
"""

from datetime import datetime, timedelta

NEW_CONTACT = "new contact"
CHANGED_CONTACT = "changed contact"
MISSED = "record missed"
ROLLING = "rolling pass"
FULL_PASS = "full pass"  # noqa: S105 - no password


def due_after_visit(visited_at: datetime, every: timedelta) -> tuple[datetime, str]:
    """When a contact that was just looked at is due again, and why: the rolling pass comes by `every`."""
    return visited_at + every, ROLLING


def due_after_signal(noticed_at: datetime, *, new: bool) -> tuple[datetime, str]:
    """When a contact that was just seen to be new or changed is due: at once, before the rolling pass.

    The rolling pass keeps times of the past too when it is behind, so a signal is dated a day back: new and
    changed contacts go first, in the order in which they were noticed.
    """
    return noticed_at - timedelta(days=1), NEW_CONTACT if new else CHANGED_CONTACT


def due_after_miss(noticed_at: datetime) -> tuple[datetime, str]:
    """When a contact is due of which a walk did not show a record it should have: like one that changed."""
    return noticed_at - timedelta(days=1), MISSED


def due_in_full_pass(started_at: datetime) -> tuple[datetime, str]:
    """When a contact is due in a full pass that began at `started_at`: everything is due by then."""
    return started_at, FULL_PASS
