"""The generated account, and how it changes by itself."""

import json
from collections import Counter
from typing import Any

import phonenumbers
import pytest

from rankr_sync.sandbox import Sandbox, SandboxOptions, location_id

from .conftest import LOCATION, START, Api, Clock, Make


def frozen(**options: Any) -> Sandbox:
    """A sandbox at one moment."""
    return Sandbox(SandboxOptions(rate_limit=None, **options), lambda: START)


def test_the_same_seed_makes_the_same_bytes(make: Make) -> None:
    """And another seed makes others."""
    pages = [make(contacts=30, seed=seed).search(pageLimit=30).content for seed in (5, 5, 6)]
    assert pages[0] == pages[1] != pages[2]


def test_locations_differ() -> None:
    """Their ids are counted, and nobody is in two of them."""
    sandbox = frozen(locations=3, contacts=20)
    assert list(sandbox.locations) == [location_id(number) for number in (1, 2, 3)]
    ids = [key for location in sandbox.locations.values() for key in location.contacts]
    assert len(set(ids)) == 60


def test_the_account_is_as_varied_as_a_real_one() -> None:
    """Scripts, gaps, long tails, and every kind of custom field."""
    truth = frozen(contacts=2000).truth(LOCATION)
    contacts = truth["contacts"].values()
    names = "".join(contact.get("firstName", "") + contact.get("lastName", "") for contact in contacts)
    assert all(sign in names for sign in "ëŁ王さمИ🌊'’")
    for key in (
        "email",
        "phone",
        "firstName",
        "lastName",
        "companyName",
        "assignedTo",
        "dateOfBirth",
        "ssn",
        "businessId",
    ):
        share = sum(key in contact for contact in contacts) / 2000
        assert 0 < share < 1, key
    for key in ("tags", "customFields", "additionalEmails", "additionalPhones"):
        assert {bool(contact[key]) for contact in contacts} == {True, False}, key
    kinds = {type(item["value"]) for contact in contacts for item in contact["customFields"]}
    assert kinds == {str, int, float, list, dict}
    assert all(len(key) == 20 and key.isalnum() for key in truth["contacts"])
    per_contact = Counter(task["contactId"] for task in truth["tasks"].values())
    assert 0.65 < 1 - len(per_contact) / 2000 < 0.75
    assert max(per_contact.values()) == 50


def test_people_and_numbers_are_fictional() -> None:
    """Reserved domains, and numbers from ranges kept for fiction that a parser still takes."""
    for contact in frozen(contacts=1000).truth(LOCATION)["contacts"].values():
        assert "email" not in contact or contact["email"].split("@")[1].split(".")[-2] == "example"
        phones = [contact["phone"]] if "phone" in contact else []
        for phone in [*phones, *(item["phone"] for item in contact["additionalPhones"])]:
            parsed = phonenumbers.parse(phone)
            assert phonenumbers.is_valid_number(parsed), phone
            assert phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164) == phone


def test_dates_are_spread_over_two_years_before_the_start() -> None:
    """And nothing was updated before it was added."""
    added = [contact["dateAdded"] for contact in frozen(contacts=1000).truth(LOCATION)["contacts"].values()]
    assert min(added) < "2024-11"
    assert "2026-09" < max(added) < "2026-09-21T14:13:20"
    truth = frozen().truth(LOCATION)
    assert all(item["dateAdded"] <= item["dateUpdated"] for item in truth["contacts"].values())


def test_churn_depends_on_the_elapsed_time_alone() -> None:
    """Asked about once or a hundred times, the world is the same."""
    worlds = []
    for steps in (1, 97):
        clock = Clock()
        sandbox = Sandbox(SandboxOptions(contacts=100, churn=5.0, children_bump=0.5, locations=2), clock)
        for step in range(steps):
            clock.time = START + 120 * (step + 1) / steps
            sandbox.advance()
        worlds.append(json.dumps([sandbox.truth(location_id(number)) for number in (1, 2)]))
        assert sandbox.stats()["changes"] == 600
    assert worlds[0] == worlds[1]
    assert worlds[0] != json.dumps([frozen(contacts=100, locations=2).truth(location_id(n)) for n in (1, 2)])


def test_churn_touches_everything(make: Make, clock: Clock) -> None:
    """Created, changed and deleted: contacts, tasks, notes, appointments; search keeps up."""
    api = make(contacts=300, churn=10.0)
    before = api.sandbox.truth(LOCATION)
    clock.time += 100
    after = api.sandbox.truth(LOCATION)
    for kind in ("contacts", "tasks", "notes"):
        assert set(after[kind]) - set(before[kind]), kind
    for kind in after:
        assert any(after[kind][key] != before[kind][key] for key in set(after[kind]) & set(before[kind])), kind
    assert set(before["contacts"]) - set(after["contacts"])
    assert set(api.found(pageLimit=500)) == set(after["contacts"])
    since = [{"field": "dateUpdated", "operator": "range", "value": {"gte": round(START * 1000)}}]
    changed = {key for key, record in after["contacts"].items() if record != before["contacts"].get(key)}
    assert set(api.found(pageLimit=500, filters=since)) == changed


def test_an_empty_account_is_an_account(make: Make, clock: Clock) -> None:
    """Nothing to page through, and churn begins with a first contact."""
    api = make(contacts=0, churn=1.0)
    assert api.search().json()["total"] == 0
    assert api.ok("/contacts/", locationId=LOCATION)["meta"]["startAfterId"] is None
    clock.time += 30
    assert api.search().json()["total"] >= 1


def test_an_older_truth_stays_what_it_was(api: Api) -> None:
    """Records are replaced, not edited: a test may keep one to compare with."""
    contact_id, before = next(iter(api.sandbox.truth(LOCATION)["contacts"].items()))
    kept = json.dumps(before)
    api.sandbox.update_contact(contact_id, firstName="Other", tags=["x"])
    assert json.dumps(before) == kept


@pytest.mark.parametrize("wrong", [{"contacts": -1}, {"locations": 0}, {"fault_rate": 2}, {"churn": -1}])
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    """At once, with a ValueError."""
    with pytest.raises(ValueError, match=r"sandbox|between|negative"):
        SandboxOptions(**wrong)
