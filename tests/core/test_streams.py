"""The streams: paging and its ends, the shapes of each entity, odd records."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rankr_sync.errors import BadAnswer
from rankr_sync.mapping import FieldRule
from rankr_sync.model import Known, LocationFacts, Page, Record
from rankr_sync.plan import digest, plan_page
from rankr_sync.streams import OWNER, STREAMS, appointments, contacts, notes, reference, tasks
from rankr_sync.streams.base import read_records, without

FACTS = LocationFacts("loc", timezone="Europe/Zurich", country="CH", custom_fields={"size": "cf2"})
T0 = datetime(2026, 7, 17, 7, 11, 57, 939000, tzinfo=UTC)


def iso(moment: datetime) -> str:
    """As HighLevel writes times."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- the store in small ---------------------------------------------------------------------------------


class Mirror:
    """What a store would hold of a stream, and how often it was written."""

    def __init__(self, name: str, **options) -> None:
        stream = STREAMS[name]
        self.rules = stream.rules(stream.mapping(options.pop("overrides", {}), FACTS), FACTS, **options)
        self.known: dict[str, Known] = {}
        self.rows: dict[str, dict] = {}
        self.rejects: list[str] = []

    def take(self, page: Page) -> int:
        """Carry out the plan of a page. Returns how many rows were written."""
        plan = plan_page(page, self.known, self.rules)
        times = {record.id: record.updated_at for record in page.records}
        for row in (*plan.inserts, *plan.updates):
            self.rows[row["id"]] = row
            updated_at = row.get("updated_at") if "updated_at" in row else times[row["id"]]
            self.known[row["id"]] = Known(row["id"], row["digest"], row.get("contact_id"), updated_at, raw=row["raw"])
        self.rejects += [reject.reason for reject in plan.rejects]
        return len(plan.changed_ids)


# -- contacts: the list ---------------------------------------------------------------------------------


def contact_items(*ids: str) -> list[dict]:
    """List items with a time each."""
    return [{"id": id_, "dateAdded": iso(T0 - timedelta(hours=n)), "dateUpdated": iso(T0)} for n, id_ in enumerate(ids)]


META = {"total": 250, "startAfter": 1752736317939, "startAfterId": "b", "currentPage": 1, "nextPage": 2}
LAST = {"total": 250, "nextPageUrl": None, "startAfter": None, "startAfterId": None}


@pytest.mark.parametrize(
    ("position", "cursor"),
    [
        ({}, {}),
        ({"walk": "list"}, {}),
        ({"startAfter": 17, "startAfterId": "b"}, {"startAfter": "17", "startAfterId": "b"}),
        ({"startAfter": 17, "startAfterId": None}, {}),
        ({"startAfter": 0, "startAfterId": "b"}, {"startAfter": "0", "startAfterId": "b"}),
    ],
)
def test_the_list_is_asked_with_both_halves_of_its_cursor(position, cursor):
    """Both values or none: with half of them the API sends page 1 for ever."""
    request = contacts.list_request("loc", position)
    assert (request.method, request.path) == ("GET", "/contacts/")
    assert dict(request.query) == {"locationId": "loc", "limit": "100", **cursor}


@pytest.mark.parametrize(
    ("position", "payload", "cursor", "whole"),
    [
        ({}, {"meta": META, "contacts": contact_items("a", "b")}, (1752736317939, "b"), False),
        ({}, {"meta": LAST, "contacts": contact_items("a", "b")}, None, True),
        ({}, {"meta": META, "contacts": []}, None, True),
        ({}, {"contacts": []}, None, True),
        ({"startAfterId": "b"}, {"meta": META, "contacts": contact_items("a", "b")}, None, False),
        ({"startAfterId": "b"}, {"contacts": contact_items("b")}, None, False),
        # no cursor offered, half of one, or another kind of meta: the last contact is the cursor
        ({}, {"contacts": contact_items("a", "b")}, (1784268717939, "b"), False),
        ({}, {"meta": {"total": 2}, "contacts": contact_items("a", "b")}, (1784268717939, "b"), False),
        ({}, {"meta": None, "contacts": contact_items("a", "b")}, (1784268717939, "b"), False),
        ({}, {"meta": "next", "contacts": contact_items("a", "b")}, (1784268717939, "b"), False),
        ({}, {"meta": {**META, "startAfter": None}, "contacts": contact_items("a", "b")}, (1784268717939, "b"), False),
        (
            {},
            {"meta": {**META, "startAfterId": None}, "contacts": contact_items("a", "b")},
            (1784268717939, "b"),
            False,
        ),
        # the last contact cannot be one: the one before it can
        ({}, {"contacts": [*contact_items("a"), {"id": "x", "dateAdded": {}}]}, (1784272317939, "a"), False),
        ({}, {"contacts": [*contact_items("a"), {"dateAdded": iso(T0)}, 5]}, (1784272317939, "a"), False),
        ({}, {"contacts": [{"id": "x"}, {"id": "y", "dateAdded": "soon"}]}, None, False),
    ],
)
def test_how_the_list_goes_on_and_ends(position, payload, cursor, whole):
    """Ends at nulls or an empty page; a cursor that stands still, or none at all, ends it without that claim."""
    page = contacts.list_parse(position, payload)
    assert page.next == (cursor and {"startAfter": cursor[0], "startAfterId": cursor[1]})
    assert page.whole is whole


