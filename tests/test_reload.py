"""SIGHUP: the configuration is read again in the same process; a bad one disturbs nothing, and nobody is refused."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror import LOCATION, query
from rankr_sync.sandbox import DEFAULT_TOKEN, RateLimit, SandboxOptions, location_id, running, token_of


class Daemon:
    """The real program, with a configuration file that can be changed under it."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder = folder
        self.database_url = f"sqlite:///{folder / 'rankr.db'}"
        self.configure(base_url)
        env = {key: value for key, value in os.environ.items() if not key.startswith("RANKR_SYNC_")}
        env["PYTHONPATH"] = str(Path(__file__).parents[1] / "src")
        with (folder / "log").open("w") as log:
            command = [sys.executable, "-m", "rankr_sync", "run"]
            self.process = subprocess.Popen(command, env=env, cwd=folder, stderr=log)

    def configure(self, base_url: str, locations: int = 1, more: str = "", listen: str = "127.0.0.1:0") -> None:
        """Write `config.toml`."""
        sites = "".join(
            f'[[locations]]\nid = "{location_id(number)}"\ntoken = "{token_of(number)}"\n'
            for number in range(1, locations + 1)
        )
        (self.folder / "config.toml").write_text(
            f'streams = ["contacts"]\n{more}\n{sites}[api]\nbase_url = "{base_url}"\nrate_limit = "none"\n'
            f'[log]\nformat = "json"\n[http]\nlisten = "{listen}"\n[schedule]\npoll = "1s"\n'
        )

    def reload(self) -> None:
        """SIGHUP."""
        self.process.send_signal(signal.SIGHUP)

    def events(self, name: str) -> list[dict[str, Any]]:
        """What was logged by this name."""
        lines = (self.folder / "log").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def until(self, true: Callable[[], Any], seconds: float = 40.0) -> None:
        """Wait until it is so."""
        deadline = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.05)

    def contacts(self, location: str) -> int:
        """How many are stored."""
        found = query(self.database_url, f"SELECT count(*) AS n FROM contacts WHERE location_id = '{location}'")
        return int(found[0]["n"])


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """An account with two locations, on a port."""
    with running(SandboxOptions(contacts=8, locations=2, rate_limit=RateLimit(1_000_000, 1.0))) as (url, _):
        yield url


@pytest.mark.process
@pytest.mark.timeout(240)
def test_sighup_takes_a_good_configuration_and_leaves_a_bad_one(base_url: str, tmp_path: Path) -> None:
    """A bad one is named in the log and changes nothing; a good one is at work in the same process, behind the same
    socket; SIGTERM then ends it with 0, every lease given back.
    """
    daemon = Daemon(tmp_path, base_url)
    try:
        daemon.until(lambda: daemon.events("http.listening"))
        address = daemon.events("http.listening")[0]["url"]
        daemon.until(lambda: daemon.contacts(LOCATION) == 8)

        bad = {"more": "poll = 3"}, {"listen": "0.0.0.0:0"}, {"more": 'unheard_of = "x"'}
        for number, wrong in enumerate(bad, 1):
            daemon.configure(base_url, **wrong)
            daemon.reload()
            daemon.until(lambda count=number: len(daemon.events("config.refused")) == count)
        assert len(daemon.events("daemon.started")) == 1

        daemon.configure(base_url, locations=2)
        daemon.reload()
        while len(daemon.events("daemon.started")) < 2:
            # A request under way may be cut, or wait for what comes next: nobody is refused.
            with contextlib.suppress(ConnectionResetError, http.client.RemoteDisconnected):
                with urllib.request.urlopen(f"{address}/healthz", timeout=30) as answer:
                    assert answer.status == 200
        with urllib.request.urlopen(f"{address}/healthz", timeout=30) as answer:
            assert answer.status == 200
        assert daemon.events("daemon.started")[1]["locations"] == 2
        assert daemon.events("http.listening")[1]["url"] == address
        daemon.until(lambda: daemon.contacts(location_id(2)) == 8)

        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(timeout=30) == 0
    finally:
        daemon.process.kill()
        daemon.process.wait()
    assert query(daemon.database_url, "SELECT * FROM sync_leases") == []
    assert daemon.events("job.crashed") == []
    log = (tmp_path / "log").read_text()
    assert DEFAULT_TOKEN not in log
    assert "Traceback" not in log


@pytest.mark.process
@pytest.mark.timeout(240)
def test_a_configuration_that_does_not_start_is_given_up_for_the_old_one(base_url: str, tmp_path: Path) -> None:
    """What shows only when it starts (a database that cannot be opened) costs a moment, not the daemon."""
    daemon = Daemon(tmp_path, base_url)
    try:
        daemon.until(lambda: daemon.events("daemon.started"))
        path = tmp_path / "config.toml"
        path.write_text(path.read_text() + '[database]\nurl = "sqlite:////proc/nowhere/rankr.db"\n')
        daemon.reload()
        daemon.until(lambda: daemon.events("config.failed"))
        daemon.until(lambda: len(daemon.events("daemon.started")) == 2)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(timeout=30) == 0
    finally:
        daemon.process.kill()
        daemon.process.wait()
