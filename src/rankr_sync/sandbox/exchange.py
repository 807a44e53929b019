"""One request, from its parts to the bytes of its answer: access, limits, faults, handler, JSON. No ASGI here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from . import (
    routes_calendars,
    routes_contact_writes,
    routes_contacts,
    routes_notes,
    routes_oauth,
    routes_reference,
    routes_tasks,
)
from .access import Grant, agency_token, check_version, foreign_location, missing_scope, unknown_token
from .errors import ApiError, bad, invalid
from .faults import AFTER_THE_FACT, Kind
from .limits import Header
from .routing import Answer, Request, Route, Table
from .sandbox import Call, Sandbox
from .world import Location, UnknownIdError

TABLE = Table(
    (
        *routes_contacts.ROUTES,
        *routes_contact_writes.ROUTES,
        *routes_tasks.ROUTES,
        *routes_notes.ROUTES,
        *routes_calendars.ROUTES,
        *routes_reference.ROUTES,
    )
)
JSON_TYPE: Header = (b"content-type", b"application/json; charset=utf-8")
HTML_TYPE: Header = (b"content-type", b"text/html; charset=UTF-8")
GATEWAY_PAGE = b"<!DOCTYPE html><html><head><title>502 Bad gateway</title></head><body>cloudflare</body></html>"
PORTAL_PAGE = (
    b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking your browser</body></html>"
)

# ASCII only, so that a lone surrogate travels as \ud800 instead of failing to encode.
encode: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode


@dataclass(slots=True)
class Incoming:
    """What the wire brought."""

    method: str
    path: str
    query_string: bytes
    authorization: str
    version: str
    host: str
    content: bytes


@dataclass(slots=True)
class Outgoing:
    """What to send, and how badly."""

    status: int
    headers: list[Header]
    content: bytes
    fault: Kind | None = None


@lru_cache(maxsize=4)
def _http_date(seconds: int) -> bytes:
    return formatdate(seconds, usegmt=True).encode()


class Exchange:
    """Answers requests; keeps no state but the sandbox's."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Answer for this sandbox."""
        self._sandbox = sandbox

    def answer(self, incoming: Incoming) -> Outgoing:
        """The answer, remembered in `calls` and counted."""
        if routes_oauth.is_oauth(incoming.path):
            return self._authorise(incoming)
        sandbox = self._sandbox
        with sandbox.lock:
            now = sandbox.now()
            at_ms = sandbox.advance()
            found = TABLE.find(incoming.method, incoming.path)
            route, params = found if found is not None else (None, {})
            query = _query(incoming.query_string)
            body, body_error = _parse(incoming.content)
            grant = sandbox.tokens.find(incoming.authorization, now)
            location: Location | None = None
            headers: list[Header] = []
            fault: Kind | None = None
            try:
                if grant is None:
                    check_version(incoming.version)
                    raise unknown_token(incoming.authorization)
                if grant.company_id is not None:
                    check_version(incoming.version)
                    raise agency_token()
                location, refusal = _locate(sandbox, grant, route, params, query, body)
                verdict = sandbox.buckets[location.id].take(now)
                headers = verdict.headers
                if not verdict.admitted:
                    raise ApiError(429, "Too Many Requests")
                _may(route, incoming, grant, refusal or body_error)
                assert route is not None
                fault = sandbox.faults.draw(incoming.method, route.template, incoming.path)
                request = Request(
                    sandbox, location, incoming.method, incoming.path, params, query, body,
                    incoming.version, incoming.host, at_ms,
                )  # fmt: skip
                outgoing = self._faulty(fault, headers) or self._good(route, request, headers, fault)
            except ApiError as error:
                outgoing = self._json(error.status, dict(error.body), headers)
            outgoing.headers.append((b"date", _http_date(int(now + sandbox.options.clock_skew))))
            self._remember(now, incoming, route.name if route else "unknown", location, outgoing, query, body)
        return outgoing

    def _authorise(self, incoming: Incoming) -> Outgoing:
        """The answer of an endpoint of OAuth: no location's limits, but faults, and a place among the calls."""
        sandbox = self._sandbox
        with sandbox.lock:
            now = sandbox.now()
            fault: Kind | None = None
            query = _query(incoming.query_string)
            asked = routes_oauth.Asked(
                incoming.method, incoming.path, query, routes_oauth.fields(incoming.content),
                incoming.authorization, incoming.version, now,
            )  # fmt: skip
            try:
                fault = sandbox.faults.draw(incoming.method, incoming.path, incoming.path)
                outgoing = self._faulty(fault, []) or _spoilt(self._told(routes_oauth.answer(sandbox, asked)), fault)
            except ApiError as error:
                outgoing = self._json(error.status, dict(error.body), [])
            outgoing.headers.append((b"date", _http_date(int(now))))
            name = f"{incoming.method} {incoming.path}"
            self._remember(now, incoming, name, None, outgoing, query, {"grant_type": asked.fields.get("grant_type")})
        return outgoing

    def _told(self, told: routes_oauth.Told) -> Outgoing:
        if told.location is not None:
            return Outgoing(302, [(b"location", told.location.encode())], b"")
        if told.page is not None:
            return Outgoing(told.status, [HTML_TYPE], told.page.encode())
        return self._json(told.status, told.payload, [])

    def _good(self, route: Route, request: Request, headers: list[Header], fault: Kind | None) -> Outgoing:
        try:
            status, payload = route.handler(request)
        except UnknownIdError as error:
            raise request.not_found("Record", str(error.args[0])) from None
        return _spoilt(self._json(status, payload, headers), fault)

    def _json(self, status: int, payload: dict[str, Any], headers: list[Header]) -> Outgoing:
        payload["traceId"] = self._sandbox.trace_id()
        return Outgoing(status, [JSON_TYPE, *headers], encode(payload).encode())

    def _faulty(self, fault: Kind | None, headers: list[Header]) -> Outgoing | None:
        """The answer of a fault that keeps the request from taking effect."""
        if fault is None or fault in AFTER_THE_FACT:
            return None
        if fault == "502-html":
            return Outgoing(502, [HTML_TYPE], GATEWAY_PAGE)
        if fault == "200-html":
            return Outgoing(200, [HTML_TYPE], PORTAL_PAGE)
        if fault == "empty-object":
            return Outgoing(200, [JSON_TYPE, *headers], b"{}")
        if fault == "wrong-shape":
            return self._json(200, {"data": {"items": [{"ok": True}]}, "meta": [], "success": "true"}, headers)
        status, payload = FAULTY_ANSWERS[fault]
        if fault == "503" or (fault == "429" and self._sandbox.options.retry_after):
            headers = [*headers, (b"retry-after", b"1")]
        return self._json(status, dict(payload), headers)

    def _remember(
        self,
        now: float,
        incoming: Incoming,
        route: str,
        location: Location | None,
        outgoing: Outgoing,
        query: dict[str, str],
        body: Any,
    ) -> None:
        sandbox = self._sandbox
        status = 0 if outgoing.fault == "reset" else outgoing.status
        where = location.id if location is not None else None
        sandbox.calls.append(Call(now, incoming.method, incoming.path, where, status, query, body))
        sandbox.requests += 1
        sandbox.by_route[route] += 1
        sandbox.by_status[status] += 1


