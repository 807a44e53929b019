"""Who may call what: tokens, scopes, versions. The tokens of OAuth (`oauth`) are in the same table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .errors import ApiError, bad

VERSIONS = frozenset({"2021-07-28", "2021-04-15", "2023-02-21", "v3"})
ALL_SCOPES = frozenset(
    {
        "contacts.readonly",
        "contacts.write",
        "locations.readonly",
        "locations/tasks.readonly",
        "locations/customFields.readonly",
        "locations/tags.readonly",
        "businesses.readonly",
        "users.readonly",
        "calendars.readonly",
        "calendars/events.readonly",
        "calendars/events.write",
    }
)


@dataclass(frozen=True)
class Grant:
    """What a token opens."""

    locations: tuple[str, ...]
    """Empty for the token of an agency, which opens no location by itself."""
    scopes: frozenset[str]
    company_id: str | None = None
    """Whose agency's token it is, if it is one."""
    ends_at: float | None = None
    """Epoch seconds; None for a private integration token, which does not end."""


class Tokens:
    """The table of valid tokens."""

    def __init__(self) -> None:
        """Start with none."""
        self._grants: dict[str, Grant] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._grants)

    def grant(self, token: str, locations: Iterable[str], scopes: Iterable[str] | None = None) -> Grant:
        """Make a token valid for these locations and scopes (None: all scopes), or change what it opens."""
        granted = Grant(tuple(locations), ALL_SCOPES if scopes is None else frozenset(scopes))
        self._grants[token] = granted
        return granted

    def grant_until(self, token: str, user_type: str, id_: str, scopes: frozenset[str], ends_at: float) -> None:
        """Make an OAuth token valid until then: of a location, or of an agency (`Company`)."""
        agency = user_type == "Company"
        self._grants[token] = Grant(() if agency else (id_,), scopes, id_ if agency else None, ends_at)

    def revoke(self, token: str) -> None:
        """From now on the token is unknown."""
        self._grants.pop(token, None)

    def find(self, authorization: str, now: float) -> Grant | None:
        """The grant of an `Authorization: Bearer ...` value, unless it has ended."""
        kind, _, token = authorization.partition(" ")
        found = self._grants.get(token.strip()) if kind.lower() == "bearer" else None
        return None if found is None or (found.ends_at is not None and found.ends_at <= now) else found


def unknown_token(authorization: str) -> ApiError:
    """401 for a missing, malformed or unknown token."""
    if not authorization:
        return ApiError(401, "Invalid JWT")
    return ApiError(401, "Invalid token: access token is invalid")


def missing_scope() -> ApiError:
    """401, not 403; the same text was seen as a passing outage on valid tokens (docs#217)."""
    return ApiError(401, "The token is not authorized for this scope.")


def agency_token() -> ApiError:
    """401 for an agency's token where only a location's will do (field)."""
    return ApiError(401, "This authClass type is not allowed to access this scope. Please reach out to support team.")


def foreign_location() -> ApiError:
    """403, in no spec (n8n#11353)."""
    return ApiError(403, "The token does not have access to this location.")


def check_version(version: str) -> None:
    """The header is required, and must be one of the known versions (field notes disagree on the nonsense case)."""
    if not version:
        raise ApiError(401, "version header was not found.")
    if version not in VERSIONS:
        raise bad(f"Invalid API version segment '{version}' at position 0")
