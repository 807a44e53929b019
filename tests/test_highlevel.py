"""The source at its seams: what is sent, what each answer becomes, what is tried again, who is served first."""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from mirror import LOCATION
from rankr_sync import __version__
from rankr_sync.access import credentials_of
from rankr_sync.config import Api, Config, Location
from rankr_sync.errors import (
    BadAnswer,
    BadConfiguration,
    EndpointGone,
    LocationRefused,
    NotFound,
    QuotaSpent,
    RankrSyncError,
    RequestRefused,
    ScopeMissing,
    Throttled,
    TokenRefused,
    Unreachable,
)
from rankr_sync.highlevel import HighLevel, Pacer, Patience, PrivateToken, Timeouts, TokenFile, make_client
from rankr_sync.model import Answer, Request
from rankr_sync.pacing import RateBudget, RateLimit
from rankr_sync.sandbox import DEFAULT_TOKEN, Sandbox, SandboxOptions, running
from rankr_sync.sandbox import RateLimit as SandboxLimit

TOKEN = "pit-0123-very-secret"
NOW = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)
CONTACT = Request("GET", "/contacts/abc", "/contacts/{id}", "contacts.readonly")
SEARCH = Request("POST", "/contacts/search", "/contacts/search", "contacts.readonly", body={"locationId": "x"})

Handler = Callable[[httpx.Request], httpx.Response]


class Script:
    """A scripted API behind the real client: answers one after the other (the last for ever), keeps a log."""

    def __init__(self, *answers: httpx.Response | Exception, **options: Any) -> None:
        self.answers = list(answers)
        self.seen: list[httpx.Request] = []
        self.slept: list[float] = []
        self.options = options
        self.pacer = options.pop("pacer", None) or Pacer(RateBudget(None, now=0.0))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        # A response can be sent once only.
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def fetch(self, request: Request = CONTACT, **how: Any) -> Answer:
        """What the source makes of the script."""

        async def ask() -> Answer:
            async with httpx.AsyncClient(transport=httpx.MockTransport(self._answer)) as client:
                return await source(client, pacer=self.pacer, sleep=self._sleep, **self.options).fetch(request, **how)

        return asyncio.run(ask())

    def error(self, request: Request = CONTACT, **how: Any) -> RankrSyncError:
        """The error that the source makes of the script."""
        with pytest.raises(RankrSyncError) as caught:
            self.fetch(request, **how)
        return caught.value


class Rotating(PrivateToken):
    """Credentials that have another token when the first is refused."""

    def __init__(self) -> None:
        super().__init__("old")

    async def refused(self, token: str) -> None:
        """Take the next."""
        assert token == "old"
        self._token = "new"


def source(client: httpx.AsyncClient, **options: Any) -> HighLevel:
    """A source with short defaults."""
    defaults: dict[str, Any] = {
        "base_url": "https://api.test",
        "location_id": "loc",
        "credentials": PrivateToken(TOKEN),
        "version": "2021-07-28",
        "pacer": Pacer(RateBudget(None, now=0.0)),
        "patience": Patience(attempts=3, seconds=60),
        "now": lambda: NOW,
    }
    return HighLevel(client, **(defaults | options))


