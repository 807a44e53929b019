"""Keeps grants alive: which token opens a location now, and when it is refreshed, by whom, and what if that fails.

A refresh token is good once. So one process at a time refreshes a grant, by a claim in its row that ends by itself;
the new pair is stored before anybody uses it; and what was begun is finished, also when whoever asked for it is
cancelled. Should a process die between the answer and the commit, the next one tries the old refresh token, is told
that it is spent, and reconnects. Only when that is refused too is the grant over.
"""

import asyncio
import contextlib
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog

from rankr_sync.errors import (
    AskOwner,
    GrantEnded,
    GrantMissing,
    RankrSyncError,
    StoreUnavailable,
    TryLater,
    Unauthorised,
    Unreachable,
)
from rankr_sync.highlevel.oauth import Granted, OAuthEndpoints
from rankr_sync.oauth.shelf import ENDED, Grant, Shelf, company_grant, grant_of, location_grant

log = structlog.get_logger()

REFRESH_BEFORE = timedelta(minutes=10)
"""How long before its end a token is refreshed."""

CLAIM_LASTS = timedelta(seconds=60)
"""After so long, the claim of a process that died is nobody's."""

RENEWAL_LASTS = 45.0
"""Seconds that a refresh may take, reconnection included: it must be over before its claim is."""

TRUSTED_FOR = timedelta(seconds=60)
"""How long what was read of the store is believed: then a login, a logout or an end by another process is seen."""

FORCED_EVERY = timedelta(minutes=5)
"""A token that the API refuses before its end is replaced at most so often: refusals have other causes too."""

LOOK_EVERY = 0.25
"""Seconds between two looks whether the process that refreshes is done."""

FIRST_REST, LONGEST_REST = timedelta(seconds=5), timedelta(minutes=5)
"""After a failure nothing is asked for so long: doubled with each in a row."""

GRACE = 5.0
"""Seconds that refreshes under way are given when the program ends."""

LOG_IN = "log in again: rankr-sync auth login"


