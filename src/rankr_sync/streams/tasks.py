"""Tasks: one walk of the location's task search where its scope is granted, else per contact.

Tasks carry no time of change at all, so there is no delta: the walk is repeated, and differences found by
digest. The search is poorly documented; what is done about it is written beside each step.
"""

from datetime import datetime

from rankr_sync import schema
from rankr_sync.mapping import FieldRule
from rankr_sync.model import JsonObject, Known, LocationFacts, Page, Record, Request
from rankr_sync.streams.base import (
    Deadline,
    Lookup,
    Single,
    Stream,
    Timeline,
    Walk,
    each_once,
    items_of,
    one_of,
    read_records,
)
from rankr_sync.values import is_empty

PAGE = 100
ID_KEYS = ("id", "_id")
RECENT = 500
"""So many tasks seen last are remembered; more that were added between two pages cost going back to the front."""
MOST_STEPS_BACK = 200
MOST_PAGES_WITHOUT_NEWS = 10
"""After these the walk ends, or goes on, without the claim that it was whole (a server that ignores `skip`)."""

_CORE = frozenset({"title", "body", "assignedTo", "dueDate", "completed", "contactId"})
_OF_THE_SEARCH = frozenset({"_id", "id", "contactDetails", "assignedToUserDetails", "traceId"})


def search_begin(since: datetime | None) -> JsonObject:
    """Open tasks first, then completed ones: whether a search without the filter holds both is not documented."""
    return {"completed": False, "skip": 0}


def search_request(location_id: str, position: JsonObject) -> Request:
    """The next page, which begins with the last task (or tasks) of the page before."""
    body = {"completed": position["completed"], "limit": PAGE, "skip": position["skip"]}
    return Request(
        "POST",
        f"/locations/{location_id}/tasks/search",
        "/locations/{id}/tasks/search",
        "locations/tasks.readonly",
        body=body,
    )


def search_parse(position: JsonObject, payload: JsonObject) -> Page:
    """Pages overlap: one that shows no task we have seen lately is not next to them, and we step back.

    `skip` counts from the front of a list that others add to and take from; without the overlap a task
    deleted before our place would let another slip past unseen. As long as the order of the tasks stays,
    every task that is there during the whole walk is seen. Ends where a page has nothing new and is short;
    a full page without news shows that tasks were added before our place. A task that is twice on a page
    counts once: whether `skip` counts it twice is not known, and too small a step only shows more again.
    """
    items = items_of(payload, "tasks")
    if len(items) == 1 and isinstance(items[0], list):
        items = items[0]  # the specification's schema is an array of arrays
    records, rejects = read_records(items, "search", id_keys=ID_KEYS)
    ids = list(dict.fromkeys(record.id for record in records))
    rows = len(each_once(items, ID_KEYS))
    skip, seen = position["skip"], position.get("seen", [])
    steps_back, full = position.get("steps_back", 0), max(rows, position.get("full", 0))
    lost = skip > 0 and bool(seen) and bool(ids or not items) and set(seen).isdisjoint(ids)
    if lost and steps_back < MOST_STEPS_BACK:
        back = {**position, "skip": max(0, skip - max(1, full)), "steps_back": steps_back + 1}
        return Page(records, rejects, back)
    news = not set(seen).issuperset(ids)
    idle = 0 if news else position.get("idle", 0) + 1
    unsure = position.get("unsure", False) or lost or idle > MOST_PAGES_WITHOUT_NEWS or bool(items and not ids)
    short = len(items) < full or (rows <= position.get("overlap", 1) and len(items) < PAGE)
    if not news and (short or idle > MOST_PAGES_WITHOUT_NEWS):
        if position["completed"]:
            return Page(records, rejects, whole=not unsure)
        return Page(records, rejects, {"completed": True, "skip": 0, "unsure": unsure})
    # The more often the list has moved under us, the more the pages overlap.
    overlap = max(1, min(rows // 2, 4 * steps_back))
    ahead = {
        "completed": position["completed"],
        "skip": skip + rows - overlap,
        "seen": [*(id_ for id_ in seen if id_ not in ids), *ids][-RECENT:] if ids else [],
        "full": full,
        "overlap": overlap,
        "steps_back": steps_back,
        "idle": idle,
        "unsure": unsure,
    }
    return Page(records, rejects, ahead)


def lookup_request(contact_id: str) -> Request:
    """All tasks of one contact."""
    return Request("GET", f"/contacts/{contact_id}/tasks", "/contacts/{id}/tasks", "contacts.readonly")


def lookup_parse(contact_id: str, payload: JsonObject) -> Page:
    """Not paged: the answer is the whole list."""
    records, rejects = read_records(items_of(payload, "tasks"), "list", contact_id=contact_id, id_keys=ID_KEYS)
    return Page(records, rejects, whole=True)


def single_request(contact_id: str, task_id: str) -> Request:
    """One task alone."""
    route = "/contacts/{id}/tasks/{id}"
    return Request("GET", f"/contacts/{contact_id}/tasks/{task_id}", route, "contacts.readonly")


def single_parse(contact_id: str, payload: JsonObject) -> Page:
    """The task, under its contact."""
    return Page(*read_records(one_of(payload, "task"), "single", contact_id=contact_id, id_keys=ID_KEYS))


def merge(record: Record, old: Known | None) -> JsonObject:
    """Core keys that are absent have no value; any other key may be one that this shape never carries."""
    if old is None or old.raw is None:
        return record.raw
    kept = {key: value for key, value in old.raw.items() if key not in record.raw and key not in _CORE}
    return {**record.raw, **kept} if kept else record.raw


def normalise(raw: JsonObject, facts: LocationFacts) -> JsonObject:
    """One content from list and search: without the copies of contact and user that the search adds."""
    content = {key: value for key, value in raw.items() if key not in _OF_THE_SEARCH and not is_empty(value)}
    done = content.get("completed")
    content["status"] = "completed" if done is True or done == "true" else "open"
    return content


FIELDS = {
    "title": FieldRule(source="title"),
    "body": FieldRule(source="body"),
    "status": FieldRule(source="status"),
    "due_at": FieldRule(source="dueDate", type="datetime"),
    "assigned_to": FieldRule(source="assignedTo"),
}

STREAM = Stream(
    name="tasks",
    table=schema.tasks,
    fields=FIELDS,
    normalise=normalise,
    walks=(Walk("search", search_request, search_parse, search_begin, turns_back=True),),
    lookup=Lookup(lookup_request, lookup_parse),
    single=Single(single_request, single_parse),
    merge=merge,
    merges=True,
    timeline=Timeline("task", at="due_at", title="title", detail="status"),
    deadline=Deadline("due_at", {"status": "open"}),
    since={"first_seen_at": {}, "completed_at": {"status": "completed"}},
)
