"""Pages that hold the same record twice: nothing is missed, and no walk ends too early or breaks off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankr_sync.streams import STREAMS, contacts

WALK = STREAMS["tasks"].walks[0]


def walk_tasks(page_of) -> tuple[set[str], bool, int]:
    """Walk a task search whose pages are `page_of(skip, limit)`: what was seen, whether whole, requests."""
    position, seen, requests = WALK.begin(None), set(), 0
    while True:
        body = WALK.request("loc", position).body
        ids = [] if body["completed"] else page_of(body["skip"], body["limit"])
        page = WALK.parse(position, {"tasks": [{"_id": id_, "title": id_, "contactId": "c"} for id_ in ids]})
        seen |= {record.id for record in page.records}
        requests += 1
        assert requests < 500, "the walk does not end"
        if page.next is None:
            return seen, page.whole, requests
        position = {**page.next, "walk": "search"}


@given(st.integers(0, 60), st.integers(2, 12), st.integers(1, 4), st.booleans())
def test_tasks_that_a_page_shows_again_are_counted_once(tasks, cap, again, at_end):
    """A server that adds copies to its pages: every task is seen, and the walk is sure of it."""
    ids = [f"t{n}" for n in range(tasks)]

    def page_of(skip: int, limit: int) -> list[str]:
        page = ids[skip : skip + min(cap, limit)]
        return [*page, *page[:again]] if at_end else [*page[:again], *page]

    seen, whole, requests = walk_tasks(page_of)
    assert seen == set(ids)
    assert whole
    assert requests <= 4 + 3 * tasks // max(1, cap - 1)


@given(st.lists(st.integers(1, 3), max_size=40), st.integers(8, 15))
def test_tasks_that_the_list_itself_holds_more_than_once(copies, cap):
    """A server whose list has copies, which `skip` counts too: every task is seen, and the walk is sure of it."""
    rows = [f"t{n}" for n, times in enumerate(copies) for _copy in range(times)]
    seen, whole, _ = walk_tasks(lambda skip, limit: rows[skip : skip + min(cap, limit)])
    assert seen == set(rows)
    assert whole


def found(*ids: str) -> list[dict]:
    """Search items, each with its cursor."""
    return [{"id": id_, "dateUpdated": "2026-07-17T07:11:57.939Z", "searchAfter": [17, id_]} for id_ in ids]


@pytest.mark.parametrize(
    ("ids", "total", "after", "whole"),
    [
        (("a", "b", "b"), 3, [17, "b"], False),
        (("a", "b", "a"), 3, [17, "b"], False),
        (("a", "b", "a"), 2, None, True),
    ],
)
def test_copies_do_not_end_a_search_early_nor_lead_it_back(ids, total, after, whole):
    """A contact that is twice on a page counts once towards the total, and the cursor is of the last new one."""
    page = contacts.search_parse({}, {"contacts": found(*ids), "total": total})
    assert (page.next and page.next["after"]) == after
    assert page.whole is whole


def test_copies_do_not_lead_a_list_without_cursor_back():
    """Where the list names no cursor, it is the last contact that the page did not show before."""
    items = [{"id": id_, "dateAdded": "2026-07-17T07:11:57.939Z"} for id_ in ("a", "b", "a")]
    assert contacts.list_parse({}, {"contacts": items}).next["startAfterId"] == "b"
