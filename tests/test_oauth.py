"""OAuth 2.0: the login, the grant that is kept alive by one process at a time, an agency's locations, and its end."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from structlog.testing import capture_logs

from mirror import backfill, connected, differences, query
from rankr_sync import daemon
from rankr_sync.access import keeper_of, log_in, shelf_of
from rankr_sync.config import Config, Location, OAuth
from rankr_sync.errors import (
    BadConfiguration,
    GrantEnded,
    GrantMissing,
    LocationRefused,
    RankrSyncError,
    TokenRefused,
    TryLater,
)
from rankr_sync.model import Request
from rankr_sync.oauth import Grant, Keeper, callback, grants, keys
from rankr_sync.oauth.keeper import CLAIM_LASTS, REFRESH_BEFORE
from rankr_sync.oauth.login import AGENCY_SCOPES
from rankr_sync.sandbox import (
    CLIENT_ID,
    CLIENT_SECRET,
    COMPANY_ID,
    DEFAULT_LOCATION_ID,
    Sandbox,
    SandboxOptions,
    create_app,
    location_id,
    running,
)
from rankr_sync.store import SqlStore

LOCATION = DEFAULT_LOCATION_ID
KEY = keys.new_key()
GRANT = f"location:{LOCATION}"
DAY = 86_399


class World:
    """An account, a store, a clock, and everything that a process has: a keeper and a client."""

    def __init__(self, database_url: str, **options: Any) -> None:
        self.time = time.time()
        chosen = {"contacts": 12, "rate_limit": None, **options}
        self.sandbox = Sandbox(SandboxOptions(**chosen), now=lambda: self.time)
        self.database_url = database_url
        self.config = configured(database_url)

    def now(self) -> datetime:
        """The time, for everyone."""
        return datetime.fromtimestamp(self.time, UTC)

    async def sleep(self, seconds: float) -> None:
        """Let others work while the clock moves on."""
        self.time += 10 * seconds
        await asyncio.sleep(0)

    def client(self) -> httpx.AsyncClient:
        """A client of the account."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(self.sandbox)))

    @contextlib.asynccontextmanager
    async def process(self) -> AsyncIterator[Keeper]:
        """A process of its own: nothing but the database is common to two."""
        with contextlib.closing(SqlStore(self.database_url)) as store:
            async with self.client() as client:
                keeper = keeper_of(self.config, store, client, self.now)
                keeper._sleep = self.sleep
                yield keeper
                await keeper.close()

    async def log_in(self, choice: str = LOCATION, *, agency: bool = False, config: Config | None = None) -> Grant:
        """A person logs in and chooses."""
        with contextlib.closing(SqlStore(self.database_url)) as store:
            store.upgrade()
            async with self.client() as client:

                async def choose(url: str) -> str:
                    return (await client.get(f"{url}&choice={choice}")).headers["location"]

                return await log_in(config or self.config, store, client, choose, self.now, agency=agency)

    def grant(self, id_: str = GRANT) -> Grant:
        """What is stored, opened."""
        with contextlib.closing(SqlStore(self.database_url)) as store:
            found = shelf_of(self.config, store).find(id_)
        assert found is not None
        return found

    def asked(self, grant_type: str) -> int:
        """How often the token endpoint was asked so."""
        return sum(call.path == "/oauth/token" and call.body["grant_type"] == grant_type for call in self.sandbox.calls)

    def reconnected(self) -> int:
        """How often it was reconnected."""
        return sum(call.path == "/oauth/reconnect" for call in self.sandbox.calls)


def configured(database_url: str, **oauth: Any) -> Config:
    """A configuration that has nothing but OAuth."""
    section = {
        "client_id": CLIENT_ID,
        "client_secret": SecretStr(CLIENT_SECRET),
        "redirect_uri": "https://example.com/callback",
        "authorize_url": "http://localhost/v2/oauth/chooselocation",
        "key": SecretStr(KEY),
    }
    return Config(
        api={"base_url": "http://localhost", "rate_limit": "none", "retry_for": 20},
        database={"url": database_url},
        oauth=OAuth(**(section | oauth)),
    )


