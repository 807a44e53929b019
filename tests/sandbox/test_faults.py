"""Misbehaviour: scripted, random, and in what is served."""

import json
from typing import Any

import httpx
import pytest

from rankr_sync.sandbox.faults import KINDS

from .conftest import LOCATION, Api, Clock, Make, busy_contact, first

PATH = f"/locations/{LOCATION}"


@pytest.mark.parametrize(
    ("kind", "status"),
    [("500", 500), ("503", 503), ("429", 429), ("401", 401), ("403", 403), ("502-html", 502), ("200-html", 200)],
)
def test_an_answer_instead_of_the_answer(api: Api, kind: Any, status: int) -> None:
    """JSON with a trace, or a page of a proxy."""
    api.sandbox.faults.next(kind)
    answer = api.get(PATH)
    assert answer.status_code == status
    if "html" in kind:
        assert answer.headers["content-type"].startswith("text/html")
    else:
        assert answer.json()["statusCode"] == status
        assert answer.json()["traceId"]
    assert ("retry-after" in answer.headers) == (kind in ("503", "429"))
    assert api.get(PATH).status_code == 200


def test_json_of_another_shape(api: Api) -> None:
    """200, parses, and is not what was asked for."""
    api.sandbox.faults.next("wrong-shape")
    assert "location" not in api.ok(PATH)
    api.sandbox.faults.next("empty-object")
    assert api.ok(PATH) == {}


def test_half_of_a_json_with_a_fitting_length(api: Api) -> None:
    """The length is right, the text is not."""
    api.sandbox.faults.next("half-json")
    answer = api.get(PATH)
    assert int(answer.headers["content-length"]) == len(answer.content)
    with pytest.raises(json.JSONDecodeError):
        answer.json()


@pytest.mark.parametrize("kind", ["reset", "truncated"])
def test_in_process_a_lost_connection_is_an_error_of_ones_choice(api: Api, kind: Any) -> None:
    """There is no connection to lose, so the transport lets an exception through."""
    api.sandbox.faults.next(kind, times=2)
    with pytest.raises(ConnectionResetError):
        api.get(PATH)
    api.sandbox.faults.connection_error = httpx.ReadError
    with pytest.raises(httpx.ReadError):
        api.get(PATH)
    assert [call.status for call in api.sandbox.calls] == ([0, 0] if kind == "reset" else [200, 200])


def test_a_write_whose_answer_is_lost_has_happened(api: Api) -> None:
    """What makes a blind retry of a creation dangerous (docs#64)."""
    before = api.search().json()["total"]
    api.sandbox.faults.next("reset")
    with pytest.raises(ConnectionResetError):
        api("POST", "/contacts/", json={"locationId": LOCATION, "firstName": "Twice?"})
    assert api.search().json()["total"] == before + 1
    api.sandbox.faults.next("500")
    api("POST", "/contacts/", json={"locationId": LOCATION})
    assert api.search().json()["total"] == before + 1


def test_slowness_is_slept(make: Make, clock: Clock) -> None:
    """Latency, a stall and a slow body go through the sleep that was passed in."""
    api = make(latency_ms=250, stall_seconds=90.0, slow_body_seconds=4.0)
    api.get(PATH)
    assert clock.slept == [0.25]
    api.sandbox.faults.next("stall")
    assert api.get(PATH).status_code == 200
    assert clock.slept[1:] == [0.25, 90.0]
    api.sandbox.faults.next("slow-body")
    assert api.get(PATH).json()["location"]["id"] == LOCATION
    assert sum(clock.slept[4:]) == pytest.approx(4.0, rel=0.2)


@pytest.mark.parametrize(
    "route",
    ["/contacts/{contactId}/notes", "GET /contacts/{contactId}/notes", "/contacts/*/notes", "GET /contacts/*/notes"],
)
def test_a_fault_waits_for_its_route(api: Api, route: str) -> None:
    """By template or by pattern, as often as asked."""
    contact_id = first(api)
    api.sandbox.faults.next("500", route, times=2)
    assert api.get(f"/contacts/{contact_id}/tasks").status_code == 200
    answers = [api.get(f"/contacts/{contact_id}/notes").status_code for _ in range(3)]
    assert answers == [500, 500, 200]
    assert api.sandbox.stats()["faults"] == {"500": 2}