def api_error(status: int, message: Any, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    """An answer in the API's own form."""
    content = {"statusCode": status, "message": message, "traceId": "trace-1", **body}
    return httpx.Response(status, json=content, headers=headers)


GOOD = httpx.Response(200, json={"contact": {"id": "abc"}, "traceId": "t"})
HTML = {"content-type": "text/html; charset=UTF-8"}


# -- what is sent ------------------------------------------------------------------------------------


def test_a_request_carries_token_version_and_user_agent() -> None:
    """Bearer token, Version and a user agent of our own go with every request, to the configured path."""
    api = Script(GOOD, base_url="https://proxy.test/highlevel/")
    request = Request("GET", "/contacts/", "/contacts/", "contacts.readonly", (("locationId", "a b"), ("limit", "100")))
    assert api.fetch(request).payload == {"contact": {"id": "abc"}, "traceId": "t"}
    sent = api.seen[0]
    assert sent.headers["authorization"] == f"Bearer {TOKEN}"
    assert sent.headers["version"] == "2021-07-28"
    assert sent.url.host == "proxy.test"
    assert sent.url.path == "/highlevel/contacts/"
    assert dict(sent.url.params) == {"locationId": "a b", "limit": "100"}


def test_the_client_says_who_it_is_and_follows_nothing() -> None:
    """The client of the program sends its name and version, wants JSON, and follows no redirect."""

    async def look() -> None:
        async with make_client(Timeouts(), 4) as client:
            assert client.headers["user-agent"] == f"rankr-sync/{__version__}"
            assert client.headers["accept"] == "application/json"
            assert client.follow_redirects is False

    asyncio.run(look())


def test_a_body_is_sent_as_json() -> None:
    """POST requests carry their body as JSON, and say so."""
    api = Script(GOOD)
    api.fetch(SEARCH)
    assert json.loads(api.seen[0].content) == {"locationId": "x"}
    assert api.seen[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize("id_", ["a b", "é", "a?b#c", "a\r\nX-Evil: 1", "100%", "<ü>"])
def test_an_odd_id_stays_in_its_path(id_: str) -> None:
    """Whatever an id holds, it becomes one segment of the path: no header, no query, no crash."""
    api = Script(GOOD)
    api.fetch(Request("GET", f"/contacts/{id_}", "/contacts/{id}", "contacts.readonly"))
    assert api.seen[0].url.path == f"/contacts/{id_}"
    assert api.seen[0].url.query == b""
    assert "x-evil" not in api.seen[0].headers


# -- what answers become -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202])
def test_any_success_is_a_success(status: int) -> None:
    """Creates are documented as 201, some searches were seen to answer 201: any 2xx counts."""
    answer = Script(httpx.Response(status, json={"tasks": []}, headers={"date": format_datetime(NOW)})).fetch()
    assert answer.payload == {"tasks": []}
    assert answer.asked_at == NOW
    assert answer.server_time == NOW
    assert answer.requests == 1


@pytest.mark.parametrize(
    ("date", "told"),
    [
        pytest.param("Tue, 01 Sep 2026 12:00:00 GMT", NOW, id="as documented"),
        pytest.param("Tue, 01 Sep 2026 12:00:00 -0000", NOW, id="zone said to be unknown"),
        pytest.param("yesterday", None, id="no date"),
        pytest.param("", None, id="empty"),
    ],
)
def test_the_servers_time_is_aware_or_not_known(date: str, told: datetime | None) -> None:
    """The Date header becomes an aware time, or none at all."""
    assert Script(httpx.Response(200, json={}, headers={"date": date})).fetch().server_time == told


@pytest.mark.parametrize(
    ("answer", "kind", "exit_code", "words"),
    [
        pytest.param(
            api_error(401, "The token is not authorized for this scope.", error="Unauthorized"),
            ScopeMissing,
            3,
            "contacts.readonly",
            id="401 scope",
        ),
        pytest.param(
            api_error(401, "This authClass type is not allowed to access this scope."),
            ScopeMissing,
            3,
            "contacts.readonly",
            id="401 agency token",
        ),
        pytest.param(
            api_error(401, "Invalid token: access token is invalid"),
            TokenRefused,
            3,
            "refuses the token",
            id="401 token",
        ),
        pytest.param(api_error(401, "Invalid JWT"), TokenRefused, 3, "refuses the token", id="401 JWT"),
        pytest.param(httpx.Response(401), TokenRefused, 3, "refuses the token", id="401 without a word"),
        pytest.param(
            api_error(401, "version header was not found."), RequestRefused, 1, "Version header", id="401 no version"
        ),
        pytest.param(
            api_error(400, "Invalid API version segment 'x' at position 0"), RequestRefused, 1, "400", id="400 version"
        ),
        pytest.param(
            api_error(403, "The token does not have access to this location."),
            LocationRefused,
            3,
            "no access to this location",
            id="403",
        ),
        pytest.param(api_error(404, "Contact not found"), NotFound, 1, "not found", id="404 unknown id"),
        pytest.param(api_error(400, "Contact with id abc not found"), NotFound, 1, "not found", id="400 unknown id"),
        pytest.param(api_error(400, "The contact id is invalid"), NotFound, 1, "not found", id="400 invalid id"),
        pytest.param(
            api_error(404, "Cannot GET /contacts/abc"), EndpointGone, 1, "does not exist", id="404 wrong path"
        ),
        pytest.param(
            api_error(400, "Endpoint GET /contacts/ not available in API version v3. This endpoint was removed."),
            EndpointGone,
            1,
            "API version",
            id="400 removed in v3",
        ),
        pytest.param(api_error(400, "limit must be a number"), RequestRefused, 1, "limit must be", id="400 other"),
        pytest.param(
            api_error(422, ["pageLimit too big", "locationId missing"]),
            RequestRefused,
            1,
            "pageLimit too big; locationId missing",
            id="422 list",
        ),
        pytest.param(api_error(422, "pageLimit too big"), RequestRefused, 1, "pageLimit too big", id="422 text"),
        pytest.param(
            httpx.Response(422, json={"error": {"code": "x", "message": "v3 says no"}}),
            RequestRefused,
            1,
            "v3 says no",
            id="422 of v3",
        ),
        pytest.param(httpx.Response(422, json={"message": None}), RequestRefused, 1, "422", id="422 without a word"),
        pytest.param(
            httpx.Response(302, headers={"location": "https://elsewhere.test/"}),
            RequestRefused,
            1,
            "302",
            id="redirect",
        ),
        pytest.param(api_error(500, "Internal server error"), BadAnswer, 1, "500", id="500"),
        pytest.param(api_error(408, "Request Timeout"), BadAnswer, 1, "408", id="408"),
        pytest.param(httpx.Response(502, text="<html>", headers=HTML), BadAnswer, 1, "502", id="502 of Cloudflare"),
        pytest.param(httpx.Response(403, text="<html>", headers=HTML), BadAnswer, 1, "403", id="403 of Cloudflare"),
        pytest.param(httpx.Response(404, text="<html>", headers=HTML), BadAnswer, 1, "404", id="404 of a web server"),
        pytest.param(httpx.Response(404), BadAnswer, 1, "404", id="404 without a word"),
        pytest.param(httpx.Response(200, text="<html>", headers=HTML), BadAnswer, 1, "web page", id="200 HTML"),
        pytest.param(httpx.Response(200, text='{"a": [1, '), BadAnswer, 1, "not JSON", id="200 half JSON"),
        pytest.param(httpx.Response(200, text=""), BadAnswer, 1, "empty", id="200 empty"),
        pytest.param(httpx.Response(200, json=[{"id": "abc"}]), BadAnswer, 1, "not an object", id="200 list"),
        pytest.param(
            httpx.Response(200, content=b'{"a":' + b"[" * 600 + b"]" * 600 + b"}"), BadAnswer, 1, "", id="200 too deep"
        ),
    ],
)
def test_each_answer_becomes_its_error(
    answer: httpx.Response, kind: type[RankrSyncError], exit_code: int, words: str
) -> None:
    """Statuses and bodies as documented and as reported become the kind of error that says what to do."""
    error = Script(answer).error()
    assert type(error) is kind
    assert error.exit_code == exit_code
    assert words in error.message
    assert "\n" not in error.message
    if answer.status_code != 200:
        assert error.status == answer.status_code


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500])
def test_the_trace_id_is_kept(status: int) -> None:
    """HighLevel's support asks for the traceId: it is a field of the error and in its sentence."""
    error = Script(api_error(status, "some words"), patience=Patience(attempts=1)).error()
    assert error.trace_id == "trace-1"
    assert "trace-1" in str(error)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500])
