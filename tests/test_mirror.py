"""The promise of the whole: after a copy, and after every poll, the mirror equals the account, row for row."""

import asyncio
import re
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from mirror import LOCATION, account, backfill, calls, configuration, differences, poll, query, rows, run, syncing
from rankr_sync.config import Location
from rankr_sync.engine import LocationSync
from rankr_sync.errors import AskOwner, LocationRefused
from rankr_sync.sandbox import Sandbox


def written(database_url: str) -> int:
    """Rows that all runs so far have inserted, updated or tombstoned."""
    return query(database_url, "SELECT sum(inserted + updated + deleted) AS n FROM sync_runs")[0]["n"]


def contact_ids(sandbox: Sandbox) -> list[str]:
    """All ids of the account's contacts, sorted."""
    return sorted(sandbox.truth(LOCATION)["contacts"])


@pytest.mark.parametrize(
    "api",
    [
        pytest.param({}, id="list and search"),
        pytest.param({"listing": "list"}, id="list only"),
        pytest.param({"listing": "search"}, id="search only"),
        pytest.param({"version": "v3"}, id="v3, without the list"),
    ],
)
def test_backfill_equals_the_account(database_url: str, api: dict[str, Any]) -> None:
    """A backfill copies every contact, task, note and appointment, whichever way contacts are listed."""
    sandbox, config = account(), configuration(database_url, api=api)
    backfill(sandbox, config)
    assert differences(sandbox, database_url) == []


def test_second_backfill_writes_nothing(database_url: str) -> None:
    """A second full pass fetches everything again and writes no row."""
    sandbox, config = account(), configuration(database_url)
    backfill(sandbox, config)
    before = {stream: rows(database_url, stream) for stream in config.streams}
    first = written(database_url)
    backfill(sandbox, config)
    assert written(database_url) == first
    assert {stream: rows(database_url, stream) for stream in config.streams} == before


def test_backfill_costs_the_listing_and_one_request_a_child(database_url: str) -> None:
    """No request is wasted: pages of contacts and tasks, one request a contact for notes and appointments."""
    sandbox, config = account(300), configuration(database_url)
    backfill(sandbox, config)
    tasks = len(sandbox.truth(LOCATION)["tasks"])
    assert calls(sandbox, "/notes") == calls(sandbox, "/appointments") == 300
    assert calls(sandbox, "GET /contacts/") <= 300 // 100 + 1
    assert calls(sandbox, "/tasks/search") <= tasks // 99 + 4
    spent = query(database_url, "SELECT requests FROM api_usage")
    assert sum(row["requests"] for row in spent) == sandbox.stats()["requests"]


@pytest.mark.parametrize("edits", [0, 1, 60, 250])
def test_poll_costs_what_changed(database_url: str, edits: int) -> None:
    """After k edits a poll takes about k/100 + 1 search requests, and the mirror is equal again."""
    now = [1_780_000_000.0]
    sandbox = Sandbox(account(300).options, now=lambda: now[0])
    config = configuration(database_url)
    backfill(sandbox, config)
    now[0] += 3600
    for contact_id in contact_ids(sandbox)[:edits]:
        sandbox.update_contact(contact_id, firstName="Edited", city="Zürich")
    searches = calls(sandbox, "/contacts/search")
    poll(sandbox, config)
    assert calls(sandbox, "/contacts/search") - searches <= edits // 100 + 2
    assert differences(sandbox, database_url) == []


def test_a_poll_brings_new_contacts_with_their_children(database_url: str) -> None:
    """A new contact's tasks, notes and appointments arrive with the next poll."""
    sandbox, config = account(), configuration(database_url)
    backfill(sandbox, config)
    made = sandbox.create_contact(firstName="Új", email="uj@example.com")
    sandbox.create_note(made["id"], body="<p>First &amp; only</p>")
    sandbox.create_task(made["id"], title="Call", dueDate="2026-12-01T10:00:00.000Z", completed=False)
    poll(sandbox, config)
    assert differences(sandbox, database_url) == []


