"""A sandbox on a port: in the foreground (`serve`) or behind a test or a demo (`running`)."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .app import ABORT, create_app
from .options import SandboxOptions
from .sandbox import Sandbox


class _Protocol(HttpToolsProtocol):
    """Lets the application drop the connection of a request, which ASGI has no message for."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self._abort}  # type: ignore[dict-item]

    def _abort(self, at_once: bool) -> None:
        if at_once:
            self.transport.abort()
        else:
            self.transport.close()


class _Server(uvicorn.Server):
    """Says when it is ready, and leaves signals to the caller's taste."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_ready()


def _config(sandbox: Sandbox) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(sandbox),
        http=_Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        log_config=None,  # loggers are those of the program that serves
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )


def _bind(host: str, port: int) -> tuple[socket.socket, str]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol must be named: asyncio sets TCP_NODELAY only then, and without it each answer takes 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    shown = f"[{host}]" if ":" in host else host
    return bound, f"http://{shown}:{bound.getsockname()[1]}"


def serve(
    options: SandboxOptions | Sandbox,
    host: str = "127.0.0.1",
    port: int = 0,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then return. `on_ready` gets the base URL once requests are answered."""
    bound, base_url = _bind(host, port)
    with bound:
        sandbox = options if isinstance(options, Sandbox) else Sandbox(options)
        server = _Server(_config(sandbox), lambda: on_ready(base_url) if on_ready is not None else None)
        with _stopping_on_signals(server):
            server.run(sockets=[bound])


@contextmanager
def _stopping_on_signals(server: _Server) -> Iterator[None]:
    """Stop on a signal and return, where uvicorn would raise the signal again once it has stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: Any) -> None:
        server.should_exit = True

    names = (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.signal(name, stop) for name in names}
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


@contextmanager
def running(
    options: SandboxOptions | Sandbox | None = None, host: str = "127.0.0.1", port: int = 0
) -> Iterator[tuple[str, Sandbox]]:
    """Serve from a background thread for the length of a `with` block; yields the base URL and the sandbox."""
    sandbox = options if isinstance(options, Sandbox) else Sandbox(options)
    bound, base_url = _bind(host, port)
    ready = threading.Event()
    server = _Server(_config(sandbox), ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="sandbox", daemon=True)
    with bound:
        thread.start()
        try:
            while not ready.wait(0.05):
                if not thread.is_alive():
                    raise RuntimeError("the sandbox did not start")
            yield base_url, sandbox
        finally:
            server.should_exit = True
            thread.join(timeout=10)