def test_no_error_repeats_the_token_or_an_address(status: int) -> None:
    """Even where the other side echoes what was sent: no token, e-mail address or phone number in any error."""
    echo = f"bad header Bearer {TOKEN}, jane.doe@example.com and +1 (555) 010-0001 exist\nalready"
    error = Script(api_error(status, [echo, "second"]), patience=Patience(attempts=1)).error()
    said = " ".join(str(part) for part in (error, repr(error), error.message, error.hint))
    for secret in (TOKEN, "jane.doe", "010-0001", "\n"):
        assert secret not in said


def test_refusals_are_not_repeated() -> None:
    """What repeating cannot help (400, 403, 404, 422) is asked once."""
    for status in (400, 403, 404, 422):
        api = Script(api_error(status, "no"))
        assert api.error().requests == 1
        assert len(api.seen) == 1


# -- what is tried again -----------------------------------------------------------------------------


def test_a_passing_401_is_only_a_pause() -> None:
    """HighLevel sends spurious 401s on valid tokens: it is asked again before a token is called dead."""
    api = Script(api_error(401, "Invalid JWT"), api_error(401, "The token is not authorized for this scope."), GOOD)
    assert api.fetch().requests == 3


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_retries_are_bounded_by_count(attempts: int) -> None:
    """At most so many attempts; the error tells how many requests were spent."""
    api = Script(api_error(500, "no"), patience=Patience(attempts=attempts, seconds=600))
    assert api.error().requests == attempts
    assert len(api.seen) == attempts
    assert len(api.slept) == attempts - 1