@pytest.fixture
def world(database_url: str) -> World:
    """A world with one location."""
    return World(database_url)


# -- the login -----------------------------------------------------------------------------------------


def test_a_login_is_kept_encrypted(world: World) -> None:
    """The grant is durable when the login is over; neither of its tokens is in the database in clear."""
    grant = asyncio.run(world.log_in())
    assert (grant.id, grant.user_type, grant.status) == (GRANT, "Location", "active")
    assert world.grant() == grant
    row = query(world.database_url, "SELECT * FROM oauth_tokens")[0]
    for token in (grant.access_token, grant.refresh_token):
        assert token
        assert token not in str(row)
        assert token not in repr(grant)
    path = Path(world.database_url.removeprefix("sqlite:///"))
    if world.database_url.startswith("sqlite"):
        stored = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
        assert grant.access_token.encode() not in stored


@pytest.mark.parametrize(
    "back", ["?code=stolen&state=other", "?code=stolen", "?error=access_denied&state=other", "?state=", ""]
)
def test_an_answer_that_is_not_of_this_login_is_refused(sqlite_url: str, back: str) -> None:
    """Without the state that was sent no code is exchanged, and nothing is stored."""
    world = World(sqlite_url)

    async def work() -> None:
        with contextlib.closing(SqlStore(sqlite_url)) as store:
            store.upgrade()

            async def ask(url: str) -> str:
                return f"https://example.com/callback{back}"

            async with world.client() as client:
                await log_in(world.config, store, client, ask, world.now)

    with pytest.raises(BadConfiguration, match="state") as caught:
        asyncio.run(work())
    assert "stolen" not in str(caught.value)
    assert world.asked("authorization_code") == 0
    assert query(sqlite_url, "SELECT * FROM oauth_tokens") == []


def test_a_code_that_is_not_good_is_3(sqlite_url: str) -> None:
    """It is good once: what is told is to begin anew."""
    world = World(sqlite_url)

    async def work() -> None:
        with contextlib.closing(SqlStore(sqlite_url)) as store:
            store.upgrade()

            async def ask(url: str) -> str:
                return "https://example.com/callback?code=spent&" + url[url.index("state=") :]

            async with world.client() as client:
                await log_in(world.config, store, client, ask, world.now)

    with pytest.raises(TokenRefused) as caught:
        asyncio.run(work())
    assert caught.value.exit_code == 3
    assert "auth login" in (caught.value.hint or "")


def test_the_redirect_to_this_machine_is_received() -> None:
    """Its path and nothing else is answered, and the URL is passed on; what is of another login is told so, and the
    wait goes on.
    """
    with callback.listening(0, "/callback", "s") as (port, arrived):
        for stray in ("favicon.ico", "callback", "callback?code=c&state=other"):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{stray}")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/callback?code=c&state=s") as answer:
            assert b"Thank you" in answer.read()
        assert callback.wait_for(arrived, 1.0) == "/callback?code=c&state=s"


# -- refreshing ----------------------------------------------------------------------------------------


def test_a_token_is_refreshed_before_it_ends(world: World) -> None:
    """Not sooner than it is time to; the new pair is stored before it is used."""

    async def work() -> None:
        first = await world.log_in()
        async with world.process() as keeper:
            assert await keeper.location_token(LOCATION) == first.access_token
            world.time += DAY - REFRESH_BEFORE.total_seconds() - 60
            assert await keeper.location_token(LOCATION) == first.access_token
            assert world.asked("refresh_token") == 0
            world.time += 61
            second = await keeper.location_token(LOCATION)
            assert second != first.access_token
            assert world.grant().access_token == second
            assert world.grant().refresh_token != first.refresh_token
            assert [await keeper.location_token(LOCATION) for _ in range(3)] == [second] * 3
            assert world.asked("refresh_token") == 1

    asyncio.run(work())


