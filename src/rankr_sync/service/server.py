"""The HTTP server of the daemon, in its own event loop: the routes, the address, and how it begins and ends."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from rankr_sync.app import App
from rankr_sync.config import Http
from rankr_sync.errors import BadConfiguration
from rankr_sync.reading import Reading
from rankr_sync.service.access import Access, Gate, access_of, local_path, set_session, too_fast
from rankr_sync.service.health import Health, Pulse
from rankr_sync.service.metrics import Metrics, gather
from rankr_sync.status_page.routes import login_page, routes
from rankr_sync.status_page.words import many

log = structlog.get_logger()

OFF = "off"

MOST_CONNECTIONS = 200
GRACE = 1
"""Whole seconds that answers under way are given when the daemon ends."""

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Listener:
    """An address that is ours, and who may come in there."""

    socket: socket.socket
    access: Access

    @property
    def url(self) -> str:
        """Where to find us, with the real port."""
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(http: Http) -> Listener | None:
    """Take the address of the configuration; None where nothing is to be served.

    Raises AddressTaken where it cannot be had, BadConfiguration where it would be open to others without a password
    or token.
    """
    if http.listen.strip().lower() == OFF:
        return None
    host, port = address_of(http.listen)
    access = access_of(http, host, port)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
        # The protocol is named: asyncio sets TCP_NODELAY only then, and without it each answer takes 40 ms.
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _not_ours(http.listen, port, error) from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise _not_ours(http.listen, port, error) from None
    return Listener(bound, access)


def listen_again(before: Listener | None, old: Http, new: Http) -> Listener | None:
    """As `listen`, for a configuration that is changed: where the address is the same, so is the socket."""
    if before is None or old.listen.strip() != new.listen.strip():
        return listen(new)
    access = access_of(new, *address_of(new.listen))
    access.sessions.go_on_with(before.access.sessions)
    return Listener(before.socket, access)


def address_of(listen: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8700` or `[::1]:8700`. Raises BadConfiguration."""
    host, separator, port = listen.strip().rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not separator or not bare or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise BadConfiguration(f"http.listen is {listen!r}", hint='write it as 127.0.0.1:8700, [::1]:8700 or "off"')
    return bare, int(port)


class AddressTaken(BadConfiguration):
    """The address of the configuration cannot be had."""


def _not_ours(listen: str, port: int, error: OSError) -> AddressTaken:
    other = port + 1 if 0 < port < 65_535 else 8700
    return AddressTaken(
        f"http.listen {listen} cannot be used: {error.strerror or error}",
        hint=f"another program may be there: choose another with RANKR_SYNC_HTTP__LISTEN=127.0.0.1:{other}, or off",
    )


def create_app(app: App, reading: Reading, access: Access, metrics: Metrics, pulse: Pulse) -> Starlette:
    """Everything that is served, behind its access control."""
    web = Starlette(
        routes=[
            Route("/healthz", _healthz),
            Route("/readyz", _readyz),
            Route("/metrics", _metrics),
            Route("/login", _login, methods=["GET", "POST"]),
            Route("/logout", _logout, methods=["POST"]),
            *routes(),
        ],
        middleware=[Middleware(Gate, access=access)],
    )
    web.state.app = app
    web.state.reading = reading
    web.state.access = access
    web.state.metrics = metrics
    web.state.health = Health(app, reading, pulse)
    return web


async def _healthz(request: Request) -> Response:
    """Whether the program lives: that it answers says that its loop does."""
    alive = request.app.state.health.pulse.alive
    return JSONResponse({"alive": alive}, 200 if alive else 503)


async def _readyz(request: Request) -> Response:
    """Whether the mirror is as fresh as promised."""
    readiness = await request.app.state.health.readiness()
    return JSONResponse(readiness.as_json(), 200 if readiness.ready else 503)


async def _metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    state = request.app.state
    figures = await gather(state.app, state.reading, state.health)
    return Response(state.metrics.text(figures), headers={"content-type": METRICS_TYPE})


async def _login(request: Request) -> Response:
    """The page that asks for the password, and what is done with the answer."""
    access: Access = request.app.state.access
    form = await request.form() if request.method == "POST" else request.query_params
    next_path = local_path(str(form.get("next", "/")))
    if access.password is None or (request.state.signed_in and request.method != "POST"):
        return RedirectResponse(next_path, 303)
    if request.method != "POST":
        return login_page(request, next_path=next_path)
    address, now = request.client.host if request.client else "-", access.clock()
    if (seconds := access.slowdown.wait(address, now)) > 0:
        slow = too_fast(seconds)
        words = f"Too many wrong passwords. Try again in {many(int(slow.headers['retry-after']), 'second')}."
        page = login_page(request, next_path=next_path, problem=words, status_code=slow.status_code)
        page.headers["retry-after"] = slow.headers["retry-after"]
        return page
    if not access.password.is_(str(form.get("password", ""))):
        access.slowdown.failed(address, now)
        log.warning("http.refused", address=address, what="password")
        return login_page(request, next_path=next_path, problem="That is not the password.", status_code=401)
    access.slowdown.succeeded(address)
    log.info("http.signed_in", address=address)
    return _with_session(request, RedirectResponse(next_path, 303), signed_in=True)


async def _logout(request: Request) -> Response:
    """Sign out: the session is worth nothing any more, here or in a copy."""
    request.app.state.access.sessions.end(request.state.session)
    return _with_session(request, RedirectResponse("/login", 303), signed_in=False)


def _with_session(request: Request, response: Response, *, signed_in: bool) -> Response:
    access: Access = request.app.state.access
    session = access.sessions.begin(signed_in=signed_in)
    set_session(response, access.cookie, access.sessions.write(session), secure=request.state.secure)
    return response


class _Server(uvicorn.Server):
    """A guest in the daemon's loop: leaves signals to it, and ends when it ends."""

    def __init__(self, config: uvicorn.Config, stop: asyncio.Event) -> None:
        super().__init__(config)
        self._stop = stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None of them."""
        yield

    async def main_loop(self) -> None:
        """Wait for the end, where uvicorn would look ten times a second."""
        await self.on_tick(0)
        await self._stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is idle at once, what is under way after a short grace, and leave nothing open."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


@contextlib.asynccontextmanager
async def serving(app: App, listener: Listener | None, metrics: Metrics, pulse: Pulse) -> AsyncIterator[None]:
    """Serve for the length of the block, or until the app is asked to stop. Without a listener, serve nothing."""
    if listener is None:
        yield
        return
    reading = Reading(app.store)
    config = uvicorn.Config(
        create_app(app, reading, listener.access, metrics, pulse),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=GRACE,
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what goes wrong in here, the gate says
    server = _Server(config, app.stop)
    # A copy: it is closed when serving ends, but connections still reach us, to be answered by what comes next.
    task = asyncio.create_task(server.serve(sockets=[listener.socket.dup()]))
    log.info("http.listening", url=listener.url)
    try:
        yield
    finally:
        app.stop.set()
        await asyncio.gather(task, return_exceptions=True)
        reading.close()