@dataclass(slots=True)
class _Held:
    """What this process knows of one grant."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    grant: Grant | None = None
    read_at: datetime | None = None
    forced_at: datetime | None = None
    unsaved: Granted | None = None
    """What was granted and could not be stored yet: it is stored before anything else is asked for."""
    refreshing: "asyncio.Task[Grant] | None" = None
    failures: int = 0
    rests_until: datetime | None = None
    error: RankrSyncError | None = None


class Keeper:
    """The grants of a store, kept alive by this process; others may do the same beside it."""

    def __init__(
        self,
        shelf: Shelf,
        endpoints: OAuthEndpoints,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._shelf = shelf
        self._endpoints = endpoints
        self._now = now
        self._sleep = sleep
        self._holder = uuid.uuid4().hex
        self._grants: defaultdict[str, _Held] = defaultdict(_Held)

    # -- tokens ----------------------------------------------------------------------------------------

    async def location_token(self, location_id: str) -> str:
        """The access token of a location, refreshed if it is time to.

        Raises GrantMissing or GrantEnded where only a login helps, LocationRefused where the agency does not open
        the location, TryLater where the authority cannot be reached and the token has ended.
        """
        return (await self._current(location_grant(location_id))).access_token

    async def company_token(self, company_id: str) -> str:
        """The access token of an agency. Raises as `location_token`."""
        return (await self._current(company_grant(company_id))).access_token

    async def location_refused(self, location_id: str, token: str) -> None:
        """The API refused this token of a location: have another next time, if that one was believed to be good."""
        await self._replace(location_grant(location_id), token)

    async def _replace(self, id_: str, refused: str) -> None:
        held, now = self._grants[id_], self._now()
        if held.grant is not None and held.grant.access_token != refused:
            return  # it was replaced in the meantime
        if held.forced_at is None or now - held.forced_at >= FORCED_EVERY:
            held.forced_at = now
            await self._current(id_, refused)

    async def _current(self, id_: str, refused: str | None = None) -> Grant:
        held = self._grants[id_]
        if (grant := self._trusted(held, refused)) is not None:
            return grant
        async with held.lock:
            if (grant := self._trusted(held, refused)) is not None:
                return grant
            grant = await asyncio.to_thread(self._shelf.find, id_)
            if grant is None or self._needs_renewal(grant, refused):
                grant = await self._renewed(id_, held, grant, refused)
            held.grant, held.read_at = grant, self._now()
            return grant

    def _trusted(self, held: _Held, refused: str | None) -> Grant | None:
        grant, now = held.grant, self._now()
        if grant is None or held.read_at is None or now - held.read_at >= TRUSTED_FOR:
            return None
        return None if self._needs_renewal(grant, refused) and not self._rests(held, grant, refused) else grant

    def _rests(self, held: _Held, grant: Grant, refused: str | None) -> bool:
        """Whether a refresh has just failed, while the token that we have still serves."""
        now = self._now()
        return held.rests_until is not None and now < held.rests_until and grant.is_good(now, refused)

    def _needs_renewal(self, grant: Grant, refused: str | None) -> bool:
        now = self._now()
        return not grant.is_good(now, refused) or grant.is_due(now, REFRESH_BEFORE)

    async def _renewed(self, id_: str, held: _Held, grant: Grant | None, refused: str | None) -> Grant:
        """New tokens; where that fails, the old ones as long as they serve."""
        now = self._now()
        good = grant is not None and grant.is_good(now, refused)
        if held.rests_until is not None and now < held.rests_until and held.error is not None:
            if grant is not None and good:
                return grant
            raise held.error
        try:
            fresh = await self._obtain(id_, grant, refused)
        except RankrSyncError as error:
            if isinstance(error, GrantEnded | GrantMissing):
                raise  # that needs no request to know, so a login is noticed at once
            held.failures += 1
            rest = min(LONGEST_REST, FIRST_REST * 2 ** min(held.failures - 1, 10))
            held.rests_until, held.error = self._now() + rest, error
            log.warning("oauth.refresh_failed", grant=id_, error=str(error), again_in=rest.total_seconds())
            if grant is not None and good:
                return grant
            raise
        held.failures, held.rests_until, held.error = 0, None, None
        return fresh

    async def _obtain(self, id_: str, grant: Grant | None, refused: str | None) -> Grant:
        kind, _, name = id_.partition(":")
        if grant is not None and grant.refresh_token is not None:
            return await self._refreshed(id_, refused)
        if kind == "location":
            return await self._minted(name)
        raise GrantMissing(f"nobody is logged in to the agency {name}", hint="rankr-sync auth login --agency")

    # -- refreshing ------------------------------------------------------------------------------------

    async def _refreshed(self, id_: str, refused: str | None) -> Grant:
        held = self._grants[id_]
        if held.refreshing is not None:
            return await asyncio.shield(held.refreshing)  # whoever began it was cancelled
        while True:
            now = self._now()
            grant = await asyncio.to_thread(self._shelf.claim, id_, self._holder, now, CLAIM_LASTS)
            if grant is None:
                raise GrantMissing("it was just logged out", hint=LOG_IN)
            mine = grant.claimed_by == self._holder
            if grant.status == ENDED or not self._needs_renewal(grant, refused):
                held.unsaved = None
                if mine:
                    await asyncio.to_thread(self._shelf.release, id_, self._holder, grant.error)
                if grant.status == ENDED:
                    raise GrantEnded(f"the OAuth login of {id_} has ended: {grant.error}", hint=LOG_IN)
                return grant
            if mine:
                return await self._to_the_end(held, self._refresh(grant, held))
            if grant.is_good(now, refused):
                return grant  # the other process sees to it
            await self._sleep(LOOK_EVERY)

    async def _to_the_end(self, held: _Held, work: Coroutine[Any, Any, Grant]) -> Grant:
        """Whoever waits for it may be cancelled: what was asked for is stored all the same."""
        task = held.refreshing = asyncio.create_task(work)

        def done(task: "asyncio.Task[Grant]") -> None:
            held.refreshing = None
            if not task.cancelled():
                task.exception()  # it was told to whoever still waited

        task.add_done_callback(done)
        return await asyncio.shield(task)

    async def _refresh(self, grant: Grant, held: _Held) -> Grant:
        """Ask for the next pair and store it; the claim is ours."""
        try:
            if held.unsaved is None:
                async with asyncio.timeout(RENEWAL_LASTS):
                    held.unsaved = await self._ask(grant)
        except TimeoutError:
            error = Unreachable("the new tokens did not arrive in time")
            await self._give_claim_back(grant.id, str(error))
            raise error from None
        except GrantEnded as error:
            words = error.message
            await asyncio.to_thread(self._shelf.end, grant.id, self._holder, words)
            log.error("oauth.ended", grant=grant.id, error=words, hint=LOG_IN)
            raise GrantEnded(f"the OAuth login of {grant.id} has ended: {words}", hint=LOG_IN) from None
        except RankrSyncError as error:
            await self._give_claim_back(grant.id, str(error))
            raise
        fresh = grant_of(held.unsaved, self._now(), grant)
        await asyncio.to_thread(self._shelf.save, fresh)
        held.unsaved = None
        log.info("oauth.refreshed", grant=grant.id, expires_at=fresh.expires_at.isoformat(timespec="seconds"))
        return fresh

    async def _give_claim_back(self, id_: str, error: str) -> None:
        with contextlib.suppress(StoreUnavailable):  # then it ends by itself
            await asyncio.to_thread(self._shelf.release, id_, self._holder, error)

    async def _ask(self, grant: Grant) -> Granted:
        assert grant.refresh_token is not None
        try:
            return await self._endpoints.refresh(grant.refresh_token, grant.user_type)
        except GrantEnded as error:
            # Spent, perhaps by a process that died with the answer: the app may still be installed.
            log.warning("oauth.reconnecting", grant=grant.id, error=str(error))
            code = await self._endpoints.reconnect(company_id=grant.company_id, location_id=grant.location_id)
        try:
            return await self._endpoints.exchange(code, grant.user_type)
        except AskOwner as error:
            raise TryLater(f"the code of a reconnection was not accepted: {error}") from None

    # -- an agency's locations -------------------------------------------------------------------------

    async def _minted(self, location_id: str) -> Grant:
        company = await self._company_of(location_id)
        assert company.company_id is not None
        company_id = company.company_id

        async def mint(token: str) -> Granted:
            return await self._endpoints.mint(token, company_id, location_id)

        grant = grant_of(await self._as_agency(company_id, mint), self._now())
        await asyncio.to_thread(self._shelf.save, grant)
        log.info("oauth.refreshed", grant=grant.id, expires_at=grant.expires_at.isoformat(timespec="seconds"))
        return grant

    async def _as_agency(self, company_id: str, work: Callable[[str], Awaitable[Any]]) -> Any:
        """Work with the agency's token; where that is refused, with the next one."""
        token = await self.company_token(company_id)
        try:
            return await work(token)
        except Unauthorised:
            await self._replace(company_grant(company_id), token)
            return await work(await self.company_token(company_id))

    async def _company_of(self, location_id: str) -> Grant:
        companies = await asyncio.to_thread(self._shelf.companies)
        if len(companies) > 1:
            known = {one["id"]: one["company_id"] for one in await asyncio.to_thread(self._shelf.locations)}
            companies = [one for one in companies if one.company_id == known.get(location_id)]
        if not companies:
            raise GrantMissing(
                f"no OAuth login opens location {location_id}", hint="choose it in: rankr-sync auth login (or --agency)"
            )
        return companies[0]

    async def locations(self) -> dict[str, str | None]:
        """Every location that the grants open, with its name if it is known; agencies are asked for theirs.

        Raises as `company_token`.
        """
        companies = await asyncio.to_thread(self._shelf.companies)
        found: list[dict[str, str | None]] = []
        for company in companies:
            assert company.company_id is not None
            company_id = company.company_id

            async def ask(token: str, company_id: str = company_id) -> Any:
                return await self._endpoints.installed(token, company_id)

            found += [
                {"id": one.id, "name": one.name, "company_id": company_id}
                for one in await self._as_agency(company_id, ask)
            ]
        if companies:
            await asyncio.to_thread(self._shelf.save_locations, found, self._now())
        return await self._with_own(found)

    async def remembered_locations(self) -> dict[str, str | None]:
        """The same as it was last told, without a request."""
        return await self._with_own(await asyncio.to_thread(self._shelf.locations))

    async def _with_own(self, found: list[dict[str, str | None]]) -> dict[str, str | None]:
        own = await asyncio.to_thread(self._shelf.own_locations)
        names: dict[str, str | None] = {grant.location_id: None for grant in own if grant.location_id}
        return names | {str(one["id"]): one["name"] for one in found}

    async def close(self) -> None:
        """Let refreshes that are under way come to their end."""
        under_way = [held.refreshing for held in self._grants.values() if held.refreshing is not None]
        if under_way:
            _, late = await asyncio.wait(under_way, timeout=GRACE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class LocationGrant:
    """The credentials of one location, by its OAuth grant; see `highlevel.credentials`."""

    keeper: Keeper
    location_id: str
    renewal: str = "log in again: rankr-sync auth login"

    async def token(self) -> str:
        """The access token."""
        return await self.keeper.location_token(self.location_id)

    async def refused(self, token: str) -> None:
        """Have another."""
        await self.keeper.location_refused(self.location_id, token)

    def adding(self, scope: str) -> str:
        """What to do about a scope that is missing."""
        return f"add the scope {scope} to the app and to oauth.scopes, then run: rankr-sync auth login"