def test_retries_are_bounded_by_seconds() -> None:
    """No attempt begins after the patience is over: a wait that would end later is not begun."""
    far = api_error(503, "maintenance", {"retry-after": "3600"})
    api = Script(far, patience=Patience(attempts=6, seconds=120))
    error = api.error()
    assert isinstance(error, BadAnswer)
    assert error.retry_after == 3600
    assert api.slept == []
    assert Script(api_error(500, "no"), patience=Patience(attempts=6, seconds=0)).error().requests == 1


def test_waits_grow_with_jitter_and_stay_bounded() -> None:
    """The waits are random, under a curve that doubles up to the longest wait."""
    patience = Patience(attempts=9, seconds=600, first_wait=0.5, longest_wait=8.0)
    runs = []
    for _ in range(20):
        api = Script(api_error(500, "no"), patience=patience)
        api.error()
        runs.append(api.slept)
    for slept in runs:
        assert all(wait <= min(0.5 * 2**turn, 8.0) for turn, wait in enumerate(slept))
    assert len({slept[0] for slept in runs}) > 10


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(form: str) -> None:
    """A 503 that names a time is asked again then, not before, and not much later."""
    value = "7" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True)
    api = Script(api_error(503, "later", {"retry-after": value}), GOOD, patience=Patience(longest_wait=1.0))
    api.fetch()
    assert 6.0 <= api.slept[0] <= 8.5


@pytest.mark.parametrize("value", ["soon", "nan", "-5", "", "inf", "Fri, 31 Dec 9999 23:59:59 GMT", "1e400"])
def test_nonsense_in_retry_after_does_no_harm(value: str) -> None:
    """A wish that is no time is ignored; none makes us wait for more than a day."""
    error = Script(api_error(503, "later", {"retry-after": value}), patience=Patience(attempts=1)).error()
    assert isinstance(error, BadAnswer)
    assert error.retry_after is None or 0 <= error.retry_after <= 86_400


def test_hurried_requests_are_asked_twice_at_most() -> None:
    """What can be done without does not hold up the rest."""
    api = Script(api_error(500, "no"), patience=Patience(attempts=6, seconds=600))
    assert api.error(hurried=True).requests == 2


def test_a_429_waits_in_the_pacer_for_all() -> None:
    """After a 429 nothing is sent before the server's wish is over, and then the request goes again."""
    limit = RateLimit(5, 0.05)
    api = Script(api_error(429, "Too Many Requests", {"retry-after": "0.2"}), GOOD, pacer=pacer(limit))
    began = time.monotonic()
    assert api.fetch().requests == 2
    assert time.monotonic() - began >= 0.2
    assert api.pacer.budget.throttled == 1
    assert api.slept == [0.0]


@pytest.mark.parametrize(("headers", "asked"), [({"retry-after": "0.01"}, 0.01), ({}, None)])
def test_a_429_that_stays_goes_up(headers: dict[str, str], asked: float | None) -> None:
    """After the last attempt the error tells that it was the rate limit, and what the server wished."""
    api = Script(httpx.Response(429, text="slow down", headers=headers), pacer=pacer(RateLimit(100, 0.01)))
    error = api.error()
    assert type(error) is Throttled
    assert error.retry_after == asked
    assert error.requests == 3


def test_each_location_asks_with_its_own_token_each_time() -> None:
    """The token is asked for with every attempt, so a new one is used as soon as it is there."""
    api = Script(api_error(401, "Invalid JWT"), GOOD, credentials=Rotating())
    api.fetch()
    assert [request.headers["authorization"] for request in api.seen] == ["Bearer old", "Bearer new"]


@pytest.mark.parametrize(
    "words", ["The token is not authorized for this scope.", "This authClass type is not allowed", "version header"]
)
def test_a_401_about_something_else_does_not_cost_the_token(words: str) -> None:
    """A missing scope, the wrong kind of token or a missing Version header is not mended by another token."""
    credentials = Rotating()
    Script(api_error(401, words), GOOD, credentials=credentials).fetch()
    assert asyncio.run(credentials.token()) == "old"


