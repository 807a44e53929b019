"""The day's quota is used up: the daemon says until when it sleeps, asks nothing, and goes on by itself."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog.testing

from mirror import LOCATION, configuration, connected, differences
from rankr_sync import daemon
from rankr_sync.cli import show
from rankr_sync.sandbox import RateLimit, Sandbox, SandboxOptions
from rankr_sync.store import SqlStore, look

DAY = timedelta(days=1)


def account(daily_limit: int, ahead: list[timedelta]) -> Sandbox:
    """An account with a small day, whose clock a test sets ahead."""
    options = SandboxOptions(contacts=30, daily_limit=daily_limit, rate_limit=RateLimit(1_000_000, 1.0))
    return Sandbox(options, now=lambda: time.time() + ahead[0].total_seconds())


async def in_time(true: Any, seconds: float = 20) -> None:
    """Wait for something to become true while the daemon works."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(true):
        assert time.monotonic() < deadline, "did not become true in time"
        await asyncio.sleep(0.05)


def short_of(store: SqlStore, capsys: pytest.CaptureFixture[str]) -> str | None:
    """What `rankr-sync status` says of a quota that is short."""
    now = datetime.now(UTC)
    with store.reading() as tx:
        show.status(look.state(tx.connection, now), now)
    lines = capsys.readouterr().out.splitlines()
    return next((line for line in lines if line.startswith("quota is short: ")), None)


@pytest.mark.parametrize(("daily_limit", "who"), [(40, "visits wait"), (6, "all work waits")])
def test_a_daemon_sleeps_until_the_day_turns(
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    daily_limit: int,
    who: str,
) -> None:
    """Log and status say until when it waits; no request is sent before; then it goes on by itself to the end."""
    monkeypatch.setattr(daemon, "bell_interval", lambda _poll: 0.1)
    ahead = [timedelta()]
    sandbox, config = account(daily_limit, ahead), configuration(database_url, schedule={"poll": "1h", "walk": "1h"})

    async def main() -> None:
        async with connected(sandbox, config) as app:
            pacer = app.sources[LOCATION].pacer
            pacer.clock = lambda: time.monotonic() + ahead[0].total_seconds()
            work = asyncio.create_task(daemon.run_for_ever(app))
            await in_time(lambda: any(event["event"] == "quota.spent" for event in said))
            await in_time(lambda: short_of(app.store, capsys))
            spent, turns_at = sandbox.stats()["requests"], datetime.now(UTC) + DAY
            assert spent <= daily_limit
            words = str(short_of(app.store, capsys))
            assert words.startswith(f"quota is short: {who} until ")
            told = datetime.strptime(words, f"quota is short: {who} until %Y-%m-%d %H:%M UTC").replace(tzinfo=UTC)
            assert abs(told - turns_at) < timedelta(minutes=2)
            await asyncio.sleep(0.4)  # the bells ring
            assert sandbox.stats()["requests"] == spent
            assert differences(sandbox, database_url) != []
            ahead[0] += DAY + timedelta(minutes=1)
            sandbox.buckets[LOCATION]._daily_limit = 10_000
            pacer._serve()  # as its alarm does within a minute
            await in_time(lambda: differences(sandbox, database_url) == [])
            app.stop.set()
            await work

    with structlog.testing.capture_logs() as said:
        asyncio.run(main())
    first = next(event for event in said if event["event"] == "quota.spent")
    assert abs(first["waits_seconds"] - 86_400) < 60
    assert abs(datetime.fromisoformat(first["until"]) - datetime.now(UTC) - DAY) < timedelta(minutes=2)
    assert sandbox.stats()["throttled"] == 0
    assert [event for event in said if event["log_level"] == "error"] == []