@given(st.integers(0, 4 * 10**12))
def test_the_cursor_of_the_last_contact_is_exact(ms):
    """To the millisecond: one less would skip a contact, one more repeat it for ever."""
    item = {"id": "a", "dateAdded": iso(datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000))}
    assert contacts.list_parse({}, {"contacts": [item]}).next == {"startAfter": ms, "startAfterId": "a"}


def test_the_list_tells_its_total():
    """The source's own count, where it is a number."""
    assert contacts.list_parse({}, {"meta": META, "contacts": contact_items("a")}).total == 250
    assert contacts.list_parse({}, {"meta": {**META, "total": "?"}, "contacts": contact_items("a")}).total is None


# -- contacts: the search -------------------------------------------------------------------------------


def test_the_search_for_everything():
    """Oldest first, by page number on the first page only."""
    request = contacts.search_request("loc", contacts.search_begin(None))
    assert (request.method, request.path, request.query) == ("POST", "/contacts/search", ())
    assert request.body == {
        "locationId": "loc",
        "pageLimit": 100,
        "sort": [{"field": "dateAdded", "direction": "asc"}],
        "page": 1,
    }


def test_the_search_for_changes():
    """Since a moment, in the order of change, by the cursor alone from the second page on."""
    begin = contacts.search_begin(T0.astimezone(tz=None))
    body = contacts.search_request("loc", begin).body
    assert body["filters"] == [
        {"field": "dateUpdated", "operator": "range", "value": {"gte": "2026-07-17T07:11:57.939Z"}}
    ]
    assert body["sort"] == [{"field": "dateUpdated", "direction": "asc"}]
    page = contacts.search_parse(begin, {"contacts": found("a", "b"), "total": 5})
    body = contacts.search_request("loc", page.next).body
    assert body["searchAfter"] == [17, "b"]
    assert body["filters"][0]["value"] == {"gte": "2026-07-17T07:11:57.939Z"}
    assert "page" not in body


def found(*ids: str) -> list[dict]:
    """Search items, each with its cursor."""
    return [{"id": id_, "dateUpdated": iso(T0), "searchAfter": [17, id_]} for id_ in ids]


FULL = found(*(f"c{n}" for n in range(100)))


@pytest.mark.parametrize(
    ("position", "payload", "after", "whole"),
    [
        ({}, {"contacts": FULL, "total": 250}, [17, "c99"], False),
        ({}, {"contacts": FULL, "total": 100}, [17, "c99"], False),
        ({"seen": 200}, {"contacts": found("a"), "total": 201}, None, True),
        ({"seen": 200}, {"contacts": found("a"), "total": 300}, [17, "a"], False),
        ({"seen": 200}, {"contacts": found("a")}, [17, "a"], False),
        ({"seen": 200}, {"contacts": found("a"), "total": "201"}, [17, "a"], False),
        ({"seen": 200}, {"contacts": [], "total": 300}, None, True),
        ({}, {"contacts": [], "total": 0}, None, True),
        ({"after": [17, "a"]}, {"contacts": found("a"), "total": 300}, None, False),
        ({}, {"contacts": [{"id": "a"}], "total": 300}, None, False),
        ({}, {"contacts": [*found("a"), {"id": "b"}, 5], "total": 300}, [17, "a"], False),
    ],
)
def test_how_the_search_goes_on_and_ends(position, payload, after, whole):
    """Ends at an empty page, or a short one when all were seen; a cursor missing or repeated ends it unsure."""
    page = contacts.search_parse(position, payload)
    assert (page.next and page.next["after"]) == after
    assert page.whole is whole
    if page.next is not None:
        assert page.next["seen"] == position.get("seen", 0) + len(payload["contacts"])


def test_a_contact_by_id():
    """One contact, a whole answer."""
    request = OWNER.lookup.request("abc")
    assert (request.method, request.path, request.route) == ("GET", "/contacts/abc", "/contacts/{id}")
    page = OWNER.lookup.parse("abc", {"contact": {"id": "abc", "dateUpdated": iso(T0)}, "traceId": "t"})
    assert page == Page((Record("abc", {"id": "abc", "dateUpdated": iso(T0)}, "detail", None, T0),), whole=True)


# -- contacts: three shapes -----------------------------------------------------------------------------

TRUTH = {
    "firstName": "Jane",
    "lastName": "O'Neil",
    "email": "jane@example.com",
    "phone": "+15550100001",
    "companyName": "Acme GmbH",
    "source": "Web form",
    "type": "lead",
    "assignedTo": "user1",
    "address": "1 Main Street",
    "city": "Bern",
    "state": None,
    "country": "CH",
    "postalCode": "3000",
    "website": None,
    "timezone": "Europe/Zurich",
    "dateOfBirth": "1990-05-17",
    "dnd": False,
    "dndSettings": {"Call": {"status": "active"}},
    "tags": ["vip", "news"],
    "customFields": [{"id": "cf2", "value": 5}, {"id": "cf1", "value": ["x"]}],
    "additionalEmails": ["j@example.com"],
    "dateAdded": "2026-01-05T10:00:00.000Z",
    "dateUpdated": iso(T0),
}
BARE = {"dateAdded": "2026-01-05T10:00:00.000Z", "dateUpdated": iso(T0), "dnd": False, "email": "x@example.com"}
COMPANY = {**BARE, "name": "Acme GmbH"}


