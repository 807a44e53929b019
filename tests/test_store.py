"""The store's promises, on both databases: nothing half written, nothing lost, one bad row costs only itself."""

import json
import os
import random
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import exc, inspect, select, text

from rankr_sync import schema
from rankr_sync.engine import context
from rankr_sync.engine.context import Settings, compile_rules
from rankr_sync.errors import BadConfiguration, StoreUnavailable
from rankr_sync.mapping import FieldRule
from rankr_sync.model import Cursor, LocationFacts, Page, Plan, Record, Reject, Tally
from rankr_sync.plan import plan_page
from rankr_sync.store import SqlStore, Transaction, look
from rankr_sync.store.connect import location_of
from rankr_sync.store.contacts import find_contacts
from rankr_sync.store.upkeep import purge, retry_rejects
from rankr_sync.streams import STREAMS

NOW = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
CONTACTS, TASKS, NOTES, APPOINTMENTS = (STREAMS[name] for name in ("contacts", "tasks", "notes", "appointments"))


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    """An empty store of this release, with its views."""
    made = SqlStore(database_url)
    made.upgrade()
    made.make_views({}, NOW)
    yield made
    made.close()


def is_postgres(store: SqlStore) -> bool:
    """Whether this run of the test is the one on PostgreSQL."""
    return store.engine.dialect.name == "postgresql"


def planned(stream: str, *payloads: dict[str, Any], contact_id: str | None = None, **overrides: FieldRule) -> Plan:
    """What a page of these payloads wants to write into an empty store."""
    rules = compile_rules(LocationFacts("loc"), Settings(overrides={stream: overrides}))[stream]
    records = tuple(Record(one["id"], one, "list", contact_id or one.get("contactId")) for one in payloads)
    return plan_page(Page(records), {}, rules)


def write(store: SqlStore, stream: str, *payloads: dict[str, Any], now: datetime = NOW, **how: Any) -> Plan:
    """Store these payloads as a sync would."""
    with store.transaction() as tx:
        return tx.apply(STREAMS[stream], "loc", planned(stream, *payloads, **how), now)


def changed(plan: Plan, id_: str, **columns: Any) -> Plan:
    """The plan with other values in one row."""
    return replace(plan, inserts=tuple({**row, **columns} if row["id"] == id_ else row for row in plan.inserts))


def sql(store: SqlStore, query: str) -> list[dict[str, Any]]:
    """Rows of a query."""
    with store.reading() as tx:
        return [dict(row) for row in tx.connection.exec_driver_sql(query).mappings()]


def names(store: SqlStore) -> dict[str, str | None]:
    """The contacts' ids and names."""
    return {row["id"]: row["name"] for row in sql(store, "SELECT id, name FROM contacts")}


def rejected(store: SqlStore) -> dict[str | None, str]:
    """External id to reason."""
    return {row["external_id"]: row["reason"] for row in sql(store, "SELECT external_id, reason FROM sync_rejects")}


# -- rows --------------------------------------------------------------------------------------------


def test_the_same_rows_twice_are_the_same_rows(store: SqlStore) -> None:
    """Upserts are idempotent: after a crash the page in flight is simply stored again."""
    for _ in range(2):
        write(store, "contacts", {"id": "a", "firstName": "Ana"}, {"id": "b", "firstName": "Ben"})
    assert names(store) == {"a": "Ana", "b": "Ben"}
    write(store, "contacts", {"id": "b", "firstName": "Bea"})
    assert names(store) == {"a": "Ana", "b": "Bea"}


def test_ids_are_of_their_location(store: SqlStore) -> None:
    """Two locations may have the same id; neither touches the other's row."""
    write(store, "contacts", {"id": "a", "firstName": "Ana"})
    with store.transaction() as tx:
        tx.apply(CONTACTS, "other", planned("contacts", {"id": "a", "firstName": "Otto"}), NOW)
        tx.tombstone(CONTACTS, "other", ["a"], NOW)
    found = sql(store, "SELECT location_id, name, deleted_at IS NULL AS living FROM contacts ORDER BY location_id")
    assert [(row["location_id"], row["name"], bool(row["living"])) for row in found] == [
        ("loc", "Ana", True),
        ("other", "Otto", False),
    ]


