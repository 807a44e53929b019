"""What an answer says beside its payload: the limits, the time, and of a status that is no success, which error."""

import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import httpx
import structlog

from rankr_sync.decode import decode
from rankr_sync.errors import (
    BadAnswer,
    EndpointGone,
    LocationRefused,
    NotFound,
    RankrSyncError,
    RequestRefused,
    ScopeMissing,
    Throttled,
    TokenRefused,
    Unauthorised,
)
from rankr_sync.highlevel.credentials import Credentials
from rankr_sync.model import JsonObject, Request
from rankr_sync.pacing import RateHeaders

log = structlog.get_logger()


def rate_headers(raw: Sequence[tuple[bytes, bytes]]) -> RateHeaders:
    """The limits; a header that is absent or no number is not there."""
    told: dict[bytes, int] = {}
    for name, value in raw:
        lower = name.lower()
        if lower.startswith(b"x-ratelimit-") and value.isdigit() and len(value) <= 15:
            told[lower[12:]] = int(value)
    milliseconds, reset = told.get(b"interval-milliseconds"), told.get(b"daily-reset")
    return RateHeaders(
        limit=told.get(b"max"),
        remaining=told.get(b"remaining"),
        interval=milliseconds / 1000 if milliseconds else None,
        daily_limit=told.get(b"limit-daily"),
        daily_remaining=told.get(b"daily-remaining"),
        daily_reset=reset / 1000 if reset is not None else None,
    )


def server_time(headers: httpx.Headers) -> datetime | None:
    """The answer's Date header, if it has one that can be read."""
    value = headers.get("date")
    try:
        return _moment(value) if value else None
    except ValueError:
        return None


def _moment(http_date: str) -> datetime:
    """Raises ValueError. A date whose zone is written as unknown (-0000) is meant in UTC, as all HTTP dates."""
    found = parsedate_to_datetime(http_date)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _retry_after(headers: httpx.Headers) -> float | None:
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (_moment(value) - datetime.now(UTC)).total_seconds()
        except ValueError:
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), 86_400.0)


def throttled(response: httpx.Response) -> Throttled:
    """The error of a 429, with the wait that the API asks for."""
    error = Throttled("the API's rate limit was hit (429)", status=429, trace_id=error_words(response, ())[1])
    error.retry_after = _retry_after(response.headers)
    return error


_ADDRESSES = re.compile(r"[^\s\"'<>]+@[^\s\"'<>]+|\+\d[\d ().-]{5,}\d")


def _error_body(response: httpx.Response) -> tuple[str | None, str | None]:
    return error_words(response, [response.request.headers["authorization"].removeprefix("Bearer ")])


def error_words(response: httpx.Response, secrets: Iterable[str]) -> tuple[str | None, str | None]:
    """The message (one line, whatever its form) and trace id of a body that is an error; no message: not JSON.

    An answer may repeat what was sent: neither the secrets nor a contact's addresses get any further.
    """
    try:
        body: JsonObject = decode(response.content, response.headers.get("content-type"))
    except BadAnswer:
        return None, None
    message: Any = body.get("message") or body.get("error_description") or body.get("error") or ""
    if isinstance(message, list):
        message = "; ".join(str(part) for part in message)
    line = " ".join(str(message).split())
    for secret in filter(None, secrets):
        line = line.replace(secret, "(token)")
    trace_id = body.get("traceId")
    return _ADDRESSES.sub("(address)", line)[:300], trace_id if isinstance(trace_id, str) else None


def raise_for(response: httpx.Response, request: Request) -> NoReturn:
    """From a status that is not a success to an error of ours (statuses as documented and as reported)."""
    status = response.status_code
    message, trace_id = _error_body(response)
    known: dict[str, Any] = {"status": status, "trace_id": trace_id}
    if status == 401:
        raise Unauthorised(message or "the API refused the token (401)", **known)
    if 300 <= status < 400:
        raise RequestRefused(f"the API redirects ({status}), which is not followed", hint="check api.base_url", **known)
    if message is None or status in (408, 425) or status >= 500:
        # Whatever its status, a page without the API's own words is a gateway's (Cloudflare blocks with 403).
        problem = BadAnswer(f"the API answered {status}{', not in JSON' if message is None else ''}", **known)
        problem.retry_after = _retry_after(response.headers)
        raise problem
    words = message.lower()
    if status == 403:
        raise LocationRefused(
            f"the token has no access to this location ({message or 403})",
            hint="use a token made in this sub-account, or correct the location id in your configuration",
            **known,
        )
    if status == 400 and "not available in api version" in words:
        raise EndpointGone(f"{request.method} {request.route} does not exist in this API version", **known)
    if status == 404 and words.startswith("cannot "):
        raise EndpointGone(f"{request.method} {request.route} does not exist", **known)
    if status == 404 or (status == 400 and ("not found" in words or "invalid id" in words or "id is invalid" in words)):
        raise NotFound(f"{request.route}: not found at the source", **known)
    hint = "check api.version" if "version" in words else None
    raise RequestRefused(f"{request.method} {request.route} was refused ({status}): {message}", hint=hint, **known)


def is_about_token(error: Unauthorised) -> bool:
    """Whether a 401 may mean the token itself, by its words: not its scope, nor the Version header."""
    words = error.message.lower()
    return not any(word in words for word in ("scope", "authclass", "version"))


def give_up_on_token(error: Unauthorised, request: Request, credentials: Credentials) -> NoReturn:
    """A 401 that stayed: tell a missing scope from a dead token by its words."""
    final = _final_word(error, request, credentials)
    final.requests = error.requests
    raise final from None


def _final_word(error: Unauthorised, request: Request, credentials: Credentials) -> RankrSyncError:
    known: dict[str, Any] = {"status": error.status, "trace_id": error.trace_id}
    words = error.message.lower()
    if "scope" in words or "authclass" in words:
        return ScopeMissing(
            f"the token lacks the scope {request.scope}", hint=credentials.adding(request.scope), **known
        )
    if "version" in words:
        return RequestRefused(f"the API refuses the Version header: {error.message}", hint="check api.version", **known)
    return TokenRefused("the API refuses the token", hint=credentials.renewal, **known)