def lowered(text: str | None) -> str | None:
    """In lower case, if there is one."""
    return text.lower() if text else None


def full_name(truth: dict) -> str | None:
    """The name in lower case, as the index keeps it."""
    return lowered(
        " ".join(part for part in (truth.get("firstName"), truth.get("lastName")) if part) or truth.get("name")
    )


def as_listed(truth: dict) -> dict:
    """`GET /contacts/`: lower-case names with the true case beside them, plain addresses, attributions."""
    get = truth.get
    same = ("email", "phone", "companyName", "source", "type", "assignedTo", "city", "state", "country", "postalCode")
    return {
        "id": "abc",
        "locationId": "loc",
        "contactName": full_name(truth),
        "firstName": lowered(get("firstName")),
        "lastName": lowered(get("lastName")),
        "firstNameRaw": get("firstName"),
        "lastNameRaw": get("lastName"),
        **{key: get(key) for key in (*same, "website", "dateOfBirth", "dnd", "dateAdded", "dateUpdated")},
        "address1": get("address"),
        "tags": list(reversed(get("tags", []))),
        "followers": [],
        "dndSettings": get("dndSettings", {}),
        "additionalEmails": get("additionalEmails", []),
        "customFields": get("customFields", []),
        "attributions": [],
    }


def as_found(truth: dict) -> dict:
    """`POST /contacts/search`: every key is there, with null, [] or {} for nothing."""
    get = truth.get
    same = ("email", "phone", "companyName", "source", "type", "assignedTo", "city", "state", "country", "postalCode")
    return {
        "id": "abc",
        "locationId": "loc",
        "contactName": full_name(truth),
        "firstName": get("firstName"),
        "lastName": get("lastName"),
        "firstNameLowerCase": lowered(get("firstName")),
        "lastNameLowerCase": lowered(get("lastName")),
        **{key: get(key) for key in (*same, "website", "dateOfBirth", "dnd", "dateAdded", "dateUpdated", "timezone")},
        "address": get("address"),
        "businessId": None,
        "businessName": None,
        "phoneLabel": None,
        "validEmail": None,
        "tags": get("tags", []),
        "followers": [],
        "dndSettings": get("dndSettings", {}),
        "inboundDndSettings": {},
        "additionalEmails": [{"email": email} for email in get("additionalEmails", [])],
        "additionalPhones": [],
        "customFields": list(reversed(get("customFields", []))),
        "opportunities": [],
        "lastAttributionSource": {},
        "searchAfter": [1784272317939, "abc"],
    }


def by_id(truth: dict) -> dict:
    """`GET /contacts/{id}`: a key without a value is absent."""
    record = {
        **{key: value for key, value in truth.items() if value not in (None, False, "", [], {})},
        "id": "abc",
        "locationId": "loc",
        "fullNameLowerCase": full_name(truth),
        "firstNameLowerCase": lowered(truth.get("firstName")),
        "emailLowerCase": lowered(truth.get("email")),
        "address1": truth.get("address"),
        "additionalEmails": [{"email": email} for email in truth.get("additionalEmails", [])],
    }
    return {key: value for key, value in record.items() if value is not None and key != "address"}


SHAPES = {"list": as_listed, "search": as_found, "detail": by_id}

ONLY = {
    "list": {"attributions": [{"medium": "form", "isFirst": True}]},
    "search": {"opportunities": [{"id": "o1", "status": "open"}], "validEmail": True, "businessName": "Acme"},
    "detail": {"createdBy": {"source": "INTEGRATION", "timestamp": iso(T0)}},
}
"""What only one shape tells."""


def shown(shape: str, truth: dict, *, rich: bool = False) -> Page:
    """A page with this contact in this shape."""
    item = {**SHAPES[shape](truth), **(ONLY[shape] if rich else {})}
    match shape:
        case "list":
            return contacts.list_parse({}, {"contacts": [item], "meta": LAST})
        case "search":
            return contacts.search_parse({}, {"contacts": [item], "total": 1})
        case _:
            return contacts.detail_parse("abc", {"contact": item})


@pytest.mark.parametrize("truth", [TRUTH, BARE, {**BARE, "firstName": "Jane"}, {**TRUTH, "dnd": True}])
def test_three_shapes_of_a_contact_are_one_content(truth):
    """List, search and by id: one digest, for full and for nearly empty contacts."""
    truth = {**truth, "timezone": None}  # the list does not carry it
    pages = [shown(shape, truth) for shape in SHAPES]
    contents = [contacts.normalise(page.records[0].raw, FACTS) for page in pages]
    assert contents[0] == contents[1] == contents[2]
    assert len({digest(content) for content in contents}) == 1