def test_two_processes_that_refresh_at_once_use_one_refresh(database_url: str) -> None:
    """And each has the new token, however many ask while the answer is under way."""
    world = World(database_url, latency_ms=100)

    async def work() -> None:
        await world.log_in()
        world.time += DAY + 10
        async with world.process() as one, world.process() as two:
            one._sleep = two._sleep = asyncio.sleep
            asking = [keeper.location_token(LOCATION) for keeper in (one, two, one, two)]
            tokens = await asyncio.gather(*asking)
        assert len(set(tokens)) == 1
        assert world.grant().access_token == tokens[0]

    asyncio.run(work())
    assert (world.asked("refresh_token"), world.reconnected()) == (1, 0)


def test_a_crash_between_the_answer_and_the_commit_is_mended_without_a_person(world: World) -> None:
    """The old refresh token is tried, is spent, and the app reconnects; the claim of the dead ends by itself."""

    async def work() -> None:
        grant = await world.log_in()
        world.time += DAY + 10
        with contextlib.closing(SqlStore(world.database_url)) as store:
            # What a process leaves that dies there: its claim, and an answer that nobody has.
            shelf_of(world.config, store).claim(GRANT, "dead", world.now(), CLAIM_LASTS)
        assert grant.refresh_token is not None
        world.sandbox.oauth.refresh(grant.refresh_token, world.time)
        began = world.time
        async with world.process() as keeper:
            token = await keeper.location_token(LOCATION)
        assert began + CLAIM_LASTS.total_seconds() <= world.time < began + CLAIM_LASTS.total_seconds() + 5
        assert world.grant().access_token == token
        assert world.reconnected() == 1

    asyncio.run(work())


@pytest.mark.parametrize("fault", ["reset", "half-json", "500", "200-html", "429", "wrong-shape"])
def test_no_failure_of_the_network_ends_a_grant(sqlite_url: str, fault: Any) -> None:
    """Whether the refresh token was spent by it or not: it is tried later, and then it works."""
    world = World(sqlite_url)
    world.sandbox.faults.connection_error = httpx.ReadError

    async def work() -> None:
        await world.log_in()
        world.time += DAY + 10
        world.sandbox.faults.next(fault, "/oauth/token")
        async with world.process() as keeper:
            with pytest.raises(TryLater):
                await keeper.location_token(LOCATION)
            assert world.grant().status == "active"
            assert world.grant().error
            world.time += 10
            assert await keeper.location_token(LOCATION) == world.grant().access_token
        assert world.grant().error is None

    asyncio.run(work())


def test_while_a_token_is_good_a_refresh_that_fails_disturbs_nobody(world: World) -> None:
    """The old one is used as long as it serves, and the endpoint is not asked again at once."""

    async def work() -> None:
        first = await world.log_in()
        world.time += DAY - 60
        world.sandbox.faults.next("500", "/oauth/token", times=10)
        async with world.process() as keeper:
            assert [await keeper.location_token(LOCATION) for _ in range(5)] == [first.access_token] * 5
            assert world.asked("refresh_token") + world.asked("None") <= 1
            world.sandbox.faults.clear()
            world.time += 10
            assert await keeper.location_token(LOCATION) != first.access_token

    asyncio.run(work())


def test_only_an_invalid_grant_that_does_not_reconnect_is_final(world: World) -> None:
    """Exit code 3, `ended` in the store, what to type; and a new login brings everything back, also in this process."""

    async def work() -> None:
        await world.log_in()
        world.time += DAY + 10
        world.sandbox.oauth.uninstall(LOCATION)
        async with world.process() as keeper:
            for _ in range(2):  # the second time nobody is asked
                with pytest.raises(GrantEnded) as caught:
                    await keeper.location_token(LOCATION)
                assert caught.value.exit_code == 3
                assert "auth login" in (caught.value.hint or "")
            assert (world.asked("refresh_token"), world.reconnected()) == (1, 1)
            with contextlib.closing(SqlStore(world.database_url)) as store:
                (state,) = grants.state(store, world.now())
            assert state.ended
            assert state.error
            await world.log_in()
            assert await keeper.location_token(LOCATION) == world.grant().access_token

    asyncio.run(work())


