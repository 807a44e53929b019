"""The API as `check` sees it, for one location: each endpoint's scope, the version, the clock, the quota.

A dozen requests at most, one after the other, within the rate budget. One that is refused does not keep the
others from being asked, unless it says that none can succeed.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rankr_sync.cli.checks.finding import OK, PROBLEM, WARNING, Finding, of_error
from rankr_sync.config import Config, Location
from rankr_sync.engine.context import LISTING, URGENT, VISIT
from rankr_sync.errors import (
    EndpointGone,
    LocationRefused,
    QuotaSpent,
    RankrSyncError,
    RequestRefused,
    ScopeMissing,
    TokenRefused,
    Unreachable,
)
from rankr_sync.highlevel import HighLevel
from rankr_sync.model import Answer, JsonObject, Request
from rankr_sync.pacing import RESERVES
from rankr_sync.spans import lasting
from rankr_sync.streams import OWNER, STREAMS, Walk, reference

CLOCK_SKEW = 60.0
"""Seconds that our clock may be off."""

MOST_REQUESTS = 13
"""What the look at one location takes, and two to try again."""

CLOSED_TO_ALL = (TokenRefused, LocationRefused, Unreachable, QuotaSpent)
"""Errors after which no other endpoint would answer either."""

NOT_NEEDED = (
    ("tags", "/locations/{id}/tags", "locations/tags.readonly"),
    ("users", "/users/", "users.readonly"),
    ("calendars", "/calendars/", "calendars.readonly"),
)
"""Endpoints that no stream reads: name, path, scope."""

ANOTHER_LISTING = "the other listing is used instead"
ONE_BY_ONE = "one request per contact is used instead, which costs more of the quota"
AS_UTC = "set the location's timezone in the configuration; until then times without a zone are taken for UTC"
BY_ID_ONLY = "custom fields are mapped by id only"
NOTHING_LOST = "which nothing here needs"


@dataclass(frozen=True, slots=True)
class Probe:
    """One endpoint. `without`: what happens where it is closed; None: nothing works.

    `listing`: one of those of which one must be open. `needed`: whether a sync asks it at all.
    """

    subject: str
    request: Request
    read: Callable[[JsonObject], Any] = lambda payload: None
    without: str | None = None
    listing: bool = False
    needed: bool = True


async def examine(config: Config, location: Location, source: HighLevel) -> list[Finding]:
    """Every line about the source's location. Raises nothing of ours: what fails is a line."""
    look = _Look(source)
    for probe in _listings(config, location.id):
        await look.ask(probe)
    for probe in _lookups(config, look.contact_id) if look.contact_id is not None else ():
        await look.ask(probe)
    for probe in _reference(location):
        await look.ask(probe)
    return [*look.findings(), *_version(config, look), *_clock(look), *_quota(source, told=bool(look.answers))]


class _Look:
    """Asks probe by probe, and keeps what came of each."""

    def __init__(self, source: HighLevel) -> None:
        self._source = source
        self.location_id = source.location_id
        self.answers: list[Answer] = []
        self.contact_id: str | None = None
        self._asked: list[tuple[Probe, RankrSyncError | None]] = []
        self._ended = False

    async def ask(self, probe: Probe) -> None:
        """Ask one endpoint, unless it is known that none would answer."""
        if self._ended:
            return
        try:
            answer = await self._source.fetch(probe.request, priority=URGENT, hurried=True)
            self.answers.append(answer)
            found = probe.read(answer.payload)
        except RankrSyncError as error:
            self._asked.append((probe, error))
            self._ended = isinstance(error, CLOSED_TO_ALL) or _is_of_version(error)
            return
        self._asked.append((probe, None))
        if probe.listing and found.records and self.contact_id is None:
            self.contact_id = found.records[0].id

    def findings(self) -> list[Finding]:
        """A line for each endpoint that was asked."""
        listed = any(error is None for probe, error in self._asked if probe.listing)
        return [self._finding(probe, error, listed) for probe, error in self._asked]

    def _finding(self, probe: Probe, error: RankrSyncError | None, listed: bool) -> Finding:
        if error is None:
            return Finding(OK, probe.subject, "open", location=self.location_id)
        if _is_of_version(error):
            return of_error(error, "API version", location=self.location_id)
        if isinstance(error, CLOSED_TO_ALL) or probe.without is None or (probe.listing and not listed):
            return of_error(error, probe.subject, location=self.location_id)
        if not probe.needed and isinstance(error, ScopeMissing | EndpointGone):
            words = f"closed ({probe.request.scope}), {probe.without}"
            return Finding(OK, probe.subject, words, location=self.location_id)
        return Finding(WARNING, probe.subject, str(error), probe.without, self.location_id)