def test_the_three_shapes_of_a_contact_are_one_row(database_url: str) -> None:
    """Pulling by id, searching and listing the same contacts in turn changes nothing in the store.

    Each form carries something that the others never do, so the first round completes the payloads.
    """
    sandbox, config = account(60), configuration(database_url)
    backfill(sandbox, config)

    async def all_ways(sync: LocationSync) -> None:
        for contact_id in contact_ids(sandbox):
            assert await sync.refresh(contact_id)
        sync.context.refused.add(("contacts", "list"))
        await sync.full_pass("contacts", "sweep", restart=True)
        sync.context.refused.clear()
        await sync.full_pass("contacts", "sweep", restart=True)

    run(sandbox, config, all_ways)
    first = written(database_url)
    run(sandbox, config, all_ways)
    assert written(database_url) == first
    assert differences(sandbox, database_url) == []


def test_cleared_fields_are_cleared(database_url: str) -> None:
    """A value that was removed at the source is removed here, by search and by id."""
    sandbox, config = account(40), configuration(database_url)
    backfill(sandbox, config)
    first, second = contact_ids(sandbox)[:2]
    for contact_id in (first, second):
        sandbox.update_contact(contact_id, city=None, phone=None, tags=[], customFields=[])
    poll(sandbox, config)
    run(sandbox, config, lambda sync: sync.refresh(second))
    assert differences(sandbox, database_url) == []


def test_index_lag_is_met_by_the_overlap(database_url: str) -> None:
    """An edit that the search index shows only seconds later is found by a later poll."""
    now = [1_780_000_000.0]
    sandbox = Sandbox(account(80, index_lag=5.0).options, now=lambda: now[0])
    config = configuration(database_url)
    backfill(sandbox, config)
    now[0] += 600
    early, late = contact_ids(sandbox)[:2]
    sandbox.update_contact(early, firstName="Early")
    now[0] += 4
    sandbox.update_contact(late, firstName="Late")
    now[0] += 2
    poll(sandbox, config)
    assert rows(database_url, "contacts")[late]["first_name"] != "Late"
    now[0] += 10
    poll(sandbox, config)
    assert differences(sandbox, database_url) == []


def test_index_skew_does_not_rewrite(database_url: str) -> None:
    """The index and the record differ by milliseconds in dateUpdated; the same content is not written twice."""
    sandbox, config = account(30, index_skew_ms=4), configuration(database_url)
    backfill(sandbox, config)
    for contact_id in contact_ids(sandbox)[:5]:
        sandbox.update_contact(contact_id, city="Bern")
    poll(sandbox, config)

    async def look_again(sync: LocationSync) -> None:
        for contact_id in contact_ids(sandbox)[:5]:
            await sync.refresh(contact_id)
        await sync.poll("contacts")

    run(sandbox, config, look_again)
    first = written(database_url)
    run(sandbox, config, look_again)
    assert written(database_url) == first


def test_children_that_are_gone_are_tombstoned_and_come_back(database_url: str) -> None:
    """A note that the contact's whole list no longer holds gets a tombstone; one that returns loses it."""
    sandbox, config = account(40), configuration(database_url)
    backfill(sandbox, config)
    truth = sandbox.truth(LOCATION)
    note = next(iter(truth["notes"].values()))
    sandbox.delete_note(note["id"])
    run(sandbox, config, lambda sync: sync.refresh(note["contactId"]))
    assert note["id"] in rows(database_url, "notes", deleted=True)
    assert differences(sandbox, database_url) == []


def test_without_the_task_search_tasks_are_read_per_contact(database_url: str) -> None:
    """A token without the scope of the task search still gets every task, one request a contact."""
    sandbox = account(50)
    scopes = ["contacts.readonly", "locations.readonly", "locations/customFields.readonly"]
    sandbox.grant("pit-narrow", [LOCATION], scopes)
    config = configuration(database_url, api={"token": SecretStr("pit-narrow")})
    backfill(sandbox, config)
    assert differences(sandbox, database_url) == []
    assert calls(sandbox, "contacts/{contactId}/tasks") == 50


def test_contacts_scope_alone_is_enough(database_url: str) -> None:
    """With `contacts.readonly` only, everything is mirrored; the location's zone comes from the configuration."""
    sandbox = account(30)
    sandbox.grant("pit-least", [LOCATION], ["contacts.readonly"])
    config = configuration(
        database_url,
        api={"token": SecretStr("pit-least")},
        locations=(Location(id=LOCATION, timezone="America/New_York"),),
    )
    backfill(sandbox, config)
    assert differences(sandbox, database_url) == []


