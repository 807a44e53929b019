"""The service surface: health, readiness and metrics, and the server in the daemon's loop."""

import asyncio
import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from mirror import LOCATION, account, configuration, connected, query
from rankr_sync import daemon
from rankr_sync.app import App
from rankr_sync.config import Http
from rankr_sync.errors import BadConfiguration, TokenRefused
from rankr_sync.readiness import Bound, Seen, judge
from rankr_sync.sandbox import RateLimit
from rankr_sync.service.health import LONGEST_BEAT
from rankr_sync.service.metrics import Metrics
from rankr_sync.service.probe import is_alive, listen_of
from rankr_sync.service.server import listen
from rankr_sync.store import SqlStore, look
from service import PASSWORD, Surface, surface
from test_interrupted import environment

DOCS = Path(__file__).parents[1] / "docs" / "operations.md"
NOW = datetime(2026, 11, 1, 12, 7, 30, tzinfo=UTC)


class World:
    """A clock that is set by hand."""

    at = NOW

    def __call__(self) -> datetime:
        """Now."""
        return self.at


async def copied(made: Surface) -> None:
    """The first copy of everything."""
    sync = made.app.locations[LOCATION]
    await sync.learn()
    await sync.backfill(made.app.config.streams)


async def metrics_of(made: Surface) -> dict[tuple[str, ...], float]:
    """Every sample at `/metrics`: its name and the values of its labels, in the labels' order, to its value."""
    answer = await made.visitor.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name.removeprefix("rankr_sync_"), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


# -- health ------------------------------------------------------------------------------------------------


def test_alive_while_the_bell_rings(sqlite_url: str) -> None:
    """`/healthz` is 200 while the schedule's bell rings, and 503 when it has not for half a minute."""

    async def work() -> list[int]:
        async with surface(sqlite_url) as made:
            codes = [(await made.visitor.get("/healthz")).status_code]
            made.clock.at += LONGEST_BEAT + 1
            codes.append((await made.visitor.get("/healthz")).status_code)
            await made.web.state.health.pulse.beat()
            return [*codes, (await made.visitor.get("/healthz")).status_code]

    assert asyncio.run(work()) == [200, 503, 200]


def test_ready_from_the_first_copy_until_a_stream_is_late(database_url: str) -> None:
    """Copying is ready; so is a copy; ten minutes without a poll are not, and neither is an hour without a visit."""

    async def work() -> None:
        now = World()
        async with surface(database_url, account(12), options={"now": now}) as made:
            begin = await made.visitor.get("/readyz")
            assert (begin.status_code, begin.json()["problems"]) == (200, [])
            # While no contact is known there is nobody to visit for notes and appointments.
            assert [one["stream"] for one in begin.json()["copying"]] == ["contacts", "tasks"]
            await copied(made)
            forget(made)
            assert (await made.visitor.get("/readyz")).json() == {"ready": True, "problems": [], "copying": []}
            now.at += timedelta(minutes=11)
            forget(made)
            late = await made.visitor.get("/readyz")
            assert late.status_code == 503
            (problem,) = late.json()["problems"]
            assert (problem["location"], problem["stream"]) == (LOCATION, "contacts")
            assert problem["bound_seconds"] == 600 < problem["seconds"] <= 660
            now.at += timedelta(minutes=51)
            forget(made)
            streams = [one["stream"] for one in (await made.visitor.get("/readyz")).json()["problems"]]
            assert streams == ["contacts", "tasks", "notes", "appointments"]
            assert await made.app.locations[LOCATION].poll("contacts")
            await made.app.locations[LOCATION].full_pass("tasks", "poll")
            await made.app.locations[LOCATION].visit_due()
            forget(made)
            assert (await made.visitor.get("/readyz")).status_code == 200

    asyncio.run(work())


def test_an_account_without_contacts_is_copied_too(database_url: str) -> None:
    """Nobody is to be visited, so nothing is under way, then or an hour later."""

    async def work() -> None:
        now = World()
        async with surface(database_url, account(0), options={"now": now}) as made:
            await copied(made)
            for late in ([], ["contacts", "tasks"]):
                forget(made)
                found = (await made.visitor.get("/readyz")).json()
                assert (found["copying"], [one["stream"] for one in found["problems"]]) == ([], late)
                now.at += timedelta(hours=2)

    asyncio.run(work())


