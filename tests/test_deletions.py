"""Deletions: nothing is removed on absence alone, nothing by the dozen unasked, and what is gone goes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mirror import LOCATION, account, backfill, calls, configuration, differences, query, rows, run
from rankr_sync.engine import LocationSync
from rankr_sync.engine.sweep import confirm_held, remove_gone
from rankr_sync.sandbox import Sandbox
from rankr_sync.store import SqlStore
from rankr_sync.store.look import held_deletions
from rankr_sync.store.upkeep import purge


def contact_ids(sandbox: Sandbox) -> list[str]:
    """All ids of the account's contacts, sorted."""
    return sorted(sandbox.truth(LOCATION)["contacts"])


async def full_pass(sync: LocationSync) -> None:
    """One pass over all contacts."""
    await sync.full_pass("contacts", "sweep", restart=True)


@pytest.mark.parametrize("status", [400, 404])
def test_a_deleted_contact_is_tombstoned_with_its_children(database_url: str, status: int) -> None:
    """A contact that a whole pass did not show and the API does not know is tombstoned, and its children with it."""
    sandbox, config = account(60, not_found_status=status), configuration(database_url)
    backfill(sandbox, config)
    truth = sandbox.truth(LOCATION)
    gone = next(note["contactId"] for note in truth["notes"].values())
    sandbox.delete_contact(gone)
    run(sandbox, config, full_pass)
    assert gone in rows(database_url, "contacts", deleted=True)
    assert differences(sandbox, database_url) == []
    assert query(database_url, f"SELECT * FROM child_visits WHERE contact_id = '{gone}'") == []


def test_absence_alone_removes_nobody(database_url: str) -> None:
    """A contact that the listing does not show but that the API still knows by id stays."""
    sandbox, config = account(60), configuration(database_url)
    backfill(sandbox, config)
    hidden = contact_ids(sandbox)[3]
    page = _without(hidden)
    sandbox.corrupt("contacts", hidden, page)
    run(sandbox, config, full_pass)
    assert rows(database_url, "contacts", deleted=True) == {}


def _without(hidden: str) -> Any:
    def serve(payload: dict[str, Any]) -> Any:
        return payload if "createdBy" in payload else {**payload, "id": f"x{hidden[1:]}"}

    return serve


def test_an_unreadable_record_makes_nobody_a_suspect(database_url: str) -> None:
    """A page with a record that has no id: the missing contact may be it, so no one is looked at, no one removed."""
    sandbox, config = account(60), configuration(database_url)
    backfill(sandbox, config)
    first, second = contact_ids(sandbox)[:2]
    sandbox.corrupt("contacts", first, lambda c: {k: v for k, v in c.items() if k != "id"})
    sandbox.delete_contact(second)
    looks = calls(sandbox, "GET /contacts/{contactId}")
    run(sandbox, config, full_pass)
    assert calls(sandbox, "GET /contacts/{contactId}") == looks
    assert rows(database_url, "contacts", deleted=True) == {}


def test_an_empty_list_never_deletes(database_url: str) -> None:
    """An answer that shows no contact at all, although well-formed, removes nothing."""
    sandbox, config = account(40), configuration(database_url)
    backfill(sandbox, config)
    everyone = dict(sandbox.locations[LOCATION].contacts)
    for contact_id in list(everyone):
        sandbox.delete_contact(contact_id)
    run(sandbox, config, full_pass)
    assert len(rows(database_url, "contacts")) == 40
    assert held(database_url)[LOCATION]["suspects"] == 40


def held(database_url: str) -> dict[str, Any]:
    """What the brake holds."""
    store = SqlStore(database_url)
    with store.reading() as tx:
        found = held_deletions(tx.connection)
    store.close()
    return found


def test_the_brake_holds_until_it_is_confirmed(database_url: str) -> None:
    """More than 5 % gone at once: nothing is removed, a run says why, and the confirmed backfill removes them."""
    sandbox, config = account(100), configuration(database_url)
    backfill(sandbox, config)
    for contact_id in contact_ids(sandbox)[:6]:
        sandbox.delete_contact(contact_id)
    backfill(sandbox, config)
    assert rows(database_url, "contacts", deleted=True) == {}
    assert held(database_url)[LOCATION]["suspects"] == 6
    notes = query(database_url, "SELECT error FROM sync_runs WHERE status = 'held'")
    assert "6 of 100 contacts" in notes[-1]["error"]
    backfill(sandbox, config, confirm_deletions=True)
    assert len(rows(database_url, "contacts", deleted=True)) == 6
    assert held(database_url) == {}
    assert differences(sandbox, database_url) == []


def confirm(database_url: str, suspects: int) -> bool:
    """A person's word, as the status page notes it."""
    store = SqlStore(database_url)
    with store.transaction() as tx:
        noted = confirm_held(tx, LOCATION, suspects, datetime.now(UTC))
    store.close()
    return noted