def test_the_row_is_the_same_whatever_the_shape():
    """All columns are filled alike, with names in their true case."""
    rows = []
    for shape in SHAPES:
        mirror = Mirror("contacts", overrides={"size": FieldRule(custom_field="Size", type="number")})
        assert mirror.take(shown(shape, {**TRUTH, "timezone": None})) == 1
        assert mirror.rejects == []
        rows.append({key: value for key, value in mirror.rows["abc"].items() if key != "raw"})
    assert rows[0] == rows[1] == rows[2]
    assert (rows[0]["name"], rows[0]["first_name"], rows[0]["address"]) == ("Jane O'Neil", "Jane", "1 Main Street")
    assert rows[0]["tags"] == ["news", "vip"]
    assert rows[0]["custom_fields"] == [{"id": "cf1", "value": ["x"]}, {"id": "cf2", "value": 5}]
    assert rows[0]["extra"] == {"size": 5}
    assert rows[0]["dnd"] is False


shapes = st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, max_size=8)


@example(["list", "search", "list", "search"], ["search"], TRUTH)
@example(["detail", "search", "detail"], ["list", "detail", "list"], COMPANY)
@given(shapes, shapes, st.sampled_from([TRUTH, BARE, COMPANY]))
def test_shapes_never_undo_each_other(before, after, truth):
    """In any order, a shape causes a write at most the first time it shows a version of the contact."""
    mirror = Mirror("contacts")
    changed = {**truth, "city": "Basel", "email": None, "dateUpdated": iso(T0 + timedelta(minutes=1))}
    for version, order in ((truth, before), (changed, after)):
        written = sum(mirror.take(shown(shape, version, rich=True)) for shape in order)
        assert written <= len(set(order))
        assert mirror.rows["abc"]["city"] == version.get("city")
        assert mirror.rows["abc"]["email"] == version["email"]


@given(st.lists(st.tuples(st.sampled_from(sorted(SHAPES)), st.integers(0, 20)), min_size=1, max_size=10))
def test_a_few_milliseconds_between_index_and_record_change_nothing(seen):
    """The index shows a time of change some milliseconds off: no write, and nothing is lost by it."""
    mirror = Mirror("contacts")
    for shape in SHAPES:
        mirror.take(shown(shape, TRUTH, rich=True))
    before = dict(mirror.rows["abc"])
    for shape, skew in seen:
        version = {**TRUTH, "dateUpdated": iso(T0 + timedelta(milliseconds=skew))}
        assert mirror.take(shown(shape, version, rich=True)) == 0
    assert mirror.rows["abc"] == before


CLEARED = ["companyName", "city", "phone", "firstName", "tags", "customFields", "dateOfBirth", "additionalEmails"]


@pytest.mark.parametrize("key", CLEARED)
@pytest.mark.parametrize("after", list(SHAPES))
@pytest.mark.parametrize("before", list(SHAPES))
def test_cleared_fields_are_cleared(before, after, key):
    """By null in the list and the search, by absence in the record by id; the rest stays."""
    mirror = Mirror("contacts")
    mirror.take(shown(before, TRUTH))
    cleared = {**TRUTH, key: None if isinstance(TRUTH[key], str) else [], "dateUpdated": iso(T0 + timedelta(minutes=1))}
    assert mirror.take(shown(after, cleared)) == 1
    fresh = Mirror("contacts")
    fresh.take(shown(after, cleared))
    assert {k: v for k, v in mirror.rows["abc"].items() if k not in ("raw", "digest", "timezone")} == {
        k: v for k, v in fresh.rows["abc"].items() if k not in ("raw", "digest", "timezone")
    }


def test_a_name_that_was_cleared_does_not_come_back():
    """The full name that the record by id once told goes with the names."""
    mirror = Mirror("contacts")
    item = {**by_id(TRUTH), "name": "Jane O'Neil"}
    mirror.take(contacts.detail_parse("abc", {"contact": item}))
    nameless = {**TRUTH, "firstName": None, "lastName": None, "dateUpdated": iso(T0 + timedelta(minutes=1))}
    mirror.take(shown("search", nameless))
    assert mirror.rows["abc"]["name"] is None


def test_what_a_shape_is_silent_about_is_kept():
    """The search does not know who created a contact: that stays."""
    mirror = Mirror("contacts")
    mirror.take(shown("detail", TRUTH, rich=True))
    mirror.take(shown("search", {**TRUTH, "city": "Basel", "dateUpdated": iso(T0 + timedelta(minutes=1))}, rich=True))
    raw = mirror.rows["abc"]["raw"]
    assert raw["createdBy"] == ONLY["detail"]["createdBy"]
    assert raw["opportunities"] == ONLY["search"]["opportunities"]
    assert raw["city"] == "Basel"


@pytest.mark.parametrize("raw_names", [True, False])
def test_lower_case_names_do_not_replace_the_true_case(raw_names):
    """A list item without the true case of a known name changes nothing; another name is taken."""
    mirror = Mirror("contacts")
    mirror.take(shown("search", TRUTH))
    item = as_listed(TRUTH)
    if not raw_names:
        del item["firstNameRaw"], item["lastNameRaw"]
    assert mirror.take(contacts.list_parse({}, {"contacts": [item], "meta": LAST})) == 0
    renamed = {**item, "firstName": "joan", "firstNameRaw": None, "dateUpdated": iso(T0 + timedelta(minutes=1))}
    mirror.take(contacts.list_parse({}, {"contacts": [renamed], "meta": LAST}))
    assert mirror.rows["abc"]["first_name"] == "joan"
    assert mirror.rows["abc"]["last_name"] == "O'Neil"


