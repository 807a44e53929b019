"""Trouble of every kind, one at a time: what it leaves in the mirror, and what the operator sees of it."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog.testing

from mirror import LOCATION, account, backfill, calls, configuration, connected, differences, poll, query, rows, run
from rankr_sync.app import App
from rankr_sync.config import Location
from rankr_sync.daemon import Schedule, jobs
from rankr_sync.engine import LocationSync
from rankr_sync.errors import AskOwner, LeaseLost, StoreUnavailable, TryLater
from rankr_sync.highlevel import Pacer
from rankr_sync.pacing import RateBudget, RateHeaders, is_due
from rankr_sync.pacing import RateLimit as Limit
from rankr_sync.sandbox import Sandbox, create_app
from rankr_sync.streams import contacts

PASSING = ("500", "502-html", "503", "200-html", "429", "401", "reset", "truncated", "half-json")
MALFORMED = ("wrong-shape", "empty-object")
SECOND = "SandboxLocation00002"


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty contacts fill several pages."""
    monkeypatch.setattr(contacts, "PAGE", 10)


@pytest.fixture(autouse=True)
def said() -> Iterator[list[Any]]:
    """The events of the log."""
    with structlog.testing.capture_logs() as events:
        yield events


def small(contacts: int = 30, **options: Any) -> Sandbox:
    """An account whose broken connections look like httpx's."""
    sandbox = account(contacts, **options)
    sandbox.faults.connection_error = httpx.ReadError
    return sandbox


def impatient(database_url: str, **changes: Any) -> Any:
    """A configuration that gives up soon."""
    return configuration(database_url, api={"attempts": 2, "retry_for": 1, **changes.pop("api", {})}, **changes)


def errors_of_runs(database_url: str) -> list[str]:
    """What `sync_runs` tells of runs that failed."""
    return [row["error"] for row in query(database_url, "SELECT error FROM sync_runs WHERE status = 'failed'")]


def patiently(sandbox: Sandbox, config: Any, work: Callable[[LocationSync], Any]) -> None:
    """Work with a source that waits between its attempts without losing time."""

    async def hurried(sync: LocationSync) -> None:
        sync.context.source._sleep = _no_sleep
        await work(sync)

    run(sandbox, config, hurried)


async def _no_sleep(_seconds: float) -> None:
    await asyncio.sleep(0)


async def _poll(sync: LocationSync) -> None:
    await sync.poll("contacts")
    await sync.full_pass("tasks", "poll")
    await sync.visit_due()


@pytest.mark.parametrize("kind", PASSING)
def test_a_passing_fault_costs_only_a_retry(database_url: str, kind: Any) -> None:
    """One bad answer on each route, during a backfill and during a poll: both succeed, all is equal, no tombstone."""
    sandbox, config = small(), configuration(database_url)
    routes = ("/contacts/", "*/tasks/search", "/contacts/*/notes", "/contacts/*/appointments")
    for route in routes:
        sandbox.faults.next(kind, route)
    patiently(sandbox, config, lambda sync: sync.backfill(config.streams))
    assert differences(sandbox, database_url) == []
    contact_id = sorted(sandbox.truth()["contacts"])[4]
    sandbox.update_contact(contact_id, city="Bern")
    for route in ("/contacts/search", *routes[1:]):
        sandbox.faults.next(kind, route)
    patiently(sandbox, config, _poll)
    assert differences(sandbox, database_url) == []
    assert sandbox.stats()["faults"][kind] >= 7
    assert [rows(database_url, stream, deleted=True) for stream in config.streams] == [{}, {}, {}, {}]
    assert errors_of_runs(database_url) == []


