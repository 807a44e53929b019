"""`mapping apply`: a change of mapping is noticed, and reaches every stored row without a request, whatever else writes
meanwhile and whenever it is killed.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from mirror import LOCATION, account, backfill, configuration, connected
from rankr_sync import schema
from rankr_sync.app import former_rows, stored_rules
from rankr_sync.daemon import Schedule
from rankr_sync.engine.context import Settings, compile_rules
from rankr_sync.mapping import FieldRule
from rankr_sync.model import LocationFacts, MappingState, Page, Record, Reject
from rankr_sync.plan import Rules, plan_page
from rankr_sync.store import SqlStore, Transaction
from rankr_sync.store import remap as remapping
from rankr_sync.store.remap import AnotherRemap, Remapped, Report, dry_remap, remap
from rankr_sync.store.upkeep import stored_locations
from rankr_sync.streams import STREAMS

NOW = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
CONTACTS = STREAMS["contacts"]
VIP = FieldRule(source="vip")


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    """An empty store of this release."""
    with closing(SqlStore(database_url)) as made:
        made.upgrade()
        yield made


def rules_of(**overrides: FieldRule) -> dict[str, Rules]:
    """Compiled rules with these for contacts."""
    return compile_rules(LocationFacts("loc"), Settings(overrides={"contacts": overrides}))


def put(tx: Transaction, rules: Mapping[str, Rules], *payloads: dict[str, Any], now: datetime = NOW) -> None:
    """Store these contacts as a sync would that has these rules."""
    known = tx.known(CONTACTS, "loc", [one["id"] for one in payloads])
    page = Page(tuple(Record(one["id"], one, "detail") for one in payloads))
    tx.apply(CONTACTS, "loc", plan_page(page, known, rules["contacts"]), now)


def write(store: SqlStore, rules: Mapping[str, Rules], *payloads: dict[str, Any], now: datetime = NOW) -> None:
    """The same in a transaction of its own."""
    with store.transaction() as tx:
        put(tx, rules, *payloads, now=now)


def again(store: SqlStore, rules: Mapping[str, Rules], **options: Any) -> Report:
    """Map all again, an hour later, without pauses."""
    return remap(store, "loc", rules, lambda: LATER, pause=lambda seconds: None, **options)


def contacts(store: SqlStore) -> dict[str, Any]:
    """The rows of the contacts by id."""
    with store.reading() as tx:
        return {row.id: row for row in tx.connection.execute(select(schema.contacts))}


def sources(store: SqlStore) -> dict[str, str | None]:
    """Their column `source` by id."""
    return {id_: row.source for id_, row in contacts(store).items()}


def rejected(store: SqlStore) -> dict[str | None, str]:
    """External id to reason."""
    table = schema.sync_rejects
    with store.reading() as tx:
        return {row.external_id: row.reason for row in tx.connection.execute(select(table))}


def former(store: SqlStore, rules: Mapping[str, Rules]) -> int:
    """How many contacts are not of these rules."""
    with store.reading() as tx:
        return tx.count_former(CONTACTS, "loc", rules["contacts"].mapping)


# -- which mapping made the rows -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "then"),
    [
        (MappingState("a"), MappingState("a", "b", NOW)),
        (MappingState("b"), MappingState("b")),
        (MappingState("a", "b", LATER), MappingState("a", "b", LATER)),
        (MappingState("a", "c", LATER), MappingState(None, "b", NOW)),
        (MappingState("b", "a", LATER), MappingState(None, "b", NOW)),
    ],
)
def test_whoever_makes_rows_is_noted(state: MappingState, then: MappingState) -> None:
    """What is noted is true of every row, also when a mapping is taken back."""
    assert state.using("b", NOW) == then
    assert then.is_of("b") == (then == MappingState("b"))


def test_rows_of_the_former_mapping_are_counted(store: SqlStore) -> None:
    """From the first change on, until `mapping apply` is through: what is written meanwhile is of the new one."""
    old, new = rules_of(), rules_of(source=VIP)
    write(store, old, {"id": "a"}, {"id": "b"}, {"id": "c"})
    assert (former(store, old), former(store, new)) == (0, 3)
    write(store, new, {"id": "a", "vip": "yes"}, {"id": "d"}, now=NOW + timedelta(minutes=1))
    assert (former(store, old), former(store, new)) == (4, 2)
    again(store, new)
    assert (former(store, old), former(store, new)) == (4, 0)


def test_a_custom_field_that_becomes_known_is_a_change_of_mapping() -> None:
    """So is another time zone or country: whatever makes other rows of the same payloads."""
    rule = {"budget": FieldRule(custom_field="Budget", type="number")}
    facts = [
        LocationFacts("loc"),
        LocationFacts("loc", custom_fields={"budget": "f1"}),
        LocationFacts("loc", custom_fields={"budget": "f2"}),
        LocationFacts("loc", "Europe/Zurich", custom_fields={"budget": "f1"}),
        LocationFacts("loc", country="CH", custom_fields={"budget": "f1"}),
        LocationFacts("loc", custom_fields={"budget": "f1", "other": "f3"}),
    ]
    digests = [compile_rules(one, Settings(overrides={"contacts": rule}))["contacts"].mapping for one in facts]
    assert len(set(digests)) == 5
    assert digests[1] == digests[5]


def test_a_change_is_noticed_at_the_start_and_settled_by_apply(database_url: str) -> None:
    """Status counts the rows, the daemon says so once and maps what comes in by the new rules, apply asks nothing."""
    sandbox, config = account(20), configuration(database_url)
    backfill(sandbox, config)
    changed = config.model_copy(update={"mapping": {"contacts": {"mail": FieldRule(source="email", case="upper")}}})
    with closing(SqlStore(database_url)) as store:
        assert former_rows(store, config, LOCATION) == {}
        assert former_rows(store, changed, LOCATION) == {"contacts": 20}

    async def start() -> list[Any]:
        async with connected(sandbox, changed) as app:
            schedule = Schedule(app, app.locations[LOCATION])
            with capture_logs() as logs:
                await schedule.learn()
                await schedule.learn()
            sandbox.create_contact(firstName="New", email="new@example.com")
            await app.locations[LOCATION].poll("contacts")
            return [line for line in logs if line["event"] == "mapping.changed"]

    (said,) = asyncio.run(start())
    assert (said["contacts"], said["hint"]) == (20, "rankr-sync mapping apply")
    requests = sandbox.stats()["requests"]
    with closing(SqlStore(database_url)) as store:
        mails = {id_: row.extra.get("mail") for id_, row in contacts(store).items()}
        assert [mail for mail in mails.values() if mail] == ["NEW@EXAMPLE.COM"]
        assert former_rows(store, changed, LOCATION) == {"contacts": 20}
        rules = stored_rules(store, changed, LOCATION)
        report = remap(store, LOCATION, rules, lambda: datetime.now(UTC))
        assert report.streams["contacts"] == Remapped(21, 20, 0)
        assert report.overtaken == []
        assert former_rows(store, changed, LOCATION) == {}
        assert all(row.extra["mail"] == (row.email.upper() if row.email else None) for row in contacts(store).values())
    assert sandbox.stats()["requests"] == requests


# -- what is written -----------------------------------------------------------------------------------


def test_only_what_changes_is_written(store: SqlStore) -> None:
    """Rows that come out different are written, tombstones included; the others stay as they are."""
    write(store, rules_of(), {"id": "a", "vip": "yes"}, {"id": "b"}, {"id": "gone", "vip": "no"})
    with store.transaction() as tx:
        tx.tombstone(CONTACTS, "loc", ["gone"], NOW)
    assert stored_locations(store) == ["loc"]
    assert again(store, rules_of()).streams["contacts"] == Remapped(3, 0, 0)
    assert again(store, rules_of(source=VIP)).streams["contacts"] == Remapped(3, 2, 0)
    rows = contacts(store)
    assert sources(store) == {"a": "yes", "b": None, "gone": "no"}
    assert {id_: row.synced_at for id_, row in rows.items()} == {"a": LATER, "b": NOW, "gone": LATER}
    assert rows["gone"].deleted_at == NOW


def test_a_page_that_comes_next_finds_nothing_to_write(store: SqlStore) -> None:
    """What was mapped again is not taken for changed when the API shows it as it was."""
    write(store, rules_of(), {"id": "a", "vip": "yes"})
    again(store, rules_of(source=VIP))
    write(store, rules_of(source=VIP), {"id": "a", "vip": "yes"}, now=LATER + timedelta(hours=1))
    assert contacts(store)["a"].synced_at == LATER


def test_a_dry_run_counts_and_writes_nothing(store: SqlStore) -> None:
    """The same counts, and the store is as it was."""
    write(store, rules_of(), {"id": "a", "vip": "yes"}, {"id": "b"})
    new = rules_of(source=VIP, born=FieldRule(source="vip", type="date"))
    before = contacts(store)
    assert list(dry_remap(store, "loc", new)) == [("contacts", Remapped(2, 2, 1))]
    assert contacts(store) == before
    assert (rejected(store), former(store, rules_of())) == ({}, 0)


def test_rejects_are_noted_and_settled_as_usual(store: SqlStore) -> None:
    """A value that a new rule cannot read is noted, one that it can is settled; a newer payload keeps its reject."""
    born = FieldRule(source="born", type="date")
    write(
        store, rules_of(), {"id": "a", "born": "someday"}, {"id": "b", "born": "2000-01-01"}, {"id": "c", "born": "x"}
    )
    with store.transaction() as tx:
        tx.rewrite(CONTACTS, "loc", [], [Reject("the database refuses the row", {"id": "c"}, "c")], NOW)
        tx.tombstone(CONTACTS, "loc", ["b"], NOW)
    assert again(store, rules_of(born=born)).streams["contacts"] == Remapped(3, 3, 2)
    assert rejected(store) == {
        "a": "kept without born: impossible date",
        "c": "the database refuses the row",
    }
    again(store, rules_of(born=FieldRule(source="born")))
    assert rejected(store).keys() == {"c"}


def test_a_row_that_the_database_refuses_is_a_reject(store: SqlStore) -> None:
    """A new rule may make a row that cannot be stored: the others are mapped."""
    long = "".join(random.Random(2).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=10_000))
    write(store, rules_of(), {"id": "a", "x": "short"}, {"id": "b", "x": long}, {"id": "c", "x": "other"})
    refuses = store.engine.dialect.name == "postgresql"
    done = again(store, rules_of(email=FieldRule(source="x"))).streams["contacts"]
    assert done == (Remapped(3, 2, 1) if refuses else Remapped(3, 3, 0))
    assert {id_: row.email for id_, row in contacts(store).items() if id_ != "b"} == {"a": "short", "c": "other"}
    assert rejected(store).keys() == ({"b"} if refuses else set())


# -- killed, and beside others -------------------------------------------------------------------------


class Killed(Exception):
    """The process dies."""


def killer(after: int) -> Callable[[str, Remapped], None]:
    """Dies when so many batches are stored."""
    left = [after]

    def die(stream: str, done: Remapped) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    return die


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows a batch."""
    monkeypatch.setattr(remapping, "BATCH", 2)