# -- what is asked -----------------------------------------------------------------------------------------


def _listings(config: Config, location_id: str) -> Iterator[Probe]:
    """The listings of contacts first: they also find a contact, by whose id the children can be asked for."""
    owners = [walk for walk in OWNER.walks if config.api.listing in ("auto", walk.name)]
    for walk in owners:
        instead = ANOTHER_LISTING if len(owners) > 1 else None
        yield replace(_first_page(OWNER.name, walk, location_id, instead), listing=True)
    for stream in (STREAMS[name] for name in config.streams if not STREAMS[name].owner):
        for walk in stream.walks:
            yield _first_page(stream.name, walk, location_id, ONE_BY_ONE if stream.lookup is not None else None)


def _lookups(config: Config, contact_id: str) -> Iterator[Probe]:
    for stream in (STREAMS[name] for name in config.streams if not STREAMS[name].owner):
        if stream.lookup is not None:
            read = partial(stream.lookup.parse, contact_id)
            yield Probe(f"{stream.name} of a contact", stream.lookup.request(contact_id), read)


def _first_page(name: str, walk: Walk, location_id: str, without: str | None) -> Probe:
    begin = walk.begin(None)
    return Probe(f"{name} {walk.name}", walk.request(location_id, begin), partial(walk.parse, begin), without)


def _reference(location: Location) -> Iterator[Probe]:
    id_, zone = location.id, location.timezone
    without, read = f"{zone} is used, as configured" if zone else AS_UTC, partial(reference.location_parse, id_)
    yield Probe("location", reference.location_request(id_), read, without, needed=zone is None)
    yield Probe("custom fields", reference.custom_fields_request(id_), reference.custom_fields_parse, BY_ID_ONLY)
    for name, path, scope in NOT_NEEDED:
        query = () if "{id}" in path else (("locationId", id_),)
        request = Request("GET", path.replace("{id}", id_), path, scope, query)
        yield Probe(name, request, without=NOTHING_LOST, needed=False)


# -- what the answers say together -------------------------------------------------------------------------


def _is_of_version(error: RankrSyncError) -> bool:
    """Whether the Version header is refused: then every endpoint refuses it."""
    refused = isinstance(error, RequestRefused) and not isinstance(error, EndpointGone)
    return refused and "version" in error.message.lower()


def _version(config: Config, look: _Look) -> Iterator[Finding]:
    if look.answers:
        yield Finding(OK, "API version", f"{config.api.version} is accepted", location=look.location_id)


def _clock(look: _Look) -> Iterator[Finding]:
    skews = [(a.asked_at - a.server_time).total_seconds() for a in look.answers if a.server_time is not None]
    if not look.answers:
        return
    if not skews:
        yield Finding(WARNING, "clock", "the API's answers carry no date to compare with", location=look.location_id)
        return
    skew = min(skews, key=abs)
    if abs(skew) > CLOCK_SKEW:
        way = "ahead of" if skew > 0 else "behind"
        words = f"{lasting(abs(skew))} {way} the API's"
        yield Finding(WARNING, "clock", words, "set this machine's clock: timedatectl set-ntp true", look.location_id)
    else:
        yield Finding(OK, "clock", "agrees with the API's", location=look.location_id)


def _quota(source: HighLevel, *, told: bool) -> Iterator[Finding]:
    budget, now, id_ = source.pacer.budget, time.monotonic(), source.location_id
    if budget.limit is not None and told:
        pace = f"{budget.limit.requests:,} requests in {budget.limit.seconds:g} s"
        used = min(budget.used(now), budget.limit.requests)
        words = f"{pace}, spent by the process at work" if budget.borrowed else f"{used:,} of {pace} are used just now"
        yield Finding(OK, "burst quota", words, location=id_)
    left, limit = budget.daily_remaining, budget.daily_limit
    if left is None:
        if told:
            words = "the API does not tell what is left of the day's quota"
            yield Finding(WARNING, "day's quota", words, "the documented 200,000 a day are assumed", id_)
        return
    resets_in = budget.daily_reset_at - now if budget.daily_reset_at is not None else None
    words = f"{left:,}" + (f" of {limit:,}" if limit else "") + " requests left"
    words += f", resets in {lasting(resets_in)}" if resets_in is not None and resets_in > 0 else ""
    if left <= int(RESERVES[LISTING] * (limit or 0)):
        yield Finding(PROBLEM, "day's quota", words, "wait for the reset; who spends it: rankr-sync status", id_, 1)
    elif left <= int(RESERVES[VISIT] * (limit or 0)):
        yield Finding(WARNING, "day's quota", words, "visits wait for the reset: rankr-sync plan", id_)
    else:
        yield Finding(OK, "day's quota", words, location=id_)