def forget(made: Surface) -> None:
    """As if the seconds had passed for which answers are kept."""
    made.web.state.reading._kept.clear()


def test_not_ready_while_credentials_are_refused_or_the_store_is_gone(sqlite_url: str) -> None:
    """Both are said at once, without a host name or an error's text; when they are mended, it is ready."""

    async def work() -> None:
        async with surface(sqlite_url, account(3)) as made:
            await copied(made)
            made.app.stopped[LOCATION, "contacts"] = TokenRefused("a text")
            refused = await made.visitor.get("/readyz")
            assert refused.status_code == 503
            assert [one["stream"] for one in refused.json()["problems"]] == ["contacts"]
            assert "rankr-sync check" in refused.text
            assert "a text" not in refused.text
            made.app.stopped.clear()
            assert (await made.visitor.get("/readyz")).status_code == 200
            forget(made)
            with made.app.store.transaction() as tx:
                tx.connection.exec_driver_sql("ALTER TABLE sync_runs RENAME TO elsewhere")
                tx.connection.exec_driver_sql("DROP VIEW sync_status")
            gone = await made.visitor.get("/readyz")
            assert gone.status_code == 503
            assert "rankr.db" not in gone.text
            assert (await metrics_of(made))[("store_up",)] == 0.0
            with made.app.store.transaction() as tx:
                tx.connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO sync_runs")
            assert (await made.visitor.get("/readyz")).status_code == 200

    asyncio.run(work())


PAIR = ("loc", "notes")


@pytest.mark.parametrize(
    ("seen", "minutes_up", "ready", "copying"),
    [
        (Seen(NOW, NOW), 0, True, False),
        (Seen(NOW - timedelta(hours=2), NOW - timedelta(hours=2)), 0, False, False),
        (Seen(NOW - timedelta(hours=2), NOW), 0, True, False),
        (Seen(None, None), 5, True, True),
        (Seen(None, None), 61, False, True),
        (Seen(None, NOW - timedelta(minutes=3)), 300, True, True),
        (Seen(None, NOW - timedelta(hours=9)), 300, False, True),
        (Seen(None, None, has_work=False), 300, True, False),
    ],
)
def test_what_ready_means(seen: Seen, minutes_up: int, ready: bool, copying: bool) -> None:
    """The last work counts, of whichever process; before the first success, the time since we began does as well."""
    wanted = {PAIR: Bound(timedelta(hours=1))}
    found = judge({PAIR: seen}, wanted, [], NOW, NOW - timedelta(minutes=minutes_up))
    assert (found.ready, bool(found.copying)) == (ready, copying)


# -- metrics -----------------------------------------------------------------------------------------------


def test_the_metrics_tell_what_was_done(database_url: str) -> None:
    """Rows, requests, runs, lag and budgets are those of the store and the account."""

    async def work() -> None:
        sandbox = account(15)
        async with surface(database_url, sandbox) as made:
            await copied(made)
            contact_id = sorted(sandbox.truth(LOCATION)["contacts"])[0]
            assert await made.app.locations[LOCATION].refresh(contact_id)
            told = await metrics_of(made)
        truth = sandbox.truth(LOCATION)
        for stream in ("contacts", "tasks", "notes", "appointments"):
            assert told["rows", LOCATION, stream] == len(truth[stream])
            assert told["rejects", LOCATION, stream] == 0
            assert told["tombstones", LOCATION, stream] == 0
            assert told["ready", LOCATION, stream] == 1
            assert 0 <= told["lag_seconds", LOCATION, stream] < 60
            assert told["runs_total", "backfill", LOCATION, "succeeded", stream] == 1
            assert told["run_duration_seconds_count", "backfill", stream] == 1
            assert told["records_total", LOCATION, "inserted", stream] == len(truth[stream])
        asked = {key: value for key, value in told.items() if key[0] == "requests_total"}
        assert sum(asked.values()) == sandbox.stats()["requests"]
        assert told["requests_total", LOCATION, "/contacts/{id}/notes", "200"] == 16
        assert told["request_duration_seconds_count", "/contacts/{id}/notes"] == 16
        assert told["refreshes_total", LOCATION, "succeeded"] == 1
        assert told["store_up",] == 1
        assert told["held_deletions", LOCATION] == 0
        assert told["credentials_refused", LOCATION] == 0
        assert contact_id not in str(told)

    asyncio.run(work())


