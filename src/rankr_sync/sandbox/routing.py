"""What a handler gets and gives, and the table that finds it. The handlers are in the `routes_*` modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .errors import ApiError, bad, invalid
from .reference import Record

if TYPE_CHECKING:
    from .sandbox import Sandbox
    from .world import Location

Locate = Literal["path", "query", "body", "contact", "event", "business"]
"""Where a request names its location: directly, or through the id of something in it."""
Answer = tuple[int, dict[str, Any]]


@dataclass(slots=True)
class Request:
    """A request that may be answered: authorised, within its limits, about one location."""

    sandbox: Sandbox
    location: Location
    method: str
    path: str
    params: dict[str, str]
    query: dict[str, str]
    body: Any
    version: str
    host: str
    at_ms: int

    def fields(self) -> Record:
        """The JSON object in the body."""
        if not isinstance(self.body, dict):
            raise bad("Expected a JSON object in the body")
        return self.body

    def contact_id(self) -> str:
        """The contact in the path, which must exist."""
        contact_id = self.params["contactId"]
        if contact_id not in self.location.contacts:
            # `GET /contacts/tasks` answers the same: its last segment is read as an id (field 2026-09).
            raise self.not_found("Contact", contact_id)
        return contact_id

    def not_found(self, what: str, record_id: str) -> ApiError:
        """400 by default: both 400 and 404 are reported for contacts."""
        return ApiError(self.sandbox.options.not_found_status, f"{what} with id {record_id} not found")

    def number(self, name: str, default: int, most: int) -> int:
        """A whole number of the query between 0 and `most`."""
        text = self.query.get(name, "")
        if not text:
            return default
        if not text.isascii() or not text.isdigit():
            raise invalid(f"{name} must be a number string")
        if int(text) > most:
            raise invalid(f"{name} must not be greater than {most}")
        return int(text)

    def succeeded(self, *, legacy: bool = False) -> Record:
        """The success flag: misspelt and spelt right under dated versions, right only under v3 (deletes keep both)."""
        return {"succeeded": True} if self.version == "v3" and not legacy else {"succeded": True, "succeeded": True}


Handler = Callable[[Request], Answer]


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint."""

    method: str
    template: str
    scope: str
    locate: Locate
    handler: Handler
    gone_in_v3: bool = False
    name: str = field(init=False)
    segments: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Cut the template once."""
        object.__setattr__(self, "name", f"{self.method} {self.template}")
        object.__setattr__(self, "segments", split(self.template))


def split(path: str) -> tuple[str, ...]:
    """Segments of a path; `/contacts/` and `/contacts` are the same."""
    return tuple(part for part in path.split("/") if part)


class Table:
    """All endpoints, by method and number of segments; fixed segments win over parameters."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Sort the routes into their bins."""
        self._bins: dict[tuple[str, int], list[Route]] = {}
        for route in routes:
            self._bins.setdefault((route.method, len(route.segments)), []).append(route)
        for found in self._bins.values():
            found.sort(key=lambda route: sum(part.startswith("{") for part in route.segments))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route of a request, and the values of its parameters."""
        segments = split(path)
        for route in self._bins.get((method, len(segments)), ()):
            params: dict[str, str] = {}
            for pattern, actual in zip(route.segments, segments, strict=True):
                if pattern[0] == "{":
                    params[pattern[1:-1]] = actual
                elif pattern != actual:
                    break
            else:
                return route, params
        return None
