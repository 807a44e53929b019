"""Showing a backfill as it goes: a live line on a terminal, a log line every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from rankr_sync.engine import Progress
from rankr_sync.spans import lasting
from rankr_sync.streams import OWNER, STREAMS

if TYPE_CHECKING:
    from rankr_sync.app import App

LOG_EVERY = 5.0

log = structlog.get_logger()


class Estimate:
    """How many requests a location's backfill takes, and how long that is."""

    def __init__(self, app: "App", location_id: str) -> None:
        self._app = app
        self._location_id = location_id
        self._began = time.monotonic()

    def expected(self, progress: Progress) -> int | None:
        """Requests in all, or None while the number of contacts is not known."""
        if progress.total is None:
            return None
        visited_streams = self._app.locations[self._location_id].context.visited_streams()
        visited = len([name for name in visited_streams if name in progress.wanted])
        streams = [one for one in progress.streams if not STREAMS[one].walks]
        walked = sum(tally.requests for name, tally in progress.streams.items() if name not in streams)
        pages = progress.total // 100 + 1 if OWNER.name in progress.wanted else 0
        return max(progress.requests, max(walked, pages) + progress.total * visited - progress.visited)

    def seconds_left(self, progress: Progress) -> float | None:
        """By the pace so far."""
        expected, spent = self.expected(progress), time.monotonic() - self._began
        if expected is None or not progress.requests or spent < 1:
            return None
        return (expected - progress.requests) * spent / progress.requests

    def quota_left(self) -> int | None:
        """Requests of the day that the server says are left."""
        return self._app.sources[self._location_id].pacer.budget.daily_remaining


@contextmanager
def shown() -> Iterator[tuple[Callable[[Progress], None], Callable[["App"], None]]]:
    """Yields what to call with each progress, and what to call once with the app."""
    if sys.stderr.isatty():
        with _live() as pair:
            yield pair
    else:
        yield _logged()


def _logged() -> tuple[Callable[[Progress], None], Callable[["App"], None]]:
    estimates: dict[str, Estimate] = {}
    apps: list[App] = []
    last = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last < LOG_EVERY or not apps:
            return
        last = time.monotonic()
        estimate = estimates.setdefault(progress.location_id, Estimate(apps[0], progress.location_id))
        left = estimate.seconds_left(progress)
        known = {
            "of": estimate.expected(progress),
            "quota_left": estimate.quota_left(),
            "time_left": lasting(left) if left is not None else None,
        }
        log.info(
            "backfill.progress",
            location=progress.location_id,
            **{name: tally.fetched for name, tally in progress.streams.items()},
            requests=progress.requests,
            **{name: value for name, value in known.items() if value is not None},
        )

    return show, apps.append


@contextmanager
def _live() -> Iterator[tuple[Callable[[Progress], None], Callable[["App"], None]]]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn
    from rich.progress import Progress as Live

    estimates: dict[str, Estimate] = {}
    apps: list[App] = []
    bars: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.fields[words]}"))
    with Live(*columns, console=Console(stderr=True), refresh_per_second=8) as live:

        def show(progress: Progress) -> None:
            id_ = progress.location_id
            if id_ not in bars:
                bars[id_] = live.add_task(id_ if len(apps[0].locations) > 1 else "copying", total=None, words="")
                estimates[id_] = Estimate(apps[0], id_)
            estimate = estimates[id_]
            left, quota = estimate.seconds_left(progress), estimate.quota_left()
            words = [f"{name} {tally.fetched:,}" for name, tally in progress.streams.items()]
            words.append(f"requests {progress.requests:,}")
            if quota is not None:
                words.append(f"quota {quota:,}")
            if left is not None:
                words.append(f"{lasting(left)} left")
            live.update(
                bars[id_], completed=progress.requests, total=estimate.expected(progress), words="  ".join(words)
            )

        yield show, apps.append
        for bar in live.tasks:  # done, with fewer requests than were to be expected
            live.update(bar.id, total=bar.completed)