def test_a_tombstone_is_dated_once_and_undone_by_a_return(store: SqlStore) -> None:
    """A record that is gone keeps the time when that was noticed; when it comes back, it lives again."""
    write(store, "contacts", {"id": "a"}, {"id": "b"})
    with store.transaction() as tx:
        tx.tombstone(CONTACTS, "loc", ["a"], NOW)
        tx.tombstone(CONTACTS, "loc", ["a"], LATER)
        assert tx.known(CONTACTS, "loc", ["a", "b", "c"]).keys() == {"a", "b"}
        assert tx.known(CONTACTS, "loc", ["a"])["a"].deleted
        row = tx.connection.execute(select(schema.contacts).where(schema.contacts.c.id == "a")).one()
        assert (row.deleted_at, row.synced_at) == (NOW, NOW)
    write(store, "contacts", {"id": "a"}, now=LATER)
    with store.reading() as tx:
        assert not tx.known(CONTACTS, "loc", ["a"])["a"].deleted


def test_rows_with_and_without_a_contact_go_together(store: SqlStore) -> None:
    """A page may hold tasks whose contact is told and tasks whose is not: each keeps what it has."""
    first, second = {"id": "a", "title": "no contact"}, {"id": "b", "title": "one", "contactId": "c1"}
    for page in ((first, second), (second, first)):
        write(store, "tasks", *page)
        found = {row["id"]: row["contact_id"] for row in sql(store, "SELECT id, contact_id FROM tasks")}
        assert found == {"a": None, "b": "c1"}
    write(store, "tasks", {"id": "b", "title": "told without its contact"}, {"id": "a"})
    assert sql(store, "SELECT contact_id, title FROM tasks WHERE id = 'b'") == [
        {"contact_id": "c1", "title": "told without its contact"}
    ]


def test_data_and_cursor_go_together(store: SqlStore) -> None:
    """When anything in the block fails, neither the page nor the cursor is kept."""

    def fail_late() -> None:
        with store.transaction() as tx:
            tx.apply(CONTACTS, "loc", planned("contacts", {"id": "a"}), NOW)
            tx.save_cursor("loc", "contacts", "full", Cursor({"after": 1}), NOW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_late()
    with store.reading() as tx:
        assert tx.cursor("loc", "contacts", "full") is None
    assert names(store) == {}


def test_cursors_keep_everything(store: SqlStore) -> None:
    """A cursor comes back as it was saved, with the time it was saved at; partitions are apart."""
    cursor = Cursor({"after": ["x", 1.5, None], "ü": {"deep": True}}, "walking", NOW, LATER)
    with store.transaction() as tx:
        tx.save_cursor("loc", "contacts", "full", Cursor({"old": 1}), NOW)
        tx.save_cursor("loc", "contacts", "full", cursor, LATER)
        assert tx.cursor("loc", "contacts", "full") == replace(cursor, saved_at=LATER)
        assert tx.cursor("loc", "contacts", "delta") is None
        assert tx.cursor("other", "contacts", "full") is None


def test_known_children_are_found_below_their_contacts_and_elsewhere(store: SqlStore) -> None:
    """What the store holds of these contacts, and of these ids under whatever contact they are."""
    write(store, "notes", {"id": "n1", "body": "x"}, {"id": "n2", "body": "y"}, contact_id="c1")
    write(store, "notes", {"id": "n3", "body": "z"}, contact_id="c2")
    with store.reading() as tx:
        assert tx.known_children(NOTES, "loc", ["c1"], ["n1"]).keys() == {"n1", "n2"}
        moved = tx.known_children(NOTES, "loc", ["c1"], ["n3"])
        assert moved["n3"].contact_id == "c2"
        assert tx.known_children(NOTES, "loc", ["c9"], []) == {}


# -- what the database refuses -----------------------------------------------------------------------


def test_a_row_that_the_database_refuses_costs_only_itself(store: SqlStore) -> None:
    """One bad row of a page becomes a reject with its payload; its neighbours arrive."""
    payloads = [{"id": id_, "firstName": f"Name {id_}"} for id_ in "abc"]
    plan = planned("contacts", *payloads)
    # PostgreSQL refuses NUL in text, SQLite a number beyond 64 bits where one is bound.
    bad = changed(plan, "b", name="N\x00L") if is_postgres(store) else changed(plan, "b", name=2**70)
    with store.transaction() as tx:
        done = tx.apply(CONTACTS, "loc", bad, NOW)
        tx.save_cursor("loc", "contacts", "full", Cursor({"after": 1}), NOW)
    assert names(store).keys() == {"a", "c"}
    assert [row["id"] for row in done.inserts] == ["a", "c"]
    assert done.accepted == ("a", "c")
    assert rejected(store).keys() == {"b"}
    assert "database refuses" in rejected(store)["b"]
    with store.reading() as tx:
        assert tx.cursor("loc", "contacts", "full") is not None
        assert look.reject(tx.connection, look.rejects(tx.connection)[0]["id"])["raw"] == payloads[1]


def test_an_index_entry_may_be_too_long(store: SqlStore) -> None:
    """PostgreSQL cannot index a value of several kilobytes: such a contact is rejected, or kept where it can be."""
    letters = random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=10_000)
    write(store, "contacts", {"id": "a"}, {"id": "b", "email": "".join(letters) + "@example.com"}, {"id": "c"})
    assert names(store).keys() == ({"a", "c"} if is_postgres(store) else {"a", "b", "c"})
    assert rejected(store).keys() == ({"b"} if is_postgres(store) else set())


