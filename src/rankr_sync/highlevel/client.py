"""Sending: auth, headers, retries. The only place where requests leave the program and httpx's exceptions are known."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

import aiohttp
import httpx
import structlog
import tenacity
from httpx_aiohttp import AiohttpTransport

from rankr_sync import __version__
from rankr_sync.decode import decode
from rankr_sync.engine.observer import Observer, Unobserved
from rankr_sync.errors import (
    RankrSyncError,
    Throttled,
    TryLater,
    Unauthorised,
    Unreachable,
)
from rankr_sync.highlevel.answers import (
    give_up_on_token,
    is_about_token,
    raise_for,
    rate_headers,
    server_time,
    throttled,
)
from rankr_sync.highlevel.credentials import Credentials
from rankr_sync.highlevel.pacer import Pacer
from rankr_sync.model import Answer, Request, Row
from rankr_sync.pacing import DOCUMENTED_DAILY_LIMIT, DayBudget

log = structlog.get_logger()

CHECK_NETWORK = "check the network and api.base_url, then run: rankr-sync check"

RESTART_MARGIN = 1.0
"""Seconds that a request may be on its way, and by which the clocks of two processes may differ."""

HURRIED = 2
"""Attempts for what can be done without."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the source tries before an error goes up.

    At most `attempts`, and none that would begin more than `seconds` after the first one failed, whatever wait
    the server asks for: whoever asked again later knows that wish from the error.
    """

    attempts: int = 6
    seconds: float = 120.0
    first_wait: float = 0.5
    longest_wait: float = 20.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds for connecting, for silence while reading, and for the whole of one attempt."""

    connect: float = 10.0
    read: float = 30.0
    total: float = 60.0


def make_client(timeouts: Timeouts, connections: int, *, tls: bool = True) -> httpx.AsyncClient:
    """The interface of httpx over aiohttp's transport, which costs a third of the time per request.

    Redirects are never followed: the API has none, and another host must not see the token. Without `tls`
    no certificate authorities are loaded, so https is refused rather than unverified.
    """
    verify = httpx.create_ssl_context() if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=15)

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=connections, keepalive_timeout=limits.keepalive_expiry, ssl=verify)
        made = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        # Else it sends a GET again by itself when the connection breaks, past the pacer and the count of requests.
        made._retry_connection = False
        return made

    return CookielessClient(
        transport=_OneSession(session, limits, verify),
        timeout=httpx.Timeout(timeouts.read, connect=timeouts.connect, pool=None),
        follow_redirects=False,
        headers={"accept": "application/json", "user-agent": f"rankr-sync/{__version__}"},
    )


