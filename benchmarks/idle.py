"""What the daemon costs while nothing happens: the CPU of `rankr-sync run` beside an account that nobody works in.

    python benchmarks/idle.py [--contacts 100000] [--only sqlite] [--seconds 300]

The first copy is cut short: contacts and tasks are really copied, and the visits of notes and appointments are
written as a location has them after some weeks. Then the daemon runs as it is configured by default, with its polls,
walks, plans and visits, and its process is looked at from outside. Prints the table of docs/performance.md.
"""

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy
from backfill import LOCATION, PROGRAM, TOKEN, database, machine, sandbox
from planner import visits_of

from rankr_sync import schema
from rankr_sync.model import Cursor
from rankr_sync.store import SqlStore

WARM_UP = 60.0
"""Seconds in which the daemon starts and does what is due after its absence."""


def environment(url: str, where: str, **more: str) -> dict[str, str]:
    """What the program is told."""
    return {
        **os.environ,
        "RANKR_SYNC_API__BASE_URL": url,
        "RANKR_SYNC_API__TOKEN": TOKEN,
        "RANKR_SYNC_LOCATIONS": LOCATION,
        "RANKR_SYNC_DATABASE__URL": where,
        "RANKR_SYNC_HTTP__LISTEN": "127.0.0.1:0",
        "RANKR_SYNC_LOG__LEVEL": "warning",
        **more,
    }


def fill(url: str, where: str) -> None:
    """Copy contacts and tasks, and write visits as if they had been made."""
    words = ["backfill", "--stream", "contacts", "--stream", "tasks"]
    unlimited = environment(url, where, RANKR_SYNC_API__RATE_LIMIT="none")
    subprocess.run([*PROGRAM, *words], env=unlimited, stderr=subprocess.DEVNULL, check=True)
    store, now = SqlStore(where), datetime.now(UTC)
    with store.transaction() as tx:
        ids = list(tx.connection.execute(sqlalchemy.select(schema.contacts.c.id)).scalars())
        tx.connection.execute(sqlalchemy.delete(schema.child_visits))
        for stream in ("notes", "appointments"):
            visits = list(visits_of(LOCATION, stream, ids, now))
            tx.connection.execute(sqlalchemy.insert(schema.child_visits), visits)
            tx.save_cursor(LOCATION, stream, "full", Cursor({}, "complete", now, now), now)
    store.close()


def seconds_of(process: "subprocess.Popen[bytes]") -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_of(process: "subprocess.Popen[bytes]") -> float:
    """Megabytes of memory at the most so far; of the program alone, not of what it was forked from."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def requests_at(url: str) -> int:
    """Requests that the sandbox has answered so far."""
    with urllib.request.urlopen(f"{url}/sandbox/stats", timeout=30) as answer:
        return int(sum(json.load(answer)["by_route"].values()))


def run(kind: str, contacts: int, seconds: float) -> str:
    """A row of the table."""
    with (
        tempfile.TemporaryDirectory() as folder,
        sandbox("--contacts", str(contacts), "--rate-limit", "none") as url,
        database(kind, Path(folder)) as where,
    ):
        fill(url, where)
        process = subprocess.Popen([*PROGRAM, "run"], env=environment(url, where), stderr=subprocess.DEVNULL)
        time.sleep(WARM_UP)
        spent, sent, began = seconds_of(process), requests_at(url), time.monotonic()
        time.sleep(seconds)
        spent, sent = seconds_of(process) - spent, requests_at(url) - sent
        lasted = time.monotonic() - began
        peak = peak_of(process)
        process.send_signal(signal.SIGTERM)
        process.wait()
    cells = [f"{100 * spent / lasted:.2f} %", f"{sent / lasted:.2f}", f"{1000 * spent / max(sent, 1):.1f}"]
    return f"| {kind} | {contacts:,} | {lasted:.0f} | {' | '.join(cells)} | {peak:.0f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--contacts", type=int, default=100_000)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--seconds", type=float, default=300.0)
    wanted = parser.parse_args()
    print(f"{machine()}\n")
    print("| database | contacts | seconds | CPU of a core | requests/s | CPU ms/request | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for kind in [wanted.only] if wanted.only else ["sqlite", "postgresql"]:
        print(run(kind, wanted.contacts, wanted.seconds), flush=True)


if __name__ == "__main__":
    main()
