"""Endpoints of OAuth 2.0: the page where a location is chosen, tokens, reconnection, and an agency's locations.

Field names are snake_case, or camelCase under v3, where two of the paths are spelt differently too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from .access import ALL_SCOPES, Grant, check_version, missing_scope, unknown_token
from .errors import ApiError, bad, invalid
from .oauth import APP_ID, CLIENT_ID, CLIENT_SECRET, COMPANY_ID, Holder, Pair, UserType
from .times import iso

if TYPE_CHECKING:
    from .sandbox import Sandbox

CHOOSE = "/v2/oauth/chooselocation"
AGENCY_SCOPES = frozenset({"oauth.readonly", "oauth.write"})
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    fields: Record
    """Of the form or JSON object in the body, by their snake_case names."""
    authorization: str
    version: str
    now: float

    @property
    def v3(self) -> bool:
        """Whether names are camelCase."""
        return self.version == "v3"

    def need(self, name: str) -> str:
        """A field that must be there."""
        value = self.fields.get(name)
        if not value:
            raise bad(f"Missing parameter: {_camel(name)}")
        return str(value)


@dataclass(frozen=True, slots=True)
class Told:
    """What is answered: a JSON object, a page, or a redirect."""

    status: int = 200
    payload: Record = field(default_factory=dict)
    page: str | None = None
    location: str | None = None


def is_oauth(path: str) -> bool:
    """Whether this module answers."""
    return path.startswith("/oauth/") or path == CHOOSE


def fields(content: bytes) -> Record:
    """The fields of a form or a JSON object, by their snake_case names; none where it is neither."""
    try:
        found = json.loads(content) if content.startswith(b"{") else dict(parse_qsl(content.decode()))
    except ValueError:
        return {}
    return {
        "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key): found[key] for key in found
    }


def answer(sandbox: Sandbox, asked: Asked) -> Told:
    """Answer a request of `is_oauth`."""
    minting, listing = (
        ("location-token", "installed-locations") if asked.v3 else ("locationToken", "installedLocations")
    )
    routes = {
        ("GET", CHOOSE): choose,
        ("POST", "/oauth/token"): give_token,
        ("POST", "/oauth/reconnect"): reconnect,
        ("POST", f"/oauth/{minting}"): mint,
        ("GET", f"/oauth/{listing}"): list_installed,
    }
    handler = routes.get((asked.method, asked.path))
    if handler is None:
        raise ApiError(404, f"Cannot {asked.method} {asked.path}")
    return handler(sandbox, asked)


def choose(sandbox: Sandbox, asked: Asked) -> Told:
    """The page with a link for each location and one for the agency; with a `choice`, the redirect."""
    query = asked.query
    if query.get("client_id") != CLIENT_ID:
        return _refusal("error.invalidclient")
    if query.get("version_id") != APP_ID:
        return _refusal("error.noversionid")  # the sandbox's app is a private one
    scopes = frozenset(query.get("scope", "").split())
    if query.get("response_type") != "code" or not scopes or not scopes <= ALL_SCOPES | AGENCY_SCOPES:
        return _refusal("error.invalidscope")
    target = query.get("redirect_uri", "")
    if not _may_redirect(target, sandbox):
        return _refusal("error.invalidredirecturi")
    chosen = query.get("choice")
    if chosen is None:
        return Told(page=_page(sandbox, query))
    if chosen != COMPANY_ID and chosen not in sandbox.locations:
        return _refusal("error.nolocation")
    user_type: UserType = "Company" if chosen == COMPANY_ID else "Location"
    back = {"code": sandbox.oauth.install(user_type, chosen, scopes, asked.now)}
    if "state" in query:
        back["state"] = query["state"]
    return Told(location=f"{target}{'&' if urlsplit(target).query else '?'}{urlencode(back)}")


def _may_redirect(target: str, sandbox: Sandbox) -> bool:
    parts = urlsplit(target)
    here = parts.hostname in ("localhost", "127.0.0.1", "::1")
    return parts.scheme == "https" or (parts.scheme == "http" and here and sandbox.options.http_redirects)


def _refusal(words: str) -> Told:
    return Told(400, page=f"<!DOCTYPE html><title>Error</title><p>{escape(words)}")


def _page(sandbox: Sandbox, query: dict[str, str]) -> str:
    names = [(name, location.reference.profile["name"]) for name, location in sandbox.locations.items()]
    links = "".join(
        f'<li><a href="{CHOOSE}?{escape(urlencode({**query, "choice": id_}))}">{escape(name)}</a>'
        for id_, name in [*names, (COMPANY_ID, "The whole agency")]
    )
    asks = "".join(f"<li>{escape(scope)}" for scope in query["scope"].split())
    return (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<title>Choose a location</title><body><h1>Choose a location</h1>"
        f"<p>Simulated: nothing here is real. The app asks for:<ul>{asks}</ul><ul>{links}</ul></body></html>"
    )


def give_token(sandbox: Sandbox, asked: Asked) -> Told:
    """A pair for a code or a refresh token. Dated versions need no Version header here."""
    kind = asked.need("grant_type")
    if kind not in ("authorization_code", "refresh_token"):
        raise bad("Invalid parameter: grantType")
    asked.need("client_id")
    asked.need("client_secret")
    if kind == "authorization_code":
        pair = sandbox.oauth.exchange(asked.need("code"), asked.now)
        _check_client(asked, "client_id")
    else:
        _check_client(asked, "client_id")
        pair = sandbox.oauth.refresh(asked.need("refresh_token"), asked.now)
    return Told(200, _shown(sandbox, pair, v3=asked.v3))


def _check_client(asked: Asked, id_name: str) -> None:
    for name, right in ((id_name, CLIENT_ID), ("client_secret", CLIENT_SECRET)):
        if asked.need(name) != right:
            raise bad(f"Invalid parameter: {_camel(name)}")


def reconnect(sandbox: Sandbox, asked: Asked) -> Told:
    """A new code for an app that is still installed (help 155000003717; in no OpenAPI file)."""
    _check_client(asked, "client_key")
    id_ = asked.fields.get("location_id") or asked.fields.get("company_id")
    if not id_:
        raise invalid("locationId or companyId should not be empty")
    code, ends = sandbox.oauth.reconnect(str(id_), asked.now)
    return Told(200, {"authorizationCode": code, "expiresAt": iso(round(ends * 1000))})


def mint(sandbox: Sandbox, asked: Asked) -> Told:
    """A location's token for an agency's."""
    grant = _agency(sandbox, asked, "oauth.write")
    if asked.need("company_id") != grant.company_id:
        raise bad("Invalid parameter: companyId")
    company = Holder("Company", grant.company_id, grant.scopes)
    pair = sandbox.oauth.mint(company, asked.need("location_id"), asked.now)
    return Told(201, _shown(sandbox, pair, v3=asked.v3))


def list_installed(sandbox: Sandbox, asked: Asked) -> Told:
    """The agency's locations, by skip and limit; under v3 by page token."""
    grant = _agency(sandbox, asked, "oauth.readonly")
    if asked.query.get("companyId") != grant.company_id or asked.query.get("appId") != APP_ID:
        raise invalid("companyId and appId should not be empty")
    wanted = asked.query.get("isInstalled")
    found = [
        {
            "_id": name,
            "name": location.reference.profile["name"],
            "address": location.reference.profile["address"],
            "isInstalled": name in sandbox.oauth.installed,
        }
        for name, location in sandbox.locations.items()
        if wanted is None or (name in sandbox.oauth.installed) == (wanted == "true")
    ]
    skip = int(asked.query.get("pageToken" if asked.v3 else "skip") or 0)
    size = int(asked.query.get("pageSize" if asked.v3 else "limit") or 20)
    page, more = found[skip : skip + size], skip + size < len(found)
    if not asked.v3:
        return Told(200, {"locations": page, "count": len(found), "installToFutureLocations": False})
    pagination = {"totalRecords": len(found), "hasNextPage": more}
    return Told(200, {"items": page, "pagination": pagination | ({"nextPageToken": str(skip + size)} if more else {})})


def _agency(sandbox: Sandbox, asked: Asked, scope: str) -> Grant:
    check_version(asked.version)
    grant = sandbox.tokens.find(asked.authorization, asked.now)
    if grant is None:
        raise unknown_token(asked.authorization)
    if grant.company_id is None or scope not in grant.scopes:
        raise missing_scope()
    return grant


def _shown(sandbox: Sandbox, pair: Pair, *, v3: bool) -> Record:
    holder = pair.holder
    agency = holder.user_type == "Company"
    names: Record = {
        "access_token": pair.access_token,
        "token_type": "Bearer",
        "expires_in": pair.expires_in,
        "scope": " ".join(sorted(holder.scopes)),
    }
    if pair.refresh_token is not None:
        names["refresh_token"] = pair.refresh_token
    shown: Record = {_camel(name) if v3 else name: value for name, value in names.items()}
    shown |= {"userType": holder.user_type, "companyId": COMPANY_ID, "userId": "SandboxUser000000001"}
    if agency:
        return shown | {"isBulkInstallation": True, "approvedLocations": sorted(sandbox.oauth.installed)}
    return shown | {"locationId": holder.id}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
