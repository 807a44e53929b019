"""Misbehaviour on request: scripted by a test, or drawn at random. `exchange` and `app` carry it out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

Kind = Literal[
    "500",
    "502-html",
    "503",
    "200-html",
    "429",
    "401",
    "403",
    "stall",
    "slow-body",
    "reset",
    "truncated",
    "wrong-shape",
    "half-json",
    "empty-object",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
TRANSIENT: tuple[Kind, ...] = ("500", "502-html", "503", "200-html", "429", "reset", "truncated", "half-json")
"""What `fault_rate` draws from: a client that asks again gets its answer."""
AFTER_THE_FACT: tuple[Kind, ...] = ("stall", "slow-body", "reset", "truncated", "half-json")
"""The request takes effect, only its answer suffers: the case that makes blind retries of writes dangerous."""


@dataclass
class _Planned:
    kind: Kind
    route: str | None
    times: int


class FaultPlan:
    """The faults to come."""

    def __init__(self, rate: float = 0.0, seed: int = 0) -> None:
        """Scripted faults come first; the rest is drawn at `rate`."""
        self.rate = rate
        self.counts: Counter[str] = Counter()
        self.connection_error: Callable[[str], Exception] = ConnectionResetError
        """Raised in process (ASGITransport has no connection to drop); a test may set the error of its client."""
        self._rng = random.Random(f"{seed}/faults")
        self._planned: list[_Planned] = []

    def next(self, kind: Kind, route: str | None = None, times: int = 1) -> None:
        """Let the next `times` matching requests meet this fault.

        `route` is a template (`/contacts/{contactId}/notes`), a path or a pattern (`/contacts/*/notes`), with or
        without the method before it (`GET /contacts/*`); None means any request.
        """
        if kind not in KINDS:
            raise ValueError(f"no such fault: {kind!r}; there are {', '.join(KINDS)}")
        self._planned.append(_Planned(kind, route, times))

    def clear(self) -> None:
        """Forget what is planned; the random rate stays."""
        self._planned.clear()

    def draw(self, method: str, template: str, path: str) -> Kind | None:
        """The fault that this request meets, if any."""
        if not self._planned and not self.rate:
            return None
        kind = self._scripted(method, template, path)
        if kind is None and self.rate and self._rng.random() < self.rate:
            kind = self._rng.choice(TRANSIENT)
        if kind is not None:
            self.counts[kind] += 1
        return kind

    def _scripted(self, method: str, template: str, path: str) -> Kind | None:
        for planned in self._planned:
            if planned.route is None or _matches(planned.route, method, template, path):
                planned.times -= 1
                if planned.times <= 0:
                    self._planned.remove(planned)
                return planned.kind
        return None


def _matches(route: str, method: str, template: str, path: str) -> bool:
    wanted, _, rest = route.partition(" ")
    if rest:
        if wanted.upper() != method:
            return False
        route = rest
    return route in (template, path) or fnmatchcase(path, route)
