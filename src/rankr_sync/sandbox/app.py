"""The ASGI application: reads a request, sends its answer, and carries out the faults that are about sending.

A dispatcher of our own rather than a framework's: the sandbox is also the far end of benchmarks, and must cost little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from . import admin
from .exchange import Exchange, Incoming, Outgoing
from .sandbox import Sandbox

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

ABORT = "rankr.sandbox.abort"
"""Extension of the scope, put there by `serve`: drops the connection of this request."""


def create_app(sandbox: Sandbox) -> ASGIApp:
    """The simulated API of a sandbox as an ASGI application."""
    exchange = Exchange(sandbox)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        incoming = _read_head(scope)
        if incoming.method != "GET":
            incoming.content = await _read_body(receive)
        if admin.is_admin(incoming.path):
            await _deliver(admin.answer(sandbox, incoming), send)
            return
        outgoing = exchange.answer(incoming)
        if sandbox.options.latency_ms:
            await sandbox.sleep(sandbox.options.latency_ms / 1000)
        if outgoing.fault is None or outgoing.fault == "half-json":
            await _deliver(outgoing, send)
        else:
            await _misdeliver(sandbox, outgoing, scope, receive, send)

    return app


def _read_head(scope: Scope) -> Incoming:
    authorization = version = b""
    host = b"sandbox"
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value
        elif name == b"version":
            version = value
        elif name == b"host":
            host = value
    return Incoming(
        scope["method"],
        scope["path"],
        scope["query_string"],
        authorization.decode("latin-1"),
        version.decode("latin-1"),
        host.decode("latin-1"),
        b"",
    )


async def _read_body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _deliver(outgoing: Outgoing, send: Send) -> None:
    headers = [*outgoing.headers, (b"content-length", b"%d" % len(outgoing.content))]
    await send({"type": "http.response.start", "status": outgoing.status, "headers": headers})
    await send({"type": "http.response.body", "body": outgoing.content})


async def _misdeliver(sandbox: Sandbox, outgoing: Outgoing, scope: Scope, receive: Receive, send: Send) -> None:
    if outgoing.fault == "stall":
        if await _stall(sandbox, receive):
            await _deliver(outgoing, send)
    elif outgoing.fault == "slow-body":
        await _drip(sandbox, outgoing, send)
    elif outgoing.fault == "reset":
        await _drop(sandbox, scope, receive)
    else:
        half = outgoing.content[: len(outgoing.content) // 2]
        headers = [*outgoing.headers, (b"content-length", b"%d" % len(outgoing.content))]
        await send({"type": "http.response.start", "status": outgoing.status, "headers": headers})
        await send({"type": "http.response.body", "body": half, "more_body": True})
        await _drop(sandbox, scope, receive, abort=False)


async def _stall(sandbox: Sandbox, receive: Receive) -> bool:
    """Wait; say whether there is still somebody to answer."""
    timer = asyncio.ensure_future(sandbox.sleep(sandbox.options.stall_seconds))
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        done, _ = await asyncio.wait({timer, gone}, return_when=asyncio.FIRST_COMPLETED)
        return timer in done
    finally:
        timer.cancel()
        gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _drip(sandbox: Sandbox, outgoing: Outgoing, send: Send) -> None:
    headers = [*outgoing.headers, (b"content-length", b"%d" % len(outgoing.content))]
    await send({"type": "http.response.start", "status": outgoing.status, "headers": headers})
    size = max(1, len(outgoing.content) // 10)
    for start in range(0, len(outgoing.content), size):
        await sandbox.sleep(sandbox.options.slow_body_seconds / 10)
        await send({"type": "http.response.body", "body": outgoing.content[start : start + size], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _drop(sandbox: Sandbox, scope: Scope, receive: Receive, *, abort: bool = True) -> None:
    """End the connection: at once with `abort`, else after what is written has left."""
    extensions = scope.get("extensions") or {}
    if ABORT not in extensions:
        # In process there is no connection; the client's transport lets this through to the caller.
        raise sandbox.faults.connection_error("the sandbox dropped the connection")
    extensions[ABORT](abort)
    await _disconnected(receive)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
