"""`check`: what each line says of what is wrong, that one failure hides no other, and that nothing is written."""

import asyncio
import contextlib
import http.server
import shutil
import socket
import threading
from collections import namedtuple
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mirror import LOCATION, backfill, configuration, query
from rankr_sync import schema
from rankr_sync.app import api_alone
from rankr_sync.cli.check import examine
from rankr_sync.cli.checks import OK, PROBLEM, WARNING, Finding, api, database, service
from rankr_sync.config import Config, Http, Location, OAuth, Summary
from rankr_sync.errors import Interrupted
from rankr_sync.sandbox import RateLimit, Sandbox, SandboxOptions, running
from rankr_sync.store import SqlStore

OTHER = "pit-of-the-test"
MOST = 13


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Sandbox]]:
    """A sandbox on a port, for all tests here."""
    with running(SandboxOptions(contacts=12, locations=2, rate_limit=RateLimit(1_000_000, 1.0))) as (base_url, sandbox):
        yield base_url, sandbox


@pytest.fixture
def sandbox(served: tuple[str, Sandbox]) -> Iterator[Sandbox]:
    """The account behind the port; what a test grants or plans ends with it."""
    yield served[1]
    served[1].faults.clear()
    served[1].revoke(OTHER)


def config_of(served: tuple[str, Sandbox], url: str, *, token: str | None = None, **changes: Any) -> Config:
    """A configuration for the served account."""
    api = {"base_url": served[0], "rate_limit": "100/10s", "attempts": 2, "retry_for": 2}
    if token is not None:
        api["token"] = SecretStr(token)
    http = changes.pop("http", Http(listen="127.0.0.1:0"))
    return configuration(url, api=api | changes.pop("api", {}), http=http, **changes)


def check(config: Config) -> dict[str, Finding]:
    """What `check` finds, by subject (of one location)."""
    found = asyncio.run(examine(config, None, asyncio.Event(), quiet=True))
    assert len({(one.location, one.subject) for one in found}) == len(found)
    return {one.subject: one for one in found}


def code(found: dict[str, Finding]) -> int:
    """What the command ends with."""
    return max(one.exit_code for one in found.values())


def not_ok(found: dict[str, Finding]) -> set[str]:
    """The subjects of all lines but those that are ok; each says what to do."""
    assert all(one.hint for one in found.values() if one.verdict != OK)
    return {one.subject for one in found.values() if one.verdict != OK}


# -- what is served and sent -------------------------------------------------------------------------


def on(listen: str, *, at_work: bool = True, **changes: Any) -> Finding:
    """The line of the page on this address."""
    (found,) = service.examine(configuration("sqlite:///x.db", http=Http(listen=listen, **changes)), at_work=at_work)
    return found


def test_the_address_of_the_page_is_tried() -> None:
    """Free, off, or open to everybody, and so refused; where it is closed nothing of the password is shown."""
    assert on("127.0.0.1:0").words == "127.0.0.1:0, for this machine only"
    assert on("off").verdict == OK
    bad = [on("0.0.0.0:0"), on("8700"), on("0.0.0.0:0", password_file=Path("/nowhere/password"))]
    assert [one.exit_code for one in bad] == [2, 2, 2]
    assert all(one.hint for one in bad)
    closed = on("0.0.0.0:0", password=SecretStr("very-geheim"))
    assert (closed.verdict, closed.words) == (OK, "0.0.0.0:0, closed")