def test_a_payload_that_the_database_refuses_is_kept_as_text(store: SqlStore) -> None:
    """Even a payload that cannot be stored as it is leaves a reject behind, and its neighbours arrive."""
    deep: Any = "x"
    for _ in range(400):  # deeper than the JSON writer goes
        deep = [deep]
    good, bad = {"id": "a", "firstName": "Ana"}, {"id": "b", "firstName": "N\x00L", "deep": deep}
    plan = planned("contacts", good, {"id": "b"})
    with store.transaction() as tx:
        done = tx.apply(CONTACTS, "loc", changed(plan, "b", raw=bad), NOW)
    assert names(store).keys() == {"a"}
    assert [reject.external_id for reject in done.rejects] == ["b"]
    with store.reading() as tx:
        kept = look.reject(tx.connection, look.rejects(tx.connection)[0]["id"])["raw"]
    assert json.loads(kept)["firstName"] == "N\x00L"


def test_a_page_of_bad_rows_is_not_taken_for_bad_luck(store: SqlStore) -> None:
    """When the database takes none of several rows, something else is wrong: an error, and nothing is written."""
    plan = planned("contacts", {"id": "a"}, {"id": "b"})
    bad = replace(plan, inserts=tuple({**row, "digest": None} for row in plan.inserts))
    with pytest.raises(StoreUnavailable), store.transaction() as tx:
        tx.apply(CONTACTS, "loc", bad, NOW)
    assert rejected(store) == {}


# -- times -------------------------------------------------------------------------------------------


def test_times_are_aware_and_utc(store: SqlStore) -> None:
    """A time goes in with any zone and comes out in UTC, to the microsecond."""
    there = datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    with store.transaction() as tx:
        tx.save_cursor("loc", "contacts", "full", Cursor({}, "walking", there, None), there)
        found = tx.cursor("loc", "contacts", "full")
    assert found is not None
    for moment in (found.watermark, found.saved_at):
        assert moment == there
        assert moment is not None
        assert moment.tzinfo is UTC


def test_a_time_without_a_zone_is_refused(store: SqlStore) -> None:
    """A naive time is a mistake in the program and never reaches the store."""
    with pytest.raises(exc.StatementError, match="without a zone"), store.transaction() as tx:
        tx.save_cursor("loc", "contacts", "full", Cursor(), datetime(2026, 9, 1))
    with store.reading() as tx:
        assert tx.cursor("loc", "contacts", "full") is None


# -- usage, runs, facts ------------------------------------------------------------------------------


def test_usage_adds_up_by_day(store: SqlStore) -> None:
    """Requests and throttles of a day are summed over processes; the quota is what was told last."""
    told = {"daily_limit": 200_000, "daily_remaining": 190_000, "daily_reset_at": LATER, "burst_used": 3}
    with store.transaction() as tx:
        assert tx.last_usage("loc") is None
        tx.add_usage("loc", NOW, {"requests": 5, "throttled": 1, **told})
        tx.add_usage("loc", LATER, {"requests": 7, "throttled": 0, **told, "daily_remaining": 189_000})
        tx.add_usage("loc", NOW + timedelta(days=1), {"requests": 1, "throttled": 0, **told})
        tx.add_usage("other", NOW, {"requests": 100, "throttled": 0, **told})
        first, second = tx.connection.execute(
            select(schema.api_usage).where(schema.api_usage.c.location_id == "loc").order_by(schema.api_usage.c.day)
        ).mappings()
        assert (first["day"], first["requests"], first["throttled"]) == (date(2026, 9, 1), 12, 1)
        assert first["daily_remaining"] == 189_000
        assert (second["day"], second["requests"]) == (date(2026, 9, 2), 1)
        last = tx.last_usage("loc")
        assert last is not None
        assert last["day"] == date(2026, 9, 2)
        assert [(quota.location_id, quota.requests) for quota in look.quotas(tx.connection)] == [
            ("loc", 1),
            ("other", 100),
        ]