@pytest.mark.parametrize("default", ["all", "open"])
def test_completed_tasks_are_found(database_url: str, default: str) -> None:
    """Completed tasks arrive whether or not the search shows them unasked."""
    sandbox, config = account(60, tasks_search_default=default), configuration(database_url)
    backfill(sandbox, config)
    assert differences(sandbox, database_url) == []
    assert {row["status"] for row in rows(database_url, "tasks").values()} == {"open", "completed"}


def test_only_the_wanted_streams_are_pulled(database_url: str) -> None:
    """A stream that is not configured costs no request."""
    sandbox, config = account(30), configuration(database_url, streams=("contacts", "notes"))
    backfill(sandbox, config)
    assert calls(sandbox, "/appointments") == calls(sandbox, "/tasks/search") == 0
    assert len(rows(database_url, "notes")) == len(sandbox.truth(LOCATION)["notes"])


def test_two_locations_side_by_side(database_url: str) -> None:
    """Each location has its own token, budget and rows."""
    sandbox = account(30, locations=2)
    second = "SandboxLocation00002"
    sites = (Location(id=LOCATION), Location(id=second, token=SecretStr("pit-sandbox-00002")))
    config = configuration(database_url, locations=sites)

    async def both() -> None:
        from mirror import connected

        async with connected(sandbox, config) as app:
            for sync in app.locations.values():
                await sync.learn()
            await asyncio.gather(*(sync.backfill(config.streams) for sync in app.locations.values()))

    asyncio.run(both())
    assert differences(sandbox, database_url, LOCATION) == []
    assert differences(sandbox, database_url, second) == []


def test_a_wrong_token_and_a_wrong_location_ask_the_owner(sqlite_url: str) -> None:
    """Refused credentials are told apart from trouble that passes."""
    sandbox = account(5)
    with pytest.raises(AskOwner):
        backfill(sandbox, configuration(sqlite_url, api={"token": SecretStr("pit-wrong"), "attempts": 2}))
    elsewhere = (Location(id="AnotherLocation00001"),)
    with pytest.raises(LocationRefused):
        asyncio.run(_learn_elsewhere(sandbox, configuration(sqlite_url, locations=elsewhere)))


async def _learn_elsewhere(sandbox: Sandbox, config: Any) -> None:
    from mirror import connected

    async with connected(sandbox, config) as app:
        await next(iter(app.locations.values())).learn()


ODD_CONTACTS = {
    "no id": lambda c: {k: v for k, v in c.items() if k != "id"},
    "number as name": lambda c: {**c, "firstName": 42, "firstNameRaw": 42},
    "number as id": lambda c: {**c, "id": 4711},
    "list instead of the record": lambda c: [c],
    "list instead of an object": lambda c: {**c, "dndSettings": [], "customFields": {"a": 1}},
    "object instead of text": lambda c: {**c, "email": {"address": "x"}},
    "impossible date": lambda c: {**c, "dateAdded": "2026-02-30T00:00:00.000Z", "dateOfBirth": "31/31/1990"},
    "no dateUpdated": lambda c: {k: v for k, v in c.items() if k != "dateUpdated"},
    "NUL": lambda c: {**c, "city": "Zu\x00rich", "tags": ["a\x00b"]},
    "lone surrogate": lambda c: {**c, "city": "Z\ud800rich", "customFields": [{"id": "x", "value": "\udfff"}]},
    "huge number": lambda c: {**c, "customFields": [{"id": "n", "value": 10**40}]},
    "null everywhere": lambda c: dict.fromkeys(c, None) | {"id": c["id"]},
    "text instead of a list": lambda c: {**c, "tags": "vip"},
    "very long e-mail": lambda c: {**c, "email": "".join(f"{i:x}" for i in range(4000)) + "@example.com"},
    "infinite": lambda c: {**c, "lastActivity": 1e308 * 10},
}


@pytest.mark.parametrize("how", ODD_CONTACTS)
def test_an_odd_contact_does_not_cost_its_neighbours(database_url: str, how: str) -> None:
    """A strange record is kept as well as can be or goes to `sync_rejects` with a reason; all others arrive."""
    sandbox, config = account(25), configuration(database_url)
    victim = contact_ids(sandbox)[7]
    sandbox.corrupt("contacts", victim, ODD_CONTACTS[how])
    backfill(sandbox, config)
    mirrored = rows(database_url, "contacts")
    assert set(contact_ids(sandbox)) - {victim} <= set(mirrored)
    rejects = query(database_url, "SELECT external_id, reason, raw FROM sync_rejects WHERE stream = 'contacts'")
    assert victim in mirrored or how == "number as id" or rejects
    assert all(reject["reason"] for reject in rejects)
    truth = sandbox.truth(LOCATION)
    own = {victim, "4711"} | {
        id_ for kind in truth for id_, one in truth[kind].items() if one.get("contactId") == victim
    }
    assert [line for line in differences(sandbox, database_url) if line.split()[1].split(".")[0] not in own] == []