@pytest.mark.parametrize("kind", MALFORMED)
@pytest.mark.parametrize("route", ["/contacts/", "*/tasks/search", "/contacts/*/notes", "/contacts/{contactId}"])
def test_an_answer_of_the_wrong_shape_is_never_an_empty_list(sqlite_url: str, kind: Any, route: str) -> None:
    """Well-formed JSON that is not what was asked for: the run fails or goes on, and nothing is tombstoned."""
    sandbox, config = small(), configuration(sqlite_url)
    backfill(sandbox, config)
    sandbox.faults.next(kind, route, times=8)

    async def everything(sync: LocationSync) -> None:
        await sync.full_pass("contacts", "sweep", restart=True)
        await sync.full_pass("tasks", "poll")
        await sync.begin_visits("notes")
        await sync.visit_due()

    for _time in range(8):
        try:
            run(sandbox, config, everything)
        except TryLater as error:
            assert "has no list" in str(error)  # noqa: PT017 - it may also go well
    sandbox.faults.clear()
    run(sandbox, config, everything, now=lambda: datetime.now(UTC) + timedelta(hours=2))
    assert [rows(sqlite_url, stream, deleted=True) for stream in config.streams] == [{}, {}, {}, {}]
    assert differences(sandbox, sqlite_url) == []


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_broken_answer_about_the_location_keeps_its_time_zone(sqlite_url: str, kind: Any) -> None:
    """What is known of the location stays when its answer is empty: appointment times do not move to UTC."""
    sandbox, config = small(), configuration(sqlite_url)
    backfill(sandbox, config)
    sandbox.faults.next(kind, "/locations/{locationId}")

    async def learn_and_look(sync: LocationSync) -> None:
        await sync.begin_visits("appointments")
        await sync.visit_due()

    try:
        run(sandbox, config, learn_and_look)
    except TryLater:
        run(sandbox, config, learn_and_look)
    assert query(sqlite_url, "SELECT timezone FROM locations") == [{"timezone": "America/New_York"}]
    assert differences(sandbox, sqlite_url) == []


@pytest.mark.parametrize("kind", ["500", "502-html", "200-html", "reset", "half-json"])
def test_a_fault_that_stays_fails_the_run_with_words(sqlite_url: str, kind: Any) -> None:
    """After the last attempt the run is `failed` with a sentence, and the next command goes on and ends equal."""
    sandbox, config = small(), impatient(sqlite_url)
    sandbox.faults.next(kind, "/contacts/", times=2)
    with pytest.raises(TryLater):
        patiently(sandbox, config, lambda sync: sync.backfill(config.streams))
    (error,) = errors_of_runs(sqlite_url)
    assert len(error) > 15
    patiently(sandbox, config, lambda sync: sync.backfill(config.streams))
    assert differences(sandbox, sqlite_url) == []


# -- lists that do not end ---------------------------------------------------------------------------