def test_a_word_lets_one_pass_through(database_url: str) -> None:
    """What was confirmed on the page goes with the next whole pass; the pass after it asks again."""
    sandbox, config = account(60), configuration(database_url)
    backfill(sandbox, config)
    assert not confirm(database_url, 5), "nothing is held"
    for contact_id in contact_ids(sandbox)[:5]:
        sandbox.delete_contact(contact_id)
    run(sandbox, config, full_pass)
    assert confirm(database_url, held(database_url)[LOCATION]["suspects"])
    assert held(database_url)[LOCATION]["confirmed_at"]
    run(sandbox, config, full_pass)
    assert len(rows(database_url, "contacts", deleted=True)) == 5
    assert held(database_url) == {}
    for contact_id in contact_ids(sandbox)[:5]:
        sandbox.delete_contact(contact_id)
    run(sandbox, config, full_pass)
    assert len(rows(database_url, "contacts", deleted=True)) == 5
    assert held(database_url)[LOCATION] | {"at": "", "of": 0} == {
        "suspects": 5,
        "at": "",
        "of": 0,
        "confirmed_at": None,
    }


def test_a_word_does_not_cover_clearly_more(sqlite_url: str) -> None:
    """Ten were confirmed and thirty are missing by now: held again, and the word is spent."""
    sandbox, config = account(60), configuration(sqlite_url)
    backfill(sandbox, config)
    for contact_id in contact_ids(sandbox)[:10]:
        sandbox.delete_contact(contact_id)
    run(sandbox, config, full_pass)
    assert confirm(sqlite_url, 10)
    for contact_id in contact_ids(sandbox)[:20]:
        sandbox.delete_contact(contact_id)
    run(sandbox, config, full_pass)
    run(sandbox, config, full_pass)
    assert rows(sqlite_url, "contacts", deleted=True) == {}
    assert held(sqlite_url)[LOCATION]["suspects"] == 30


def test_a_visit_that_removes_one_does_not_release_what_is_held(sqlite_url: str) -> None:
    """Only a whole pass can tell that nothing is held any more."""
    sandbox, config = account(60), configuration(sqlite_url)
    backfill(sandbox, config)
    for contact_id in contact_ids(sandbox)[:10]:
        sandbox.delete_contact(contact_id)
    run(sandbox, config, full_pass)
    run(sandbox, config, lambda sync: remove_gone(sync.context, contact_ids(sandbox)[:1], confirmed=False))
    assert held(sqlite_url)[LOCATION]["suspects"] == 10


def test_five_in_a_hundred_go_unasked(database_url: str) -> None:
    """Up to the brake's share, what is gone is removed."""
    sandbox, config = account(100), configuration(database_url)
    backfill(sandbox, config)
    for contact_id in contact_ids(sandbox)[:5]:
        sandbox.delete_contact(contact_id)
    backfill(sandbox, config)
    assert len(rows(database_url, "contacts", deleted=True)) == 5
    assert differences(sandbox, database_url) == []


def test_a_visit_that_finds_no_contact_starts_a_direct_look(database_url: str) -> None:
    """Between two passes, the rolling visits notice that a contact is gone."""
    sandbox, config = account(60), configuration(database_url)
    backfill(sandbox, config)
    gone = contact_ids(sandbox)[5]
    sandbox.delete_contact(gone)
    run(sandbox, config, lambda sync: sync.visit_due(), now=lambda: datetime.now(UTC) + timedelta(days=2))
    assert set(rows(database_url, "contacts", deleted=True)) == {gone}


def test_a_deleted_task_is_noticed_by_the_walk(database_url: str) -> None:
    """A task that a whole task walk did not show is looked for at its contact, and tombstoned when it is not there."""
    sandbox, config = account(60), configuration(database_url)
    backfill(sandbox, config)
    task = next(iter(sandbox.truth(LOCATION)["tasks"].values()))
    sandbox.delete_task(task["id"])

    async def walk(sync: LocationSync) -> None:
        await sync.full_pass("tasks", "poll")
        await sync.visit_due()

    run(sandbox, config, walk)
    assert set(rows(database_url, "tasks", deleted=True)) == {task["id"]}
    assert query(database_url, "SELECT * FROM child_visits WHERE stream = 'tasks'") == []
    assert differences(sandbox, database_url) == []


def test_a_contact_that_comes_back_is_alive_again(database_url: str) -> None:
    """A tombstone is lifted when the record is seen again."""
    sandbox, config = account(60), configuration(database_url)
    backfill(sandbox, config)
    gone = contact_ids(sandbox)[0]
    location = sandbox.locations[LOCATION]
    kept = location.contacts[gone]
    sandbox.delete_contact(gone)
    run(sandbox, config, full_pass)
    assert gone in rows(database_url, "contacts", deleted=True)
    again = sandbox.create_contact(**{k: v for k, v in kept.items() if k in ("firstName", "lastName", "email")})
    run(sandbox, config, full_pass)
    assert again["id"] in rows(database_url, "contacts")
    assert differences(sandbox, database_url) == []


def test_purge_removes_tombstones_past_their_retention(database_url: str) -> None:
    """`db purge` removes what was tombstoned longer ago than the retention, and nothing else."""
    sandbox, config = account(60), configuration(database_url)
    backfill(sandbox, config)
    sandbox.delete_contact(contact_ids(sandbox)[0])
    run(sandbox, config, full_pass)
    store, now = SqlStore(database_url), datetime.now(UTC)
    assert purge(store, timedelta(days=90), timedelta(days=30), now)["contacts"] == 0
    assert purge(store, timedelta(days=90), timedelta(days=30), now + timedelta(days=91))["contacts"] == 1
    store.close()
    assert rows(database_url, "contacts", deleted=True) == {}
    assert differences(sandbox, database_url) == []
