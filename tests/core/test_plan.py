"""The pure core: from a page and what is known to a plan."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankr_sync.model import Known, Page, Plan, Record, Reject
from rankr_sync.plan import Mapped, Rules, Unmappable, digest, plan_children, plan_page

NOON = datetime(2026, 7, 17, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def to_row(raw, content):
    """A mapping that refuses some records, and reads others only in part."""
    if raw.get("bad"):
        raise Unmappable("bad")
    return Mapped({"title": raw.get("title")}, ("title: odd",) if raw.get("odd") else ())


RULES = Rules(
    merge=lambda record, old: {**(old.raw or {} if old else {}), **record.raw},
    normalise=lambda raw: {key: value for key, value in raw.items() if value is not None},
    map=to_row,
    is_gone=lambda raw: raw.get("deleted") is True,
)


def record(id_="a", updated_at=NOON, contact_id=None, **raw) -> Record:
    """A record of this content."""
    return Record(id_, raw, "list", contact_id, updated_at)


def page(*records, **options) -> Page:
    """A page of these records."""
    return Page(tuple(records), **options)


def known_after(plan: Plan, known: dict[str, Known], records: Iterable[Record]) -> dict[str, Known]:
    """What a store that carried out the plan holds."""
    times = {}
    for each in records:
        if not (times.get(each.id) and each.updated_at and each.updated_at < times[each.id]):
            times[each.id] = each.updated_at
    after = dict(known)
    for row in (*plan.inserts, *plan.updates):
        after[row["id"]] = Known(
            row["id"], row["digest"], row.get("contact_id"), times[row["id"]], raw=row["raw"], deleted=False
        )
    for id_ in plan.tombstones:
        old = after[id_]
        after[id_] = Known(id_, old.digest, old.contact_id, old.updated_at, True, old.raw)
    return after


def stored(*records: Record) -> dict[str, Known]:
    """What a store holds that saw these records."""
    return known_after(plan_page(page(*records), {}, RULES), {}, records)


def ids(rows) -> list[str]:
    """Their ids, in order."""
    return [row["id"] for row in rows]


def test_a_new_record_is_inserted():
    """A row carries the mapped columns, the id, the digest, the payload and its contact."""
    plan = plan_page(page(record(title="x", contact_id="c")), {}, RULES)
    assert plan.inserts == (
        {"title": "x", "id": "a", "digest": digest({"title": "x"}), "raw": {"title": "x"}, "contact_id": "c"},
    )
    assert plan.accepted == ("a",)
    assert plan.changed_ids == ("a",)
    assert plan.fetched == 1


def test_a_record_without_an_owner_leaves_the_column_alone():
    """A shape that names no contact does not take the record from the one it has."""
    assert "contact_id" not in plan_page(page(record(title="x")), {}, RULES).inserts[0]


def test_an_unchanged_record_is_not_written():
    """The same content again is counted and nothing more: what was said of it before still stands."""
    plan = plan_page(page(record(title="x")), stored(record(title="x")), RULES)
    assert (plan.inserts, plan.updates, plan.unchanged, plan.accepted) == ((), (), 1, ())


def test_a_changed_record_is_updated():
    """Other content is written."""
    plan = plan_page(page(record(title="y")), stored(record(title="x")), RULES)
    assert [row["title"] for row in plan.updates] == ["y"]
    assert plan.inserts == ()


@pytest.mark.parametrize(
    ("later", "written"),
    [(timedelta(0), 0), (timedelta(milliseconds=4), 0), (timedelta(milliseconds=-4), 0), (SECOND, 1)],
)
def test_a_later_time_of_change_is_written_too(later, written):
    """Only the time moved on: it is stored. The index and the record may differ by some milliseconds."""
    plan = plan_page(page(record(updated_at=NOON + later)), stored(record()), RULES)
    assert (len(plan.updates), plan.unchanged) == (written, 1 - written)


def test_a_time_of_change_that_was_missing_is_written():
    """A record that now shows when it changed is stored with it; one that no longer does is the same."""
    assert len(plan_page(page(record()), stored(record(updated_at=None)), RULES).updates) == 1
    assert plan_page(page(record(updated_at=None)), stored(record()), RULES).unchanged == 1


@pytest.mark.parametrize(
    ("earlier", "stale"),
    [(SECOND, 1), (timedelta(milliseconds=101), 1), (timedelta(milliseconds=99), 0), (timedelta(0), 0)],
)
def test_an_older_version_never_overwrites_a_newer_one(earlier, stale):
    """What is older than the stored version is left alone, whatever it says."""
    plan = plan_page(page(record(title="old", updated_at=NOON - earlier)), stored(record(title="new")), RULES)
    assert plan.stale == stale
    assert len(plan.updates) == 1 - stale


def test_an_older_deletion_is_stale_too():
    """A deletion seen in an old version does not delete the newer one."""
    plan = plan_page(page(record(deleted=True, updated_at=NOON - SECOND)), stored(record()), RULES)
    assert (plan.tombstones, plan.stale) == ((), 1)


@given(st.permutations(range(4)))
def test_the_newest_version_wins_in_any_order(order):
    """Versions may arrive in any order, on one page or on many: the newest is what is kept."""
    versions = [record(title=f"v{n}", updated_at=NOON + n * SECOND) for n in order]
    known: dict[str, Known] = {}
    for version in versions:
        known = known_after(plan_page(page(version), known, RULES), known, [version])
    assert known["a"].raw == {"title": "v3"}
    assert plan_page(page(*versions), {}, RULES).inserts[0]["title"] == "v3"


def test_shapes_are_merged():
    """What a shape is silent about is kept from the stored payload, and both make the digest."""
    known = stored(record(title="x", only="list"))
    assert plan_page(page(record(title="x")), known, RULES).unchanged == 1
    assert plan_page(page(record(title="y")), known, RULES).updates[0]["raw"] == {"title": "y", "only": "list"}


def test_an_unmappable_record_becomes_a_reject_and_its_neighbours_go_on():
    """One bad record costs one record."""
    before = Reject("no id", {})
    plan = plan_page(page(record("a"), record("b", bad=True), record("c"), rejects=(before,)), {}, RULES)
    assert ids(plan.inserts) == ["a", "c"]
    assert plan.rejects == (before, Reject("bad", {"bad": True}, "b", None, "list"))
    assert plan.accepted == ("a", "c")
    assert plan.fetched == 4


def test_a_record_that_is_read_in_part_is_kept_and_told():
    """The row is written without the value, and a reject names it; it does not count as accepted."""
    plan = plan_page(page(record(title="x", odd=True)), {}, RULES)
    assert ids(plan.inserts) == ["a"]
    assert [reject.reason for reject in plan.rejects] == ["kept without title: odd"]
    assert plan.accepted == ()


def test_the_same_id_twice_on_a_page_is_one_record():
    """The newer wins; of two without a time, the later."""
    newer, older = record(title="new", updated_at=NOON + SECOND), record(title="old")
    for order in ((newer, older), (older, newer)):
        assert [row["title"] for row in plan_page(page(*order), {}, RULES).inserts] == ["new"]
    timeless = [record(title=str(n), updated_at=None) for n in range(3)]
    assert [row["title"] for row in plan_page(page(*timeless), {}, RULES).inserts] == ["2"]


def test_a_record_that_says_so_is_tombstoned_once():
    """Its payload tells that it is deleted: living rows are tombstoned, unknown ones never written."""
    gone = page(record(deleted=True))
    known = stored(record())
    plan = plan_page(gone, known, RULES)
    assert plan.tombstones == ("a",)
    assert plan_page(gone, known_after(plan, known, gone.records), RULES) == Plan(fetched=1)
    assert plan_page(gone, {}, RULES) == Plan(fetched=1)


def test_a_record_that_comes_back_is_undeleted():
    """Unchanged content is an update all the same when the row bears a tombstone."""
    known = {"a": Known("a", digest({"title": "x"}), None, NOON, deleted=True, raw={"title": "x"})}
    plan = plan_page(page(record(title="x")), known, RULES)
    assert ids(plan.updates) == ["a"]


def children(*ids_: str, **options) -> Page:
    """The list of a contact `c` with these children, whole unless told otherwise."""
    return Page(tuple(record(id_, contact_id="c") for id_ in ids_), **{"whole": True, **options})


KNOWN = stored(*(record(id_, contact_id="c") for id_ in "abc"), record("other", contact_id="d"))
UNREADABLE = (Reject("no id", {}),)


@pytest.mark.parametrize(
    ("pages", "tombstones"),
    [
        ({"c": children("a", "b", "c")}, ""),
        ({"c": children("a", "c")}, "b"),
        ({"c": children()}, "abc"),
        ({"c": children(whole=False)}, ""),
        ({"c": children("a", whole=False)}, ""),
        ({"c": children("a", rejects=UNREADABLE)}, ""),
        ({"c": children(rejects=UNREADABLE)}, ""),
        ({}, ""),
        ({"d": children("other")}, ""),
        ({"c": children("a", "b"), "d": children("other", "c")}, ""),
        ({"c": children("a", "b"), "d": children("other", rejects=UNREADABLE)}, "c"),
    ],
)
def test_only_a_whole_list_without_rejects_tombstones(pages, tombstones):
    """A child is gone when the whole list of its contact lacks it, and no other list of the batch shows it."""
    assert plan_children(pages, KNOWN, RULES).tombstones == tuple(tombstones)


def test_a_tombstone_is_set_once():
    """What is already marked as gone is not marked again."""
    known = known_after(plan_children({"c": children("a")}, KNOWN, RULES), KNOWN, ())
    assert plan_children({"c": children("a")}, known, RULES).tombstones == ()


def test_an_unmappable_child_is_not_missing():
    """A child that is there and cannot be mapped keeps its row."""
    bad = Page((record("a", contact_id="c", bad=True),), whole=True)
    plan = plan_children({"c": bad}, stored(record("a", contact_id="c")), RULES)
    assert plan.tombstones == ()
    assert len(plan.rejects) == 1


def test_a_child_that_comes_back_is_undeleted():
    """Listed again after its tombstone: the row lives again."""
    known = known_after(plan_children({"c": children("a")}, KNOWN, RULES), KNOWN, ())
    plan = plan_children({"c": children("a", "b", "c")}, known, RULES)
    assert ids(plan.updates) == ["b", "c"]


contents = st.dictionaries(
    st.sampled_from(["title", "body", "bad", "odd", "deleted"]),
    st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.lists(st.integers(), max_size=2)),
)
pages = st.builds(
    Page,
    st.lists(
        st.builds(
            Record,
            id=st.sampled_from("abcdef"),
            raw=contents,
            shape=st.just("list"),
            contact_id=st.just("c"),
            updated_at=st.one_of(st.none(), st.integers(0, 3).map(lambda n: NOON + n * SECOND)),
        ),
        max_size=8,
    ).map(tuple),
    whole=st.booleans(),
)


@given(first=pages, second=pages)
def test_the_same_page_twice_changes_nothing(first, second):
    """Whatever was stored before: a page that was just carried out asks for no write."""
    known: dict[str, Known] = {}
    for each in (first, second):
        known = known_after(plan_children({"c": each}, known, RULES), known, each.records)
    again = plan_children({"c": second}, known, RULES)
    assert (again.inserts, again.updates, again.tombstones) == ((), (), ())


@given(first=pages, second=pages)
def test_the_living_rows_are_those_of_a_whole_list(first, second):
    """After a whole list, rows live that it holds (undeleted, readable or known), and no others."""
    known: dict[str, Known] = {}
    for each in (first, second):
        known = known_after(plan_children({"c": each}, known, RULES), known, each.records)
    alive = {old.id for old in known.values() if not old.deleted}
    if second.whole:
        assert alive <= {record.id for record in second.records}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def reversed_keys(value):
    """The same content, its keys in the opposite order."""
    if isinstance(value, list):
        return [reversed_keys(item) for item in value]
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return value


@given(st.dictionaries(st.text(), json_values))
def test_the_order_of_keys_is_no_content(content):
    """Equal content has an equal digest, in whatever order its keys come."""
    assert digest(content) == digest(reversed_keys(content))
    assert len(digest(content)) == 32


@given(st.dictionaries(st.text(), json_values), st.dictionaries(st.text(), json_values))
def test_other_content_has_another_digest(one, other):
    """Digests tell contents apart."""
    if repr(reversed_keys(one)) != repr(reversed_keys(other)) and one != other:
        assert digest(one) != digest(other)
