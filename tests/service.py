"""The service surface for tests: the real routes behind the real gate, asked by httpx as a browser or program would."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr
from starlette.applications import Starlette

from mirror import account, configuration, connected
from rankr_sync.app import App
from rankr_sync.config import Http
from rankr_sync.reading import Reading
from rankr_sync.sandbox import Sandbox
from rankr_sync.service.access import access_of
from rankr_sync.service.health import Pulse
from rankr_sync.service.metrics import Metrics
from rankr_sync.service.server import address_of, create_app

PASSWORD, TOKEN = "correct horse battery staple", "program-token-of-this-test"
HOST = "http://127.0.0.1:8700"


@dataclass(frozen=True, slots=True)
class Surface:
    """What a test holds: a visitor, the application, and what is behind it."""

    visitor: httpx.AsyncClient
    web: Starlette
    app: App
    metrics: Metrics
    clock: "Clock"

    def another(self, base_url: str = HOST, *, address: str = "192.0.2.7") -> httpx.AsyncClient:
        """A visitor with no cookies, from another machine."""
        return visitor(self.web, base_url, address)


class Clock:
    """A monotonic clock that is set by hand."""

    at = 1000.0

    def __call__(self) -> float:
        """Now."""
        return self.at


@contextlib.asynccontextmanager
async def surface(
    database_url: str,
    sandbox: Sandbox | None = None,
    *,
    http: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> AsyncIterator[Surface]:
    """The service over an account, listening on loopback unless `http` says otherwise, with `options` of `build`."""
    settings = Http(**(http or {}))
    metrics, clock = Metrics(), Clock()
    config = configuration(database_url, **changes)
    async with connected(sandbox or account(0), config, observer=metrics, **(options or {})) as app:
        host, port = address_of(settings.listen)
        access = access_of(settings, host, port, clock=clock)
        reading = Reading(app.store)
        web = create_app(app, reading, access, metrics, Pulse(clock))
        try:
            async with visitor(web) as client:
                yield Surface(client, web, app, metrics, clock)
        finally:
            reading.close()


def visitor(web: Starlette, base_url: str = HOST, address: str = "127.0.0.1") -> httpx.AsyncClient:
    """A browser: takes cookies, follows nothing by itself."""
    transport = httpx.ASGITransport(web, client=(address, 50_000))
    return httpx.AsyncClient(transport=transport, base_url=base_url, headers={"accept": "text/html"})


def with_password(**more: Any) -> dict[str, Any]:
    """The configuration of a service with a password and a token."""
    return {"password": SecretStr(PASSWORD), "token": SecretStr(TOKEN), **more}


async def sign_in(client: httpx.AsyncClient, password: str = PASSWORD, next_path: str = "/") -> httpx.Response:
    """Open the page to sign in, and send its form."""
    page = await client.get("/login", params={"next": next_path})
    form = {"password": password, "next": next_path, "csrf": csrf_of(page)}
    return await client.post("/login", data=form, headers={"origin": str(client.base_url).rstrip("/")})


def csrf_of(page: httpx.Response) -> str:
    """The token in a page's form."""
    return page.text.partition('name="csrf" value="')[2].partition('"')[0]
