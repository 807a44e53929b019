"""Writes through the API's own endpoints."""

from typing import Any

from .conftest import LOCATION, Api, Clock, Make, first


def test_a_contact_is_created_read_changed_and_deleted(api: Api, clock: Clock) -> None:
    """201 with a few keys that no read shows; the date moves; gone is gone."""
    body = {"locationId": LOCATION, "name": "Ada Lovelace", "email": "Ada@Example.com", "phone": "+1 202-555-0143"}
    answer = api("POST", "/contacts/", json=body | {"dateOfBirth": "1990-09-25", "tags": ["VIP", "vip"]})
    made = answer.json()["contact"]
    assert answer.status_code == 201
    assert (made["dateOfBirth"], made["birthMonth"], made["deleted"]) == ("1990-09-25T00:00:00.000Z", 9, False)
    path = f"/contacts/{made['id']}"
    read = api.ok(path)["contact"]
    assert (read["firstName"], read["lastName"], read["email"]) == ("Ada", "Lovelace", "ada@example.com")
    assert (read["phone"], read["dateOfBirth"], read["tags"]) == ("+12025550143", "1990-09-25", ["vip"])
    assert "deleted" not in read
    clock.time += 1
    changed = api("PUT", path, json={"lastName": "King", "email": None, "tags": ["new"]}).json()
    assert (changed["succeded"], changed["succeeded"]) == (True, True)
    assert changed["contact"] == api.ok(path)["contact"] == api.sandbox.truth(LOCATION)["contacts"][made["id"]]
    assert (changed["contact"]["fullNameLowerCase"], changed["contact"]["tags"]) == ("ada king", ["new"])
    assert "email" not in changed["contact"]
    assert changed["contact"]["dateUpdated"] > read["dateUpdated"]
    gone = api("DELETE", path).json()
    assert (gone["succeded"], gone["succeeded"]) == (True, True)
    assert api.get(path).status_code == 400


def test_v3_spells_success_right(api: Api) -> None:
    """Deletes keep both."""
    v3 = {"Version": "v3"}
    changed = api("PUT", f"/contacts/{first(api)}", json={"city": "X"}, headers=v3).json()
    assert (changed["succeeded"], "succeded" in changed) == (True, False)
    assert api("DELETE", f"/contacts/{first(api)}", headers=v3).json()["succeded"] is True


def test_a_location_in_an_update_is_422(api: Api) -> None:
    """Though a creation requires it."""
    assert api("PUT", f"/contacts/{first(api)}", json={"locationId": LOCATION}).status_code == 422
    assert api("POST", "/contacts/", json={"firstName": "X"}).status_code == 422


def test_duplicates_are_allowed_unless_the_location_forbids_them(api: Api, make: Make) -> None:
    """400 with the id of the contact in the way."""
    body = {"locationId": LOCATION, "email": "twice@example.com"}
    assert [api("POST", "/contacts/", json=body).status_code for _ in range(2)] == [201, 201]
    strict = make(allow_duplicates=False)
    made = strict("POST", "/contacts/", json=body).json()["contact"]
    answer = strict("POST", "/contacts/", json=body)
    assert (answer.status_code, answer.json()["meta"]["contactId"]) == (400, made["id"])
    assert strict.ok(f"/locations/{LOCATION}")["location"]["settings"]["allowDuplicateContact"] is False


def test_an_upsert_creates_then_updates(api: Api) -> None:
    """By e-mail, or else by number."""
    body = {"locationId": LOCATION, "email": "up@example.com", "phone": "+12025550144"}
    one = api("POST", "/contacts/upsert", json=body).json()
    two = api("POST", "/contacts/upsert", json={"locationId": LOCATION, "phone": "+12025550144", "city": "X"}).json()
    assert (one["new"], two["new"]) == (True, False)
    assert two["contact"]["id"] == one["contact"]["id"]
    assert two["contact"]["city"] == "X"


def test_tags_are_added_and_taken_away(api: Api) -> None:
    """The answers tell what changed."""
    contact = api.sandbox.create_contact(tags=["old"])
    path = f"/contacts/{contact['id']}/tags"
    added = api("POST", path, json={"tags": ["old", "New"]}).json()
    assert (added["tags"], added["tagsAdded"]) == (["old", "new"], ["new"])
    removed = api("DELETE", path, json={"tags": ["old", "never"]}).json()
    assert (removed["tags"], removed["tagsRemoved"]) == (["new"], ["old"])


