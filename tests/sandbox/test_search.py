"""POST /contacts/search: cursors, order, filters, the lagging index."""

from typing import Any

import pytest

from .conftest import LOCATION, START, Api, Clock, Make, first


def walk(api: Api, **body: Any) -> list[dict[str, Any]]:
    """Every item of a search, page after page."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while True:
        answer = api.search(**body, **cursor)
        assert answer.status_code == 200, answer.text
        page = answer.json()["contacts"]
        if not page:
            return items
        items += page
        cursor = {"searchAfter": page[-1]["searchAfter"]}


SORTS: list[list[dict[str, str]]] = [
    [],
    [{"field": "dateUpdated", "direction": "asc"}],
    [{"field": "dateUpdated", "direction": "desc"}],
    [{"field": "dateAdded", "direction": "asc"}],
    [{"field": "email", "direction": "asc"}],
    [{"field": "lastNameLowerCase", "direction": "desc"}],
    [{"field": "businessName", "direction": "desc"}],
    [{"field": "dnd", "direction": "asc"}, {"field": "dateAdded", "direction": "desc"}],
    [{"field": "source", "direction": "desc"}, {"field": "firstNameLowerCase", "direction": "asc"}],
]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("query", ["", "e"])
def test_a_walk_brings_each_match_once_whatever_the_order(api: Api, sort: list[dict[str, str]], query: str) -> None:
    """Cursors are total orders: ties go by id, missing values come last."""
    items = walk(api, pageLimit=7, sort=sort, query=query)
    ids = [item["id"] for item in items]
    assert len(set(ids)) == len(ids)
    assert api.search(sort=sort, query=query).json()["total"] == len(ids) > 20
    assert api.found(sort=sort, query=query, pageLimit=500) == ids


def test_the_default_order_is_newest_first_and_the_cursor_its_date(api: Api) -> None:
    """`searchAfter` is [dateAdded in ms, id]."""
    items = walk(api, pageLimit=50)
    assert [item["searchAfter"][0] for item in items] == sorted(
        (item["searchAfter"][0] for item in items), reverse=True
    )
    newest = api.sandbox.create_contact()
    assert api.search().json()["contacts"][0]["searchAfter"] == [round(START * 1000), newest["id"]]


def test_a_search_asked_again_sees_what_changed_between(api: Api) -> None:
    """Results are kept for the next page, not beyond a change."""
    wanted = {"filters": [{"field": "city", "operator": "eq", "value": "Nowhere"}]}
    assert api.found(**wanted) == []
    contact_id = first(api)
    api.sandbox.update_contact(contact_id, city="Nowhere")
    assert api.found(**wanted) == [contact_id]
    api.sandbox.delete_contact(contact_id)
    assert api.found(**wanted) == []


def test_ties_go_by_id(api: Api) -> None:
    """Contacts of the same millisecond have an order, and a cursor between them works."""
    made = sorted(api.sandbox.create_contact()["id"] for _ in range(5))
    ascending = [{"field": "dateUpdated", "direction": "asc"}]
    assert api.found(sort=ascending)[-5:] == made
    assert api.found()[:5] == made[::-1]
    assert api.found(sort=ascending, searchAfter=[round(START * 1000), made[1]]) == made[2:]


def test_the_end_is_an_empty_page_with_the_full_total(api: Api) -> None:
    """`total` keeps its count (Nango recordings 2026-07-17)."""
    last = walk(api)[-1]["searchAfter"]
    body = api.search(searchAfter=last).json()
    assert (body["contacts"], body["total"]) == ([], 60)


def test_numbered_pages_reach_the_first_ten_thousand(api: Api) -> None:
    """Never together with searchAfter."""
    assert api.found(page=1, pageLimit=40) + api.found(page=2, pageLimit=40) == api.found()
    assert api.found(page=3, pageLimit=40, query="e") == []
    assert api.search(page=21, pageLimit=500).status_code == 400
    assert api.search(page=20, pageLimit=500).status_code == 200
    assert api.search(page=1, searchAfter=[1, "x"]).status_code == 400


@pytest.mark.parametrize("limit", [None, 0, 501, "100", True])
def test_a_page_limit_is_required_and_bounded(api: Api, limit: Any) -> None:
    """422 (docs#31)."""
    answer = api.search(pageLimit=limit)
    assert answer.status_code == 422
    assert isinstance(answer.json()["message"], list)


@pytest.fixture
def people(api: Api) -> dict[str, str]:
    """Three contacts that filters can tell apart, by name."""
    field = api.sandbox.locations[LOCATION].reference.custom_fields[1]["id"]
    made = {
        "ann": {"firstName": "Annx", "tags": ["qq-one", "qq-two"], "email": "ann@qq.example.com", "dnd": True},
        "bob": {"firstName": "Bobx", "tags": ["qq-two"], "customFields": [{"id": field, "value": 77}]},
        "cid": {"firstName": "Cidx", "tags": ["qq-three"], "dateOfBirth": "1815-12-10", "phone": "+12025550177"},
    }
    return {name: api.sandbox.create_contact(**fields)["id"] for name, fields in made.items()}


def test_filters(api: Api, people: dict[str, str]) -> None:
    """Each operator, on what each field can hold."""
    field = "customFields." + api.sandbox.locations[LOCATION].reference.custom_fields[1]["id"]
    born = {"gte": "1815-01-01", "lt": "1816-01-01"}
    cases: list[tuple[list[dict[str, Any]], str]] = [
        ([{"field": "tags", "operator": "eq", "value": "qq-two"}], "ann bob"),
        ([{"field": "tags", "operator": "eq", "value": ["qq-one", "qq-three"]}], "ann cid"),
        ([{"field": "tags", "operator": "contains", "value": "QQ-T"}], "ann bob cid"),
        ([{"field": "id", "operator": "eq", "value": people["bob"]}], "bob"),
        ([{"field": "firstNameLowerCase", "operator": "eq", "value": "ANNX"}], "ann"),
        ([{"field": "email", "operator": "contains", "value": "@qq."}], "ann"),
        ([{"field": "phone", "operator": "eq", "value": "+12025550177"}], "cid"),
        ([{"field": "dateOfBirth", "operator": "range", "value": born}], "cid"),
        ([{"field": field, "operator": "eq", "value": 77}], "bob"),
        ([{"field": field, "operator": "range", "value": {"gt": 76, "lte": 77}}], "bob"),
    ]
    names = {contact_id: name for name, contact_id in people.items()}
    for filters, expected in cases:
        found = {names.get(contact_id, "?") for contact_id in api.found(filters=filters)}
        assert found == set(expected.split()), filters


def test_filters_are_all_met_and_groups_nest(api: Api, people: dict[str, str]) -> None:
    """A list means AND; a group says which."""
    two = {"field": "tags", "operator": "eq", "value": "qq-two"}
    mail = {"field": "email", "operator": "exists"}
    three = {"field": "tags", "operator": "contains", "value": "qq-three"}
    assert api.found(filters=[two, mail]) == [people["ann"]]
    either = {"group": "OR", "filters": [three, {"group": "AND", "filters": [two, {**mail, "operator": "not_exists"}]}]}
    assert set(api.found(filters=[either])) == {people["bob"], people["cid"]}
    assert people["ann"] not in api.found(filters=[{**two, "operator": "not_eq"}])
    assert people["cid"] not in api.found(filters=[{**three, "operator": "not_contains"}])


def test_a_range_on_a_date_takes_iso_and_ms_and_its_bounds_are_exact(api: Api, clock: Clock) -> None:
    """`gte` and `lte` include, `gt` and `lt` do not."""
    made = []
    for _ in range(3):
        clock.time += 1
        made.append(api.sandbox.create_contact())
    ms = [round(START * 1000) + 1000 * step for step in (1, 2, 3)]

    def within(**bounds: Any) -> list[str]:
        filters = [{"field": "dateUpdated", "operator": "range", "value": bounds}]
        fast = api.found(filters=filters, sort=[{"field": "dateUpdated", "direction": "asc"}])
        slow = api.found(filters=filters, sort=[{"field": "dateUpdated", "direction": "asc"}, SORTS[4][0]])
        assert fast == slow
        assert api.search(filters=filters).json()["total"] == len(fast)
        return fast

    ids = [contact["id"] for contact in made]
    dates = [contact["dateUpdated"] for contact in made]
    assert within(gte=dates[0], lte=dates[2]) == ids
    assert within(gt=dates[0], lt=dates[2]) == ids[1:2]
    assert within(gte=ms[1]) == ids[1:]
    assert within(gt=str(ms[1])) == ids[2:]
    assert within(gte=dates[2], lt=dates[2]) == []


@pytest.mark.parametrize(
    "body",
    [
        {"filters": [{"field": "tasks.assignedTo", "operator": "eq", "value": "x"}]},
        {"filters": [{"field": "email", "operator": "like", "value": "x"}]},
        {"filters": [{"field": "dateUpdated", "operator": "gte", "value": "2026-01-01"}]},
        {"filters": [{"field": "dateUpdated", "operator": "range", "value": {"from": 1}}]},
        {"filters": [{"field": "dateUpdated", "operator": "range", "value": {"gte": "soon"}}]},
        {"filters": [{"field": "id", "operator": "contains", "value": "x"}]},
        {"filters": [{"field": "email", "operator": "eq", "value": "x" * 76}]},
        {"filters": [{"group": "XOR", "filters": []}]},
        {"filters": {"field": "email"}},
        {"sort": [{"field": "ssn", "direction": "asc"}]},
        {"sort": [{"field": "email", "direction": "up"}]},
        {"sort": [{"field": "email"}, {"field": "dnd"}, {"field": "source"}]},
        {"query": "x" * 76},
        {"searchAfter": [1]},
        {"searchAfter": ["soon", "x"]},
        {"searchAfter": [5, "x"], "sort": [{"field": "email", "direction": "asc"}]},
    ],
)
def test_a_search_that_makes_no_sense_is_400(api: Api, body: dict[str, Any]) -> None:
    """With a message that names the culprit (docs#279)."""
    assert api.search(**body).status_code == 400


def test_the_index_lags_behind_everything(make: Make, clock: Clock) -> None:
    """Content, date, creation and deletion all show late in search; by id they show at once."""
    api = make(index_lag=5.0)
    edited, deleted = api.found()[:2]
    before = api.search().json()
    api.sandbox.update_contact(edited, firstName="Later")
    api.sandbox.delete_contact(deleted)
    created = api.sandbox.create_contact(firstName="New")["id"]
    assert api.ok(f"/contacts/{edited}")["contact"]["firstName"] == "Later"
    clock.time += 4.75
    assert api.search().json()["contacts"] == before["contacts"]
    clock.time += 0.25
    after = api.search().json()
    ids = [item["id"] for item in after["contacts"]]
    assert (ids[0], deleted in ids, after["total"]) == (created, False, 60)
    assert next(item for item in after["contacts"] if item["id"] == edited)["firstName"] == "Later"


def test_the_index_may_date_an_edit_a_little_differently(make: Make, clock: Clock) -> None:
    """4 ms in Nango recordings 2026-07-17; the cursor shows the same time as the item."""
    api = make(index_skew_ms=4)
    contact_id = first(api)
    clock.time += 1
    record = api.sandbox.update_contact(contact_id, city="Elsewhere")
    item = api.search(sort=[{"field": "dateUpdated", "direction": "desc"}]).json()["contacts"][0]
    assert (item["id"], item["dateUpdated"][-5:]) == (contact_id, ".004Z")
    assert item["searchAfter"][0] == round(clock.time * 1000) + 4
    assert record["dateUpdated"].endswith(".000Z")


def test_a_contact_edited_during_an_ascending_walk_comes_again_and_none_is_lost(api: Api, clock: Clock) -> None:
    """The reason to walk by dateUpdated ascending."""
    ascending = [{"field": "dateUpdated", "direction": "asc"}]
    one = api.search(pageLimit=30, sort=ascending).json()["contacts"]
    clock.time += 1
    api.sandbox.update_contact(one[0]["id"], city="Elsewhere")
    rest = api.found(sort=ascending, searchAfter=one[-1]["searchAfter"])
    assert rest[-1] == one[0]["id"]
    assert {item["id"] for item in one} | set(rest) == set(api.sandbox.truth(LOCATION)["contacts"])