@given(
    headers=st.dictionaries(
        st.sampled_from(
            [
                *("date", "retry-after", "x-ratelimit-max", "x-ratelimit-remaining", "x-ratelimit-daily-reset"),
                *("x-ratelimit-interval-milliseconds", "x-ratelimit-limit-daily", "x-ratelimit-daily-remaining"),
            ]
        ),
        st.one_of(
            st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
            st.integers(-1, 10**6).map(str),
            st.just("9" * 5000),
        ),
    ),
    status=st.sampled_from([200, 429, 503]),
)
@settings(max_examples=60)
def test_no_header_can_break_a_request(headers: dict[str, str], status: int) -> None:
    """Every header is optional and any value of it is survived."""
    api = Script(httpx.Response(status, json={}, headers=headers), patience=Patience(attempts=1))
    with contextlib.suppress(BadAnswer, Throttled):
        api.fetch()
    assert api.pacer.budget.in_flight == 0
    api.pacer.close()


# -- over real connections ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sandbox() -> Iterator[tuple[str, Sandbox]]:
    """A sandbox on a port, without limits."""
    options = SandboxOptions(contacts=5, rate_limit=None, stall_seconds=20.0, slow_body_seconds=6.0)
    with running(options) as (base_url, box):
        yield base_url, box


@contextlib.asynccontextmanager
async def real_source(base_url: str, **options: Any) -> AsyncIterator[HighLevel]:
    """A source over the program's own transport, quick to lose patience."""
    quick = {"patience": Patience(attempts=3, seconds=30, first_wait=0.01), "credentials": PrivateToken(DEFAULT_TOKEN)}
    async with make_client(Timeouts(connect=1.0, read=0.3), 8, tls=False) as client:
        yield source(client, base_url=base_url, **(quick | options))


def ask(base_url: str, request: Request, **options: Any) -> Answer:
    """One fetch over a real connection."""

    async def fetch() -> Answer:
        async with real_source(base_url, **options) as highlevel:
            return await highlevel.fetch(request)

    return asyncio.run(fetch())


LIST = Request("GET", "/contacts/", "/contacts/", "contacts.readonly", (("locationId", LOCATION), ("limit", "100")))
ONCE = {"patience": Patience(attempts=1)}


@pytest.mark.parametrize("fault", ["reset", "truncated", "half-json", "stall", "500", "502-html", "503", "200-html"])
def test_a_broken_answer_is_asked_for_again(sandbox: tuple[str, Sandbox], fault: Any) -> None:
    """Whatever happens to one answer on its way, the next attempt brings it."""
    base_url, box = sandbox
    box.faults.next(fault)
    answer = ask(base_url, LIST)
    assert answer.requests == 2
    assert len(answer.payload["contacts"]) == 5


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("reset", Unreachable), ("truncated", Unreachable), ("stall", Unreachable), ("half-json", BadAnswer)],
)
def test_a_broken_answer_is_told_for_what_it_is(sandbox: tuple[str, Sandbox], fault: Any, kind: type) -> None:
    """No answer and a useless answer are different errors, and neither is an answer."""
    base_url, box = sandbox
    box.faults.next(fault)
    with pytest.raises(kind) as caught:
        ask(base_url, LIST, **ONCE)
    assert DEFAULT_TOKEN not in str(caught.value)


def test_a_body_that_drips_is_cut_off(sandbox: tuple[str, Sandbox]) -> None:
    """A body that keeps coming, but too slowly, is not waited for beyond the total timeout."""
    base_url, box = sandbox
    box.faults.next("slow-body")

    async def patiently() -> Answer:
        async with make_client(Timeouts(connect=1.0, read=5.0), 8, tls=False) as client:
            patience = Patience(attempts=2, seconds=30, first_wait=0.01)
            options = {"base_url": base_url, "credentials": PrivateToken(DEFAULT_TOKEN), "patience": patience}
            return await source(client, total_timeout=0.8, **options).fetch(LIST)

    assert asyncio.run(patiently()).requests == 2


def test_nobody_listening_is_unreachable() -> None:
    """A closed port is an error that may pass, names the host and says what to check."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable) as caught:
            ask(f"http://127.0.0.1:{taken.getsockname()[1]}", LIST, **ONCE)
    assert "127.0.0.1" in caught.value.message
    assert caught.value.hint
    with pytest.raises(Unreachable):
        ask("http://no-such-host.invalid", LIST, **ONCE)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def saying(*parts: bytes, seen: list[bytes] | None = None) -> Serve:
    """A server that reads one request, says these bytes and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            request = await reader.readuntil(b"\r\n\r\n")
            if seen is not None:
                seen.append(request)
            for part in parts:
                writer.write(part)
                await writer.drain()
        writer.close()

    return serve


