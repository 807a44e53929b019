"""The real daemon, killed again and again while the account lives and the network is bad: in the end all is equal."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mirror import LOCATION, differences, query
from rankr_sync.sandbox import DEFAULT_TOKEN, RateLimit, Sandbox, SandboxOptions, running

KILLS = 30 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 8


@pytest.mark.process
@pytest.mark.timeout(600)
def test_a_daemon_that_is_killed_again_and_again_ends_equal(sqlite_url: str, tmp_path: Path) -> None:
    """SIGKILL at random moments, under churn and faults; left in peace, the mirror is equal within 40 seconds."""
    chance = random.Random(2026)
    options = SandboxOptions(contacts=150, rate_limit=RateLimit(1_000_000, 1.0), churn=8.0, fault_rate=0.05)
    sandbox = Sandbox(options)
    with running(sandbox) as (base_url, _):
        env = {key: value for key, value in os.environ.items() if not key.startswith("RANKR_SYNC_")} | {
            "RANKR_SYNC_API__BASE_URL": base_url,
            "RANKR_SYNC_API__TOKEN": DEFAULT_TOKEN,
            "RANKR_SYNC_API__RATE_LIMIT": "none",
            "RANKR_SYNC_LOCATIONS": LOCATION,
            "RANKR_SYNC_DATABASE__URL": sqlite_url,
            "RANKR_SYNC_DELETIONS__BRAKE": "100",
            "RANKR_SYNC_LOG__FORMAT": "json",
            **{f"RANKR_SYNC_SCHEDULE__{name}": "1s" for name in ("POLL", "WALK")},
            "RANKR_SYNC_SCHEDULE__VISIT": "4s",
            "RANKR_SYNC_SCHEDULE__FULL_PASS": "3s",
            "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
        }
        with (tmp_path / "log").open("w") as log:
            for _kill in range(KILLS):
                process = _start(env, tmp_path, log)
                time.sleep(chance.uniform(0.6, 2.0))
                process.kill()
                process.wait()
            sandbox.faults.rate = 0.0
            with sandbox.lock:
                sandbox.advance()
                sandbox._churn._rate = 0.0
            process = _start(env, tmp_path, log)
            try:
                deadline = time.monotonic() + 40
                while different := differences(sandbox, sqlite_url):
                    assert time.monotonic() < deadline, different[:8]
                    assert process.poll() is None
                    time.sleep(0.5)
            finally:
                process.kill()
                process.wait()
    assert sandbox.stats()["changes"] > 20
    assert sum(sandbox.stats()["faults"].values()) > 20
    assert query(sqlite_url, "SELECT count(*) AS n FROM sync_runs WHERE status = 'interrupted'")[0]["n"] > 0
    assert DEFAULT_TOKEN not in (tmp_path / "log").read_text()


def _start(env: dict[str, str], folder: Path, log: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "rankr_sync", "run"], env=env, cwd=folder, stderr=log)  # type: ignore[call-overload]
