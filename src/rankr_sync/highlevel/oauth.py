"""OAuth 2.0 on the wire: a code or a refresh token for a pair of tokens, an agency's token for a location's.

Nothing is kept, tried again or decided here; that is `oauth.keeper`'s. Field names are snake_case, under version v3
camelCase; answers are read in both.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from rankr_sync.decode import decode
from rankr_sync.errors import (
    BadAnswer,
    GrantEnded,
    LocationRefused,
    RankrSyncError,
    RequestRefused,
    ScopeMissing,
    TokenRefused,
    TryLater,
    Unauthorised,
)
from rankr_sync.highlevel.answers import error_words, throttled
from rankr_sync.highlevel.client import SENDING_ERRORS, unreachable
from rankr_sync.model import JsonObject

COMPANY, LOCATION = "Company", "Location"
PAGE = 100
SHORTEST_LIFE = 3600.0
"""Seconds that an access token is taken to last when the answer does not say."""


@dataclass(frozen=True, slots=True)
class Application:
    """The app of the marketplace that asks for access."""

    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str

    @property
    def app_id(self) -> str:
        """The client id is the app's, a dash, and eight characters more."""
        return self.client_id.partition("-")[0]


@dataclass(frozen=True, slots=True)
class Granted:
    """What the token endpoint gave. `expires_in` is in seconds."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_in: float
    user_type: str
    company_id: str | None
    location_id: str | None
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Installed:
    """A location of an agency that has the app."""

    id: str
    name: str | None


class OAuthEndpoints:
    """The endpoints of one app."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        base_url: str,
        version: str,
        application: Application,
        total_timeout: float = 30.0,
    ) -> None:
        """`total_timeout`: seconds for one request as a whole."""
        self.application = application
        self._client = client
        self._base_url = base_url.rstrip("/")
        self._host = httpx.URL(base_url).host
        self._version = version
        self._total_timeout = total_timeout

    @property
    def _v3(self) -> bool:
        return self._version == "v3"

    async def exchange(self, code: str, user_type: str) -> Granted:
        """The first pair, for an authorization code. Raises TokenRefused when the code is not good (any more)."""
        try:
            return await self._token(
                user_type, grant_type="authorization_code", code=code, redirect_uri=self.application.redirect_uri
            )
        except Unauthorised as error:
            raise TokenRefused(
                "the authorization code is not accepted",
                hint="it is good once and for minutes only; begin anew: rankr-sync auth login",
                status=error.status,
                trace_id=error.trace_id,
            ) from None

    async def refresh(self, refresh_token: str, user_type: str) -> Granted:
        """The next pair; the refresh token is spent by it. Raises GrantEnded when it is invalid, ended or spent."""
        return await self._token(user_type, grant_type="refresh_token", refresh_token=refresh_token)

    async def _token(self, user_type: str, **form: str) -> Granted:
        app = self.application
        secrets = (app.client_secret, *(form[name] for name in ("code", "refresh_token") if name in form))
        form = {"client_id": app.client_id, "client_secret": app.client_secret, "user_type": user_type, **form}
        if self._v3:
            form = {_camel(name): value for name, value in form.items()}
        return _granted(await self._send("POST", "/oauth/token", secrets=secrets, form=form), user_type)

    async def reconnect(self, *, company_id: str | None, location_id: str | None) -> str:
        """A new authorization code, without a person, for an app that is still installed. Raises GrantEnded if not."""
        app = self.application
        body = {"clientKey": app.client_id, "clientSecret": app.client_secret}
        body |= {"locationId": location_id} if location_id else {"companyId": str(company_id)}
        try:
            told = await self._send("POST", "/oauth/reconnect", secrets=(app.client_secret,), body=body)
        except (RequestRefused, Unauthorised, LocationRefused) as error:
            raise GrantEnded(
                "the app is not connected any more", status=error.status, trace_id=error.trace_id
            ) from None
        code = told.get("authorizationCode")
        if not isinstance(code, str) or not code:
            raise BadAnswer("the answer to /oauth/reconnect holds no code")
        return code

    async def mint(self, access_token: str, company_id: str, location_id: str) -> Granted:
        """A location's access token for an agency's. Raises LocationRefused when the location has not the app."""
        path = "/oauth/location-token" if self._v3 else "/oauth/locationToken"
        form = {"companyId": company_id, "locationId": location_id}
        try:
            told = await self._send("POST", path, bearer=access_token, form=form)
        except RequestRefused as error:
            raise LocationRefused(
                f"the agency's grant gives no token for location {location_id}",
                hint="install the app on this location, or log in to it alone: rankr-sync auth login",
                status=error.status,
                trace_id=error.trace_id,
            ) from None
        return _granted({"locationId": location_id, "companyId": company_id, **told}, LOCATION)

    async def installed(self, access_token: str, company_id: str) -> list[Installed]:
        """Every location of the agency that has the app."""
        found: list[Installed] = []
        query: dict[str, str] = {"companyId": company_id, "appId": self.application.app_id, "isInstalled": "true"}
        query |= {"pageSize" if self._v3 else "limit": str(PAGE)}
        path = "/oauth/installed-locations" if self._v3 else "/oauth/installedLocations"
        while True:
            told = await self._send("GET", path, bearer=access_token, query=query)
            page = told.get("items" if "items" in told else "locations")
            if not isinstance(page, list):
                raise BadAnswer(f"the answer to {path} holds no list of locations")
            known = {one.id for one in found}
            new = [one for one in map(_installed, page) if one is not None and one.id not in known]
            found += new
            following = _following(told, len(found))
            if following is None or not new:
                return found
            query |= following

    async def _send(
        self,
        method: str,
        path: str,
        *,
        bearer: str | None = None,
        secrets: tuple[str, ...] = (),
        query: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
    ) -> JsonObject:
        headers = {"version": self._version}
        if bearer is not None:
            headers["authorization"] = f"Bearer {bearer}"
        try:
            async with asyncio.timeout(self._total_timeout):
                response = await self._client.request(
                    method, self._base_url + path, params=query, data=form, json=body, headers=headers
                )
        except SENDING_ERRORS as error:
            raise unreachable(error, self._host, self._total_timeout) from None
        if response.status_code == 429:
            raise throttled(response)
        if not response.is_success:
            raise _error_of(response, f"{method} {path}", (*secrets, bearer or ""))
        return decode(response.content, response.headers.get("content-type"))