@pytest.mark.usefixtures("small_batches")
def test_killed_it_goes_on_where_it_was(store: SqlStore) -> None:
    """What was stored is not mapped again, and the report counts it; other rules begin anew."""
    write(store, rules_of(), *({"id": f"c{n}", "vip": str(n)} for n in range(7)))
    new = rules_of(source=VIP)
    with pytest.raises(Killed):
        again(store, new, on_progress=killer(2))
    assert [id_ for id_, value in sources(store).items() if value is not None] == ["c0", "c1", "c2", "c3"]
    assert former(store, new) == 3
    batches: list[int] = []
    report = again(store, new, on_progress=lambda stream, done: batches.append(done.read) if done.read else None)
    assert batches[:2] == [6, 7]
    assert report.streams["contacts"] == Remapped(7, 7, 0)
    assert sources(store) == {f"c{n}": str(n) for n in range(7)}
    with pytest.raises(Killed):
        again(store, rules_of(), on_progress=killer(2))
    again(store, new)
    assert sources(store) == {f"c{n}": str(n) for n in range(7)}


@pytest.mark.usefixtures("small_batches")
def test_one_that_was_cut_off_begins_anew_when_other_rules_have_written(store: SqlStore) -> None:
    """Rows before its place may be of other rules by then."""
    write(store, rules_of(), *({"id": f"c{n}", "vip": str(n)} for n in range(5)))
    new = rules_of(source=VIP)
    with pytest.raises(Killed):
        again(store, new, on_progress=killer(2))
    write(store, rules_of(), {"id": "c0", "vip": "changed"}, now=LATER)
    again(store, new)
    assert sources(store)["c0"] == "changed"
    assert former(store, new) == 0