def test_a_run_left_open_was_interrupted(store: SqlStore) -> None:
    """What an earlier process left running is marked when the next run of its kind begins; others are left alone."""
    with store.transaction() as tx:
        first = tx.start_run("loc", "contacts", "backfill", NOW)
        other = tx.start_run("loc", "contacts", "poll", NOW)
        second = tx.start_run("loc", "contacts", "backfill", LATER)
        tx.save_run(second, Tally(requests=2, inserted=3), status="failed", error="no luck", now=LATER)
        runs = {row.id: row for row in tx.connection.execute(select(schema.sync_runs))}
    assert (runs[first].status, runs[first].finished_at) == ("interrupted", LATER)
    assert (runs[other].status, runs[other].finished_at) == ("running", None)
    assert (runs[second].status, runs[second].error, runs[second].requests) == ("failed", "no luck", 2)


def test_facts_of_a_location(store: SqlStore) -> None:
    """Custom fields are found by id, key and name in any case; a new list replaces the old one."""
    with store.transaction() as tx:
        assert tx.facts("loc") is None
        tx.save_custom_fields("loc", [{"id": "f0", "name": "Old", "field_key": None, "data_type": None}], NOW)
        field = {"id": "F1", "name": "Größe", "field_key": "contact.groesse", "data_type": "TEXT"}
        tx.save_custom_fields("loc", [field], NOW)
        tx.save_location({"id": "loc", "name": "Main", "timezone": None, "country": "CH"}, NOW)
        tx.save_location({"id": "loc", "name": "Main", "timezone": "Europe/Zurich", "country": "CH"}, LATER)
        facts = tx.facts("loc")
    assert facts is not None
    assert (facts.timezone, facts.country) == ("Europe/Zurich", "CH")
    assert facts.custom_fields == {"f1": "F1", "contact.groesse": "F1", "grösse": "F1"}


def test_settings_are_kept_and_dropped(store: SqlStore) -> None:
    """The program's own notes."""
    with store.transaction() as tx:
        assert tx.setting("x") is None
        tx.save_setting("x", {"a": 1}, NOW)
        tx.save_setting("x", ["b"], LATER)
        assert tx.setting("x") == ["b"]
        tx.drop_setting("x")
        assert tx.setting("x") is None


# -- rejects -----------------------------------------------------------------------------------------


def test_a_reject_is_one_row_until_it_is_settled(store: SqlStore) -> None:
    """Met again it is dated anew and its first sight is kept; once the record is accepted it is gone."""
    for now, reason in ((NOW, "bad date"), (LATER, "bad number")):
        with store.transaction() as tx:
            reject = Reject(reason, {"id": "a", "at": now.isoformat()}, "a", None, "list")
            tx.apply(CONTACTS, "loc", Plan(rejects=(reject, Reject("no id", {"x": 1}, shape="list"))), now)
    with store.reading() as tx:
        found = {row["external_id"]: row for row in look.rejects(tx.connection)}
        assert len(found) == 2
        one = look.reject(tx.connection, found["a"]["id"])
    assert one is not None
    assert (one["reason"], one["first_seen_at"], one["last_seen_at"]) == ("bad number", NOW, LATER)
    assert one["raw"]["at"] == LATER.isoformat()
    with store.transaction() as tx:
        tx.apply(TASKS, "loc", Plan(accepted=("a",)), LATER)
        tx.apply(CONTACTS, "other", Plan(accepted=("a",)), LATER)
        assert len(look.rejects(tx.connection)) == 2
        tx.apply(CONTACTS, "loc", Plan(accepted=("a", "b")), LATER)
        assert [row["external_id"] for row in look.rejects(tx.connection)] == [None]


def rules_of(store: SqlStore, **overrides: FieldRule) -> Any:
    """Compiled rules for any location."""
    return lambda location_id: compile_rules(LocationFacts(location_id), Settings(overrides={"contacts": overrides}))


def test_retry_maps_rejects_again(store: SqlStore) -> None:
    """What can be mapped now is stored and settled; what still cannot be stays, and is counted as such."""
    write(store, "contacts", {"id": "a", "firstName": "Ana", "dateOfBirth": "someday"}, {"id": "b"})
    with store.transaction() as tx:
        fine = {"id": "c", "firstName": "Cem"}
        rejects = (Reject("was too new", fine, "c", None, "list"), Reject("no id", {"x": 1}, None, None, "list"))
        tx.apply(CONTACTS, "loc", Plan(rejects=rejects), NOW)
    assert rejected(store).keys() == {"a", "c", None}
    assert retry_rejects(store, rules_of(store), LATER) == (3, 1)
    assert rejected(store).keys() == {"a", None}
    assert names(store) == {"a": "Ana", "b": None, "c": "Cem"}
    (one,) = (row["id"] for row in sql(store, "SELECT id FROM sync_rejects WHERE external_id = 'a'"))
    lenient = FieldRule(source="dateOfBirth", type="text")
    assert retry_rejects(store, rules_of(store, date_of_birth=lenient), LATER, 999_999) == (0, 0)
    birthday = rules_of(store, date_of_birth=FieldRule(source="nothing", type="date"))
    assert retry_rejects(store, birthday, LATER, one) == (1, 1)
    assert rejected(store).keys() == {None}


