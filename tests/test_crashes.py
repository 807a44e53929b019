"""What a failure at one exact point costs: at one commit, half way through a pass, on a connection that is cut."""

import asyncio
import contextlib
import ssl
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy
from sqlalchemy import event

from mirror import LOCATION, account, backfill, calls, configuration, connected, differences, query, rows, run, syncing
from rankr_sync import visits
from rankr_sync.config import Config, Deletions
from rankr_sync.engine import LocationSync
from rankr_sync.errors import StoreUnavailable, TryLater, Unreachable
from rankr_sync.highlevel import HighLevel, Pacer, Patience, PrivateToken, Timeouts, make_client
from rankr_sync.model import Request
from rankr_sync.pacing import RateBudget
from rankr_sync.sandbox import RateLimit, Sandbox, create_app
from rankr_sync.streams import contacts

LOOK = "GET /contacts/{contactId}"


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen contacts fill several pages."""
    monkeypatch.setattr(contacts, "PAGE", 3)


@contextlib.contextmanager
def failing(sync: LocationSync, number: int, update: str = "") -> Iterator[None]:
    """The `number`-th commit from now fails, and all that come after it: the disk is full, or the server gone.

    With `update`, only commits that update this table are counted.
    """
    left, updates = [number], [False]

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        updates[0] = updates[0] or statement.startswith(f"UPDATE {update}")

    def refuse(_connection: Any) -> None:
        left[0] -= updates[0] or not update
        updates[0] = False
        if left[0] <= 0:
            raise sqlalchemy.exc.OperationalError("COMMIT", {}, OSError("no space left on device"))

    engine = sync.context.store.engine  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", note)
    event.listen(engine, "commit", refuse)
    yield
    event.remove(engine, "commit", refuse)
    event.remove(engine, "before_cursor_execute", note)


def cut_off(
    sandbox: Sandbox, config: Config, number: int, work: Callable[[LocationSync], Any], update: str = ""
) -> bool:
    """Work until the `number`-th commit fails; whether it got so far."""

    async def main() -> bool:
        async with syncing(sandbox, config) as sync:
            with failing(sync, number, update):
                try:
                    await work(sync)
                except StoreUnavailable:
                    return True
        return False

    return asyncio.run(main())


async def full_pass(sync: LocationSync) -> None:
    """One pass over all contacts, or the rest of one."""
    await sync.full_pass("contacts", "sweep")


@pytest.mark.parametrize("number", range(1, 14))
def test_data_and_cursor_of_a_page_are_one_commit(sqlite_url: str, number: int) -> None:
    """Whichever commit fails: what is stored is exactly what lies before the cursor, and the rest is asked for."""
    sandbox, config = account(10), configuration(sqlite_url)
    cut = cut_off(sandbox, config, number, full_pass)
    stored = set(rows(sqlite_url, "contacts"))
    cursor = query(
        sqlite_url, "SELECT cursor, phase FROM sync_cursors WHERE stream = 'contacts' AND partition = 'full'"
    )
    assert len(stored) in ((0, 3, 6, 9, 10) if cut else (10,))
    assert bool(stored) == bool(cursor)
    before = len(sandbox.calls)
    run(sandbox, config, full_pass)
    assert [line for line in differences(sandbox, sqlite_url) if line.startswith("contacts")] == []
    if cut and cursor and cursor[0]["phase"] == "walking":
        asked = next(
            call.query.get("startAfterId") for call in list(sandbox.calls)[before:] if call.path == "/contacts/"
        )
        assert asked in stored, "the pass began again instead of going on"


@pytest.mark.parametrize("number", range(1, 9))
def test_a_backfill_goes_on_whichever_commit_failed(sqlite_url: str, number: int) -> None:
    """Visits and what they brought are one commit too: the next backfill asks for what is not stored; all is equal."""
    sandbox, config = account(12), configuration(sqlite_url)

    async def work(sync: LocationSync) -> None:
        sync.context.settings = replace(sync.context.settings, batch=2, workers=3)
        await sync.backfill(config.streams)

    assert cut_off(sandbox, config, number, work, update="child_visits")
    found = query(sqlite_url, "SELECT stream, contact_id FROM child_visits WHERE last_visited_at IS NOT NULL")
    done = {f"/contacts/{row['contact_id']}/{row['stream']}" for row in found}
    before = len(sandbox.calls)
    run(sandbox, config, lambda sync: sync.backfill(config.streams))
    assert differences(sandbox, sqlite_url) == []
    assert [call.path for call in list(sandbox.calls)[before:] if call.path in done] == []


def test_a_pass_that_went_on_makes_nobody_a_suspect(sqlite_url: str) -> None:
    """What was shown before the interruption is not remembered: nobody is looked at, nobody removed or held."""
    sandbox, config = account(12), configuration(sqlite_url)
    backfill(sandbox, config)
    gone = sorted(sandbox.truth(LOCATION)["contacts"])[0]
    sandbox.delete_contact(gone)
    # The commits: reading the cursor, beginning the run, then one for each page.
    assert cut_off(sandbox, config, 5, lambda sync: sync.full_pass("contacts", "sweep", restart=True))
    looks = calls(sandbox, LOOK)
    run(sandbox, config, full_pass)
    assert calls(sandbox, LOOK) == looks
    assert query(sqlite_url, "SELECT * FROM sync_settings WHERE key LIKE 'held:%'") == []
    assert gone in rows(sqlite_url, "contacts")


def test_a_pass_that_was_throttled_makes_nobody_a_suspect(sqlite_url: str) -> None:
    """A 429 half way: the list may have moved on meanwhile. The next pass, which is whole, finds what is gone."""
    sandbox = account(12)
    config = configuration(sqlite_url, deletions=Deletions(brake=100))
    backfill(sandbox, config)
    gone = sorted(sandbox.truth(LOCATION)["contacts"])[0]
    sandbox.delete_contact(gone)
    sandbox.faults.next("429", "/contacts/")
    run(sandbox, config, full_pass)
    assert gone in rows(sqlite_url, "contacts")
    assert calls(sandbox, LOOK) == 0
    run(sandbox, config, full_pass)
    assert gone in rows(sqlite_url, "contacts", deleted=True)


def test_a_contact_that_comes_back_under_its_own_id_is_alive_again(database_url: str) -> None:
    """The tombstone is lifted, whether its content is another or the same as before."""
    sandbox, config = account(12), configuration(database_url)
    backfill(sandbox, config)
    gone = sorted(sandbox.truth(LOCATION)["contacts"])[0]
    location = sandbox.locations[LOCATION]
    kept = dict(location.contacts[gone])
    sandbox.delete_contact(gone)
    run(sandbox, config, full_pass)
    assert gone in rows(database_url, "contacts", deleted=True)
    added = {key: value for key, value in kept.items() if key not in ("id", "dateAdded", "dateUpdated")}
    location.create_contact(sandbox.advance(), added, contact_id=gone)
    run(sandbox, config, full_pass)
    assert gone in rows(database_url, "contacts")
    assert [line for line in differences(sandbox, database_url) if line.startswith("contacts")] == []


@pytest.mark.parametrize("kind", ["empty-object", "wrong-shape", "200-html"])
def test_an_answer_without_a_list_removes_nothing_at_any_moment(sqlite_url: str, kind: Any) -> None:
    """Instead of a contact's notes or a listing comes something else: not even until the next pass is anything gone."""
    sandbox = account(12)
    config = configuration(sqlite_url, deletions=Deletions(brake=100), api={"attempts": 2, "retry_for": 1})
    backfill(sandbox, config)

    async def everything(sync: LocationSync) -> None:
        sync.context.source._sleep = lambda seconds: asyncio.sleep(0)  # type: ignore[attr-defined]
        for work in (
            lambda: sync.full_pass("contacts", "sweep", restart=True),
            lambda: sync.full_pass("tasks", "poll"),
            lambda: sync.begin_visits("notes"),
            lambda: sync.begin_visits("appointments"),
            sync.visit_due,
        ):
            with contextlib.suppress(TryLater):
                await work()

    for route in ("/contacts/", "*/tasks/search", "/contacts/*/notes", "/contacts/*/appointments", "/contacts/*"):
        sandbox.faults.next(kind, route, times=100)
        run(sandbox, config, everything)
        sandbox.faults.clear()
        assert [rows(sqlite_url, stream, deleted=True) for stream in config.streams] == [{}, {}, {}, {}]
    assert sandbox.faults.counts[kind] > 20


