"""Is it well? `/healthz` asks the program, `/readyz` asks the mirror. Both tell nothing about any contact."""

import time
from collections.abc import Callable

from rankr_sync.app import App
from rankr_sync.errors import StoreUnavailable
from rankr_sync.readiness import Pair, Problem, Readiness, bounds, judge, see
from rankr_sync.reading import Reading
from rankr_sync.streams import OWNER, STREAMS

KEPT_FOR = 1.0
"""Seconds for which what was seen is good enough for the next probe."""

LONGEST_BEAT = 30.0
"""Seconds after which a bell that did not ring means that the scheduler is dead."""


class Pulse:
    """When the daemon's bell last rang."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()

    async def beat(self) -> None:
        """It rings."""
        self._at = self._clock()

    @property
    def alive(self) -> bool:
        """Whether it rang lately."""
        return self._clock() - self._at < LONGEST_BEAT


class Health:
    """Answers both questions for a running daemon."""

    def __init__(self, app: App, reading: Reading, pulse: Pulse) -> None:
        self.pulse = pulse
        self._app = app
        self._reading = reading
        self._started_at = app.now()

    async def readiness(self) -> Readiness:
        """Whether the mirror is as fresh as the schedule promises, as of a moment ago."""
        wanted = bounds(self._app)
        try:
            seen = await self._reading.lately(
                "health", lambda connection: see(connection, wanted, self._app.now()), seconds=KEPT_FOR
            )
        except StoreUnavailable:
            return Readiness((Problem(None, None, "the store cannot be read: see the log, or rankr-sync check"),))
        # A stream may have come to the visits since the last look.
        known = {pair: bound for pair, bound in wanted.items() if pair in seen}
        return judge(seen, known, self._refused(), self._app.now(), self._started_at)

    def _refused(self) -> set[Pair]:
        found = set()
        for location_id, job in self._app.stopped:
            visited = self._app.locations[location_id].context.visited_streams()
            names = [job] if job in STREAMS else [OWNER.name] if job == "sweep" else visited
            found |= {(location_id, name) for name in names}
        return found
