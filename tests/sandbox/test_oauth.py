"""The sandbox's own authorize and token endpoints: what each gives, spends and refuses."""

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from rankr_sync.sandbox import APP_ID, CLIENT_ID, CLIENT_SECRET, COMPANY_ID, location_id

from .conftest import LOCATION, Api, Clock, Make

CHOOSE = "/v2/oauth/chooselocation"
BACK = "https://example.com/callback"
CLIENT = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
AGENCY = "contacts.readonly locations.readonly oauth.readonly oauth.write"


def asks(**changes: str) -> dict[str, str]:
    """The query of the page where a location is chosen."""
    query = {"response_type": "code", "client_id": CLIENT_ID, "version_id": APP_ID, "redirect_uri": BACK}
    return query | {"scope": "contacts.readonly locations.readonly", "state": "s1"} | changes


def redirected(api: Api, choice: str = LOCATION, **changes: str) -> dict[str, str]:
    """What comes back with the redirect, once a location (or the agency) is chosen."""
    answer = api.get(CHOOSE, **asks(choice=choice, **changes))
    assert answer.status_code == 302, answer.text
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


def token(api: Api, **form: str) -> httpx.Response:
    """A request to the token endpoint, without a Version header."""
    return api("POST", "/oauth/token", data=CLIENT | form, headers={"Version": "", "Authorization": ""})


def granted(api: Api, choice: str = LOCATION, **changes: str) -> dict[str, Any]:
    """The pair that an installation gives."""
    code = redirected(api, choice, **changes)["code"]
    answer = token(api, grant_type="authorization_code", code=code, redirect_uri=BACK)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refresh(api: Api, refresh_token: str) -> httpx.Response:
    """A refresh."""
    return token(api, grant_type="refresh_token", refresh_token=refresh_token)


def bearer(access_token: str, version: str = "2021-07-28") -> dict[str, str]:
    """Headers of a request with this token."""
    return {"Authorization": f"Bearer {access_token}", "Version": version}


def test_the_page_offers_each_location_and_the_agency(make: Make) -> None:
    """Its links come back with a code and the state."""
    api = make(locations=2)
    page = api.get(CHOOSE, **asks())
    assert "text/html" in page.headers["content-type"]
    assert all(f"choice={id_}" in page.text for id_ in (location_id(1), location_id(2), COMPANY_ID))
    back = redirected(api)
    assert back["state"] == "s1"
    assert back["code"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"client_id": "other"}, "error.invalidclient"),
        ({"version_id": ""}, "error.noversionid"),
        ({"scope": "everything"}, "error.invalidscope"),
        ({"redirect_uri": "http://localhost:8000/callback"}, "error.invalidredirecturi"),
        ({"redirect_uri": "http://example.com/callback"}, "error.invalidredirecturi"),
    ],
)
def test_a_wrong_request_redirects_nowhere(api: Api, wrong: dict[str, str], words: str) -> None:
    """The page says why; plain http is refused."""
    answer = api.get(CHOOSE, **asks(**wrong, choice=LOCATION))
    assert answer.status_code == 400
    assert words in answer.text


def test_plain_http_on_this_machine_can_be_allowed(make: Make) -> None:
    """So that a login can be tried without a tunnel."""
    redirected(make(http_redirects=True), redirect_uri="http://127.0.0.1:8000/callback")


def test_a_code_gives_one_pair_of_tokens(api: Api) -> None:
    """The access token opens the location within its scopes; the code is spent."""
    code = redirected(api)["code"]
    pair = token(api, grant_type="authorization_code", code=code).json()
    assert (pair["userType"], pair["locationId"], pair["token_type"]) == ("Location", LOCATION, "Bearer")
    assert pair["expires_in"] == 86_399
    headers = bearer(pair["access_token"])
    assert api("GET", f"/locations/{LOCATION}", headers=headers).status_code == 200
    refused = api("GET", "/users/", params={"locationId": LOCATION}, headers=headers)
    assert (refused.status_code, refused.json()["message"]) == (401, "The token is not authorized for this scope.")
    again = token(api, grant_type="authorization_code", code=code)
    assert again.status_code == 401
    assert again.json()["error"] == "UnAuthorized!"


def test_an_access_token_ends(api: Api, clock: Clock) -> None:
    """After a day it is unknown."""
    headers = bearer(granted(api)["access_token"])
    clock.time += 86_401
    assert api("GET", f"/locations/{LOCATION}", headers=headers).status_code == 401


def test_a_refresh_token_is_spent_by_its_use(api: Api) -> None:
    """Each refresh gives another; the old one gets no grace."""
    first = granted(api)
    second = refresh(api, first["refresh_token"])
    assert second.status_code == 200
    assert second.json()["refresh_token"] != first["refresh_token"]
    spent = refresh(api, first["refresh_token"])
    assert (spent.status_code, spent.json()["message"]) == (400, "Invalid grant: refresh token is invalid")
    assert refresh(api, second.json()["refresh_token"]).status_code == 200