@pytest.mark.parametrize(
    ("entries", "value"),
    [
        ([{"id": "cf2", "value": 0}], 0),
        ([{"id": "cf2", "fieldValue": 5}], 5),
        ([{"id": "cf2", "field_value": "5"}], 5),
        ([{"id": "cf2", "value": None, "fieldValue": 5}], 5),
        ([{"id": "cf2", "value": ""}], None),
        ([{"id": 5, "value": 1}, "cf2", None, {"value": 3}], None),
        ("cf2", None),
        (None, None),
    ],
)
def test_custom_fields_in_all_their_spellings(entries, value):
    """Read as `value`, `fieldValue` or `field_value`; false and zero are values; nonsense is not."""
    mirror = Mirror("contacts", overrides={"size": FieldRule(custom_field="Size", type="number")})
    mirror.take(shown("detail", {**TRUTH, "customFields": entries}))
    assert mirror.rows["abc"]["extra"]["size"] == value


def test_what_is_not_to_be_stored_is_dropped():
    """Dropped paths are neither in the row nor in the kept payload, inside lists too; the digest holds still."""
    mirror = Mirror("contacts", drop=["ssn", "attributionSource.ip", "customFields.value"])
    item = {**by_id(TRUTH), "ssn": "078", "attributionSource": {"ip": "1.2.3.4", "medium": "form"}}
    page = contacts.detail_parse("abc", {"contact": item})
    assert mirror.take(page) == 1
    assert mirror.take(page) == 0
    raw = mirror.rows["abc"]["raw"]
    assert "ssn" not in raw
    assert raw["attributionSource"] == {"medium": "form"}
    assert raw["customFields"] == [{"id": "cf2"}, {"id": "cf1"}]
    assert item["ssn"] == "078"


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("a", {"b": {"c": [{"d": 1, "e": 2}, 5]}}),
        ("b.c.d", {"a": 1, "b": {"c": [{"e": 2}, 5]}}),
        ("b", {"a": 1}),
        ("b.x", {"a": 1, "b": {"c": [{"d": 1, "e": 2}, 5]}}),
        ("a.b", {"a": 1, "b": {"c": [{"d": 1, "e": 2}, 5]}}),
    ],
)
def test_paths_that_are_dropped(path, left):
    """Dots go deeper, lists are entered, what is not there is no matter."""
    assert without({"a": 1, "b": {"c": [{"d": 1, "e": 2}, 5]}}, [path.split(".")]) == left


# -- tasks ----------------------------------------------------------------------------------------------


class TaskList:
    """A server's tasks, in an order that stays; others add and take away between two requests."""

    def __init__(self, open_: int, completed: int, cap: int) -> None:
        self._next_id = itertools.count(1)
        self.lists = {False: [self._new() for _ in range(open_)], True: [self._new() for _ in range(completed)]}
        self.cap = cap
        self.requests = 0

    def _new(self) -> str:
        return f"t{next(self._next_id)}"

    def search(self, body: dict) -> dict:
        """A page, never longer than the server's own cap."""
        self.requests += 1
        found = self.lists[body["completed"]][body["skip"] :][: min(body["limit"], self.cap)]
        items = [{"_id": id_, "title": id_, "contactId": "c", "completed": body["completed"]} for id_ in found]
        return {"tasks": [items] if self.requests % 3 == 0 else items}

    def churn(self, completed: bool, kind: str, place: float, count: int) -> None:
        """Add, delete or complete some tasks at a place."""
        tasks_ = self.lists[completed]
        at = int(place * len(tasks_))
        if kind == "add":
            tasks_[at:at] = [self._new() for _ in range(count)]
            return
        taken = tasks_[at : at + count]
        del tasks_[at : at + count]
        if kind == "complete" and not completed:
            self.lists[True][0:0] = taken

    @property
    def ids(self) -> set[str]:
        """All tasks there are."""
        return {*self.lists[False], *self.lists[True]}


def walk_tasks(server: TaskList, churn=()) -> tuple[set[str], set[str], bool]:
    """Walk to the end. Returns what was seen, what was there all the time, and whether the walk was whole."""
    walk = STREAMS["tasks"].walks[0]
    moves = iter(churn)
    position, seen, always = walk.begin(None), set(), server.ids
    while True:
        page = walk.parse(position, server.search(walk.request("loc", position).body))
        seen |= {record.id for record in page.records}
        if page.next is None:
            return seen, always, page.whole
        position = {**page.next, "walk": "search"}
        for move in next(moves, ()):
            server.churn(*move)
            always &= server.ids
        assert server.requests < 5000, "the walk does not end"


moves = st.lists(
    st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from(["add", "delete", "complete"]),
            st.sampled_from([0.0, 0.0, 0.3, 0.9]),
            st.integers(1, 12),
        ),
        max_size=2,
    ),
    max_size=60,
)


@example(10, 0, 5, [[(False, "add", 0.0, 4)], [(False, "add", 0.0, 4)]])
@given(st.integers(0, 60), st.integers(0, 30), st.integers(3, 15), moves)
def test_every_task_that_stays_is_seen(open_, completed, cap, churn):
    """Whatever is added, deleted or completed between two pages: a task that is there all the time is seen."""
    seen, always, _ = walk_tasks(TaskList(open_, completed, cap), churn)
    assert always <= seen