def test_an_address_that_is_taken_is_told_unless_by_a_daemon() -> None:
    """Beside a daemon at work all is well; another program there would keep it from starting."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = on(f"127.0.0.1:{other.getsockname()[1]}", at_work=False)
    assert (taken.verdict, taken.exit_code) == (PROBLEM, 2)

    class Daemon(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Daemon) as daemon:
        threading.Thread(target=daemon.serve_forever, daemon=True).start()
        beside = on(f"127.0.0.1:{daemon.server_port}")
        another = on(f"127.0.0.1:{daemon.server_port}", at_work=False)
        daemon.shutdown()
    assert (beside.verdict, beside.words.partition(", ")[2]) == (OK, "served just now")
    assert another.verdict == PROBLEM, "it serves another store"


def test_where_summaries_go_is_looked_at_without_sending(tmp_path: Path) -> None:
    """Each target by its kind and place, the ones that apprise does not know with what to do; no URL is shown."""
    file = tmp_path / "urls"
    file.write_text("# to the team\njson://127.0.0.1:1/very-geheim\n")
    urls = (SecretStr("mailto://u:very-geheim@example.com"), SecretStr("smoke://very-geheim"))
    config = configuration("sqlite:///x.db", http=Http(listen="off"), summary=Summary(urls=urls, urls_file=file))
    _, known, unknown = service.examine(config, at_work=False)
    assert known.words.startswith("sent at 07:00 to E-Mail 1, JSON 3")
    assert (unknown.subject, unknown.verdict) == ("summary, target 2", WARNING)
    assert "geheim" not in f"{known} {unknown}"
    _, unreadable = service.examine(
        config.model_copy(update={"summary": Summary(urls_file=tmp_path / "none")}), at_work=False
    )
    assert (unreadable.verdict, unreadable.exit_code) == (PROBLEM, 2)


def test_oauth_logins_are_shown(database_url: str) -> None:
    """Open, without a scope that is wanted, or ended, each with what to do; tokens made of an agency's are not."""
    config = configuration(database_url, oauth=OAuth(client_id="c", scopes=("contacts.readonly", "calendars.readonly")))
    now = datetime.now(UTC)
    whole = "contacts.readonly calendars.readonly"

    def granted(name: str, **columns: Any) -> dict[str, Any]:
        fixed = {"user_type": "Location", "company_id": "company", "location_id": name, "scopes": whole}
        times = {"expires_at": now + timedelta(days=1), "updated_at": now - timedelta(hours=3)}
        tokens = {"access_token": "sealed", "refresh_token": "sealed", "status": "active"}
        return fixed | times | tokens | {"id": name} | columns

    with contextlib.closing(SqlStore(database_url)) as store:
        store.upgrade()
        with store.transaction() as tx:
            for row in (
                granted("open"),
                granted("narrow", scopes="contacts.readonly"),
                granted("ended", status="ended", error="invalid grant"),
                granted("made", refresh_token=None),
            ):
                tx.connection.execute(schema.oauth_tokens.insert().values(row))
    found, _ = database.examine(config, [], now)
    logins = {one.subject.removeprefix("OAuth login "): one for one in found if one.subject.startswith("OAuth")}
    assert logins.keys() == {"open", "narrow", "ended"}
    assert logins["open"].words == "open, its tokens were got 3 h ago"
    assert "calendars.readonly" in logins["narrow"].words
    assert "invalid grant" in logins["ended"].words
    assert all("auth login" in str(logins[name].hint) for name in ("narrow", "ended"))


# -- the database ------------------------------------------------------------------------------------