def ask_raw(serve: Serve, request: Request = CONTACT, **options: Any) -> Answer:
    """One fetch from a server that speaks raw bytes."""

    async def fetch() -> Answer:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            async with real_source(f"http://127.0.0.1:{port}", **(ONCE | options)) as highlevel:
                return await highlevel.fetch(request)

    return asyncio.run(fetch())


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{}", id="content-length too long"),
        pytest.param(b'HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{"a":1}', id="content-length too short"),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{}", id="chunk cut short"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", id="not gzip"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", id="half a head"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_broken_http_is_one_of_our_errors(said: bytes) -> None:
    """Whatever bytes come, the error is one that may pass."""
    with pytest.raises((Unreachable, BadAnswer)):
        ask_raw(saying(said))


def test_a_redirect_is_not_followed_and_no_other_host_sees_the_token() -> None:
    """The API has no redirects: one is refused, and what it points to is never asked."""
    seen: list[bytes] = []

    async def fetch() -> None:
        other = await asyncio.start_server(saying(b"HTTP/1.1 200 OK\r\n\r\n", seen=seen), "127.0.0.1", 0)
        target = f"http://localhost:{other.sockets[0].getsockname()[1]}/contacts/abc"
        redirect = f"HTTP/1.1 307 Temporary Redirect\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n".encode()
        first = await asyncio.start_server(saying(redirect), "127.0.0.1", 0)
        async with first, other, real_source(f"http://127.0.0.1:{first.sockets[0].getsockname()[1]}") as highlevel:
            with pytest.raises(RequestRefused, match="307"):
                await highlevel.fetch(CONTACT)

    asyncio.run(fetch())
    assert seen == []