def test_retry_does_not_raise_the_dead(store: SqlStore) -> None:
    """A reject of a record that has gone since is settled, and the record stays gone."""
    write(store, "contacts", {"id": "a", "dateOfBirth": "someday"})
    with store.transaction() as tx:
        tx.tombstone(CONTACTS, "loc", ["a"], NOW)
    assert retry_rejects(store, rules_of(store), LATER) == (1, 1)
    with store.reading() as tx:
        assert tx.known(CONTACTS, "loc", ["a"])["a"].deleted
    assert rejected(store) == {}


# -- views -------------------------------------------------------------------------------------------

ANA = {
    "id": "a",
    "firstName": "Ana",
    "tags": ["vip", "new ü"],
    "customFields": [
        {"id": "f1", "value": "text"},
        {"id": "f2", "value": 3},
        {"id": "f3", "value": 1.5},
        {"id": "f4", "value": True},
        {"id": "f5", "value": ["x", "y"]},
        {"id": "f6", "value": {"k": "v"}},
        {"id": "f7", "value": False},
        {"id": "f8", "value": "true"},
    ],
}


def test_view_contact_tags(store: SqlStore) -> None:
    """One row a tag of each living contact."""
    write(store, "contacts", ANA, {"id": "b", "tags": []}, {"id": "gone", "tags": ["x"]})
    with store.transaction() as tx:
        tx.tombstone(CONTACTS, "loc", ["gone"], NOW)
    found = sql(store, "SELECT location_id, contact_id, tag FROM contact_tags ORDER BY tag")
    assert found == [{"location_id": "loc", "contact_id": "a", "tag": tag} for tag in ("new ü", "vip")]


def test_view_contact_custom_fields(store: SqlStore) -> None:
    """One row a value, with the field's name where it is known; values of every JSON type as text."""
    with store.transaction() as tx:
        tx.save_custom_fields("loc", [{"id": "f1", "name": "Size", "field_key": "k", "data_type": "TEXT"}], NOW)
        tx.save_custom_fields("other", [{"id": "f2", "name": "Foreign", "field_key": "k", "data_type": "TEXT"}], NOW)
    write(store, "contacts", ANA)
    found = sql(store, "SELECT * FROM contact_custom_fields WHERE contact_id = 'a' ORDER BY field_id")
    assert [(row["field_id"], row["name"]) for row in found[:2]] == [("f1", "Size"), ("f2", None)]
    values = [row["value"] for row in found]
    assert values[:4] == ["text", "3", "1.5", "true"]
    assert [json.loads(value) for value in values[4:6]] == [["x", "y"], {"k": "v"}]
    assert values[6:] == ["false", "true"]


def test_views_survive_tags_that_are_mapped_to_something_else(store: SqlStore) -> None:
    """A rule of the user may fill `tags` with text: the view shows it as a tag, for all others it goes on."""
    write(store, "contacts", {"id": "a", "source": "web"}, tags=FieldRule(source="source"))
    write(store, "contacts", {"id": "b", "tags": ["vip"]})
    found = sql(store, "SELECT contact_id, tag FROM contact_tags ORDER BY contact_id")
    assert [(row["contact_id"], row["tag"]) for row in found] == [("a", "web"), ("b", "vip")]


def test_view_contact_timeline(store: SqlStore) -> None:
    """Tasks, notes and appointments of a contact in one list."""
    write(store, "tasks", {"id": "t", "title": "Call", "dueDate": "2026-09-02T10:00:00Z"}, contact_id="a")
    write(store, "notes", {"id": "n", "body": "<p>Hi</p>", "dateAdded": "2026-09-03T10:00:00Z"}, contact_id="a")
    start = {"id": "p", "title": "Meet", "startTime": "2026-09-04T10:00:00Z", "appointmentStatus": "confirmed"}
    write(store, "appointments", start, {**start, "id": "gone"}, contact_id="a")
    with store.transaction() as tx:
        tx.tombstone(APPOINTMENTS, "loc", ["gone"], NOW)
    found = sql(store, "SELECT contact_id, at, kind, id, title, detail FROM contact_timeline ORDER BY at")
    assert [tuple(row[key] for key in ("contact_id", "kind", "id", "title", "detail")) for row in found] == [
        ("a", "task", "t", "Call", "open"),
        ("a", "note", "n", None, "Hi"),
        ("a", "appointment", "p", "Meet", "confirmed"),
    ]