def test_a_paused_location_is_only_late(world: World) -> None:
    """Unpaid is not over: the same refresh token works when the location is active again."""

    async def work() -> None:
        await world.log_in()
        world.time += DAY + 10
        world.sandbox.oauth.paused.add(LOCATION)
        async with world.process() as keeper:
            with pytest.raises(TryLater, match="not active"):
                await keeper.location_token(LOCATION)
            world.sandbox.oauth.paused.clear()
            world.time += 10
            await keeper.location_token(LOCATION)
        assert world.reconnected() == 0

    asyncio.run(work())


def test_a_wrong_secret_is_3_and_ends_nothing(world: World) -> None:
    """It is the configuration that is to be mended, not the login."""

    async def work() -> None:
        await world.log_in()
        world.time += DAY + 10
        world.config = configured(world.database_url, client_secret=SecretStr("wrong-and-secret"))
        async with world.process() as keeper:
            with pytest.raises(RankrSyncError, match="does not know the app") as caught:
                await keeper.location_token(LOCATION)
        assert caught.value.exit_code == 3
        assert "wrong-and-secret" not in str(caught.value)
        assert world.grant().status == "active"

    asyncio.run(work())


def test_whoever_is_cancelled_loses_no_tokens(world: World) -> None:
    """A refresh that was begun is stored, though nobody waits for it any more."""

    async def work() -> None:
        first = await world.log_in()
        world.time += DAY + 10
        async with world.process() as keeper:
            asking = asyncio.create_task(keeper.location_token(LOCATION))
            await until(lambda: keeper._grants[GRANT].refreshing is not None)
            asking.cancel()
            token = await keeper.location_token(LOCATION)
        assert world.grant().access_token == token != first.access_token
        assert (world.asked("refresh_token"), world.reconnected()) == (1, 0)

    asyncio.run(work())


def test_tokens_that_could_not_be_stored_are_not_used_and_not_lost(world: World) -> None:
    """While the database does not take them nobody gets them; when it does, no second refresh is needed."""

    async def work() -> None:
        first = await world.log_in()
        world.time += DAY + 10
        async with world.process() as keeper:
            with broken_writes(world.database_url):
                with pytest.raises(TryLater):
                    await keeper.location_token(LOCATION)
            assert world.grant().access_token == first.access_token
            world.time += 10
            assert await keeper.location_token(LOCATION) == world.grant().access_token != first.access_token
        assert (world.asked("refresh_token"), world.reconnected()) == (1, 0)

    asyncio.run(work())


async def until(there: Callable[[], bool]) -> None:
    """Let others work until it is so."""
    async with asyncio.timeout(10):
        while not there():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)


@contextlib.contextmanager
def broken_writes(database_url: str) -> Iterator[None]:
    """During the block the database refuses new access tokens, and nothing else."""
    make, drop = {
        "s": (
            "CREATE TRIGGER no_tokens BEFORE UPDATE OF access_token ON oauth_tokens"
            " BEGIN SELECT RAISE(ABORT, 'not now'); END",
            "DROP TRIGGER no_tokens",
        ),
        "p": (
            "CREATE FUNCTION no_tokens() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$;"
            " CREATE TRIGGER no_tokens BEFORE UPDATE OF access_token ON oauth_tokens"
            " FOR EACH ROW EXECUTE FUNCTION no_tokens()",
            "DROP FUNCTION no_tokens CASCADE",
        ),
    }[database_url[0]]
    with contextlib.closing(SqlStore(database_url)) as store:
        with store.transaction() as tx:
            tx.connection.execute(text(make))
        yield
        with store.transaction() as tx:
            tx.connection.execute(text(drop))


# -- in use --------------------------------------------------------------------------------------------