def test_a_paused_location_spends_nothing(api: Api) -> None:
    """The same refresh token works again once the location is active."""
    pair = granted(api)
    api.sandbox.oauth.paused.add(LOCATION)
    assert refresh(api, pair["refresh_token"]).json()["message"] == "Location is not active"
    api.sandbox.oauth.paused.clear()
    assert refresh(api, pair["refresh_token"]).status_code == 200


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({}, "Missing parameter: grantType"),
        ({"grant_type": "password"}, "Invalid parameter: grantType"),
        ({"grant_type": "refresh_token", "refresh_token": "x", "client_id": ""}, "Missing parameter: clientId"),
        (
            {"grant_type": "refresh_token", "refresh_token": "x", "client_secret": "no"},
            "Invalid parameter: clientSecret",
        ),
    ],
)
def test_a_wrong_form_is_400(api: Api, form: dict[str, str], words: str) -> None:
    """The message names the parameter."""
    answer = token(api, **form)
    assert (answer.status_code, answer.json()["message"]) == (400, words)


def test_reconnecting_gives_a_code_while_the_app_is_installed(api: Api) -> None:
    """After that it is refused, and so is the refresh token."""
    pair = granted(api)
    body = {"clientKey": CLIENT_ID, "clientSecret": CLIENT_SECRET, "locationId": LOCATION}
    told = api("POST", "/oauth/reconnect", json=body).json()
    assert token(api, grant_type="authorization_code", code=told["authorizationCode"]).status_code == 200
    api.sandbox.oauth.uninstall(LOCATION)
    assert api("POST", "/oauth/reconnect", json=body).status_code == 400
    assert refresh(api, pair["refresh_token"]).status_code == 400


def test_an_agencys_token_opens_locations_only_by_exchange(make: Make) -> None:
    """On contacts it is refused; a location's token, which has no refresh token, is not."""
    api = make(locations=3)
    agency = granted(api, COMPANY_ID, scope=AGENCY)
    assert (agency["userType"], agency["companyId"]) == ("Company", COMPANY_ID)
    refused = api("GET", f"/locations/{LOCATION}", headers=bearer(agency["access_token"]))
    assert refused.status_code == 401
    assert "authClass" in refused.json()["message"]
    form = {"companyId": COMPANY_ID, "locationId": location_id(2)}
    made = api("POST", "/oauth/locationToken", data=form, headers=bearer(agency["access_token"]))
    assert made.status_code == 201
    assert "refresh_token" not in made.json()
    headers = bearer(made.json()["access_token"])
    assert api("GET", f"/locations/{location_id(2)}", headers=headers).status_code == 200
    assert api("GET", f"/locations/{location_id(1)}", headers=headers).status_code == 403
    api.sandbox.oauth.uninstall(location_id(2))
    assert api("POST", "/oauth/locationToken", data=form, headers=bearer(agency["access_token"])).status_code == 400


def test_installed_locations_come_in_pages(make: Make) -> None:
    """By skip and limit, only those with the app when asked so."""
    api = make(locations=5, contacts=2)
    headers = bearer(granted(api, COMPANY_ID, scope=AGENCY)["access_token"])
    api.sandbox.oauth.uninstall(location_id(2))
    query = {"companyId": COMPANY_ID, "appId": APP_ID, "isInstalled": "true", "limit": "3"}
    pages = [
        api("GET", "/oauth/installedLocations", params=query | {"skip": skip}, headers=headers).json()
        for skip in ("0", "3")
    ]
    ids = [one["_id"] for page in pages for one in page["locations"]]
    assert ids == [location_id(number) for number in (1, 3, 4, 5)]
    assert pages[0]["count"] == 4


def test_without_its_scope_an_agencys_token_lists_and_makes_nothing(api: Api) -> None:
    """oauth.readonly and oauth.write."""
    headers = bearer(granted(api, COMPANY_ID)["access_token"])
    form = {"companyId": COMPANY_ID, "locationId": LOCATION}
    assert api("POST", "/oauth/locationToken", data=form, headers=headers).status_code == 401
    query = {"companyId": COMPANY_ID, "appId": APP_ID}
    assert api("GET", "/oauth/installedLocations", params=query, headers=headers).status_code == 401


def test_v3_spells_names_and_paths_differently(make: Make) -> None:
    """Names in camelCase, in and out; kebab-case paths, page tokens."""
    api = make(locations=3, contacts=2)
    code = redirected(api, COMPANY_ID, scope=AGENCY)["code"]
    form = {"clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET, "grantType": "authorization_code", "code": code}
    pair = api("POST", "/oauth/token", data=form, headers={"Version": "v3"}).json()
    headers = bearer(pair["accessToken"], "v3")
    query = {"companyId": COMPANY_ID, "appId": APP_ID, "pageSize": "2"}
    page = api("GET", "/oauth/installed-locations", params=query, headers=headers).json()
    assert len(page["items"]) == 2
    rest = query | {"pageToken": page["pagination"]["nextPageToken"]}
    page = api("GET", "/oauth/installed-locations", params=rest, headers=headers).json()
    assert (len(page["items"]), page["pagination"]["hasNextPage"]) == (1, False)
    form = {"companyId": COMPANY_ID, "locationId": LOCATION}
    assert api("POST", "/oauth/location-token", data=form, headers=headers).json()["accessToken"]
    assert api("POST", "/oauth/locationToken", data=form, headers=headers).status_code == 404


def test_a_fault_after_the_fact_spends_the_refresh_token(api: Api) -> None:
    """The answer is lost, its effect is not."""
    pair = granted(api)
    api.sandbox.faults.next("half-json", "/oauth/token")
    with pytest.raises(ValueError, match=r"line 1 column"):
        refresh(api, pair["refresh_token"]).json()
    assert refresh(api, pair["refresh_token"]).status_code == 400
    assert [call.path for call in api.sandbox.calls if call.path == "/oauth/token"] == ["/oauth/token"] * 3