class _NoCookies(httpx.Cookies):
    """Takes none and gives none."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """The API has no sessions; what its edge would like to remember is not sent back."""


class CookielessClient(httpx.AsyncClient):
    """A client without a cookie jar: looking for cookies in each answer is a tenth of its time."""

    _none = _NoCookies()
    cookies = property(lambda self: self._none, lambda self, value: None)


class _OneSession(AiohttpTransport):
    """The transport with a session of our making, kept for its whole life."""

    def __init__(
        self, session: Callable[[], aiohttp.ClientSession], limits: httpx.Limits, verify: ssl.SSLContext
    ) -> None:
        super().__init__(limits=limits, verify=verify)
        self._make = session

    def get_client(self) -> aiohttp.ClientSession:
        return self._make()


class HighLevel:
    """One location's view of the API."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        base_url: str,
        location_id: str,
        credentials: Credentials,
        version: str,
        pacer: Pacer,
        patience: Patience = Patience(),
        total_timeout: float = 60.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        observer: Observer = Unobserved(),
    ) -> None:
        self.location_id = location_id
        self.pacer = pacer
        self._reported = (0, 0)
        self._ended_at = 0
        self._client = client
        self._base_url = base_url.rstrip("/")
        self._host = httpx.URL(base_url).host
        self._headers = [*client.headers.raw, (b"version", version.encode())]
        self._extensions = {"timeout": client.timeout.as_dict()}
        self._credentials = credentials
        self._total_timeout = total_timeout
        self._now = now
        self._patience = patience
        self._sleep = sleep
        self._observer = observer

    async def fetch(self, request: Request, *, priority: int = 1, hurried: bool = False) -> Answer:
        """The answer to `request`; the smaller `priority` is served first.

        Tries within the source's patience (`hurried`: twice at most). Raises TryLater, AskOwner, NotFound
        or RequestRefused; see `errors`.
        """
        try:
            return await self._attempt(request, priority)
        except TryLater as error:
            # Most requests succeed at once; tenacity's machinery is only paid for by those that do not.
            return await self._again(error, request, priority, hurried)
        except RankrSyncError as error:
            error.requests = 1
            raise

    async def _again(self, first: TryLater, request: Request, priority: int, hurried: bool) -> Answer:
        patience = replace(self._patience, attempts=HURRIED) if hurried else self._patience
        failed: list[TryLater] = [first]

        async def attempt() -> Answer:
            if failed:
                raise failed.pop()  # the attempt that was already made
            return await self._attempt(request, priority)

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(patience.attempts) | tenacity.stop_before_delay(patience.seconds),
            wait=_Wait(patience),
            retry=tenacity.retry_if_exception_type(TryLater),
            sleep=self._sleep,
            before_sleep=lambda state: _log_retry(self.location_id, request, state),
            reraise=True,
        )
        try:
            answer: Answer = await retrying(attempt)
        except RankrSyncError as error:
            error.requests = retrying.statistics["attempt_number"]
            if isinstance(error, Unauthorised):
                give_up_on_token(error, request, self._credentials)
            raise
        return replace(answer, requests=retrying.statistics["attempt_number"])

    @property
    def throttled(self) -> int:
        """How often the rate limit was hit so far."""
        return self.pacer.budget.throttled

    def usage(self, *, ending: bool = False) -> Row:
        """Requests and throttles since the last call, and what the headers told: a row of `api_usage`.

        Until the `ending`, `burst_used` says the whole burst: should this process die, the next one must
        not count on what may just have been spent.
        """
        budget, now = self.pacer.budget, self.pacer.clock()
        sent, throttled = budget.sent - self._reported[0], budget.throttled - self._reported[1]
        self._reported = (budget.sent, budget.throttled)
        if ending:
            self._ended_at = budget.sent
        resets_in = budget.daily_reset_at - now if budget.daily_reset_at is not None else None
        limit = budget.limit.requests if budget.limit else 0
        return {
            "requests": sent,
            "throttled": throttled,
            "daily_limit": budget.daily_limit,
            "daily_remaining": budget.daily_remaining,
            "daily_reset_at": self._now() + timedelta(seconds=resets_in) if resets_in is not None else None,
            "burst_used": budget.used(now) if ending else limit,
        }

    def day(self) -> DayBudget:
        """What is left of the day's quota, as far as answers have told; else as it is documented."""
        budget = self.pacer.budget
        limit = budget.daily_limit or DOCUMENTED_DAILY_LIMIT
        if budget.daily_remaining is None:
            return DayBudget(limit, limit)
        if budget.daily_reset_at is None:
            return DayBudget(limit, budget.daily_remaining)
        resets_in = budget.daily_reset_at - self.pacer.clock()
        return DayBudget(limit, budget.daily_remaining, resets_in) if resets_in > 0 else DayBudget(limit, limit)

    @property
    def unsaved(self) -> bool:
        """Whether anything was sent that no `usage(ending=True)` has told of."""
        return self.pacer.budget.sent > self._ended_at

    # -- several processes -----------------------------------------------------------------------------

    def take_over(self, usage: Row | None, lived_until: datetime | None = None) -> None:
        """Nobody else sends from now on: count what the one before us had just spent, by its last row.

        `lived_until`: it did not say that it ends, and may have sent until then. Its last row may then be older than
        its last requests, and these may still be on their way: the whole burst counts.
        """
        limit = self.pacer.budget.limit
        if usage is not None and usage["daily_remaining"] is not None and usage["daily_reset_at"] is not None:
            resets_in = (usage["daily_reset_at"] - self._now()).total_seconds()
            if resets_in > 0:
                self.pacer.budget.know_day(usage["daily_remaining"], self.pacer.clock() + resets_in)
        if limit is None:
            return
        now, forgotten_after = self._now(), limit.seconds + RESTART_MARGIN
        if lived_until is not None and (now - lived_until).total_seconds() < forgotten_after:
            self.pacer.budget.take_over(self.pacer.clock(), limit.requests, RESTART_MARGIN)
        # Of another machine, or before the clock was set back, it may be dated a little ahead.
        elif usage is not None and abs((now - usage["updated_at"]).total_seconds()) < forgotten_after:
            self.pacer.budget.take_over(self.pacer.clock(), usage["burst_used"])

    def keep_to(self, slots: int | None) -> None:
        """Send no more than this at once: so much was lent to us. None: it is no longer."""
        self.pacer.budget.keep_to(slots)

    def lend(self, slots: int, *, at_once: bool = False) -> int:
        """Keep slots for another process; how many, 0 if it must wait. `at_once`: it has them already."""
        return self.pacer.budget.lend(slots, at_once=at_once)

    @property
    def may_use_loans(self) -> bool:
        """Whether all that is lent is free by now."""
        return self.pacer.budget.may_use_loans(self.pacer.clock())

    def take_back(self, slots: int) -> None:
        """What was lent is not used any more."""
        self.pacer.take_back(slots)

    # -- one attempt -----------------------------------------------------------------------------------

    async def _attempt(self, request: Request, priority: int) -> Answer:
        await self.pacer.enter(priority)
        told, token = None, None
        try:
            token = await self._credentials.token()
            asked_at = self._now()
            response = await self._send(request, token)
            told = rate_headers(response.headers.raw)
            if response.status_code == 429:
                refused = throttled(response)
                self.pacer.refused(refused.retry_after)
                self._observer.throttled(self.location_id)
                raise refused
            if not response.is_success:
                raise_for(response, request)
            payload = decode(response.content, response.headers.get("content-type"))
            return Answer(payload, asked_at, server_time(response.headers))
        except Unauthorised as error:
            if token is not None and is_about_token(error):
                await self._credentials.refused(token)
            raise
        finally:
            self.pacer.leave(told)

    async def _send(self, request: Request, token: str) -> httpx.Response:
        """The whole answer, whatever its status. Raises Unreachable where there is none."""
        began, outcome = time.perf_counter(), "cancelled"
        try:
            async with asyncio.timeout(self._total_timeout):
                response = await self._client.send(self._build(request, token))
            outcome = str(response.status_code)
            return response
        except SENDING_ERRORS as error:
            outcome = "timeout" if is_late(error) else "unreachable"
            raise unreachable(error, self._host, self._total_timeout) from None
        finally:
            seconds = time.perf_counter() - began
            self._observer.requested(self.location_id, request.route, outcome, seconds)
            log.debug(
                "request.ended",
                location=self.location_id,
                route=request.route,
                outcome=outcome,
                seconds=round(seconds, 3),
            )

    def _build(self, request: Request, token: str) -> httpx.Request:
        url = f"{self._base_url}{quote(request.path)}"
        if request.query:
            url += "?" + urlencode(request.query)
        # Not client.build_request: merging the same headers and parameters anew costs more than all the rest.
        headers = [*self._headers, (b"authorization", f"Bearer {token}".encode())]
        return httpx.Request(request.method, url, headers=headers, json=request.body, extensions=self._extensions)