def test_an_answer_overtaken_by_a_refresh_removes_nothing(database_url: str) -> None:
    """A visit asked before a note was written and stored after a person's refresh does not know it: it stays."""
    sandbox, config = account(12), configuration(database_url)
    backfill(sandbox, config)
    contact_id = sorted(sandbox.truth(LOCATION)["contacts"])[0]
    run(sandbox, config, lambda sync: sync.refresh(contact_id))  # so that the next refresh finds nothing new of it
    made: list[str] = []
    ahead = {"now": lambda: datetime.now(UTC) + timedelta(days=2)}  # when every contact is due again

    async def overtake() -> None:
        async with connected(sandbox, config, **ahead) as daemon, connected(sandbox, config, **ahead) as person:
            slow, quick = daemon.locations[LOCATION], person.locations[LOCATION]
            await slow.learn()
            await quick.recall()
            fetch = slow.context.source.fetch

            async def overtaken(request: Request, **options: Any) -> Any:
                answer = await fetch(request, **options)
                if request.path == f"/contacts/{contact_id}/notes" and not made:
                    made.append(sandbox.create_note(contact_id, body="new")["id"])
                    assert await quick.refresh(contact_id)
                return answer

            slow.context.source.fetch = overtaken  # type: ignore[method-assign]
            await slow.visit_due()

    asyncio.run(overtake())
    assert made[0] in rows(database_url, "notes")