def test_a_mirror_by_oauth_equals_the_account(world: World) -> None:
    """Without a private integration token and without configured locations: the login tells both."""
    world.time = time.time()
    asyncio.run(world.log_in())
    backfill(world.sandbox, world.config, now=world.now)
    assert differences(world.sandbox, world.database_url) == []


def test_a_token_that_ends_in_mid_run_is_replaced(world: World) -> None:
    """Every other request finds its token ended; no request fails by it."""

    async def work() -> None:
        await world.log_in()
        async with connected(world.sandbox, world.config, now=world.now) as app:
            assert app.keeper is not None
            for number in range(4):
                await app.sources[LOCATION].fetch(location_request())
                assert world.asked("refresh_token") == number
                world.time += DAY + 10

    asyncio.run(work())


def test_a_401_on_a_good_token_forces_one_refresh(world: World) -> None:
    """The next attempt has another; should that be refused too, the refresh token is not wasted on it."""

    async def work() -> None:
        first = await world.log_in()
        async with connected(world.sandbox, world.config, now=world.now) as app:
            source = app.sources[LOCATION]
            source._sleep = world.sleep
            world.sandbox.revoke(first.access_token)
            await source.fetch(location_request())
            assert world.asked("refresh_token") == 1
            world.sandbox.revoke(world.grant().access_token)
            with pytest.raises(TokenRefused) as caught:
                await source.fetch(location_request())
            assert "auth login" in (caught.value.hint or "")
            assert world.asked("refresh_token") == 1

    asyncio.run(work())


def test_a_private_token_wins_over_a_login(world: World) -> None:
    """A location with a token of its own needs neither login nor key."""
    site = Location(id=LOCATION, token=SecretStr("pit-sandbox-00001"))
    world.config = configured(world.database_url, key=None).model_copy(update={"locations": (site,)})
    backfill(world.sandbox, world.config, now=world.now)
    assert differences(world.sandbox, world.database_url) == []


def test_a_dry_run_keeps_what_it_refreshes(sqlite_url: str) -> None:
    """Nothing of the mirror is written, but a spent refresh token must not stay the last one known."""
    world = World(sqlite_url)
    first = asyncio.run(world.log_in())
    world.time += DAY + 10
    backfill(world.sandbox, world.config, now=world.now, dry_run=True)
    assert world.asked("refresh_token") == 1
    assert world.grant().access_token != first.access_token
    assert query(sqlite_url, "SELECT * FROM contacts") == []


def location_request() -> Request:
    """Some request."""
    return Request("GET", f"/locations/{LOCATION}", route="/locations/{id}", scope="locations.readonly")


# -- an agency -----------------------------------------------------------------------------------------


def test_an_agencys_login_opens_its_locations(database_url: str) -> None:
    """They are discovered, in as many pages as it takes, and each gets a token of its own, made of the agency's."""
    world = World(database_url, locations=3, contacts=4)

    async def work() -> None:
        grant = await world.log_in(COMPANY_ID, agency=True)
        assert grant.id == f"company:{COMPANY_ID}"
        assert set(AGENCY_SCOPES) <= set(grant.scopes)
        world.sandbox.oauth.uninstall(location_id(2))
        async with world.process() as keeper:
            assert list(await keeper.locations()) == [location_id(1), location_id(3)]
            tokens = [await keeper.location_token(location_id(number)) for number in (1, 3, 1)]
            assert len(set(tokens)) == 2
            with pytest.raises(LocationRefused) as caught:
                await keeper.location_token(location_id(2))
            assert caught.value.exit_code == 3
            world.time += DAY + 10
            assert await keeper.location_token(location_id(1)) not in tokens
        assert world.asked("refresh_token") == 1
        assert world.grant(f"location:{location_id(1)}").refresh_token is None

    asyncio.run(work())