FAULTY_ANSWERS: dict[str, Answer] = {
    "500": (500, {"statusCode": 500, "message": "Internal server error"}),
    "503": (503, {"statusCode": 503, "message": "Service Unavailable"}),
    "429": (429, {"statusCode": 429, "message": "Too Many Requests", "error": "Too Many Requests"}),
    "401": (401, dict(missing_scope().body)),  # seen as an outage on valid tokens (docs#217)
    "403": (403, dict(foreign_location().body)),
}


def _spoilt(outgoing: Outgoing, fault: Kind | None) -> Outgoing:
    """The answer of a request that took effect, and of which no good news arrives."""
    outgoing.fault = fault if fault in AFTER_THE_FACT else None
    if fault == "half-json":
        outgoing.content = outgoing.content[: len(outgoing.content) // 2]
    return outgoing


_NO_QUERY: dict[str, str] = {}


def _query(text: bytes) -> dict[str, str]:
    return dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True)) if text else _NO_QUERY


def _parse(content: bytes) -> tuple[Any, ApiError | None]:
    if not content:
        return None, None
    try:
        return json.loads(content), None
    except ValueError:
        return None, bad("Unexpected token in JSON")


def _may(route: Route | None, incoming: Incoming, grant: Grant, refusal: ApiError | None) -> None:
    """Raise what keeps this request from its handler, in the order in which the real gateway would notice."""
    check_version(incoming.version)
    if route is None:
        raise ApiError(404, f"Cannot {incoming.method} {incoming.path}")
    if route.gone_in_v3 and incoming.version == "v3":
        # docs#304
        raise bad(
            f"Endpoint {incoming.method} {incoming.path} not available in API version v3. "
            "This endpoint was removed in version v3. Please use an earlier version."
        )
    if route.scope not in grant.scopes:
        raise missing_scope()
    if refusal is not None:
        raise refusal


def _locate(
    sandbox: Sandbox, grant: Grant, route: Route | None, params: dict[str, str], query: dict[str, str], body: Any
) -> tuple[Location, ApiError | None]:
    """The location whose quota the request uses, and the refusal if it is about another one."""
    own = sandbox.locations[grant.locations[0]]
    if route is None:
        return own, None
    if route.locate in ("path", "query", "body"):
        named = {"path": params, "query": query, "body": body if isinstance(body, dict) else {}}[route.locate]
        name = named.get("locationId")
        if not name:
            return own, invalid("locationId should not be empty")
        if name not in grant.locations or name not in sandbox.locations:
            return own, foreign_location()
        return sandbox.locations[name], None
    return _by_id(sandbox, grant, own, route, params)


def _by_id(
    sandbox: Sandbox, grant: Grant, own: Location, route: Route, params: dict[str, str]
) -> tuple[Location, ApiError | None]:
    key = {"contact": "contactId", "event": "eventId", "business": "businessId"}[route.locate]
    for location in sandbox.locations.values():
        if _holds(location, route.locate, params[key]):
            return (location, None) if location.id in grant.locations else (own, foreign_location())
    return own, None


def _holds(location: Location, kind: str, record_id: str) -> bool:
    if kind == "contact":
        return record_id in location.contacts
    if kind == "event":
        return record_id in location.appointments or record_id in location.deleted_appointments
    return record_id in location.reference.businesses