def test_whether_tags_move_the_date_is_an_option(make: Make, clock: Clock) -> None:
    """It is not known of the real API."""
    for bump in (True, False):
        api = make(tags_bump=bump)
        contact_id = first(api)
        before = api.ok(f"/contacts/{contact_id}")["contact"]["dateUpdated"]
        clock.time += 1
        api("POST", f"/contacts/{contact_id}/tags", json={"tags": ["zz"]})
        assert (api.ok(f"/contacts/{contact_id}")["contact"]["dateUpdated"] > before) is bump


def test_custom_fields_are_written_by_either_key_and_merged(api: Api) -> None:
    """field_value and fieldValue work, any other key is ignored in silence (n8n#35392)."""
    fields = {
        item["dataType"]: item
        for item in api.ok(f"/locations/{LOCATION}/customFields", model="contact")["customFields"]
    }
    contact_id = api.sandbox.create_contact()["id"]

    def write(*items: dict[str, Any]) -> dict[str, Any]:
        body = {"customFields": list(items)}
        record = api("PUT", f"/contacts/{contact_id}", json=body).json()["contact"]
        return {item["id"]: item["value"] for item in record["customFields"]}

    text, number = fields["TEXT"], fields["NUMERICAL"]
    assert write({"id": text["id"], "field_value": "a"}) == {text["id"]: "a"}
    assert write({"key": number["fieldKey"], "fieldValue": 3}) == {text["id"]: "a", number["id"]: 3}
    assert write({"id": text["id"], "value": "ignored"}) == {text["id"]: "a", number["id"]: 3}
    assert write({"id": text["id"], "field_value": ""}) == {number["id"]: 3}


def test_a_task_is_created_completed_reopened_and_deleted(api: Api) -> None:
    """title, dueDate and completed are required."""
    path = f"/contacts/{first(api)}/tasks"
    assert len(api("POST", path, json={"body": "x"}).json()["message"]) == 3
    made = api("POST", path, json={"title": "T", "dueDate": "2026-10-25T11:00:00Z", "completed": False})
    task = made.json()["task"]
    assert (made.status_code, task["dueDate"], "body" in task) == (201, "2026-10-25T11:00:00.000Z", False)
    one = f"{path}/{task['id']}"
    assert api("PUT", f"{one}/completed", json={"completed": True}).json()["task"]["completed"] is True
    assert api("PUT", f"{one}/completed", json={"completed": False}).json()["task"]["completed"] is False
    assert api("PUT", one, json={"title": "U", "body": "b"}).json()["task"] == api.ok(one)["task"]
    assert api("DELETE", one).json()["succeded"] is True
    assert api.get(one).status_code == 400


def test_a_note_is_created_changed_and_deleted(api: Api) -> None:
    """Its plain text is derived from its HTML."""
    path = f"/contacts/{first(api)}/notes"
    assert api("POST", path, json={"title": "x"}).status_code == 422
    made = api("POST", path, json={"body": "<p>One &amp; <b>two</b></p><p>three</p>"})
    note = made.json()["note"]
    assert (made.status_code, note["bodyText"], note["userId"]) == (201, "One & two\nthree", None)
    one = f"{path}/{note['id']}"
    assert api("PUT", one, json={"body": "plain", "pinned": True}).json()["note"]["bodyText"] == "plain"
    assert api("DELETE", one).json()["succeeded"] is True
    assert api.get(one).status_code == 400


def test_an_appointment_is_booked_moved_and_cancelled(api: Api) -> None:
    """The answers are flat; a zone-less time is the location's."""
    contact_id = first(api)
    calendar = next(iter(api.sandbox.locations[LOCATION].reference.calendars))
    body = {"locationId": LOCATION, "calendarId": calendar, "contactId": contact_id}
    assert api("POST", "/calendars/events/appointments", json=body).status_code == 422
    made = api("POST", "/calendars/events/appointments", json=body | {"startTime": "2026-10-01T09:00:00"})
    assert made.status_code == 201
    flat = made.json()
    assert "startTime" not in flat
    path = f"/calendars/events/appointments/{flat['id']}"
    assert api.ok(path)["appointment"]["startTime"] == "2026-10-01T09:00:00-04:00"
    change = {"startTime": "2026-10-02T15:00:00Z", "endTime": "2026-10-02T16:00:00Z", "appointmentStatus": "cancelled"}
    assert api("PUT", path, json=change).json()["appoinmentStatus"] == "cancelled"
    assert api.ok(path)["appointment"]["endTime"] == "2026-10-02T12:00:00-04:00"
    truth = api.sandbox.truth(LOCATION)["appointments"][flat["id"]]
    assert truth["startTime"] == "2026-10-02T15:00:00.000Z"
    assert api("PUT", path, json={"appointmentStatus": "maybe"}).status_code == 422