def test_a_new_installation_is_fine_and_nothing_is_made(
    served: tuple[str, Sandbox], sandbox: Sandbox, bare_database_url: str, tmp_path: Path
) -> None:
    """Before the first start every line is ok; no file and no table appears; a dozen requests are enough."""
    before = sandbox.requests
    found = check(config_of(served, bare_database_url))
    assert not_ok(found) == set()
    assert "makes it" in found["database"].words
    assert sandbox.requests - before <= MOST
    assert list(tmp_path.iterdir()) == []
    if bare_database_url.startswith("postgresql"):
        assert query(bare_database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []


def test_a_store_in_use_is_shown(served: tuple[str, Sandbox], sandbox: Sandbox, database_url: str) -> None:
    """Schema, size, and who is at work since when, or that nobody is."""
    config = config_of(served, database_url)
    backfill(sandbox, config.model_copy(update={"streams": ("contacts",)}))
    found = check(config)
    assert not_ok(found) == set()
    assert "schema 0" in found["database"].words
    assert "the database takes" in found["disk"].words
    assert found["at work"].words == "nobody"
    assert found["mapping"].verdict == OK
    now = datetime.now(UTC)
    with contextlib.closing(SqlStore(database_url)) as store, store.transaction() as tx:
        tx.take_lease(LOCATION, "elsewhere:7:x", now - timedelta(minutes=5), now + timedelta(seconds=25))
    at_work = database.examine(config, [LOCATION], now)[0][-2].words
    assert at_work.startswith("elsewhere:7:x, since 5 min ago, its lease ends in 25 s")
    gone = database.examine(config, [LOCATION], now + timedelta(minutes=1))[0][-2].words
    assert gone.startswith("nobody; elsewhere:7:x")


def test_a_database_that_is_away_hides_nothing(served: tuple[str, Sandbox], sandbox: Sandbox) -> None:
    """The API is looked at all the same; exit code 1."""
    found = check(config_of(served, "postgresql://rankr:very-geheim@127.0.0.1:1/rankr"))
    assert not_ok(found) == {"database"}
    assert found["database"].verdict == PROBLEM
    assert "geheim" not in found["database"].words
    assert found["notes of a contact"].verdict == OK
    assert code(found) == 1


def test_a_newer_schema_is_2_and_left_alone(served: tuple[str, Sandbox], sandbox: Sandbox, database_url: str) -> None:
    """The store of a later release is a problem with what to do."""
    with contextlib.closing(SqlStore(database_url)) as store:
        store.upgrade()
        with store.transaction() as tx:
            tx.connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    found = check(config_of(served, database_url))
    assert not_ok(found) == {"database"}
    assert "9999" in found["database"].words
    assert code(found) == 2


def test_an_older_schema_is_told_and_not_migrated(
    served: tuple[str, Sandbox], sandbox: Sandbox, sqlite_url: str
) -> None:
    """A look migrates nothing: the next start does, and the line says so."""
    from rankr_sync.store import migrate

    with contextlib.closing(SqlStore(sqlite_url)) as store:
        migrate.upgrade(store.engine, "0002")
    found = check(config_of(served, sqlite_url))
    assert not_ok(found) == set()
    assert "schema 0002: the next start brings it to" in found["database"].words
    assert query(sqlite_url, "SELECT version_num FROM alembic_version") == [{"version_num": "0002"}]


def test_a_store_that_cannot_be_written_is_1(served: tuple[str, Sandbox], sandbox: Sandbox, postgres_url: str) -> None:
    """A database that takes no writes (a standby, say) would stop a sync at its first page."""
    with contextlib.closing(SqlStore(postgres_url)) as store:
        store.upgrade()
        with store.transaction() as tx:
            name = tx.connection.exec_driver_sql("SELECT current_database()").scalar()
            tx.connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    found, usable = database.examine(config_of(served, postgres_url), [LOCATION], datetime.now(UTC))
    assert [one.verdict for one in found] == [PROBLEM]
    assert "read-only" in found[0].words
    assert not usable


def test_a_folder_that_does_not_take_the_file_is_1(
    served: tuple[str, Sandbox], sandbox: Sandbox, tmp_path: Path
) -> None:
    """The file cannot be made below a file, and the line says where to put it instead."""
    (tmp_path / "file").write_text("")
    found = check(config_of(served, f"sqlite:///{tmp_path}/file/rankr.db"))
    assert "RANKR_SYNC_DATABASE__URL" in (found["database"].hint or "")
    assert code(found) == 1


@pytest.mark.parametrize(("free", "verdict"), [(10**7, PROBLEM), (10**8, WARNING), (10**10, OK)])
def test_room_on_the_disk(
    served: tuple[str, Sandbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, verdict: str
) -> None:
    """Little room is a warning, none a problem."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**12, 10**12 - free, free))
    found, _ = database.examine(config_of(served, f"sqlite:///{tmp_path}/rankr.db"), [], datetime.now(UTC))
    assert found[-1].subject == "disk"
    assert found[-1].verdict == verdict


# -- the API -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("locations/tasks.readonly", {"tasks search": WARNING}),
        ("locations.readonly", {"location": WARNING}),
        ("locations/customFields.readonly", {"custom fields": WARNING}),
        ("users.readonly", {"users": OK}),
        ("contacts.readonly", {"contacts list": PROBLEM, "contacts search": PROBLEM}),
    ],
)
def test_each_missing_scope_has_its_line(
    served: tuple[str, Sandbox], sandbox: Sandbox, sqlite_url: str, missing: str, expected: dict[str, str]
) -> None:
    """The scope is named, the others are looked at; only that of the contacts stops a sync: exit code 3."""
    scopes = {"contacts.readonly", "locations.readonly", "locations/tasks.readonly", "locations/customFields.readonly"}
    scopes |= {"users.readonly", "calendars.readonly", "locations/tags.readonly"}
    sandbox.grant(OTHER, [LOCATION], scopes - {missing})
    found = check(config_of(served, sqlite_url, token=OTHER))
    assert not_ok(found) == {subject for subject, verdict in expected.items() if verdict != OK}
    for subject, verdict in expected.items():
        assert found[subject].verdict == verdict
        assert missing in found[subject].words
    assert code(found) == (3 if missing == "contacts.readonly" else 0)
    assert found["calendars"].words == "open"


def test_a_refused_token_is_3_and_asked_once(served: tuple[str, Sandbox], sandbox: Sandbox, sqlite_url: str) -> None:
    """Nothing else would answer either, so nothing else is asked; what is on this machine is looked at."""
    before = sandbox.requests
    found = check(config_of(served, sqlite_url, token="pit-wrong"))
    assert not_ok(found) == {"contacts list"}
    assert code(found) == 3
    assert sandbox.requests - before == 2
    assert found["database"].verdict == OK


def test_a_wrong_location_is_3_and_hides_no_other(
    served: tuple[str, Sandbox], sandbox: Sandbox, sqlite_url: str
) -> None:
    """Each location has its lines."""
    config = config_of(served, sqlite_url, locations=(Location(id="SandboxLocation00002"), Location(id=LOCATION)))
    found = asyncio.run(examine(config, None, asyncio.Event(), quiet=True))
    assert [one.location for one in found if one.verdict == PROBLEM] == ["SandboxLocation00002"]
    assert max(one.exit_code for one in found) == 3
    assert any(one.location == LOCATION and one.subject == "notes of a contact" for one in found)


def test_no_token_and_no_location_are_2(served: tuple[str, Sandbox], sqlite_url: str) -> None:
    """What is missing in the configuration."""
    found = check(config_of(served, sqlite_url, api={"token": None}))
    assert "RANKR_SYNC_API__TOKEN" in (found["API"].hint or "")
    assert code(found) == 2
    assert code(check(config_of(served, sqlite_url, locations=()))) == 2
    away = config_of(served, sqlite_url, api={"base_url": "http://example.com"})
    assert "plain http" in check(away)["configuration"].words


def test_a_version_that_is_refused_has_its_line(served: tuple[str, Sandbox], sandbox: Sandbox, sqlite_url: str) -> None:
    """It stops everything, and the key to correct is named."""
    found = check(config_of(served, sqlite_url, api={"version": "2099-01-01"}))
    assert not_ok(found) == {"API version"}
    assert found["API version"].hint == "check api.version"


def test_a_listing_that_is_gone_is_a_warning(served: tuple[str, Sandbox], sandbox: Sandbox, sqlite_url: str) -> None:
    """Under v3 there is no list of contacts: the search does its work."""
    found = check(config_of(served, sqlite_url, api={"version": "v3"}))
    assert not_ok(found) == {"contacts list"}
    assert code(found) == 0
    assert found["users"].words.startswith("closed")


def test_an_api_that_cannot_be_reached_is_1(served: tuple[str, Sandbox], sqlite_url: str) -> None:
    """One line, and those of this machine."""
    found = check(config_of(served, sqlite_url, api={"base_url": "http://127.0.0.1:1"}))
    assert not_ok(found) == {"contacts list"}
    assert code(found) == 1


def test_a_failing_endpoint_is_its_own_line(served: tuple[str, Sandbox], sandbox: Sandbox, sqlite_url: str) -> None:
    """Notes that answer 500 stop their stream; the appointments are looked at."""
    sandbox.faults.next("500", "/contacts/*/notes", times=9)
    found = check(config_of(served, sqlite_url))
    assert {subject for subject, one in found.items() if one.verdict != OK} == {"notes of a contact"}
    assert code(found) == 1


@pytest.mark.parametrize(("skew", "words"), [(300, "5 min behind"), (-7200, "2 h ahead of")])
def test_a_clock_that_is_off_is_told(sqlite_url: str, skew: float, words: str) -> None:
    """By how much, in which direction."""
    with running(SandboxOptions(contacts=2, clock_skew=skew)) as served:
        found = check(config_of(served, sqlite_url))
    assert not_ok(found) == {"clock"}
    assert words in found["clock"].words


def test_the_quota_is_told(sqlite_url: str) -> None:
    """Of the burst and of the day; a day that is nearly spent stops a sync until it resets."""
    with running(SandboxOptions(contacts=2, daily_limit=2000)) as served:
        config = config_of(served, sqlite_url)
        found = check(config)
        assert found["burst quota"].words == "11 of 100 requests in 10 s are used just now"
        assert found["day's quota"].words.startswith("1,989 of 2,000 requests left, resets in")
    with running(SandboxOptions(contacts=2, daily_limit=11)) as served:
        assert code(check(config_of(served, sqlite_url))) == 1
    with running(SandboxOptions(contacts=2, rate_limit=None)) as served:
        assert check(config_of(served, sqlite_url))["day's quota"].verdict == WARNING


def test_beside_a_daemon_what_it_uses_is_not_guessed(served: tuple[str, Sandbox], sqlite_url: str) -> None:
    """A loan tells nothing of the slots that are not lent."""

    async def told() -> str:
        config = config_of(served, sqlite_url)
        async with api_alone(config, config.locations[0]) as source:
            source.pacer.budget.keep_to(14)
            found = await api.examine(config, config.locations[0], source)
            return next(one.words for one in found if one.subject == "burst quota")

    assert asyncio.run(told()).endswith(", spent by the process at work")


def test_asked_to_end_it_ends(served: tuple[str, Sandbox], sandbox: Sandbox, sqlite_url: str) -> None:
    """A signal while it waits for another process's budget is no problem of the location."""
    config = config_of(served, sqlite_url)
    backfill(sandbox, config.model_copy(update={"streams": ("contacts",)}))
    now = datetime.now(UTC)
    with contextlib.closing(SqlStore(sqlite_url)) as store, store.transaction() as tx:
        tx.take_lease(LOCATION, "elsewhere:7:x", now, now + timedelta(minutes=5))
    stop = asyncio.Event()
    stop.set()
    with pytest.raises(Interrupted):
        asyncio.run(examine(config, None, stop, quiet=True))