def test_view_sync_status(store: SqlStore) -> None:
    """One row a location and stream: rows, lag, last success, last error."""
    write(store, "contacts", {"id": "a"}, {"id": "b"}, {"id": "c"})
    now = datetime.now(UTC)
    with store.transaction() as tx:
        tx.tombstone(CONTACTS, "loc", ["c"], NOW)
        for stream in ("contacts", "notes"):
            tx.save_cursor("loc", stream, "full", Cursor({}, "complete", NOW), NOW)
        tx.save_cursor("loc", "contacts", "delta", Cursor({}, "complete", LATER), NOW)
        good = tx.start_run("loc", "contacts", "poll", now - timedelta(seconds=100))
        tx.save_run(good, Tally(), status="succeeded", now=now - timedelta(seconds=90))
        bad = tx.start_run("loc", "contacts", "poll", now)
        tx.save_run(bad, Tally(), status="failed", error="API down", now=now)
        tx.apply(CONTACTS, "loc", Plan(rejects=(Reject("odd", {}, "x", None, "list"),)), NOW)
    found = {row["stream"]: row for row in sql(store, "SELECT * FROM sync_status")}
    assert found.keys() == {"contacts", "notes"}
    contacts = found["contacts"]
    assert contacts.keys() >= {"location_id", "stream", "lag_seconds", "last_success_at", "last_error", "rows"}
    assert (contacts["rows"], contacts["deleted_rows"], contacts["rejects"]) == (2, 1, 1)
    assert contacts["last_error"] == "API down"
    assert 89 <= contacts["lag_seconds"] <= 120
    assert (found["notes"]["rows"], found["notes"]["lag_seconds"], found["notes"]["last_error"]) == (0, None, None)
    with store.reading() as tx:
        status = {one.stream: one for one in look.stream_statuses(tx.connection, now)}
    assert status["contacts"].watermark == LATER
    assert status["contacts"].last_success_at == now - timedelta(seconds=90)
    assert list(status) == ["contacts", "notes"]


TYPED = {
    "words": FieldRule(source="a"),
    "amount": FieldRule(source="b", type="number"),
    "active": FieldRule(source="c", type="boolean"),
    "born": FieldRule(source="d", type="date"),
    "seen": FieldRule(source="e", type="datetime"),
    "whole": FieldRule(source="f", type="json"),
}


def test_mapped_views_have_a_typed_column_for_each_rule(store: SqlStore) -> None:
    """Fields mapped by the user can be compared and sorted as what they are, on both databases."""
    payloads = [
        {"id": "a", "a": "x", "b": "1,234.50", "c": "yes", "d": "03/31/1990", "e": 1_788_264_000_000, "f": {"k": [1]}},
        {"id": "b", "a": 7, "b": 99, "c": False, "d": "1990-12-01", "e": "2026-09-01T14:00:00+02:00", "f": [2]},
        {"id": "c"},
    ]
    write(store, "contacts", *payloads, **TYPED)
    store.make_views({"contacts": TYPED}, NOW)
    rows = {row["id"]: row for row in sql(store, "SELECT * FROM contacts_mapped")}
    assert all(rows["c"][name] is None for name in TYPED)
    assert (rows["a"]["words"], rows["b"]["words"]) == ("x", "7")
    assert (float(rows["a"]["amount"]), rows["b"]["amount"]) == (1234.5, 99)
    assert (bool(rows["a"]["active"]), bool(rows["b"]["active"])) == (True, False)
    assert str(rows["a"]["born"]) == "1990-03-31"
    whole = rows["a"]["whole"]
    assert (json.loads(whole) if isinstance(whole, str) else whole) == {"k": [1]}
    for question, answer in {
        "amount > 100": ["a"],
        "active": ["a"],
        "born > '1990-06-01'": ["b"],
        "seen IS NOT NULL": ["a", "b"],
    }.items():
        found = sql(store, f"SELECT id FROM contacts_mapped WHERE {question} ORDER BY id")
        assert [row["id"] for row in found] == answer, question
    if is_postgres(store):
        assert rows["a"]["seen"] == rows["b"]["seen"] == NOW
    assert {"raw", "extra", "digest"}.isdisjoint(rows["a"])


