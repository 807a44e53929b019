"""Endpoints that are not HighLevel's: a greeting, and a window into the sandbox for tests in other processes.

No token, no limits, no faults, and not among the calls.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from .exchange import JSON_TYPE, Incoming, Outgoing, encode
from .limits import limit_text
from .options import DEFAULT_LOCATION_ID, location_id, token_of
from .sandbox import Sandbox


def is_admin(path: str) -> bool:
    """Whether this module answers."""
    return path == "/" or path.startswith("/sandbox/")


def answer(sandbox: Sandbox, incoming: Incoming) -> Outgoing:
    """Answer a request of `is_admin`."""
    query = dict(parse_qsl(incoming.query_string.decode("latin-1")))
    with sandbox.lock:
        status, payload = _route(sandbox, incoming, query)
        return Outgoing(status, [JSON_TYPE], encode(payload).encode())


def _route(sandbox: Sandbox, incoming: Incoming, query: dict[str, str]) -> tuple[int, Any]:
    match incoming.method, incoming.path:
        case "GET", "/":
            return 200, greeting(sandbox, incoming.host)
        case "GET", "/sandbox/stats":
            return 200, sandbox.stats()
        case "GET", "/sandbox/truth":
            name = query.get("locationId", DEFAULT_LOCATION_ID)
            if name not in sandbox.locations:
                return 404, {"message": f"no location {name}; there are {', '.join(sandbox.locations)}"}
            return 200, sandbox.truth(name)
        case "GET", "/sandbox/calls":
            since = float(query.get("since", "0"))
            return 200, {"calls": [call._asdict() for call in sandbox.calls if call.at >= since]}
        case "POST", "/sandbox/faults":
            return _plan_fault(sandbox, incoming.content)
    return 404, {"message": f"the sandbox has no {incoming.method} {incoming.path}"}


def _plan_fault(sandbox: Sandbox, content: bytes) -> tuple[int, Any]:
    try:
        wanted = json.loads(content)
        sandbox.faults.next(wanted["kind"], wanted.get("route"), int(wanted.get("times", 1)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return 400, {"message": f'expected {{"kind", "route"?, "times"?}}: {error}'}
    return 200, {"planned": wanted}


def greeting(sandbox: Sandbox, host: str) -> dict[str, Any]:
    """What a person or a script needs to start with."""
    names = range(1, len(sandbox.locations) + 1)
    return {
        "message": "A simulated HighLevel API. Nothing here is real.",
        "base_url": f"http://{host}",
        "rate_limit": limit_text(sandbox.options.rate_limit),
        "version": "2021-07-28",
        "locations": [{"id": location_id(number), "token": token_of(number)} for number in names],
    }
