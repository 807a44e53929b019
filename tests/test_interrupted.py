"""What a crash costs: the process is killed at any moment, the same command goes on, and nothing is done twice."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mirror import LOCATION, account, configuration, differences, query, run
from rankr_sync.engine import LocationSync
from rankr_sync.errors import Interrupted
from rankr_sync.sandbox import DEFAULT_TOKEN, RateLimit, Sandbox, SandboxOptions, running

PROGRAM = [sys.executable, "-m", "rankr_sync"]


def environment(base_url: str, database_url: str, **more: str) -> dict[str, str]:
    """The environment of a program that syncs the sandbox."""
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("RANKR_SYNC_")},
        "RANKR_SYNC_API__BASE_URL": base_url,
        "RANKR_SYNC_API__TOKEN": DEFAULT_TOKEN,
        "RANKR_SYNC_LOCATIONS": LOCATION,
        "RANKR_SYNC_DATABASE__URL": database_url,
        "RANKR_SYNC_API__RATE_LIMIT": "none",
        "RANKR_SYNC_HTTP__LISTEN": "127.0.0.1:0",
        "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
        **more,
    }


def spent_visits(database_url: str) -> set[tuple[str, str]]:
    """(stream, contact) of every visit that was committed."""
    found = query(database_url, "SELECT stream, contact_id FROM child_visits WHERE last_visited_at IS NOT NULL")
    return {(row["stream"], row["contact_id"]) for row in found}


def visited_paths(sandbox: Sandbox, since: int) -> Counter[tuple[str, str]]:
    """(stream, contact) of every child request that the account has answered since."""
    found: Counter[tuple[str, str]] = Counter()
    for call in list(sandbox.calls)[since:]:
        parts = call.path.strip("/").split("/")
        if len(parts) == 3 and parts[0] == "contacts" and parts[2] in ("notes", "appointments", "tasks"):
            found[parts[2], parts[1]] += 1
    return found


@pytest.mark.process
@pytest.mark.parametrize("seed", range(2))
def test_a_killed_backfill_goes_on_where_it_was(database_url: str, tmp_path: Path, seed: int) -> None:
    """SIGKILL at any moment; run again, it ends equal, and no checkpointed page or visit was fetched again."""
    chance = random.Random(seed)
    sandbox = Sandbox(SandboxOptions(contacts=400, rate_limit=RateLimit(1_000_000, 1.0), latency_ms=1.0))
    with running(sandbox) as (base_url, _):
        env, done = environment(base_url, database_url), set()
        for _kill in range(2):
            calls_before = len(sandbox.calls)
            process = subprocess.Popen([*PROGRAM, "backfill"], env=env, cwd=tmp_path, stderr=subprocess.DEVNULL)
            _wait_for_requests(sandbox, calls_before + chance.randint(1, 300), process)
            process.send_signal(signal.SIGKILL)
            process.wait()
            _check_nothing_again(sandbox, calls_before, done)
            done = spent_visits(database_url) if _has_tables(database_url) else set()
        calls_before = len(sandbox.calls)
        subprocess.run([*PROGRAM, "backfill"], env=env, cwd=tmp_path, check=True, capture_output=True, timeout=60)
        _check_nothing_again(sandbox, calls_before, done)
        assert differences(sandbox, database_url) == []
        assert len(_listing_pages(sandbox)) - len(set(_listing_pages(sandbox))) <= 2 * 2


def _wait_for_requests(sandbox: Sandbox, wanted: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while len(sandbox.calls) < wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def _check_nothing_again(sandbox: Sandbox, since: int, done: set[tuple[str, str]]) -> None:
    again = {visit for visit in visited_paths(sandbox, since) if visit in done}
    assert again == set(), "visits that were committed before the crash were fetched again"


def _listing_pages(sandbox: Sandbox) -> list[str]:
    """The listing's requests by their cursor: each crash may repeat the one in flight, and the one after it."""
    return [json.dumps(call.query, sort_keys=True) for call in sandbox.calls if call.path == "/contacts/"]


def _has_tables(database_url: str) -> bool:
    try:
        query(database_url, "SELECT 1 FROM child_visits")
    except Exception:
        return False
    return True


