"""Contacts by id and listed: shapes, paging, quirks."""

from .conftest import LOCATION, Api, Clock, Make, busy_contact, first


def test_by_id_is_the_truth_and_leaves_out_what_has_no_value(api: Api) -> None:
    """No null on the wire; lists answer empty."""
    for contact_id, record in api.sandbox.truth(LOCATION)["contacts"].items():
        served = api.ok(f"/contacts/{contact_id}")["contact"]
        assert served == record
        assert None not in served.values()
        assert {"tags", "customFields", "additionalEmails", "additionalPhones", "dateUpdated"} <= set(served)


def test_an_unknown_contact_is_400_and_says_so(api: Api, make: Make) -> None:
    """404 as an option: both are reported."""
    answer = api.get("/contacts/" + "x" * 20)
    assert (answer.status_code, answer.json()["message"]) == (400, f"Contact with id {'x' * 20} not found")
    assert make(not_found_status=404).get("/contacts/" + "x" * 20).status_code == 404


def test_a_deleted_contact_is_unknown_and_so_is_what_hung_on_it(api: Api) -> None:
    """Its tasks cannot be listed either."""
    contact_id = busy_contact(api, "tasks")
    api.sandbox.delete_contact(contact_id)
    for path in ("", "/tasks", "/notes", "/appointments"):
        assert api.get(f"/contacts/{contact_id}{path}").status_code == 400
    truth = api.sandbox.truth(LOCATION)
    assert all(record["contactId"] != contact_id for record in truth["tasks"].values())


def test_the_list_lowers_names_and_keeps_the_raw_ones(api: Api) -> None:
    """`firstName` against `firstNameRaw` (amp-labs)."""
    contact = api.sandbox.create_contact(firstName="Zoë", lastName="O'Brien", email="z@example.com")
    item = api.ok("/contacts/", locationId=LOCATION)["contacts"][0]
    assert item["id"] == contact["id"]
    assert (item["firstName"], item["lastName"], item["contactName"]) == ("zoë", "o'brien", "zoë o'brien")
    assert (item["firstNameRaw"], item["lastNameRaw"]) == ("Zoë", "O'Brien")
    assert item["dateUpdated"] == contact["dateUpdated"]
    assert {"address1", "attributions", "followers", "dnd", "dndSettings", "customFields"} <= set(item)


def test_the_list_pages_through_everything_once_newest_first(api: Api) -> None:
    """With both halves of the cursor; the last page has none."""
    seen, params = [], {"locationId": LOCATION, "limit": 7}
    while True:
        page = api.ok("/contacts/", **params)
        seen += page["contacts"]
        meta = page["meta"]
        assert meta["total"] == 60
        if meta["startAfterId"] is None:
            break
        params |= {"startAfter": meta["startAfter"], "startAfterId": meta["startAfterId"]}
    assert (meta["nextPageUrl"], meta["startAfter"], meta["nextPage"]) == (None, None, None)
    dates = [item["dateAdded"] for item in seen]
    assert dates == sorted(dates, reverse=True)
    assert {item["id"] for item in seen} == set(api.sandbox.truth(LOCATION)["contacts"])
    assert len(seen) == 60


def test_half_a_cursor_is_page_one_again(api: Api) -> None:
    """The endless loop of pipedream#21941."""
    one = api.ok("/contacts/", locationId=LOCATION, limit=5)
    again = api.ok("/contacts/", locationId=LOCATION, limit=5, startAfter=one["meta"]["startAfter"])
    assert again["contacts"] == one["contacts"]
    assert again["meta"]["startAfter"] == one["meta"]["startAfter"]


def test_the_next_page_url_works_as_it_is(api: Api) -> None:
    """It holds the location already (n8n#11353)."""
    one = api.ok("/contacts/", locationId=LOCATION, limit=5)
    two = api("GET", one["meta"]["nextPageUrl"]).json()
    assert len(two["contacts"]) == 5
    assert not {item["id"] for item in one["contacts"]} & {item["id"] for item in two["contacts"]}


def test_the_list_has_20_by_default_and_100_at_most(api: Api) -> None:
    """More is 422."""
    assert len(api.ok("/contacts/", locationId=LOCATION)["contacts"]) == 20
    assert api.get("/contacts/", locationId=LOCATION, limit=101).status_code == 422
    assert api.get("/contacts/", locationId=LOCATION, limit="many").status_code == 422


