"""Who is let in, and what the refusals look like."""

import httpx
import pytest

from rankr_sync.sandbox import location_id, token_of

from .conftest import LOCATION, Api, Make, first


def refused(answer: httpx.Response, status: int, message: str) -> None:
    """The answer is this error, in the API's shape."""
    body = answer.json()
    assert (answer.status_code, body["statusCode"]) == (status, status)
    assert message in body["message"]
    assert body["traceId"]


def test_a_known_token_and_version_are_let_in(api: Api) -> None:
    """The default token opens the default location."""
    assert api.ok(f"/locations/{LOCATION}")["location"]["timezone"] == "America/New_York"


@pytest.mark.parametrize("value", ["Bearer nonsense", "Basic pit-sandbox-00001", ""])
def test_an_unknown_token_is_401(api: Api, value: str) -> None:
    """Without a valid bearer token nothing is answered, and no quota is shown."""
    answer = api("GET", f"/locations/{LOCATION}", headers={"Authorization": value})
    refused(answer, 401, "Invalid")
    assert answer.json()["error"] == "Unauthorized"


def test_a_revoked_token_is_unknown(api: Api) -> None:
    """A token may die at any time."""
    api.sandbox.revoke("pit-sandbox-00001")
    refused(api.get(f"/locations/{LOCATION}"), 401, "Invalid token: access token is invalid")


def test_a_missing_scope_is_401_not_403(api: Api) -> None:
    """The text of the real API, with the status of the real API."""
    api.sandbox.grant("pit-sandbox-00001", [LOCATION], ["contacts.readonly"])
    assert api.get(f"/contacts/{first(api)}").status_code == 200
    refused(api.get(f"/locations/{LOCATION}"), 401, "The token is not authorized for this scope.")


def test_another_location_is_403(make: Make) -> None:
    """By name and by the id of something in it (n8n#11353)."""
    api = make(locations=2, contacts=5)
    other = location_id(2)
    theirs = next(iter(api.sandbox.locations[other].contacts))
    for answer in (
        api.get(f"/locations/{other}"),
        api.get("/contacts/", locationId=other),
        api.search(locationId=other),
        api.get(f"/contacts/{theirs}"),
    ):
        refused(answer, 403, "The token does not have access to this location.")
    own = {"Authorization": f"Bearer {token_of(2)}"}
    assert api("GET", f"/contacts/{theirs}", headers=own).status_code == 200


def test_one_token_may_open_several_locations(make: Make) -> None:
    """Each request uses the quota of the location it is about."""
    api = make(locations=2, contacts=5)
    api.sandbox.grant("both", [location_id(1), location_id(2)])
    for number in (1, 2):
        path = f"/locations/{location_id(number)}"
        assert api("GET", path, headers={"Authorization": "Bearer both"}).status_code == 200
    assert [call.location_id for call in api.sandbox.calls] == [location_id(1), location_id(2)]


def test_a_grant_names_locations_that_exist(api: Api) -> None:
    """A typing error in a test shows at once."""
    with pytest.raises(ValueError, match="nowhere"):
        api.sandbox.grant("t", ["nowhere"])


@pytest.mark.parametrize("version", ["2021-07-28", "2021-04-15", "2023-02-21", "v3"])
def test_known_versions_are_accepted(api: Api, version: str) -> None:
    """Every endpoint takes every known version."""
    assert api("GET", f"/contacts/{first(api)}", headers={"Version": version}).status_code == 200


def test_a_missing_version_is_401(api: Api) -> None:
    """The header is required."""
    refused(api("GET", f"/contacts/{first(api)}", headers={"Version": ""}), 401, "version header was not found.")


def test_a_nonsense_version_is_400(api: Api) -> None:
    """The message names the value."""
    answer = api("GET", f"/contacts/{first(api)}", headers={"Version": "yesterday"})
    refused(answer, 400, "Invalid API version segment 'yesterday' at position 0")


def test_an_unknown_path_is_404(api: Api) -> None:
    """Method and path are in the message."""
    refused(api.get("/contact/x/y/z"), 404, "Cannot GET /contact/x/y/z")
    refused(api("POST", "/contacts/tasks/search", json={}), 404, "Cannot POST /contacts/tasks/search")


@pytest.mark.parametrize("path", ["/contacts/", "/users/"])
def test_v3_has_lost_two_endpoints(api: Api, path: str) -> None:
    """400 with the reason, not 404 (docs#304)."""
    params = {"locationId": LOCATION}
    assert api("GET", path, params=params).status_code == 200
    answer = api("GET", path, params=params, headers={"Version": "v3"})
    refused(answer, 400, "not available in API version v3. This endpoint was removed in version v3.")


def test_every_answer_has_a_trace_of_its_own(api: Api) -> None:
    """Errors too."""
    traces = [api.get(path).json()["traceId"] for path in (f"/locations/{LOCATION}", "/nope", f"/contacts/{'x' * 20}")]
    assert len(set(traces)) == 3


def test_a_missing_location_is_422(api: Api) -> None:
    """Where it is required."""
    assert api.get("/contacts/").status_code == 422
    assert api("POST", "/contacts/search", json={"pageLimit": 1}).status_code == 422


def test_broken_json_is_400(api: Api) -> None:
    """A body that does not parse is the client's fault."""
    answer = api(
        "PUT", f"/contacts/{first(api)}", content=b'{"firstName": ', headers={"Content-Type": "application/json"}
    )
    refused(answer, 400, "JSON")
