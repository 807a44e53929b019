"""What `init` learns of an account before anything is configured: may it be read, how large it is, the schedule."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from rankr_sync.cli import plan
from rankr_sync.config import Config
from rankr_sync.engine.context import URGENT
from rankr_sync.errors import NotFound, RankrSyncError, RequestRefused, ScopeMissing
from rankr_sync.highlevel import HighLevel
from rankr_sync.model import JsonObject, Request
from rankr_sync.store.scratch import scratch_copy
from rankr_sync.streams import OWNER, reference
from rankr_sync.visits import Bounds

T = TypeVar("T")

CLOSED = (ScopeMissing, RequestRefused, NotFound)


@dataclass(frozen=True, slots=True)
class Account:
    """What a first look at a location found; None where that is closed to the token."""

    id: str
    contacts: int
    custom_fields: int | None
    name: str | None
    timezone: str | None

    @property
    def words(self) -> str:
        """The account in a sentence."""
        name = f"{self.name}: " if self.name else ""
        fields = f", {self.custom_fields:,} custom fields" if self.custom_fields is not None else ""
        zone = f", time zone {self.timezone}" if self.timezone else ""
        return f"{name}{self.contacts:,} contacts{fields}{zone}."


async def look(location_id: str, source: HighLevel) -> Account:
    """Try the access: three requests. Raises AskOwner, or whatever keeps the contacts from being listed."""
    contacts = await _contacts(location_id, source)
    about = await _optional(
        source,
        reference.location_request(location_id),
        lambda payload: reference.location_parse(location_id, payload),
    )
    fields = await _optional(source, reference.custom_fields_request(location_id), reference.custom_fields_parse)
    about = about or {}
    return Account(
        location_id, contacts, None if fields is None else len(fields), about.get("name"), about.get("timezone")
    )


async def _contacts(location_id: str, source: HighLevel) -> int:
    error: RankrSyncError = NotFound("no endpoint lists contacts")
    for walk in OWNER.walks:
        begin = walk.begin(None)
        try:
            answer = await source.fetch(walk.request(location_id, begin), priority=URGENT, hurried=True)
        except CLOSED as refused:
            error = refused
            continue
        page = walk.parse(begin, answer.payload)
        return len(page.records) if page.total is None else page.total
    raise error


async def _optional(source: HighLevel, request: Request, parse: Callable[[JsonObject], T]) -> T | None:
    try:
        return parse((await source.fetch(request, priority=URGENT, hurried=True)).payload)
    except CLOSED:
        return None


def fitting_max_age(config: Config, account: Account) -> timedelta:
    """The bound on age that the quota buys for so many contacts: the default, or what is longer. Shows the schedule."""
    now, usual, contacts = datetime.now(UTC), config.visits.max_age, account.contacts
    wish = plan.Wish(contacts, Bounds(config.visits.min_age, usual), config.visits.share / 100)
    with tempfile.TemporaryDirectory(prefix="rankr-sync-init-") as folder:
        nothing = f"sqlite:///{folder}/nothing.db"  # a store in which nothing was learned yet
        with scratch_copy(nothing, None, config.mapping, lambda: now) as store, store.reading() as tx:
            found = plan.plan_of(tx, config, account.id, wish, now) if contacts else None
    if found is None:
        return usual
    print(f"Schedule: {found.requests:,.0f} requests a day, of {found.daily_limit:,}. {found.answer}")
    shortest = found.one_pass.shortest if found.visited else None
    return usual if shortest is None or shortest <= usual else plan.rounded_up(shortest)