SENDING_ERRORS = (
    TimeoutError,
    *(httpx.HTTPError, httpx.InvalidURL, httpx.StreamError),
    *(aiohttp.ClientError, OSError),
)
"""What sending raises when there is no answer; `unreachable` puts it into words."""


def is_late(error: Exception) -> bool:
    """Whether time ran out. The transport calls a refused connection a timeout; what it came of knows better."""
    late = isinstance(error, TimeoutError | httpx.TimeoutException)
    return late and not isinstance(error.__cause__, aiohttp.ClientConnectorError)


def unreachable(error: Exception, host: str, within: float) -> Unreachable:
    """Our error for one of `SENDING_ERRORS`, without anything that was sent. `within`: the seconds it was given."""
    if isinstance(error, TimeoutError):
        return Unreachable(f"no whole answer from {host} within {within:g} s", hint=CHECK_NETWORK)
    if isinstance(error, httpx.TimeoutException):
        words = "did not answer in time" if is_late(error) else "cannot be reached"
        return Unreachable(f"{host} {words}", hint=CHECK_NETWORK)
    return Unreachable(f"{host} cannot be reached or cut the connection ({type(error).__name__})", hint=CHECK_NETWORK)


class _Wait(tenacity.wait.wait_base):
    """Exponential with full jitter; where the server names a time, that time (and a little jitter)."""

    def __init__(self, patience: Patience) -> None:
        self._curve = tenacity.wait_random_exponential(multiplier=patience.first_wait, max=patience.longest_wait)

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        if isinstance(error, Throttled):
            return 0.0  # the pacer does this waiting, for all requests of the location at once
        asked = error.retry_after if isinstance(error, TryLater) else None
        jitter: float = self._curve(retry_state)
        return jitter if asked is None else asked + jitter / 10


def _log_retry(location_id: str, request: Request, state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.info(
        "request.retried",
        location=location_id,
        route=request.route,
        attempt=state.attempt_number,
        error=type(error).__name__,
        status=getattr(error, "status", None),
        trace_id=getattr(error, "trace_id", None),
    )