def test_the_metrics_tell_of_refusals_and_limits(sqlite_url: str) -> None:
    """429s are counted once each, budgets are what the answers told, and held deletions and credentials show."""

    async def work() -> None:
        sandbox = account(3, rate_limit=RateLimit(100, 10.0), daily_limit=5000)
        async with surface(sqlite_url, sandbox) as made:
            await made.app.locations[LOCATION].learn()
            made.metrics.throttled(LOCATION)
            made.app.stopped[LOCATION, "visits"] = TokenRefused("refused")
            with made.app.store.transaction() as tx:
                tx.save_setting(f"held:{LOCATION}", {"suspects": 7, "of": 9, "at": NOW.isoformat()}, NOW)
            told = await metrics_of(made)
        assert told["throttles_total", LOCATION] == 1
        assert told["burst_requests_limit", LOCATION] == 100
        assert 0 < told["burst_requests_left", LOCATION] < 100
        assert told["burst_interval_seconds", LOCATION] == 10
        assert told["day_requests_limit", LOCATION] == 5000
        assert told["day_requests_left", LOCATION] == 5000 - sandbox.stats()["requests"]
        assert 0 < told["day_resets_in_seconds", LOCATION] <= 86_400
        assert told["credentials_refused", LOCATION] == 1
        assert told["held_deletions", LOCATION] == 7

    asyncio.run(work())


def test_the_documented_metrics_are_those_that_are_told(sqlite_url: str) -> None:
    """The table in operations.md has every name, its type and its labels, and no others."""

    async def work() -> str:
        async with surface(sqlite_url, account(3)) as made:
            await copied(made)
            made.metrics.throttled(LOCATION)
            made.metrics.refreshed(LOCATION, "succeeded", 0.1)
            return (await made.visitor.get("/metrics")).text

    told = {}
    for family in text_string_to_metric_families(asyncio.run(work())):
        if family.name.startswith("rankr_sync_"):
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            told[family.name + ("_total" if family.type == "counter" else "")] = (family.type, labels)
    written = {}
    for name, type_, labels in re.findall(
        r"^\| `(rankr_sync_\w+)` \| (\w+) \| ([^|]*)\|", DOCS.read_text(), re.MULTILINE
    ):
        names = set(re.findall(r"`(\w+)`(?: \([^)]*\))?", re.sub(r"\([^)]*\)", "", labels)))
        written[name] = (type_, names)
    assert written.keys() == told.keys()
    for name, (type_, labels) in told.items():
        assert written[name][0] == type_, name
        assert labels in (written[name][1], set()), name


# -- the day's curve ---------------------------------------------------------------------------------------


def test_what_is_spent_is_kept_by_quarters_of_an_hour(database_url: str) -> None:
    """Requests and throttles add up in the slot of their time; slots of nothing are shown and not stored."""
    store = SqlStore(database_url)
    with contextlib.closing(store):
        store.upgrade()
        usage = {"requests": 3, "throttled": 1, "daily_limit": None, "daily_remaining": None}
        usage |= {"daily_reset_at": None, "burst_used": 0}
        with store.transaction() as tx:
            for minutes in (0, 1, 30):
                tx.add_usage("loc", NOW + timedelta(minutes=minutes), usage)
            tx.add_usage("loc", NOW + timedelta(minutes=50), usage | {"requests": 0, "throttled": 0})
        with store.reading() as tx:
            curve = look.usage_curve(tx.connection, "loc", NOW, NOW + timedelta(hours=1))
    assert [(one.at.strftime("%H:%M"), one.requests, one.throttled) for one in curve] == [
        ("12:00", 6, 2),
        ("12:15", 0, 0),
        ("12:30", 3, 1),
        ("12:45", 0, 0),
        ("13:00", 0, 0),
    ]
    assert query(database_url, "SELECT count(*) AS n FROM usage_slots") == [{"n": 2}]


# -- the server --------------------------------------------------------------------------------------------


def free(**more: Any) -> Http:
    """A free port of this machine."""
    return Http(listen="127.0.0.1:0", **more)