def _error_of(response: httpx.Response, route: str, secrets: tuple[str, ...]) -> RankrSyncError:
    """From a status that is no success to an error of ours. Only an invalid grant is final."""
    status = response.status_code
    message, trace_id = error_words(response, secrets)
    known: dict[str, Any] = {"status": status, "trace_id": trace_id}
    if message is None or status in (408, 425) or status >= 500:
        return BadAnswer(f"{route} answered {status}{', not in JSON' if message is None else ''}", **known)
    words = message.lower().replace("_", " ")
    if "invalid grant" in words:
        return GrantEnded(f"the refresh token is not accepted: {message}", **known)
    if "not active" in words:
        # Unpaid or paused: the same refresh token works again once it is active.
        return TryLater(f"{message}; its login works again when it is", **known)
    if any(name in words for name in ("clientid", "clientsecret", "clientkey", "invalid client")):
        hint = "check oauth.client_id and oauth.client_secret, then run: rankr-sync auth status"
        return TokenRefused(f"HighLevel does not know the app: {message}", hint=hint, **known)
    if status == 401 and ("scope" in words or "authclass" in words):
        return ScopeMissing(
            f"the agency's grant lacks a scope for {route}",
            hint="add oauth.readonly and oauth.write to the app, then run: rankr-sync auth login --agency",
            **known,
        )
    if status == 401:
        return Unauthorised(f"{route}: {message or 401}", **known)
    return RequestRefused(f"{route} was refused ({status}): {message}", **known)


def _granted(told: JsonObject, user_type: str) -> Granted:
    """Of an answer in either spelling. Raises BadAnswer without an access token."""
    access = _either(told, "access_token")
    if not isinstance(access, str) or not access:
        raise BadAnswer("the answer of the token endpoint holds no access token")
    refresh, lasts, scopes = (_either(told, name) for name in ("refresh_token", "expires_in", "scope"))
    return Granted(
        access,
        refresh if isinstance(refresh, str) and refresh else None,
        float(lasts) if isinstance(lasts, int | float) and lasts > 0 else SHORTEST_LIFE,
        str(_either(told, "user_type") or user_type),
        _id(_either(told, "company_id")),
        _id(_either(told, "location_id")),
        tuple(scopes.split()) if isinstance(scopes, str) else (),
    )


def _either(told: JsonObject, name: str) -> Any:
    found = told.get(name)
    return told.get(_camel(name)) if found is None else found


def _id(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _installed(item: Any) -> Installed | None:
    id_ = _id(item.get("_id") or item.get("id")) if isinstance(item, dict) else None
    if id_ is None or item.get("isInstalled") is False:
        return None
    return Installed(id_, _id(item.get("name")))


def _following(told: JsonObject, read: int) -> dict[str, str] | None:
    """What asks for the next page, if there is one."""
    pagination = told.get("pagination")
    if isinstance(pagination, dict):
        token = pagination.get("nextPageToken")
        return {"pageToken": str(token)} if token else None
    count = told.get("count")
    return {"skip": str(read)} if isinstance(count, int) and read < count else None


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