@pytest.mark.parametrize(("open_", "completed"), [(0, 0), (1, 0), (2, 1), (99, 0), (100, 0), (101, 0), (250, 130)])
def test_a_quiet_list_is_walked_whole(open_, completed):
    """Without changes the walk sees all, is sure of it, and asks little more than it must."""
    server = TaskList(open_, completed, 1000)
    seen, always, whole = walk_tasks(server)
    assert seen == always
    assert whole
    assert server.requests <= open_ / 99 + completed / 99 + 4


@pytest.mark.parametrize("kind", ["add", "delete"])
def test_a_list_that_always_moves_is_walked_all_the_same(kind):
    """One change before every single request costs some repetition, and no task."""
    server = TaskList(2000, 0, 1000)
    seen, always, whole = walk_tasks(server, ([(False, kind, 0.0, 1)] for _ in range(200)))
    assert always <= seen
    assert whole
    assert server.requests < 80


def test_a_burst_of_new_tasks_does_not_look_like_the_end():
    """A full page without news: the list has grown before our place, and goes on after it."""
    seen, always, whole = walk_tasks(
        TaskList(250, 0, 1000), [[(False, "add", 0.0, 99)], [], [(False, "add", 0.0, 400)]]
    )
    assert always <= seen
    assert whole


def test_a_mass_deletion_does_not_lose_the_rest():
    """More than a page is deleted before our place: step back until something is known again."""
    server = TaskList(1500, 0, 1000)
    quiet = [[]] * 6
    seen, always, _ = walk_tasks(server, [*quiet, [(False, "delete", 0.0, 450)]])
    assert always <= seen
    assert len(always) == 1050


def test_a_server_that_ignores_skip_is_noticed():
    """The same page again and again: the walk ends, and does not claim to have seen everything."""
    walk = STREAMS["tasks"].walks[0]
    payload = {"tasks": [{"_id": f"t{n}", "contactId": "c"} for n in range(100)]}
    position, requests = walk.begin(None), 0
    while position is not None:
        page, requests = walk.parse(position, payload), requests + 1
        position = page.next
        assert requests < 100
    assert not page.whole


def test_tasks_without_ids_do_not_stop_the_walk():
    """Odd tasks at the end of pages become rejects; the others are seen."""
    walk = STREAMS["tasks"].walks[0]
    all_tasks = [{"_id": f"t{n}", "contactId": "c"} if n % 50 < 45 else {"title": "no id"} for n in range(240)]
    position, seen, requests = walk.begin(None), set(), 0
    while position is not None:
        body = walk.request("loc", position).body
        found_ = [] if body["completed"] else all_tasks[body["skip"] :][: body["limit"]]
        page, requests = walk.parse(position, {"tasks": found_}), requests + 1
        seen |= {record.id for record in page.records}
        position = page.next
        assert requests < 100
    assert len(seen) == 45 * 4 + 40


TASK = {
    "title": "Call",
    "body": "back",
    "assignedTo": "user1",
    "dueDate": "2026-07-20T09:00:00.000Z",
    "completed": False,
    "contactId": "c",
}


def task_found(task: dict, *, rich: bool = False) -> Page:
    """As the search shows a task."""
    item = {**task, "_id": "t1", "contactDetails": {"firstName": "jane"}, "assignedToUserDetails": {"id": "user1"}}
    if rich:
        item |= {"status": "to_do", "dateAdded": iso(T0), "locationId": "loc"}
    return tasks.search_parse(tasks.search_begin(None), {"tasks": [[item]]})


def task_listed(task: dict) -> Page:
    """As the list of a contact shows a task: absent keys for nothing."""
    return tasks.lookup_parse("c", {"tasks": [{**{k: v for k, v in task.items() if v is not None}, "id": "t1"}]})


@pytest.mark.parametrize("task", [TASK, {**TASK, "body": None, "assignedTo": None}, {**TASK, "completed": True}])
def test_two_shapes_of_a_task_are_one_content(task):
    """The list of a contact and the search of a location: one digest, one row."""
    one, other = Mirror("tasks"), Mirror("tasks")
    one.take(task_listed(task))
    other.take(task_found(task))
    assert {**one.rows["t1"], "raw": 0} == {**other.rows["t1"], "raw": 0}
    assert one.take(task_found(task)) == other.take(task_listed(task)) == 0
    assert one.rows["t1"]["status"] == ("completed" if task["completed"] else "open")
    assert one.rows["t1"]["contact_id"] == "c"


def test_shapes_of_a_task_do_not_undo_each_other():
    """What only the search tells stays; what is cleared goes."""
    mirror = Mirror("tasks")
    assert [mirror.take(task_listed(TASK)), mirror.take(task_found(TASK, rich=True))] == [1, 1]
    assert [mirror.take(task_listed(TASK)), mirror.take(task_found(TASK, rich=True))] == [0, 0]
    assert mirror.rows["t1"]["status"] == "open"
    assert mirror.take(task_listed({**TASK, "body": None, "completed": True})) == 1
    assert (mirror.rows["t1"]["body"], mirror.rows["t1"]["status"]) == (None, "completed")