async def run_daemon(app: App, http: Http, work: Callable[[str], Any]) -> Any:
    """Work with the URL of a running daemon; then ask it to end. Returns what the work returned."""
    listener = listen(http)
    assert listener is not None
    url = listener.url
    running = asyncio.create_task(daemon.run_for_ever(app, listener, Metrics()))
    try:
        return await work(url)
    finally:
        app.stop.set()
        await running
        listener.socket.close()


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_the_daemon_serves_in_its_own_loop_and_ends_at_once(sqlite_url: str) -> None:
    """On the port that it says, while it syncs; and browsers that keep connections open do not keep it from ending."""

    async def work(url: str) -> float:
        async with httpx.AsyncClient(base_url=url) as client:
            for _ in range(200):
                if (await client.get("/readyz")).json()["copying"] == []:
                    break
                await asyncio.sleep(0.02)
            assert (await client.get("/healthz")).json() == {"alive": True}
            assert 'rankr_sync_rows{location="' in (await client.get("/metrics")).text
            host, port = url.removeprefix("http://").split(":")
            half = await asyncio.open_connection(host, int(port))
            half[1].write(b"GET /healthz HTTP/1.1\r\n")
            await half[1].drain()
            idle.append(half)
            return time.monotonic()

    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect() -> float:
        async with connected(account(5), configuration(sqlite_url, schedule={"poll": 1})) as app:
            with structlog.testing.capture_logs() as events:
                began = await run_daemon(app, free(), work)
                took = time.monotonic() - began
            assert [one["url"] for one in events if one["event"] == "http.listening"]
            for reader, writer in idle:
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(reader.read(), 2.0) == b""  # nothing is left open
                writer.close()
            return took

    assert asyncio.run(connect()) < 4.0


def test_a_busy_port_and_an_address_elsewhere_are_said_in_a_sentence() -> None:
    """With what to type next, and nothing left open."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadConfiguration, match="cannot be used") as caught:
            listen(Http(listen=f"127.0.0.1:{port}"))
        assert caught.value.exit_code == 2
        assert f"RANKR_SYNC_HTTP__LISTEN=127.0.0.1:{port + 1 if port < 65_535 else 8700}" in str(caught.value.hint)
    with pytest.raises(BadConfiguration, match="cannot be used"):
        listen(Http(listen="192.0.2.1:8700", password=SecretStr(PASSWORD)))
    assert listen(Http(listen="off")) is None


# -- the probe ---------------------------------------------------------------------------------------------


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_the_containers_probe_asks_the_daemon(sqlite_url: str) -> None:
    """Alive while it serves, not when nobody listens; where nothing is to be served there is nothing to complain of."""

    async def work(url: str) -> bool:
        return await asyncio.to_thread(is_alive, url.removeprefix("http://").replace("127.0.0.1", "0.0.0.0"))

    async def connect() -> bool:
        async with connected(account(0), configuration(sqlite_url)) as app:
            alive: bool = await run_daemon(app, free(), work)
            return alive

    assert asyncio.run(connect())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert not is_alive(f"127.0.0.1:{port}")
    assert is_alive("off")


def test_the_probe_finds_the_address_as_the_daemon_does(tmp_path: Path) -> None:
    """The environment before the file, the file before the default."""
    file = tmp_path / "config.toml"
    file.write_text('[http]\nlisten = "127.0.0.1:9000"\n')
    assert listen_of({"RANKR_SYNC_CONFIG": str(file), "RANKR_SYNC_HTTP__LISTEN": "off"}) == "off"
    assert listen_of({"RANKR_SYNC_CONFIG": str(file)}) == "127.0.0.1:9000"
    assert listen_of({"RANKR_SYNC_CONFIG": str(tmp_path / "none.toml")}) == Http().listen


@pytest.mark.process
def test_run_on_a_busy_port_ends_with_what_to_type(sqlite_url: str, tmp_path: Path) -> None:
    """Exit code 2 before anything is opened, a sentence, and the variable to set."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = environment("http://127.0.0.1:1", sqlite_url)
        env["RANKR_SYNC_HTTP__LISTEN"] = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "rankr_sync", "run"]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "cannot be used" in done.stderr
    assert "RANKR_SYNC_HTTP__LISTEN=" in done.stderr
    assert not (tmp_path / "rankr.db").exists()