def test_mapped_views_are_made_again_when_the_mapping_changes(store: SqlStore) -> None:
    """The views follow the configuration, and are left alone while it is the same."""
    assert store.make_views({"contacts": TYPED}, NOW)
    assert not store.make_views({"contacts": TYPED}, NOW)
    fewer = {"words": TYPED["words"], "name": FieldRule(source="a")}
    assert store.make_views({"contacts": fewer}, NOW)
    with store.reading() as tx:
        columns = {column["name"] for column in inspect(tx.connection).get_columns("contacts_mapped")}
    assert "words" in columns
    assert "amount" not in columns
    assert store.make_views({}, NOW)


def test_rows_of_an_older_mapping_do_not_break_the_view(store: SqlStore) -> None:
    """After a rule got another type and before `mapping apply`, what is of the old type is null, not an error."""
    write(store, "contacts", {"id": "a", "x": "about ten"}, {"id": "b", "x": "2026-09-01"}, v=FieldRule(source="x"))
    for type_ in ("number", "boolean", "date", "datetime", "json", "text", "phone"):
        store.make_views({"contacts": {"v": FieldRule(source="x", type=type_)}}, NOW)
        found = {row["id"]: row["v"] for row in sql(store, "SELECT id, v FROM contacts_mapped")}
        if type_ in ("number", "boolean"):
            assert found == {"a": None, "b": None}, type_


# -- upkeep ------------------------------------------------------------------------------------------


def test_purge_removes_what_is_past_its_retention(store: SqlStore) -> None:
    """Old tombstones and old runs go; the living, fresh tombstones and fresh runs stay."""
    write(store, "contacts", {"id": "a"}, {"id": "old"}, {"id": "fresh"})
    write(store, "notes", {"id": "n", "body": "x"}, contact_id="old")
    with store.transaction() as tx:
        tx.tombstone(CONTACTS, "loc", ["old"], NOW - timedelta(days=91))
        tx.tombstone(NOTES, "loc", ["n"], NOW - timedelta(days=91))
        tx.tombstone(CONTACTS, "loc", ["fresh"], NOW - timedelta(days=89))
        for days in (31, 29):
            run = tx.start_run("loc", "contacts", "poll", NOW - timedelta(days=days))
            tx.save_run(run, Tally(), status="succeeded", now=NOW - timedelta(days=days))
        tx.start_run("loc", "contacts", "sweep", NOW - timedelta(days=31))
        tx.start_run("loc", "contacts", "backfill", NOW - timedelta(days=61))
    removed = purge(store, timedelta(days=90), timedelta(days=30), NOW)
    expected = {"contacts": 1, "tasks": 0, "notes": 1, "appointments": 0}
    assert removed == expected | {"sync_runs": 2, "sync_rejects": 0, "usage_slots": 0, "daily_summaries": 0}
    assert names(store).keys() == {"a", "fresh"}
    assert sum(purge(store, timedelta(days=90), timedelta(days=30), NOW).values()) == 0


# -- looking -----------------------------------------------------------------------------------------


def test_contacts_are_found_by_what_people_have(store: SqlStore) -> None:
    """By id in its exact case, by e-mail in any case, by phone in any punctuation, as at home too."""
    write(
        store,
        "contacts",
        {"id": "AbC", "email": "Jane.Doe@Example.com", "phone": "+15550100001"},
        {"id": "abc", "email": "j@example.com", "phone": "+41446681800"},
    )

    def find(wanted: str, location: str | None = None) -> list[str]:
        with store.reading() as tx:
            return [row["id"] for row in find_contacts(tx.connection, wanted, location)]

    for wanted in ("AbC", "jane.doe@example.COM", "+1 (555) 010-0001", "555-010-0001", "15550100001"):
        assert find(wanted) == ["AbC"], wanted
        assert find(wanted, "loc") == ["AbC"]
        assert find(wanted, "other") == []
    assert find("+41 44 668 18 00") == find("044 668 18 00") == ["abc"]
    assert find("nobody@example.com") == find("555") == find("%") == []


# -- the databases themselves ------------------------------------------------------------------------


def test_an_sqlite_file_is_its_owners(sqlite_url: str, tmp_path: Path) -> None:
    """The file holds personal data: whatever the umask, nobody else may read it; nor what SQLite puts beside it."""
    mask = os.umask(0)
    try:
        store = SqlStore(sqlite_url)
        store.upgrade()
        with store.transaction() as tx:
            tx.save_setting("x", 1, NOW)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        store.close()
    finally:
        os.umask(mask)
    assert modes["rankr.db"] == 0o600
    assert set(modes.values()) == {0o600}