@pytest.mark.usefixtures("small_batches")
def test_two_at_once_do_not_both_go_on(store: SqlStore) -> None:
    """The one that began last goes on; the other ends with words."""
    write(store, rules_of(), *({"id": f"c{n}", "vip": str(n)} for n in range(5)))
    new = rules_of(source=VIP)
    second: list[Report] = []

    def interfere(stream: str, done: Remapped) -> None:
        if not second:
            second.append(again(store, new))

    with pytest.raises(AnotherRemap):
        again(store, new, on_progress=interfere)
    assert second[0].streams["contacts"] == Remapped(5, 5, 0)


def beside(store: SqlStore, payload: dict[str, Any], of: Mapping[str, Rules]) -> Report:
    """Map all again while another transaction has written this, by `of`, and is not committed yet."""
    reports: list[Report] = []
    working = threading.Thread(target=lambda: reports.append(again(store, rules_of(source=VIP))))
    with store.transaction() as tx:
        put(tx, of, payload, now=LATER)
        working.start()
        working.join(0.2)
        assert working.is_alive()
    working.join(20)
    return reports[0]


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("id_", ["b", "e"])
def test_what_another_writes_meanwhile_is_never_overwritten(store: SqlStore, id_: str) -> None:
    """An update that is under way is waited for and mapped as it is then; so is a row that is inserted."""
    write(store, rules_of(), *({"id": one, "vip": "old"} for one in "abcd"))
    assert beside(store, {"id": id_, "vip": "new", "city": "Basel"}, rules_of()).overtaken == []
    assert sources(store) == dict.fromkeys("abcd", "old") | {id_: "new"}
    assert contacts(store)[id_].city == "Basel"