def test_a_fault_of_another_method_is_not_met(api: Api) -> None:
    """And a plan can be dropped."""
    api.sandbox.faults.next("500", "POST /contacts/*")
    assert api.get(f"/contacts/{first(api)}").status_code == 200
    api.sandbox.faults.clear()
    assert api.search().status_code == 200


def test_an_unknown_fault_is_refused(api: Api) -> None:
    """With the list of those that exist."""
    with pytest.raises(ValueError, match="wrong-shape"):
        api.sandbox.faults.next("boom")  # type: ignore[arg-type]


def test_random_faults_are_transient_and_the_same_for_a_seed(make: Make) -> None:
    """Asking again brings the answer."""
    runs = []
    for _ in range(2):
        api = make(fault_rate=0.3, seed=9)
        api.sandbox.faults.connection_error = httpx.ReadError
        for _ in range(60):
            try:
                api.get(PATH)
            except httpx.ReadError:
                continue
        runs.append(api.sandbox.stats()["faults"])
    assert runs[0] == runs[1]
    assert 8 < sum(runs[0].values()) < 30
    assert set(runs[0]) <= set(KINDS) - {"401", "403", "stall"}


STRANGE: list[tuple[str, Any]] = [
    ("no id", lambda payload: {key: value for key, value in payload.items() if key not in ("id", "_id")}),
    ("number as name", lambda payload: payload | {"firstName": 42, "title": 42}),
    ("list for object", lambda payload: [payload]),
    ("impossible date", lambda payload: payload | {"dateAdded": "2026-02-30T25:00:00Z"}),
    ("NUL and surrogate", lambda payload: payload | {"lastName": "a\u0000b", "body": "\ud800"}),
    ("two megabytes", lambda payload: payload | {"body": "x" * 2_000_000}),
]


@pytest.mark.parametrize(("name", "mutate"), STRANGE, ids=[name for name, _ in STRANGE])
def test_a_record_can_be_served_strangely_and_stays_true(api: Api, name: str, mutate: Any) -> None:
    """Wherever it is shown; healed, it is itself again."""
    note = api.sandbox.create_note(first(api), body="fine")
    api.sandbox.corrupt("notes", note["id"], mutate)
    answer = api.get(f"/contacts/{first(api)}/notes")
    assert answer.json()["notes"][0] == mutate(note)
    assert api.sandbox.truth(LOCATION)["notes"][note["id"]] == note
    api.sandbox.heal("notes", note["id"])
    assert api.ok(f"/contacts/{first(api)}/notes")["notes"][0] == note


def test_a_lone_surrogate_travels_escaped(api: Api) -> None:
    """As the real API would send it: ASCII on the wire."""
    api.sandbox.corrupt("contacts", first(api), lambda payload: payload | {"city": "\ud800"})
    assert rb'"city":"\ud800"' in api.get(f"/contacts/{first(api)}").content


def test_all_ways_to_a_record_show_its_corruption(api: Api) -> None:
    """By id, listed, searched; tasks by contact and by location; appointments thrice."""

    def mark(payload: dict[str, Any]) -> dict[str, Any]:
        return payload | {"strange": True}

    def marked(items: list[dict[str, Any]]) -> int:
        return sum("strange" in item for item in items)

    contact_id, location = busy_contact(api, "tasks"), api.sandbox.locations[LOCATION]
    task_id, event_id = location.tasks_of[contact_id][0], first(api, "appointments")
    event = location.appointments[event_id]
    for entity, key in (("contacts", contact_id), ("tasks", task_id), ("appointments", event_id)):
        api.sandbox.corrupt(entity, key, mark)
    assert marked([api.ok(f"/contacts/{contact_id}")["contact"]]) == 1
    assert marked(api.search().json()["contacts"]) == 1
    assert marked(api.ok("/contacts/", locationId=LOCATION, limit=100)["contacts"]) == 1
    assert marked(api.ok(f"/contacts/{contact_id}/tasks")["tasks"]) == 1
    assert marked(api("POST", f"/locations/{LOCATION}/tasks/search", json={"limit": 1000}).json()["tasks"]) == 1
    assert marked(api.ok(f"/contacts/{event['contactId']}/appointments")["events"]) == 1
    window = {"startTime": "0", "endTime": "4102444800000", "calendarId": event["calendarId"]}
    assert marked(api.ok("/calendars/events", locationId=LOCATION, **window)["events"]) == 1
    with pytest.raises(ValueError, match="appointments"):
        api.sandbox.corrupt("events", event_id, mark)