def test_asked_to_end_everything_answered_is_kept(database_url: str) -> None:
    """A stop in the middle of a backfill saves what was answered; the next one goes on and ends equal."""
    sandbox, config = account(300), configuration(database_url)

    async def stopped(sync: LocationSync) -> None:
        sync.context._on_progress = lambda progress: _stop_after(progress.requests, sync)
        with pytest.raises(Interrupted):
            await sync.backfill(config.streams)

    def _stop_after(requests: int, sync: LocationSync) -> None:
        if requests > 150:
            sync.context.stop.set()

    run(sandbox, config, stopped, stop=asyncio.Event())
    before = spent_visits(database_url)
    assert before
    calls_before = len(sandbox.calls)
    run(sandbox, config, lambda sync: sync.backfill(config.streams))
    assert differences(sandbox, database_url) == []
    assert not before & set(visited_paths(sandbox, calls_before))


def test_a_complete_backfill_starts_a_new_full_pass(sqlite_url: str) -> None:
    """Run again after it was complete, a backfill looks at everything anew."""
    sandbox, config = account(40), configuration(sqlite_url)
    for round_ in (1, 2):
        run(sandbox, config, lambda sync: sync.backfill(config.streams))
        assert visited_paths(sandbox, 0) == {
            (stream, id_): round_ for stream in ("notes", "appointments") for id_ in sandbox.truth(LOCATION)["contacts"]
        }


def test_restart_begins_again(sqlite_url: str) -> None:
    """`--restart` fetches what was already copied."""
    sandbox, config = account(30), configuration(sqlite_url)
    run(sandbox, config, lambda sync: sync.backfill(["contacts", "notes"]))
    calls_before = len(sandbox.calls)
    run(sandbox, config, lambda sync: sync.backfill(["contacts", "notes"], restart=True))
    assert sum(visited_paths(sandbox, calls_before).values()) == 30


@pytest.mark.process
@pytest.mark.parametrize("window", ["sliding", "fixed"])
def test_no_request_is_refused_by_the_rate_limit(tmp_path: Path, window: Any) -> None:
    """With a burst limit enforced, no 429 happens and neither kind of window ever sees too many requests,
    not even after a kill and a restart.
    """
    options = SandboxOptions(contacts=60, rate_limit=RateLimit(40, 1.0), rate_window=window, latency_ms=3.0)
    with running(options) as (base_url, sandbox):
        url = f"sqlite:///{tmp_path}/rankr.db"
        env = environment(base_url, url, RANKR_SYNC_API__RATE_LIMIT="40/1s")
        process = subprocess.Popen([*PROGRAM, "backfill"], env=env, cwd=tmp_path, stderr=subprocess.DEVNULL)
        _wait_for_requests(sandbox, 60, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        subprocess.run([*PROGRAM, "backfill"], env=env, cwd=tmp_path, check=True, capture_output=True, timeout=60)
        stats = sandbox.stats()
        assert (stats["throttled"], stats["sliding_excess"], stats["fixed_excess"]) == (0, 0, 0)
        assert differences(sandbox, url) == []


@pytest.mark.process
def test_the_daemon_copies_follows_and_ends_on_sigterm(database_url: str, tmp_path: Path) -> None:
    """`run` copies an empty store full, follows edits, and exits 0 within five seconds of SIGTERM."""
    limit = RateLimit(1_000_000, 1.0)
    with running(SandboxOptions(contacts=120, rate_limit=limit)) as (base_url, sandbox):
        schedule = {"RANKR_SYNC_SCHEDULE__POLL": "1s", "RANKR_SYNC_SCHEDULE__WALK": "1s"}
        env = environment(base_url, database_url, RANKR_SYNC_LOG__FORMAT="json", **schedule)
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen([*PROGRAM, "run"], env=env, cwd=tmp_path, stderr=log)
            try:
                _until(lambda: _equal(sandbox, database_url), 30)
                contact_id = sorted(sandbox.truth(LOCATION)["contacts"])[3]
                _put(f"{base_url}/contacts/{contact_id}", {"city": "Genève"})
                sandbox.create_note(contact_id, body="after the copy")
                _until(lambda: _equal(sandbox, database_url), 30)
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=10) == 0
                assert time.monotonic() - began < 5
            finally:
                process.kill()
        events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        assert [event for event in events if event["level"] in ("warning", "error")] == []
        assert events[-1]["event"] == "daemon.ended"
        assert query(database_url, "SELECT * FROM sync_runs WHERE status = 'running'") == []


def _equal(sandbox: Sandbox, database_url: str) -> bool:
    return _has_tables(database_url) and differences(sandbox, database_url) == []


def _until(true: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not become equal in time"
        time.sleep(0.2)


def _put(url: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), method="PUT")
    for name, value in {"authorization": f"Bearer {DEFAULT_TOKEN}", "version": "2021-07-28"}.items():
        request.add_header(name, value)
    request.add_header("content-type", "application/json")
    urllib.request.urlopen(request, timeout=10).close()