def test_readers_do_not_wait_for_a_writer(store: SqlStore) -> None:
    """While a transaction writes, others read what was there before, at once."""
    write(store, "contacts", {"id": "a"})
    began, done = threading.Event(), threading.Event()

    def write_slowly() -> None:
        with store.transaction() as tx:
            tx.apply(CONTACTS, "loc", planned("contacts", {"id": "b"}), NOW)
            began.set()
            done.wait(10)

    writer = threading.Thread(target=write_slowly)
    writer.start()
    assert began.wait(10)
    try:
        before = datetime.now(UTC)
        assert names(store).keys() == {"a"}
        assert datetime.now(UTC) - before < timedelta(seconds=2)
    finally:
        done.set()
        writer.join()
    assert names(store).keys() == {"a", "b"}


def test_writers_queue(store: SqlStore) -> None:
    """Several processes may write to one store; nothing they count is lost."""
    usage = {"requests": 1, "throttled": 0, "daily_limit": None, "daily_remaining": None, "burst_used": 0}

    def count() -> None:
        for _ in range(10):
            with store.transaction() as tx:
                tx.add_usage("loc", NOW, usage)

    with store.transaction() as tx:
        tx.add_usage("loc", NOW, usage)
    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sql(store, "SELECT requests FROM api_usage") == [{"requests": 31}]


def test_a_reading_transaction_is_one_moment(store: SqlStore) -> None:
    """A look sees one state of the store from its first statement on, whatever is written meanwhile."""
    write(store, "contacts", {"id": "a"})
    with store.reading() as tx:
        first = tx.connection.execute(select(schema.contacts.c.id)).all()
        write(store, "contacts", {"id": "b"})
        assert tx.connection.execute(select(schema.contacts.c.id)).all() == first


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://u:geheim@h/x", "not supported"),
        ("nonsense geheim", "not a database URL"),
        ("", "not a database URL"),
        ("postgresql://u:geheim@h:port/x", "not a database URL"),
        ("postgresql://u:gehe:im@h:5432:1/x", "not a database URL"),
        ("sqlite://", "no file"),
        ("sqlite:///:memory:", "no file"),
    ],
)
def test_an_unusable_url_is_a_sentence_without_the_password(url: str, words: str) -> None:
    """Whatever is wrong with the URL, the error says what to write and shows no secret."""
    with pytest.raises(BadConfiguration, match=words) as caught:
        SqlStore(url)
    assert caught.value.hint
    assert "geheim" not in f"{caught.value!r} {caught.value.hint}"


def test_the_place_of_a_store_shows_no_password() -> None:
    """Neither in the usual place nor as a parameter."""
    for url in (
        "postgresql://u:geheim@h/x",
        "postgresql://u@h/x?password=geheim",
        "postgresql://h/x?sslpassword=geheim",
    ):
        assert "geheim" not in location_of(url)
        assert location_of(url).startswith("postgresql://")


@pytest.mark.parametrize("kind", ["a folder", "no database", "below a file"])
def test_an_unusable_file_is_unavailable(tmp_path: Path, kind: str) -> None:
    """A database that cannot be opened is an error of one kind, with its place and what to do."""
    file = tmp_path / "file"
    if kind == "a folder":
        file.mkdir()
    else:
        file.write_text("this is no database, but it is long enough to look like one" * 100)
    path = file / "rankr.db" if kind == "below a file" else file
    with pytest.raises(StoreUnavailable) as caught:
        SqlStore(f"sqlite:///{path}").upgrade()
    assert str(path) in caught.value.message
    assert caught.value.exit_code == 1


def test_an_unreachable_server_is_unavailable() -> None:
    """So is a server that is not there; the password is not in the words."""
    store = SqlStore("postgresql://u:geheim@127.0.0.1:1/x")
    with pytest.raises(StoreUnavailable) as caught:
        store.upgrade()
    assert "127.0.0.1" in caught.value.message
    assert caught.value.hint
    assert "geheim" not in f"{caught.value!r} {caught.value.hint}"


def test_a_missing_table_is_told(store: SqlStore) -> None:
    """A statement that fails is our error too, without its values."""
    with pytest.raises(StoreUnavailable) as caught, store.transaction() as tx:
        tx.connection.execute(text("INSERT INTO nowhere VALUES (:secret)"), {"secret": "geheim"})
    assert "geheim" not in str(caught.value)


def test_protocols_are_met(store: SqlStore) -> None:
    """What the engine asks of a transaction is there."""
    wanted = {name for name in vars(context.Transaction) if not name.startswith("_")}
    assert wanted <= set(dir(Transaction))
