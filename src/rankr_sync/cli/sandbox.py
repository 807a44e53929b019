"""The commands around the simulated API: sandbox, and demo, which is the whole product on it."""

import contextlib
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import SecretStr
from sqlalchemy import text

from rankr_sync import logs
from rankr_sync.app import open_store
from rankr_sync.cli import common, show
from rankr_sync.cli.common import DebugOption, NoConfigOption, VerboseOption
from rankr_sync.cli.sync import Wish, backfill_all
from rankr_sync.config import Api, Config, Database, Location
from rankr_sync.errors import BadConfiguration, StoreUnavailable
from rankr_sync.store import SqlStore, look
from rankr_sync.store.connect import location_of
from rankr_sync.store.contacts import find_contacts
from rankr_sync.streams import STREAMS

if TYPE_CHECKING:
    from rankr_sync.sandbox import RateLimit

DEMO_DATABASE = "rankr-demo.db"
DEMO_HELP = (
    "See the whole product work, with no account: a simulated API is started, copied into a database, and shown.\n\n"
    + common.example("rankr-sync demo", "rankr-sync demo --contacts 5000 --fast")
)
SANDBOX_HELP = "Serve a simulated HighLevel API, to try rankr-sync on or to test against.\n\n" + common.example(
    "rankr-sync sandbox --port 8711", "rankr-sync sandbox --contacts 20000 --rate-limit none --churn 5"
)