def test_an_agency_that_cannot_be_asked_still_has_the_locations_it_had(sqlite_url: str) -> None:
    """So a daemon starts while HighLevel is down."""
    world = World(sqlite_url, locations=2, contacts=2)

    async def work() -> list[str]:
        await world.log_in(COMPANY_ID, agency=True)
        async with connected(world.sandbox, world.config, now=world.now):
            pass
        world.sandbox.faults.next("500", "/oauth/*", times=10)
        async with connected(world.sandbox, world.config, now=world.now) as app:
            return list(app.locations)

    assert asyncio.run(work()) == [location_id(1), location_id(2)]


def test_what_an_agency_adds_or_removes_is_noticed_while_the_daemon_runs(sqlite_url: str) -> None:
    """Nothing stops while nothing changes; then the daemon starts anew with what there is now."""
    world = World(sqlite_url, locations=2, contacts=2)

    async def work() -> None:
        await world.log_in(COMPANY_ID, agency=True)
        world.sandbox.oauth.installed.discard(location_id(2))
        async with connected(world.sandbox, world.config, now=world.now) as app:
            assert list(app.locations) == [location_id(1)]
            await daemon._look_for_locations(app)
            assert not app.stop.is_set()
            world.sandbox.oauth.installed.add(location_id(2))
            await daemon._look_for_locations(app)
            assert app.stop.is_set()
        async with connected(world.sandbox, world.config, now=world.now) as app:
            assert list(app.locations) == [location_id(1), location_id(2)]
            world.sandbox.oauth.uninstall(location_id(1))
            with capture_logs() as logged:
                await daemon._look_for_locations(app)
            assert app.stop.is_set()
        assert {"event": "location.uninstalled", "location": location_id(1), "log_level": "warning"} in logged

    asyncio.run(work())


# -- the command line ----------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.timeout(240)
def test_a_newcomer_logs_in_to_the_sandbox_by_what_it_prints(tmp_path: Path) -> None:
    """The redirect is received on this machine; what follows mirrors the location; no secret is shown or logged."""
    with running(SandboxOptions(contacts=8, http_redirects=True)) as (base_url, sandbox):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
            "RANKR_SYNC_API__BASE_URL": base_url,
            "RANKR_SYNC_OAUTH__CLIENT_ID": CLIENT_ID,
            "RANKR_SYNC_OAUTH__CLIENT_SECRET": CLIENT_SECRET,
            "RANKR_SYNC_OAUTH__AUTHORIZE_URL": f"{base_url}/v2/oauth/chooselocation",
            "RANKR_SYNC_OAUTH__REDIRECT_URI": f"http://127.0.0.1:{port}/callback",
            "RANKR_SYNC_OAUTH__KEY": KEY,
            "RANKR_SYNC_LOG__LEVEL": "debug",
        }

        def command(*words: str) -> "subprocess.Popen[str]":
            program = [sys.executable, "-m", "rankr_sync", *words]
            pipe = subprocess.PIPE
            return subprocess.Popen(program, env=env, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True)

        login = command("auth", "login", "--no-browser")
        assert login.stdout is not None
        url = next(line.strip() for line in login.stdout if line.startswith("http"))
        with urllib.request.urlopen(f"{url}&choice={LOCATION}") as page:  # follows the redirect, as a browser does
            assert b"Thank you" in page.read()
        said = [login.communicate(timeout=60)]
        assert login.returncode == 0, said
        for words in (("backfill",), ("auth", "status", "--json"), ("auth", "logout")):
            done = command(*words)
            said.append(done.communicate(timeout=60))
            assert done.returncode == 0, said[-1]
        database_url = f"sqlite:///{tmp_path / 'rankr.db'}"
        assert differences(sandbox, database_url) == []
    assert json.loads(said[2][0])[0]["location_id"] == LOCATION
    assert GRANT in said[-1][0]
    everything = "".join(out + err for out, err in said[1:])
    for secret in ("sandbox-access-", "sandbox-refresh-", "sandbox-code-", CLIENT_SECRET, KEY):
        assert secret not in everything
        assert secret not in said[0][0] + said[0][1]


# -- keys, states, the end -----------------------------------------------------------------------------


