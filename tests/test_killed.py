"""The real daemon, killed again and again while the account lives and the network is bad: in the end all is equal."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror import LOCATION, compared, differences, query
from rankr_sync.sandbox import DEFAULT_TOKEN, RateLimit, Sandbox, SandboxOptions, running

KILLS = {"sqlite": 10, "postgresql": 5}

# `python -m rankr_sync run`, in two halves: what it imports, and at a word on its standard input the program itself.
# So the next daemon is warm while the one before it still works, and half a second a kill is saved.
WARM = """
import sys
import rankr_sync.cli.sync, rankr_sync.app, rankr_sync.daemon
from rankr_sync.__main__ import main
sys.stdin.readline()
sys.argv = ["rankr-sync", "run"]
main()
"""


@pytest.mark.process
@pytest.mark.timeout(300)
def test_a_daemon_that_is_killed_again_and_again_ends_equal(
    database_url: str, tmp_path: Path, counted: Callable[[str, int], None]
) -> None:
    """SIGKILL at ten random moments, under churn and faults; left in peace, the mirror is soon equal."""
    chance = random.Random(2026)
    # A day's quota that lets every contact be visited anew every other second.
    limits = {"rate_limit": RateLimit(1_000_000, 1.0), "daily_limit": 20_000_000}
    options = SandboxOptions(contacts=150, churn=8.0, fault_rate=0.15, **limits)
    sandbox = Sandbox(options)
    with running(sandbox) as (base_url, _), (tmp_path / "log").open("w") as log:
        env = environment(base_url, database_url)
        warm = start([sys.executable, "-c", WARM], env, tmp_path, log)
        try:
            kills = KILLS[database_url.partition(":")[0]]
            done, enough_at = 0, time.monotonic() + 60
            while done < kills and (done < 8 or time.monotonic() < enough_at):
                done += 1
                process, warm = warm, start([sys.executable, "-c", WARM], env, tmp_path, log)
                asked = sandbox.requests
                begin(process)
                if done % 5:  # each fifth dies while it starts, the others at work, however slow the machine
                    wait_for(lambda asked=asked: sandbox.requests > asked, process)
                time.sleep(chance.uniform(0.02, 0.7))
                assert process.poll() is None, "the daemon ended by itself"
                end(process)
        finally:
            end(warm)
        with sandbox.lock:
            sandbox.faults.rate = 0.0
            sandbox.advance()
            sandbox._churn._rate = 0.0
        process = start([sys.executable, "-m", "rankr_sync", "run"], env, tmp_path, log)
        try:
            deadline = time.monotonic() + 90
            while different := differences(sandbox, database_url):
                assert time.monotonic() < deadline, different[:8]
                assert process.poll() is None
                time.sleep(0.3)
        finally:
            end(process)
    stats = sandbox.stats()
    for name, count in {
        "kills": done,
        "faults": sum(stats["faults"].values()),
        "edits": stats["changes"],
        "rows compared": compared(sandbox),
        **{f"fault: {kind}": times for kind, times in stats["faults"].items()},
    }.items():
        counted(name, count)
    assert stats["changes"] > 20
    assert sum(stats["faults"].values()) > 0
    assert query(database_url, "SELECT count(*) AS n FROM sync_runs WHERE status = 'interrupted'")[0]["n"] > 0
    assert DEFAULT_TOKEN not in (tmp_path / "log").read_text()


def environment(base_url: str, database_url: str) -> dict[str, str]:
    """A daemon in a hurry, to which deletions by the dozen are nothing special."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RANKR_SYNC_")} | {
        "RANKR_SYNC_API__BASE_URL": base_url,
        "RANKR_SYNC_API__TOKEN": DEFAULT_TOKEN,
        "RANKR_SYNC_API__RATE_LIMIT": "none",
        "RANKR_SYNC_HTTP__LISTEN": "off",
        "RANKR_SYNC_LOCATIONS": LOCATION,
        "RANKR_SYNC_DATABASE__URL": database_url,
        "RANKR_SYNC_DELETIONS__BRAKE": "100",
        "RANKR_SYNC_LOG__FORMAT": "json",
        "RANKR_SYNC_SCHEDULE__POLL": "1s",
        "RANKR_SYNC_SCHEDULE__WALK": "1s",
        "RANKR_SYNC_VISITS__MIN_AGE": "1s",
        "RANKR_SYNC_VISITS__MAX_AGE": "4s",
        "RANKR_SYNC_SCHEDULE__FULL_PASS": "3s",
        "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
    }


def start(command: list[str], env: dict[str, str], folder: Path, log: object) -> "subprocess.Popen[bytes]":
    """A process that writes to the log and waits for a word."""
    return subprocess.Popen(command, env=env, cwd=folder, stdin=subprocess.PIPE, stderr=log)  # type: ignore[call-overload]


def begin(process: "subprocess.Popen[bytes]") -> None:
    """The word."""
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def wait_for(happens: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    """Until it happens; a slow machine needs seconds for what is done at once elsewhere."""
    deadline = time.monotonic() + 60
    while not happens():
        assert process.poll() is None, "the daemon ended by itself"
        assert time.monotonic() < deadline, "no request within a minute"
        time.sleep(0.01)


def end(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL."""
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