# -- notes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("note", "content"),
    [
        ({"body": "<p>Hello</p>", "bodyText": "Hello"}, "Hello"),
        ({"body": "<p>Hello</p><p>you</p>"}, "Hello\n\nyou"),
        ({"body": "<p>Hello</p>", "bodyText": ""}, "Hello"),
        ({"body": "<p>Hello</p>", "bodyText": None}, "Hello"),
        ({"body": "plain"}, "plain"),
        ({"bodyText": "only text"}, "only text"),
        ({"body": ""}, ""),
        ({}, None),
    ],
)
def test_notes_have_plain_text(note, content):
    """The API's own plain text, else made from the HTML, which is kept beside it."""
    mirror = Mirror("notes")
    mirror.take(notes.lookup_parse("c", {"notes": [{"id": "n", "dateAdded": iso(T0), "userId": None, **note}]}))
    row = mirror.rows["n"]
    assert (row["content"], row["content_html"], row["pinned"]) == (content, note.get("body"), False)
    assert (row["contact_id"], row["created_at"], row["author_id"]) == ("c", T0, None)


def test_notes_are_listed_whole():
    """Not paged: what is not in the answer does not exist."""
    assert notes.lookup_request("c").path == "/contacts/c/notes"
    assert notes.lookup_parse("c", {"notes": []}) == Page(whole=True)


# -- appointments ---------------------------------------------------------------------------------------

APPOINTMENT = {"id": "e", "calendarId": "cal", "title": "Visit", "contactId": "c", "appointmentStatus": "confirmed"}


def booked(**changes) -> dict:
    """The row of an appointment, after its answer was read."""
    mirror = Mirror("appointments")
    mirror.take(appointments.lookup_parse("c", {"events": [{**APPOINTMENT, **changes}]}))
    assert mirror.rejects == []
    return mirror.rows["e"]


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2026-07-20 11:00:00", datetime(2026, 7, 20, 9, tzinfo=UTC)),
        ("2026-01-20 11:00:00", datetime(2026, 1, 20, 10, tzinfo=UTC)),
        ("2026-07-20T11:00:00+02:00", datetime(2026, 7, 20, 9, tzinfo=UTC)),
        ("2026-07-20T09:00:00.000Z", datetime(2026, 7, 20, 9, tzinfo=UTC)),
        (1784538000000, datetime(2026, 7, 20, 9, tzinfo=UTC)),
    ],
)
def test_times_of_appointments(written, moment):
    """Without a zone the location's is meant; an offset says it itself."""
    row = booked(startTime=written, endTime=written, dateAdded=written, dateUpdated=written)
    assert {row[name] for name in ("starts_at", "ends_at", "created_at", "updated_at")} == {moment}


def test_forms_of_the_same_time_are_one_content():
    """The same appointment with local times, offsets and Z has one digest."""
    forms = ("2026-07-20 11:00:00", "2026-07-20T11:00:00+02:00", "2026-07-20T09:00:00.000Z")
    assert len({booked(startTime=form)["digest"] for form in forms}) == 1


@pytest.mark.parametrize(
    ("spelled", "status"),
    [
        ({"appointmentStatus": "showed"}, "showed"),
        ({"appointmentStatus": None, "appoinmentStatus": "showed"}, "showed"),
        ({"appointmentStatus": "showed", "appoinmentStatus": "old", "status": "booked"}, "showed"),
        ({"appointmentStatus": None, "status": "booked"}, "booked"),
        ({"appointmentStatus": None}, None),
    ],
)
def test_the_status_in_its_three_spellings(spelled, status):
    """Right, misspelt, or by its short name."""
    assert booked(**spelled)["status"] == status


def test_a_misspelt_copy_of_the_status_is_no_content():
    """The same appointment with and without the misspelt key has one digest."""
    assert booked(appoinmentStatus="confirmed")["digest"] == booked()["digest"]


def test_an_impossible_time_costs_only_itself():
    """The row is kept, and a reject names the column."""
    mirror = Mirror("appointments")
    mirror.take(appointments.lookup_parse("c", {"events": [{**APPOINTMENT, "startTime": "soon"}]}))
    assert mirror.rows["e"]["title"] == "Visit"
    assert mirror.rows["e"]["starts_at"] is None
    assert mirror.rejects == ["kept without starts_at: impossible date"]


def test_a_deleted_appointment_is_tombstoned():
    """Listed with `deleted`: gone, though it is still in the answer."""
    mirror = Mirror("appointments")
    mirror.take(appointments.lookup_parse("c", {"events": [{**APPOINTMENT, "deleted": False}]}))
    page = appointments.lookup_parse("c", {"events": [{**APPOINTMENT, "deleted": True}]})
    assert plan_page(page, mirror.known, mirror.rules).tombstones == ("e",)


# -- every listing --------------------------------------------------------------------------------------

LISTINGS = [
    ("contacts", lambda payload: contacts.list_parse({}, payload)),
    ("contacts", lambda payload: contacts.search_parse({}, payload)),
    ("tasks", lambda payload: tasks.search_parse(tasks.search_begin(None), payload)),
    ("tasks", lambda payload: tasks.lookup_parse("c", payload)),
    ("notes", lambda payload: notes.lookup_parse("c", payload)),
    ("events", lambda payload: appointments.lookup_parse("c", payload)),
]