def demo(
    database: Annotated[
        str | None, typer.Option("--database", help=f"Database URL; default: {DEMO_DATABASE}, made anew each time.")
    ] = None,
    contacts: Annotated[int, typer.Option("--contacts", min=1, help="How many contacts the account has.")] = 500,
    fast: Annotated[bool, typer.Option("--fast", help="No rate limit.")] = False,
    config: NoConfigOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """See the whole product work."""
    from rankr_sync.sandbox import DEFAULT_LOCATION_ID, DEFAULT_TOKEN, SandboxOptions, running

    logs.configure("console", "warning" if sys.stderr.isatty() else "info")
    if database is None:
        _remove_old_demo()
    limit = None if fast else _demo_limit(contacts)
    print(f"A simulated HighLevel account with {contacts:,} contacts" + (f", limited to {limit}." if limit else "."))
    with running(SandboxOptions(contacts=contacts, rate_limit=limit)) as (base_url, sandbox):
        # Past the environment, which may name the real account and the real database.
        settings = Config.model_construct(
            api=Api(base_url=base_url, token=SecretStr(DEFAULT_TOKEN), rate_limit=str(limit) if limit else "none"),
            locations=(Location(id=DEFAULT_LOCATION_ID),),
            database=Database(url=database or f"sqlite:///{DEMO_DATABASE}"),
            streams=tuple(STREAMS),
        )
        print(f"It listens on {base_url}; copying it into {location_of(settings.database.url)}:\n")
        common.run_until_done(lambda stop: backfill_all(settings, Wish(list(STREAMS)), stop))
        throttled = sandbox.stats()["throttled"]
    print(f"\nRequests refused by the rate limit: {throttled}. What `rankr-sync status` shows:\n")
    store, now = open_store(settings), datetime.now(UTC)
    with store.reading() as tx:
        show.status(look.state(tx.connection, now), now)
        richest = _richest(store)
        print(f"And `rankr-sync contact {richest}`:\n")
        show.contact(look.unified_view(tx.connection, find_contacts(tx.connection, richest)[0]), now)
    store.close()
    print(f"\nLook around yourself:  RANKR_SYNC_DATABASE__URL={store.place} rankr-sync status")


def _demo_limit(contacts: int) -> "RateLimit":
    """A limit under which the demo takes about ten seconds, a burst every two."""
    from rankr_sync.sandbox import RateLimit

    return RateLimit(max(20, contacts * 2 // 6), 2.0)


def _remove_old_demo() -> None:
    try:
        for name in (DEMO_DATABASE, f"{DEMO_DATABASE}-wal", f"{DEMO_DATABASE}-shm"):
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"the old {DEMO_DATABASE} cannot be removed: {error.strerror}", hint="run it in a folder you may write to"
        ) from None


def _richest(store: SqlStore) -> str:
    """A contact that has something of everything, so that its view shows what there is to see."""
    query = (
        "SELECT contact_id FROM contact_timeline GROUP BY contact_id"
        " HAVING count(*) BETWEEN 4 AND 10 ORDER BY count(DISTINCT kind) DESC, contact_id LIMIT 60"
    )
    with store.reading() as tx:
        ids = [str(id_) for id_ in tx.connection.execute(text(query)).scalars()]
        contacts = [find_contacts(tx.connection, id_)[0] for id_ in ids]
        if not contacts:
            return str(tx.connection.execute(text("SELECT min(id) FROM contacts")).scalar())
        return str(
            max(contacts, key=lambda one: (bool(one["phone"]), len(one["custom_fields"]), bool(one["city"])))["id"]
        )


def _called() -> str:
    """What to type for this program: its name where that is found, else the path it was started by."""
    return "rankr-sync" if shutil.which("rankr-sync") else os.path.relpath(sys.argv[0])


def serve_sandbox(
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8711,
    host: Annotated[str, typer.Option("--host")] = "127.0.0.1",
    contacts: Annotated[int, typer.Option("--contacts", min=0)] = 500,
    seed: Annotated[int, typer.Option("--seed", help="The same seed makes the same account.")] = 1,
    rate_limit: Annotated[str, typer.Option("--rate-limit", help="Burst limit, or none.")] = "100/10s",
    rate_window: Annotated[str, typer.Option("--rate-window", help="sliding or fixed.")] = "sliding",
    daily_limit: Annotated[int, typer.Option("--daily-limit", min=1)] = 200_000,
    latency_ms: Annotated[float, typer.Option("--latency-ms", min=0)] = 0.0,
    fault_rate: Annotated[float, typer.Option("--fault-rate", min=0, max=1, help="Share of requests that fail.")] = 0.0,
    churn: Annotated[float, typer.Option("--churn", min=0, help="Edits a second.")] = 0.0,
    index_lag: Annotated[float, typer.Option("--index-lag", min=0, help="Seconds until search sees an edit.")] = 0.0,
    locations: Annotated[int, typer.Option("--locations", min=1)] = 1,
    config: NoConfigOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Serve a simulated HighLevel API."""
    from rankr_sync.sandbox import RateLimit, SandboxOptions, serve

    if rate_window not in ("sliding", "fixed"):
        raise BadConfiguration(f"--rate-window is {rate_window!r}", hint="use sliding or fixed")
    try:
        # "None" is said in the headers too: a client that heard nothing would keep to the documented limit.
        unlimited = rate_limit.lower() == "none"
        limit = RateLimit(1_000_000, 1.0) if unlimited else RateLimit.parse(rate_limit)
    except ValueError as error:
        raise BadConfiguration(str(error), hint="write a limit as 100/10s, or none") from None
    options = SandboxOptions(
        contacts=contacts,
        seed=seed,
        locations=locations,
        rate_limit=limit,
        rate_window="fixed" if rate_window == "fixed" else "sliding",
        daily_limit=None if unlimited else daily_limit,
        latency_ms=latency_ms,
        fault_rate=fault_rate,
        churn=churn,
        index_lag=index_lag,
        http_redirects=True,
    )
    try:
        serve(options, host, port, lambda base_url: _greet(base_url, locations))
    except OSError as error:
        raise BadConfiguration(f"port {port} cannot be used: {error.strerror}", hint="try --port 0") from None


def _greet(base_url: str, locations: int) -> None:
    from rankr_sync.sandbox import CLIENT_ID, CLIENT_SECRET, location_id, token_of

    print(f"Simulated HighLevel API on {base_url}. In another terminal:\n")
    print(f"export RANKR_SYNC_API__BASE_URL={base_url}")
    print(f"export RANKR_SYNC_API__TOKEN={token_of(1)}")
    print(f"export RANKR_SYNC_LOCATIONS={location_id(1)}")
    print("rankr-sync backfill && rankr-sync run\n", flush=True)
    if locations > 1:
        print(f"The other {locations - 1} locations follow the same pattern, each with its own token.", flush=True)
    print("\nOr log in by OAuth 2.0, instead of the token and the location:\n")
    print(f"export RANKR_SYNC_OAUTH__CLIENT_ID={CLIENT_ID}")
    print(f"export RANKR_SYNC_OAUTH__CLIENT_SECRET={CLIENT_SECRET}")
    print(f"export RANKR_SYNC_OAUTH__AUTHORIZE_URL={base_url}/v2/oauth/chooselocation")
    print("export RANKR_SYNC_OAUTH__REDIRECT_URI=http://127.0.0.1:8712/callback")
    print('export RANKR_SYNC_OAUTH__KEY="$(rankr-sync auth key)"')
    print("rankr-sync auth login && rankr-sync backfill", flush=True)
    with contextlib.suppress(ValueError):
        sys.stdout.flush()
