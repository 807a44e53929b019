"""What can be chosen about a sandbox, and the names its locations and tokens get.

Only values live here. Who reads them: `sandbox` (the whole), `limits`, `faults`, `churn`, `generate`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

DEFAULT_LOCATION_ID = "SandboxLocation00001"
DEFAULT_TOKEN = "pit-sandbox-00001"  # noqa: S105 - opens nothing real


def location_id(number: int) -> str:
    """Name of the `number`-th location, counted from 1."""
    return f"SandboxLocation{number:05d}"


def token_of(number: int) -> str:
    """Private integration token that opens the `number`-th location."""
    return f"pit-sandbox-{number:05d}"


@dataclass(frozen=True)
class RateLimit:
    """At most `requests` in any `seconds`; HighLevel documents 100 in 10."""

    requests: int
    seconds: float

    def __post_init__(self) -> None:
        """Refuse a limit that lets nothing through."""
        if self.requests < 1 or self.seconds <= 0:
            raise ValueError(f"a rate limit needs at least one request and a positive time, not {self}")

    @classmethod
    def parse(cls, text: str) -> RateLimit:
        """Read `100/10s`, `100/10`, `5/0.5s` or `600/1m`."""
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)?\s*", text)
        if match is None:
            raise ValueError(f"not a rate limit: {text!r}; write for example 100/10s")
        unit = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[match[3] or "s"]
        return cls(int(match[1]), float(match[2]) * unit)

    def __str__(self) -> str:
        return f"{self.requests}/{self.seconds:g}s"


@dataclass(frozen=True)
class SandboxOptions:
    """Size, weather and temper of a sandbox. The defaults are the documented behaviour of the real API."""

    contacts: int = 500
    """Contacts in each location."""
    seed: int = 1
    locations: int = 1
    timezone: str = "America/New_York"
    """Zone of every location: the one that zone-less appointment times are in."""

    rate_limit: RateLimit | None = RateLimit(100, 10.0)
    """None: no limits at all, not even the daily one, and no rate-limit headers."""
    rate_window: Literal["sliding", "fixed"] = "sliding"
    """Which window is enforced; excess over both is always counted."""
    daily_limit: int | None = 200_000
    retry_after: bool = True
    """Whether a 429 carries `Retry-After` (undocumented on the real API)."""

    clock_skew: float = 0.0
    """Seconds that the `Date` header is ahead of the truth."""
    latency_ms: float = 0.0
    fault_rate: float = 0.0
    """Share of requests that meet a transient fault."""
    stall_seconds: float = 30.0
    slow_body_seconds: float = 2.0

    churn: float = 0.0
    """Changes a second, over all locations."""
    children_bump: float = 0.0
    """Chance that a changed task, note or appointment moves its contact's `dateUpdated`."""
    tags_bump: bool = True
    """Whether adding or removing tags moves `dateUpdated`; not known of the real API."""
    index_lag: float = 0.0
    """Seconds until `POST /contacts/search` sees a write."""
    index_skew_ms: int = 0
    """Added to the `dateUpdated` that search shows of an edited contact (4 in Nango recordings 2026-07-17)."""

    tasks_search_default: Literal["all", "open"] = "all"
    """What the location-wide task search returns when `completed` is not given."""
    tasks_search_rows: Literal["lean", "rich"] = "lean"
    """`rich` adds what field notes of 2026-09 saw: status 201, `dateAdded`, `dateUpdated`, `deleted`, `status`, and a
    `searchAfter` in each row that may be sent back instead of `skip`."""
    token_lasts: float = 86_400.0
    """Seconds that an OAuth access token is good for; private integration tokens do not end."""
    http_redirects: bool = False
    """Whether OAuth may redirect to plain http on this machine, which the real one refuses."""
    not_found_status: Literal[400, 404] = 400
    allow_duplicates: bool = True
    maxlen: int = 100_000
    """How many calls `Sandbox.calls` remembers."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no sandbox."""
        if self.contacts < 0 or self.locations < 1:
            raise ValueError("a sandbox needs a location, and no less than zero contacts")
        if not 0.0 <= self.fault_rate <= 1.0 or not 0.0 <= self.children_bump <= 1.0:
            raise ValueError("fault_rate and children_bump are shares between 0 and 1")
        if self.churn < 0 or self.latency_ms < 0 or self.index_lag < 0:
            raise ValueError("churn, latency_ms and index_lag cannot be negative")