@pytest.mark.usefixtures("small_batches")
def test_what_is_in_hand_elsewhere_is_waited_for(store: SqlStore) -> None:
    """A transaction that begins while rows are mapped keeps what it writes: its row is mapped when it has ended."""
    write(store, rules_of(), *({"id": one, "vip": "old"} for one in "abcd"))
    written, begun = threading.Event(), []

    def daemon() -> None:
        with store.transaction() as tx:
            put(tx, rules_of(source=VIP), {"id": "c", "vip": "new"}, now=LATER)
            written.set()
            time.sleep(0.3)

    def between(stream: str, done: Remapped) -> None:
        if not begun:
            begun.append(threading.Thread(target=daemon))
            begun[0].start()
            assert written.wait(20)

    assert again(store, rules_of(source=VIP), on_progress=between).overtaken == []
    begun[0].join(20)
    assert sources(store) == {"a": "old", "b": "old", "c": "new", "d": "old"}


def test_a_daemon_with_the_former_rules_is_told(store: SqlStore) -> None:
    """What it writes is noted with the row: the mapping is not taken for applied, whenever it came."""
    old, new = rules_of(), rules_of(source=VIP)
    write(store, old, {"id": "a", "vip": "1"})
    meanwhile = again(
        store, new, on_progress=lambda stream, done: write(store, old, {"id": "b", "vip": "2"}, now=LATER)
    )
    assert meanwhile.overtaken == ["contacts"]
    assert former(store, new) > 0
    assert again(store, new).overtaken == []
    assert former(store, new) == 0
    write(store, old, {"id": "c", "vip": "3"}, now=LATER)
    assert former(store, new) > 0


def test_it_gives_way_to_a_running_daemon(store: SqlStore) -> None:
    """While somebody holds the lease, it pauses after each batch; else it does not."""
    write(store, rules_of(), {"id": "a", "vip": "1"})
    pauses: list[float] = []
    remap(store, "loc", rules_of(source=VIP), lambda: LATER, pause=pauses.append)
    assert pauses == []
    with store.transaction() as tx:
        tx.take_lease("loc", "daemon", LATER, LATER + timedelta(seconds=30))
    remap(store, "loc", rules_of(), lambda: LATER, pause=pauses.append)
    assert pauses
    assert all(0 < pause <= 1 for pause in pauses)