def test_a_signal_that_arrives_during_a_visit_is_followed_by_another(database_url: str) -> None:
    """A contact that is seen to have changed while its notes are on their way is looked at once more."""
    sandbox, config = account(12), configuration(database_url)
    backfill(sandbox, config)
    contact_id = sorted(sandbox.truth(LOCATION)["contacts"])[0]
    path, ahead = f"/contacts/{contact_id}/notes", {"now": lambda: datetime.now(UTC) + timedelta(days=2)}
    before = len(sandbox.calls)

    async def visit() -> None:
        async with syncing(sandbox, config, **ahead) as sync:
            fetch, signals = sync.context.source.fetch, [{contact_id: visits.CHANGED_CONTACT}]

            async def signalled(request: Request, **options: Any) -> Any:
                answer = await fetch(request, **options)
                if request.path == path and signals:
                    with sync.context.store.transaction() as tx:
                        sync.context.agenda.signal(tx, ["notes"], signals.pop())
                return answer

            sync.context.source.fetch = signalled  # type: ignore[method-assign]
            await sync.visit_due()

    asyncio.run(visit())
    assert [call.path for call in list(sandbox.calls)[before:]].count(path) == 2


class Mute(httpx.AsyncBaseTransport):
    """An account that does not tell its limits in headers."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._inner = httpx.ASGITransport(create_app(sandbox))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer without them."""
        answer = await self._inner.handle_async_request(request)
        kept = [(name, value) for name, value in answer.headers.items() if not name.startswith("x-ratelimit")]
        return httpx.Response(answer.status_code, headers=kept, content=await answer.aread())


def test_a_restart_counts_what_was_just_sent(sqlite_url: str) -> None:
    """Started again at once, the program waits for the burst it has spent, also where no header tells of it."""
    sandbox = account(12, rate_limit=RateLimit(10, 1.5))
    config = configuration(sqlite_url, api={"rate_limit": "10/1.5s"})

    async def main() -> None:
        async with connected(sandbox, config, transport=Mute(sandbox)) as app, app.leases[LOCATION].held():
            await app.locations[LOCATION].learn()
            await app.locations[LOCATION].full_pass("contacts", "sweep")

    for _start in range(3):
        asyncio.run(main())
    assert len(sandbox.calls) > 15
    assert sandbox.stats()["sliding_excess"] == 0


def test_an_empty_first_answer_about_the_location_moves_no_appointment(sqlite_url: str) -> None:
    """Before the location's time zone is known no appointment is stored in another: the run says to try later."""
    sandbox, config = account(12), configuration(sqlite_url)
    sandbox.faults.next("empty-object", "/locations/{locationId}", times=8)
    with contextlib.suppress(TryLater):
        backfill(sandbox, config)
    assert [line for line in differences(sandbox, sqlite_url) if "missing" not in line] == []


# -- on the wire -------------------------------------------------------------------------------------

CONTACT = Request("GET", "/contacts/abc", "/contacts/{id}", "contacts.readonly")


def test_each_request_on_the_wire_is_one_that_was_counted() -> None:
    """A kept connection that is cut: the transport does not ask again by itself, past budget and retries."""
    asked: list[bytes] = []

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            asked.append(head)
            if number == 0:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
                await writer.drain()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(answer_once, "127.0.0.1", 0) as server:
            base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with make_client(Timeouts(), 4, tls=False) as client:
                highlevel = source(client, base_url)
                await highlevel.fetch(CONTACT)
                with pytest.raises(Unreachable):
                    await highlevel.fetch(CONTACT)
                assert highlevel.pacer.budget.sent == 2

    asyncio.run(main())
    assert len(asked) == 2


@pytest.mark.parametrize(
    "problem",
    [
        httpx.ConnectError("to Bearer pit-secret"),
        httpx.ReadTimeout("Bearer pit-secret"),
        httpx.LocalProtocolError("Illegal header value b'Bearer pit-secret'"),
        httpx.RemoteProtocolError("Bearer pit-secret"),
        OSError("Bearer pit-secret"),
    ],
    ids=lambda problem: type(problem).__name__,
)
def test_no_way_of_failing_tells_the_token(problem: Exception) -> None:
    """Whatever the transport says of a request that failed, neither error nor traceback repeats its headers."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise problem

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as client:
            await source(client, "https://api.test").fetch(CONTACT)

    with pytest.raises(Unreachable) as caught:
        asyncio.run(main())
    assert "pit-secret" not in "".join(traceback.format_exception(caught.value))
    assert "pit-secret" not in repr(vars(caught.value))


def source(client: httpx.AsyncClient, base_url: str) -> HighLevel:
    """A source that tries once."""
    return HighLevel(
        client,
        base_url=base_url,
        location_id="loc",
        credentials=PrivateToken("pit-secret"),
        version="2021-07-28",
        pacer=Pacer(RateBudget(None, now=0.0)),
        patience=Patience(attempts=1),
    )


def test_certificates_are_verified() -> None:
    """The connection's TLS demands a certificate of a known authority and of the right name."""

    async def context_of(client: Any) -> ssl.SSLContext:
        async with client, client._transport.get_client() as session:
            found: ssl.SSLContext = session.connector._ssl
            return found

    for tls in (True, False):  # without TLS, https is refused rather than unverified
        context = asyncio.run(context_of(make_client(Timeouts(), 4, tls=tls)))
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
