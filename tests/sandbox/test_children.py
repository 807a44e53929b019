"""Tasks, notes and appointments, and the reference data they point into."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from .conftest import LOCATION, START, Api, Clock, Make, busy_contact, first

ZONE = ZoneInfo("America/New_York")
WIDE = {"startTime": "0", "endTime": "4102444800000"}


def test_tasks_and_notes_by_contact_are_the_truth(api: Api) -> None:
    """Nothing more, nothing less, for every contact."""
    truth = api.sandbox.truth(LOCATION)
    for kind in ("tasks", "notes"):
        served: dict[str, Any] = {}
        for contact_id in truth["contacts"]:
            served |= {item["id"]: item for item in api.ok(f"/contacts/{contact_id}/{kind}")[kind]}
        assert served == truth[kind]


def test_a_task_tells_no_date_of_change(api: Api) -> None:
    """id, title, dueDate, completed, contactId; body and assignedTo only where there is one."""
    allowed = {"id", "title", "body", "assignedTo", "dueDate", "completed", "contactId"}
    for task in api.sandbox.truth(LOCATION)["tasks"].values():
        assert allowed >= set(task) >= allowed - {"body", "assignedTo"}
        assert api.ok(f"/contacts/{task['contactId']}/tasks/{task['id']}")["task"] == task


def test_a_note_has_no_date_of_change_either(api: Api) -> None:
    """But a plain text beside its HTML, most of the time."""
    notes = api.sandbox.truth(LOCATION)["notes"].values()
    required = {"id", "body", "userId", "dateAdded", "contactId", "pinned", "relations"}
    assert all(required <= set(note) and "dateUpdated" not in note for note in notes)
    assert any(note["body"] != note.get("bodyText") for note in notes)
    note = next(iter(notes))
    assert api.ok(f"/contacts/{note['contactId']}/notes/{note['id']}")["note"] == note


def test_an_edit_of_a_task_or_note_leaves_the_contact_alone(api: Api, clock: Clock) -> None:
    """No evidence that it moves dateUpdated (Nango recordings 2026-07-17)."""
    contact_id = busy_contact(api, "tasks")
    before = api.ok(f"/contacts/{contact_id}")["contact"]
    clock.time += 10
    task = api.sandbox.create_task(contact_id, title="New")
    api.sandbox.update_task(task["id"], completed=True)
    api.sandbox.delete_task(task["id"])
    api.sandbox.create_note(contact_id, body="<p>New</p>")
    assert api.ok(f"/contacts/{contact_id}")["contact"] == before


def test_an_option_lets_children_move_their_contact(make: Make, clock: Clock) -> None:
    """With probability 1 every time."""
    api = make(children_bump=1.0)
    contact_id = first(api)
    clock.time += 10
    api.sandbox.create_note(contact_id, body="x")
    assert api.found(sort=[{"field": "dateUpdated", "direction": "desc"}])[0] == contact_id


# ---- the location-wide task search


def tasks(api: Api, **body: Any) -> list[dict[str, Any]]:
    """Rows of a task search."""
    answer = api("POST", f"/locations/{LOCATION}/tasks/search", json=body)
    assert answer.is_success, answer.text
    return answer.json()["tasks"]


def test_task_search_names_ids_differently_and_adds_people(api: Api) -> None:
    """`_id`, contactDetails, assignedToUserDetails."""
    truth = api.sandbox.truth(LOCATION)["tasks"]
    items = tasks(api, limit=1000)
    assert len(items) == len(truth)
    for item in items:
        record = truth[item["_id"]]
        assert "id" not in item
        assert {key: item[key] for key in record if key != "id"} == {key: record[key] for key in record if key != "id"}
        assert item["contactDetails"]["_id"] == item["contactId"]
        assert ("assignedToUserDetails" in item) == ("assignedTo" in item)


def test_a_new_task_shifts_the_offsets_of_a_sweep(api: Api) -> None:
    """Newest first: what was last on page 1 is first on page 2."""
    one = tasks(api, limit=5)
    made = api.sandbox.create_task(first(api), title="In between")
    two = tasks(api, limit=5, skip=5)
    assert two[0] == one[-1]
    assert tasks(api, limit=1)[0]["_id"] == made["id"]


def test_task_search_has_25_by_default_and_1000_at_most(make: Make) -> None:
    """More is 422; an end is an empty page."""
    api = make(contacts=200)
    assert len(tasks(api)) == 25
    assert api("POST", f"/locations/{LOCATION}/tasks/search", json={"limit": 1001}).status_code == 422
    assert tasks(api, limit=100, skip=100_000) == []
    count = len(api.sandbox.truth(LOCATION)["tasks"])
    swept = [item["_id"] for skip in range(0, count, 50) for item in tasks(api, limit=50, skip=skip)]
    assert len(set(swept)) == count


def test_task_search_filters(api: Api, clock: Clock) -> None:
    """Documented keys and those seen in the field."""
    contact_id = first(api)
    user = next(iter(api.sandbox.locations[LOCATION].reference.users))
    business = next(iter(api.sandbox.locations[LOCATION].reference.businesses))
    api.sandbox.update_contact(contact_id, businessId=business)
    late = api.sandbox.create_task(contact_id, title="Zebra late", dueDate="2020-01-01T00:00:00.000Z", assignedTo=user)
    done = api.sandbox.create_task(contact_id, title="Zebra done", dueDate="2030-01-01T00:00:00.000Z", completed=True)
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, [done["id"], late["id"]]),
        ({"completed": False}, [late["id"]]),
        ({"completed": True}, [done["id"]]),
        ({"assignedTo": [user]}, [late["id"]]),
        ({"unAssigned": True}, [done["id"]]),
        ({"overdue": True}, [late["id"]]),
        ({"contactId": [contact_id], "businessId": business}, [done["id"], late["id"]]),
        ({"contactId": ["nobody"]}, []),
        ({"dueDate": {"gt": "2029-01-01T00:00:00Z"}}, [done["id"]]),
        ({"dueDate": {"lte": "2020-01-01T00:00:00Z"}}, [late["id"]]),
        ({"sortKey": "dueDate", "sortDirection": "asc"}, [late["id"], done["id"]]),
    ]
    for body, expected in cases:
        assert [item["_id"] for item in tasks(api, query="zebra", **body)] == expected, body
    answer = api("POST", f"/locations/{LOCATION}/tasks/search", json={"query": "zebra", "count": True, "limit": 1})
    assert answer.json()["count"] == 2


def test_task_search_may_show_only_open_tasks(make: Make) -> None:
    """Whether it does by default is not known of the real API."""
    api = make(tasks_search_default="open")
    done = [task for task in api.sandbox.truth(LOCATION)["tasks"].values() if task["completed"]]
    assert not any(item["completed"] for item in tasks(api, limit=1000))
    assert len(tasks(api, limit=1000, completed=True)) == len(done) > 0


def test_task_search_may_be_rich(make: Make, clock: Clock) -> None:
    """Dates and a cursor in each row, as field notes of 2026-09 describe."""
    api = make(tasks_search_rows="rich", contacts=100)
    clock.time += 5
    made = api.sandbox.create_task(first(api))
    clock.time += 5
    api.sandbox.update_task(made["id"], title="Changed")
    row = tasks(api, limit=1)[0]
    assert (row["_id"], row["deleted"], row["statusGroup"]) == (made["id"], False, "to_do")
    assert datetime.fromisoformat(row["dateAdded"]).timestamp() == START + 5
    assert datetime.fromisoformat(row["dateUpdated"]).timestamp() == START + 10
    seen, page = [], tasks(api, limit=9)
    while page:
        seen += [item["_id"] for item in page]
        page = tasks(api, limit=9, searchAfter=page[-1]["searchAfter"])
    assert len(seen) == len(set(seen)) == len(api.sandbox.truth(LOCATION)["tasks"])


# ---- appointments


def test_appointments_of_a_contact_have_no_zone_and_mean_the_locations(api: Api) -> None:
    """Read as New York time they are the instants of the truth."""
    truth = api.sandbox.truth(LOCATION)["appointments"]
    assert truth
    for contact_id in {record["contactId"] for record in truth.values()}:
        for item in api.ok(f"/contacts/{contact_id}/appointments")["events"]:
            for key in ("startTime", "endTime"):
                assert len(item[key]) == 19
                assert _instant(item[key], ZONE) == _instant(truth[item["id"]][key])
            assert item["appointmentStatus"] == truth[item["id"]]["appointmentStatus"]


def _instant(text: str, zone: ZoneInfo | None = None) -> datetime:
    parsed = datetime.fromisoformat(text)
    return (parsed if zone is None else parsed.replace(tzinfo=zone)).astimezone(UTC)


def test_local_times_name_one_instant(make: Make) -> None:
    """No generated time falls into the hour that a clock change repeats."""
    api = make(contacts=400)
    for record in api.sandbox.truth(LOCATION)["appointments"].values():
        for key in ("startTime", "endTime", "dateAdded", "dateUpdated"):
            local = _instant(record[key]).astimezone(ZONE)
            assert local.replace(fold=0).utcoffset() == local.replace(fold=1).utcoffset()


def test_events_by_calendar_are_the_truth_with_offsets(api: Api) -> None:
    """Every appointment is in one calendar; the status comes misspelt too."""
    truth = api.sandbox.truth(LOCATION)["appointments"]
    seen: dict[str, Any] = {}
    for calendar in api.ok("/calendars/", locationId=LOCATION)["calendars"]:
        events = api.ok("/calendars/events", locationId=LOCATION, calendarId=calendar["id"], **WIDE)["events"]
        assert all(item["calendarId"] == calendar["id"] for item in events)
        seen |= {item["id"]: item for item in events}
    assert set(seen) == set(truth)
    for event_id, item in seen.items():
        assert item["startTime"][-6:] in ("-04:00", "-05:00")
        assert _instant(item["startTime"]) == _instant(truth[event_id]["startTime"])
        assert item["appoinmentStatus"] == item["appointmentStatus"]
        assert item["deleted"] is False
    assert any("assignedUserId" not in item for item in seen.values())


def test_events_are_found_by_start_never_by_change(api: Api) -> None:
    """Both ends of the window are included."""
    event = api.sandbox.create_appointment(first(api), startTime="2026-10-01T09:00:00-04:00")
    ms = round(_instant(event["startTime"]).timestamp() * 1000)
    calendar = {"locationId": LOCATION, "calendarId": event["calendarId"]}

    def window(start: int, end: int) -> set[str]:
        events = api.ok("/calendars/events", **calendar, startTime=str(start), endTime=str(end))["events"]
        return {item["id"] for item in events}

    assert event["id"] in window(ms, ms)
    assert event["id"] not in window(ms + 1, ms + 10)
    assert event["id"] not in window(ms - 10, ms - 1)
    api.sandbox.update_appointment(event["id"], startTime="2027-01-01T09:00:00-05:00")
    assert event["id"] not in window(ms, ms)


def test_events_need_a_calendar_a_user_or_a_group(api: Api) -> None:
    """And a window."""
    assert api.get("/calendars/events", locationId=LOCATION, **WIDE).status_code == 400
    user = next(iter(api.sandbox.locations[LOCATION].reference.users))
    events = api.ok("/calendars/events", locationId=LOCATION, userId=user, **WIDE)["events"]
    assert events
    assert all(item["assignedUserId"] == user for item in events)
    assert api.ok("/calendars/events", locationId=LOCATION, groupId="none", **WIDE)["events"] == []
    assert api.get("/calendars/events", locationId=LOCATION, userId=user).status_code == 422


def test_a_deleted_appointment_answers_by_id_alone(api: Api) -> None:
    """Marked as deleted; an id that never was is 400."""
    event_id = first(api, "appointments")
    contact_id = api.sandbox.locations[LOCATION].appointments[event_id]["contactId"]
    assert api.ok(f"/calendars/events/appointments/{event_id}")["appointment"]["deleted"] is False
    assert api("DELETE", f"/calendars/events/{event_id}").json()["succeeded"] is True
    assert api.ok(f"/calendars/events/appointments/{event_id}")["appointment"]["deleted"] is True
    assert event_id not in {item["id"] for item in api.ok(f"/contacts/{contact_id}/appointments")["events"]}
    assert event_id not in api.sandbox.truth(LOCATION)["appointments"]
    answer = api.get("/calendars/events/appointments/never")
    assert (answer.status_code, answer.json()["message"]) == (400, "The event id is invalid")


# ---- reference data


@pytest.mark.parametrize(("model", "count"), [("contact", 8), ("opportunity", 1), ("all", 9)])
def test_custom_fields_by_model(api: Api, model: str, count: int) -> None:
    """Eight kinds for contacts, one for opportunities."""
    fields = api.ok(f"/locations/{LOCATION}/customFields", model=model)["customFields"]
    assert len(fields) == count
    assert {item["model"] for item in fields} == ({"contact", "opportunity"} if model == "all" else {model})


def test_reference_lists(api: Api) -> None:
    """What records point at exists."""
    users = {item["id"] for item in api.ok("/users/", locationId=LOCATION)["users"]}
    tags = {item["name"] for item in api.ok(f"/locations/{LOCATION}/tags")["tags"]}
    businesses = {item["id"] for item in api.ok("/businesses/", locationId=LOCATION)["businesses"]}
    business_id = next(iter(businesses))
    assert len(business_id) == 24
    assert api.ok(f"/businesses/{business_id}")["business"]["id"] == business_id
    assert api.get("/businesses/nope").status_code == 400
    assert len(api.ok("/businesses/", locationId=LOCATION, limit=2, skip=1)["businesses"]) == 2
    for contact in api.sandbox.truth(LOCATION)["contacts"].values():
        assert contact.get("assignedTo") in users | {None}
        assert contact.get("businessId") in businesses | {None}
        assert set(contact["tags"]) <= tags