def test_without_a_key_the_error_says_how_to_make_one(sqlite_url: str) -> None:
    """Before anything is asked of anybody."""
    world = World(sqlite_url)
    with pytest.raises(BadConfiguration) as caught:
        asyncio.run(world.log_in(config=configured(sqlite_url, key=None)))
    assert caught.value.exit_code == 2
    assert "auth key" in (caught.value.hint or "")
    assert list(world.sandbox.calls) == []


def test_a_wrong_key_is_told_from_a_rotated_one(world: World, tmp_path: Path) -> None:
    """Another key opens nothing; a new one before the old one opens everything, and seals what is refreshed."""

    async def work() -> None:
        await world.log_in()
        other = keys.new_key()
        world.config = configured(world.database_url, key=SecretStr(other))
        with pytest.raises(BadConfiguration, match="another key"):
            world.grant()
        file = tmp_path / "key"
        file.write_text(f"{other}\n{KEY}\n")
        world.config = configured(world.database_url, key=None, key_file=file)
        world.time += DAY
        async with world.process() as keeper:
            token = await keeper.location_token(LOCATION)
        world.config = configured(world.database_url, key=SecretStr(other))
        assert world.grant().access_token == token

    asyncio.run(work())


@pytest.mark.parametrize("written", ["", "short", "pit-something", "Ä" * 44])
def test_what_is_no_key_is_a_sentence_that_does_not_show_it(written: str) -> None:
    """Whatever was put there by mistake may be a secret."""
    with pytest.raises(BadConfiguration) as caught:
        keys.parse_keys(written, "oauth.key")
    assert written == "" or written not in str(caught.value)


def test_the_keyring_keeps_the_key() -> None:
    """A second key is put before the first, which still opens what it sealed."""
    import keyring
    from keyring.backend import KeyringBackend

    class InMemory(KeyringBackend):
        priority = 1
        kept: ClassVar[dict[tuple[str, str], str]] = {}

        def get_password(self, service: str, username: str) -> str | None:
            return self.kept.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            self.kept[service, username] = password

        def delete_password(self, service: str, username: str) -> None:
            del self.kept[service, username]

    before = keyring.get_keyring()
    keyring.set_keyring(InMemory())
    try:
        with pytest.raises(BadConfiguration, match="no key"):
            keys.find_keys(None, None, keyring=True)
        keys.save_in_keyring(keys.new_key())
        sealed = keys.find_keys(None, None, keyring=True).encrypt(b"token")
        keys.save_in_keyring(keys.new_key())
        assert keys.find_keys(None, None, keyring=True).decrypt(sealed) == b"token"
    finally:
        keyring.set_keyring(before)


def test_who_logs_out_leaves_no_tokens(world: World) -> None:
    """Neither an agency's nor what was made of it; a process that runs notices within a minute."""

    async def work() -> None:
        await world.log_in(COMPANY_ID, agency=True)
        async with world.process() as keeper:
            await keeper.location_token(LOCATION)
            with contextlib.closing(SqlStore(world.database_url)) as store:
                assert len(grants.state(store, world.now())) == 2
                gone = grants.forget(store, [f"company:{COMPANY_ID}"])
                assert len(gone) == 2
                assert grants.state(store, world.now()) == []
            world.time += 61
            with pytest.raises(GrantMissing):
                await keeper.location_token(LOCATION)

    asyncio.run(work())


def test_the_state_of_a_grant_needs_no_key(world: World) -> None:
    """What `auth status` and `check` show: whose, until when, how it is."""

    async def work() -> None:
        await world.log_in()

    asyncio.run(work())
    with contextlib.closing(SqlStore(world.database_url)) as store:
        (state,) = grants.state(store, world.now())
        assert (state.id, state.status, state.renews, state.error) == (GRANT, "active", True, None)
        assert "contacts.readonly" in state.scopes
        (later,) = grants.state(store, world.now() + timedelta(days=2))
        assert later.status == "expired"