class Rewritten(httpx.AsyncBaseTransport):
    """An account whose answers a test changes on their way."""

    def __init__(self, sandbox: Sandbox, change: Callable[[httpx.Request, dict[str, Any]], Any]) -> None:
        self._inner = httpx.ASGITransport(create_app(sandbox))
        self._change = change

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, changed."""
        import json

        response = await self._inner.handle_async_request(request)
        payload = json.loads(await response.aread())
        changed = self._change(request, payload)
        return httpx.Response(response.status_code, json=payload if changed is None else changed)


@pytest.mark.parametrize("listing", ["list", "search"])
def test_a_cursor_that_stands_still_ends_the_walk_with_words(sqlite_url: str, listing: str) -> None:
    """A list that offers the same cursor for ever is left after one more page, as broken off: nobody is removed."""
    sandbox, config = small(), configuration(sqlite_url, api={"listing": listing})
    backfill(sandbox, config)
    gone = sorted(sandbox.truth()["contacts"])[0]
    sandbox.delete_contact(gone)

    def change(request: httpx.Request, payload: dict[str, Any]) -> None:
        if request.url.path == "/contacts/":
            payload["meta"] = {**payload.get("meta", {}), "startAfter": 1_780_000_000_000, "startAfterId": "A" * 20}
        for item in payload.get("contacts", []):
            item["searchAfter"] = [1, "same"]

    before = sandbox.stats()["requests"]
    with pytest.raises(TryLater, match="broke off"):
        run(
            sandbox,
            config,
            lambda sync: sync.full_pass("contacts", "sweep", restart=True),
            transport=Rewritten(sandbox, change),
        )
    assert sandbox.stats()["requests"] - before < 10
    assert rows(sqlite_url, "contacts", deleted=True) == {}
    assert any("broke off" in error for error in errors_of_runs(sqlite_url))


def test_the_same_contact_twice_in_a_page_is_one_row(database_url: str) -> None:
    """Duplicates within a page and across pages are one row each."""
    sandbox, config = small(), configuration(database_url)

    def change(request: httpx.Request, payload: dict[str, Any]) -> None:
        for name in ("contacts", "notes", "events"):
            if isinstance(payload.get(name), list) and request.url.path != "/locations/":
                payload[name] = [*payload[name], *payload[name][:2]]

    backfill(sandbox, config, transport=Rewritten(sandbox, change))
    assert differences(sandbox, database_url) == []


# -- limits ------------------------------------------------------------------------------------------


def test_a_storm_of_429_passes(sqlite_url: str) -> None:
    """Five refusals in a row slow the backfill down, and it still ends equal."""
    sandbox, config = small(), configuration(sqlite_url, api={"attempts": 20})
    sandbox.faults.next("429", None, times=5)
    for _time in range(5):
        try:
            patiently(sandbox, config, lambda sync: sync.backfill(config.streams))
        except TryLater:
            continue
        break
    assert differences(sandbox, sqlite_url) == []
    assert query(sqlite_url, "SELECT sum(throttled) AS n FROM api_usage")[0]["n"] == 5


def test_a_spent_day_waits_for_its_reset() -> None:
    """With nothing left of the day no request is sent until the reset, and then one asks how the new day stands."""
    clock, waits = [1000.0], []
    pacer = Pacer(RateBudget(Limit(100, 10.0), now=clock[0]), clock=lambda: clock[0], on_day_spent=waits.append)

    async def main() -> None:
        await pacer.enter(1)
        pacer.leave(RateHeaders(daily_limit=100, daily_remaining=0, daily_reset=7200.0))
        asking = asyncio.ensure_future(pacer.enter(1))
        await asyncio.sleep(0)
        clock[0] += 7100
        pacer._serve()
        await asyncio.sleep(0)
        assert not asking.done()
        clock[0] += 101
        pacer._serve()
        await asyncio.wait_for(asking, 1)
        pacer.close()

    asyncio.run(main())
    assert waits[0] == 7200.0


# -- credentials -------------------------------------------------------------------------------------


def test_one_location_that_is_refused_does_not_stop_another(sqlite_url: str, tmp_path: Path, said: list[Any]) -> None:
    """A dead token stops its own location, in words; the other goes on; a new token mends it."""
    token_file = tmp_path / "token"
    token_file.write_text("pit-dead")
    sandbox = small(12, locations=2)
    sites = (Location(id=LOCATION), Location(id=SECOND, token_file=token_file))
    config = impatient(sqlite_url, locations=sites)

    async def main() -> None:
        async with connected(sandbox, config) as app:
            for source in app.sources.values():
                source._sleep = _no_sleep
            work = {id_: jobs(app, sync) for id_, sync in app.locations.items()}
            await ring(work[LOCATION] + work[SECOND])
            assert differences(sandbox, sqlite_url, LOCATION) == []
            assert differences(sandbox, sqlite_url, SECOND) != []
            stopped = [event for event in said if event["event"] == "location.stopped"]
            assert {event["location"] for event in stopped} == {SECOND}
            assert all(event["hint"] for event in stopped)
            token_file.write_text("pit-sandbox-00002\n")
            for job in work[SECOND]:
                job._rests_until = 0.0  # five minutes later
            await ring(work[SECOND])
            assert differences(sandbox, sqlite_url, SECOND) == []

    asyncio.run(main())


async def ring(work: list[Any]) -> None:
    """Ring each bell three times."""
    for _round in range(3):
        for job in work:
            await job.ring()


def test_a_location_that_is_forbidden_asks_its_owner(sqlite_url: str) -> None:
    """A 403 in the API's own words stops with the location's name in the hint, and removes nothing."""
    sandbox, config = small(), impatient(sqlite_url)
    backfill(sandbox, config)
    sandbox.faults.next("403", None, times=50)
    with pytest.raises(AskOwner, match="no access"):
        poll(sandbox, config)
    sandbox.faults.clear()
    poll(sandbox, config)
    assert differences(sandbox, sqlite_url) == []


# -- clocks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [timedelta(days=1)])
def test_a_clock_that_is_set_wrong_stops_nothing(database_url: str, shift: timedelta) -> None:
    """Our clock is a day and a half ahead and is then mended: edits still arrive, and nothing is tombstoned that is alive."""  # noqa: E501
    sandbox, config = small(), configuration(database_url)
    backfill(sandbox, config)
    for id_ in sorted(sandbox.truth()["contacts"])[:3]:
        sandbox.update_contact(id_, city="Thun")
        sandbox.create_note(id_, body="<p>later</p>")

    async def tick(app: App) -> None:
        schedule = Schedule(app, app.locations[LOCATION])
        assert await app.leases[LOCATION].take()
        for _round in range(3):
            await schedule.owner()
            await schedule.walk("tasks")
            await schedule.visits()

    async def main(now: Callable[[], datetime]) -> None:
        async with connected(sandbox, config, now=now) as app:
            await tick(app)

    asyncio.run(main(lambda: datetime.now(UTC) + shift * 1.5))
    asyncio.run(main(lambda: datetime.now(UTC)))
    assert differences(sandbox, database_url) == []
    assert [rows(database_url, stream, deleted=True) for stream in config.streams] == [{}, {}, {}, {}]


def test_what_was_done_in_the_future_is_due() -> None:
    """After the clock was set back, what is dated in the future does not wait for that date."""
    now = datetime(2026, 11, 1, tzinfo=UTC)
    assert is_due(now, now + timedelta(days=1), timedelta(minutes=1))
    assert not is_due(now, now + timedelta(seconds=30), timedelta(minutes=1))


def test_a_lease_that_a_fast_clock_took_fences_the_first_holder(database_url: str) -> None:
    """A machine whose clock is a day ahead takes the lease early; the first one then writes nothing more."""
    sandbox, config = small(), configuration(database_url)

    async def main() -> None:
        async with connected(sandbox, config) as first, connected(sandbox, config, now=_tomorrow) as second:
            first.leases[LOCATION]._holder, second.leases[LOCATION]._holder = "one/0:1:aaaa", "two/0:1:bbbb"
            assert await first.leases[LOCATION].take()
            assert await second.leases[LOCATION].take()
            await first.locations[LOCATION].learn()
            with pytest.raises(LeaseLost):
                await first.locations[LOCATION].full_pass("contacts", "backfill")

    asyncio.run(main())
    assert rows(database_url, "contacts") == {}


def _tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-03-08T06:30:00.000Z", "2026-03-08T07:30:00.000Z"),  # over the hour that is left out
        ("2026-11-01T04:30:00.000Z", "2026-11-01T07:30:00.000Z"),  # over the hour that comes twice
    ],
)
def test_appointments_over_a_change_of_the_clocks(sqlite_url: str, start: str, end: str) -> None:
    """Times without a zone, on the days on which New York changes its clocks, are the right moments."""
    sandbox, config = small(5), configuration(sqlite_url)
    contact_id = sorted(sandbox.truth()["contacts"])[0]
    made = sandbox.create_appointment(contact_id, title="Change", startTime=start, endTime=end)
    backfill(sandbox, config)
    row = rows(sqlite_url, "appointments")[made["id"]]
    assert row["starts_at"] == datetime.fromisoformat(start)
    assert row["ends_at"] == datetime.fromisoformat(end)


# -- the store ---------------------------------------------------------------------------------------


def test_another_writer_on_the_sqlite_file_is_waited_for(sqlite_url: str) -> None:
    """While another program holds the file's write lock for a second, the backfill waits and then goes on."""
    sandbox, config = small(), configuration(sqlite_url)
    run(sandbox, config, lambda sync: sync.full_pass("contacts", "backfill"))
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), check_same_thread=False, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(1.0, lambda: other.execute("COMMIT"))
    timer.start()
    backfill(sandbox, config)
    timer.join()
    other.close()
    assert differences(sandbox, sqlite_url) == []