def test_no_cookie_is_kept() -> None:
    """The edge sets cookies; they are not sent back, so one location's session is not another's."""
    seen: list[bytes] = []
    answer = b"HTTP/1.1 200 OK\r\nset-cookie: __cf_bm=secret; Path=/\r\ncontent-length: 2\r\n\r\n{}"

    async def fetch() -> None:
        server = await asyncio.start_server(saying(answer, seen=seen), "127.0.0.1", 0)
        async with server, real_source(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as highlevel:
            await highlevel.fetch(CONTACT)
            await highlevel.fetch(CONTACT)

    asyncio.run(fetch())
    assert len(seen) == 2
    assert b"cookie" not in seen[1].lower()


# -- the rate budget ---------------------------------------------------------------------------------


def pacer(limit: RateLimit | None, **options: Any) -> Pacer:
    """A pacer that has been told the limits once, so that bursts are open."""
    budget = RateBudget(limit, now=time.monotonic())
    budget._told = True
    return Pacer(budget, **options)


def test_rate_headers_feed_the_pacer() -> None:
    """Limits and what is left of the day are learnt from the answers, whatever case the names are in."""
    headers = {
        "X-RateLimit-Max": "25",
        "x-ratelimit-interval-milliseconds": "5000",
        "x-ratelimit-limit-daily": "10000",
        "X-Ratelimit-Daily-Remaining": "9876",
        "x-ratelimit-daily-reset": "3600000",
    }
    api = Script(httpx.Response(200, json={}, headers=headers), pacer=pacer(RateLimit(100, 10)))
    api.fetch()
    budget = api.pacer.budget
    assert budget.limit == RateLimit(25, 5.0)
    assert (budget.daily_limit, budget.daily_remaining) == (10_000, 9_876)
    usage = asyncio.run(usage_of(api.pacer))
    assert usage["daily_remaining"] == 9_876
    assert timedelta(minutes=59) < usage["daily_reset_at"] - NOW <= timedelta(hours=1)
    assert usage["requests"] == 1


async def usage_of(of: Pacer) -> dict[str, Any]:
    """What a source reports to `api_usage`."""
    async with httpx.AsyncClient() as client:
        return source(client, pacer=of).usage()


def test_usage_is_reported_once() -> None:
    """Requests and throttles are counted since the last report, so that adding them up is right."""

    async def report() -> None:
        answers = itertools.chain([429, 200, 200], itertools.repeat(200))
        transport = httpx.MockTransport(lambda request: httpx.Response(next(answers), json={}))
        async with httpx.AsyncClient(transport=transport) as client:
            highlevel = source(client, pacer=pacer(RateLimit(100, 0.01)))
            await highlevel.fetch(CONTACT)
            await highlevel.fetch(CONTACT)
            first, second = highlevel.usage(), highlevel.usage()
        assert (first["requests"], first["throttled"]) == (3, 1)
        assert (second["requests"], second["throttled"]) == (0, 0)

    asyncio.run(report())


def test_the_pacer_serves_the_urgent_first() -> None:
    """When slots are short: people waiting, then listings, then visits; within one kind in the order they came."""
    served: list[str] = []

    async def work() -> None:
        line = pacer(RateLimit(1, 0.02))
        await line.enter(2)

        async def one(priority: int, name: str) -> None:
            await line.enter(priority)
            served.append(name)
            line.leave(None)

        wanted = [(2, "visit 1"), (1, "listing 1"), (2, "visit 2"), (0, "urgent"), (1, "listing 2")]
        tasks = [asyncio.create_task(one(*each)) for each in wanted]
        await asyncio.sleep(0)
        line.leave(None)
        await asyncio.gather(*tasks)
        line.close()

    asyncio.run(work())
    assert served == ["urgent", "listing 1", "listing 2", "visit 1", "visit 2"]


def test_each_priority_leaves_a_reserve_of_the_day() -> None:
    """The last of the day's quota is kept: 5% from visits, 1% from listings, nothing from people waiting."""

    async def work() -> None:
        for left, open_to in ((51, {0, 1, 2}), (50, {0, 1}), (10, {0}), (0, set())):
            line = pacer(None)
            line.budget.daily_limit, line.budget.daily_remaining = 1000, left
            admitted = set()
            for priority in (0, 1, 2):
                entering = asyncio.create_task(line.enter(priority))
                await asyncio.wait({entering}, timeout=0.01)
                if entering.done() and entering.exception() is None:
                    admitted.add(priority)
                    line.leave(None)
                    line.budget.daily_remaining = left
                else:
                    entering.cancel()
                    await asyncio.gather(entering, return_exceptions=True)
            line.close()
            assert admitted == open_to, left

    asyncio.run(work())


def test_a_spent_day_is_told() -> None:
    """Who wants to know is told when requests wait for the day to turn; a person is refused at once."""
    told: list[float] = []

    async def work() -> None:
        line = pacer(None, on_day_spent=told.append)
        line.budget.daily_limit, line.budget.daily_remaining = 1000, 0
        with pytest.raises(QuotaSpent):
            await line.enter(0)  # a person does not wait for hours
        entering = asyncio.create_task(line.enter(1))
        await asyncio.sleep(0)
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        line.close()

    asyncio.run(work())
    assert told
    assert told[0] > 60


@given(
    script=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["stay", "leave at once", "be served"])), min_size=1, max_size=25
    ),
    slots=st.integers(1, 4),
)
@settings(max_examples=40)
def test_cancelled_waiters_leak_no_slot(script: list[tuple[int, str]], slots: int) -> None:
    """Whoever gives up while waiting, in whatever order: the others are all served and every slot comes back."""

    async def work() -> None:
        line = pacer(RateLimit(slots, 0.001))
        served = 0

        async def one(priority: int) -> None:
            nonlocal served
            await line.enter(priority)
            try:
                served += 1
                assert line.budget.in_flight <= slots
                await asyncio.sleep(0)
            finally:
                line.leave(None)

        tasks = [(asyncio.create_task(one(priority)), what) for priority, what in script]
        await asyncio.sleep(0)
        for task, what in tasks:
            if what == "leave at once":
                task.cancel()
            elif what == "be served":
                await asyncio.sleep(0)
        results = await asyncio.gather(*(task for task, _ in tasks), return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
        assert all(result is None for (_, what), result in zip(tasks, results, strict=True) if what != "leave at once")
        assert line.budget.in_flight == 0
        await asyncio.wait_for(line.enter(2), 1.0)
        line.leave(None)
        line.close()

    asyncio.run(work())


def test_a_slot_that_comes_together_with_the_cancellation_is_given_back() -> None:
    """A waiter that is served and cancelled in the same moment keeps nothing."""

    async def work() -> None:
        line = pacer(None)
        line.budget.daily_remaining, line.budget.daily_limit = 1, 1000
        await line.enter(0)
        waiting = asyncio.create_task(line.enter(1))
        await asyncio.sleep(0)
        line.budget.daily_remaining = 100
        line.leave(None)  # serves the one that waits
        assert line.budget.in_flight == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert line.budget.in_flight == 0
        line.close()

    asyncio.run(work())


def test_a_cancelled_request_gives_its_slot_back() -> None:
    """A request that is cut off while the server is silent does not keep its slot."""

    async def work() -> None:
        asked = asyncio.Event()

        async def silent(request: httpx.Request) -> httpx.Response:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        line = pacer(RateLimit(1, 0.001))
        async with httpx.AsyncClient(transport=httpx.MockTransport(silent)) as client:
            task = asyncio.create_task(source(client, pacer=line).fetch(CONTACT))
            await asked.wait()
            assert line.budget.in_flight == 1
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert line.budget.in_flight == 0
        line.close()

    asyncio.run(work())


def test_a_sandbox_with_limits_is_never_made_to_refuse() -> None:
    """Sixty requests side by side under 20/0.5s: none is refused, in whatever window the server counts."""
    box = Sandbox(SandboxOptions(contacts=1, rate_limit=SandboxLimit(20, 0.5)))
    with running(box) as (base_url, _):

        async def work() -> None:
            line = Pacer(RateBudget(RateLimit(20, 0.5), now=time.monotonic()))
            async with real_source(base_url, pacer=line) as highlevel:
                await asyncio.gather(*(highlevel.fetch(LIST) for _ in range(60)))
            line.close()

        asyncio.run(work())
    stats = box.stats()
    assert (stats["throttled"], stats["sliding_excess"], stats["fixed_excess"]) == (0, 0, 0)


# -- tokens ------------------------------------------------------------------------------------------


def config(location: dict[str, Any], **api: Any) -> Config:
    """A configuration with one location."""
    return Config(api=Api(**api), locations=(Location(id="loc", **location),))


def test_token_precedence(tmp_path: Path) -> None:
    """The location's own token, its file, the token for all, its file: the first that is set."""
    own, shared = tmp_path / "own", tmp_path / "shared"
    own.write_text("own-file\n")
    shared.write_text("shared-file\n")
    everything = {"location": {"token": SecretStr("own"), "token_file": own}, "token": SecretStr("shared")}
    api = {"token": SecretStr("shared"), "token_file": shared}
    cases = [
        (config(everything["location"], **api), "own"),
        (config({"token_file": own}, **api), "own-file"),
        (config({}, **api), "shared"),
        (config({}, token_file=shared), "shared-file"),
        (config({"token": SecretStr("  ")}, **api), "shared"),
    ]
    for settings_, token in cases:
        assert asyncio.run(credentials_of(settings_, settings_.locations[0]).token()) == token
    with pytest.raises(BadConfiguration, match="no token"):
        credentials_of(config({}), Location(id="loc"))


def test_a_changed_token_file_is_read_again(tmp_path: Path) -> None:
    """A rotated secret is used with the next request, without a restart."""
    file = tmp_path / "token"
    file.write_text("first\n")
    secret = TokenFile(file)

    def read() -> str:
        return asyncio.run(secret.token())

    assert read() == "first"
    file.write_text("second\n")
    os.utime(file, ns=(1, 1))
    assert read() == "second"
    # As Kubernetes does it: a link that is moved to a new folder.
    other = tmp_path / "other"
    other.write_text("third\n")
    os.utime(other, ns=(2, 2))
    file.unlink()
    file.symlink_to(other)
    assert read() == "third"
    # The same date, to the nanosecond: only a refusal makes it worth a look.
    other.write_text("fourth\n")
    os.utime(other, ns=(2, 2))
    assert read() == "third"
    asyncio.run(secret.refused("third"))
    assert read() == "fourth"


@pytest.mark.parametrize("content", [b"", b"\n", b"pit-1\npit-2\n", b"pit 1", "pit-é".encode(), b"\xff\xfe"])
def test_a_token_file_without_a_token_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    """An empty file, two lines or bytes that no token has: an error of configuration that does not show them."""
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(BadConfiguration) as caught:
        TokenFile(file)
    assert caught.value.hint
    assert "pit" not in str(caught.value)


def test_a_missing_token_file_is_a_sentence(tmp_path: Path) -> None:
    """A file that is not there is named."""
    settings_ = config({}, token_file=tmp_path / "nowhere")
    with pytest.raises(BadConfiguration, match="nowhere"):
        credentials_of(settings_, settings_.locations[0])