@pytest.mark.parametrize("wrong", [None, {}, "none", 5, True])
@pytest.mark.parametrize(("envelope", "parse"), LISTINGS)
def test_a_wrong_envelope_is_a_bad_answer(envelope, parse, wrong):
    """A list that is not there is never taken for an empty one; the trace id goes along."""
    with pytest.raises(BadAnswer, match=f"no list '{envelope}'") as caught:
        parse({envelope: wrong, "traceId": "t1"})
    assert caught.value.trace_id == "t1"
    with pytest.raises(BadAnswer):
        parse({"items": [], "statusCode": 200, "traceId": {}})


@pytest.mark.parametrize("payload", [{}, {"contact": None}, {"contact": {}}, {"contacts": [{"id": "a"}]}])
def test_a_missing_contact_is_a_bad_answer(payload):
    """An answer without its contact says nothing of the contact."""
    with pytest.raises(BadAnswer):
        contacts.detail_parse("a", payload)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"title": "x"}, "no id"),
        ({"id": None}, "no id"),
        ({"id": ""}, "no id"),
        ({"id": {}}, "unusable id: expected text, got an object"),
        ({"id": ["a"]}, "unusable id: expected text, got a list"),
        ({"id": "x" * 65}, "id longer than 64 characters"),
        ([{"id": "a"}], "expected an object, got a list"),
        ("a", "expected an object, got str"),
        (None, "expected an object, got NoneType"),
        (5, "expected an object, got int"),
    ],
)
@pytest.mark.parametrize(("envelope", "parse"), LISTINGS)
def test_odd_records_become_rejects_and_their_neighbours_stay(envelope, parse, odd, reason):
    """Each with its reason and as it was sent."""
    page = parse({envelope: [{"id": "a"}, odd, {"id": "b"}]})
    assert [record.id for record in page.records] == ["a", "b"]
    assert [(reject.reason, reject.raw) for reject in page.rejects] == [(reason, odd)]


@pytest.mark.parametrize(
    ("item", "record"),
    [
        ({"id": 123}, Record("123", {"id": 123}, "list")),
        ({"_id": "a"}, Record("a", {"_id": "a"}, "list")),
        ({"id": None, "_id": "a"}, Record("a", {"id": None, "_id": "a"}, "list")),
        ({"id": "a", "contactId": 7}, Record("a", {"id": "a", "contactId": 7}, "list", "7")),
        ({"id": "a", "at": "soon"}, Record("a", {"id": "a", "at": "soon"}, "list")),
        ({"id": "a", "at": iso(T0)}, Record("a", {"id": "a", "at": iso(T0)}, "list", None, T0)),
    ],
)
def test_usable_records(item, record):
    """A number is an id too; a time that cannot be read is none."""
    assert read_records([item], "list", id_keys=("id", "_id"), updated_key="at") == ((record,), ())


@pytest.mark.parametrize("owner", [{}, ["c"], "c" * 65])
def test_a_record_of_an_unusable_contact_is_a_reject(owner):
    """Whose record it is must be sayable."""
    records, rejects = read_records([{"id": "a", "contactId": owner}], "search")
    assert records == ()
    assert len(rejects) == 1


def test_the_owner_given_wins():
    """A contact's own list tells whose its items are."""
    records, _ = read_records([{"id": "a", "contactId": "other"}], "list", contact_id="c")
    assert records == (replace(records[0], contact_id="c"),)


def test_the_registry_is_complete():
    """Each stream under its own name, one owner, a lookup for each, and columns for all its rules."""
    assert list(STREAMS) == ["contacts", "tasks", "notes", "appointments"]
    assert [stream.name for stream in STREAMS.values() if stream.owner] == [OWNER.name]
    for stream in STREAMS.values():
        assert stream.lookup is not None
        assert set(stream.fields) == stream.columns


# -- reference data -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "row"),
    [
        ({"name": "A", "timezone": "Europe/Zurich", "country": "CH"}, ("A", "Europe/Zurich", "CH")),
        ({"name": "", "timezone": None, "country": 5}, (None, None, None)),
        ({"name": "A", "timezone": "Mars/Olympus"}, ("A", None, None)),
        ({"name": "A", "timezone": "../etc/passwd"}, ("A", None, None)),
        ({}, (None, None, None)),
    ],
)
def test_a_location_is_read(location, row):
    """Its name, country, and a time zone that exists; what is odd is left out."""
    found_ = reference.location_parse("loc", {"location": location})
    assert (found_.pop("name"), found_.pop("timezone"), found_.pop("country")) == row
    assert found_ == {"id": "loc"}


@pytest.mark.parametrize("location", [[], None, "text"])
def test_an_answer_without_a_location_is_a_bad_one(location):
    """It is not a location without a time zone: appointments would be read in another."""
    with pytest.raises(BadAnswer, match="no object 'location'"):
        reference.location_parse("loc", {"location": location})


def test_custom_fields_are_read():
    """Definitions with an id, their texts only."""
    items = [{"id": "cf1", "name": "Plan", "fieldKey": "contact.plan", "dataType": 5}, {"name": "x"}, None, {"id": 5}]
    assert reference.custom_fields_parse({"customFields": items}) == [
        {"id": "cf1", "name": "Plan", "field_key": "contact.plan", "data_type": None}
    ]
    with pytest.raises(BadAnswer):
        reference.custom_fields_parse({})