def test_connections_that_the_server_cuts_cost_one_failure(postgres_url: str) -> None:
    """PostgreSQL ends our connections in mid-work: StoreUnavailable, and the same program goes on afterwards."""
    import sqlalchemy

    sandbox, config = small(), configuration(postgres_url)
    admin = sqlalchemy.create_engine(
        sqlalchemy.make_url(postgres_url).set(drivername="postgresql+psycopg"), poolclass=sqlalchemy.NullPool
    )
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> {own}"

    async def main(sync: LocationSync) -> None:
        with pytest.raises(StoreUnavailable):  # noqa: PT012
            with sync.context.store.transaction() as tx:
                tx.setting("x")
                with admin.connect() as connection:
                    connection.exec_driver_sql(cut.format(own="pg_backend_pid()"))
                tx.save_setting("x", 1, datetime.now(UTC))
        await sync.backfill(config.streams)

    run(sandbox, config, main)
    admin.dispose()
    assert differences(sandbox, postgres_url) == []


# -- a person beside the daemon ----------------------------------------------------------------------


def test_a_contact_that_a_person_pulled_first_is_followed_afterwards(database_url: str) -> None:
    """`refresh` of a contact that no poll has met yet: its later notes arrive like everyone else's."""
    sandbox, config = small(), configuration(database_url)
    backfill(sandbox, config)
    made = sandbox.create_contact(firstName="First", email="first@example.com")
    run(sandbox, config, lambda sync: sync.refresh(made["id"]))
    sandbox.create_note(made["id"], body="<p>after</p>")
    poll(sandbox, config)
    run(sandbox, config, lambda sync: sync.visit_due(), now=lambda: datetime.now(UTC) + timedelta(days=2))
    assert differences(sandbox, database_url) == []
    assert calls(sandbox, "/notes") > 0