def test_the_list_can_be_narrowed_by_text(api: Api) -> None:
    """And pages within."""
    for number in range(3):
        api.sandbox.create_contact(firstName=f"Findable{number}")
    one = api.ok("/contacts/", locationId=LOCATION, query="findable", limit=2)
    meta = one["meta"]
    cursor = {"startAfter": meta["startAfter"], "startAfterId": meta["startAfterId"]}
    two = api.ok("/contacts/", locationId=LOCATION, query="findable", limit=2, **cursor)
    assert [len(one["contacts"]), len(two["contacts"]), meta["total"]] == [2, 1, 3]


def test_search_shows_missing_values_and_other_names(api: Api) -> None:
    """Explicit null, [] and {}; `address` for `address1`; lower-case `contactName`."""
    contact = api.sandbox.create_contact(firstName="Zoë", address1="1 Elm Street")
    item = api.search().json()["contacts"][0]
    assert item["id"] == contact["id"]
    assert (item["address"], item["contactName"], item["firstName"]) == ("1 Elm Street", "zoë", "Zoë")
    assert [item[key] for key in ("email", "phoneLabel", "validEmail", "dateOfBirth")] == [None] * 4
    assert [item[key] for key in ("dndSettings", "attributionSource", "inboundDndSettings")] == [{}] * 3
    assert [item[key] for key in ("opportunities", "additionalPhones", "followers", "tags")] == [[]] * 4
    assert not {"address1", "fullNameLowerCase", "emailLowerCase", "createdBy", "ssn"} & set(item)


def test_all_search_items_have_the_same_keys(api: Api) -> None:
    """Whatever the contact holds."""
    assert len({tuple(item) for item in api.search().json()["contacts"]}) == 1


def test_v3_spells_dnd_channels_in_lower_case(api: Api) -> None:
    """By id and in search; written either way they are kept as one."""
    contact_id = first(api)
    api(
        "PUT",
        f"/contacts/{contact_id}",
        json={"dndSettings": {"sms": {"status": "active"}, "Call": {"status": "inactive"}}},
    )
    dated = api.ok(f"/contacts/{contact_id}")["contact"]["dndSettings"]
    v3 = api("GET", f"/contacts/{contact_id}", headers={"Version": "v3"}).json()["contact"]["dndSettings"]
    assert (set(dated), set(v3)) == ({"SMS", "Call"}, {"sms", "call"})


def test_contacts_of_a_business_and_duplicates(api: Api) -> None:
    """The two smaller ways to find contacts."""
    business = api.ok("/businesses/", locationId=LOCATION)["businesses"][0]["id"]
    contact = api.sandbox.create_contact(
        businessId=business, email="Only@example.com", phone="+12125550199", firstName="B"
    )
    answer = api.ok(f"/contacts/business/{business}", locationId=LOCATION)
    assert contact["id"] in {item["id"] for item in answer["contacts"]}
    assert answer["count"] == len(answer["contacts"])
    for params in ({"email": "only@example.com"}, {"number": "+12125550199"}):
        found = api.ok("/contacts/search/duplicate", locationId=LOCATION, **params)
        assert (found["contact"]["id"], found["matchingField"]) == (contact["id"], "contactId")
    assert api.ok("/contacts/search/duplicate", locationId=LOCATION, email="no@example.com")["contact"] is None


def test_a_contact_changes_its_date_only_when_something_changed(api: Api, clock: Clock) -> None:
    """An identical PUT does nothing, an identical upsert moves the date (Nango recordings 2026-07-17)."""
    contact = api.sandbox.create_contact(email="same@example.com", firstName="Same")
    clock.time += 60
    same = {"firstName": "Same"}
    put = api("PUT", f"/contacts/{contact['id']}", json=same).json()["contact"]
    assert put["dateUpdated"] == contact["dateUpdated"]
    body = {"locationId": LOCATION, "email": "same@example.com", **same}
    upserted = api("POST", "/contacts/upsert", json=body).json()
    assert upserted["new"] is False
    assert upserted["contact"]["dateUpdated"] > contact["dateUpdated"]
