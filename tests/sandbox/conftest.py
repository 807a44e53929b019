"""A sandbox with a clock of its own, and a client that talks to it in process."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from rankr_sync.sandbox import DEFAULT_LOCATION_ID, DEFAULT_TOKEN, Sandbox, SandboxOptions, create_app

START = 1_790_000_000.0  # 2026-09-21T14:13:20Z
LOCATION = DEFAULT_LOCATION_ID


@dataclass
class Clock:
    """Time that stands still until told."""

    time: float = START
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        """Epoch seconds."""
        return self.time

    async def sleep(self, seconds: float) -> None:
        """Remember it, and be done."""
        self.slept.append(seconds)


class Api:
    """A client of one sandbox: bearer token and version on every request, unless told otherwise."""

    def __init__(self, sandbox: Sandbox, runner: asyncio.Runner) -> None:
        self.sandbox = sandbox
        self._runner = runner
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(sandbox)),
            base_url="http://sandbox",
            headers={"Authorization": f"Bearer {DEFAULT_TOKEN}", "Version": "2021-07-28"},
        )

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Any request."""
        return self._runner.run(self._client.request(method, path, **options))

    def get(self, path: str, **params: Any) -> httpx.Response:
        """A GET with a query."""
        return self("GET", path, params=params)

    def ok(self, path: str, **params: Any) -> dict[str, Any]:
        """The body of a successful GET."""
        answer = self.get(path, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def search(self, **body: Any) -> httpx.Response:
        """A contact search in the default location."""
        return self("POST", "/contacts/search", json={"locationId": LOCATION, "pageLimit": 100, **body})

    def found(self, **body: Any) -> list[str]:
        """Ids of a search."""
        answer = self.search(**body)
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["contacts"]]


@pytest.fixture
def clock() -> Clock:
    """The clock of this test's sandboxes."""
    return Clock()


Make = Callable[..., Api]


@pytest.fixture
def make(clock: Clock) -> Iterator[Make]:
    """Makes a sandbox with these options, and its client. No limits unless asked for."""
    with asyncio.Runner() as runner:

        def build(**options: Any) -> Api:
            chosen = SandboxOptions(**{"contacts": 60, "rate_limit": None, **options})
            return Api(Sandbox(chosen, clock, clock.sleep), runner)

        yield build


@pytest.fixture
def api(make: Make) -> Api:
    """A client of a sandbox with sixty contacts and no limits."""
    return make()


def first(api: Api, records: str = "contacts") -> str:
    """Id of some record."""
    return next(iter(getattr(api.sandbox.locations[LOCATION], records)))


def busy_contact(api: Api, kind: str) -> str:
    """A contact with at least one task, note or appointment."""
    by_contact = getattr(api.sandbox.locations[LOCATION], f"{kind}_of")
    return next(contact_id for contact_id, ids in by_contact.items() if ids)