def test_a_note_of_two_megabytes_arrives(database_url: str) -> None:
    """A very long note is kept whole."""
    sandbox, config = account(10), configuration(database_url)
    contact_id = contact_ids(sandbox)[0]
    made = sandbox.create_note(contact_id, body="<p>" + "long & wide " * 180_000 + "</p>")
    backfill(sandbox, config)
    assert len(rows(database_url, "notes")[made["id"]]["content_html"]) > 2_000_000


def test_privacy_settings_drop_fields_before_they_are_stored(database_url: str) -> None:
    """`ssn`, IP addresses and user agents never reach the store, by default."""
    sandbox, config = account(150), configuration(database_url)
    contact_id = contact_ids(sandbox)[0]
    secret = {"ip": "203.0.113.9", "userAgent": "Mozilla/SECRET"}
    leaks = {"ssn": "078-05-1120", "attributionSource": secret, "attributions": [secret]}
    sandbox.corrupt("contacts", contact_id, lambda c: {**c, **leaks})
    backfill(sandbox, config)
    run(sandbox, config, lambda sync: sync.refresh(contact_id))
    everything = str(query(database_url, "SELECT raw, extra FROM contacts"))
    assert "078-05-1120" not in everything
    assert "203.0.113.9" not in everything
    assert "SECRET" not in everything
    assert not re.search(r"['\"]ssn['\"]", everything)


def test_fields_mapped_by_the_user_land_typed_in_extra_and_view(database_url: str) -> None:
    """A rule of the configuration fills `extra` and a typed column of `contacts_mapped`."""
    sandbox = account(80)
    rules = {
        "contacts": {
            "greeting": {"join": ["firstName", "lastName"], "case": "upper"},
            "dnd_flag": {"from": "dnd", "type": "boolean", "default": False},
            "joined_on": {"from": "dateAdded", "type": "datetime"},
            "origin": {"constant": "highlevel"},
        }
    }
    config = configuration(database_url, mapping=rules)
    backfill(sandbox, config)
    found = query(database_url, "SELECT name, greeting, origin, joined_on FROM contacts_mapped WHERE name IS NOT NULL")
    assert len(found) > 50
    assert all(row["greeting"] == row["name"].upper() for row in found if row["greeting"])
    assert {row["origin"] for row in found} == {"highlevel"}


def test_the_watermark_is_not_behind_when_nothing_changes(sqlite_url: str) -> None:
    """On an idle account each poll moves the watermark on, so that later polls look at little."""
    sandbox, config = account(10), configuration(sqlite_url)
    backfill(sandbox, config)

    async def watch(sync: LocationSync) -> timedelta:
        await sync.poll("contacts")
        cursor = await sync.context.cursor("contacts", "delta")
        assert cursor is not None
        assert cursor.watermark is not None
        return sync.context.now() - cursor.watermark

    assert run(sandbox, config, watch) < timedelta(seconds=30)


async def _no_op(sync: LocationSync) -> None:
    await sync.learn()


def test_learning_saves_zone_and_custom_fields(database_url: str) -> None:
    """The location's time zone and the names of its custom fields are stored, for mapping without the API."""
    sandbox, config = account(3), configuration(database_url)
    run(sandbox, config, _no_op)
    assert query(database_url, "SELECT timezone FROM locations") == [{"timezone": "America/New_York"}]
    assert len(query(database_url, "SELECT name FROM custom_fields")) > 3


def test_syncing_needs_no_second_look_at_the_reference_data(sqlite_url: str) -> None:
    """`recall` compiles the mapping from the store, without a request."""
    sandbox, config = account(3), configuration(sqlite_url)
    run(sandbox, config, _no_op)
    before = sandbox.stats()["requests"]

    async def recall() -> None:
        from mirror import connected

        async with connected(sandbox, config) as app:
            await app.locations[LOCATION].recall()

    asyncio.run(recall())
    assert sandbox.stats()["requests"] == before
    assert syncing is not None
